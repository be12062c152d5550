#include "core/timers.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "support/counting.hpp"
#include "support/dies.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::dies;

constexpr time_point start{std::chrono::hours{1}};
constexpr std::uint32_t no_limit = ~0u;

struct bell : timer {
    std::function<void(time_point)> act;
    int fires = 0;
    time_point fired_at{};

    explicit bell(std::function<void(time_point)> what = {}) : act(std::move(what)) {
        fire = [](timer& self, time_point now) noexcept {
            auto& me = static_cast<bell&>(self);
            me.fires++;
            me.fired_at = now;
            if (me.act) me.act(now);
        };
    }
};

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

TEST_CASE("a timer that dies armed, or cannot fire, is a mistake") {
    timers wheel(start);

    CHECK(dies([&] {
              bell t;
              wheel.arm(t, start);
          },
               "!linked()"));
    CHECK(dies([&] {
              timer t;
              wheel.arm(t, start);
          },
               "t.fire != nullptr"));
}

// --- many

// Scenario 28.
TEST_CASE("100000 timers of one tick fire in runs of the budget, each once") {
    constexpr int count = 100'000;
    constexpr std::uint32_t budget = 512;
    timers wheel(start);
    auto all = std::make_unique<timer[]>(count);
    static int fires;
    fires = 0;
    for (int i = 0; i < count; i++) {
        all[static_cast<std::size_t>(i)].fire = [](timer&, time_point) noexcept { fires++; };
        wheel.arm(all[static_cast<std::size_t>(i)], start + 70s);
    }
    const time_point now = start + 71s;

    int runs = 0;
    for (int fired_before = -1; fires != fired_before && runs < 1000; runs++) {
        fired_before = fires;
        const bool due = wheel.next() <= now;
        const auto fired = wheel.run(now, budget);
        CHECK(fired <= budget);
        CHECK(due == (fired > 0));
    }

    CHECK(fires == count);
    CHECK(runs == (count + budget - 1) / budget + 1);
    CHECK(wheel.next() == never);
}

TEST_CASE("what the budget left fires in the next run, without time going on") {
    timers wheel(start);
    bell a, b, c;
    for (bell* t : {&a, &b, &c})
        wheel.arm(*t, start + 1ms);

    const auto first = wheel.run(start + 1ms, 2);
    const auto left = wheel.next();

    CHECK(first == 2);
    CHECK(left <= start + 1ms);
    CHECK(wheel.run(start + 1ms, 2) == 1);
    CHECK(wheel.next() == never);
}

TEST_CASE("a budget of nothing fires nothing, and the wheel goes on all the same") {
    timers wheel(start);
    bell t;
    wheel.run(start + 1h, 0);
    wheel.arm(t, start + 1h + 1ms);

    CHECK(wheel.run(start + 1h + 1ms, 0) == 0);
    CHECK(wheel.run(start + 1h + 1ms, 1) == 1);
}

// --- when to look next

TEST_CASE("nothing armed is next never") {
    timers wheel(start);

    CHECK(wheel.next() == never);
}

TEST_CASE("following next() reaches a timer in a few hops") {
    for (const duration delay : {duration{1ms}, duration{100ms}, duration{30s}, duration{1h}, duration{24h}}) {
        CAPTURE(delay.count());
        timers wheel(start);
        bell t;
        wheel.arm(t, start + delay);

        int hops = 0;
        for (; hops < 100 && t.fires == 0; hops++) {
            const time_point next = wheel.next();
            CHECK(next <= start + delay);
            wheel.run(next, no_limit);
        }

        CHECK(t.fires == 1);
        CHECK(t.fired_at == start + delay);
        CHECK(hops <= 4 + delay / 4h);
    }
}

TEST_CASE("a cancelled timer wakes nobody") {
    timers wheel(start);
    bell early, late;
    wheel.arm(early, start + 5ms);
    wheel.arm(late, start + 40ms);

    early.cancel();

    CHECK(wheel.next() == start + 40ms);
    late.cancel();
}

TEST_CASE("arming, pushing, cancelling and firing allocate nothing") {
    timers wheel(start);
    timer t([](timer&, time_point) noexcept {});
    const auto before = support::allocation_count();

    for (int i = 1; i < 1000; i++) {
        wheel.arm(t, start + milliseconds{i * 3});
        wheel.arm(t, start + milliseconds{i * 50});
        if (i % 3 == 0) t.cancel();
        wheel.run(start + milliseconds{i * 10}, no_limit);
    }
    t.cancel();

    CHECK(support::allocation_count() == before);
}

// --- against a model

// Each timer's deadline in a plain array, looked through from end to end.
struct modelled : timer {
    std::uint64_t due = 0; // the tick of the first run that may fire it
    bool armed_in_model = false;
    int fires = 0;
    std::vector<modelled*>* fired = nullptr;
};

