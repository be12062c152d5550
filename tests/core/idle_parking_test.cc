// idle: parking and taking, the keys of connections, and the contract.

#include "core/idle.hpp"

#include <vector>

#include "support/dies.hpp"
#include "support/idle_rig.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::recv_exactly, over_records::send_all;
using over_records::tcp_pair;

// --- parking and taking

TEST_CASE("a parked connection is handed out again, to whoever asks for its key") {
    idle_rig r;
    connection& conn = r.parked();
    CHECK(r.pool.idle_count() == 1);
    CHECK(r.pool.idle_count(r.key) == 1);
    CHECK(conn.is(conn_flag::idle));
    CHECK(&conn.cb() == &idle_pool::table());
    user next;

    connection* taken = r.take(next);

    REQUIRE(taken == &conn);
    CHECK_FALSE(conn.is(conn_flag::idle));
    CHECK_FALSE(conn.slot().is(fd_state::idle));
    CHECK(conn.owner() == &next);
    CHECK(&conn.cb() == &user::table);
    CHECK(r.pool.idle_count() == 0);
    CHECK(r.pool.idle_count(r.key) == 0);
    CHECK(r.pool.parked_count() == 1);
    CHECK(r.pool.taken_count() == 1);
    CHECK(r.take(next) == nullptr);
    send_all(r.peer().get(), "answer");
    REQUIRE(arrived(conn));
    r.turn();
    CHECK(next.received == "answer"); // receiving stayed wanted
    CHECK(r.nobody.calls.empty());
}

TEST_CASE("park and take cost no epoll_ctl, no drain, no recv and no allocation") {
    drains = 0;
    static int recvs;
    recvs = 0;
    static const xprt counting{.name = "counting",
                               .recv = [](connection& conn, void* to, std::size_t bytes) noexcept {
                                   recvs++;
                                   return raw_xprt.recv(conn, to, bytes);
                               },
                               .send = raw_xprt.send,
                               .drain = nullptr,
                               .handshake = nullptr,
                               .close = nullptr};
    const ctrl family = counting_family();
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, family, counting);
    r.turn();
    const std::uint64_t ctls = r.loop.polls().ctl_count();
    const std::uint64_t allocations = allocation_count();

    bool same = true;
    for (int i = 0; i < 1000; i++) {
        r.pool.park(conn, r.key, rest);
        if (i % 10 == 0) r.loop.turn(duration{0});
        same &= r.take(who) == &conn;
    }

    CHECK(same);
    CHECK(allocation_count() == allocations);
    CHECK(r.loop.polls().ctl_count() == ctls);
    CHECK(drains == 0);
    CHECK(recvs == 0);
    CHECK(r.pool.taken_count() == 1000);
}

TEST_CASE("a park inside recv sends the rest of the event to the idle table, which has nothing to do") {
    drains = 0;
    const ctrl family = counting_family();
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, family);
    conn.want_recv();
    conn.want_send();
    who.on_recv = [&](connection& c) {
        who.read_all(c);
        const std::uint64_t allocations = allocation_count();
        const std::uint64_t ctls = r.loop.polls().ctl_count();
        const verdict v = r.pool.park(c, r.key, rest);
        CHECK(allocation_count() == allocations);
        CHECK(r.loop.polls().ctl_count() == ctls);
        return v;
    };
    send_all(ends.a.get(), "answer");
    REQUIRE(arrived(conn));

    r.turn(3);

    CHECK(who.calls == "r"); // neither send nor wake
    CHECK(r.pool.idle_count() == 1);
    CHECK(r.sleeps());
    CHECK(drains == 0);
}

TEST_CASE("a parked connection may be taken from inside another connection's callback, and used there") {
    idle_rig r;
    connection& idle = r.parked();
    pair client = tcp_pair();
    user front, stream;
    connection& conn = r.serve(std::move(client.b), front);
    conn.want_recv();
    front.on_recv = [&](connection& c) {
        front.read_all(c);
        connection* taken = r.take(stream);
        CHECK(taken == &idle);
        if (taken) CHECK(taken->send("request").end == io::done);
        return verdict::keep;
    };
    send_all(client.a.get(), "request");
    REQUIRE(arrived(conn));

    r.turn();
    CHECK(recv_exactly(r.peer().get(), 7) == "request");
    send_all(r.peer().get(), "answer");
    REQUIRE(arrived(idle));
    r.turn();

    CHECK(stream.received == "answer");
}

TEST_CASE("parking twice is parking once") {
    listening_owner owner;
    idle_rig r;
    connection& conn = r.parked({.owner = &owner});

    CHECK(r.pool.park(conn, r.key, rest) == verdict::keep);

    CHECK(r.pool.idle_count() == 1);
    CHECK(r.pool.parked_count() == 1);
    r.pool.flush();
    CHECK(owner.told_count == 1);
    CHECK(r.conns.live_count() == 0);
    CHECK(r.sums_hold());
}

