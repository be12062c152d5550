// What splice(2) answers that is easily taken for something else.

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <string>

#include <doctest/doctest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/sys.hpp"
#include "support/net.hpp"

namespace {

using namespace support;
namespace sys = weir::sys;

// This thread is interrupted all the time.
class interrupted {
  public:
    interrupted() {
        struct sigaction act {};
        act.sa_handler = [](int) {};
        sigaction(SIGALRM, &act, &before_);
        const itimerval every{.it_interval = {0, 60}, .it_value = {0, 60}};
        setitimer(ITIMER_REAL, &every, nullptr);
    }
    interrupted(const interrupted&) = delete;
    interrupted& operator=(const interrupted&) = delete;
    ~interrupted() {
        const itimerval never{};
        setitimer(ITIMER_REAL, &never, nullptr);
        sigaction(SIGALRM, &before_, nullptr);
    }

  private:
    struct sigaction before_;
};

void empty(int fd) {
    char room[64 * 1024];
    while (::recv(fd, room, sizeof room, MSG_DONTWAIT) > 0) {
    }
}

TEST_CASE("a splice to a socket that a signal has cut short leaves room, and no report follows") {
    support::pair ends = tcp_pair(), pipe = pipe_pair();
    REQUIRE(fcntl(pipe.b.get(), F_SETPIPE_SZ, 256 * 1024) > 0);
    const int room = 1 << 20;
    setsockopt(ends.a.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    const std::string bytes(256 * 1024, 'x');
    bool seen = false;
    const interrupted now;

    for (int tries = 0; tries < 200'000 && !seen; tries++) {
        const ssize_t held = ::write(pipe.b.get(), bytes.data(), bytes.size());
        REQUIRE(held > 0);
        std::size_t left = static_cast<std::size_t>(held);
        while (left > 0) {
            const sys::count n = sys::splice(pipe.a.get(), ends.a.get(), left);
            if (n == -EAGAIN) {
                empty(ends.b.get());
                poll(nullptr, 0, 0);
                continue;
            }
            REQUIRE(n > 0);
            left -= static_cast<std::size_t>(n);
            if (left == 0) break;
            const sys::count more = sys::splice(pipe.a.get(), ends.a.get(), left); // at once
            if (more > 0) left -= static_cast<std::size_t>(more);
            seen = seen || more > 0;
        }
        empty(ends.b.get());
    }

    CHECK(seen);
}

TEST_CASE("a splice answers 0 at urgent data with an end behind it, whatever stands between the two") {
    support::pair ends = tcp_pair(), pipe = pipe_pair();
    send_all(ends.a.get(), "abc");
    REQUIRE(::send(ends.a.get(), "!", 1, MSG_OOB) == 1);
    send_all(ends.a.get(), "def");
    shut_write(ends.a.get());
    REQUIRE(wait_for(ends.b.get(), POLLRDHUP));

    CHECK(sys::splice(ends.b.get(), pipe.b.get(), 100) == 3);
    CHECK(sys::splice(ends.b.get(), pipe.b.get(), 100) == 0);

    CHECK(sys::peek(ends.b.get()) == 1);
    CHECK(recv_to_end(ends.b.get()) == "def");
}

} // namespace
