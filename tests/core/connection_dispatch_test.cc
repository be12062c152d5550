// connection: which callbacks an event calls, in which order, and what stops them.

#include "core/connection.hpp"

#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- dispatch

TEST_CASE("an event calls recv, then send, then wake, each once") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    conn.want_send();
    send_all(ends.a.get(), "hello");
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(who.calls == "rsw");
    CHECK(who.received == "hello");
    CHECK(conn.is(conn_flag::recv_ended));
    r.turn(3);
    CHECK(who.calls == "rsw");
}

TEST_CASE("bytes alone wake nobody") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    send_all(ends.a.get(), "hello");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(who.calls == "r");
}

TEST_CASE("a swap inside recv sends the rest of the event to the new table") {
    rig r;
    pair ends = tcp_pair();
    user first, second;
    connection& conn = r.serve(std::move(ends.b), first);
    conn.want_recv();
    conn.want_send();
    send_all(ends.a.get(), "x");
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    first.on_recv = [&](connection& c) {
        c.attach(user::other_table, &second);
        return verdict::keep;
    };

    r.turn();

    CHECK(first.calls == "r");
    CHECK(second.calls == "SW");
    r.turn();
    CHECK(second.calls.substr(2, 1) == "R"); // what the first left is the second's
    CHECK(second.received == "x");
}

TEST_CASE("a swap inside send sends the wake to the new table") {
    rig r;
    pair ends = tcp_pair();
    user first, second;
    connection& conn = r.serve(std::move(ends.b), first);
    conn.want_send();
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    first.on_send = [&](connection& c) {
        c.stop_send();
        c.attach(user::other_table, &second);
        return verdict::keep;
    };

    r.turn();

    CHECK(first.calls == "s");
    CHECK(second.calls == "W");
}

TEST_CASE("bytes that came before the swap are delivered though no edge follows") {
    rig r;
    pair ends = tcp_pair();
    user first, second;
    connection& conn = r.serve(std::move(ends.b), first);
    send_all(ends.a.get(), "early");
    REQUIRE(arrived(conn));
    r.turn(2); // the edge is taken note of; nobody wants it
    CHECK(first.calls.empty());

    conn.attach(user::table, &second);
    conn.want_recv();
    r.turn();

    CHECK(second.calls == "r");
    CHECK(second.received == "early");
}

TEST_CASE("a stopped direction keeps what the kernel said") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    conn.stop_recv();
    send_all(ends.a.get(), "x");
    REQUIRE(arrived(conn));
    CHECK(r.sleeps());
    CHECK(who.calls.empty());

    conn.want_recv();
    r.turn();

    CHECK(who.received == "x");
}

TEST_CASE("what a callback leaves wanted and ready is called again in the next turn, once per turn") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) { return read_once(c, who.received, 1); };
    send_all(ends.a.get(), "abc");
    REQUIRE(arrived(conn));

    r.turn();
    CHECK(who.received == "a");
    r.turn();
    CHECK(who.received == "ab");
    r.turn();
    CHECK(who.received == "abc");
    CHECK(r.sleeps());
}

// --- closing from callbacks

TEST_CASE("after a close inside recv, send or wake nothing is called, whatever the callback answers") {
    for (const char where : {'r', 's', 'w'}) {
        for (const verdict answer : {verdict::gone, verdict::keep}) {
            CAPTURE(where);
            rig r;
            pair ends = tcp_pair();
            user who;
            connection& conn = r.serve(std::move(ends.b), who);
            conn.want_recv();
            conn.want_send();
            send_all(ends.a.get(), "x");
            shut_write(ends.a.get());
            REQUIRE(end_arrived(conn));
            auto close = [&](connection& c) {
                c.close(close_intent::silent, end_cause::done);
                return answer;
            };
            if (where == 'r') who.on_recv = close;
            if (where == 's') who.on_send = close;
            if (where == 'w') who.on_wake = close;

            r.turn();

            CHECK(who.calls.back() == where);
            const std::string calls = who.calls;
            r.turn(3);
            CHECK(who.calls == calls);
            CHECK(r.conns.live_count() == 0);
            CHECK(r.ended(end_cause::done) == 1);
        }
    }
}

