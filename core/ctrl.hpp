#pragma once
// ctrl: how a family of sockets is opened, drained and described. One constant table per family.
//
// The tables live in proto/ (tcp, unix); the engine knows only this shape.

#include <cstdint>

#include "core/socket.hpp"

namespace weir::inline WEIR_KERNEL {

// How a drain ended.
enum class drained : std::uint8_t {
    again,  // nothing more for now: wait for the poller
    closed, // the peer's end was found
    failed, // an error was, or the peer sends faster than a transport's drain may go on
    more,   // as many bytes as the caller allowed were thrown away, and there may be more
};

struct drain_result {
    drained end;
    std::size_t bytes; // thrown away on the way
    // Of a transport: it holds the beginning of a record, which may turn out to be anything.
    bool partial = false;
};

struct ctrl {
    const char* name;
    result<unique_fd> (*listen)(const endpoint& at, const listen_options& options) noexcept;
    result<connecting_socket> (*connect)(const endpoint& to, const connect_options& options) noexcept;
    // Throws away what can be received, without looking at it, until it has reached `bytes_max`; it may go beyond by
    // one read. Null: this family cannot; an idle connection then stops receiving and relies on HUP, ERR and RDHUP.
    drain_result (*drain)(int fd, std::size_t bytes_max) noexcept;
    // A short read proves that nothing is left and no end has come: epoll reports EPOLLRDHUP for this family, and a
    // recv does not end early for another reason.
    bool short_read_proves;
    // Bytes may have descriptors with them, and then a recv ends behind those: unix(7). A read that met some proves
    // nothing.
    bool carries_fds;
    // It is TCP: TCP_INFO counts acknowledged bytes, and TCP_USER_TIMEOUT can be set.
    bool counts_acked;
};

} // namespace weir::inline WEIR_KERNEL
