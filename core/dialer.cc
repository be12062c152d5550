// dialer: connect, with room made for it if need be.

#include "core/dialer.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

void connect_timed_out(timer& t, time_point) noexcept { connection::of(t).fail(ETIMEDOUT); }

} // namespace

result<connection*> dial(conntab& conns, const ctrl& family, const endpoint& to, const dial_options& options,
                         const data_cb& table, void* owner) noexcept {
    EXPECT(conns.loop().is_mine());
    EXPECT(options.timeout > duration{0});
    if (conns.full() && !conns.relieve()) return failure{ENFILE};
    const connect_options how{.source = options.source, .user_timeout = options.user_timeout};
    auto socket = family.connect(to, how);
    if (!socket && is_shortage(socket.error()) && conns.relieve()) socket = family.connect(to, how);
    if (!socket) return failure{socket.error()};

    connecting_socket& made = socket.value();
    auto conn = conns.adopt(std::move(made.fd), family, *options.transport,
                            {.origin = conn_origin::dialed, .connecting = true, .connected_at_once = !made.pending});
    if (!conn) return conn;
    conn.value()->attach(table, owner);
    conn.value()->arm(conns.loop().now() + options.timeout, connect_timed_out);
    return conn;
}

} // namespace weir::inline WEIR_KERNEL
