// sim_faults: names, and the draw of a run's ratios.

#include "core/sim_faults.hpp"

namespace weir::inline WEIR_KERNEL {

const char* to_string(fault kind) noexcept {
    static constexpr const char* names[] = {
        "accept_emfile",       "accept_enfile",       "accept_enobufs",  "accept_enomem",
        "accept_econnaborted", "accept_eproto",       "accept_eperm",    "socket_emfile",
        "socket_enfile",       "socket_enobufs",      "socket_enomem",   "connect_eaddrnotavail",
        "connect_enetunreach", "connect_eagain",      "connect_at_once", "connect_refused",
        "connect_timed_out",   "connect_lost",        "connect_reset",   "epoll_add_enospc",
        "epoll_add_enomem",    "epoll_change_enomem", "epoll_early",     "epoll_late",
        "epoll_few",           "epoll_spurious",      "eventfd_emfile",  "eventfd_eagain",
        "send_short",          "send_eagain",         "close_eintr",     "close_eio",
        "wire_slow",           "wire_pieces",         "wire_reset",      "clock_jump",
    };
    static_assert(sizeof names / sizeof *names == fault_plan::kinds, "every kind has a name");
    EXPECT(kind < fault::count_);
    return names[static_cast<std::size_t>(kind)];
}

void fault_plan::draw(dice& chance) noexcept {
    static constexpr std::uint32_t strengths[] = {10, 50, 200, 800, 2500};
    for (std::uint32_t& ratio : ratios_) {
        const bool silent = chance.coin();
        const std::uint32_t strength = strengths[chance.below(5)];
        ratio = silent ? 0 : strength;
    }
    // These cost seconds of virtual time or a whole connection each: as often as the others they would hide them.
    for (fault kind : {fault::clock_jump, fault::wire_reset, fault::epoll_late}) {
        auto& ratio = ratios_[static_cast<std::size_t>(kind)];
        if (ratio > 50) ratio = 50;
    }
}

} // namespace weir::inline WEIR_KERNEL