TEST_CASE("a connection parked and taken within one callback goes on as if nothing had been") {
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) {
        who.read_all(c);
        r.pool.park(c, r.key, rest);
        CHECK(r.take(who) == &c);
        return verdict::keep;
    };

    for (const char* bytes : {"one", "two"}) {
        send_all(ends.a.get(), bytes);
        REQUIRE(arrived(conn));
        r.turn();
    }

    CHECK(who.received == "onetwo");
    CHECK(r.sleeps());
}

// The reader took exactly what there was and never met EAGAIN: the socket is ready, and empty.
TEST_CASE("a readiness that holds no bytes is no reason to refuse or kill a connection") {
    for (const bool can_drain : {true, false}) {
        for (const bool at_once : {true, false}) {
            CAPTURE(can_drain);
            CAPTURE(at_once);
            idle_rig r;
            pair ends = tcp_pair();
            user who, next;
            connection* taken = nullptr;
            connection& conn = r.serve(std::move(ends.b), who, can_drain ? tcp : drainless_tcp);
            conn.want_recv();
            who.on_recv = [&](connection& c) {
                char six[6];
                CHECK(c.recv(six, 6).bytes == 6);
                CHECK(c.slot().is(fd_state::recv_ready));
                const verdict v = r.pool.park(c, r.key, rest);
                if (at_once) taken = r.take(next);
                return v;
            };
            send_all(ends.a.get(), "answer");
            REQUIRE(arrived(conn));

            r.turn(3);
            if (!at_once) taken = r.take(next);

            CHECK(taken == &conn);
            CHECK(r.conns.live_count() == 1);
            CHECK(r.sleeps());
        }
    }
}

// --- keys

TEST_CASE("every field of an identity tells connections apart") {
    idle_rig r({.keys_max = 16});
    int token = 0;
    const idle_identity one = server();
    std::vector<idle_identity> others(8, one);
    others[0].remote = endpoint::ipv4(0x7f000001, 81);
    others[1].remote = endpoint::ipv4(0x7f000002, 80);
    others[2].remote = endpoint::ipv6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1}, 80);
    others[3].source = endpoint::ipv4(0x7f000003, 0);
    others[4].family = &plain_family;
    const xprt other_transport = raw_xprt;
    others[5].transport = &other_transport;
    others[6].tag = 1;
    others[7].private_to = &token;
    r.parked();
    user who;

    for (const idle_identity& other : others) {
        const auto k = r.pool.key_of(other);
        REQUIRE(k);
        CHECK(r.pool.idle_count(k) == 0);
        CHECK(r.pool.take(k, user::table, &who) == nullptr);
    }

    CHECK(r.pool.take(r.pool.key_of(server()), user::table, &who) != nullptr);
}

TEST_CASE("equal identities have one key") {
    idle_rig r({.keys_max = 1});
    r.parked(r.pool.key_of(server()));

    CHECK(r.pool.idle_count(r.pool.key_of(server())) == 1);
    CHECK(r.pool.key_of(server()));
}

TEST_CASE("beyond keys_max the key is null: parking closes, taking finds nothing") {
    idle_rig r({.keys_max = 1});
    const auto none = r.pool.key_of(server(81));
    CHECK_FALSE(none);
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);

    CHECK(r.pool.take(none, user::table, &who) == nullptr);
    CHECK(r.pool.idle_count(none) == 0);
    CHECK(r.pool.safe_age(none) == duration::max());
    CHECK(r.pool.park(conn, none, rest) == verdict::gone);

    CHECK(r.ended(end_cause::idle_evicted) == 1);
    CHECK(r.sums_hold());
}

// --- contract

TEST_CASE("the contract of parking is checked") {
    auto broken = [](auto misuse) {
        return [misuse] {
            idle_rig r;
            pair ends = tcp_pair();
            user who;
            connection& conn = r.serve(std::move(ends.b), who);
            misuse(r, conn);
        };
    };

    CHECK(dies(broken([](idle_rig& r, connection& conn) {
                   r.pool.park(conn, r.key, rest);
                   conn.close(close_intent::silent, end_cause::done);
               }),
               "conn_flag::idle"));
#ifndef NDEBUG
    CHECK(dies(broken([](idle_rig& r, connection& conn) {
                   r.pool.park(conn, r.key, rest);
                   user thief;
                   conn.attach(user::table, &thief);
               }),
               "conn_flag::idle"));
#endif
    CHECK(dies(broken([](idle_rig& r, connection& conn) {
                   user thief;
                   static_cast<void>(r.pool.take_back(conn, user::table, &thief));
               }),
               "conn_flag::idle"));
}

TEST_CASE("a connection that is not at rest is closed, for that reason, instead of being parked") {
    for (const int what : {0, 1, 2}) {
        CAPTURE(what);
        idle_rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        if (what == 2) conn.shutdown_send();

        CHECK(r.pool.park(conn, r.key, {.messages_complete = what != 0, .buffers_empty = what != 1}) == verdict::gone);

        CHECK(r.ended(end_cause::not_at_rest) == 1);
        CHECK(r.pool.idle_count() == 0);
        CHECK(r.sums_hold());
    }
}

} // namespace
