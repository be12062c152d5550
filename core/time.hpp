#pragma once
// time: points and spans of monotonic time, and where "now" comes from.
//
// Time is passed in, never asked for: only the loop reads a clock, once per turn. Deadlines are absolute time_points,
// waits are durations. A fake_clock stands still until a test moves it; a loop on a fake clock never sleeps.

#include <chrono>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL {

using std::chrono::milliseconds;
using std::chrono::seconds;

// The kernel's CLOCK_MONOTONIC, as a std::chrono clock tag. It has no now(): see clock.
struct monotonic {
    using rep = std::chrono::nanoseconds::rep;
    using period = std::chrono::nanoseconds::period;
    using duration = std::chrono::nanoseconds;
    using time_point = std::chrono::time_point<monotonic>;
    static constexpr bool is_steady = true;
};
using duration = monotonic::duration;
using time_point = monotonic::time_point;

// Later than every real deadline.
inline constexpr time_point never = time_point::max();

// The deadline of a wait that begins at `now`, zero or later. A wait beyond what a time_point can tell, duration::max()
// say, ends never: `now + wait` would lie in the past.
constexpr time_point later(time_point now, duration wait) noexcept { return wait < never - now ? now + wait : never; }

// Where a loop reads the time. The real one is sys::real_clock (sys.hpp).
struct clock {
    time_point (*now)(const clock&) noexcept;
    bool is_fake; // true: waiting in the kernel would not make this clock go on
};

// For tests: stands still until moved.
struct fake_clock : clock {
    fake_clock() noexcept
        : clock{.now = [](const clock& c) noexcept { return static_cast<const fake_clock&>(c).at; }, .is_fake = true} {}

    void advance(duration by) noexcept { at += by; }

    time_point at{std::chrono::hours{1}};
};

} // namespace weir::inline WEIR_KERNEL
