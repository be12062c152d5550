#include "core/connection.hpp"

#include <csignal>
#include <cstdlib>
#include <memory>
#include <vector>

#include "support/dies.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

verdict read_once(connection& conn, std::string& to, std::size_t bytes) {
    char room[64];
    const io_result r = conn.recv(room, bytes);
    if (r.end == io::done) to.append(room, r.bytes);
    return verdict::keep;
}

// Sends until the socket takes no more.
std::size_t fill(connection& conn) {
    const std::string chunk(64 * 1024, 'x');
    std::size_t sent = 0;
    for (int i = 0; i < 1000; i++) {
        const io_result r = conn.send(chunk);
        if (r.end != io::done) return sent;
        sent += r.bytes;
    }
    return sent;
}

// Counts what the transport is asked.
int recv_calls = 0;
const xprt counting_xprt{.name = "counting",
                         .recv = [](connection& conn, void* to, std::size_t bytes) noexcept {
                             recv_calls++;
                             return raw_xprt.recv(conn, to, bytes);
                         },
                         .send = raw_xprt.send,
                         .drain = nullptr,
                         .handshake = nullptr,
                         .close = nullptr};

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

// --- ends and errors

TEST_CASE("a side that wants nothing hears of a reset") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    reset(ends.a);
    REQUIRE(wait_for(conn.fd(), POLLERR));

    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.slot().is(fd_state::err));
    CHECK(conn.ended());
    CHECK(conn.failure() == end_cause::peer_failed);
    CHECK(r.sleeps());
    CHECK(who.calls == "w");
}

TEST_CASE("a side that wants nothing hears of a FIN, and may still send") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.ended());
    CHECK_FALSE(conn.is(conn_flag::recv_ended)); // known, not received
    CHECK(conn.failure() == end_cause::peer_closed);
    CHECK(conn.send("late").end == io::done);
    CHECK(recv_exactly(ends.a.get(), 4) == "late");
    CHECK(r.sleeps());
}

TEST_CASE("bytes and FIN that came together both arrive when the first read is exactly full") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) { return read_once(c, who.received, 4); };
    send_all(ends.a.get(), "four");
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn();
    CHECK(who.received == "four");
    CHECK_FALSE(conn.is(conn_flag::recv_ended));
    r.turn();

    CHECK(conn.is(conn_flag::recv_ended));
    CHECK(who.calls == "rwrw"); // the FIN was known, then it was received
    CHECK(r.sleeps());
}

TEST_CASE("bytes and FIN that came together both arrive when the first read is short") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) { return read_once(c, who.received, 64); };
    send_all(ends.a.get(), "four");
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn(2);

    CHECK(who.received == "four");
    CHECK(conn.is(conn_flag::recv_ended));
}

TEST_CASE("after the peer's end was received recv is not called again, whatever else is reported") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();
    REQUIRE(who.calls == "rw");

    conn.shutdown_send(); // now both directions are over: HUP
    REQUIRE(wait_for(conn.fd(), POLLHUP));
    r.turn(2);

    CHECK(who.calls == "rww");
}

TEST_CASE("a FIN that follows an exactly full read is received") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) { return read_once(c, who.received, 4); };
    send_all(ends.a.get(), "four");
    REQUIRE(arrived(conn));
    r.turn();
    CHECK(who.received == "four");

    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();

    CHECK(conn.is(conn_flag::recv_ended));
}

TEST_CASE("bytes in front of a reset are delivered before the error") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    send_all(ends.a.get(), "last words");
    REQUIRE(arrived(conn));
    reset(ends.a);
    REQUIRE(wait_for(conn.fd(), POLLERR));

    r.turn();

    CHECK(who.received == "last words");
    CHECK(conn.is(conn_flag::failed));
    CHECK(conn.error() == ECONNRESET);
    CHECK(who.calls == "rw");
}

TEST_CASE("a short read saves the recv that would only say EAGAIN") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, counting_xprt);
    conn.want_recv();
    recv_calls = 0;
    send_all(ends.a.get(), "short");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(who.received == "short");
    CHECK(recv_calls == 1);
    CHECK_FALSE(conn.slot().is(fd_state::recv_ready));
    send_all(ends.a.get(), "next");
    REQUIRE(arrived(conn));
    r.turn();
    CHECK(who.received == "shortnext");
}

