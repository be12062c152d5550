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
    const std::uint64_t at = std::min(std::max(tick_of(t), current_), current_ + horizon - 1);
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

void timers::keep_near(timer& t) noexcept {
    near_first_ = near_.empty() ? t.at : std::min(near_first_, t.at);
    near_.push_back(t);
}

// Brings the first of due_ to where it belongs. True: there, and it is to fire.
bool timers::sort_due(std::uint64_t now) noexcept {
    timer& t = *due_.front();
    if (tick_of(t) > current_) {
        t.hook.unlink();
        place(t); // pushed later since it was placed
        return false;
    }
    if (t.at > now) {
        t.hook.unlink();
        keep_near(t);
        return false;
    }
    if (buggify(twist::timer_last)) {
        t.hook.unlink();
        due_.push_back(t);
        return false;
    }
    return true;
}

std::uint32_t timers::run(time_point now, std::uint32_t budget) noexcept {
    const std::uint64_t ns = since_start(now), until = ns / ns_per_tick;
    floor_ = std::max(floor_, (grain_ == 1 ? ns : until * ns_per_tick) + grain_);
    if (!near_.empty() && near_first_ <= ns) due_.take_all(near_);
    std::uint32_t fired = 0;
    for (;;) {
        while (timer* t = due_.front()) {
            if (fired == budget) return fired;
            if (!sort_due(ns)) continue;
            t->hook.unlink();
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

// The earliest deadline of those that lie in the slot of this tick. One that was pushed later counts with the tick's
// end: then it is put elsewhere, and until then it must not hide what lies in the slots between.
std::uint64_t timers::first_of(slot& s, std::uint64_t tick) noexcept {
    if (grain_ != 1) return tick * ns_per_tick;
    std::uint64_t first = (tick + 1) * ns_per_tick;
    for (timer* t = s.front(); t; t = s.after(*t))
        first = std::min(first, t->at);
    return first;
}

time_point timers::next() noexcept {
    if (!due_.empty()) return start_ + milliseconds{current_};
    const time_point near = near_.empty() ? never : time_of(near_first_);
    // Cancelling leaves its slot marked; unmark what is empty before it wakes anybody.
    for (;;) {
        const std::uint64_t stop = next_stop();
        if (stop == no_stop) return near;
        std::uint64_t first = no_stop;
        for (unsigned level = 0; level < level_count; level++) {
            if ((stop & ((std::uint64_t{1} << level * level_bits) - 1)) != 0) break;
            const std::uint64_t index = stop >> level * level_bits & (slot_count - 1);
            slot& s = wheel_[level][index];
            if (s.empty()) occupied_[level] &= ~(std::uint64_t{1} << index);
            else first = std::min(first, level == 0 ? first_of(s, stop) : stop * ns_per_tick);
        }
        if (first != no_stop) return std::min(near, time_of(first));
    }
}

} // namespace weir::inline WEIR_KERNEL
