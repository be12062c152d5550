// socket: the system calls behind listening and connecting, in their order.

#include "core/socket.hpp"

#include <algorithm>
#include <climits>

namespace weir::inline WEIR_KERNEL {

namespace {

// Behind bind(), which makes the file, and before listen(): until then connect(2) says ECONNREFUSED.
int set_access(const endpoint& at, const listen_options& options) noexcept {
    const socket_file& file = options.file;
    const bool is_asked = file.mode >= 0 || file.user >= 0 || file.group >= 0;
    if (!is_asked || at.family() != AF_UNIX || at.path()[0] == '\0') return 0; // an abstract name has no file
    return sys::set_socket_access(at.path(), file.mode, file.user, file.group);
}

} // namespace

result<unique_fd> open_listener(const endpoint& at, const listen_options& options) noexcept {
    const int made = sys::socket(at.family(), SOCK_STREAM);
    if (made < 0) return failure{-made};
    unique_fd fd{made};
    if (at.family() != AF_UNIX) {
        if (const int r = sys::set_option(made, SOL_SOCKET, SO_REUSEADDR, 1); r < 0) return failure{-r};
        tune_tcp(made, options.user_timeout);
        if (options.reuse_port)
            if (const int r = sys::set_option(made, SOL_SOCKET, SO_REUSEPORT, 1); r < 0) return failure{-r};
    }
    if (const int r = sys::bind(made, at.data(), at.size()); r < 0) return failure{-r};
    if (const int r = set_access(at, options); r < 0) {
        sys::unlink_socket(at.path()); // bound a moment ago
        return failure{-r};
    }
    if (options.held) return fd;
    if (const int r = sys::listen(made, options.backlog_count); r < 0) return failure{-r};
    return fd;
}

result<connecting_socket> open_connection(const endpoint& to, const connect_options& options) noexcept {
    const int made = sys::socket(to.family(), SOCK_STREAM);
    if (made < 0) return failure{-made};
    connecting_socket s{.fd = unique_fd{made}};
    if (options.source.specified()) {
        if (to.family() != AF_UNIX && options.source.port() == 0)
            sys::set_option(made, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1); // without it bind() still works
        if (const int r = sys::bind(made, options.source.data(), options.source.size()); r < 0) return failure{-r};
    }
    if (to.family() != AF_UNIX) tune_tcp(made, options.user_timeout);
    const int r = sys::connect(made, to.data(), to.size());
    s.busy = r == -EAGAIN && options.keep_busy && to.family() == AF_UNIX;
    if (r < 0 && r != -EINPROGRESS && !s.busy) return failure{-r};
    s.pending = r < 0;
    return s;
}

result<bool> meets_itself(int fd, const endpoint& to) noexcept {
    const auto from = local_endpoint(fd);
    if (!from) return failure{from.error()};
    // A connect to the unspecified address goes to this host, Linux's tcp_v4_connect().
    return from.value().port() == to.port() && (from.value().same_address(to) || to.is_any());
}

// None of these can fail on a TCP socket of a kernel weir runs on; without them the connection works all the same.
void tune_tcp(int fd, duration user_timeout) noexcept {
    sys::set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    sys::set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    sys::set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
    if (user_timeout > duration{0}) set_user_timeout(fd, user_timeout);
    else sys::set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
}

void tune_inherited_tcp(int fd, duration user_timeout) noexcept {
    tune_tcp(fd, user_timeout);
    if (user_timeout == duration{0}) set_user_timeout(fd, user_timeout);
}

void set_user_timeout(int fd, duration user_timeout) noexcept {
    const auto ms = std::clamp<std::int64_t>(user_timeout / milliseconds{1}, 0, INT_MAX);
    sys::set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(ms));
}

} // namespace weir::inline WEIR_KERNEL
