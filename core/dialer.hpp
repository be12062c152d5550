#pragma once
// dialer: begins a connection to somewhere else.
//
// Nothing waits: dial() answers at once with a connection that is connecting, served by the user's table. Its wake is
// called, in a later turn, when it is connected; or when that failed, and then error() says why: what the socket
// said, or ETIMEDOUT at the deadline. In it, once connected, the user says what is wanted (want_recv()). The user
// closes it, with the cause that connection::failure() suggests.
//
// A unix listener whose backlog is full is asked again until the deadline: redial.hpp. A TCP connect that has met itself
// fails with ECONNREFUSED: nobody listens there, and the kernel chose the very port that was dialed as the local one.
// That takes one more system call for a port within the range that conntab::open() has found
// (net.ipv4.ip_local_port_range, ip(7)), and none for others.
//
// When descriptors or connections are short, something that nobody uses is closed first: a connection that lingers, or
// else an idle one or a free pipe. That is done for the socket; a number beyond the fdtab (EMFILE) stays a refusal, and
// so does what epoll says.

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

struct dial_options {
    endpoint source{}; // bind to this; unspecified: the kernel chooses
    duration timeout = seconds{5};
    duration user_timeout = user_timeout_default; // socket.hpp
    const xprt* transport = &raw_xprt;
};

// EMFILE, ENFILE, ENOMEM, ENOBUFS: none could be made room for. EADDRNOTAVAIL: no port is left. ECONNREFUSED,
// ENOENT, EACCES, ...: connect() failed at once. Nothing is left open then. `conns` is open.
result<connection*> dial(conntab& conns, const ctrl& family, const endpoint& to, const dial_options& options,
                         const data_cb& table, void* owner) noexcept;
result<connection*> dial(conntab& conns, const ctrl& family, const endpoint& to, const dial_options& options,
                         const data_cb&& table, void* owner) = delete; // a table outlives the connection: no temporary

} // namespace weir::inline WEIR_KERNEL
