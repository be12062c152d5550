// sim_faults: names, what is documented, and the draw of a run's ratios.

#include "core/sim_faults.hpp"

#include <algorithm>
#include <cerrno>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL {

const char* to_string(fault kind) noexcept {
    static constexpr const char* names[] = {
        "accept_emfile",       "accept_enfile",    "accept_enobufs",   "accept_enomem",
        "accept_econnaborted", "accept_eproto",    "accept_eperm",     "socket_emfile",
        "socket_enfile",       "socket_enobufs",   "socket_enomem",    "connect_eaddrnotavail",
        "connect_enetunreach", "connect_eagain",   "connect_at_once",  "connect_refused",
        "connect_timed_out",   "connect_lost",     "connect_reset",    "connect_eintr",
        "epoll_open_emfile",   "epoll_add_enospc", "epoll_add_enomem", "epoll_change_enomem",
        "epoll_early",         "epoll_late",       "epoll_few",        "epoll_spurious",
        "eventfd_emfile",      "eventfd_eagain",   "signalfd_emfile",  "send_short",
        "send_eagain",         "send_enobufs",     "send_enomem",      "recv_enomem",
        "recv_etimedout",      "option_einval",    "name_enobufs",     "map_enomem",
        "close_eintr",         "close_eio",        "wire_slow",        "wire_pieces",
        "wire_reset",          "clock_jump",       "call_late",        "recv_with_cut",
        "splice_cut",          "splice_mark",      "stop_in_sleep",    "stop_in_call",
        "connect_itself",
    };
    static_assert(sizeof names / sizeof *names == fault_plan::kinds, "every kind has a name");
    EXPECT(kind < fault::count_);
    return names[static_cast<std::size_t>(kind)];
}

// ---- what is documented

namespace {

struct errnos_of {
    call what;
    int errnos[16]; // 0 ends them
};

constexpr errnos_of documented[] = {
    {call::epoll_open, {EMFILE, ENFILE, ENOMEM}},
    {call::epoll_add, {ENOMEM, ENOSPC, EPERM}},
    {call::epoll_change, {ENOMEM}},
    {call::epoll_wait, {EINTR}},                 // of a sleep only
    {call::epoll_wait_precise, {ENOSYS, EPERM}}, // EINTR: asked as of epoll_wait
    {call::epoll_busy_poll, {ENOTTY, EOPNOTSUPP, EPERM, EINVAL}},
    {call::eventfd_open, {EMFILE, ENFILE, ENOMEM}},
    {call::eventfd_ring, {EAGAIN}},  // the counter is full
    {call::eventfd_reset, {EAGAIN}}, // another thread has just done that
    {call::signal_open, {EMFILE, ENFILE, ENOMEM}},
    {call::socket, {EACCES, EAFNOSUPPORT, EMFILE, ENFILE, ENOBUFS, ENOMEM}},
    {call::bind, {EACCES, EADDRINUSE, EADDRNOTAVAIL, ELOOP, ENOENT, ENOMEM, ENOTDIR, EROFS}},
    {call::listen, {EADDRINUSE}},
    // The first four leave the connection in its queue, EINVAL (somebody has shut the listener down) empties the queue,
    // the others lose the one connection; from ENETDOWN on they are errors that were pending on it.
    {call::accept,
     {EMFILE, ENFILE, ENOBUFS, ENOMEM, EINVAL, ECONNABORTED, EPERM, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET,
      EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH}},
    {call::connect,
     {EACCES, EPERM, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, ECONNREFUSED, ENETUNREACH, EHOSTUNREACH,
      ETIMEDOUT, ENOENT, ENOBUFS, EINTR}}, // EINTR is settled by the seam: it goes on
    {call::shutdown_send, {ENOTCONN}},     // a RST has come
    {call::close, {EINTR, EIO}},           // the descriptor is gone all the same
    {call::recv, {ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENOMEM}},
    {call::peek, {ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENOMEM}},
    {call::discard, {ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENOMEM}},
    {call::send, {ECONNRESET, EPIPE, ETIMEDOUT, EHOSTUNREACH, ENOBUFS, ENOMEM, EAGAIN}}, // EAGAIN: memory is short
    {call::send_with, {ECONNRESET, EPIPE, ENOBUFS, ENOMEM, ETOOMANYREFS, EAGAIN}},
    {call::recv_with, {ECONNRESET, ENOMEM, EMFILE}}, // EMFILE: what was passed is cut off
    {call::pipe_open, {EMFILE, ENFILE, ENOMEM}},
    {call::splice, {ENOMEM}},                  // what a socket answers besides is told by recv and send
    {call::pipe_room, {EPERM, ENOMEM}},        // beyond what one user may have
    {call::set_option, {EINVAL, ENOPROTOOPT}}, // a kernel without the option
    {call::set_nonblocking, {EPERM}},          // a filter of system calls
    {call::is_listening, {ENOPROTOOPT}},
    {call::is_readable, {ENOMEM}}, // settled by the seam: in doubt
    {call::socket_error, {ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ECONNRESET}},
    {call::local_name, {ENOBUFS}},
    {call::peer_name, {ENOBUFS}},
    {call::local_ports, {EACCES, EMFILE, ENFILE, ENOENT, ENOMEM}}, // of open(2): no /proc, or none for this process
    {call::peer_user, {ENOPROTOOPT}}, // a filter of system calls
    {call::bytes_acked, {ENOPROTOOPT}},
    {call::send_queue, {ENOTTY}},   // a filter of system calls
    {call::cpus_allowed, {EINVAL}}, // more than there is room for
    {call::map, {ENOMEM}},
    {call::open_append, {EACCES, EDQUOT, EISDIR, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, ENOTDIR, EROFS}},
    {call::write, {EAGAIN, EDQUOT, EFBIG, EIO, ENOSPC, EPIPE}},
    {call::unlink_socket, {EACCES, EBUSY, EIO, ENOENT, ENOTSOCK, EPERM, EROFS}},
    {call::set_socket_access, {EACCES, EIO, ENOENT, ENOTSOCK, EPERM, EROFS}},
    {call::resolve, {ENOENT, ENOMEM, EMFILE}}, // EAI_NONAME and its like, EAI_MEMORY, EAI_SYSTEM
};

} // namespace

