// idle: a connection that rests is not handed out, and is watched all the same.

#include "core/idle.hpp"

#include "support/idle_rig.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::send_all, over_records::shut_write;

constexpr duration ten = milliseconds{10};

TEST_CASE("a connection is not taken while it rests, and is the first one afterwards") {
    idle_rig r;
    connection& older = r.parked();
    connection& resting = r.parked(idle_pool::park_options{.rest = ten});
    connection& other = r.parked();
    user who;

    r.clock.advance(ten - milliseconds{1});
    r.turn();
    CHECK(r.take(who) == &other);
    CHECK(r.take(who) == &older);
    CHECK(r.take(who) == nullptr);
    CHECK(r.pool.idle_count() == 1);

    r.clock.advance(milliseconds{1});
    r.turn();
    CHECK(r.take(who) == &resting);
    CHECK(r.take(who) == nullptr);
    CHECK(r.pool.idle_count() == 0);
}

TEST_CASE("those whose rest is over are taken before those parked without one") {
    idle_rig r;
    connection& first = r.parked(idle_pool::park_options{.rest = ten});
    connection& second = r.parked(idle_pool::park_options{.rest = ten});
    connection& plain = r.parked();
    user who;

    r.clock.advance(ten);
    r.turn();

    CHECK(r.take(who) == &second);
    CHECK(r.take(who) == &first);
    CHECK(r.take(who) == &plain);
}

TEST_CASE("bytes, an end and the age find a connection that rests") {
    for (const end_cause cause : {end_cause::idle_unsolicited, end_cause::idle_peer_closed, end_cause::idle_age}) {
        INFO(to_string(cause));
        idle_rig r({.age_max = milliseconds{5}});
        listening_owner owner;
        r.parked({.owner = &owner, .rest = seconds{1}});

        if (cause == end_cause::idle_unsolicited) send_all(r.peer().get(), "x");
        if (cause == end_cause::idle_peer_closed) shut_write(r.peer().get());
        if (cause == end_cause::idle_age) r.clock.advance(milliseconds{6});
        CHECK(r.until([&] { return owner.told_count > 0; }));

        CHECK(owner.cause == cause);
        CHECK(r.pool.idle_count() == 0);
        user who;
        r.clock.advance(seconds{1});
        r.turn();
        CHECK(r.take(who) == nullptr);
    }
}

TEST_CASE("bytes that came in the turn in which a rest ends are seen before the connection is handed out") {
    idle_rig r;
    r.parked(idle_pool::park_options{.rest = ten});
    r.clock.advance(ten);
    send_all(r.peer().get(), "late");
    r.turn();
    user who;

    CHECK(r.take(who) == nullptr);
    CHECK(r.ended(end_cause::idle_unsolicited) == 1);
}

TEST_CASE("a full key evicts its oldest one, resting ones when no other is left") {
    listening_owner plain, first, second;
    idle_rig r({.idle_max = 10, .idle_per_key_max = 2});
    r.parked({.owner = &plain});
    r.parked({.owner = &first, .rest = ten});

    r.parked({.owner = &second, .rest = ten});
    CHECK(plain.cause == end_cause::idle_evicted);
    CHECK(first.told_count == 0);

    r.parked(idle_pool::park_options{.rest = ten});
    CHECK(first.cause == end_cause::idle_evicted);
    CHECK(second.told_count == 0);
    CHECK(r.pool.idle_count() == 2);
    CHECK(r.sums_hold());
}

TEST_CASE("a connection that rests can be taken back by its owner, killed and flushed") {
    idle_rig r;
    user who;
    connection& mine = r.parked(idle_pool::park_options{.rest = ten});
    CHECK(r.pool.take_back(mine, user::table, &who));

    r.parked(idle_pool::park_options{.rest = ten});
    CHECK(r.pool.kill_oldest(end_cause::idle_pressure));
    r.parked(idle_pool::park_options{.rest = ten});
    CHECK(r.pool.kill_oldest(r.key, end_cause::idle_pressure));
    CHECK(!r.pool.kill_oldest(r.key, end_cause::idle_pressure));
    r.parked(idle_pool::park_options{.rest = ten});
    r.pool.flush();
    CHECK(r.pool.idle_count() == 0);
    CHECK(r.ended(end_cause::idle_flushed) == 1);
    CHECK(r.sums_hold());
}

} // namespace
