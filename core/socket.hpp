#pragma once
// socket: making stream sockets that listen or connect, with the options that every proxy wants.
//
// These are steps for ctrl tables (ctrl.hpp) to put together; users call a listener or a dialer.
// Every function returns the descriptor, or the errno of the step that failed; nothing stays open then.

#include <algorithm>

#include "core/endpoint.hpp"
#include "core/result.hpp"
#include "core/time.hpp"
#include "core/unique_fd.hpp"

namespace weir::inline WEIR_KERNEL {

// Errors that say what this process or machine is short of, and that may pass.
constexpr bool is_shortage(int error) noexcept {
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

// TCP_USER_TIMEOUT, tcp(7): for so long what was sent may stay unacknowledged, or the peer's window too small for the
// next segment, before the kernel ends the connection with ETIMEDOUT. Linux counts the whole time of a small window,
// though a slow reader takes bytes all the while. So a finite value ends slow readers, and the default is none: the
// deadlines of relay_pool and of http1_exchange end a peer that takes nothing, and keepalive ends an idle peer whose
// host is dead.
inline constexpr duration user_timeout_default{0}; // 0: the system's

// The TCP_USER_TIMEOUT of a socket whose user has deadlines up to `longest`: none of them is cut short.
constexpr duration user_timeout_for(duration asked, duration longest) noexcept {
    return asked == duration{0} ? asked : std::max(asked, longest);
}

// Who may connect to a unix path: connect(2) needs write permission. In force before the first client can connect. -1:
// as the umask and the process's user and group say. EPERM: only root gives a file to another user, or to a group that
// the process is not in; chown(2).
struct socket_file {
    std::int32_t mode = -1; // 0660
    std::int64_t user = -1, group = -1;
};

struct listen_options {
    int backlog_count = 4096; // the kernel caps it at net.core.somaxconn, listen(2)
    bool reuse_port = false;  // SO_REUSEPORT: several listeners on one port, one per thread, socket(7)
    // Only bound: listen() comes later, by listener::begin() or the caller. Until then the kernel lets nobody in who
    // would be lost if it never came to that.
    bool held = false;
    duration user_timeout = user_timeout_default; // of what it accepts; whole milliseconds
    socket_file file{}; // of a unix path
};

// A listening socket with SO_REUSEADDR, so that a restart is not held up by TIME_WAIT.
result<unique_fd> open_listener(const endpoint& at, const listen_options& options) noexcept;

// A socket whose connect() has begun or is already done.
struct connecting_socket {
    unique_fd fd;
    bool pending = true; // false: connected at once (unix sockets; TCP to itself at times)
    bool busy = false;   // nothing is under way: connect() is to be repeated. Only with keep_busy
};

struct connect_options {
    endpoint source{}; // bind to this before connecting; unspecified: the kernel chooses
    duration user_timeout = user_timeout_default;
    bool keep_busy = false; // a unix listener's full backlog is no error: `busy`
};

// Begins to connect. EAGAIN: the backlog of a unix listener is full, unix(7), and not keep_busy. A bound source without a port takes one
// at connect time, so that ports are shared between destinations (IP_BIND_ADDRESS_NO_PORT, ip(7)).
result<connecting_socket> open_connection(const endpoint& to, const connect_options& options) noexcept;

// Whether a connect of `fd` to `to` has met itself: the kernel chose `to` as the address to connect from, and TCP lets a
// socket connect to itself then (RFC 9293 section 3.5, simultaneous open). The local address is known as soon as
// connect() has answered. ENOBUFS: it cannot be told.
result<bool> meets_itself(int fd, const endpoint& to) noexcept;

// Options for a new TCP socket that will connect or listen (what a listener accepts inherits them): no Nagle delay;
// keepalive probes after 60 s without a byte, which find a dead host after 60 + 9 x 10 s (net.ipv4.tcp_keepalive_probes
// is 9); the user timeout, which then stands for the number of probes.
void tune_tcp(int fd, duration user_timeout) noexcept;
// The same for a TCP listener that was made elsewhere: whatever was set before is overwritten. Connections that wait in
// its queue keep what they have.
void tune_inherited_tcp(int fd, duration user_timeout) noexcept;
// 0: the system's.
void set_user_timeout(int fd, duration user_timeout) noexcept;

} // namespace weir::inline WEIR_KERNEL
