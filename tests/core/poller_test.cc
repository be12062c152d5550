#include "core/poller.hpp"

#include <cerrno>

#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/descriptors_left.hpp"
#include "support/dies.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using support::descriptor;
using support::descriptors_left;
using support::dies;
using support::send_all;
using support::stream_pair;

void count_run(fd_slot& slot) noexcept {
    ++*static_cast<int*>(slot.owner);
    slot.state &= ~fd_state::news;
    fdtab::cant_recv(slot);
    fdtab::cant_send(slot);
}

// A table and its poller, as a loop holds them.
struct readiness {
    fdtab fds;
    poller polls;
    int runs = 0;

    explicit readiness(std::uint32_t events_max = 16, std::uint32_t fd_max = 1024) {
        REQUIRE(fds.open(fd_max).ok());
        REQUIRE(polls.open(fds, events_max).ok());
    }
    ~readiness() {
        for (std::uint32_t fd = 0; fd < fds.fd_max(); fd++)
            if (fds.slot(static_cast<int>(fd)).handler) fds.release(fds.slot(static_cast<int>(fd)));
    }

    fd_slot& watch(int fd, interest first = interest::recv) {
        auto slot = fds.insert(fd, count_run, &runs);
        REQUIRE(slot.ok());
        REQUIRE(polls.add(*slot.value(), first).ok());
        return *slot.value();
    }
};

TEST_CASE("a descriptor is registered once, and wanting or stopping never speaks to the kernel") {
    readiness r;
    const auto ends = stream_pair();

    fd_slot& slot = r.watch(ends.a.get());
    for (int i = 0; i < 100; i++) {
        r.fds.want_recv(slot);
        r.fds.want_send(slot);
        r.fds.run();
        fdtab::stop_recv(slot);
        fdtab::stop_send(slot);
    }
    send_all(ends.b.get(), "x");
    r.polls.wait(0);

    CHECK(r.polls.ctl_count() == 1);
}

TEST_CASE("room to send is asked for once") {
    readiness r;
    const auto ends = stream_pair();
    fd_slot& slot = r.watch(ends.a.get());

    for (int i = 0; i < 3; i++)
        CHECK(r.polls.await_send(slot).ok());

    CHECK(r.polls.ctl_count() == 2);
}

TEST_CASE("a connecting socket asks for room from the start") {
    readiness r;
    const auto ends = stream_pair();

    fd_slot& slot = r.watch(ends.a.get(), interest::recv_send);
    const bool ready_before = slot.is(fd_state::send_ready);
    r.polls.wait(0);

    CHECK_FALSE(ready_before);
    CHECK(slot.is(fd_state::send_ready));
    CHECK(r.polls.await_send(slot).ok());
    CHECK(r.polls.ctl_count() == 1);
}

TEST_CASE("an accepted socket may be sent to at once, and reports no room before it is asked") {
    readiness r;
    const auto ends = stream_pair();

    fd_slot& slot = r.watch(ends.a.get());
    r.polls.wait(0);

    CHECK(slot.is(fd_state::send_ready));
    CHECK(r.polls.event_count() == 0);
}

TEST_CASE("room that came between the EAGAIN and the question for it is reported") {
    readiness r;
    const auto ends = stream_pair();
    fd_slot& slot = r.watch(ends.a.get());
    r.fds.want_send(slot);
    r.fds.run(); // the handler says EAGAIN

    const bool ready_before = slot.is(fd_state::send_ready);
    REQUIRE(r.polls.await_send(slot).ok());
    r.polls.wait(0);

    CHECK_FALSE(ready_before);
    CHECK(slot.is(fd_state::send_ready));
    CHECK(r.fds.run() == 1);
}

TEST_CASE("a report is merged, not acted upon") {
    readiness r;
    const auto ends = stream_pair();
    fd_slot& slot = r.watch(ends.a.get());
    r.fds.want_recv(slot);
    send_all(ends.b.get(), "x");

    r.polls.wait(0);

    CHECK(r.runs == 0);
    CHECK(slot.is(fd_state::queued));
    CHECK(r.fds.run() == 1);
}

