#pragma once
// poller: asks the kernel which descriptors have something new, and merges its answers into the fdtab.
//
// Edge-triggered, one EPOLL_CTL_ADD in a descriptor's life. No handler runs in here: a batch is collected whole,
// then the loop runs what became runnable, so a handler may close anything.
//
//     ADD  accepted or adopted: IN PRI RDHUP ET   connecting: IN PRI OUT RDHUP ET
//     MOD  once, when an accepted socket's send first meets EAGAIN: OUT joins. epoll looks again at that moment,
//          so room that came between the EAGAIN and the MOD is reported, epoll_ctl(2).
//     DEL  only for descriptors marked shared, right before close(): epoll forgets the description, not the number,
//          so a dup() kept elsewhere would keep reporting. epoll(7), questions and answers, 6.
//
// Owner: one event_loop. Thread: that loop's. Allocation: in open().

#include <cstdint>
#include <memory>

#include "core/fdtab.hpp"
#include "core/result.hpp"
#include "core/shared_count.hpp"
#include "core/unique_fd.hpp"

namespace weir::inline WEIR_KERNEL {

// What a new descriptor is asked to report from the start.
enum class interest : std::uint8_t {
    recv,      // it can surely be sent to; OUT is asked for at the first EAGAIN
    recv_send, // its first OUT means something: a connect under way
};

class poller {
  public:
    // `table` outlives the poller. ENOMEM, EMFILE, ENFILE.
    result<void> open(fdtab& table, std::uint32_t events_max) noexcept;

    // ENOSPC: /proc/sys/fs/epoll/max_user_watches; ENOMEM; EPERM: a file that cannot be polled.
    result<void> add(fd_slot& slot, interest first) noexcept;

    // Asks for EPOLLOUT as well, if that was not done yet.
    result<void> await_send(fd_slot& slot) noexcept;

    // Before close() of a shared descriptor.
    void remove(const fd_slot& slot) noexcept;

    enum class batch : std::uint8_t {
        partial,     // nothing more was there
        full,        // there may be more behind it
        interrupted, // a signal ended the wait: what is there was not asked
    };

    // Waits up to timeout_ms (-1: without end) and merges one batch.
    batch wait(int timeout_ms) noexcept;

    // The same to the nanosecond. A kernel that cannot is asked once; from then on the time is rounded up to whole
    // milliseconds, and such waits are counted.
    batch wait_precisely(duration timeout) noexcept;

    // Packets are asked for while it waits: see sys::busy_poll. False: the kernel has no such thing, or it may not be.
    [[nodiscard]] bool busy_poll(const sys::busy_poll& how) noexcept {
        return sys::epoll_busy_poll(epoll_fd_.get(), how) == 0;
    }

    std::uint64_t imprecise_count() const noexcept { return imprecise_count_; }
    std::uint64_t wait_count() const noexcept { return wait_count_; }
    std::uint64_t event_count() const noexcept { return event_count_; }
    std::uint64_t ctl_count() const noexcept { return ctl_count_; } // every epoll_ctl so far

    // Rounded up, so that nothing that waits for the end of it comes early.
    static int in_ms(duration timeout) noexcept;

  private:
    std::uint32_t room() const noexcept;
    batch merge(int answer, std::uint32_t events_max) noexcept;

    fdtab* table_ = nullptr;
    unique_fd epoll_fd_;
    std::unique_ptr<epoll_event[]> events_;
    std::uint32_t events_max_ = 0;
    bool is_precise_ = true; // as far as is known
    counter imprecise_count_;
    counter wait_count_, event_count_, ctl_count_;
};

} // namespace weir::inline WEIR_KERNEL
