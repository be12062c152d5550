// What proves that a request was not received, and what only looks like it.

#include <cerrno>
#include <chrono>
#include <cstdint>

#include <doctest/doctest.h>

#include <poll.h>

#include "core/socket.hpp"
#include "core/sys.hpp"
#include "support/endings.hpp"
#include "support/net.hpp"

namespace {

using namespace support;
namespace sys = weir::sys;

TEST_CASE("of a fresh connection one byte is acknowledged: its SYN") {
    const tcp_listener server = listen_tcp();
    const descriptor fresh = connect_tcp(server.port);
    CHECK(sys::bytes_acked(fresh.get()) == 1);
    send_all(fresh.get(), "request");
    CHECK(comes_true([&] { return sys::bytes_acked(fresh.get()) == 8; })); // nobody has accepted it yet
}

TEST_CASE("a request that met a FIN is answered by EPIPE, and nothing of it was acknowledged") {
    pair ends = tcp_pair();
    const int fd = ends.a.get();
    ends.b.close();
    REQUIRE(ended(fd)); // the FIN has come; nobody looked
    const auto before = sys::bytes_acked(fd);

    const auto sent = sys::send(fd, "request", 7, false);
    const bool failed = wait_for(fd, POLLERR) && comes_true([&] { return ready(fd, POLLHUP); });
    const auto after = sys::bytes_acked(fd);

    CHECK(sent == 7);
    CHECK(failed);
    CHECK(sys::socket_error(fd) == EPIPE);
    CHECK(after == before);
}

TEST_CASE("a request that was read before the close leaves no error, and was acknowledged") {
    pair ends = tcp_pair();
    const int fd = ends.a.get();
    const auto before = sys::bytes_acked(fd);

    send_all(fd, "request");
    REQUIRE(recv_exactly(ends.b.get(), 7) == "request");
    ends.b.close();
    REQUIRE(ended(fd));

    CHECK(comes_true([&] { return sys::bytes_acked(fd) == before + 7; }));
    CHECK(sys::socket_error(fd) == 0);
    CHECK(recv_some(fd) == 0);
}

TEST_CASE("a request that was received but not read ends with ECONNRESET, and was acknowledged") {
    pair ends = tcp_pair();
    const int fd = ends.a.get();
    const auto before = sys::bytes_acked(fd);

    send_all(fd, "request");
    REQUIRE(wait_for(ends.b.get(), POLLIN));
    ends.b.close();
    REQUIRE(comes_true([&] { return ready(fd, POLLHUP); }));

    CHECK(sys::bytes_acked(fd) == before + 7);
    CHECK(sys::socket_error(fd) == ECONNRESET);
}

// A connection that was used for a while acknowledges late, along with an answer: tcp(7), TCP_QUICKACK.
pair used_pair() {
    pair ends = tcp_pair();
    for (int i = 0; i < 50; i++) {
        send_all(ends.a.get(), "request");
        REQUIRE(recv_exactly(ends.b.get(), 7) == "request");
        send_all(ends.b.get(), "answer");
        REQUIRE(recv_exactly(ends.a.get(), 6) == "answer");
    }
    REQUIRE(comes_true([&] { return sys::bytes_acked(ends.a.get()) >= 50 * 7; }));
    return ends;
}

enum class fin : std::uint8_t { no, yes }; // of the server's, before the request

struct aborted {
    sys::count acked; // of the request
    int error;
};

// A request that is read, and then an abort, all of it before the request is acknowledged in any case: 40 ms after it
// came. A try in which the machine was slower than that shows something else, and is made again.
aborted read_and_aborted(fin first) {
    for (int tries = 1;; tries++) {
        pair ends = used_pair();
        const int fd = ends.a.get();
        if (first == fin::yes) {
            shut_write(ends.b.get());
            REQUIRE(ended(fd));
        }
        const auto before = sys::bytes_acked(fd);

        const auto began = std::chrono::steady_clock::now();
        send_all(fd, "request");
        REQUIRE(recv_exactly(ends.b.get(), 7) == "request");
        reset(ends.b);
        const auto took = std::chrono::steady_clock::now() - began;
        REQUIRE(comes_true([&] { return ready(fd, POLLHUP); }));

        if (took <= std::chrono::milliseconds{30} || tries == 50)
            return {.acked = sys::bytes_acked(fd) - before, .error = sys::socket_error(fd)};
    }
}

// So ECONNRESET proves nothing, though bytes_acked has not moved.
TEST_CASE("a request that was read before an abort ends with ECONNRESET, and was never acknowledged") {
    const aborted seen = read_and_aborted(fin::no);

    CHECK(seen.acked == 0);
    CHECK(seen.error == ECONNRESET);
}

// What the proof does not cover. A server that has sent its FIN can no longer answer, and one that keeps RFC 9112
// section 9.6 processes no request after that; but it can still read one.
TEST_CASE("a request that was read after the server's FIN and before its abort looks as if it was never received") {
    const aborted seen = read_and_aborted(fin::yes);

    CHECK(seen.acked == 0);
    CHECK(seen.error == EPIPE);
}

TEST_CASE("a request in two parts, the first before the FIN, is acknowledged in part") {
    pair ends = tcp_pair();
    const int fd = ends.a.get();
    const auto before = sys::bytes_acked(fd);

    send_all(fd, "first");
    REQUIRE(recv_exactly(ends.b.get(), 5) == "first");
    ends.b.close();
    REQUIRE(ended(fd));
    const auto sent = sys::send(fd, "second", 6, false);
    REQUIRE(comes_true([&] { return ready(fd, POLLHUP); }));

    CHECK(sent == 6);
    CHECK(sys::socket_error(fd) == EPIPE);
    CHECK(sys::bytes_acked(fd) == before + 5); // EPIPE alone would prove too much
}

TEST_CASE("a send after the error was shown is EPIPE") {
    pair ends = tcp_pair();
    reset(ends.b);
    REQUIRE(wait_for(ends.a.get(), POLLERR));

    const auto first = sys::send(ends.a.get(), "x", 1, false);
    const auto second = sys::send(ends.a.get(), "x", 1, false);

    CHECK(first == -ECONNRESET);
    CHECK(second == -EPIPE);
}

TEST_CASE("bytes_acked counts our bytes and not the peer's; unix sockets have none") {
    const pair ends = tcp_pair(), local = stream_pair();
    const auto before = sys::bytes_acked(ends.a.get());

    send_all(ends.b.get(), "from the peer");
    REQUIRE(wait_for(ends.a.get(), POLLIN));
    const auto after_peer = sys::bytes_acked(ends.a.get());
    send_all(ends.a.get(), "ours");

    CHECK(after_peer == before);
    CHECK(comes_true([&] { return sys::bytes_acked(ends.a.get()) == before + 4; }));
    CHECK(sys::bytes_acked(local.a.get()) < 0);
}

TEST_CASE("a connect from the address that it wants meets itself, which its name tells at once") {
    const weir::endpoint at = weir::endpoint::ipv4(0x7f000001, refused_port());
    auto made = weir::open_connection(at, {.source = at});
    REQUIRE(made.ok());
    const int fd = made.value().fd.get();
    CHECK(weir::meets_itself(fd, at).value()); // before it is known to be connected
    REQUIRE(wait_for(fd, POLLOUT));
    CHECK(sys::socket_error(fd) == 0);
    send_all(fd, "secret");
    CHECK(recv_exactly(fd, 6) == "secret");

    const int rival = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const descriptor server(rival);
    const int on = 1;
    REQUIRE(setsockopt(rival, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    CHECK(::bind(rival, at.data(), at.size()) == -1); // its server cannot come back
    sys::set_abortive(fd);
    made.value().fd.reset();
    CHECK(::bind(rival, at.data(), at.size()) == 0);
}

} // namespace
