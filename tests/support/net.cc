// net: the system calls behind the tests' sockets.

#include "support/net.hpp"

#include <array>
#include <cerrno>
#include <ctime>
#include <system_error>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace support {
namespace {

// The value of a system call, or an exception that names it.
template <class Value>
Value must(Value value, const char* call) {
    if (value < 0) throw std::system_error(errno, std::generic_category(), call);
    return value;
}

int socket_flags(blocking mode) {
    return SOCK_CLOEXEC | (mode == blocking::no ? SOCK_NONBLOCK : 0);
}

sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    return address;
}

std::uint16_t bind_loopback(int fd) {
    sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    must(::bind(fd, reinterpret_cast<const sockaddr*>(&address), length), "bind");
    must(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), "getsockname");
    return ntohs(address.sin_port);
}

void must_wait(int fd, short events, const char* what) {
    if (!wait_for(fd, events)) throw std::system_error(ETIMEDOUT, std::generic_category(), what);
}

} // namespace

descriptor& descriptor::operator=(descriptor&& other) noexcept {
    if (this != &other) {
        close();
        fd_ = other.release();
    }
    return *this;
}

void descriptor::close() noexcept {
    if (fd_ >= 0) ::close(release());
}

pair stream_pair(blocking mode) {
    std::array<int, 2> ends{};
    must(::socketpair(AF_UNIX, SOCK_STREAM | socket_flags(mode), 0, ends.data()), "socketpair");
    return {.a = descriptor(ends[0]), .b = descriptor(ends[1])};
}

pair tcp_pair(blocking mode) {
    const tcp_listener listener = listen_tcp();
    descriptor dialled = connect_tcp(listener.port, mode);
    return {.a = std::move(dialled), .b = accept_tcp(listener, mode)};
}

pair pipe_pair(blocking mode) {
    std::array<int, 2> ends{};
    must(::pipe2(ends.data(), O_CLOEXEC | (mode == blocking::no ? O_NONBLOCK : 0)), "pipe2");
    return {.a = descriptor(ends[0]), .b = descriptor(ends[1])};
}

tcp_listener listen_tcp(blocking mode, int backlog) {
    tcp_listener listener{.fd = descriptor(must(::socket(AF_INET, SOCK_STREAM | socket_flags(mode), 0), "socket"))};
    listener.port = bind_loopback(listener.fd.get());
    must(::listen(listener.fd.get(), backlog), "listen");
    return listener;
}

descriptor connect_tcp(std::uint16_t port, blocking mode) {
    descriptor fd(must(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
    const sockaddr_in address = loopback(port);
    must(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), "connect");
    set_blocking(fd.get(), mode);
    return fd;
}

descriptor accept_tcp(const tcp_listener& listener, blocking mode) {
    must_wait(listener.fd.get(), POLLIN, "accept_tcp: nobody connected");
    return descriptor(must(::accept4(listener.fd.get(), nullptr, nullptr, socket_flags(mode)), "accept4"));
}

std::uint16_t refused_port() {
    const descriptor fd(must(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
    return bind_loopback(fd.get());
}

bool wait_for(int fd, short events, std::chrono::milliseconds limit) {
    using clock = std::chrono::steady_clock;
    const auto deadline = clock::now() + limit;
    pollfd poll_one{.fd = fd, .events = events, .revents = 0};
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock::now()).count();
        const int n = ::poll(&poll_one, 1, left > 0 ? static_cast<int>(left) : 0);
        if (n >= 0) return n > 0;
        if (errno != EINTR) must(n, "poll");
    }
}

void send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        must_wait(fd, POLLOUT, "send_all: no room");
        const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        bytes.remove_prefix(static_cast<std::size_t>(must(n, "send")));
    }
}

std::string recv_exactly(int fd, std::size_t count) {
    std::string bytes(count, '\0');
    std::size_t have = 0;
    while (have < count) {
        must_wait(fd, POLLIN, "recv_exactly: nothing came");
        const ssize_t n = ::recv(fd, bytes.data() + have, count - have, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (must(n, "recv") == 0) break;
        have += static_cast<std::size_t>(n);
    }
    bytes.resize(have);
    return bytes;
}

std::string recv_to_end(int fd) {
    std::string bytes;
    std::array<char, 4096> chunk;
    for (;;) {
        must_wait(fd, POLLIN, "recv_to_end: no end came");
        const ssize_t n = ::recv(fd, chunk.data(), chunk.size(), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n == 0 || (n < 0 && errno == ECONNRESET)) return bytes;
        bytes.append(chunk.data(), static_cast<std::size_t>(must(n, "recv")));
    }
}

bool ended(int fd) {
    if (!wait_for(fd, POLLIN)) return false;
    char byte;
    const ssize_t n = ::recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return n == 0 || (n < 0 && errno != EAGAIN);
}

void shut_write(int fd) {
    must(::shutdown(fd, SHUT_WR), "shutdown");
}

void reset(descriptor& socket) {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    must(::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), "setsockopt SO_LINGER");
    socket.close();
}

void set_blocking(int fd, blocking mode) {
    const int flags = must(::fcntl(fd, F_GETFL), "fcntl F_GETFL");
    must(::fcntl(fd, F_SETFL, mode == blocking::no ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), "fcntl F_SETFL");
}

void shrink_buffers(int fd) {
    const int least = 1; // the kernel raises it to its minimum, socket(7)
    must(::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof least), "setsockopt SO_SNDBUF");
    must(::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof least), "setsockopt SO_RCVBUF");
}

} // namespace support
