// loop: spinning before a sleep, sleeps that end at the nanosecond, and busy polling.

#include "core/loop.hpp"

#include <functional>

#include <doctest/doctest.h>

#include <sched.h>

#include "support/actors.hpp"
#include "support/loop_rig.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::note, support::reader, support::send_all, support::stream_pair;

// Goes on by a step whenever it is read, so that a spin ends by counting and not by the machine's speed; and lets the
// test act at a certain reading.
struct counted_clock : clock {
    explicit counted_clock(duration s = 1us)
        : clock{.now =
                    [](const clock& c) noexcept {
                        return const_cast<counted_clock&>(static_cast<const counted_clock&>(c)).read();
                    },
                .is_fake = false},
          step(s) {}
    time_point read() {
        reads++;
        at += step;
        if (on_read) on_read();
        return at;
    }

    duration step;
    time_point at{1h};
    std::uint64_t reads = 0;
    std::function<void()> on_read;
};

// A loop that spins by a counted clock. Where there is one processor there is nothing to test.
struct spinning {
    explicit spinning(std::uint32_t us_max, duration step = 1us) : clock(step) {
        REQUIRE(loop.open({.spin_us_max = us_max, .precise_timers = true, .time_source = &clock}).ok());
    }
    bool can() {
        if (!loop.spins()) MESSAGE("one processor: not tested");
        return loop.spins();
    }

    counted_clock clock;
    event_loop loop;
};

// --- spinning

TEST_CASE("a letter that comes while the loop spins is run in that turn, without a ring, a sleep or a call of epoll") {
    spinning s(1000);
    if (!s.can()) return;
    note n;
    s.loop.turn(0ns); // asks epoll
    const auto waits = s.loop.polls().wait_count();
    s.clock.on_read = [&, from = s.clock.reads] {
        if (s.clock.reads == from + 2) s.loop.post(n);
    };

    s.loop.turn(60s);

    CHECK(n.runs == 1);
    CHECK(s.loop.letters().ring_count() == 0);
    CHECK(s.loop.polls().wait_count() == waits);
    CHECK(s.loop.spin_count() == 1);
    CHECK(s.loop.spin_found_count() == 1);
}

TEST_CASE("bytes that come while the loop spins are found by asking epoll, before any sleep") {
    spinning s(1000);
    if (!s.can()) return;
    const auto ends = stream_pair();
    reader r;
    auto slot = s.loop.watch(ends.a.get(), interest::recv, reader::run, &r);
    REQUIRE(slot.ok());
    s.loop.fds().want_recv(*slot.value());
    s.clock.on_read = [&] {
        if (s.clock.reads == 5) send_all(ends.b.get(), "byte");
    };

    s.loop.turn(60s);

    CHECK(r.bytes == 4);
    CHECK(s.loop.spin_found_count() == 1);
    s.loop.fds().release(*slot.value());
}

TEST_CASE("spins in vain end in sleep, become shorter and cease, and are tried again every 16th sleep") {
    spinning s(8);
    if (!s.can()) return;

    for (int i = 0; i < 4; i++) // of 8, 4, 2 and 1 us
        s.loop.turn(1ms);
    const auto spins_first = s.loop.spin_count();
    for (int i = 0; i < 15; i++)
        s.loop.turn(1ms);
    const auto spins_between = s.loop.spin_count();
    s.loop.turn(1ms);

    CHECK(spins_first == 4);
    CHECK(spins_between == 4);
    CHECK(s.loop.spin_count() == 5);
    CHECK(s.loop.spin_found_count() == 0);
}

TEST_CASE("a spin lasts as long as its limit and no longer") {
    spinning s(100);
    if (!s.can()) return;

    s.loop.turn(1ms);

    // One reading per us, and one for the turn itself.
    CHECK(s.clock.reads >= 100);
    CHECK(s.clock.reads <= 105);
}

TEST_CASE("a spin is not longer than the sleep would be, and a timer that ends it says nothing against spinning") {
    spinning s(1000);
    if (!s.can()) return;
    struct alarm {
        timer t{[](timer& self, time_point) noexcept { container_of<&alarm::t>(self).rang = true; }};
        bool rang = false;
    } a;
    s.loop.turn(0ns);

    for (int i = 0; i < 20; i++) {
        a.rang = false;
        s.loop.arm_in(a.t, 200us);
        const time_point due = s.loop.now() + 200us;
        int turns = 0;
        for (; !a.rang && turns < 10; turns++)
            s.loop.turn(60s);
        CHECK(a.rang);
        CHECK(s.loop.now() >= due);
        CHECK(s.loop.now() <= due + 10us);
        a.t.cancel();
    }
    CHECK(s.loop.spin_count() == 20); // not one of them was spared
    CHECK(s.loop.spin_found_count() == 0);
}

TEST_CASE("a clock that stands still does not keep a spin from ending") {
    spinning s(50, 0ns);
    if (!s.can()) return;

    s.loop.turn(1ms);

    CHECK(s.loop.spin_count() == 1);
    CHECK(s.loop.spin_found_count() == 0);
}

TEST_CASE("letters that keep coming do not keep sockets waiting") {
    spinning s(1000);
    if (!s.can()) return;
    const auto ends = stream_pair();
    reader r;
    auto slot = s.loop.watch(ends.a.get(), interest::recv, reader::run, &r);
    REQUIRE(slot.ok());
    s.loop.fds().want_recv(*slot.value());
    s.loop.turn(0ns);
    note n;
    bool posted = false;
    n.act = [&] { posted = false; };
    s.clock.on_read = [&] {
        if (!std::exchange(posted, true)) s.loop.post(n);
    };
    send_all(ends.b.get(), "byte");

    int turns = 0;
    for (; r.bytes == 0 && turns < 100; turns++)
        s.loop.turn(60s);

    CHECK(r.bytes == 4);
    CHECK(turns <= 8); // of about 2 us each; epoll is asked after 5
    s.clock.on_read = {};
    s.loop.turn(0ns);
    s.loop.fds().release(*slot.value());
}