TEST_CASE("a short read proves nothing for a family without RDHUP") {
    rig r;
    pair ends = tcp_pair();
    user who;
    ctrl family = plain_family;
    family.reports_rdhup = false;
    connection& conn = r.serve(std::move(ends.b), who, family, counting_xprt);
    conn.want_recv();
    recv_calls = 0;
    send_all(ends.a.get(), "short");
    REQUIRE(arrived(conn));

    r.turn();

    CHECK(who.received == "short");
    CHECK(recv_calls == 2);
    CHECK_FALSE(conn.slot().is(fd_state::recv_ready));
}

TEST_CASE("a short read proves nothing while the slot is unsure, and EAGAIN ends that") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, counting_xprt);
    conn.want_recv();
    conn.slot().state |= fd_state::unsure;
    recv_calls = 0;
    send_all(ends.a.get(), "short");
    REQUIRE(arrived(conn));

    r.turn();

    CHECK(who.received == "short");
    CHECK(recv_calls == 2);
    CHECK_FALSE(conn.slot().is(fd_state::unsure));
    send_all(ends.a.get(), "next");
    REQUIRE(arrived(conn));
    r.turn();
    CHECK(recv_calls == 3);
}

TEST_CASE("a send that met EAGAIN goes on when there is room, though a FIN came between") {
    rig r;
    pair ends = stream_pair(); // its room is the peer's reading, and nothing else
    shrink_room(ends.b);
    user who;
    connection& conn = r.serve(std::move(ends.b), who, plain_family);
    conn.want_recv();
    const std::size_t sent = fill(conn);
    REQUIRE_FALSE(conn.slot().is(fd_state::send_ready));
    conn.want_send();
    CHECK(r.sleeps());
    CHECK(who.calls.empty());

    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();
    CHECK(who.calls == "rw");
    CHECK(conn.is(conn_flag::recv_ended));
    who.on_send = [](connection& c) {
        c.stop_send();
        CHECK(c.send("!").end == io::done);
        return verdict::keep;
    };
    CHECK(recv_exactly(ends.a.get(), sent).size() == sent);

    CHECK(r.until([&] { return who.calls.back() == 's'; }));
    CHECK(recv_exactly(ends.a.get(), 1) == "!");
}

TEST_CASE("EPOLLOUT is asked for once, by the first send that meets EAGAIN") {
    rig r;
    pair ends = stream_pair(); // its room is the peer's reading, and nothing else
    shrink_room(ends.b);
    user who;
    connection& conn = r.serve(std::move(ends.b), who, plain_family);
    const std::uint64_t before = r.loop.polls().ctl_count();

    for (int i = 0; i < 3; i++) {
        const std::size_t sent = fill(conn);
        who.calls.clear();
        conn.want_send();
        CHECK(recv_exactly(ends.a.get(), sent).size() == sent);
        CHECK(r.until([&] { return who.calls == "s"; }));
    }

    CHECK(r.loop.polls().ctl_count() == before + 1);
}

TEST_CASE("a send to a peer that is gone fails with EPIPE, not with a signal") {
    rig r;
    pair ends = stream_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, plain_family);
    conn.want_send();
    ends.a.close();
    who.on_send = [](connection& c) {
        CHECK(c.send("x").end == io::failed);
        return verdict::keep;
    };

    r.turn();

    CHECK(conn.error() == EPIPE);
    CHECK(conn.failure() == end_cause::peer_failed);
    struct sigaction action;
    sigaction(SIGPIPE, nullptr, &action);
    const bool is_default = action.sa_handler == SIG_DFL;
    CHECK(is_default);
}

TEST_CASE("a failure that a callback met itself is told by one wake") {
    rig r;
    pair ends = stream_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, plain_family);
    conn.want_send();
    r.turn(); // before the peer's end is reported
    who.calls.clear();
    conn.want_send();
    ends.a.close();
    who.on_send = [](connection& c) {
        CHECK(c.send("x").end == io::failed);
        return verdict::keep;
    };

    r.turn();
    CHECK(who.calls == "sw");
    CHECK(r.sleeps());

    CHECK(who.calls == "sw");
}

