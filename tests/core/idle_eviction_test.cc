// idle: which connection goes: order and caps, flush, shortage. Ages: idle_age_test.cc.

#include "core/idle.hpp"

#include "core/dialer.hpp"
#include "support/idle_rig.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::tcp_pair;

// --- order and caps

TEST_CASE("the connection parked last is taken first") {
    idle_rig r;
    connection& a = r.parked();
    connection& b = r.parked();
    connection& c = r.parked();
    user who;

    CHECK(r.take(who) == &c);
    CHECK(r.take(who) == &b);
    CHECK(r.take(who) == &a);
    CHECK(r.take(who) == nullptr);
}

TEST_CASE("a pool for none keeps none, and nothing can be taken from it") {
    idle_rig r({.idle_max = 0});
    CHECK(r.pool.capacity() == 0);
    CHECK(!r.key);
    pair ends = tcp_pair();
    connection& conn = r.serve(std::move(ends.b), r.nobody);
    user who;

    CHECK(r.pool.park(conn, r.key, rest) == verdict::gone);

    CHECK(r.take(who) == nullptr);
    CHECK(r.pool.idle_count() == 0);
    CHECK(r.ended(end_cause::idle_evicted) == 1);
    CHECK(r.sums_hold());
}

TEST_CASE("a full pool evicts the one idle for the longest, of whatever key") {
    listening_owner oldest, newer;
    idle_rig r({.idle_max = 2});
    const auto other = r.pool.key_of(server(81));
    r.parked(other, {.owner = &oldest});
    r.parked(r.key, {.owner = &newer});

    r.parked();

    CHECK(r.pool.idle_count() == 2);
    CHECK(r.pool.idle_count(other) == 0);
    CHECK(r.pool.idle_count(r.key) == 2);
    CHECK(oldest.told_count == 1);
    CHECK(oldest.cause == end_cause::idle_evicted);
    CHECK(newer.told_count == 0);
    CHECK(r.ended(end_cause::idle_evicted) == 1);
    CHECK(ending_of(r.peers[0].get()) == ending::reset);
    CHECK(r.sums_hold());
}

TEST_CASE("a full key evicts its own oldest one and leaves the others alone") {
    listening_owner stranger, oldest, newer;
    idle_rig r({.idle_max = 10, .idle_per_key_max = 2});
    const auto other = r.pool.key_of(server(81));
    r.parked(other, {.owner = &stranger});
    r.parked(r.key, {.owner = &oldest});
    r.parked(r.key, {.owner = &newer});

    r.parked();

    CHECK(oldest.cause == end_cause::idle_evicted);
    CHECK(stranger.told_count == 0);
    CHECK(newer.told_count == 0);
    CHECK(r.pool.idle_count(r.key) == 2);
    CHECK(r.pool.idle_count() == 3);
}

TEST_CASE("a pool exactly full evicts nobody") {
    idle_rig r({.idle_max = 3, .idle_per_key_max = 3});

    for (int i = 0; i < 3; i++)
        r.parked();

    CHECK(r.pool.idle_count() == 3);
    CHECK(r.ended(end_cause::idle_evicted) == 0);
}

// --- emptying

TEST_CASE("flush closes every idle connection, whatever its key") {
    listening_owner a, b, c;
    idle_rig r;
    const auto other = r.pool.key_of(server(81));
    r.parked(r.key, {.owner = &a});
    r.parked(other, {.owner = &b});
    r.parked(r.key, {.owner = &c});

    r.pool.flush();

    for (const listening_owner* owner : {&a, &b, &c})
        CHECK(owner->cause == end_cause::idle_flushed);
    CHECK(r.pool.idle_count() == 0);
    CHECK(r.ended(end_cause::idle_flushed) == 3);
    CHECK(r.sums_hold());
}

TEST_CASE("a pool that dies flushes and helps no more in a shortage") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    listening_owner owner;
    {
        idle_pool pool(r.conns, {});
        pool.park(conn, pool.key_of(server()), rest, {.owner = &owner});
    }

    CHECK(owner.cause == end_cause::idle_flushed);
    CHECK(r.conns.live_count() == 0);
    CHECK_FALSE(r.conns.relieve(shortage::connections));
    for (int i = 0; i < 40; i++)
        const idle_pool another(r.conns, {}); // its place is free again
}

// --- shortage

TEST_CASE("a dial that meets EMFILE kills the oldest idle connection and succeeds") {
    listening_owner oldest, newer;
    idle_rig r;
    const tcp_listener server_socket = listen_tcp();
    r.parked({.owner = &oldest});
    r.parked({.owner = &newer});
    user who;
    const short_of_descriptors now;

    auto conn = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server_socket.port), {}, user::table, &who);

    REQUIRE(conn.ok());
    CHECK(oldest.cause == end_cause::idle_pressure);
    CHECK(newer.told_count == 0);
    CHECK(r.ended(end_cause::idle_pressure) == 1);
    CHECK(r.until([&] { return conn.value()->is(conn_flag::connected); }));
    CHECK(r.sums_hold());
}

TEST_CASE("a dial that meets EMFILE without an idle connection fails, and nothing is lost") {
    idle_rig r;
    const tcp_listener server_socket = listen_tcp();
    user who;
    const short_of_descriptors now;

    auto conn = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server_socket.port), {}, user::table, &who);

    CHECK(conn.error() == EMFILE);
    CHECK(r.conns.live_count() == 0);
    CHECK(r.sums_hold());
}

TEST_CASE("a dial into a full conntab kills the oldest idle connection and succeeds in the same turn") {
    listening_owner oldest, newer;
    idle_rig r({}, {.connections_max = 2});
    const tcp_listener server_socket = listen_tcp();
    r.parked({.owner = &oldest});
    r.parked({.owner = &newer});
    user who;

    auto conn = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server_socket.port), {}, user::table, &who);

    REQUIRE(conn.ok());
    CHECK(oldest.cause == end_cause::idle_pressure);
    CHECK(newer.told_count == 0);
    CHECK(r.conns.live_count() == 2);
    CHECK(r.sums_hold());
}

TEST_CASE("in a shortage every pool is asked until one can help") {
    rig r;
    idle_pool empty(r.conns, {});
    idle_pool filled(r.conns, {});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    filled.park(conn, filled.key_of(server()), rest);

    CHECK(r.conns.relieve(shortage::connections));
    CHECK(filled.idle_count() == 0);
    CHECK(r.ended(end_cause::idle_pressure) == 1);
    CHECK_FALSE(r.conns.relieve(shortage::connections));
}

} // namespace
