// dialer: connect, with room made for it if need be.

#include "core/dialer.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

// Whether the kernel may choose `to` as the address that a connect to it comes from. Told without asking the kernel: a
// connect to port 80 or 8080 costs nothing more.
bool may_meet_itself(const conntab& conns, const endpoint& to, const endpoint& source) noexcept {
    if (to.family() == AF_UNIX) return false;
    if (source.port() != 0) return source.port() == to.port();
    return conns.local_ports().first <= to.port() && to.port() <= conns.local_ports().last;
}

// An errno; 0: it is connected to another socket, or will be.
int check_other_end(int fd, const endpoint& to) noexcept {
    const auto met = meets_itself(fd, to);
    if (met && !met.value()) return 0;
    // RST: to itself, since TIME_WAIT would keep the port from the server whose it is; to another socket, if it cannot be
    // told, since nothing was said that a FIN could end.
    sys::set_abortive(fd);
    return met ? ECONNREFUSED : met.error(); // nobody listens there, or the port would not have been free
}

} // namespace

result<connection*> dial(conntab& conns, const ctrl& family, const endpoint& to, const dial_options& options,
                         const data_cb& table, void* owner) noexcept {
    EXPECT(conns.is_open());
    EXPECT(conns.loop().is_mine());
    EXPECT(options.timeout > duration{0});
    if (conns.full() && !conns.relieve(shortage::connections)) return failure{ENFILE};
    const connect_options how{.source = options.source, .user_timeout = options.user_timeout, .keep_busy = true};
    auto socket = family.connect(to, how);
    if (!socket && is_shortage(socket.error()) && conns.relieve(shortage::descriptors))
        socket = family.connect(to, how);
    if (!socket) return failure{socket.error()};

    connecting_socket& made = socket.value();
    if (may_meet_itself(conns, to, options.source))
        if (const int error = check_other_end(made.fd.get(), to)) return failure{error};
    auto conn = conns.adopt(std::move(made.fd), family, *options.transport,
                            {.origin = conn_origin::dialed,
                             .connecting = true,
                             .connected_at_once = !made.pending,
                             .peer = &to,
                             .has_user_timeout = options.user_timeout > duration{0}});
    if (!conn) return conn;
    conn.value()->attach(table, owner);
    conn.value()->arm(later(conns.loop().now(), options.timeout), connection::timed_out);
    if (made.busy) conns.redials().add(*conn.value(), to);
    return conn;
}

} // namespace weir::inline WEIR_KERNEL
