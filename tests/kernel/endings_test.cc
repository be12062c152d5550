// How connections end, as seen by epoll and by the socket: the tables in which weir looks up what happened.

#include <cerrno>
#include <cstdint>
#include <string>

#include <doctest/doctest.h>

#include <poll.h>

#include "core/socket.hpp"
#include "core/sys.hpp"
#include "support/endings.hpp"
#include "support/net.hpp"

namespace {

using namespace support;
namespace sys = weir::sys;

std::string name_of(std::uint32_t events) {
    std::string names;
    const struct {
        std::uint32_t bit;
        const char* name;
    } table[] = {{EPOLLIN, "IN "}, {EPOLLOUT, "OUT "}, {EPOLLRDHUP, "RDHUP "}, {EPOLLHUP, "HUP "}, {EPOLLERR, "ERR "}};
    for (const auto& row : table)
        if (events & row.bit) names += row.name;
    if (!names.empty()) names.pop_back();
    return names;
}

// All that is reported for fd, from before the ending until `last` is part of it.
class watcher {
  public:
    explicit watcher(int fd) {
        epoll_event e{.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data = {.u64 = 0}};
        REQUIRE(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &e) == 0);
    }

    std::string until(std::uint32_t last) {
        epoll_event e{};
        std::uint32_t all = 0;
        for (int i = 0; i < 100 && (all & last) != last; i++) {
            if (epoll_wait(epoll_.get(), &e, 1, static_cast<int>(patience.count())) != 1) break;
            all = e.events; // a report carries all that holds
        }
        while (epoll_wait(epoll_.get(), &e, 1, 0) == 1)
            all = e.events;
        return name_of(all);
    }
    std::string now() { return until(0); }

  private:
    descriptor epoll_{epoll_create1(EPOLL_CLOEXEC)};
};

// --- what epoll says, edge by edge

TEST_CASE("what epoll reports of each ending, TCP") {
    pair ends = tcp_pair();
    watcher seen(ends.a.get());

    SUBCASE("nothing happened yet") { CHECK(seen.until(EPOLLOUT) == "OUT"); }
    SUBCASE("the peer's FIN") {
        shut_write(ends.b.get());
        CHECK(seen.until(EPOLLRDHUP) == "IN OUT RDHUP");
    }
    SUBCASE("the peer's close looks like its FIN") {
        ends.b.close();
        CHECK(seen.until(EPOLLRDHUP) == "IN OUT RDHUP");
    }
    SUBCASE("the peer's reset") {
        reset(ends.b);
        CHECK(seen.until(EPOLLERR) == "IN OUT RDHUP HUP ERR");
        CHECK(sys::socket_error(ends.a.get()) == ECONNRESET);
    }
    SUBCASE("the peer's close with bytes of ours unread is a reset") {
        send_all(ends.a.get(), "unread");
        REQUIRE(wait_for(ends.b.get(), POLLIN));
        ends.b.close();
        CHECK(seen.until(EPOLLERR) == "IN OUT RDHUP HUP ERR");
        CHECK(sys::socket_error(ends.a.get()) == ECONNRESET);
    }
    SUBCASE("our own FIN is no end") {
        shut_write(ends.a.get());
        REQUIRE(ended(ends.b.get()));
        CHECK(seen.until(EPOLLOUT) == "OUT");
    }
    SUBCASE("FINs both ways, the peer's first") {
        shut_write(ends.b.get());
        REQUIRE(ended(ends.a.get()));
        shut_write(ends.a.get());
        CHECK(seen.until(EPOLLHUP) == "IN OUT RDHUP HUP");
    }
    SUBCASE("FINs both ways, ours first") {
        shut_write(ends.a.get());
        REQUIRE(ended(ends.b.get()));
        shut_write(ends.b.get());
        CHECK(seen.until(EPOLLHUP) == "IN OUT RDHUP HUP");
    }
    SUBCASE("a reset after the peer's FIN") {
        shut_write(ends.b.get());
        REQUIRE(seen.until(EPOLLRDHUP) == "IN OUT RDHUP");
        reset(ends.b);
        CHECK(seen.until(EPOLLERR) == "IN OUT RDHUP HUP ERR");
        CHECK(sys::socket_error(ends.a.get()) == EPIPE);
    }
}

