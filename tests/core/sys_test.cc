#include "core/sys.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>

#include "support/counting.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::descriptor;
using support::send_all;
using support::stream_pair;

TEST_CASE("time goes on") {
    const time_point first = sys::now();
    time_point second = first;
    for (int i = 0; i < 1'000'000 && second == first; i++)
        second = sys::now();

    CHECK(second > first);
    CHECK(sys::real_clock.now(sys::real_clock) >= second);
    CHECK_FALSE(sys::real_clock.is_fake);
}

TEST_CASE("an error is its negative errno") {
    char byte = 0;

    CHECK(sys::epoll_add(-1, -1, 0, 0) == -EBADF);
    CHECK(sys::recv(-1, &byte, 1) == -EBADF);
    CHECK(sys::send(-1, &byte, 1, false) == -EBADF);
    CHECK(sys::close(-1) == -EBADF);
    CHECK(sys::socket(AF_UNSPEC, SOCK_STREAM) == -EAFNOSUPPORT);
    CHECK(sys::accept(-1, nullptr, nullptr) == -EBADF);
    CHECK(sys::bytes_acked(-1) == -EBADF);
    CHECK(sys::set_nonblocking(-1) == -EBADF);
    CHECK(sys::eventfd_ring(-1) == -EBADF);
}

TEST_CASE("a plain eventfd is empty, rings and resets") {
    const descriptor fd(sys::eventfd_open());

    CHECK(sys::eventfd_reset(fd.get()) == -EAGAIN);
    CHECK(sys::eventfd_ring(fd.get()) == 8);
    CHECK(sys::eventfd_ring(fd.get()) == 8);
    CHECK(sys::eventfd_reset(fd.get()) == 8);
    CHECK(sys::eventfd_reset(fd.get()) == -EAGAIN);
}

TEST_CASE("peek leaves the byte where it is") {
    const auto ends = stream_pair();
    char byte = 0;

    const auto nothing = sys::peek(ends.a.get());
    send_all(ends.b.get(), "x");
    const auto one = sys::peek(ends.a.get());
    const auto again = sys::peek(ends.a.get());
    CHECK(sys::recv(ends.a.get(), &byte, 1) == 1);
    support::shut_write(ends.b.get());

    CHECK(nothing == -EAGAIN);
    CHECK(one == 1);
    CHECK(again == 1);
    CHECK(byte == 'x');
    CHECK(sys::peek(ends.a.get()) == 0);
}

TEST_CASE("parts are sent in their order") {
    const auto ends = stream_pair();
    char head[] = "head ", body[] = "body";
    const iovec parts[] = {{.iov_base = head, .iov_len = 5}, {.iov_base = body, .iov_len = 4}};

    CHECK(sys::send_parts(ends.a.get(), parts, 2, false) == 9);
    CHECK(support::recv_exactly(ends.b.get(), 9) == "head body");
}

// One that what `fd` stands for can be told by.
bool is_same_file(int a, int b) {
    struct stat one, other;
    return fstat(a, &one) == 0 && fstat(b, &other) == 0 && one.st_ino == other.st_ino && one.st_dev == other.st_dev;
}

TEST_CASE("descriptors go with the first byte of a send, as new numbers that are closed on exec") {
    const auto ends = stream_pair();
    const auto gift = support::tcp_pair();
    const int sent[] = {gift.a.get(), gift.b.get()};
    send_all(ends.a.get(), "before");
    CHECK(sys::send_with(ends.a.get(), "word", 4, sent, 2) == 4);
    CHECK(sys::send_with(ends.a.get(), "none", 4, nullptr, 0) == 4);
    char bytes[32];
    sys::passed_fds first, second;

    const auto n = sys::recv_with(ends.b.get(), bytes, 8, first); // into the middle of the word
    REQUIRE(first.fds_count == 2);
    const descriptor one(first.fds[0]), other(first.fds[1]);
    const auto rest = sys::recv_with(ends.b.get(), bytes + 8, sizeof bytes - 8, second);

    CHECK(n == 8);
    CHECK(rest == 6); // nothing was passed with what is left, so it goes on
    CHECK(std::string(bytes, 14) == "beforewordnone");
    CHECK(second.fds_count == 0);
    CHECK_FALSE(first.is_cut);
    CHECK(one.get() != gift.a.get());
    CHECK(is_same_file(one.get(), gift.a.get()));
    CHECK(is_same_file(other.get(), gift.b.get()));
    CHECK(fcntl(one.get(), F_GETFD) == FD_CLOEXEC);
}

