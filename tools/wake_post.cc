// wake_post: a letter to another thread's loop and one back; against two eventfds, or two words in memory.

#include <atomic>

#include "tools/wake.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

// ---- weir: two loops

class post_side final : public wake_side {
  public:
    explicit post_side(const wake_options& how) {
        open_loop(near_, how);
        open_loop(far_, how);
    }

    void near(std::uint64_t rounds, histogram& to) override {
        take_loop(near_);
        to_ = &to;
        left_ = rounds;
        sent_at_ = sys::now();
        far_.post(ping_.l);
        while (left_ > 0)
            near_.turn(seconds{60});
    }
    void far(std::uint64_t rounds) override {
        take_loop(far_);
        for (far_left_ = rounds; far_left_ > 0;)
            far_.turn(seconds{60});
    }
    wake_counts near_counts() const override { return counts_of(near_); }
    wake_counts far_counts() const override { return counts_of(far_); }

  private:
    // A cache line of its own each: what travels alone travels fast.
    struct alignas(64) ball {
        post_side* home;
        letter l;
    };

    static void pinged(letter& l) noexcept {
        post_side& self = *container_of<&ball::l>(l).home;
        self.far_left_--;
        self.near_.post(self.pong_.l);
    }
    static void ponged(letter& l) noexcept {
        post_side& self = *container_of<&ball::l>(l).home;
        const time_point now = sys::now();
        self.to_->record(static_cast<std::uint64_t>((now - self.sent_at_).count()));
        self.sent_at_ = now;
        if (--self.left_ > 0) self.far_.post(self.ping_.l);
    }

    event_loop near_;
    alignas(64) event_loop far_;
    ball ping_{this, letter{pinged}}, pong_{this, letter{ponged}};
    alignas(64) histogram* to_ = nullptr; // the near end's
    std::uint64_t left_ = 0;
    time_point sent_at_{};
    alignas(64) std::uint64_t far_left_ = 0;
};

// ---- raw, asleep: a write to an eventfd ends an epoll_wait

struct bell {
    bell() : poll(false) {
        const int made = sys::eventfd_open();
        if (made < 0) no_way("eventfd", -made);
        fd.reset(made);
        poll.add(fd.get(), EPOLLIN);
    }
    void ring() noexcept {
        rings_count++;
        sys::eventfd_ring(fd.get());
    }

    unique_fd fd;
    bare_epoll poll;
    std::uint64_t rings_count = 0; // counted by who rings
};

class bells_side final : public wake_side {
  public:
    void near(std::uint64_t rounds, histogram& to) override {
        time_point sent_at = sys::now();
        for (; rounds > 0; rounds--) {
            far_.ring();
            near_.poll.wait();
            const time_point now = sys::now();
            to.record(static_cast<std::uint64_t>((now - sent_at).count()));
            sent_at = now;
        }
    }
    void far(std::uint64_t rounds) override {
        for (; rounds > 0; rounds--) {
            far_.poll.wait();
            near_.ring();
        }
    }
    wake_counts near_counts() const override { return {far_.rings_count, near_.poll.waits_count()}; }
    wake_counts far_counts() const override { return {near_.rings_count, far_.poll.waits_count()}; }

  private:
    bell near_, far_;
};

// ---- raw, awake: a word each

class words_side final : public wake_side {
  public:
    void near(std::uint64_t rounds, histogram& to) override {
        time_point sent_at = sys::now();
        for (; rounds > 0; rounds--) {
            to_far_.store(++sent_, std::memory_order_release);
            while (to_near_.load(std::memory_order_acquire) != sent_)
                sys::relax();
            const time_point now = sys::now();
            to.record(static_cast<std::uint64_t>((now - sent_at).count()));
            sent_at = now;
        }
    }
    void far(std::uint64_t rounds) override {
        for (; rounds > 0; rounds--) {
            answered_++;
            while (to_far_.load(std::memory_order_acquire) != answered_)
                sys::relax();
            to_near_.store(answered_, std::memory_order_release);
        }
    }
    wake_counts near_counts() const override { return {}; }
    wake_counts far_counts() const override { return {}; }

  private:
    alignas(64) std::atomic<std::uint64_t> to_far_{0};
    alignas(64) std::atomic<std::uint64_t> to_near_{0};
    alignas(64) std::uint64_t sent_ = 0;
    alignas(64) std::uint64_t answered_ = 0;
};

} // namespace

wake_pair make_post(const wake_options& how) {
    wake_pair made{.weir = std::make_unique<post_side>(how)};
    if (how.spin > duration{}) made.raw = std::make_unique<words_side>();
    else made.raw = std::make_unique<bells_side>();
    return made;
}

} // namespace weir::inline WEIR_KERNEL::tools
