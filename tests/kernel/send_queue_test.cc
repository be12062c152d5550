// What the kernel tells of bytes that a peer has not taken: what deadlines of sending rest on (core/send_progress.hpp).

#include <cerrno>
#include <string>

#include <doctest/doctest.h>

#include <sys/socket.h>

#include "core/sys.hpp"
#include "support/endings.hpp"
#include "support/net.hpp"

namespace {

using namespace support;
namespace sys = weir::sys;

// Sends until the socket takes no more.
std::int64_t fill(int fd) {
    const std::string bytes(64 * 1024, 'x');
    std::int64_t sent = 0;
    for (sys::count n; (n = ::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL)) > 0;)
        sent += n;
    return sent;
}

TEST_CASE("TCP: bytes and the FIN are in the queue until they are acknowledged") {
    pair ends = tcp_pair();
    const int fd = ends.a.get();
    CHECK(sys::send_queue(fd) == 0);

    send_all(fd, "taken");
    CHECK(comes_true([&] { return sys::send_queue(fd) == 0; })); // by the peer's kernel, read or not
    sys::shutdown_send(fd);
    CHECK(comes_true([&] { return sys::send_queue(fd) == 0; }));
}

TEST_CASE("TCP: a reader that takes bytes shrinks the queue long before the socket is writable again") {
    pair ends = tcp_pair();
    const int fd = ends.a.get();
    fill(fd);
    REQUIRE(comes_true([&] { return !ready(fd, POLLOUT); }));
    const std::int64_t before = sys::send_queue(fd);
    REQUIRE(before > 0);

    std::string room(1 << 20, '\0');
    bool has_shrunk = false;
    CHECK(comes_true([&] {
        static_cast<void>(::recv(ends.b.get(), room.data(), 64 * 1024, MSG_DONTWAIT));
        has_shrunk = sys::send_queue(fd) < before;
        return has_shrunk || ready(fd, POLLOUT);
    }));
    CHECK(has_shrunk);
}

TEST_CASE("unix: a send is in the queue, with the memory that it takes, until its last byte was read") {
    pair ends = stream_pair();
    const int fd = ends.a.get();
    CHECK(sys::send_queue(fd) == 0);
    send_all(fd, std::string(1000, 'x'));
    send_all(fd, std::string(1000, 'y'));
    const std::int64_t both = sys::send_queue(fd);
    CHECK(both >= 2000);

    recv_exactly(ends.b.get(), 999);
    CHECK(sys::send_queue(fd) == both);
    recv_exactly(ends.b.get(), 1);
    const std::int64_t second = sys::send_queue(fd);
    CHECK(second < both);
    CHECK(second >= 1000);
    recv_exactly(ends.b.get(), 1000);
    CHECK(sys::send_queue(fd) == 0);
}

TEST_CASE("a listener has no such queue, and neither has what is no descriptor") {
    const tcp_listener listener = listen_tcp();
    CHECK(sys::send_queue(listener.fd.get()) == -EINVAL);
    CHECK(sys::send_queue(-1) == -EBADF);
}

} // namespace
