// What weir believes about epoll's edges. No code of weir's is run here: when one of these fails, the kernel is not the
// one that the poller was written for.

#include <array>
#include <cerrno>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/sys.hpp"
#include "support/net.hpp"

namespace {

using namespace support;

constexpr std::uint32_t recv_events = EPOLLIN | EPOLLRDHUP | EPOLLET;
constexpr std::uint32_t both = recv_events | EPOLLOUT;

// One epoll and one descriptor in it.
class edges {
  public:
    explicit edges(int fd, std::uint32_t events) : fd_(fd) { control(EPOLL_CTL_ADD, events); }
    edges(const edges&) = delete;
    edges& operator=(const edges&) = delete;

    void change(std::uint32_t events) { control(EPOLL_CTL_MOD, events); }
    void remove() { control(EPOLL_CTL_DEL, 0); }

    // The events of the next report, 0 if none comes.
    std::uint32_t report(std::chrono::milliseconds limit = std::chrono::milliseconds{0}) {
        epoll_event e{};
        return epoll_wait(epoll_.get(), &e, 1, static_cast<int>(limit.count())) == 1 ? e.events : 0;
    }
    // Reports until all of `events` were in one.
    bool reports(std::uint32_t events) {
        for (int i = 0; i < 100; i++) {
            const std::uint32_t got = report(patience);
            if (got == 0) return false;
            if ((got & events) == events) return true;
        }
        return false;
    }

  private:
    void control(int operation, std::uint32_t events) {
        epoll_event e{.events = events, .data = {.u64 = 0}};
        REQUIRE(epoll_ctl(epoll_.get(), operation, fd_, &e) == 0);
    }

    descriptor epoll_{epoll_create1(EPOLL_CLOEXEC)};
    int fd_;
};

pair socket_pair(bool tcp) {
    return tcp ? tcp_pair() : stream_pair();
}

ssize_t recv_some(int fd, std::size_t bytes) {
    std::array<char, 65536> room;
    return ::recv(fd, room.data(), std::min(bytes, room.size()), MSG_DONTWAIT);
}

// Sends until EAGAIN.
void fill(int fd) {
    const std::string block(4096, 'x');
    for (int i = 0; i < 100'000; i++)
        if (::send(fd, block.data(), block.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
            REQUIRE(errno == EAGAIN);
            return;
        }
    FAIL("never full");
}

TEST_CASE("without new data there is no second report, read or not") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        edges e(ends.a.get(), recv_events);

        send_all(ends.b.get(), "some bytes");

        CHECK(e.report(patience) == EPOLLIN);
        CHECK(e.report() == 0);
        CHECK(recv_some(ends.a.get(), 4) == 4);
        CHECK(e.report() == 0);
    }
}

TEST_CASE("new data is a new report, though the old was not read") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        edges e(ends.a.get(), recv_events);

        for (int i = 0; i < 3; i++) {
            send_all(ends.b.get(), "x");
            CHECK(e.report(patience) == EPOLLIN);
            CHECK(e.report() == 0);
        }
    }
}

TEST_CASE("reports that were not fetched become one") {
    const pair ends = stream_pair();
    edges e(ends.a.get(), recv_events);

    send_all(ends.b.get(), "x");
    send_all(ends.b.get(), "y");
    shut_write(ends.b.get());

    CHECK(e.report() == (EPOLLIN | EPOLLRDHUP));
    CHECK(e.report() == 0);
}

TEST_CASE("adding what is ready reports it") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        send_all(ends.b.get(), "x");
        REQUIRE(wait_for(ends.a.get(), POLLIN));

        edges e(ends.a.get(), both);

        CHECK(e.report() == (EPOLLIN | EPOLLOUT));
        CHECK(e.report() == 0);
    }
}

TEST_CASE("MOD looks again and reports what holds, even with the same mask") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        edges e(ends.a.get(), recv_events);
        send_all(ends.b.get(), "x");
        REQUIRE(e.report(patience) == EPOLLIN);

        e.change(recv_events);
        const auto same = e.report();
        e.change(both);
        const auto more = e.report();

        CHECK(same == EPOLLIN);
        CHECK(more == (EPOLLIN | EPOLLOUT));
        CHECK(e.report() == 0);
    }
}

