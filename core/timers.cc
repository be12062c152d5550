// timers: placing nodes and turning the wheel.

#include "core/timers.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/buggify.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr std::uint64_t no_stop = std::numeric_limits<std::uint64_t>::max();
}

void timers::place(timer& t) noexcept {
    const std::uint64_t at = std::min(std::max(t.tick, current_), current_ + horizon - 1);
    const std::uint64_t distance = at - current_;
    const unsigned level =
        distance < slot_count ? 0 : (static_cast<unsigned>(std::bit_width(distance)) - 1) / level_bits;
    const std::uint64_t index = at >> level * level_bits & (slot_count - 1);
    wheel_[level][index].push_back(t);
    occupied_[level] |= std::uint64_t{1} << index;
}

// The next tick at which an occupied slot is reached, on any level.
std::uint64_t timers::next_stop() const noexcept {
    std::uint64_t best = no_stop;
    for (unsigned level = 0; level < level_count; level++) {
        if (!occupied_[level]) continue;
        const std::uint64_t unit = current_ >> level * level_bits;
        const auto ahead = std::rotr(occupied_[level], static_cast<int>((unit + 1) & (slot_count - 1)));
        const std::uint64_t stop = (unit + 1 + static_cast<unsigned>(std::countr_zero(ahead))) << level * level_bits;
        best = std::min(best, stop);
    }
    return best;
}

// current_ has reached the first tick of a slot of this level: its nodes go to the levels below.
void timers::let_fall(unsigned level) noexcept {
    const std::uint64_t index = current_ >> level * level_bits & (slot_count - 1);
    const std::uint64_t bit = std::uint64_t{1} << index;
    if (!(occupied_[level] & bit)) return;
    occupied_[level] &= ~bit;
    slot falling;
    falling.take_all(wheel_[level][index]);
    while (timer* t = falling.pop_front())
        place(*t);
}

std::uint32_t timers::run(time_point now, std::uint32_t budget) noexcept {
    const std::uint64_t until = now <= start_ ? 0 : static_cast<std::uint64_t>((now - start_) / milliseconds{1});
    floor_ = std::max(floor_, until + 1);
    std::uint32_t fired = 0;
    for (;;) {
        while (timer* t = due_.front()) {
            if (fired == budget) return fired;
            t->hook.unlink();
            if (t->tick > current_) {
                place(*t); // pushed later since it was placed
                continue;
            }
            if (buggify(twist::timer_last)) {
                due_.push_back(*t);
                continue;
            }
            fired++;
            t->fire(*t, now);
        }
        const std::uint64_t stop = next_stop();
        if (stop > until) {
            current_ = std::max(current_, until);
            return fired;
        }
        current_ = stop;
        for (unsigned level = level_count - 1; level > 0; level--)
            if ((current_ & ((std::uint64_t{1} << level * level_bits) - 1)) == 0) let_fall(level);
        const std::uint64_t index = current_ & (slot_count - 1);
        occupied_[0] &= ~(std::uint64_t{1} << index);
        due_.take_all(wheel_[0][index]);
    }
}

time_point timers::next() noexcept {
    // Cancelling leaves its slot marked; unmark what is empty before it wakes anybody.
    for (;;) {
        if (!due_.empty()) return start_ + milliseconds{current_};
        const std::uint64_t stop = next_stop();
        if (stop == no_stop) return never;
        bool holds_any = false;
        for (unsigned level = 0; level < level_count; level++) {
            if ((stop & ((std::uint64_t{1} << level * level_bits) - 1)) != 0) break;
            const std::uint64_t index = stop >> level * level_bits & (slot_count - 1);
            if (!wheel_[level][index].empty()) holds_any = true;
            else occupied_[level] &= ~(std::uint64_t{1} << index);
        }
        if (holds_any) return start_ + milliseconds{stop};
    }
}

} // namespace weir::inline WEIR_KERNEL