TEST_CASE("a batch that takes all the room says so") {
    readiness r(2);
    const auto one = stream_pair(), two = stream_pair(), three = stream_pair();
    for (const auto* ends : {&one, &two, &three}) {
        r.fds.want_recv(r.watch(ends->a.get()));
        send_all(ends->b.get(), "x");
    }

    CHECK(r.polls.wait(0) == poller::batch::full);
    CHECK(r.polls.wait(0) == poller::batch::partial);

    CHECK(r.polls.event_count() == 3);
    CHECK(r.fds.run() == 3);
}

// Scenario 22.
TEST_CASE("a closed descriptor that was shared reports no more") {
    readiness r;
    auto ends = stream_pair();
    const descriptor copy(dup(ends.a.get()));
    fd_slot& slot = r.watch(ends.a.get());

    r.polls.remove(slot);
    r.fds.release(slot);
    ends.a.close();
    send_all(ends.b.get(), "x");
    r.polls.wait(0);

    CHECK(r.polls.event_count() == 0);
    CHECK(r.polls.ctl_count() == 2);
}

// What marking it shared is for.
TEST_CASE("a closed descriptor that was shared in secret goes on reporting, to nobody") {
    readiness r;
    auto ends = stream_pair();
    const descriptor copy(dup(ends.a.get()));
    fd_slot& slot = r.watch(ends.a.get());
    r.fds.want_recv(slot);

    r.fds.release(slot);
    ends.a.close();
    for (std::uint64_t i = 1; i <= 3; i++) {
        send_all(ends.b.get(), "x");
        r.polls.wait(0);
        CHECK(r.fds.stale_count() == i);
    }

    CHECK(r.fds.run() == 0);
    CHECK(r.runs == 0);
}

TEST_CASE("a closed descriptor that reports in secret does not disturb the number's new owner") {
    readiness r;
    auto ends = stream_pair();
    const descriptor copy(dup(ends.a.get()));
    const int number = ends.a.get();
    r.fds.release(r.watch(number));
    ends.a.close();
    auto fresh = stream_pair();
    REQUIRE(fresh.a.get() == number);
    fd_slot& slot = r.watch(number);
    r.fds.want_recv(slot);

    send_all(ends.b.get(), "x");
    r.polls.wait(0);

    CHECK(r.fds.stale_count() == 1);
    CHECK(r.fds.run() == 0);
    send_all(fresh.b.get(), "x");
    r.polls.wait(0);
    CHECK(r.fds.run() == 1);
}

TEST_CASE("what cannot be polled is refused with its errno") {
    readiness r;
    const descriptor file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    auto slot = r.fds.insert(file.get(), count_run, &r.runs);
    REQUIRE(slot.ok());

    CHECK(r.polls.add(*slot.value(), interest::recv).error() == EPERM);
}

TEST_CASE("removing what was never registered is a mistake") {
    readiness r;
    const auto ends = stream_pair();
    auto slot = r.fds.insert(ends.a.get(), count_run, &r.runs);
    REQUIRE(slot.ok());

    CHECK(dies([&] { r.polls.remove(*slot.value()); }, "r == 0"));
}

TEST_CASE("a number that was closed behind the poller's back is a mistake") {
    readiness r;
    const auto ends = stream_pair();
    auto slot = r.fds.insert(ends.a.get(), count_run, &r.runs);
    REQUIRE(slot.ok());
    REQUIRE(r.polls.add(*slot.value(), interest::recv).ok());

    CHECK(dies([&] { static_cast<void>(r.polls.add(*slot.value(), interest::recv)); }, "r != -EEXIST"));
    CHECK(dies(
        [&] {
            dup2(ends.b.get(), ends.a.get());
            static_cast<void>(r.polls.await_send(*slot.value()));
        },
        "r != -ENOENT"));
    CHECK(dies(
        [&] {
            close(ends.a.get());
            static_cast<void>(r.polls.await_send(*slot.value()));
        },
        "r != -EBADF"));
}

TEST_CASE("a process out of descriptors gets no epoll, and an errno") {
    fdtab fds;
    REQUIRE(fds.open(64).ok());
    poller polls;
    const descriptors_left none(0);

    CHECK(polls.open(fds, 16).error() == EMFILE);
}

} // namespace
