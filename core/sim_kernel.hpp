#pragma once
// sim_kernel: the simulated kernel: descriptors, virtual time, and the world at the other ends.
//
// While a kernel lives it is the current one of its thread, and everything in sys.hpp goes to it. It is deterministic:
// options and calls decide everything, the seed stands for all chance. Time goes on by a little with every call, and by
// as much as needed when epoll_wait sleeps; whatever is due by then (a remote's doing, a delivery) happens between two
// calls, so also between a batch and its dispatch.
//
// It checks by itself (the names are those of the invariants in the README of tests/sim):
//   I2   a call on a descriptor that is not open; EEXIST or ENOENT from epoll_ctl
//   I3   a number is closed while its description lives on and epoll still watches it under that number
//   I11  turns that change nothing: a spin; or looking at memory that nobody changes, for too long
// and asks whoever registered with on_sleep() before every sleep (sim_check.hpp: I4, I12).
// A violation goes to the handler; without one it prints seed, invariant and the last calls, and aborts.
// A message of the checks of a loop names the descriptor, its role and the table that serves it.

#include <cstdint>
#include <memory>
#include <vector>

#include "core/sim_network.hpp"
#include "core/sim_remote.hpp"
#include "core/sim_twists.hpp"

namespace weir::inline WEIR_KERNEL {

struct kernel_options {
    std::uint64_t seed = 1;
    int descriptors_max = 256;          // RLIMIT_NOFILE
    duration call_max = duration{2000}; // what a call costs at most; 0: time stands still between sleeps
    bool swarm = true;                  // draw the ratios of the faults; otherwise there are none
    bool strict = true;                 // check I2, I3 and I11
    bool leaves_watches = false;        // of I3 not this: a user may close what is shared and watched
    network_options network{};
};

class kernel {
  public:
    explicit kernel(const kernel_options& options) noexcept;
    kernel(const kernel&) = delete;
    kernel& operator=(const kernel&) = delete;
    ~kernel(); // what is still open is closed; the one before becomes current again

    // EXPECTs that there is one.
    static kernel& current() noexcept;
    static kernel* current_or_null() noexcept;

    // --- the world
    timeline time;
    dice chance;
    fault_plan faults;
    twist_plan twists; // silent while the faults are
    trace log;
    network net;

    void heal() noexcept {
        faults.heal();
        twists.heal();
    }
    void raise(int signal) noexcept;
    void note(const char* text, std::int64_t a = 0, std::int64_t b = 0) noexcept; // text: a constant

    // --- descriptors
    std::uint32_t maps_count() const noexcept { return maps_count_; } // not unmapped yet
    int open_count() const noexcept { return open_count_; }
    int numbers_end() const noexcept { return numbers_end_; } // no number from here on was ever in use
    int descriptors_max() const noexcept { return static_cast<int>(fds_.size()); }
    file* at(int fd) const noexcept { // null: not open
        return fd >= 0 && fd < descriptors_max() ? fds_[static_cast<std::size_t>(fd)] : nullptr;
    }
    int install(file& f) noexcept; // the lowest free number; -EMFILE
    int dup(int fd) noexcept;
    int pair(int family, int (&ends)[2]) noexcept; // socketpair(2), and for AF_INET its like
    int drop(int fd) noexcept;                     // close(2) without faults
    stream& make_stream(int family) noexcept { return net.make(family); }

    // --- checks
    using sleep_check = void (*)(void* owner) noexcept;
    void on_sleep(sleep_check check, void* owner) noexcept;
    using violation = void (*)(void* owner, kernel& k, const char* invariant, const char* text) noexcept;
    void on_violation(violation handler, void* owner) noexcept;
    // Formats as printf(3) does, in at most 255 characters. The handler borrows the text for the call.
    [[gnu::format(printf, 3, 4)]] void violate(const char* invariant, const char* format, ...) noexcept;
    // Tells what a loop does that spins: `what` is the violation's text. Without it, or with null, the kernel violates I11
    // itself.
    using spin_report = void (*)(void* owner, const char* what) noexcept;
    void on_spin(spin_report tell, void* owner) noexcept;
    // Seed, invariant and the last `entries_max` calls, on stderr; a remote's look in vain is none of them.
    void report(const char* invariant, const char* text, std::uint64_t entries_max) noexcept;
    const kernel_options& options() const noexcept { return options_; }
    // A call is on its way, or what it let happen meanwhile: what runs now is not the library.
    bool is_at_work() const noexcept { return depth_ > 0; }

    // --- other threads. They are real ones, of which one goes on at a time, so that everything stays decided by the
    // seed; whoever plays them says in `step` which.
    void make_current() noexcept; // in the calling thread, until it ends
    using interleaving = void (*)(void* owner) noexcept;
    void on_interleave(interleaving step, void* owner) noexcept;

    // --- for the library (buggify.hpp)
    bool twisted(twist kind) noexcept;
    void interleave() noexcept;

    // --- for the seam (sys_sim.cc)
    void enter() noexcept;
    void leave() noexcept { depth_--; }
    void progress() noexcept {
        progress_count_++;
        spun_ = {};
    }
    void* map(std::size_t bytes) noexcept;
    void unmap(void* at) noexcept;
    // timeout < 0: without end. -EINTR: a signal ended the sleep.
    int wait(epoll_set& set, epoll_event* events, int events_max, duration timeout) noexcept;
    // A moment in which the library looks at memory again and again: time goes on, and so do the others.
    void relax() noexcept;

  private:
    void stand_still() noexcept;
    void spins(const char* what) noexcept;
    void check_spin(epoll_set& set, duration timeout, int n) noexcept;
    int collect(epoll_set& set, epoll_event* events, int events_max) noexcept;

    kernel_options options_;
    kernel* before_;
    std::vector<file*> fds_;
    int lowest_ = 3; // no free number lies below; 0, 1 and 2 belong to the process
    int open_count_ = 0;
    int numbers_end_ = 0;
    int depth_ = 0; // calls within calls: a remote's doing may make some
    std::uint32_t maps_count_ = 0;
    std::uint64_t progress_count_ = 0, relaxed_count_ = 0;
    duration spun_{}; // since a loop slept, or something happened
    sleep_check sleep_check_ = nullptr;
    void* sleep_owner_ = nullptr;
    interleaving interleaving_ = nullptr;
    void* interleaving_owner_ = nullptr;
    spin_report spin_report_ = nullptr;
    void* spin_owner_ = nullptr;
    violation violation_ = nullptr;
    void* violation_owner_ = nullptr;
};

} // namespace weir::inline WEIR_KERNEL