TEST_CASE("a failure met outside of any callback is told by a wake in the next turn") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    r.turn();

    conn.fail(EPROTO);
    CHECK(who.calls.empty());
    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.error() == EPROTO);
    conn.fail(EIO);
    CHECK(conn.error() == EPROTO); // the first one counts
}

TEST_CASE("a half-close of ours ends our side only") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    conn.want_send();
    CHECK(conn.send("all of it").end == io::done);

    conn.shutdown_send();
    r.turn();
    std::string seen;
    CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
    send_all(ends.a.get(), "the answer");
    REQUIRE(arrived(conn));
    r.turn();

    CHECK(seen == "all of it");
    CHECK(who.calls == "r"); // and no send
    CHECK(who.received == "the answer");
    CHECK_FALSE(conn.ended());
}

TEST_CASE("a half-close of the peer ends its side only") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn();
    CHECK(conn.is(conn_flag::recv_ended));
    CHECK(conn.send("still here").end == io::done);

    CHECK(recv_exactly(ends.a.get(), 10) == "still here");
    CHECK(r.conns.live_count() == 1);
}

// --- intents

TEST_CASE("what graceful is for: a close with unread input resets the peer") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    send_all(ends.a.get(), std::string(10'000, 'q'));
    REQUIRE(arrived(conn));

    conn.close(close_intent::after_fin, end_cause::done);

    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("a graceful close delivers the answer though input was unread") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    send_all(ends.a.get(), std::string(10'000, 'q'));
    REQUIRE(arrived(conn));
    CHECK(conn.send("answer").end == io::done);

    conn.close(close_intent::graceful, end_cause::done);
    r.turn();
    send_all(ends.a.get(), std::string(10'000, 'q'));
    r.turn();

    std::string seen;
    CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
    CHECK(seen == "answer");
    CHECK(r.conns.live_count() == 1); // until the peer has ended, too
    ends.a.close();
    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(r.ended(end_cause::done) == 1);
    CHECK(r.sums_hold());
    CHECK(who.calls.empty());
}

TEST_CASE("a graceful close does not reset a peer whose FIN stands behind unread input") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    send_all(ends.a.get(), std::string(10'000, 'q'));
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();
    REQUIRE(conn.ended());
    CHECK(conn.send("answer").end == io::done);

    conn.close(close_intent::graceful, end_cause::done);
    CHECK(r.until([&] { return r.conns.live_count() == 0; }));

    std::string seen;
    CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
    CHECK(seen == "answer");
}

TEST_CASE("a graceful close after the peer's end was received is done at once") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();

    conn.close(close_intent::graceful, end_cause::done);

    CHECK(r.conns.live_count() == 0);
    CHECK(ending_of(ends.a.get()) == ending::fin);
}

TEST_CASE("lingering ends when the peer has sent more than the cap") {
    rig r({.connections_max = 4, .linger_bytes_max = 1000});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    send_all(ends.a.get(), std::string(1000, 'q'));
    REQUIRE(arrived(conn));

    conn.close(close_intent::graceful, end_cause::protocol);
    r.turn(2);
    CHECK(r.conns.live_count() == 1); // the cap itself is allowed
    send_all(ends.a.get(), "q");

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(r.ended(end_cause::protocol) == 1);
}

TEST_CASE("lingering ends at its deadline") {
    rig r({.connections_max = 4, .linger = seconds{2}});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.close(close_intent::graceful, end_cause::done);
    r.turn();

    r.pass(milliseconds{1999});
    CHECK(r.conns.live_count() == 1);
    r.pass(milliseconds{2});

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::done) == 1);
    CHECK(who.calls.empty());
}

TEST_CASE("when connections are short the one that lingers for the longest gives its place up") {
    rig r({.connections_max = 2});
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair();
    user who;
    r.serve(std::move(first.b), who).close(close_intent::graceful, end_cause::done);
    r.serve(std::move(second.b), who).close(close_intent::graceful, end_cause::protocol);
    CHECK(r.conns.full());

    CHECK(r.conns.relieve());

    CHECK(r.ended(end_cause::done) == 1);
    CHECK(r.ended(end_cause::protocol) == 0);
    CHECK(r.conns.adopt(unique_fd{third.b.release()}, tcp).ok());
    CHECK(r.conns.relieve());
    CHECK_FALSE(r.conns.relieve());
}

TEST_CASE("lingering ends at a reset") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.close(close_intent::graceful, end_cause::done);
    r.turn();

    reset(ends.a);

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(r.ended(end_cause::done) == 1);
}

TEST_CASE("a graceful close after our own half-close sends no second FIN and still lingers") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.shutdown_send();

    conn.close(close_intent::graceful, end_cause::done);
    r.turn();
    CHECK(r.conns.live_count() == 1);
    shut_write(ends.a.get());

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
}

TEST_CASE("a silent close resets a peer that has not ended") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);

    conn.close(close_intent::silent, end_cause::done);

    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("a silent close answers a peer's FIN with a FIN, received or only known") {
    for (const bool is_received : {false, true}) {
        CAPTURE(is_received);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        if (is_received) conn.want_recv();
        shut_write(ends.a.get());
        REQUIRE(end_arrived(conn));
        r.turn();

        conn.close(close_intent::silent, end_cause::peer_closed);

        CHECK(ending_of(ends.a.get()) == ending::fin);
    }
}

