// poller: epoll behind the fdtab.

#include "core/poller.hpp"

#include <new>

#include "core/buggify.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr std::uint32_t recv_events = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET;
} // namespace

result<void> poller::open(fdtab& table, std::uint32_t events_max) noexcept {
    EXPECT(!epoll_fd_);
    EXPECT(events_max > 0 && events_max <= 65536);
    const int fd = sys::epoll_open();
    if (fd < 0) return failure{-fd};
    epoll_fd_.reset(fd);
    events_.reset(new (std::nothrow) epoll_event[events_max]);
    if (!events_) return failure{ENOMEM};
    events_max_ = events_max;
    table_ = &table;
    return {};
}

result<void> poller::add(fd_slot& slot, interest first) noexcept {
    const bool send_too = first == interest::recv_send;
    ctl_count_++;
    const int r = sys::epoll_add(epoll_fd_.get(), slot.fd, recv_events | (send_too ? std::uint32_t{EPOLLOUT} : 0),
                                 table_->data_of(slot));
    EXPECT(r != -EEXIST); // its number was closed behind our back, and what was watched lives on
    EXPECT(r != -EBADF);
    if (r < 0) return failure{-r};
    slot.state |= send_too ? fd_state::awaits_send : fd_state::send_ready;
    return {};
}

result<void> poller::await_send(fd_slot& slot) noexcept {
    if (slot.is(fd_state::awaits_send)) return {};
    ctl_count_++;
    const int r = sys::epoll_change(epoll_fd_.get(), slot.fd, recv_events | EPOLLOUT, table_->data_of(slot));
    EXPECT(r != -ENOENT); // closed, or replaced by another one, behind our back
    EXPECT(r != -EBADF);
    if (r < 0) return failure{-r};
    slot.state |= fd_state::awaits_send;
    return {};
}

void poller::remove(const fd_slot& slot) noexcept {
    ctl_count_++;
    const int r = sys::epoll_remove(epoll_fd_.get(), slot.fd);
    EXPECT(r == 0); // registered once, removed once
}

std::uint32_t poller::room() const noexcept { return buggify(twist::one_event) ? 1 : events_max_; }

poller::batch poller::wait(int timeout_ms) noexcept {
    const std::uint32_t events_max = room();
    return merge(sys::epoll_wait(epoll_fd_.get(), events_.get(), static_cast<int>(events_max), timeout_ms), events_max);
}

poller::batch poller::wait_precisely(duration timeout) noexcept {
    if (is_precise_) {
        const std::uint32_t events_max = room();
        const int n = sys::epoll_wait_precise(epoll_fd_.get(), events_.get(), static_cast<int>(events_max), timeout);
        if (n != -ENOSYS && n != -EPERM) return merge(n, events_max);
        is_precise_ = false;
    }
    imprecise_count_++;
    return wait(in_ms(timeout));
}

int poller::in_ms(duration timeout) noexcept {
    return static_cast<int>((timeout + milliseconds{1} - duration{1}) / milliseconds{1});
}

poller::batch poller::merge(int answer, std::uint32_t events_max) noexcept {
    wait_count_++;
    if (answer == -EINTR) return batch::interrupted;
    EXPECT(answer >= 0); // EBADF, EFAULT, EINVAL: somebody closed or overwrote what is ours
    const auto n = static_cast<std::uint32_t>(answer);
    event_count_ += n;
    for (std::uint32_t i = 0; i < n; i++)
        table_->report(events_[i].data.u64, events_[i].events);
    return n == events_max ? batch::full : batch::partial;
}

} // namespace weir::inline WEIR_KERNEL
