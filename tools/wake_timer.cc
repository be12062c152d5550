// wake_timer: how much later than its deadline a timer fires.

#include "tools/wake.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

// Deadlines of 0.3 to 2.3 ms, the same for both sides, none of them at a whole millisecond.
class waits {
  public:
    duration next() noexcept {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return std::chrono::microseconds{300} + duration{static_cast<std::int64_t>(state_ >> 33) % 2'000'000};
    }

  private:
    std::uint64_t state_ = 1;
};

void record_late(histogram& to, time_point due) noexcept {
    to.record(static_cast<std::uint64_t>((sys::now() - due).count())); // never early
}

class wheel_side final : public wake_side {
  public:
    explicit wheel_side(const wake_options& how) {
        open_loop(loop_, how);
        timer_.fire = [](timer& t, time_point) noexcept {
            wheel_side& self = container_of<&wheel_side::timer_>(t);
            record_late(*self.to_, self.due_);
            self.has_fired_ = true;
        };
    }
    void near(std::uint64_t rounds, histogram& to) override {
        take_loop(loop_);
        to_ = &to;
        for (; rounds > 0; rounds--) {
            due_ = sys::now() + waits_.next();
            has_fired_ = false;
            loop_.arm(timer_, due_);
            while (!has_fired_)
                loop_.turn(seconds{60});
        }
    }
    void far(std::uint64_t) override {}
    wake_counts near_counts() const override { return counts_of(loop_); }
    wake_counts far_counts() const override { return {}; }

  private:
    event_loop loop_;
    timer timer_;
    waits waits_;
    histogram* to_ = nullptr;
    time_point due_{};
    bool has_fired_ = false;
};

class sleep_side final : public wake_side {
  public:
    explicit sleep_side(const wake_options& how) : is_precise_(how.is_precise), poll_(false) {}

    void near(std::uint64_t rounds, histogram& to) override {
        if (is_precise_) sys::sleep_precisely();
        for (; rounds > 0; rounds--) {
            time_point now = sys::now();
            const time_point due = now + waits_.next();
            for (; now < due; now = sys::now())
                poll_.wait_for(due - now, is_precise_);
            record_late(to, due);
        }
    }
    void far(std::uint64_t) override {}
    wake_counts near_counts() const override { return {.waits = poll_.waits_count()}; }
    wake_counts far_counts() const override { return {}; }

  private:
    bool is_precise_;
    bare_epoll poll_;
    waits waits_;
};

} // namespace

wake_pair make_timer(const wake_options& how) {
    return {.weir = std::make_unique<wheel_side>(how),
            .raw = std::make_unique<sleep_side>(how),
            .has_far = false,
            .wakes_per_round = 1};
}

} // namespace weir::inline WEIR_KERNEL::tools