TEST_CASE("a report carries all that holds, not just what is new") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        edges e(ends.a.get(), both);
        REQUIRE(e.report(patience) == EPOLLOUT);

        send_all(ends.b.get(), "x");
        const auto at_data = e.report(patience);
        shut_write(ends.b.get());
        const auto at_fin = e.report(patience);

        CHECK(at_data == (EPOLLIN | EPOLLOUT));
        CHECK(at_fin == (EPOLLIN | EPOLLOUT | EPOLLRDHUP));
    }
}

TEST_CASE("HUP and ERR are reported without being asked for") {
    pair ends = tcp_pair();
    edges e(ends.a.get(), EPOLLET);

    reset(ends.b);

    CHECK(e.report(patience) == (EPOLLHUP | EPOLLERR));
    CHECK(e.report() == 0);
}

// Why a short read may be taken for EAGAIN where RDHUP is reported.
TEST_CASE("after a short read a FIN is a new report") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        edges e(ends.a.get(), recv_events);
        send_all(ends.b.get(), "five!");
        REQUIRE(e.report(patience) == EPOLLIN);
        REQUIRE(recv_some(ends.a.get(), 100) == 5); // short: no EAGAIN was met

        shut_write(ends.b.get());

        CHECK(e.report(patience) == (EPOLLIN | EPOLLRDHUP));
        CHECK(recv_some(ends.a.get(), 100) == 0);
    }
}

TEST_CASE("after a short read new data is a new report") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        edges e(ends.a.get(), recv_events);
        send_all(ends.b.get(), "five!");
        REQUIRE(e.report(patience) == EPOLLIN);
        REQUIRE(recv_some(ends.a.get(), 100) == 5);

        send_all(ends.b.get(), "more");

        CHECK(e.report(patience) == EPOLLIN);
    }
}

TEST_CASE("unix: a recv ends behind what had a descriptor with it, and what was queued then is no new report") {
    support::pair ends = stream_pair();
    edges e(ends.a.get(), recv_events);
    const int passed = ends.b.get();
    REQUIRE(weir::sys::send_with(ends.b.get(), "abc", 3, &passed, 1) == 3);
    send_all(ends.b.get(), "def");
    char room[64];

    CHECK(e.report() == EPOLLIN);
    CHECK(::recv(ends.a.get(), room, sizeof room, 0) == 3);
    CHECK(e.report() == 0);
    CHECK(::recv(ends.a.get(), room, sizeof room, 0) == 3);
}

TEST_CASE("a FIN behind data that was read together with it is in the same report") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        send_all(ends.b.get(), "last");
        shut_write(ends.b.get());
        REQUIRE(wait_for(ends.a.get(), POLLRDHUP));

        edges e(ends.a.get(), recv_events);

        CHECK(e.report(patience) == (EPOLLIN | EPOLLRDHUP));
        CHECK(recv_some(ends.a.get(), 100) == 4);
        CHECK(e.report() == 0);
        CHECK(recv_some(ends.a.get(), 100) == 0);
    }
}

TEST_CASE("after EAGAIN, room is reported once the peer has read") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        edges e(ends.a.get(), both);
        // What is on its way may make room by itself for a while; then the peer's window is shut.
        do {
            e.report();
            fill(ends.a.get());
        } while (e.report(std::chrono::milliseconds{300}) != 0);

        for (int i = 0; i < 10'000 && !ready(ends.a.get(), POLLOUT); i++)
            if (wait_for(ends.b.get(), POLLIN)) recv_some(ends.b.get(), 65536);

        CHECK((e.report(patience) & EPOLLOUT) != 0);
        CHECK(::send(ends.a.get(), "x", 1, MSG_NOSIGNAL) == 1);
    }
}

TEST_CASE("room that is asked for after the EAGAIN, by MOD, is reported when it comes") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        edges e(ends.a.get(), recv_events);
        do
            fill(ends.a.get());
        while (wait_for(ends.a.get(), POLLOUT, std::chrono::milliseconds{300}));

        e.change(both);
        const auto at_once = e.report();
        for (int i = 0; i < 10'000 && !ready(ends.a.get(), POLLOUT); i++)
            if (wait_for(ends.b.get(), POLLIN)) recv_some(ends.b.get(), 65536);

        CHECK(at_once == 0);
        CHECK((e.report(patience) & EPOLLOUT) != 0);
    }
}

