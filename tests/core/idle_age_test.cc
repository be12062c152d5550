// idle_pool: how old an idle connection may get, and what servers teach about that.

#include "core/idle.hpp"

#include "core/dialer.hpp"
#include "support/idle_rig.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::tcp_pair;

// --- ages

TEST_CASE("an idle connection is closed at its age, give or take a tenth, and not all at once") {
    idle_rig r({.age_max = seconds{10}}, {.connections_max = 64});
    for (int i = 0; i < 64; i++)
        r.parked(r.key, {}, plain_family);
    r.turn();

    r.pass(milliseconds{8999});
    CHECK(r.pool.idle_count() == 64);
    std::uint32_t gone_early = 0, gone_at_once_max = 0, left = 64;
    for (int ms = 8999; ms < 11001; ms++) {
        r.pass(milliseconds{1});
        gone_at_once_max = std::max(gone_at_once_max, left - r.pool.idle_count());
        left = r.pool.idle_count();
        if (ms < 10000) gone_early = 64 - left;
    }

    CHECK(left == 0);
    CHECK(r.ended(end_cause::idle_age) == 64);
    CHECK(gone_early >= 20); // about half before the age, half after it
    CHECK(gone_early <= 44);
    CHECK(gone_at_once_max <= 6);
    CHECK(ending_of(r.peers[0].get(), nullptr) != ending::none);
}

TEST_CASE("an idle age of duration::max() is none, whichever way it is spread") {
    idle_rig r({.age_max = duration::max()});
    for (int i = 0; i < 8; i++)
        r.parked();

    r.pass(std::chrono::hours{24 * 365});

    CHECK(r.pool.idle_count() == 8);
}

TEST_CASE("a server's shorter age is kept to, a longer one is not") {
    listening_owner shorter, longer;
    idle_rig r({.age_max = seconds{10}});
    r.parked({.age_max = seconds{1}, .owner = &shorter});
    r.parked({.age_max = seconds{100}, .owner = &longer});

    r.pass(milliseconds{899});
    CHECK(shorter.told_count == 0);
    r.pass(milliseconds{202});
    CHECK(shorter.cause == end_cause::idle_age);
    CHECK(longer.told_count == 0);
    r.pass(seconds{10});

    CHECK(longer.cause == end_cause::idle_age);
}

TEST_CASE("a taken connection has no age, and one parked again a new one") {
    idle_rig r({.age_max = seconds{10}});
    connection& conn = r.parked();
    user who;
    r.pass(seconds{8});
    REQUIRE(r.take(who) == &conn);

    r.pass(seconds{60});
    CHECK(r.conns.live_count() == 1);
    r.pool.park(conn, r.key, rest);
    r.pass(seconds{8});
    CHECK(r.pool.idle_count() == 1);
    r.pass(seconds{4});

    CHECK(r.ended(end_cause::idle_age) == 1);
}

TEST_CASE("parking cancels the deadline of the user before") {
    static int fired;
    fired = 0;
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.arm(r.loop.now() + seconds{1}, [](timer&, time_point) noexcept { fired++; });

    r.pool.park(conn, r.key, rest);
    r.pass(seconds{5});

    CHECK(fired == 0);
    CHECK(r.pool.idle_count() == 1);
}

TEST_CASE("a connection that was opened too long ago is not parked") {
    idle_rig r({.lifetime_max = seconds{60}});
    pair first = tcp_pair(), second = tcp_pair();
    user who;
    connection& a = r.serve(std::move(first.b), who);
    connection& b = r.serve(std::move(second.b), who);

    r.pass(seconds{60} - milliseconds{1});
    CHECK(r.pool.park(a, r.key, rest) == verdict::keep);
    r.pass(milliseconds{1});
    CHECK(r.pool.park(b, r.key, rest) == verdict::gone);

    CHECK(r.ended(end_cause::idle_worn) == 1);
    CHECK(r.conns.live_count() == 1);
}

TEST_CASE("a connection that was used too often is not parked") {
    idle_rig r({.uses_max = 2});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.count_use();
    CHECK(r.pool.park(conn, r.key, rest) == verdict::keep);
    REQUIRE(r.take(who) == &conn);

    conn.count_use();
    CHECK(r.pool.park(conn, r.key, rest) == verdict::gone);

    CHECK(r.ended(end_cause::idle_worn) == 1);
}

// --- what is learned