TEST_CASE("a random life fires what the model fires, when the model fires it") {
    const char* given = std::getenv("WEIR_SEED");
    const auto seed = given ? std::strtoul(given, nullptr, 0) : std::random_device{}();
    INFO("WEIR_SEED=", seed);
    std::mt19937_64 dice(seed);
    auto roll = [&](std::uint64_t sides) { return dice() % sides; };

    for (int round = 0; round < 20; round++) {
        timers wheel(start);
        std::vector<modelled> all(50);
        std::vector<modelled*> fired;
        for (modelled& t : all) {
            t.fired = &fired;
            t.fire = [](timer& self, time_point) noexcept {
                auto& me = static_cast<modelled&>(self);
                me.fired->push_back(&me);
            };
        }
        duration now{0};
        // Deadlines of every length, those near the wheel's own borders more often.
        auto some_time = [&]() -> duration {
            static constexpr std::uint64_t borders[] = {1, 2, 63, 64, 65, 4095, 4096, 262'144, 16'777'215, 16'777'216, 40'000'000};
            const auto unit = milliseconds{borders[roll(std::size(borders))]};
            const duration length = roll(2) ? duration{roll(static_cast<std::uint64_t>(duration{unit}.count()) + 1)} : duration{unit};
            return length + duration{roll(3)} - duration{1};
        };
        auto tick_after = [](duration d) { // rounded up
            return d <= 0ns ? std::uint64_t{0} : static_cast<std::uint64_t>((d + 999'999ns) / 1ms);
        };

        for (int step = 0; step < 2000; step++) {
            modelled& t = all[roll(all.size())];
            switch (roll(10)) {
            case 0:
                t.cancel();
                t.armed_in_model = false;
                break;
            case 1:
            case 2:
            case 3: { // time goes on: by one tick, or by anything
                now += roll(2) ? duration{1ms} : std::max(duration{0}, some_time());
                fired.clear();
                const auto tick = static_cast<std::uint64_t>(now / 1ms);
                const auto count = wheel.run(start + now, no_limit);

                std::vector<modelled*> expected;
                for (modelled& m : all)
                    if (m.armed_in_model && m.due <= tick) {
                        expected.push_back(&m);
                        m.armed_in_model = false;
                    }
                REQUIRE(count == expected.size());
                REQUIRE(std::is_permutation(fired.begin(), fired.end(), expected.begin(), expected.end()));
                const bool in_order = std::is_sorted(fired.begin(), fired.end(),
                                                     [](modelled* a, modelled* b) { return a->due < b->due; });
                REQUIRE(in_order);
                break;
            }
            default: {
                const duration deadline = now + some_time() - (roll(8) ? duration{} : some_time());
                wheel.arm(t, start + deadline);
                t.due = std::max(tick_after(deadline), static_cast<std::uint64_t>(now / 1ms) + 1);
                t.armed_in_model = true;
            }
            }

            std::uint64_t first = ~std::uint64_t{0};
            for (const modelled& m : all) {
                REQUIRE(m.armed() == m.armed_in_model);
                if (m.armed_in_model) first = std::min(first, m.due);
            }
            const time_point next = wheel.next();
            if (first == ~std::uint64_t{0}) REQUIRE((next == never));
            else REQUIRE((next <= start + milliseconds{first}));
        }
        for (modelled& t : all)
            t.cancel();
    }
}

TEST_CASE("with any budget everything fires once and in the end, and never early") {
    const char* given = std::getenv("WEIR_SEED");
    const auto seed = given ? std::strtoul(given, nullptr, 0) : std::random_device{}();
    INFO("WEIR_SEED=", seed);
    std::mt19937_64 dice(seed);
    auto roll = [&](std::uint64_t sides) { return dice() % sides; };
    struct counted : timer {
        time_point deadline;
        int fires = 0, early = 0;
    };

    for (int round = 0; round < 50; round++) {
        timers wheel(start);
        std::vector<counted> all(300);
        for (counted& t : all) {
            t.deadline = start + milliseconds{roll(300)} + duration{roll(1'000'000)};
            t.fire = [](timer& self, time_point now) noexcept {
                auto& me = static_cast<counted&>(self);
                me.fires++;
                me.early += now < me.deadline;
            };
            wheel.arm(t, t.deadline);
        }

        time_point now = start;
        const auto budget = static_cast<std::uint32_t>(1 + roll(20));
        for (int run = 0; run < 10'000 && wheel.next() != never; run++) {
            now += milliseconds{roll(3)};
            CHECK(wheel.run(now, budget) <= budget);
            counted& t = all[roll(all.size())];
            if (t.armed() && roll(4) == 0) wheel.arm(t, t.deadline += milliseconds{roll(20)});
        }

        for (counted& t : all) {
            CHECK(t.fires == 1);
            CHECK(t.early == 0);
        }
    }
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

TEST_CASE("a random precise life fires what the model fires, and next() is never too late") {
    const char* given = std::getenv("WEIR_SEED");
    const auto seed = given ? std::strtoul(given, nullptr, 0) : std::random_device{}();
    INFO("WEIR_SEED=", seed);
    std::mt19937_64 dice(seed);
    auto roll = [&](std::uint64_t sides) { return dice() % sides; };
    struct exact : timer {
        time_point due{never};
        int fires = 0, expected = 0;
    };

    for (int round = 0; round < 20; round++) {
        timers wheel(start, precise);
        std::vector<exact> all(20);
        for (exact& t : all)
            t.fire = [](timer& self, time_point) noexcept { static_cast<exact&>(self).fires++; };
        time_point now = start;
        const duration spans[] = {10us, 1ms, 2ms, 64ms, 5s, 300s};
        for (int step = 0; step < 1500; step++) {
            exact& t = all[roll(all.size())];
            const auto span = static_cast<std::uint64_t>(spans[roll(std::size(spans))].count());
            if (roll(8) == 0) {
                t.cancel();
                t.due = never;
            } else if (roll(2) == 0) {
                t.due = std::max(now + duration{roll(span)}, now + 1ns);
                wheel.arm(t, t.due);
            } else {
                const time_point next = wheel.next();
                const bool follows = roll(2) != 0 && next != never;
                now = follows ? std::max(now, next) : now + duration{roll(span)};
                wheel.run(now, no_limit);
                for (exact& m : all)
                    if (m.due <= now) {
                        m.expected++;
                        m.due = never;
                    }
            }
            time_point first = never;
            for (const exact& m : all) {
                REQUIRE(m.fires == m.expected);
                first = std::min(first, m.due);
            }
            REQUIRE((wheel.next() <= first));
        }
        for (exact& t : all)
            t.cancel();
    }
}

} // namespace