TEST_CASE("a read that meets passed descriptors ends with the send they came with") {
    const auto ends = stream_pair();
    const int sent[] = {ends.a.get()};
    CHECK(sys::send_with(ends.a.get(), "one", 3, sent, 1) == 3);
    CHECK(sys::send_with(ends.a.get(), "two", 3, sent, 1) == 3);
    char bytes[32];
    sys::passed_fds passed;

    for (int i = 0; i < 2; i++) {
        CHECK(sys::recv_with(ends.b.get(), bytes, sizeof bytes, passed) == 3);
        REQUIRE(passed.fds_count == 1);
        sys::close(passed.fds[0]);
    }
    CHECK(sys::recv_with(ends.b.get(), bytes, sizeof bytes, passed) == -EAGAIN);
    CHECK(passed.fds_count == 0);
}

TEST_CASE("a read says whether descriptors came with its bytes, and so ended it") {
    const support::pair ends = support::stream_pair();
    const int passed = ends.a.get();
    char bytes[16];
    bool is_cut = true;

    support::send_all(ends.a.get(), "abc");
    CHECK(sys::recv_uncut(ends.b.get(), bytes, sizeof bytes, is_cut) == 3);
    CHECK_FALSE(is_cut);
    REQUIRE(sys::send_with(ends.a.get(), "abc", 3, &passed, 1) == 3);
    support::send_all(ends.a.get(), "def");
    CHECK(sys::recv_uncut(ends.b.get(), bytes, sizeof bytes, is_cut) == 3);
    CHECK(is_cut);
    CHECK(sys::recv_uncut(ends.b.get(), bytes, sizeof bytes, is_cut) == 3);
    CHECK_FALSE(is_cut);
    CHECK(sys::recv_uncut(ends.b.get(), bytes, sizeof bytes, is_cut) == -EAGAIN);
    CHECK_FALSE(is_cut);
}

// Then a read ends at each change of the writer, too.
TEST_CASE("with SO_PASSCRED every read counts as cut") {
    const support::pair ends = support::stream_pair();
    REQUIRE(sys::set_option(ends.b.get(), SOL_SOCKET, SO_PASSCRED, 1) == 0);
    char bytes[16];
    bool is_cut = false;
    support::send_all(ends.a.get(), "abc");

    CHECK(sys::recv_uncut(ends.b.get(), bytes, sizeof bytes, is_cut) == 3);
    CHECK(is_cut);
}

TEST_CASE("only a socket file is given a mode, and no link is followed") {
    char path[64], link_path[80];
    std::snprintf(path, sizeof path, "/tmp/weir-sys-test-access-%d", static_cast<int>(getpid()));
    std::snprintf(link_path, sizeof link_path, "%s.link", path);
    { const descriptor file(sys::open_append(path)); }
    REQUIRE(symlink(path, link_path) == 0);

    const int of_file = sys::set_socket_access(path, 0600, -1, -1);
    const int of_link = sys::set_socket_access(link_path, 0600, -1, -1);
    unlink(link_path);
    unlink(path);

    CHECK(of_file == -ENOTSOCK);
    CHECK(of_link == -ENOTSOCK);
    CHECK(sys::set_socket_access(path, 0600, -1, -1) == -ENOENT);
}

TEST_CASE("as many descriptors as the kernel takes go in one message, and not one more") {
    const auto ends = stream_pair();
    int sent[sys::pass_max + 1];
    for (int& fd : sent)
        fd = ends.a.get();
    char byte;
    sys::passed_fds passed;

    CHECK(sys::send_with(ends.a.get(), "x", 1, sent, sys::pass_max + 1) == -EINVAL);
    CHECK(sys::send_with(ends.a.get(), "x", 1, sent, sys::pass_max) == 1);
    CHECK(sys::recv_with(ends.b.get(), &byte, 1, passed) == 1);

    CHECK(passed.fds_count == sys::pass_max);
    CHECK_FALSE(passed.is_cut);
    for (std::size_t i = 0; i < passed.fds_count; i++)
        sys::close(passed.fds[i]);
}

