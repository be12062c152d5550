// timers: a deadline by itself, on a wheel of milliseconds and on a precise one: armed, pushed, cancelled, met.

#include "core/timers.hpp"

#include <chrono>
#include <memory>
#include <vector>

#include <doctest/doctest.h>

#include "support/actors.hpp"
#include "support/dies.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::bell, support::dies;

constexpr time_point start{std::chrono::hours{1}};
constexpr std::uint32_t no_limit = ~0u;

// --- one timer

TEST_CASE("a timer fires with the first tick at or after its deadline, and never before") {
    const duration delays[] = {0ns,    1ns,     1ms,        1ms + 1ns,  999'999ns, 63ms,      64ms,      65ms,    127ms,
                               4095ms, 4096ms,  4097ms,     1min,       262143ms,  262144ms,  262145ms,  1h,      16777215ms,
                               5h,     16777216ms, 16777217ms, 24h};
    for (const duration offset : {duration{0ns}, duration{1ns}, duration{37ms + 5us}, duration{4095ms}, duration{1h + 3ms}})
        for (const duration delay : delays) {
            CAPTURE(offset.count());
            CAPTURE(delay.count());
            timers wheel(start);
            wheel.run(start + offset, no_limit);
            const time_point deadline = start + offset + delay;
            bell t;

            wheel.arm(t, deadline);
            if (delay > 1ns) wheel.run(deadline - 1ns, no_limit);
            const int fired_early = t.fires;
            wheel.run(deadline + 1ms, no_limit);

            CHECK(fired_early == 0);
            CHECK(t.fires == 1);
            CHECK_FALSE(t.armed());
        }
}