TEST_CASE("a graceful close inside recv or send ends the calls, too") {
    for (const char where : {'r', 's'}) {
        CAPTURE(where);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        conn.want_recv();
        conn.want_send();
        send_all(ends.a.get(), "x");
        REQUIRE(arrived(conn));
        auto close = [](connection& c) {
            c.close(close_intent::graceful, end_cause::done);
            return verdict::keep;
        };
        if (where == 'r') who.on_recv = close;
        if (where == 's') who.on_send = close;

        r.turn();
        const std::string calls = who.calls;
        shut_write(ends.a.get());

        CHECK(r.until([&] { return r.conns.live_count() == 0; }));
        CHECK(calls.back() == where);
        CHECK(who.calls == calls);
    }
}

TEST_CASE("a connection closed by another in the same batch is not called, and neither is the next owner of its number") {
    rig r;
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair();
    user closer, closed, reuser;
    connection& a = r.serve(std::move(first.b), closer);
    connection& b = r.serve(std::move(second.b), closed);
    a.want_recv();
    b.want_recv();
    b.want_send();
    closed.on_send = [](connection& c) {
        c.stop_send();
        return verdict::keep;
    };
    r.turn();
    closed.calls.clear();
    connection* next = nullptr;
    closer.on_recv = [&](connection& c) {
        const int number = b.fd();
        b.close(close_intent::silent, end_cause::done);
        next = &r.serve(moved_to(std::move(third.b), number), reuser);
        next->want_recv();
        return closer.read_all(c);
    };
    send_all(first.a.get(), "1");
    REQUIRE(arrived(a));
    send_all(second.a.get(), "2");
    shut_write(second.a.get());
    REQUIRE(end_arrived(b));

    r.turn(3);

    CHECK(closer.calls == "r");
    CHECK(closed.calls.empty());
    REQUIRE(next != nullptr);
    CHECK(reuser.calls.empty());
    CHECK_FALSE(next->ended());
    send_all(third.a.get(), "mine");
    REQUIRE(arrived(*next));
    r.turn();
    CHECK(reuser.received == "mine");
    CHECK(reuser.calls == "r");
}

TEST_CASE("a callback that closes its own connection and opens another on the same number does not dispatch to it") {
    rig r;
    pair first = tcp_pair(), second = tcp_pair();
    user closer, reuser;
    connection& a = r.serve(std::move(first.b), closer);
    a.want_recv();
    a.want_send();
    connection* next = nullptr;
    closer.on_recv = [&](connection& c) {
        const int number = c.fd();
        c.close(close_intent::silent, end_cause::done);
        next = &r.serve(moved_to(std::move(second.b), number), reuser);
        return verdict::keep; // wrong, and harmless
    };
    send_all(first.a.get(), "x");
    shut_write(first.a.get());
    REQUIRE(end_arrived(a));

    r.turn(3);

    CHECK(closer.calls == "r");
    CHECK(reuser.calls.empty());
    REQUIRE(next != nullptr);
    CHECK_FALSE(next->ended());
}

TEST_CASE("both sides of a pair reset in one batch: the first to hear closes both, once") {
    rig r;
    pair first = tcp_pair(), second = tcp_pair();
    user one, two;
    connection& a = r.serve(std::move(first.b), one);
    connection& b = r.serve(std::move(second.b), two);
    a.want_recv();
    auto close_both = [&](connection&) {
        a.close(close_intent::abort, end_cause::peer_failed);
        b.close(close_intent::abort, end_cause::peer_failed);
        return verdict::gone;
    };
    one.on_wake = close_both;
    two.on_wake = close_both;
    reset(first.a);
    reset(second.a);
    REQUIRE(wait_for(a.fd(), POLLERR));
    REQUIRE(wait_for(b.fd(), POLLERR));

    r.turn(3);

    CHECK(one.calls == "rw");
    CHECK(two.calls.empty());
    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::peer_failed) == 2);
    CHECK(r.sums_hold());
}

} // namespace