TEST_CASE("what epoll reports of each ending, unix") {
    pair ends = stream_pair();
    watcher seen(ends.a.get());

    SUBCASE("nothing happened yet") { CHECK(seen.now() == "OUT"); }
    SUBCASE("the peer's FIN") {
        shut_write(ends.b.get());
        CHECK(seen.now() == "IN OUT RDHUP");
    }
    SUBCASE("the peer's close is a HUP") {
        ends.b.close();
        CHECK(seen.now() == "IN OUT RDHUP HUP");
        CHECK(sys::socket_error(ends.a.get()) == 0);
    }
    SUBCASE("the peer's close with bytes of ours unread is an error") {
        send_all(ends.a.get(), "unread");
        ends.b.close();
        CHECK(seen.now() == "IN OUT RDHUP HUP ERR");
        CHECK(sys::socket_error(ends.a.get()) == ECONNRESET);
    }
    SUBCASE("there is no reset: linger 0 is a close") {
        reset(ends.b);
        CHECK(seen.now() == "IN OUT RDHUP HUP");
    }
    SUBCASE("our own FIN is no end") {
        shut_write(ends.a.get());
        CHECK(seen.now() == "OUT");
    }
    SUBCASE("FINs both ways") {
        shut_write(ends.b.get());
        shut_write(ends.a.get());
        CHECK(seen.now() == "IN OUT RDHUP HUP");
    }
}

TEST_CASE("a socket that was never connected hangs up") {
    for (int family : {AF_INET, AF_UNIX}) {
        CAPTURE(family);
        const descriptor fd(sys::socket(family, SOCK_STREAM));
        watcher seen(fd.get());

        CHECK(seen.now() == "OUT HUP");
        CHECK(sys::socket_error(fd.get()) == 0);
    }
}

TEST_CASE("a refused connect ends with HUP and ERR, and SO_ERROR says why, once") {
    const auto to = weir::endpoint::ipv4(0x7F000001, refused_port());
    const descriptor fd(sys::socket(AF_INET, SOCK_STREAM));
    const int connecting = sys::connect(fd.get(), to.data(), to.size());
    watcher seen(fd.get());

    CHECK((connecting == -EINPROGRESS || connecting == -ECONNREFUSED));
    if (connecting == -EINPROGRESS) {
        CHECK(seen.until(EPOLLERR) == "IN OUT RDHUP HUP ERR");
        CHECK(sys::socket_error(fd.get()) == ECONNREFUSED);
    }
    CHECK(sys::socket_error(fd.get()) == 0);
}

// The accept queue holds one more than the backlog; what comes then is not answered.
TEST_CASE("a connect that is under way reports nothing") {
    const tcp_listener listener = listen_tcp(blocking::no, 0);
    const descriptor first = connect_tcp(listener.port);
    const auto to = weir::endpoint::ipv4(0x7F000001, listener.port);
    const descriptor second(sys::socket(AF_INET, SOCK_STREAM));

    const int connecting = sys::connect(second.get(), to.data(), to.size());
    watcher seen(second.get());

    CHECK(connecting == -EINPROGRESS);
    CHECK(seen.now() == "");
    CHECK(sys::socket_error(second.get()) == 0);
    CHECK(sys::send(second.get(), "x", 1, false) == -EAGAIN);
    CHECK(recv_some(second.get()) == -EAGAIN);
}

TEST_CASE("a connect that succeeded reports room, and no end") {
    const tcp_listener listener = listen_tcp();
    const auto to = weir::endpoint::ipv4(0x7F000001, listener.port);
    const descriptor fd(sys::socket(AF_INET, SOCK_STREAM));
    const int connecting = sys::connect(fd.get(), to.data(), to.size());
    watcher seen(fd.get());

    CHECK((connecting == 0 || connecting == -EINPROGRESS));
    CHECK(seen.until(EPOLLOUT) == "OUT");
    CHECK(sys::socket_error(fd.get()) == 0);
}

// --- bytes and ends

TEST_CASE("a reset behind data shows the data first") {
    pair ends = tcp_pair();
    send_all(ends.b.get(), "last words");
    REQUIRE(wait_for(ends.a.get(), POLLIN));

    reset(ends.b);
    REQUIRE(wait_for(ends.a.get(), POLLERR));
    REQUIRE(comes_true([&] { return ready(ends.a.get(), POLLHUP); }));

    CHECK(recv_some(ends.a.get()) == 10);
    CHECK(recv_some(ends.a.get()) == -ECONNRESET);
    CHECK(recv_some(ends.a.get()) == 0);
}

TEST_CASE("a reset whose error was asked for shows the data, and then a plain end") {
    pair ends = tcp_pair();
    send_all(ends.b.get(), "last words");
    reset(ends.b);
    REQUIRE(comes_true([&] { return ready(ends.a.get(), POLLHUP); }));

    CHECK(sys::socket_error(ends.a.get()) == ECONNRESET);

    CHECK(recv_some(ends.a.get()) == 10);
    CHECK(recv_some(ends.a.get()) == 0);
}