TEST_CASE("a timer that is looked at every millisecond fires within one of its deadline") {
    timers wheel(start);
    bell t;
    const time_point deadline = start + 5h + 123us;
    wheel.run(start + 4h + 59min, no_limit);
    wheel.arm(t, deadline);

    time_point now = start + 4h + 59min;
    for (int step = 0; step < 61'000 && t.fires == 0; step++)
        wheel.run(now += 1ms, no_limit);

    CHECK(t.fires == 1);
    CHECK(t.fired_at >= deadline);
    CHECK(t.fired_at <= deadline + 1ms);
}

TEST_CASE("one jump over days fires all that lies in between, once, in the order of their ticks") {
    timers wheel(start);
    std::vector<int> order;
    std::vector<std::unique_ptr<bell>> bells;
    const duration delays[] = {72h, 1ms, 5h, 70ms, 24h, 5s, 10h, 1h, 4h + 39min + 37s + 216ms};
    for (int i = 0; i < 9; i++) {
        bells.push_back(std::make_unique<bell>([&order, i](time_point) { order.push_back(i); }));
        wheel.arm(*bells.back(), start + delays[i]);
    }

    const auto fired = wheel.run(start + 24h * 10, no_limit);

    CHECK(fired == 9);
    CHECK(order == std::vector{1, 3, 5, 7, 8, 2, 6, 4, 0});
}

TEST_CASE("a deadline in the past, or before the wheel began, fires with the next tick") {
    timers wheel(start);
    bell past, ancient;
    wheel.run(start + 1h, no_limit);

    wheel.arm(past, start + 59min);
    wheel.arm(ancient, start - 1min);
    const auto at_once = wheel.run(start + 1h, no_limit);

    CHECK(at_once == 0);
    CHECK(wheel.next() == start + 1h + 1ms);
    CHECK(wheel.run(start + 1h + 1ms, no_limit) == 2);
}

TEST_CASE("a timer that is cancelled does not fire, and cancelling twice or before arming does no harm") {
    timers wheel(start);
    bell t;

    t.cancel();
    wheel.arm(t, start + 10ms);
    t.cancel();
    t.cancel();

    CHECK_FALSE(t.armed());
    CHECK(wheel.run(start + 1h, no_limit) == 0);
    CHECK(wheel.next() == never);
}

TEST_CASE("never fires never") {
    timers wheel(start);
    bell t;

    wheel.arm(t, never);
    const auto fired = wheel.run(start + 24h * 365, no_limit);

    CHECK(fired == 0);
    CHECK(t.armed());
    t.cancel();
}

TEST_CASE("a clock that goes back fires nothing twice and nothing early") {
    timers wheel(start);
    bell t, later;
    wheel.arm(t, start + 10ms);
    wheel.arm(later, start + 20ms);

    wheel.run(start + 15ms, no_limit);
    wheel.run(start + 5ms, no_limit);
    wheel.run(start - 1h, no_limit);

    CHECK(t.fires == 1);
    CHECK(later.fires == 0);
    later.cancel();
}

// --- re-arming

TEST_CASE("a deadline that is pushed later moves nothing, and holds") {
    timers wheel(start);
    bell t, neighbour;
    wheel.arm(t, start + 10ms);
    wheel.arm(neighbour, start + 10ms);
    const auto* const prev = t.hook.prev;
    const auto* const next = t.hook.next;

    for (int ms = 11; ms < 500; ms++)
        wheel.arm(t, start + milliseconds{ms});
    const bool moved = t.hook.prev != prev || t.hook.next != next;
    wheel.run(start + 498ms, no_limit);
    const int early = t.fires;
    wheel.run(start + 499ms, no_limit);

    CHECK_FALSE(moved);
    CHECK(early == 0);
    CHECK(t.fires == 1);
    CHECK(neighbour.fires == 1);
}

TEST_CASE("a deadline that is pulled earlier holds") {
    timers wheel(start);
    bell t;
    for (const duration d : {duration{24h}, duration{1h}, duration{70ms}, duration{5ms}})
        wheel.arm(t, start + d);

    wheel.run(start + 4ms, no_limit);
    const int early = t.fires;
    wheel.run(start + 5ms, no_limit);
    wheel.run(start + 48h, no_limit);

    CHECK(early == 0);
    CHECK(t.fires == 1);
}

TEST_CASE("a deadline that was pushed later and is pulled back in part holds") {
    timers wheel(start);
    bell t;
    wheel.arm(t, start + 10ms);
    wheel.arm(t, start + 1h);
    wheel.arm(t, start + 5min);

    wheel.run(start + 5min - 1ms, no_limit);
    const int early = t.fires;
    wheel.run(start + 5min, no_limit);

    CHECK(early == 0);
    CHECK(t.fires == 1);
}

TEST_CASE("a timer that is due but not fired yet may be pushed later, or cancelled") {
    timers wheel(start);
    bell first, pushed, cancelled;
    for (bell* t : {&first, &pushed, &cancelled})
        wheel.arm(*t, start + 1ms);
    wheel.run(start + 1ms, 1);

    wheel.arm(pushed, start + 1h);
    cancelled.cancel();
    wheel.run(start + 59min, no_limit);
    const int early = pushed.fires;
    wheel.run(start + 1h, no_limit);

    CHECK(first.fires == 1);
    CHECK(early == 0);
    CHECK(pushed.fires == 1);
    CHECK(cancelled.fires == 0);
}

// --- from inside a fire

TEST_CASE("a timer may arm itself again") {
    timers wheel(start);
    bell t;
    t.act = [&](time_point now) { wheel.arm(t, now + 10ms); };
    wheel.arm(t, start + 10ms);

    for (int step = 1; step <= 100; step++)
        wheel.run(start + milliseconds{step}, no_limit);

    CHECK(t.fires == 10);
    t.cancel();
}

TEST_CASE("a timer armed in the past inside a fire does not fire in the same run, however far time jumped") {
    timers wheel(start);
    bell t;
    t.act = [&](time_point now) { wheel.arm(t, now - 1h); };
    wheel.arm(t, start + 1ms);

    const auto fired = wheel.run(start + 5h, no_limit);

    CHECK(fired == 1);
    CHECK(wheel.run(start + 5h + 1ms, no_limit) == 1);
    t.cancel();
}

TEST_CASE("a timer may cancel others that are due, and they do not fire") {
    timers wheel(start);
    bell second, third, first([&](time_point) {
        second.cancel();
        third.cancel();
    });
    wheel.arm(first, start + 1ms);
    wheel.arm(second, start + 1ms); // due together
    wheel.arm(third, start + 2ms);  // due later in the same run

    const auto fired = wheel.run(start + 10ms, no_limit);

    CHECK(fired == 1);
    CHECK(second.fires + third.fires == 0);
}

TEST_CASE("a timer may die in its own fire") {
    timers wheel(start);
    auto* t = new bell;
    bool died = false;
    t->act = [&](time_point) { died = true; };
    t->fire = [](timer& self, time_point now) noexcept {
        auto* me = static_cast<bell*>(&self);
        me->act(now);
        delete me;
    };
    wheel.arm(*t, start + 1ms);

    wheel.run(start + 1ms, no_limit);

    CHECK(died);
    CHECK(wheel.next() == never);
}

TEST_CASE("a timer that dies armed never fires, and one may outlive its wheel") {
    bell late;
    {
        timers wheel(start);
        {
            bell t;
            wheel.arm(t, start + 1ms);
        }
        CHECK(wheel.run(start + 10ms, no_limit) == 0);
        wheel.arm(late, start + 20ms);
    }
    CHECK_FALSE(late.armed());
}

TEST_CASE("a timer that cannot fire is a mistake") {
    timers wheel(start);

    CHECK(dies([&] {
              timer t;
              wheel.arm(t, start);
          },
               "t.fire != nullptr"));
}

// --- the precise wheel

constexpr auto precise = timers::manner::precise;

TEST_CASE("a precise timer fires at its deadline to the nanosecond, and never before") {
    const duration delays[] = {1ns,        999'999ns,     1ms,        1ms + 1ns,      63ms + 1ns, 64ms - 1ns, 64ms,
                               64ms + 1ns, 4096ms - 1ns,  4096ms + 5us, 262'144ms + 1ns, 1h + 1ns,   5h + 7ns};
    for (const duration offset : {duration{0ns}, duration{1ns}, duration{37ms + 5us}, duration{63ms + 999'999ns}})
        for (const duration delay : delays) {
            CAPTURE(offset.count());
            CAPTURE(delay.count());
            timers wheel(start, precise);
            wheel.run(start + offset, no_limit);
            const time_point deadline = start + offset + delay;
            bell t;

            wheel.arm(t, deadline);
            wheel.run(deadline - 1ns, no_limit);
            const int fired_early = t.fires;
            wheel.run(deadline, no_limit);

            CHECK(fired_early == 0);
            CHECK(t.fires == 1);
        }
}

TEST_CASE("next() of a precise wheel is the deadline itself, as soon as its slot is the next one") {
    timers wheel(start, precise);
    wheel.run(start + 100us, no_limit);
    bell near, later, cancelled;
    wheel.arm(near, start + 700us);
    wheel.arm(later, start + 5ms + 3ns);
    wheel.arm(cancelled, start + 2ms);
    cancelled.cancel();

    CHECK((wheel.next() == start + 700us));
    wheel.run(start + 700us, no_limit);
    CHECK((wheel.next() == start + 5ms + 3ns));
    wheel.run(start + 5ms, no_limit);
    CHECK((wheel.next() == start + 5ms + 3ns));
    wheel.run(start + 5ms + 3ns, no_limit);
    CHECK(near.fires + later.fires == 2);
    CHECK((wheel.next() == never));
}

TEST_CASE("a precise deadline that was pushed within or beyond its millisecond, or pulled into the present one, holds") {
    timers wheel(start, precise);
    wheel.run(start + 10ms, no_limit);
    bell within, beyond, pulled;
    wheel.arm(within, start + 10ms + 100us);
    wheel.arm(beyond, start + 10ms + 100us);
    wheel.arm(pulled, start + 1s);
    wheel.arm(within, start + 10ms + 300us);
    wheel.arm(beyond, start + 12ms + 1ns);
    wheel.arm(pulled, start + 10ms + 200us);

    wheel.run(start + 10ms + 199us, no_limit);
    const int too_early = within.fires + beyond.fires + pulled.fires;
    wheel.run(start + 10ms + 200us, no_limit);
    const int pulled_fires = pulled.fires;
    wheel.run(start + 10ms + 300us, no_limit);
    const int within_fires = within.fires;
    wheel.run(start + 12ms, no_limit);
    const int beyond_early = beyond.fires;
    wheel.run(start + 12ms + 1ns, no_limit);

    CHECK(too_early == 0);
    CHECK(pulled_fires == 1);
    CHECK(within_fires == 1);
    CHECK(beyond_early == 0);
    CHECK(beyond.fires == 1);
}

TEST_CASE("a precise timer armed in the past inside a fire waits until time has gone on") {
    timers wheel(start, precise);
    bell second, first([&](time_point now) { wheel.arm(second, now - 1ms); });
    wheel.arm(first, start + 500us);

    wheel.run(start + 600us, no_limit);
    wheel.run(start + 600us, no_limit);
    const int fired_at_once = second.fires;
    wheel.run(start + 600us + 1ns, no_limit);

    CHECK(first.fires == 1);
    CHECK(fired_at_once == 0);
    CHECK(second.fires == 1);
}

} // namespace