TEST_CASE("a server that closes its idle connections teaches a safe age: the shortest seen, less a fifth") {
    idle_rig r({.age_max = seconds{100}});
    CHECK(r.pool.safe_age(r.key) == duration::max());
    auto closes_after = [&](duration age) {
        connection& conn = r.parked();
        r.pass(age);
        r.peer().close();
        REQUIRE(end_arrived(conn));
        r.turn();
    };

    closes_after(seconds{10});
    CHECK(r.pool.safe_age(r.key) == seconds{8});
    closes_after(seconds{20});
    CHECK(r.pool.safe_age(r.key) == seconds{8});
    closes_after(seconds{5});

    CHECK(r.pool.safe_age(r.key) == seconds{4});
    CHECK(r.pool.safe_age(r.pool.key_of(server(81))) == duration::max());
}

TEST_CASE("a reset, an eviction and an age of ours teach nothing") {
    idle_rig r({.idle_max = 1, .age_max = seconds{10}});
    connection& conn = r.parked();
    r.pass(seconds{2});
    reset(r.peer());
    REQUIRE(end_arrived(conn));
    r.turn();
    r.parked();
    r.pass(seconds{3});
    r.parked();
    r.pass(seconds{20});

    CHECK(r.ended(end_cause::idle_evicted) == 1);
    CHECK(r.ended(end_cause::idle_age) == 1);
    CHECK(r.pool.safe_age(r.key) == duration::max());
}

TEST_CASE("of a reset that a drain meets before the poller tells of it nothing is learned" *
          not_over_records{"the family drains"}) {
    for (const bool by_take : {false, true}) {
        CAPTURE(by_take);
        idle_rig r({.on_bytes = unsolicited::drain, .probe = by_take});
        connection& conn = r.parked();
        r.pass(seconds{1});
        user who;
        if (by_take) {
            // Bytes for the probe, and the reset for the drain behind it, which the family stands for here.
            static ctrl family;
            family = tcp;
            family.drain = [](int, std::size_t) noexcept { return drain_result{.end = drained::failed, .bytes = 1}; };
            pair ends = tcp_pair();
            connection& other = r.serve(std::move(ends.b), who, family);
            r.pool.park(other, r.key, rest);
            send_all(ends.a.get(), "x");
            REQUIRE(arrived(other));
            CHECK(r.take(who) == &conn);
        } else {
            reset(r.peer());
            REQUIRE(wait_for(conn.fd(), POLLERR));
            r.loop.fds().may_recv(conn.slot());
            conn.cb().recv(conn); // as if the report were still to come
        }

        CHECK(r.ended(end_cause::idle_peer_failed) == 1);
        CHECK(r.ended(end_cause::idle_peer_closed) == 0);
        CHECK(r.pool.safe_age(r.key) == duration::max());
    }
}

TEST_CASE("a connection that outlived what was learned raises it") {
    idle_rig r({.age_max = seconds{100}});
    connection& conn = r.parked();
    r.pass(seconds{5});
    r.peer().close();
    REQUIRE(end_arrived(conn));
    r.turn();
    CHECK(r.pool.safe_age(r.key) == seconds{4});
    r.parked();
    r.pass(seconds{10});
    user who;

    CHECK(r.take(who) != nullptr);

    CHECK(r.pool.safe_age(r.key) == seconds{8});
}

TEST_CASE("a connection that outlived what was learned raises it even if nobody ever took it") {
    idle_rig r({.idle_max = 1, .age_max = seconds{100}});
    connection& conn = r.parked();
    r.pass(milliseconds{2});
    r.peer().close();
    REQUIRE(end_arrived(conn));
    r.turn();
    CHECK(r.pool.safe_age(r.key) < milliseconds{2});
    r.parked();
    r.pass(seconds{10});

    r.pool.flush();

    CHECK(r.pool.safe_age(r.key) == seconds{8});
}

TEST_CASE("a taker that needs a young connection gets none that is older") {
    idle_rig r({.age_max = seconds{100}});
    connection& old = r.parked();
    r.pass(seconds{5});
    connection& young = r.parked();
    r.pass(seconds{1});
    user who;
    auto take = [&](duration age_max) { return r.pool.take(r.key, user::table, &who, {.age_max = age_max}); };

    CHECK(take(milliseconds{999}) == nullptr);
    CHECK(take(seconds{1}) == &young);
    CHECK(take(seconds{1}) == nullptr);
    CHECK(r.pool.idle_count() == 1); // nothing was closed for that
    CHECK(take(seconds{6}) == &old);
}

} // namespace
