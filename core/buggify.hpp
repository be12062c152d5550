#pragma once
// buggify: what the library may always do but seldom does, done on purpose on the simulated kernel.
//
//     const std::uint32_t events_max = buggify(twist::one_event) ? 1 : events_max_;
//
// A twist is legal at any moment, whatever the user does: a smaller batch, a shorter read, another order of what has
// none, work put off to the next turn, a look that is usually saved. So it needs no thought about when; it only makes
// the rare path common. Where the library runs natively a twist is a constant false and the code for it is not there.
// On the simulated kernel the run's dice decide (sim_twists.hpp). One draw per statement, as for all of its chance.
//
// interleave() stands between two atomic operations whose order with another thread's matters: there the simulated
// kernel may let that thread go on.

#include <cstdint>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL {

enum class twist : std::uint8_t {
    one_event,     // a batch of one report
    one_accept,    // an accept budget of one
    accept_unsure, // EAGAIN of accept() must be met
    one_timer,     // a timer budget of one
    timers_later,  // the timers wait for the next turn, as after a full batch
    timer_last,    // of the timers that are due in one tick, the first one goes behind the others
    splice_soon,   // a relay splices before a flow has shown that it is large
    slot_later,    // a runnable slot goes to the back of the run list, unrun
    recv_one,      // a read of one byte
    recv_unsure,   // a short read is no proof: EAGAIN must be met
    send_one,      // one byte is handed to send
    send_buffered, // a buffer's way is taken where bytes could go straight on
    take_probes,   // a connection that is taken is peeked at
    stay_awake,    // the mailbox finds no letter, and keeps the loop awake all the same
    ring_anyway,   // the eventfd is rung for a loop that is awake, or has been rung
    count_
};

#ifdef WEIR_SIM
const char* to_string(twist kind) noexcept;
[[nodiscard]] bool buggify(twist kind) noexcept;
void interleave() noexcept;
#else
[[nodiscard]] constexpr bool buggify(twist) noexcept { return false; }
constexpr void interleave() noexcept {}
#endif

} // namespace weir::inline WEIR_KERNEL
