// xprt: parked connections over a transport.

#include "core/xprt.hpp"

#include "core/idle.hpp"
#include "support/record_xprt.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

constexpr idle_pool::at_rest rest{.messages_complete = true, .buffers_empty = true};

struct idle_rig : rig {
    explicit idle_rig(const idle_options& options)
        : pool(conns, options), key(pool.key_of({.remote = endpoint::ipv4(0x7f000001, 80), .family = &tcp, .transport = &record_xprt})) {}
    idle_pool pool;
    idle_pool::key key;
};

TEST_CASE("a parked connection's hidden bytes are found though the socket is silent") {
    idle_rig r({});
    pair ends = tcp_pair();
    user who;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    conn.want_recv();
    who.on_recv = [&](connection& c) {
        char six[6];
        CHECK(c.recv(six, 6).bytes == 6);
        return r.pool.park(c, r.key, rest);
    };
    send_all(ends.a.get(), record("answer") + record("stray"));
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(r.ended(end_cause::idle_unsolicited) == 1);
    CHECK(r.conns.live_count() == 0);
}

TEST_CASE("a parked connection is drained through its transport, so that its records stay in step") {
    idle_rig r({.on_bytes = unsolicited::drain});
    pair ends = tcp_pair();
    user who, next;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    r.pool.park(conn, r.key, rest);
    const std::string stray = record("stray");
    send_all(ends.a.get(), stray.substr(0, 3));
    REQUIRE(arrived(conn));
    CHECK(r.sleeps());
    CHECK(r.pool.idle_count() == 1);

    CHECK(r.pool.take(r.key, user::table, &next) == &conn);
    send_all(ends.a.get(), stray.substr(3) + record("answer"));
    REQUIRE(arrived(conn));
    r.turn(2);

    CHECK(next.received == "strayanswer"); // half a record cannot be drained: what counts is that nothing is garbled
}

TEST_CASE("a transport's own talk is not unsolicited: a ticket does not kill a parked connection") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        for (const bool probe : {false, true}) {
            CAPTURE(probe);
            idle_rig r({.on_bytes = policy, .probe = probe});
            pair ends = tcp_pair();
            user who, next;
            connection& conn = greeted(r, std::move(ends.b), ends.a, who);
            r.pool.park(conn, r.key, rest);
            send_all(ends.a.get(), ticket);
            REQUIRE(arrived(conn));
            if (!probe) CHECK(r.sleeps()); // else take() is the first to see it

            CHECK(r.pool.take(r.key, user::table, &next) == &conn);
            send_all(ends.a.get(), record("answer"));
            REQUIRE(arrived(conn));
            r.turn(2);

            CHECK(next.received == "answer");
        }
    }
}

TEST_CASE("the beginning of a record may be anything: nobody is given its connection until it is known") {
    for (const bool is_ticket : {false, true}) {
        for (const char when : {'b', 's', 'a'}) { // before the park, in the turn of the take, and in one before
            CAPTURE(is_ticket);
            CAPTURE(when);
            idle_rig r({});
            pair ends = tcp_pair();
            user who, next;
            connection& conn = greeted(r, std::move(ends.b), ends.a, who);
            const std::string stray = is_ticket ? std::string{ticket} : record("stray");
            const auto begin = [&] {
                send_all(ends.a.get(), stray.substr(0, 1));
                REQUIRE(arrived(conn));
                r.turn(when == 's' ? 0 : 2);
            };
            if (when == 'b') conn.want_recv();
            if (when == 'b') begin(); // and the user met EAGAIN
            r.pool.park(conn, r.key, rest);
            if (when != 'b') begin();
            if (when == 's') r.loop.fds().may_recv(conn.slot()); // the report of this turn
            if (is_ticket) {
                CHECK(r.sleeps());
                CHECK(r.pool.idle_count() == 1);
                send_all(ends.a.get(), stray.substr(1));
                REQUIRE(arrived(conn));
                CHECK(r.sleeps());
                CHECK(r.pool.take(r.key, user::table, &next) == &conn);
                continue;
            }

            CHECK(r.pool.take(r.key, user::table, &next) == nullptr);
            CHECK(r.ended(end_cause::idle_unsolicited) == 1);
        }
    }
}

TEST_CASE("a parked connection ends by its transport's own end, by a FIN with it and by one without, and is closed then") {
    for (const char how : {'e', 'f', 't'}) {
        for (const bool probe : {false, true}) {
            CAPTURE(how);
            CAPTURE(probe);
            idle_rig r({.probe = probe});
            pair ends = tcp_pair();
            user who, next;
            connection& conn = greeted(r, std::move(ends.b), ends.a, who);
            r.pool.park(conn, r.key, rest);
            r.turn(2);
            r.clock.advance(seconds{5});
            if (how != 't') send_all(ends.a.get(), record_end);
            if (how != 'e') shut_write(ends.a.get());
            REQUIRE(arrived(conn));

            if (!probe) r.turn();
            CHECK(r.pool.take(r.key, user::table, &next) == nullptr);

            CHECK(r.ended(end_cause::idle_peer_closed) == 1);
            CHECK(r.pool.safe_age(r.key) < seconds{5}); // it taught its age
        }
    }
}

TEST_CASE("a connection over a transport that was read to the last byte may be taken in the turn it was parked") {
    idle_rig r({});
    pair ends = tcp_pair();
    user who, next;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    conn.want_recv();
    connection* taken = nullptr;
    who.on_recv = [&](connection& c) {
        char six[6];
        CHECK(c.recv(six, 6).bytes == 6);
        r.pool.park(c, r.key, rest);
        taken = r.pool.take(r.key, user::table, &next);
        return verdict::keep;
    };
    send_all(ends.a.get(), record("answer"));
    REQUIRE(arrived(conn));

    r.turn();

    CHECK(taken == &conn);
}

TEST_CASE("with `probe` hidden bytes and an end are found by take, through the transport") {
    for (const bool is_end : {false, true}) {
        CAPTURE(is_end);
        idle_rig r({.probe = true});
        pair ends = tcp_pair();
        user who, next;
        connection& conn = greeted(r, std::move(ends.b), ends.a, who);
        r.pool.park(conn, r.key, rest);
        if (is_end) ends.a.close();
        else send_all(ends.a.get(), record("stray"));
        REQUIRE(arrived(conn));

        CHECK(r.pool.take(r.key, user::table, &next) == nullptr);

        CHECK(r.ended(is_end ? end_cause::idle_peer_closed : end_cause::idle_unsolicited) == 1);
    }
}

TEST_CASE("a parked connection over a transport is gone in the turn of its server's close") {
    idle_rig r({});
    pair ends = tcp_pair();
    user who;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    r.pool.park(conn, r.key, rest);
    ends.a.close();
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
}

} // namespace