TEST_CASE("descriptors that cannot all be had are cut off, and those that came are told") {
    const auto ends = stream_pair();
    const int sent[] = {ends.a.get(), ends.b.get()};
    rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    const int lowest = dup(0); // the first number that is free, and behind it there is one more
    close(lowest);
    char byte;
    for (const int places : {0, 1}) {
        CHECK(sys::send_with(ends.a.get(), "x", 1, sent, 2) == 1);
        sys::passed_fds passed;
        rlimit lower = limit;
        lower.rlim_cur = static_cast<rlim_t>(lowest + places);
        REQUIRE(setrlimit(RLIMIT_NOFILE, &lower) == 0);
        const auto n = sys::recv_with(ends.b.get(), &byte, 1, passed);
        setrlimit(RLIMIT_NOFILE, &limit);

        CHECK(n == 1);
        CHECK(passed.is_cut);
        CHECK(passed.fds_count == static_cast<std::size_t>(places));
        for (std::size_t i = 0; i < passed.fds_count; i++)
            sys::close(passed.fds[i]);
    }
}

TEST_CASE("the user at the other end of a unix socket is known") {
    const auto ends = stream_pair();
    const auto tcp_ends = support::tcp_pair();

    CHECK(sys::own_user() == geteuid());
    CHECK(sys::peer_user(ends.a.get()) == geteuid());
    CHECK(sys::peer_user(tcp_ends.a.get()) == static_cast<uid_t>(-1));
    CHECK(sys::peer_user(-1) == -EBADF);
}

TEST_CASE("shutdown sends the end and goes on receiving") {
    const auto ends = stream_pair();

    CHECK(sys::shutdown_send(ends.a.get()) == 0);
    send_all(ends.b.get(), "still heard");

    CHECK(support::ended(ends.b.get()));
    CHECK(support::recv_exactly(ends.a.get(), 11) == "still heard");
    CHECK(sys::send(ends.a.get(), "x", 1, false) == -EPIPE);
}

TEST_CASE("an abortive close is a reset") {
    auto ends = support::tcp_pair();

    CHECK(sys::set_abortive(ends.a.get()) == 0);
    ends.a.close();

    REQUIRE(support::wait_for(ends.b.get(), POLLERR));
    CHECK(sys::socket_error(ends.b.get()) == ECONNRESET);
}

TEST_CASE("the error of a socket is told once, and that of what is none is an errno, too") {
    auto ends = support::tcp_pair();
    reset(ends.b);
    REQUIRE(support::wait_for(ends.a.get(), POLLERR));

    CHECK(sys::socket_error(ends.a.get()) == ECONNRESET);
    CHECK(sys::socket_error(ends.a.get()) == 0);
    CHECK(sys::socket_error(-1) == EBADF);
}

TEST_CASE("memory is zeroed, and wiped in a forked child if that was asked for") {
    auto* plain = static_cast<int*>(sys::map(4096));
    auto* wiped = static_cast<int*>(sys::map_wiped_on_fork(4096));
    REQUIRE(plain);
    REQUIRE(wiped);
    const bool zeroed = *plain == 0 && *wiped == 0;
    *plain = *wiped = 7;

    const pid_t child = fork();
    if (child == 0) _exit(*plain == 7 && *wiped == 0 ? 0 : 1);
    int status = -1;
    waitpid(child, &status, 0);

    CHECK(zeroed);
    CHECK(status == 0);
    CHECK(*wiped == 7);
    sys::unmap(plain, 4096);
    sys::unmap(wiped, 4096);
}

TEST_CASE("the descriptor limit is the soft one") {
    rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    rlimit lower = limit;
    lower.rlim_cur = 100;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &lower) == 0);

    const int low = sys::descriptor_limit();
    const int raised = sys::raise_descriptor_limit();
    setrlimit(RLIMIT_NOFILE, &limit);

    CHECK(low == 100);
    CHECK(raised == static_cast<int>(limit.rlim_max));
}

TEST_CASE("only a socket is unlinked as one") {
    char path[64];
    std::snprintf(path, sizeof path, "/tmp/weir-sys-test-%d", static_cast<int>(getpid()));
    {
        const descriptor file(sys::open_append(path));
        CHECK(sys::write(file.get(), "line\n", 5) == 5);
    }

    const int refused = sys::unlink_socket(path);
    unlink(path);

    CHECK(refused == -ENOTSOCK);
    CHECK(sys::unlink_socket(path) == -ENOENT);
}

