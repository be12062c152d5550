// dialer: connect, with room made for it if need be.

#include "core/dialer.hpp"

namespace weir::inline WEIR_KERNEL {

result<connection*> dial(conntab& conns, const ctrl& family, const endpoint& to, const dial_options& options,
                         const data_cb& table, void* owner) noexcept {
    EXPECT(conns.is_open());
    EXPECT(conns.loop().is_mine());
    EXPECT(options.timeout > duration{0});
    if (conns.full() && !conns.relieve(shortage::connections)) return failure{ENFILE};
    const connect_options how{.source = options.source, .user_timeout = options.user_timeout};
    auto socket = family.connect(to, how);
    if (!socket && is_shortage(socket.error()) && conns.relieve(shortage::descriptors))
        socket = family.connect(to, how);
    if (!socket) return failure{socket.error()};

    connecting_socket& made = socket.value();
    auto conn = conns.adopt(std::move(made.fd), family, *options.transport,
                            {.origin = conn_origin::dialed,
                             .connecting = true,
                             .connected_at_once = !made.pending,
                             .peer = &to,
                             .has_user_timeout = options.user_timeout > duration{0}});
    if (!conn) return conn;
    conn.value()->attach(table, owner);
    conn.value()->arm(later(conns.loop().now(), options.timeout), connection::timed_out);
    return conn;
}

} // namespace weir::inline WEIR_KERNEL
