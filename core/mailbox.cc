// mailbox: posting, ringing, running.

#include "core/mailbox.hpp"

namespace weir::inline WEIR_KERNEL {

result<void> mailbox::open() noexcept {
    const int fd = sys::eventfd_open();
    if (fd < 0) return failure{-fd};
    eventfd_.reset(fd);
    return {};
}

void mailbox::post(letter& l) noexcept {
    EXPECT(l.run != nullptr);
    letter* newest = stack_.load(std::memory_order_relaxed);
    do {
        l.next = newest;
    } while (!stack_.compare_exchange_weak(newest, &l, std::memory_order_seq_cst, std::memory_order_relaxed));

    std::uint32_t seen = sleeping;
    if (state_.load(std::memory_order_seq_cst) != sleeping) return;
    if (!state_.compare_exchange_strong(seen, rung, std::memory_order_seq_cst)) return; // another producer rings
    ring_count_.fetch_add(1, std::memory_order_relaxed);
    int r = sys::eventfd_ring(eventfd_.get());
    if (r == -EAGAIN) { // saturated: empty the counter, then there is room
        sys::eventfd_reset(eventfd_.get());
        r = sys::eventfd_ring(eventfd_.get());
    }
    EXPECT(r >= 0);
}

std::uint32_t mailbox::run() noexcept {
    if (empty()) return 0;
    letter* newest = stack_.exchange(nullptr, std::memory_order_acquire);
    letter* oldest = nullptr;
    while (newest) { // the stack has the newest on top
        letter* before = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = before;
    }
    std::uint32_t ran = 0;
    while (oldest) {
        letter& l = *oldest;
        oldest = l.next;
        l.next = nullptr;
        l.run(l); // may free it, may post it again
        ran++;
    }
    return ran;
}

bool mailbox::may_sleep() noexcept {
    state_.store(sleeping, std::memory_order_seq_cst);
    if (stack_.load(std::memory_order_seq_cst) == nullptr) return true;
    awake();
    return false;
}

} // namespace weir::inline WEIR_KERNEL