TEST_CASE("a number is resolved without asking anybody, and is one address") {
    sys::resolved found[4];
    int count, unknown;
    {
        const support::forgiven the_resolvers; // it keeps its configuration
        count = sys::resolve("127.0.0.1", "8080", found, 4);
        unknown = sys::resolve("127.0.0.1", "no-such-service", found + 1, 3);
    }

    CHECK(count == 1);
    CHECK(found[0].bytes == sizeof(sockaddr_in));
    sockaddr_in v4;
    std::memcpy(&v4, &found[0].address, sizeof v4);
    CHECK(v4.sin_family == AF_INET);
    CHECK(ntohs(v4.sin_port) == 8080);
    CHECK(ntohl(v4.sin_addr.s_addr) == 0x7F000001);
    CHECK(unknown == -ENOENT);
}

TEST_CASE("the ports that connect() takes are those of /proc") {
    sys::port_range range;
    REQUIRE(sys::local_ports(range) == 0);
    unsigned first = 0, last = 0;
    FILE* file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    REQUIRE(file != nullptr);
    CHECK(fscanf(file, "%u %u", &first, &last) == 2);
    fclose(file);
    CHECK(range.first == first);
    CHECK(range.last == last);
}

// --- EINTR ends in sys, but for waits

TEST_CASE("a wait says that a signal interrupted it, a blocking recv goes on") {
    struct sigaction was, noisy {};
    noisy.sa_handler = [](int) {}; // without SA_RESTART
    REQUIRE(sigaction(SIGUSR1, &noisy, &was) == 0);
    const descriptor epoll(sys::epoll_open());
    const auto ends = stream_pair(support::blocking::yes);
    const pthread_t self = pthread_self();
    std::atomic<bool> waited{false};
    epoll_event event;
    char byte = 0;

    std::thread poker([&, peer = ends.b.get()] {
        for (int after = 0; after < 100; after += waited.load()) {
            pthread_kill(self, SIGUSR1);
            std::this_thread::yield();
        }
        sys::send(peer, "x", 1, false);
    });
    const int events = sys::epoll_wait(epoll.get(), &event, 1, 10'000);
    waited = true;
    const auto received = sys::recv(ends.a.get(), &byte, 1);
    poker.join();
    sigaction(SIGUSR1, &was, nullptr);

    CHECK(events == -EINTR);
    CHECK(received == 1);
    CHECK(byte == 'x');
}

TEST_CASE("a signal that is watched and blocked is read once, and does not act on the process") {
    sigset_t was, one;
    pthread_sigmask(SIG_SETMASK, nullptr, &was);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);

    const descriptor fd(sys::signal_open(one));
    sys::block_signals(one);
    const int before = sys::signal_read(fd.get());
    kill(getpid(), SIGUSR1);
    const int signal = sys::signal_read(fd.get());

    CHECK(before == -EAGAIN);
    CHECK(signal == SIGUSR1);
    CHECK(sys::signal_read(fd.get()) == -EAGAIN);
    pthread_sigmask(SIG_SETMASK, &was, nullptr);
}

TEST_CASE("a precise wait sleeps no less than it was told, and finds what is there without sleeping") {
    const descriptor epoll{sys::epoll_open()};
    const descriptor bell{sys::eventfd_open()};
    epoll_event e;
    REQUIRE(sys::epoll_add(epoll.get(), bell.get(), EPOLLIN, 7) == 0);
    const time_point began = sys::now();
    const int none = sys::epoll_wait_precise(epoll.get(), &e, 1, 300us);
    const duration slept = sys::now() - began;
    if (none == -ENOSYS) return; // Linux before 5.11
    REQUIRE(sys::eventfd_ring(bell.get()) > 0);

    const int one = sys::epoll_wait_precise(epoll.get(), &e, 1, 1h);

    CHECK(none == 0);
    CHECK(slept >= 300us);
    CHECK(one == 1);
    CHECK(std::uint64_t{e.data.u64} == 7);
}

TEST_CASE("threads that live at the same time have different marks, and a thread always the same") {
    const sys::thread_mark mine = sys::this_thread();
    sys::thread_mark other = nullptr;

    std::thread([&] { other = sys::this_thread(); }).join();

    CHECK(mine == sys::this_thread());
    CHECK(other != nullptr);
    CHECK(other != mine);
}

TEST_CASE("at least one processor may be used") { CHECK(sys::cpus_allowed() >= 1); }

} // namespace
