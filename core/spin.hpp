#pragma once
// spin: how long a loop looks for work before it sleeps. Pure arithmetic; the looking itself is the loop's.
//
// To be woken costs 2 us on metal and 20 to 50 us on a virtual machine whose processor was halted; to be found awake
// costs 0.05 us. So whoever is about to get work should stay awake a little, and whoever is not should not burn a
// processor. Nobody knows which; what was the case the last times is the best guess:
//
//                    found: twice as long, at most max
//                              ┌─────┐
//                              │     v      in vain: half as long
//     off ──(every 16th sleep: │ spinning ─────┐
//      ^      max)───found──> max   ^          │
//      │                            └──────────┤
//      └──────── in vain, below 1 us ──────────┘
//
// Down to off it takes at most 2 * max in all. From there on a try costs max every 16th sleep, whatever the load: a
// loop that sleeps 1,000 times a second and spins 50 us in vain burns 0.3 % of a processor. The try is as long as it
// may be, because a short one cannot find out that a longer one would pay; and one that paid need not be proven again.
// What ends a spin without deciding anything (a timer was due sooner) changes nothing.
//
// Owner: one event_loop. Thread: that loop's. Allocation: none.

#include <algorithm>
#include <cstdint>

#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL {

class spin_limit {
  public:
    static constexpr duration least = std::chrono::microseconds{1};
    static constexpr std::uint32_t sleeps_per_try = 16;

    // max 0: never spins. Begins as if the last one had paid.
    explicit spin_limit(duration max = {}) noexcept : max_(max), present_(max) {}

    // Of the sleep that is ahead: how long to look first. 0: not at all.
    duration ahead() noexcept {
        if (present_ > duration{} || max_ == duration{}) return present_;
        if (++sleeps_count_ % sleeps_per_try != 0) return {};
        return max_;
    }
    void found() noexcept { present_ = present_ > duration{} ? std::min(max_, 2 * present_) : max_; }
    void in_vain() noexcept {
        present_ = present_ / 2;
        if (present_ < least) present_ = {};
    }

    duration present() const noexcept { return present_; }

  private:
    duration max_, present_;
    std::uint32_t sleeps_count_ = 0; // while off
};

} // namespace weir::inline WEIR_KERNEL
