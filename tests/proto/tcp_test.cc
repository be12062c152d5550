#include "proto/tcp.hpp"

#include <string>

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "support/counting.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace support;

std::string printed(const result<endpoint>& at) {
    if (!at) return "error " + std::to_string(at.error());
    char room[endpoint::text_max];
    return std::string{at.value().text(room)};
}
std::string parsed(std::string_view text) {
    const forgiven these; // the resolver keeps what it read
    return printed(parse_tcp(text));
}
const std::string invalid = "error " + std::to_string(EINVAL);

int option(int fd, int level, int name) {
    int value = -1;
    socklen_t bytes = sizeof value;
    getsockopt(fd, level, name, &value, &bytes);
    return value;
}

// --- addresses

TEST_CASE("an address and its port") {
    CHECK(parsed("127.0.0.1:8080") == "127.0.0.1:8080");
    CHECK(parsed("255.255.255.255:65535") == "255.255.255.255:65535");
    CHECK(parsed("0.0.0.0:0") == "0.0.0.0:0");
    CHECK(parsed("127.0.0.1:00080") == "127.0.0.1:80");
}

TEST_CASE("an IPv6 address stands in brackets") {
    CHECK(parsed("[::1]:8080") == "[::1]:8080");
    CHECK(parsed("[::]:0") == "[::]:0");
    CHECK(parsed("[2001:db8:0:0:1:0:0:1]:443") == "[2001:db8::1:0:0:1]:443");
    CHECK(parsed("::1:8080") == invalid);
    CHECK(parsed("[::1]") == invalid);
    CHECK(parsed("[::1:8080") == invalid);
    CHECK(parsed("::1]:8080") == invalid);
    CHECK(parsed("[]:80") == invalid);
}

TEST_CASE("brackets hold nothing but IPv6") {
    CHECK(parsed("[127.0.0.1]:80") == invalid);
    CHECK(parsed("[localhost]:80") == invalid);
    CHECK(parsed("[x:y]:80") == "error " + std::to_string(ENOENT));
}

TEST_CASE("no host means every IPv4 address") {
    CHECK(parsed(":8080") == "0.0.0.0:8080");
}

TEST_CASE("a name is looked up") {
    const std::string found = parsed("localhost:80");
    const bool is_loopback = found == "127.0.0.1:80" || found == "[::1]:80";
    CHECK(is_loopback);
}

TEST_CASE("a name that does not exist is ENOENT") {
    // Longer than a name can be (RFC 1035 section 2.3.4): not found, and nobody on the network is asked.
    CHECK(parsed(std::string(254, 'a') + ":80") == "error " + std::to_string(ENOENT));
}

TEST_CASE("a port is one to five digits up to 65535") {
    CHECK(parsed("127.0.0.1:65535") == "127.0.0.1:65535");
    CHECK(parsed("127.0.0.1:65536") == invalid);
    CHECK(parsed("127.0.0.1:99999") == invalid);
    CHECK(parsed("127.0.0.1:000080") == invalid);
    for (const char* port : {"", " 80", "80 ", "+80", "-1", "0x50", "http", "8o", "80\n"}) {
        CAPTURE(port);
        CHECK(parsed(std::string{"127.0.0.1:"} + port) == invalid);
        CHECK(parsed(std::string{":"} + port) == invalid);
    }
}

TEST_CASE("a bare number is no host") {
    CHECK(parsed("10:80") == invalid); // resolvers make 0.0.0.10 of it
    CHECK(parsed("2130706433:80") == invalid);
}

TEST_CASE("what has no colon is no address") {
    CHECK(parsed("") == invalid);
    CHECK(parsed("127.0.0.1") == invalid);
    CHECK(parsed("8080") == invalid);
    CHECK(parsed(":") == invalid);
}

TEST_CASE("a host name has at most 255 bytes and no NUL") {
    CHECK(parsed(std::string(256, 'a') + ":80") == invalid);
    CHECK(parsed(std::string(255, 'a') + ":80") != invalid); // looked up, and not found
    CHECK(parsed(std::string_view{"127.0.0.1\0x:80", 14}) == invalid);
}

// --- sockets