TEST_CASE("after a long turn a letter does not let timers fire before the sockets were asked") {
    spinning s(1000);
    if (!s.can()) return;
    const auto ends = stream_pair();
    reader r;
    auto slot = s.loop.watch(ends.a.get(), interest::recv, reader::run, &r);
    REQUIRE(slot.ok());
    s.loop.fds().want_recv(*slot.value());
    struct idle_timeout {
        timer t{[](timer& self, time_point) noexcept {
            auto& me = container_of<&idle_timeout::t>(self);
            me.fired_with = me.in->bytes;
        }};
        reader* in;
        int fired_with = -1;
    } timeout{.in = &r};
    s.loop.turn(0ns);
    s.loop.arm_in(timeout.t, 10ms);
    const time_point due = s.loop.now() + 10ms;
    note second, first([&] {
        send_all(ends.b.get(), "byte");
        s.clock.at = due - 2us; // so long did it take
        s.clock.on_read = [&] { // while the loop looks how long it may sleep
            s.loop.post(second);
            s.clock.on_read = {};
        };
    });
    s.loop.post(first);

    for (int turns = 0; timeout.fired_with < 0 && turns < 5; turns++)
        s.loop.turn(60s);

    CHECK(second.runs == 1);
    CHECK(timeout.fired_with == 4);
    s.loop.fds().release(*slot.value());
}

TEST_CASE("a loop that may not spin, or has a fake clock, does not") {
    event_loop plain;
    REQUIRE(plain.open().ok());
    fake_clock still;
    event_loop fake;
    REQUIRE(fake.open({.spin_us_max = 1000, .time_source = &still}).ok());

    plain.turn(1ms);
    fake.turn(1ms);

    CHECK_FALSE(plain.spins());
    CHECK(plain.spin_count() == 0);
    CHECK(fake.spin_count() == 0);
}

TEST_CASE("where only one processor may be used spinning is off") {
    cpu_set_t was, one;
    REQUIRE(sched_getaffinity(0, sizeof was, &was) == 0);
    int first = 0;
    while (!CPU_ISSET(static_cast<std::size_t>(first), &was))
        first++;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(first), &one);
    event_loop loop;

    sched_setaffinity(0, sizeof one, &one);
    const bool opened = loop.open({.spin_us_max = 1000}).ok();
    const bool spins = loop.spins();
    loop.turn(1ms);
    sched_setaffinity(0, sizeof was, &was);

    CHECK(opened);
    CHECK_FALSE(spins);
    CHECK(loop.spin_count() == 0);
}

// --- precise sleeps

TEST_CASE("a precise loop fires no timer early, and sleeps by epoll_pwait2 where there is one") {
    event_loop loop;
    REQUIRE(loop.open({.precise_timers = true}).ok());
    struct alarm {
        timer t{[](timer& self, time_point now) noexcept { container_of<&alarm::t>(self).rang_at = now; }};
        time_point rang_at{};
    } a;
    const auto waits = loop.polls().wait_count();

    for (int i = 1; i <= 20; i++) {
        a.rang_at = {};
        const time_point due = sys::now() + 100us + i * 37us;
        loop.arm(a.t, due);
        for (int turns = 0; a.rang_at == time_point{} && turns < 100; turns++)
            loop.turn(30s);
        CHECK(a.rang_at >= due);
    }

    const auto imprecise = loop.polls().imprecise_count();
    CHECK((imprecise == 0 || imprecise == loop.polls().wait_count() - waits));
}

TEST_CASE("a precise loop on a counted clock takes its timers at their deadline, not at their millisecond's end") {
    fake_clock still;
    event_loop loop;
    REQUIRE(loop.open({.precise_timers = true, .time_source = &still}).ok());
    struct alarm {
        timer t{[](timer& self, time_point) noexcept { container_of<&alarm::t>(self).rang = true; }};
        bool rang = false;
    } a;
    loop.turn(0ns);
    loop.arm_in(a.t, 10'300'001ns);

    still.advance(10'300'000ns);
    loop.turn(0ns);
    const bool early = a.rang;
    still.advance(1ns);
    loop.turn(0ns);

    CHECK_FALSE(early);
    CHECK(a.rang);
}

TEST_CASE("busy polling is on exactly where the kernel has it") {
    event_loop loop, without, refused;
    REQUIRE(loop.open({.busy_poll = {.usecs = 50}}).ok());
    REQUIRE(without.open().ok());
    REQUIRE(refused.open({.busy_poll = {.usecs = UINT32_MAX}}).ok());
    const int epoll_fd = sys::epoll_open();
    REQUIRE(epoll_fd >= 0);

    const int answer = sys::epoll_busy_poll(epoll_fd, {.usecs = 50});
    sys::close(epoll_fd);

    CHECK(loop.busy_polls() == (answer == 0));
    CHECK((answer == 0 || answer == -ENOTTY || answer == -EINVAL || answer == -EOPNOTSUPP || answer == -EPERM));
    CHECK_FALSE(without.busy_polls());
    CHECK_FALSE(refused.busy_polls());
}

} // namespace