TEST_CASE("MSG_TRUNC throws TCP's bytes away uncopied, and finds the end") {
    const pair ends = tcp_pair();
    send_all(ends.b.get(), "0123456789");
    shut_write(ends.b.get());
    REQUIRE(wait_for(ends.a.get(), POLLRDHUP));

    CHECK(sys::discard(ends.a.get(), 4) == 4);
    CHECK(recv_exactly(ends.a.get(), 2) == "45");
    CHECK(sys::discard(ends.a.get(), 1'000'000) == 4);
    CHECK(sys::discard(ends.a.get(), 1'000'000) == 0);
}

TEST_CASE("MSG_TRUNC says EAGAIN on an empty TCP socket, and the error of a dead one") {
    pair ends = tcp_pair();

    const auto empty = sys::discard(ends.a.get(), 100);
    reset(ends.b);
    REQUIRE(wait_for(ends.a.get(), POLLERR));

    CHECK(empty == -EAGAIN);
    CHECK(sys::discard(ends.a.get(), 100) == -ECONNRESET);
}

TEST_CASE("MSG_TRUNC throws nothing of a unix socket away") {
    const pair ends = stream_pair();
    send_all(ends.b.get(), "0123456789");

    CHECK(sys::discard(ends.a.get(), 4) == -EFAULT); // it wants to copy, and there is no room
    CHECK(recv_exactly(ends.a.get(), 10) == "0123456789");
}

// Scenario 34.
TEST_CASE("closing with unread input destroys an answer that is still under way") {
    pair ends = tcp_pair();
    set_blocking(ends.b.get(), blocking::no);
    const std::string answer(4 << 20, 'a'); // more than fits into the peer's window
    send_all(ends.a.get(), "a request that is not read to its end");
    REQUIRE(wait_for(ends.b.get(), POLLIN));
    const auto sent = sys::send(ends.b.get(), answer.data(), answer.size(), false);
    REQUIRE(sent > 0);

    ends.b.close();
    const auto got = recv_to_end(ends.a.get());

    CHECK(static_cast<std::ptrdiff_t>(got.size()) < sent);
}

TEST_CASE("closing after the input was read delivers the answer whole") {
    pair ends = tcp_pair();
    const std::string answer(4 << 20, 'a');
    send_all(ends.a.get(), "a request that is read to its end");
    REQUIRE(wait_for(ends.b.get(), POLLIN));
    REQUIRE(recv_some(ends.b.get()) > 0);
    const auto sent = sys::send(ends.b.get(), answer.data(), answer.size(), false);
    REQUIRE(sent > 0);

    ends.b.close();
    const auto got = recv_to_end(ends.a.get());

    CHECK(static_cast<std::ptrdiff_t>(got.size()) == sent);
}

TEST_CASE("input that comes after the close destroys the answer, too") {
    pair ends = tcp_pair();
    const std::string answer(4 << 20, 'a');
    const auto sent = sys::send(ends.b.get(), answer.data(), answer.size(), false);
    REQUIRE(sent > 0);

    ends.b.close();
    send_all(ends.a.get(), "late");
    REQUIRE(comes_true([&] { return ready(ends.a.get(), POLLHUP) || ready(ends.a.get(), POLLERR); }));
    const auto got = recv_to_end(ends.a.get());

    CHECK(static_cast<std::ptrdiff_t>(got.size()) < sent);
}

// A peer that acknowledges every probe but does not read is no different from one that is gone.
TEST_CASE("the user timeout ends a connection whose peer only does not read") {
    pair ends = tcp_pair();
    weir::tune_tcp(ends.b.get(), milliseconds{300});
    const std::string bytes(256 * 1024, 'b');
    while (sys::send(ends.b.get(), bytes.data(), bytes.size(), false) > 0) {
    }

    REQUIRE(comes_true([&] { return ready(ends.b.get(), POLLERR); }));

    CHECK(sys::socket_error(ends.b.get()) == ETIMEDOUT);
}

// --- options

int option_of(int fd, int level, int name) {
    int value = -1;
    socklen_t bytes = sizeof value;
    REQUIRE(getsockopt(fd, level, name, &value, &bytes) == 0);
    return value;
}

TEST_CASE("an accepted socket inherits its listener's options, so accepting costs no setsockopt") {
    const tcp_listener listener = listen_tcp();
    weir::tune_tcp(listener.fd.get(), seconds{30});
    const descriptor client = connect_tcp(listener.port);

    const descriptor accepted = accept_tcp(listener);

    CHECK(option_of(accepted.get(), IPPROTO_TCP, TCP_NODELAY) == 1);
    CHECK(option_of(accepted.get(), SOL_SOCKET, SO_KEEPALIVE) == 1);
    CHECK(option_of(accepted.get(), IPPROTO_TCP, TCP_KEEPIDLE) == 60);
    CHECK(option_of(accepted.get(), IPPROTO_TCP, TCP_USER_TIMEOUT) == 30'000);
    CHECK(option_of(client.get(), IPPROTO_TCP, TCP_NODELAY) == 0); // so the test can fail
}

} // namespace
