// mailbox: posting, ringing, running.

#include "core/mailbox.hpp"

#include "core/buggify.hpp"

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
        if (l.next != newest) l.next = newest; // see run()
    } while (!stack_.compare_exchange_weak(newest, &l, std::memory_order_seq_cst, std::memory_order_relaxed));

    interleave();
    std::uint32_t seen = state_.load(std::memory_order_seq_cst);
    interleave();
    // The one that changes it rings.
    const bool mine = seen == sleeping && state_.compare_exchange_strong(seen, rung, std::memory_order_seq_cst);
    if (!mine && !buggify(twist::ring_anyway)) return;
    interleave();
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
    interleave();
    letter* newest = stack_.exchange(nullptr, std::memory_order_acquire);
    letter* oldest = nullptr;
    while (newest) { // the stack has the newest on top
        letter* before = newest->next;
        // A letter that comes alone, again and again, is not written to by either side: its line stays with both.
        if (before != oldest) newest->next = oldest;
        oldest = newest;
        newest = before;
    }
    std::uint32_t ran = 0;
    while (oldest) {
        letter& l = *oldest;
        oldest = l.next;
        if (oldest) l.next = nullptr;
        l.run(l); // may free it, may post it again
        ran++;
    }
    return ran;
}

bool mailbox::may_sleep() noexcept {
    interleave();
    state_.store(sleeping, std::memory_order_seq_cst);
    interleave();
    if (stack_.load(std::memory_order_seq_cst) == nullptr && !buggify(twist::stay_awake)) return true;
    awake();
    return false;
}

} // namespace weir::inline WEIR_KERNEL
