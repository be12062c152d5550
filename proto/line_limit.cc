// line_limit: budgets, and sums of what was left out.

#include "proto/line_limit.hpp"

#include <algorithm>
#include <utility>

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr duration sum_time = seconds{1};
} // namespace

line_limit::line_limit(event_loop& loop, const line_rate& rate, told sum, void* owner) noexcept
    : loop_(loop), sum_(sum), owner_(owner),
      timer_([](timer& t, time_point) noexcept { container_of<&line_limit::timer_>(t).tell_sums(); }) {
    EXPECT(rate.burst > 0 && rate.per_second > 0);
    EXPECT(rate.per_second <= 1'000'000'000);
    EXPECT(sum != nullptr);
    interval_ = duration{seconds{1}} / rate.per_second;
    burst_ = interval_ * (rate.burst - 1);
}

// `whole_at` in the past means that the whole burst is available; each line moves it by the time of one line.
bool line_limit::admits(std::size_t kind) noexcept {
    EXPECT(kind < kinds_max);
    budget& b = budgets_[kind];
    const time_point now = loop_.now(), whole_at = std::max(b.whole_at, now);
    if (whole_at - now <= burst_) {
        b.whole_at = whole_at + interval_;
        return true;
    }
    b.left_out++;
    if (!timer_.armed()) loop_.arm_in(timer_, sum_time);
    return false;
}

void line_limit::tell_sums() noexcept {
    timer_.cancel();
    for (std::size_t kind = 0; kind < kinds_max; kind++)
        if (const std::uint64_t count = std::exchange(budgets_[kind].left_out, 0)) sum_(owner_, kind, count);
}

} // namespace weir::inline WEIR_KERNEL
