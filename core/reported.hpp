#pragma once
// reported: up to which moment a loop knows everything that has come. Pure arithmetic; the loop asks epoll and the clock.
//
// A deadline is judged by a clock, and the bytes that meet the deadline are told by epoll. A process may stand still
// between any two instructions: SIGSTOP, a debugger, a frozen container. Then the clock goes on and bytes arrive, but
// the last batch is old. So a timer must not fire by the newest clock. until() is the newest moment for which this
// holds: every event of a watched descriptor before that moment has been reported. The loop runs the slots of these
// reports first and then the timers that are due at until().
//
//     read the clock ──> ask epoll ──> partial:     everything before that reading is reported
//                                      slept out:   the same for that reading plus the time-out, because the kernel
//                                                   looks once more when the time-out has passed, epoll_wait(2)
//                                      full:        more may wait: see below
//                                      interrupted: epoll gave no answer (EINTR): until() stays
//
// A full batch proves nothing by itself. But epoll's ready list is first in, first out, and an edge-triggered entry
// leaves the list with its report. At the first full batch the list holds at most one entry for each watched
// descriptor. So after as many reports as descriptors were watched then, everything that was ready then is reported,
// even if each batch in between was full. This bounds the delay: a timer waits at most for two rounds of reports over
// all watched descriptors.
//
// Owner: one event_loop. Thread: that loop's. Allocation: none.

#include <algorithm>
#include <cstdint>

#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL {

class reported {
  public:
    reported() noexcept = default;
    // Nothing can be reported that came before `start`.
    explicit reported(time_point start) noexcept : until_(start) {}

    time_point until() const noexcept { return until_; }
    // A batch was full, and the round that it began goes on: more may wait in the kernel.
    bool in_round() const noexcept { return left_count_ > 0; }

    // epoll was asked, and a batch had room to spare: it had nothing more. `at`: clock readings never go back.
    void all(time_point at) noexcept {
        until_ = at;
        left_count_ = 0;
    }
    // epoll was asked after a reading of `at`, and the batch is full. `reports`: those for watched descriptors; a batch
    // of nothing but stale reports counts as one, so that every round ends. `watched`: descriptors at this moment.
    void some(time_point at, std::uint64_t reports, std::uint64_t watched) noexcept {
        if (!in_round()) {
            round_began_ = at;
            left_count_ = std::max<std::uint64_t>(watched, 1);
        }
        left_count_ -= std::min(left_count_, std::max<std::uint64_t>(reports, 1));
        if (!in_round()) until_ = round_began_;
    }

  private:
    time_point until_{};
    time_point round_began_{};     // the reading before the first full batch of this round
    std::uint64_t left_count_ = 0; // reports until the round is over
};

} // namespace weir::inline WEIR_KERNEL
