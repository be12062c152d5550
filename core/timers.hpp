#pragma once
// timers: a hierarchical wheel of intrusive nodes. Arm and cancel are O(1); pushing a deadline later is one store.
//
// Four levels of 64 slots: 1 ms, 64 ms, 4 s and 4.4 min wide. A node lies in the slot of its tick; when time reaches
// a slot of a higher level, its nodes fall to the levels below. A deadline that was pushed later leaves the node where
// it is: reached too early, it is put where it belongs. A deadline beyond the horizon (4.6 h) does the same.
//
//     arm ──> in a slot ──(its tick)──> due ──> fire(): unlinked first, so it may arm itself or die
//                 └────────── cancel ────┘
//
// Never early: a deadline is rounded up to the next tick, the time down. So a timer fires within [T, T + 1 ms] of
// the loop looking, later only by what a turn's budget left for the next.
//
// Owner of a node: whoever embeds it; it must be cancelled before it dies (checked by its hook).
// Thread: one loop's. Allocation: none.

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/list.hpp"
#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL {

struct timer {
    using callback = void (*)(timer& self, time_point now) noexcept;

    list_hook hook;         // in a slot of the wheel, or among the due
    std::uint64_t tick = 0; // when to fire, in ms since the wheel's start; later than its slot once pushed
    callback fire = nullptr;

    timer() noexcept = default;
    explicit timer(callback on_fire) noexcept : fire(on_fire) {}

    bool armed() const noexcept { return hook.linked(); }
    void cancel() noexcept { hook.unlink(); }
};
static_assert(sizeof(timer) <= 32, "a timer is half a cache line");

class timers {
  public:
    explicit timers(time_point start) noexcept : start_(start) {}
    timers(const timers&) = delete;
    timers& operator=(const timers&) = delete;

    // (Re)arms: fire() once `deadline` is reached. `t.fire` is set. A deadline in the past fires with the next tick, so
    // never in the run that is under way.
    void arm(timer& t, time_point deadline) noexcept {
        EXPECT(t.fire != nullptr);
        const std::uint64_t tick = std::max(tick_after(deadline), floor_);
        if (t.armed() && tick >= t.tick) {
            t.tick = tick; // it re-places itself when its slot is reached
            return;
        }
        t.hook.unlink();
        t.tick = tick;
        place(t);
    }

    // Fires what is due at `now`, at most `budget` timers; more stay due for the next run. Returns how many fired.
    std::uint32_t run(time_point now, std::uint32_t budget) noexcept;

    // The earliest time at which run() may have something to do; `never` if no timer is armed. It may be too early
    // (a slot of a higher level has to fall, a deadline was pushed), never too late.
    time_point next() noexcept;

  private:
    static constexpr unsigned level_bits = 6;
    static constexpr unsigned level_count = 4;
    static constexpr std::uint64_t slot_count = std::uint64_t{1} << level_bits;
    static constexpr std::uint64_t horizon = std::uint64_t{1} << level_bits * level_count;

    using slot = list<&timer::hook>;

    std::uint64_t tick_after(time_point deadline) const noexcept {
        if (deadline <= start_) return 0;
        const duration since = deadline - start_;
        constexpr duration grain = milliseconds{1};
        return static_cast<std::uint64_t>(since / grain) + (since % grain != duration{});
    }

    void place(timer& t) noexcept;
    void let_fall(unsigned level) noexcept;
    std::uint64_t next_stop() const noexcept;

    time_point start_;
    std::uint64_t current_ = 0;                         // every slot up to this tick has been looked at
    std::uint64_t floor_ = 1;                           // the first tick behind the latest run: > current_
    std::array<std::uint64_t, level_count> occupied_{}; // per level, one bit per slot that may hold a node
    std::array<std::array<slot, slot_count>, level_count> wheel_;
    slot due_; // reached; fired as the budget allows
};

} // namespace weir::inline WEIR_KERNEL
