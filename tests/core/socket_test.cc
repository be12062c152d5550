#include "core/socket.hpp"

#include <cerrno>
#include <climits>
#include <cstdio>
#include <string>
#include <utility>

#include <doctest/doctest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support/net.hpp"

namespace {

using namespace weir;
using support::descriptor;
using support::wait_for;

constexpr std::uint32_t loopback = 0x7F000001;

int option_of(int fd, int level, int name) {
    int value = -1;
    socklen_t bytes = sizeof value;
    REQUIRE(getsockopt(fd, level, name, &value, &bytes) == 0);
    return value;
}

unique_fd listen_anywhere(const listen_options& options = {}) {
    auto made = open_listener(endpoint::ipv4(loopback, 0), options);
    REQUIRE(made.ok());
    return std::move(made).value();
}

endpoint name_of(int fd) {
    auto name = local_endpoint(fd);
    REQUIRE(name.ok());
    return name.value();
}

endpoint abstract_name(const char* what) {
    char name[64];
    std::snprintf(name, sizeof name, "@weir-socket-test-%s-%d", what, static_cast<int>(getpid()));
    auto made = endpoint::unix_path(name);
    REQUIRE(made.ok());
    return made.value();
}

TEST_CASE("a listener on port 0 says which port it got, and accepts there") {
    const unique_fd listener = listen_anywhere();
    const endpoint at = name_of(listener.get());

    auto dialed = open_connection(at, {});
    REQUIRE(dialed.ok());
    REQUIRE(wait_for(listener.get(), POLLIN));
    sockaddr_storage peer{};
    socklen_t bytes = sizeof peer;
    const unique_fd accepted(sys::accept(listener.get(), reinterpret_cast<sockaddr*>(&peer), &bytes));

    CHECK(at.port() != 0);
    CHECK(accepted);
    CHECK(endpoint::from_kernel(peer, bytes) == name_of(dialed.value().fd.get()));
}

TEST_CASE("every socket is non-blocking and does not survive exec") {
    const unique_fd listener = listen_anywhere();
    auto dialed = open_connection(name_of(listener.get()), {});
    REQUIRE(dialed.ok());
    REQUIRE(wait_for(listener.get(), POLLIN));
    const unique_fd accepted(sys::accept(listener.get(), nullptr, nullptr));

    for (int fd : {listener.get(), dialed.value().fd.get(), accepted.get()}) {
        CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
        CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    }
}

TEST_CASE("a port that is taken is EADDRINUSE, and nothing stays open") {
    const unique_fd first = listen_anywhere();

    const auto second = open_listener(name_of(first.get()), {});

    CHECK(second.error() == EADDRINUSE);
}

TEST_CASE("listeners that agree to may share a port") {
    const unique_fd first = listen_anywhere({.reuse_port = true});

    const auto second = open_listener(name_of(first.get()), {.reuse_port = true});
    const auto without = open_listener(name_of(first.get()), {});

    CHECK(second.ok());
    CHECK(without.error() == EADDRINUSE);
}

// Scenario 15.
TEST_CASE("a restarted listener is not held up by TIME_WAIT") {
    endpoint at;
    {
        unique_fd listener = listen_anywhere();
        at = name_of(listener.get());
        auto dialed = open_connection(at, {});
        REQUIRE(dialed.ok());
        REQUIRE(wait_for(listener.get(), POLLIN));
        unique_fd accepted(sys::accept(listener.get(), nullptr, nullptr));
        REQUIRE(accepted);
        accepted.reset(); // who closes first is left with TIME_WAIT: the listener's side
        REQUIRE(support::ended(dialed.value().fd.get()));
    }

    CHECK(open_listener(at, {}).ok());
}

TEST_CASE("a refused connect says so, at once or through the socket") {
    auto dialed = open_connection(endpoint::ipv4(loopback, support::refused_port()), {});

    if (dialed.ok()) {
        const int fd = dialed.value().fd.get();
        CHECK(dialed.value().pending);
        REQUIRE(wait_for(fd, POLLOUT));
        CHECK(sys::socket_error(fd) == ECONNREFUSED);
    } else {
        CHECK(dialed.error() == ECONNREFUSED);
    }
}

TEST_CASE("a connect to nowhere, or to a family that is none, fails with its errno") {
    CHECK(open_connection(endpoint(), {}).error() == EAFNOSUPPORT);
    CHECK(open_listener(endpoint(), {}).error() == EAFNOSUPPORT);
    CHECK(open_connection(endpoint::ipv4(0xFFFFFFFF, 80), {}).error() != 0);
    CHECK(open_connection(abstract_name("nobody"), {}).error() == ECONNREFUSED);
    auto no_such = endpoint::unix_path("/nonexistent/x.sock");
    REQUIRE(no_such.ok());
    CHECK(open_connection(no_such.value(), {}).error() == ENOENT);
}

TEST_CASE("a unix connect is done at once, and refused with EAGAIN when the backlog is full") {
    const endpoint at = abstract_name("backlog");
    auto listener = open_listener(at, {.backlog_count = 0});
    REQUIRE(listener.ok());

    auto first = open_connection(at, {});
    auto second = open_connection(at, {});

    REQUIRE(first.ok());
    CHECK_FALSE(first.value().pending);
    CHECK(second.error() == EAGAIN);
}

TEST_CASE("a source is what the connection comes from, and its port is chosen if it has none") {
    const unique_fd listener = listen_anywhere();
    const std::uint32_t other = 0x7F000002; // 127.0.0.2

    auto dialed = open_connection(name_of(listener.get()), {.source = endpoint::ipv4(other, 0)});

    REQUIRE(dialed.ok());
    const endpoint from = name_of(dialed.value().fd.get());
    CHECK(from == endpoint::ipv4(other, from.port()));
    CHECK(from.port() != 0);
    CHECK(option_of(dialed.value().fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT) == 1); // scenario 14
}

TEST_CASE("a source that is not ours fails with EADDRNOTAVAIL, and nothing stays open") {
    const unique_fd listener = listen_anywhere();

    const auto dialed = open_connection(name_of(listener.get()), {.source = endpoint::ipv4(0xC0000201, 0)}); // 192.0.2.1

    CHECK(dialed.error() == EADDRNOTAVAIL);
}

// Scenario 12. A connect whose source happens to be its destination meets itself: TCP's simultaneous open.
TEST_CASE("a connect to its own port succeeds, and can be told by equal names") {
    const endpoint self = endpoint::ipv4(loopback, support::refused_port());

    auto dialed = open_connection(self, {.source = self});
    REQUIRE(dialed.ok());
    const int fd = dialed.value().fd.get();
    REQUIRE(wait_for(fd, POLLOUT));
    sockaddr_storage peer{};
    socklen_t bytes = sizeof peer;
    REQUIRE(sys::peer_name(fd, reinterpret_cast<sockaddr*>(&peer), &bytes) == 0);

    CHECK(sys::socket_error(fd) == 0);
    CHECK(endpoint::from_kernel(peer, bytes) == name_of(fd));
    CHECK(sys::send(fd, "echo", 4, false) == 4);
    CHECK(support::recv_exactly(fd, 4) == "echo"); // what it sends it receives
}

TEST_CASE("how long a send may stay unacknowledged is the user's to say") {
    for (const auto& [asked, told] : {std::pair{duration{milliseconds{1}}, 1}, std::pair{duration{seconds{300}}, 300'000},
                                      std::pair{duration{0}, 0}, std::pair{duration::max(), INT_MAX}}) {
        auto listener = open_listener(endpoint::ipv4(loopback, 0), {.user_timeout = asked});
        REQUIRE(listener.ok());
        auto dialed = open_connection(name_of(listener.value().get()), {.user_timeout = asked});
        REQUIRE(dialed.ok());

        CHECK(option_of(listener.value().get(), IPPROTO_TCP, TCP_USER_TIMEOUT) == told);
        CHECK(option_of(dialed.value().fd.get(), IPPROTO_TCP, TCP_USER_TIMEOUT) == told);
    }
}

TEST_CASE("listeners and connections have the options that a proxy wants") {
    const unique_fd listener = listen_anywhere();
    auto dialed = open_connection(name_of(listener.get()), {});
    REQUIRE(dialed.ok());

    for (int fd : {listener.get(), dialed.value().fd.get()}) {
        CHECK(option_of(fd, IPPROTO_TCP, TCP_NODELAY) == 1);
        CHECK(option_of(fd, SOL_SOCKET, SO_KEEPALIVE) == 1);
        CHECK(option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 60);
        CHECK(option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL) == 10);
        CHECK(option_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) == 0); // a finite one ends slow readers
    }
}