TEST_CASE("after_fin sends a FIN") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);

    conn.close(close_intent::after_fin, end_cause::done);

    CHECK(ending_of(ends.a.get()) == ending::fin);
    CHECK(r.conns.live_count() == 0);
}

TEST_CASE("an abort resets the peer even after its FIN") {
    for (const bool is_ended : {false, true}) {
        CAPTURE(is_ended);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        conn.want_recv();
        if (is_ended) {
            shut_write(ends.a.get());
            REQUIRE(end_arrived(conn));
        }
        r.turn();
        REQUIRE(conn.ended() == is_ended);

        conn.close(close_intent::abort, end_cause::done);

        CHECK(ending_of(ends.a.get()) == ending::reset);
    }
}

// --- deadlines

TEST_CASE("a connection's deadline fires once, and neither after disarm nor after close") {
    static int fired;
    fired = 0;
    rig r;
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair();
    user who;
    connection& a = r.serve(std::move(first.b), who);
    connection& b = r.serve(std::move(second.b), who);
    connection& c = r.serve(std::move(third.b), who);
    static connection* last;
    auto fire = [](timer& t, time_point) noexcept {
        fired++;
        last = &connection::of(t);
    };
    a.arm(r.loop.now() + seconds{1}, fire);
    b.arm(r.loop.now() + seconds{1}, fire);
    c.arm(r.loop.now() + seconds{1}, fire);

    b.disarm();
    c.close(close_intent::silent, end_cause::done);
    r.pass(milliseconds{999});
    CHECK(fired == 0);
    r.pass(seconds{5});

    CHECK(fired == 1);
    CHECK(last == &a);
}

// --- the table of them all

TEST_CASE("every end has one cause, and the causes add up") {
    rig r;
    const end_cause causes[] = {end_cause::done, end_cause::peer_closed, end_cause::protocol, end_cause::timed_out};
    std::vector<pair> ends;
    user who;
    for (int i = 0; i < 12; i++) {
        ends.push_back(tcp_pair());
        connection& conn = r.serve(std::move(ends.back().b), who);
        const auto intent = static_cast<close_intent>(i % 4);
        if (i % 3 != 2) conn.close(intent, causes[i % 4]);
        CHECK(r.sums_hold() == (r.ended_in_all() + r.conns.live_count() == static_cast<std::uint64_t>(i) + 1));
        CHECK(r.sums_hold());
    }

    ends.clear(); // the lingering ones end
    CHECK(r.until([&] { return r.conns.live_count() == 4; }));

    CHECK(r.ended_in_all() == 8);
    CHECK(r.sums_hold());
    for (const end_cause cause : causes)
        CHECK(r.ended(cause) == 2);
    CHECK(r.ended(end_cause::none) == 0);
}

