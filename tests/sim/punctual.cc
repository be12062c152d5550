// punctual: setting the probes, and looking at them around each turn.

#include "sim/punctual.hpp"

namespace simtest {

namespace {
constexpr duration grain = milliseconds{1};
// A timer may wait while batches are full (16 turns), and behind as many others as there are budgets for.
constexpr std::uint32_t turns_late_max = 24;
} // namespace

punctual::punctual(kernel& k, event_loop& loop) noexcept : kernel_(k), loop_(loop), chance_(k.options().seed) {
    if (chance_.coin()) return; // half of the runs: without them, too, the loop must wake up when it should
    is_on_ = true;
    for (probe& p : probes_) {
        p.home = this;
        p.t.fire = fired;
        set(p);
    }
}

punctual::~punctual() {
    for (probe& p : probes_)
        p.t.cancel();
}

void punctual::set(probe& p) noexcept {
    static constexpr duration spans[] = {milliseconds{70}, seconds{1}, seconds{5}, seconds{40}};
    p.deadline = kernel_.time.now + chance_.between(duration{}, spans[chance_.below(4)]);
    p.turns_late = 0;
    loop_.arm(p.t, p.deadline);
}

void punctual::fired(timer& t, time_point now) noexcept {
    probe& p = container_of<&probe::t>(t);
    if (now < p.deadline) p.home->kernel_.violate("I8", "a timer fired before its deadline");
    p.home->set(p);
}

std::uint64_t punctual::oversleeps() const noexcept {
    return kernel_.faults.marks(fault::clock_jump) + kernel_.faults.marks(fault::epoll_late);
}

// Now and then a deadline is moved, to either side, and the timer disarmed on the way.
void punctual::before_turn() noexcept {
    if (!is_on_) return;
    oversleeps_before_ = oversleeps();
    turn_began_ = kernel_.time.now;
    probe& p = probes_[chance_.below(4)];
    if (chance_.below(32) != 0) return;
    if (chance_.coin()) p.t.cancel();
    set(p);
}

void punctual::after_turn() noexcept {
    if (!is_on_) return;
    const bool may_have_overslept = oversleeps() != oversleeps_before_;
    for (probe& p : probes_) {
        if (loop_.now() < p.deadline + grain) continue;
        if (++p.turns_late > turns_late_max) kernel_.violate("I8", "a timer waits behind too many turns");
        // The deadline is rounded up to a tick, and the sleep to a millisecond; a call costs microseconds.
        const bool slept_through = turn_began_ < p.deadline && loop_.now() > p.deadline + 3 * grain;
        if (slept_through && !may_have_overslept) kernel_.violate("I8", "the loop slept through a deadline");
    }
}

} // namespace simtest
