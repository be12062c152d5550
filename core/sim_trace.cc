// sim_trace: the trace as text.

#include "core/sim_trace.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace weir::inline WEIR_KERNEL {

const char* to_string(call what) noexcept {
    static constexpr const char* names[] = {
        "epoll_open",
        "epoll_add",
        "epoll_change",
        "epoll_remove",
        "epoll_wait",
        "epoll_pwait2",
        "epoll_params",
        "  event",
        "eventfd_open",
        "eventfd_ring",
        "eventfd_reset",
        "signal_open",
        "signal_read",
        "socket",
        "bind",
        "listen",
        "accept",
        "connect",
        "shutdown_send",
        "close",
        "recv",
        "peek",
        "discard",
        "send",
        "send_with",
        "recv_with",
        "pipe_open",
        "splice",
        "pipe_room",
        "set_option",
        "set_nonblocking",
        "is_listening",
        "is_readable",
        "socket_error",
        "local_name",
        "peer_name",
        "local_ports",
        "peer_user",
        "bytes_acked",
        "send_queue",
        "cpus_allowed",
        "map",
        "open_append",
        "write",
        "unlink",
        "socket_access",
        "resolve",
        "dup",
        "* connect",
        "* send",
        "* recv",
        "* shutdown",
        "* close",
        "* reset",
        "note",
    };
    static_assert(sizeof names / sizeof *names == static_cast<std::size_t>(call::count_), "every call has a name");
    EXPECT(what < call::count_);
    return names[static_cast<std::size_t>(what)];
}

void trace::print_one(std::FILE* to, const trace_entry& e) noexcept {
    const auto ns = e.at.time_since_epoch().count();
    std::fprintf(to, "%6lld.%06lld  %-14s ", static_cast<long long>(ns / 1'000'000'000),
                 static_cast<long long>(ns / 1000 % 1'000'000), to_string(e.what));
    if (e.text) {
        std::fprintf(to, "%s %lld %lld\n", e.text, static_cast<long long>(e.argument),
                     static_cast<long long>(e.result));
        return;
    }
    std::fprintf(to, "%4d  %-#12llx = ", e.fd, static_cast<unsigned long long>(e.argument));
    if (e.result < 0) std::fprintf(to, "-%s\n", strerrorname_np(static_cast<int>(-e.result)));
    else std::fprintf(to, "%lld\n", static_cast<long long>(e.result));
}

void trace::print(std::FILE* to, std::uint64_t entries_max) const noexcept {
    const auto is_shown = [this](std::uint64_t i) {
        const trace_entry& e = ring_[i % ring_.size()];
        return e.what != call::remote_recv || e.result != -EAGAIN;
    };
    const std::uint64_t oldest = count_ - std::min(count_, std::uint64_t{ring_.size()});
    std::uint64_t first = count_;
    for (std::uint64_t shown = 0; first > oldest && shown < entries_max; first--)
        shown += is_shown(first - 1);
    for (std::uint64_t i = first; i < count_; i++)
        if (is_shown(i)) print_one(to, ring_[i % ring_.size()]);
}

} // namespace weir::inline WEIR_KERNEL
