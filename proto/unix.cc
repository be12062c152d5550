// unix: sockets of the family.

#include "proto/unix.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

drain_result drain(int fd, std::size_t bytes_max) noexcept {
    char thrown_away[16 * 1024];
    std::size_t total = 0;
    while (total < bytes_max) {
        const sys::count n = sys::recv(fd, thrown_away, sizeof thrown_away);
        if (n == -EAGAIN) return {drained::again, total};
        if (n <= 0) return {n == 0 ? drained::closed : drained::failed, total};
        total += static_cast<std::size_t>(n);
    }
    return {drained::more, total};
}

// A path outlives its listener. Whether anybody still listens there, only a connect can tell.
bool is_abandoned(const endpoint& at) noexcept {
    auto probe = open_connection(at, {});
    return !probe && probe.error() == ECONNREFUSED;
}

result<unique_fd> listen(const endpoint& at, const listen_options& options) noexcept {
    auto fd = open_listener(at, options);
    if (fd || fd.error() != EADDRINUSE || at.path()[0] == '\0') return fd;
    if (!is_abandoned(at) || sys::unlink_socket(at.path()) < 0) return fd;
    return open_listener(at, options);
}

} // namespace

// A recv ends early, whatever is queued, behind bytes that had descriptors with them, which carries_fds tells apart; at a
// change of credentials, with SO_PASSCRED only, and then each read counts as such a one; and at out-of-band bytes, which
// epoll reports as EPOLLPRI: unix(7).
const ctrl unix_stream{.name = "unix",
                       .listen = listen,
                       .connect = open_connection,
                       .drain = drain,
                       .short_read_proves = true,
                       .carries_fds = true,
                       .counts_acked = false};

result<endpoint> parse_unix(std::string_view text) noexcept {
    constexpr std::string_view scheme = "unix:";
    if (text.substr(0, scheme.size()) != scheme) return failure{EINVAL};
    return endpoint::unix_path(text.substr(scheme.size()));
}

} // namespace weir::inline WEIR_KERNEL