TEST_CASE("every cause has a name of its own") {
    std::vector<std::string> names;
    for (unsigned i = 0; i < static_cast<unsigned>(end_cause::count_); i++) {
        const std::string name = to_string(static_cast<end_cause>(i));
        CHECK_FALSE(name.empty());
        for (const std::string& other : names)
            CHECK(other != name);
        names.push_back(name);
    }
}

TEST_CASE("the live connections are listed in the order they were opened") {
    rig r;
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair();
    user who;
    connection& a = r.serve(std::move(first.b), who);
    connection& b = r.serve(std::move(second.b), who);
    connection& c = r.serve(std::move(third.b), who);

    b.close(close_intent::silent, end_cause::done);

    CHECK(r.conns.first() == &a);
    CHECK(r.conns.after(a) == &c);
    CHECK(r.conns.after(c) == nullptr);
}

TEST_CASE("a silent close after a failure of our own resets the peer, who has not ended") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.fail(ETIMEDOUT);

    conn.close(close_intent::silent, end_cause::timed_out);

    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("a conntab that dies closes what is left and calls nobody") {
    user who;
    pair live = tcp_pair(), lingering = tcp_pair(), dead = tcp_pair();
    {
        rig r;
        connection& a = r.serve(std::move(live.b), who);
        a.want_recv();
        r.serve(std::move(lingering.b), who).close(close_intent::graceful, end_cause::done);
        r.serve(std::move(dead.b), who).close(close_intent::silent, end_cause::done);
        send_all(live.a.get(), "x");
    }

    CHECK(who.calls.empty());
    CHECK(ending_of(live.a.get()) == ending::reset);
    CHECK(ending_of(lingering.a.get()) == ending::fin);
}

TEST_CASE("a conntab that dies before the end of the turn leaves nothing to free to its loop") {
    fake_clock clock;
    event_loop loop;
    REQUIRE(loop.open({.time_source = &clock}).ok());
    auto conns = std::make_unique<conntab>(loop);
    REQUIRE(conns->open({.connections_max = 2}).ok());
    pair ends = tcp_pair();
    auto conn = conns->adopt(unique_fd{ends.b.release()}, tcp);
    REQUIRE(conn.ok());

    conn.value()->close(close_intent::silent, end_cause::done);
    conns.reset();
    loop.turn(duration{0});

    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("a full conntab refuses with ENFILE, resets the socket and counts it") {
    rig r({.connections_max = 2});
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair(), fourth = tcp_pair();
    user who;
    connection& a = r.serve(std::move(first.b), who);
    r.serve(std::move(second.b), who);
    CHECK(r.conns.full());

    const auto refused = r.conns.adopt(unique_fd{third.b.release()}, tcp);

    CHECK(refused.error() == ENFILE);
    CHECK(ending_of(third.a.get()) == ending::reset);
    CHECK(r.ended(end_cause::no_room) == 1);
    CHECK(r.sums_hold());
    a.close(close_intent::silent, end_cause::done);
    CHECK_FALSE(r.conns.full());
    r.serve(std::move(fourth.b), who);
    CHECK(r.conns.full());
}

TEST_CASE("a place is free as soon as its connection is closed, in the same turn") {
    rig r({.connections_max = 1});
    pair first = tcp_pair(), second = tcp_pair();
    user who, next;
    connection& a = r.serve(std::move(first.b), who);
    a.want_recv();
    connection* b = nullptr;
    who.on_recv = [&](connection& c) {
        c.close(close_intent::silent, end_cause::done);
        auto made = r.conns.adopt(unique_fd{second.b.release()}, tcp);
        CHECK(made.ok());
        if (!made) return verdict::gone;
        b = made.value();
        CHECK(b != &c); // the closed one is still untouched
        b->attach(user::table, &next);
        return verdict::gone;
    };
    send_all(first.a.get(), "x");
    REQUIRE(arrived(a));

    r.turn();

    CHECK(b != nullptr);
    CHECK(r.conns.live_count() == 1);
    CHECK(r.sums_hold());
}

TEST_CASE("a descriptor that epoll refuses is closed and costs nothing") {
    rig r({.connections_max = 2});
    char path[] = "/tmp/weir-regular-XXXXXX";
    user who;

    for (int i = 0; i < 5; i++) {
        const int file = mkstemp(path);
        REQUIRE(file >= 0);
        unlink(path);
        std::snprintf(path, sizeof path, "/tmp/weir-regular-XXXXXX");
        const auto refused = r.conns.adopt(unique_fd{file}, plain_family);
        CHECK(refused.error() == EPERM);
        CHECK(fcntl(file, F_GETFD) == -1);
    }

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::no_room) == 5);
    CHECK(r.sums_hold());
    pair first = tcp_pair(), second = tcp_pair();
    r.serve(std::move(first.b), who);
    r.serve(std::move(second.b), who);
}