TEST_CASE("room that came between the EAGAIN and the MOD is reported by the MOD") {
    for (bool tcp : {false, true}) {
        CAPTURE(tcp);
        const pair ends = socket_pair(tcp);
        edges e(ends.a.get(), recv_events);
        fill(ends.a.get());
        for (int i = 0; i < 10'000 && !ready(ends.a.get(), POLLOUT); i++)
            if (wait_for(ends.b.get(), POLLIN)) recv_some(ends.b.get(), 65536);

        e.change(both);

        CHECK((e.report() & EPOLLOUT) != 0);
    }
}

// The mailbox's bell.
TEST_CASE("every write to an eventfd is an edge, though nobody reads it") {
    const descriptor fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    edges e(fd.get(), recv_events);
    const std::uint64_t one = 1;

    for (int i = 0; i < 10; i++) {
        REQUIRE(write(fd.get(), &one, sizeof one) == sizeof one);
        CHECK(e.report() == EPOLLIN);
        CHECK(e.report() == 0);
    }
}

TEST_CASE("a saturated eventfd takes no write, and one more after a read") {
    const descriptor fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    edges e(fd.get(), recv_events);
    const std::uint64_t most = ~std::uint64_t{0} - 1, one = 1;
    std::uint64_t was = 0;
    REQUIRE(write(fd.get(), &most, sizeof most) == sizeof most);
    REQUIRE(e.report() == EPOLLIN);

    const auto refused = write(fd.get(), &one, sizeof one);
    const int why = errno;
    const bool edge_when_refused = e.report() != 0;
    REQUIRE(read(fd.get(), &was, sizeof was) == sizeof was);
    const auto taken = write(fd.get(), &one, sizeof one);

    CHECK(refused == -1);
    CHECK(why == EAGAIN);
    CHECK_FALSE(edge_when_refused);
    CHECK(was == most);
    CHECK(taken == sizeof one);
    CHECK(e.report() == EPOLLIN);
}

// epoll(7), questions and answers, 6: why a shared descriptor is removed before it is closed.
TEST_CASE("epoll goes on reporting a closed descriptor whose description lives on") {
    pair ends = stream_pair();
    edges e(ends.a.get(), recv_events);
    descriptor copy(dup(ends.a.get()));

    ends.a.close();
    send_all(ends.b.get(), "x");
    const auto with_copy = e.report();
    copy.close();
    ends.b.close();

    CHECK(with_copy == EPOLLIN);
    CHECK(e.report() == 0);
}

TEST_CASE("a closed descriptor without copies reports no more, even what had come already") {
    pair ends = stream_pair();
    edges e(ends.a.get(), recv_events);
    send_all(ends.b.get(), "x");

    ends.a.close();

    CHECK(e.report() == 0);
}

TEST_CASE("DEL takes back what was not fetched yet") {
    const pair ends = stream_pair();
    edges e(ends.a.get(), recv_events);
    send_all(ends.b.get(), "x");

    e.remove();

    CHECK(e.report() == 0);
}

// Why a turn takes a batch and comes back, and why nothing starves: what did not fit is first next time.
TEST_CASE("what does not fit into a batch comes in the next, each once") {
    const descriptor epoll(epoll_create1(EPOLL_CLOEXEC));
    std::array<pair, 5> all;
    for (std::size_t i = 0; i < all.size(); i++) {
        all[i] = stream_pair();
        epoll_event e{.events = recv_events, .data = {.u64 = i}};
        REQUIRE(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, all[i].a.get(), &e) == 0);
        send_all(all[i].b.get(), "x");
    }

    std::multiset<std::uint64_t> seen;
    epoll_event batch[2];
    for (int expected : {2, 2, 1, 0}) {
        const int n = epoll_wait(epoll.get(), batch, 2, 0);
        CHECK(n == expected);
        for (int i = 0; i < n; i++)
            seen.insert(std::uint64_t{batch[i].data.u64});
    }

    CHECK(seen == std::multiset<std::uint64_t>{0, 1, 2, 3, 4});
}

TEST_CASE("a descriptor is reported once per batch, with all its events") {
    pair ends = tcp_pair();
    edges e(ends.a.get(), both);
    send_all(ends.b.get(), "x");
    shut_write(ends.b.get());
    REQUIRE(wait_for(ends.a.get(), POLLRDHUP));

    CHECK(e.report() == (EPOLLIN | EPOLLOUT | EPOLLRDHUP));
    CHECK(e.report() == 0);
}

} // namespace
