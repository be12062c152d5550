// The tests' own sockets, checked.

#include <cerrno>

#include <doctest/doctest.h>

#include <poll.h>
#include <sys/socket.h>

#include "support/net.hpp"

namespace {

using namespace support;

TEST_CASE("bytes go through each kind of pair") {
    for (auto make : {stream_pair, tcp_pair})
        for (auto mode : {blocking::no, blocking::yes}) {
            const pair ends = make(mode);

            send_all(ends.a.get(), "there");
            send_all(ends.b.get(), "back");

            CHECK(recv_exactly(ends.b.get(), 5) == "there");
            CHECK(recv_exactly(ends.a.get(), 4) == "back");
            CHECK_FALSE(ready(ends.a.get(), POLLIN));
        }
}

TEST_CASE("a nonblocking end answers EAGAIN") {
    const pair ends = tcp_pair(blocking::no);
    char byte;

    for (int fd : {ends.a.get(), ends.b.get()}) {
        const auto n = recv(fd, &byte, 1, 0);
        const int why = errno;

        CHECK(n == -1);
        CHECK(why == EAGAIN);
    }
}

TEST_CASE("a shut end is seen as the end, behind the bytes before it") {
    const pair ends = tcp_pair();

    send_all(ends.a.get(), "last words");
    shut_write(ends.a.get());

    CHECK(recv_to_end(ends.b.get()) == "last words");
    CHECK(ended(ends.b.get()));
    CHECK_FALSE(ready(ends.a.get(), POLLIN));
}

TEST_CASE("a reset is seen as an error") {
    pair ends = tcp_pair();

    reset(ends.a);

    CHECK(ended(ends.b.get()));
}

TEST_CASE("nobody listens on a refused port") {
    CHECK_THROWS(connect_tcp(refused_port()));
}

TEST_CASE("shrunken buffers fill soon") {
    const pair ends = stream_pair();
    shrink_buffers(ends.a.get());

    std::size_t sent = 0;
    while (send(ends.a.get(), "0123456789abcdef", 16, MSG_NOSIGNAL) == 16)
        sent += 16;
    const int why = errno;

    CHECK(why == EAGAIN);
    CHECK(sent < 64 * 1024);
}

} // namespace
