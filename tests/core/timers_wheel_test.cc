// timers: many deadlines, when to look next, and random lives beside a model's.

#include "core/timers.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "support/actors.hpp"
#include "support/counting.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::bell;

constexpr time_point start{std::chrono::hours{1}};
constexpr std::uint32_t no_limit = ~0u;
constexpr auto precise = timers::manner::precise;

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
