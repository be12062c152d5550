// idle: bytes on an idle connection that nobody asked for.

#include "core/idle.hpp"

#include "support/idle_rig.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::send_all, over_records::shut_write;
using over_records::stream_pair, over_records::tcp_pair;

TEST_CASE("bytes on an idle connection kill it, and nobody ever reads them") {
    listening_owner owner;
    idle_rig r;
    connection& conn = r.parked({.owner = &owner});
    send_all(r.peer().get(), "HTTP/1.1 408 Request Timeout\r\n\r\n");
    REQUIRE(arrived(conn));

    r.turn();

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::idle_unsolicited) == 1);
    CHECK(owner.told_count == 1);
    CHECK(owner.cause == end_cause::idle_unsolicited);
    CHECK(ending_of(r.peer().get()) == ending::reset);
    user next;
    CHECK(r.take(next) == nullptr);
    CHECK(r.nobody.received.empty());
}

TEST_CASE("bytes that came between the last EAGAIN and the park kill the connection") {
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) {
        who.read_all(c);
        CHECK_FALSE(c.slot().is(fd_state::recv_ready));
        send_all(ends.a.get(), "stray");
        return r.pool.park(c, r.key, rest);
    };
    send_all(ends.a.get(), "answer");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(who.received == "answer");
    CHECK(r.ended(end_cause::idle_unsolicited) == 1);
}

TEST_CASE("bytes that the reader left in the socket kill the connection though no edge follows") {
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) {
        char six[6];
        CHECK(c.recv(six, 6).bytes == 6);
        return r.pool.park(c, r.key, rest);
    };
    send_all(ends.a.get(), "answerstray");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(r.ended(end_cause::idle_unsolicited) == 1);
}

TEST_CASE("bytes that the reader left in the socket are found by a take in the same turn") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        idle_rig r({.on_bytes = policy});
        pair ends = tcp_pair();
        user who, next;
        connection& conn = r.serve(std::move(ends.b), who);
        conn.want_recv();
        connection* taken = nullptr;
        who.on_recv = [&](connection& c) {
            char six[6];
            CHECK(c.recv(six, 6).bytes == 6);
            r.pool.park(c, r.key, rest);
            taken = r.take(next);
            return verdict::keep;
        };
        send_all(ends.a.get(), "answerstray");
        REQUIRE(arrived(conn));

        r.turn(2);

        CHECK(next.received.empty());
        if (policy == unsolicited::kill) {
            CHECK(taken == nullptr);
            CHECK(r.ended(end_cause::idle_unsolicited) == 1);
        } else {
            CHECK(taken == &conn);
            CHECK(r.conns.live_count() == 1);
        }
    }
}

TEST_CASE("with `drain` unsolicited bytes are thrown away, the loop sleeps, and the next answer is clean" *
          not_over_records{"it counts the family's drains"}) {
    for (const bool is_unix : {false, true}) {
        CAPTURE(is_unix);
        drains = 0;
        ctrl family = counting_family();
        if (is_unix)
            family.drain = [](int fd, std::size_t) noexcept {
                drains++;
                char bytes[1024];
                const sys::count n = sys::recv(fd, bytes, sizeof bytes);
                return drain_result{.end = drained::again, .bytes = n > 0 ? static_cast<std::size_t>(n) : 0};
            };
        idle_rig r({.on_bytes = unsolicited::drain});
        pair ends = is_unix ? stream_pair() : tcp_pair();
        user who, next;
        connection& conn = r.serve(std::move(ends.b), who, family);
        r.pool.park(conn, r.key, rest);
        send_all(ends.a.get(), "stray");
        REQUIRE(arrived(conn));

        r.turn();
        CHECK(drains == 1);
        CHECK(r.sleeps());
        CHECK(drains == 1);
        CHECK(r.pool.idle_count() == 1);
        CHECK(r.take(next) == &conn);
        send_all(ends.a.get(), "answer");
        REQUIRE(arrived(conn));
        r.turn();

        CHECK(next.received == "answer");
    }
}

TEST_CASE("with `drain` a FIN after drained bytes is found, in the same event or a later one") {
    for (const bool is_together : {true, false}) {
        CAPTURE(is_together);
        idle_rig r({.on_bytes = unsolicited::drain});
        connection& conn = r.parked();
        send_all(r.peer().get(), std::string(50'000, 'x'));
        REQUIRE(arrived(conn));
        if (!is_together) r.turn();
        shut_write(r.peer().get());
        REQUIRE(end_arrived(conn));

        r.turn();

        CHECK(r.conns.live_count() == 0);
        CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    }
}

TEST_CASE("a drain that finds the end closes the connection even if the poller has not told of it" *
          not_over_records{"the family drains"}) {
    idle_rig r({.on_bytes = unsolicited::drain});
    static bool is_over;
    is_over = false;
    ctrl family = tcp;
    family.drain = [](int, std::size_t) noexcept { return drain_result{.end = is_over ? drained::closed : drained::again, .bytes = 0}; };
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, family);
    r.pool.park(conn, r.key, rest);
    send_all(ends.a.get(), "x");
    REQUIRE(arrived(conn));
    is_over = true;

    r.turn();

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
}

TEST_CASE("a family without drain never spins, and its bytes never reach a user" *
          not_over_records{"its transport drains"}) {
    for (const bool is_unix : {false, true}) {
        for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
            CAPTURE(is_unix);
            idle_rig r({.on_bytes = policy});
            pair ends = is_unix ? stream_pair() : tcp_pair();
            user who, next;
            connection& conn = r.serve(std::move(ends.b), who, is_unix ? plain_family : drainless_tcp);
            r.pool.park(conn, r.key, rest);
            send_all(ends.a.get(), "stray");
            REQUIRE(arrived(conn));

            CHECK(r.sleeps());
            CHECK(r.pool.idle_count() == (policy == unsolicited::kill ? 0 : 1));
            send_all(ends.a.get(), policy == unsolicited::kill ? "" : "more");
            CHECK(r.sleeps());
            CHECK(r.take(next) == nullptr);

            CHECK(next.received.empty());
            CHECK(r.ended(end_cause::idle_unsolicited) == 1);
            CHECK(r.conns.live_count() == 0);
        }
    }
}

TEST_CASE("a family without drain still hears of the end after bytes it had to leave") {
    idle_rig r({.on_bytes = unsolicited::drain});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, drainless_tcp);
    r.pool.park(conn, r.key, rest);
    send_all(ends.a.get(), "stray");
    REQUIRE(arrived(conn));
    r.turn(2);
    CHECK(r.pool.idle_count() == 1);

    ends.a.close();
    REQUIRE(end_arrived(conn));
    r.turn();

    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
}

TEST_CASE("a family without drain believes an end that it finds itself") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        idle_rig r({.on_bytes = policy});
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who, drainless_tcp);
        r.pool.park(conn, r.key, rest);
        ends.a.close();
        REQUIRE(end_arrived(conn));

        conn.slot().state |= fd_state::recv_ready; // as if bytes had been reported, and the end not yet
        CHECK(idle_pool::table().recv(conn) == verdict::gone);

        CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    }
}

TEST_CASE("an end that brings a farewell along is an end, and teaches its age") {
    idle_rig r({.age_max = seconds{100}});
    connection& conn = r.parked();
    r.pass(seconds{5});
    send_all(r.peer().get(), "HTTP/1.1 408 Request Timeout\r\n\r\n");
    r.peer().close();
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    CHECK(r.pool.safe_age(r.key) == seconds{4});
}

} // namespace
