#pragma once
// sim_check: what must hold between an event_loop and the simulated kernel whenever the loop goes to sleep.
//
//   I4   no lost wake-up: no watched descriptor is runnable, and none could do what its user wants, or has ended,
//        without an event of it being on its way
//   I12  each descriptor that the loop knows is watched with the interest and the data that its slot records
// A violation names the descriptor, its role, its table and its state, as the loop's ledger does; I11 as well, which the
// kernel notices.
// A reaper hides lost wake-ups by closing the stuck connection: so a harness calls before_reaping() in its timeouts.
// Owner: the harness. It registers itself with the current kernel, and takes that back when it dies.

#include "core/loop.hpp"
#include "core/sim_kernel.hpp"

namespace weir::inline WEIR_KERNEL {

class loop_check {
  public:
    explicit loop_check(event_loop& loop) noexcept;
    loop_check(const loop_check&) = delete;
    loop_check& operator=(const loop_check&) = delete;
    ~loop_check();

    void asleep() noexcept;
    void before_reaping(const fd_slot& slot) noexcept;

  private:
    void check(const fdtab& fds, const fd_slot& slot, file& f) noexcept;
    void check_ready(const fd_slot& slot, stream& socket) noexcept;
    void spins(const char* what) noexcept;
    void complain(const char* invariant, const fd_slot& slot, const char* what) noexcept;

    event_loop& loop_;
    kernel& kernel_;
};

} // namespace weir::inline WEIR_KERNEL