std::span<const int> documented_errnos(call what) noexcept {
    for (const errnos_of& row : documented) {
        if (row.what != what) continue;
        std::size_t n = 0;
        while (n < std::size(row.errnos) && row.errnos[n] != 0)
            n++;
        return {row.errnos, n};
    }
    return {};
}

int planned_failure::ask(call what) noexcept {
    if (paused_) return 0;
    if (error_ != 0 && how_long_ == extent::from_then_on && what == what_) return error_;
    if (++count_ != at_) return 0;
    const std::span<const int> errnos = documented_errnos(what);
    what_ = what;
    ways_ = errnos.size();
    EXPECT(ways_ > 0); // who cannot fail does not ask
    if (way_ < ways_) error_ = errnos[way_];
    return error_;
}

// ---- chance

void fault_plan::draw(dice& chance) noexcept {
    static constexpr std::uint32_t strengths[] = {10, 50, 200, 800, 2500};
    constexpr auto drawn = static_cast<std::size_t>(fault::recv_with_cut);
    for (std::uint32_t& ratio : std::span{ratios_}.first<drawn>()) {
        const bool silent = chance.coin();
        const std::uint32_t strength = strengths[chance.below(5)];
        ratio = silent ? 0 : strength;
    }
    // What comes behind has the cause of another, and so its ratio; more of it where the occasion is rare.
    set(fault::recv_with_cut, ratio(fault::accept_emfile)); // short of descriptors
    set(fault::splice_cut, 4 * ratio(fault::epoll_early));  // signals
    set(fault::splice_mark, 8 * ratio(fault::wire_pieces)); // what the other side likes to send
    set(fault::connect_itself, std::min(8 * ratio(fault::connect_refused), 5000u)); // only where nobody listens
    // These cost seconds of virtual time or a whole connection each: as often as the others they would hide them.
    for (fault kind : {fault::clock_jump, fault::wire_reset, fault::epoll_late}) {
        auto& ratio = ratios_[static_cast<std::size_t>(kind)];
        if (ratio > 50) ratio = 50;
    }
    set(fault::stop_in_sleep, 20 * ratio(fault::clock_jump)); // of the sleeps that epoll_early ends
    set(fault::stop_in_call, ratio(fault::clock_jump) / 8);
}

} // namespace weir::inline WEIR_KERNEL
