#pragma once
// wake: the measurements of weir-wake. In each, a loop of weir's and the bare system calls that do the same take turns
// of a slice each, so that whatever else happens on the machine hits both alike.
//
// A wake_side is one of the two. It has a near end, which measures, and perhaps a far end in a thread of its own; both
// are told of the same rounds in the same order, so the last thing that an end does in a slice lets the other one go
// on.
//
// Times in ns. Owner: main(). Thread: near() and far() one each; what they share is a side's own matter.

#include <cstdint>
#include <memory>
#include <vector>

#include "core/histogram.hpp"
#include "core/loop.hpp"

namespace weir::inline WEIR_KERNEL::tools {

struct wake_options {
    std::uint64_t count = 0; // rounds of each side
    duration spin{};
    bool is_precise = false;
    duration busy_poll{};
    std::uint32_t idle_count = 1000; // parked connections
    int cpus[2] = {-1, -1};          // of the near and the far thread; -1: any

    loop_options loop() const noexcept;
};

// What an end counts.
struct wake_counts {
    std::uint64_t rings = 0; // writes to an eventfd that waited for
    std::uint64_t waits = 0; // epoll_wait, epoll_pwait2
};

struct wake_tally {
    histogram ns;
    std::uint64_t wakes = 0, cpu_ns = 0;
    wake_counts did;

    double per_wake(std::uint64_t n) const noexcept {
        return wakes > 0 ? static_cast<double>(n) / static_cast<double>(wakes) : 0;
    }
};

struct wake_row {
    const char* mode = "";
    const char* how = "";
    wake_tally weir{}, raw{};

    double ratio() const noexcept; // of the medians
};

class wake_side {
  public:
    wake_side() = default;
    wake_side(const wake_side&) = delete;
    wake_side& operator=(const wake_side&) = delete;
    virtual ~wake_side() = default;

    // So many rounds, each of which is recorded once.
    virtual void near(std::uint64_t rounds, histogram& to) = 0;
    virtual void far(std::uint64_t rounds) = 0;
    // So far, each asked in its own thread.
    virtual wake_counts near_counts() const = 0;
    virtual wake_counts far_counts() const = 0;
};

struct wake_pair {
    std::unique_ptr<wake_side> weir{}, raw{};
    bool has_far = true;
    unsigned wakes_per_round = 2;
};
wake_pair make_post(const wake_options& how);
wake_pair make_socket(const wake_options& how);
wake_pair make_timer(const wake_options& how);
wake_pair make_idle_close(const wake_options& how);

// The rounds, in slices.
void measure(wake_row& row, const wake_options& how, const wake_pair& sides);

// A loop for one end of a side, or the end of the program.
void open_loop(event_loop& loop, const wake_options& how);
inline wake_counts counts_of(const event_loop& loop) noexcept {
    return {.rings = loop.letters().ring_count(), .waits = loop.polls().wait_count()};
}
inline void take_loop(event_loop& loop) noexcept {
    if (!loop.is_mine()) loop.claim();
}

// An epoll set by hand: edge-triggered, one report at a time.
class bare_epoll {
  public:
    explicit bare_epoll(bool spins);
    void add(int fd, std::uint32_t events);
    // The descriptor that has something. A spinning one asks and asks.
    int wait() noexcept;
    // False: the time is over.
    bool wait_for(duration timeout, bool is_precise) noexcept;
    std::uint64_t waits_count() const noexcept { return waits_count_; }

  private:
    unique_fd fd_;
    bool spins_;
    std::uint64_t waits_count_ = 0;
};

// Ends the program with what could not be had.
[[noreturn]] void no_way(const char* what, int error) noexcept;

// What figures like these depend on.
struct wake_machine {
    char kernel[128] = "";
    char idle_driver[64] = "none";
    char haltpoll_ns[24] = ""; // guest_halt_poll_ns, where there is one
    bool is_virtual = false;
    std::vector<int> cpus; // that may be used
};
wake_machine look_at_machine();

} // namespace weir::inline WEIR_KERNEL::tools
