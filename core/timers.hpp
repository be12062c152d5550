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
// Never early. The plain wheel rounds a deadline up to the next tick: a timer fires within [T, T + 1 ms] of the loop
// looking, later only by what a turn's budget left for the next.
//
// The precise wheel rounds nothing. Its slots are the same; one that is reached holds what is due in the millisecond
// that begins, and that is kept `near`, looked through whenever its earliest deadline has come. next() looks through
// the slot that will be reached next for the same reason, so that nobody is woken at its beginning in vain.
// Both scans are linear in the slot's population. The cost limits itself: once a scan takes 1 ms, every timer in
// the slot is due anyway.
//
// Owner of a node: whoever embeds it. A node that dies armed is cancelled, and so are all when the wheel dies.
// Thread: one loop's. Allocation: none.

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/list.hpp"
#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL {

struct timer {
    using callback = void (*)(timer& self, time_point now) noexcept;

    list_hook hook;       // in a slot of the wheel, or among the due
    std::uint64_t at = 0; // when to fire, in ns since the wheel's start; later than its slot once pushed
    callback fire = nullptr;

    timer() noexcept = default;
    explicit timer(callback on_fire) noexcept : fire(on_fire) {}

    bool armed() const noexcept { return hook.linked(); }
    void cancel() noexcept { hook.unlink(); }
};
static_assert(sizeof(timer) <= 32, "a timer is half a cache line");

class timers {
  public:
    enum class manner : std::uint8_t { plain, precise };
    explicit timers(time_point start, manner how = manner::plain) noexcept : start_(start) { become(how); }
    timers(const timers&) = delete;
    timers& operator=(const timers&) = delete;

    // Before the first arm().
    void become(manner how) noexcept { floor_ = grain_ = how == manner::precise ? 1 : ns_per_tick; }

    // (Re)arms: fire() once `deadline` is reached. `t.fire` is set. A deadline in the past fires with the next tick (a
    // precise one: when time has gone on at all), so never in the run that is under way.
    void arm(timer& t, time_point deadline) noexcept {
        EXPECT(t.fire != nullptr);
        const std::uint64_t at = std::max(after(deadline), floor_);
        if (t.armed() && at >= t.at) {
            t.at = at; // it re-places itself when its slot is reached
            return;
        }
        t.hook.unlink();
        t.at = at;
        if (tick_of(t) > current_) place(t);
        else keep_near(t);
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

    static constexpr std::uint64_t ns_per_tick = 1'000'000;

    using slot = list<&timer::hook>;

    std::uint64_t since_start(time_point at) const noexcept {
        return at <= start_ ? 0 : static_cast<std::uint64_t>((at - start_).count());
    }
    // Below 2^63, so the rounding cannot wrap.
    std::uint64_t after(time_point deadline) const noexcept {
        const std::uint64_t ns = since_start(deadline);
        return grain_ == 1 ? ns : (ns + ns_per_tick - 1) / ns_per_tick * ns_per_tick;
    }
    static std::uint64_t tick_of(const timer& t) noexcept { return t.at / ns_per_tick; }
    time_point time_of(std::uint64_t ns) const noexcept { return start_ + duration{static_cast<std::int64_t>(ns)}; }

    void place(timer& t) noexcept;
    void keep_near(timer& t) noexcept;
    bool sort_due(std::uint64_t now) noexcept;
    std::uint64_t first_of(slot& s, std::uint64_t tick) noexcept;
    void let_fall(unsigned level) noexcept;
    std::uint64_t next_stop() const noexcept;

    time_point start_;
    std::uint64_t current_ = 0;                         // every slot up to this tick has been looked at
    std::uint64_t grain_ = ns_per_tick;                 // a deadline is a multiple of so many ns
    std::uint64_t floor_ = ns_per_tick;                 // in ns: later than the latest run
    std::array<std::uint64_t, level_count> occupied_{}; // per level, one bit per slot that may hold a node
    std::array<std::array<slot, slot_count>, level_count> wheel_;
    slot due_;                     // reached; fired as the budget allows
    slot near_;                    // reached, but due later in this tick: of a precise wheel
    std::uint64_t near_first_ = 0; // nothing near is due before; valid unless empty
};

} // namespace weir::inline WEIR_KERNEL
