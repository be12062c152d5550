#pragma once
// send_progress: whether a peer takes what send() gave to the kernel. For deadlines of sending.
//
// The kernel's send buffer holds megabytes, and epoll reports room in it only when a third of it is free: at 20 KB/s
// that takes minutes. So a deadline that counts from the last accepted byte ends readers that take bytes all the time.
// The owner of such a deadline looks at the kernel's queue instead (sys::send_queue), 16 times per timeout, but only
// while there may be something in the queue:
//
//      sent() ──> unknown ──look──> some bytes ──look──> fewer: progress ...  ──look──> 0: settled, no more looks
//                    └── counts as progress: when the peer took the bytes since sent() is not known
//
// So a peer that takes nothing for `timeout` is ended at T in [timeout, timeout + wait_between_looks(timeout)], never
// earlier. (tcpi_last_ack_recv of TCP_INFO would not do: a peer whose window stays closed acknowledges the probes.)
//
// A unix socket gives back its memory by whole sends, unix(7): a send of 16 KB shows when its last byte is read.
// Owner: whoever has the deadline; one per direction. Thread: the connection's loop's. Allocation: none.

#include <algorithm>
#include <cstdint>

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

class send_progress {
  public:
    // The wheel's grain is a millisecond.
    static constexpr duration wait_between_looks(duration timeout) noexcept {
        return std::max<duration>(timeout / 16, milliseconds{1});
    }

    // Whether a send has given bytes to the kernel. A transport may have sent the rest of a record, and count none.
    static bool has_sent(const connection& conn, const io_result& r) noexcept {
        return r.bytes > 0 || conn.hides_bytes();
    }

    // Bytes, or the end, were given to the kernel.
    void sent() noexcept { queued_ = unknown; }
    // Nothing could be given, because the queue is full: of bytes that were given on behalf of somebody else.
    void found_full(const connection& conn) noexcept {
        if (is_settled()) queued_ = static_cast<std::int32_t>(std::max<std::int64_t>(sys::send_queue(conn.fd()), 0));
    }
    // The peer had taken everything at the last look, and nothing was given since: no look is needed.
    bool is_settled() const noexcept { return queued_ == 0; }
    // Asks the kernel, unless it is settled. True: the peer has taken something since the last look, or may have taken
    // something since sent(). Where the kernel cannot be asked it settles, and the deadline counts from sent().
    bool look(const connection& conn) noexcept {
        if (is_settled()) return false;
        const std::int64_t now_queued = sys::send_queue(conn.fd());
        const bool is_progress = now_queued >= 0 && (queued_ == unknown || now_queued < queued_);
        queued_ = static_cast<std::int32_t>(std::max<std::int64_t>(now_queued, 0));
        return is_progress;
    }

  private:
    static constexpr std::int32_t unknown = -1;

    std::int32_t queued_ = 0; // bytes, at the last look
};

} // namespace weir::inline WEIR_KERNEL
