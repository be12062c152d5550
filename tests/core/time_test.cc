#include "core/time.hpp"

#include <chrono>
#include <type_traits>

#include <doctest/doctest.h>

namespace {

using namespace weir;
using namespace std::chrono_literals;

TEST_CASE("a fake clock stands still until it is moved") {
    fake_clock clock;

    const time_point first = clock.now(clock);

    CHECK(clock.now(clock) == first);
    clock.advance(5ms);
    CHECK(clock.now(clock) == first + 5ms);
    CHECK(clock.now(clock) == clock.at);
}

TEST_CASE("a fake clock is read through the base that a loop holds") {
    fake_clock fake;
    const weir::clock& clock = fake;

    fake.advance(2s);

    CHECK(clock.is_fake);
    CHECK(clock.now(clock) == fake.at);
}

TEST_CASE("a copy of a fake clock is moved by itself") {
    fake_clock clock;
    fake_clock copy = clock;

    copy.advance(1s);

    CHECK(copy.now(copy) == clock.now(clock) + 1s);
}

TEST_CASE("a fake clock starts away from zero, so that a deadline may lie before it") {
    const fake_clock clock;

    CHECK(clock.at > time_point{});
    CHECK(clock.at - 1h >= time_point{});
}

TEST_CASE("never is later than any deadline") {
    const fake_clock clock;

    CHECK(never > clock.at + std::chrono::years(200));
    CHECK(never == time_point::max());
}

TEST_CASE("a wait is over so much later, and one beyond all time never") {
    const fake_clock clock;
    const duration rest = never - clock.at;

    CHECK(later(clock.at, 0ns) == clock.at);
    CHECK(later(clock.at, 5s) == clock.at + 5s);
    CHECK(later(clock.at, rest - 1ns) == never - 1ns);
    CHECK(later(clock.at, rest) == never);
    CHECK(later(clock.at, rest + 1ns) == never);
    CHECK(later(clock.at, duration::max()) == never);
    CHECK(later(time_point{}, duration::max()) == never);
}

TEST_CASE("a monotonic time is of no other clock") {
    static_assert(!std::is_convertible_v<std::chrono::steady_clock::time_point, time_point>);
    static_assert(std::is_same_v<time_point::duration, duration>, "spans and points have the same grain");
    static_assert(std::is_same_v<duration, std::chrono::nanoseconds>);
}

} // namespace