// Scenario 16.
TEST_CASE("a process out of descriptors gets EMFILE") {
    const unique_fd listener = listen_anywhere();
    const endpoint at = name_of(listener.get());
    rlimit was;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &was) == 0);
    rlimit none = was;
    none.rlim_cur = 0;

    setrlimit(RLIMIT_NOFILE, &none);
    const int listening = open_listener(endpoint::ipv4(loopback, 0), {}).error();
    const int connecting = open_connection(at, {}).error();
    setrlimit(RLIMIT_NOFILE, &was);

    CHECK(listening == EMFILE);
    CHECK(connecting == EMFILE);
}

// What a stranger may do with a socket file, told by its mode.
mode_t mode_of(const char* path) {
    struct stat what {};
    REQUIRE(lstat(path, &what) == 0);
    REQUIRE(S_ISSOCK(what.st_mode));
    return what.st_mode & 07777;
}

TEST_CASE("a unix listener's file has the mode that was asked for, whatever the umask") {
    char path[64];
    std::snprintf(path, sizeof path, "/tmp/weir-socket-test-mode-%d.sock", static_cast<int>(getpid()));
    auto at = endpoint::unix_path(path);
    REQUIRE(at.ok());
    for (const mode_t mask : {022, 0777}) {
        const mode_t before = umask(mask);
        auto held = open_listener(at.value(), {.held = true, .file = {.mode = 0662}});
        umask(before);
        REQUIRE(held.ok());

        CHECK(mode_of(path) == 0662); // held: nobody could connect before it was in force
        CHECK(sys::unlink_socket(path) == 0);
    }
}

TEST_CASE("a unix listener's file that cannot be given away is not left behind") {
    if (geteuid() == 0) return; // root gives away what it likes
    char path[64];
    std::snprintf(path, sizeof path, "/tmp/weir-socket-test-user-%d.sock", static_cast<int>(getpid()));
    auto at = endpoint::unix_path(path);
    REQUIRE(at.ok());

    auto refused = open_listener(at.value(), {.file = {.user = 0}});

    CHECK(refused.error() == EPERM);
    CHECK(sys::unlink_socket(path) == -ENOENT);
}

TEST_CASE("a unix listener's path is taken until it is unlinked") {
    char path[64];
    std::snprintf(path, sizeof path, "/tmp/weir-socket-test-%d.sock", static_cast<int>(getpid()));
    auto at = endpoint::unix_path(path);
    REQUIRE(at.ok());
    auto first = open_listener(at.value(), {});
    REQUIRE(first.ok());

    const int second = open_listener(at.value(), {}).error();
    const int unlinked = sys::unlink_socket(path);

    CHECK(second == EADDRINUSE);
    CHECK(unlinked == 0);
    CHECK(sys::unlink_socket(path) == -ENOENT);
}

} // namespace