TEST_CASE("a listener's port is free again at once, and its connections do not delay small sends") {
    const auto at = endpoint::ipv4(0x7f000001, 0);

    auto fd = tcp.listen(at, {});

    REQUIRE(fd.ok());
    CHECK(option(fd.value().get(), SOL_SOCKET, SO_REUSEADDR) == 1);
    CHECK(option(fd.value().get(), SOL_SOCKET, SO_REUSEPORT) == 0);
    const auto local = local_endpoint(fd.value().get());
    REQUIRE(local.ok());
    descriptor client = connect_tcp(local.value().port());
    const descriptor accepted(::accept(fd.value().get(), nullptr, nullptr));
    CHECK(option(accepted.get(), IPPROTO_TCP, TCP_NODELAY) == 1);
    CHECK(option(accepted.get(), SOL_SOCKET, SO_KEEPALIVE) == 1);
    CHECK((fcntl(fd.value().get(), F_GETFL) & O_NONBLOCK) != 0);
    CHECK((fcntl(fd.value().get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("listening where somebody listens is EADDRINUSE") {
    const tcp_listener taken = listen_tcp();

    CHECK(tcp.listen(endpoint::ipv4(0x7f000001, taken.port), {}).error() == EADDRINUSE);
}

TEST_CASE("connecting is non-blocking and tuned") {
    const tcp_listener server = listen_tcp();

    auto made = tcp.connect(endpoint::ipv4(0x7f000001, server.port), {});

    REQUIRE(made.ok());
    const int fd = made.value().fd.get();
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(option(fd, IPPROTO_TCP, TCP_NODELAY) == 1);
    CHECK(option(fd, SOL_SOCKET, SO_KEEPALIVE) == 1);
    CHECK(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) == 0);
    CHECK(wait_for(fd, POLLOUT));
    CHECK(option(fd, SOL_SOCKET, SO_ERROR) == 0);
}

TEST_CASE("a source without a port takes one only when it connects, so that ports are shared between destinations") {
    const tcp_listener one = listen_tcp(), two = listen_tcp();

    auto made = tcp.connect(endpoint::ipv4(0x7f000001, one.port), {.source = endpoint::ipv4(0x7f000009, 0)});

    REQUIRE(made.ok());
    CHECK(option(made.value().fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT) == 1);
    const auto local = local_endpoint(made.value().fd.get());
    REQUIRE(local.ok());
    CHECK(local.value().port() != 0);
}

// --- draining

TEST_CASE("a drain throws away everything and says that it must wait") {
    pair ends = tcp_pair();
    send_all(ends.a.get(), std::string(100'000, 'x'));
    CHECK(wait_for(ends.b.get(), POLLIN));

    const drain_result r = tcp.drain(ends.b.get(), 1 << 20);

    CHECK(r.end == drained::again);
    CHECK(r.bytes > 0);
    char byte;
    CHECK(::recv(ends.b.get(), &byte, 1, MSG_DONTWAIT) == -1);
    CHECK(tcp.drain(ends.b.get(), 1 << 20).bytes == 0);
}

TEST_CASE("a drain goes no further than it may, and says that there may be more") {
    pair ends = tcp_pair();
    send_all(ends.a.get(), std::string(100, 'x'));
    CHECK(wait_for(ends.b.get(), POLLIN));

    const drain_result r = tcp.drain(ends.b.get(), 50);

    CHECK(r.end == drained::more);
    CHECK(r.bytes >= 50);
}

TEST_CASE("a drain finds the end behind bytes, and without") {
    for (const std::size_t count : {std::size_t{0}, std::size_t{100'000}}) {
        pair ends = tcp_pair();
        send_all(ends.a.get(), std::string(count, 'x'));
        shut_write(ends.a.get());
        CHECK(wait_for(ends.b.get(), POLLRDHUP));

        const drain_result r = tcp.drain(ends.b.get(), 1 << 20);

        CHECK(r.end == drained::closed);
        CHECK(r.bytes == count);
    }
}

TEST_CASE("a drain finds a reset, which is no end") {
    pair ends = tcp_pair();
    reset(ends.a);
    CHECK(wait_for(ends.b.get(), POLLIN));

    CHECK(tcp.drain(ends.b.get(), 1 << 20).end == drained::failed);
}

} // namespace
