#pragma once
// line_limit: how many lines of each kind are written, so that a stranger who causes them cannot fill a disk.
//
// Each kind has a budget of its own: `burst` lines at once, and `per_second` of them grow back. A line beyond the budget
// is counted instead of written. Once a second the counts are told as sums, one for each kind that has any, which the
// budget does not limit.
//
// Owner: the user; the loop outlives it. Thread: the loop's. Allocation: none.

#include <array>
#include <cstdint>

#include "core/loop.hpp"

namespace weir::inline WEIR_KERNEL {

struct line_rate {
    std::uint32_t burst = 100;     // at least 1, EXPECTed; and so is the next
    std::uint32_t per_second = 10; // at most 1,000,000,000, EXPECTed
};

class line_limit {
  public:
    static constexpr std::size_t kinds_max = 24;
    using told = void (*)(void* owner, std::size_t kind, std::uint64_t count) noexcept;

    // `sum` is called by a timer of the loop, or by tell_sums().
    line_limit(event_loop& loop, const line_rate& rate, told sum, void* owner) noexcept;
    line_limit(const line_limit&) = delete;
    line_limit& operator=(const line_limit&) = delete;
    ~line_limit() { timer_.cancel(); }

    // One more line of that kind may be written. False: it was counted. kind < kinds_max, EXPECTed.
    [[nodiscard]] bool admits(std::size_t kind) noexcept;

    // Tells what was counted now, not at the end of the second: the last occasion before the sink goes away.
    void tell_sums() noexcept;

  private:
    struct budget {
        time_point whole_at{}; // when all of the burst will have grown back
        std::uint64_t left_out = 0;
    };

    event_loop& loop_;
    duration interval_; // of one line
    duration burst_;    // what a whole burst takes to grow back, less one line
    told sum_;
    void* owner_;
    std::array<budget, kinds_max> budgets_{};
    timer timer_;
};

} // namespace weir::inline WEIR_KERNEL