TEST_CASE("a number beyond the fdtab is refused with EMFILE") {
    fake_clock clock;
    event_loop loop;
    REQUIRE(loop.open({.fd_max = 64, .time_source = &clock}).ok());
    conntab conns(loop);
    REQUIRE(conns.open({.connections_max = 2}).ok());
    pair ends = tcp_pair();

    const auto refused = conns.adopt(unique_fd{moved_to(std::move(ends.b), 64).release()}, tcp);

    CHECK(refused.error() == EMFILE);
    CHECK(conns.ended_count(end_cause::no_room) == 1);
    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("attach, want, stop, recv and send allocate nothing and never call epoll_ctl") {
    rig r;
    pair ends = tcp_pair();
    user first, second;
    first.received.reserve(4096);
    second.received.reserve(4096);
    connection& conn = r.serve(std::move(ends.b), first);
    char echo[16];
    const std::uint64_t ctls = r.loop.polls().ctl_count();
    CHECK(ctls == 2); // the mailbox's and this one's
    std::uint64_t allocations = allocation_count();

    for (int i = 0; i < 100; i++) {
        if (i == 2) allocations = allocation_count(); // warm
        first.calls.clear();
        second.calls.clear();
        conn.attach(i % 2 ? user::table : user::other_table, i % 2 ? &first : &second);
        conn.want_recv();
        conn.want_send();
        [[maybe_unused]] const auto sent = ::send(ends.a.get(), "ping", 4, MSG_NOSIGNAL);
        r.turn();
        conn.stop_recv();
        const io_result answered = conn.send("pong");
        [[maybe_unused]] const auto got = ::recv(ends.a.get(), echo, sizeof echo, MSG_DONTWAIT);
        if (answered.end != io::done || got != 4) FAIL("the exchange broke off");
    }

    CHECK(allocation_count() == allocations);
    CHECK(r.loop.polls().ctl_count() == ctls);
    CHECK(first.received.size() + second.received.size() == 400);
}

TEST_CASE("opening and closing a connection allocates nothing and costs one epoll_ctl") {
    rig r;
    pair warm = tcp_pair(), ends = tcp_pair();
    user who;
    r.serve(std::move(warm.b), who).close(close_intent::silent, end_cause::done);
    r.turn();
    const std::uint64_t allocations = allocation_count();
    const std::uint64_t ctls = r.loop.polls().ctl_count();

    auto conn = r.conns.adopt(unique_fd{ends.b.release()}, tcp);
    conn.value()->attach(user::table, &who);
    conn.value()->close(close_intent::silent, end_cause::done);
    r.turn();

    CHECK(allocation_count() == allocations);
    CHECK(r.loop.polls().ctl_count() == ctls + 1);
}

TEST_CASE("the contract of a connection is checked") {
    CHECK(dies(
        [] {
            rig r;
            pair ends = tcp_pair();
            user who;
            connection& conn = r.serve(std::move(ends.b), who);
            conn.close(close_intent::silent, end_cause::done);
            conn.close(close_intent::silent, end_cause::done);
        },
        "cause_ == end_cause::none"));
    CHECK(dies(
        [] {
            rig r;
            pair ends = tcp_pair();
            user who;
            r.serve(std::move(ends.b), who).close(close_intent::silent, end_cause::none);
        },
        "cause != end_cause::none"));
    CHECK(dies(
        [] {
            rig r;
            pair ends = tcp_pair();
            user who;
            connection& conn = r.serve(std::move(ends.b), who);
            conn.shutdown_send();
            conn.shutdown_send();
        },
        "send_ended"));
}

} // namespace
