// leak_peers: the sockets, and the manners.

#include "tools/leak_peers.hpp"

#include <cstdlib>
#include <cstring>

#include <poll.h>

#include "proto/tcp.hpp"
#include "tools/child.hpp"
#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

constexpr std::uint32_t addresses = 0x7f4f0001; // 127.79.0.1 and on

verdict over(connection& conn) noexcept { return conn.close(close_intent::after_fin, end_cause::done); }
verdict broken(connection& conn) noexcept { return conn.close(close_intent::silent, conn.failure()); }
verdict wake(connection& conn) noexcept { return conn.is_broken() ? broken(conn) : verdict::keep; }

// One byte, or the end.
enum class got : std::uint8_t { byte, nothing, end, failure };
got take(connection& conn, char& byte) noexcept {
    switch (conn.recv(&byte, 1).end) {
    case io::done: return got::byte;
    case io::again: return got::nothing;
    case io::closed: return got::end;
    case io::failed: break;
    }
    return got::failure;
}

// Until the peer's end.
verdict echo_recv(connection& conn) noexcept {
    for (char byte;;) {
        switch (take(conn, byte)) {
        case got::byte: break;
        case got::nothing: return verdict::keep;
        case got::end: return over(conn);
        case got::failure: return broken(conn);
        }
    }
}
constinit const data_cb echo_cb{.name = "peer-echo", .recv = echo_recv, .send = keep_on, .wake = wake};

// Goes on after the peer's FIN, until its reset.
verdict half_recv(connection& conn) noexcept {
    char byte;
    const got g = take(conn, byte);
    if (g == got::failure) return broken(conn);
    if (g == got::end) conn.send("f");
    return verdict::keep;
}
constinit const data_cb half_cb{.name = "peer-half", .recv = half_recv, .send = keep_on, .wake = wake};

verdict reset_recv(connection& conn) noexcept {
    char byte;
    return take(conn, byte) == got::nothing ? verdict::keep : conn.close(close_intent::abort, end_cause::done);
}
constinit const data_cb reset_cb{.name = "peer-reset", .recv = reset_recv, .send = keep_on, .wake = wake};

verdict first_recv(connection& conn) noexcept {
    char byte;
    switch (take(conn, byte)) {
    case got::byte: break;
    case got::nothing: return verdict::keep;
    case got::end: return over(conn);
    case got::failure: return broken(conn);
    }
    conn.send({&byte, 1});
    conn.attach(byte == 'h' ? half_cb : byte == 'r' ? reset_cb : echo_cb, nullptr);
    if (byte == 's' || byte == 'b') conn.shutdown_send();
    return conn.cb().recv(conn); // what came behind it
}
constinit const data_cb first_cb{.name = "peer", .recv = first_recv, .send = keep_on, .wake = wake};

void accepted(void*, connection& conn, const endpoint&) noexcept {
    conn.attach(first_cb, nullptr);
    conn.want_recv();
}

unique_fd listen_at(std::uint32_t address, int backlog) {
    auto fd = tcp.listen(endpoint::ipv4(address, 0), {.backlog_count = backlog});
    if (!fd) fail("cannot listen on loopback: %s", std::strerror(fd.error()));
    return std::move(fd).value();
}

endpoint where(const unique_fd& fd) {
    const auto at = local_endpoint(fd.get());
    if (!at) fail("a socket has no address: %s", std::strerror(at.error()));
    return at.value();
}

} // namespace

leak_peers::leak_peers() : hole_(listen_at(addresses, 0)), victim_(listen_at(addresses, 4096)) {
    for (std::uint32_t i = 0; i < upstreams_.size(); i++)
        upstreams_[i] = listen_at(addresses + i, 4096);

    // Bound, so that nobody else can listen there, and refusing because it does not listen.
    refused_.reset(sys::socket(AF_INET, SOCK_STREAM));
    const endpoint any = endpoint::ipv4(addresses, 0);
    if (!refused_ || sys::bind(refused_.get(), any.data(), any.size()) < 0) fail("no port can be bound");

    // The kernel answers no SYN while as many as the backlog holds are not accepted.
    constexpr int fillers_max = 8, patience_ms = 100;
    for (int i = 0; i < fillers_max; i++) {
        auto filler = tcp.connect(where(hole_), {});
        if (!filler) fail("the backlog of a socket cannot be filled: %s", std::strerror(filler.error()));
        hole_fillers_.push_back(std::move(filler.value().fd));
        pollfd waits{.fd = hole_fillers_.back().get(), .events = POLLOUT, .revents = 0};
        if (::poll(&waits, 1, patience_ms) == 0) return;
    }
    fail("a full backlog still answers: a connect that times out cannot be had");
}

void leak_peers::tell(leak_proxy_options& to) const noexcept {
    for (std::size_t i = 0; i < upstreams_.size(); i++)
        to.upstreams[i] = where(upstreams_[i]);
    to.refused = where(refused_);
    to.hole = where(hole_);
    to.victim = where(victim_);
}

void leak_peers::serve(conntab& conns) {
    for (unique_fd& fd : upstreams_) {
        doors_.push_back(std::make_unique<listener>(conns));
        const auto r = doors_.back()->adopt(std::move(fd), tcp, {}, accepted, nullptr);
        if (!r) fail("cannot accept: %s", std::strerror(r.error()));
    }
}

pid_t start_victim(int listening) noexcept {
    const pid_t pid = fork_child(listening);
    if (pid != 0) return pid;
    ::fcntl(3, F_SETFL, 0); // blocking
    for (;;) {
        const int fd = ::accept(3, nullptr, nullptr);
        if (fd >= 0) ::send(fd, "k", 1, MSG_NOSIGNAL);
        else if (errno != EINTR && errno != ECONNABORTED) std::_Exit(1);
    }
}

} // namespace weir::inline WEIR_KERNEL::tools
