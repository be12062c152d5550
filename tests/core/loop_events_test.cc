// loop: events, batches of them, and descriptors that can and cannot be had.

#include "core/loop.hpp"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <vector>

#include <doctest/doctest.h>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "support/actors.hpp"
#include "support/counting.hpp"
#include "support/descriptors_left.hpp"
#include "support/loop_rig.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::actor, support::drain, support::met_eagain;
using support::descriptor, support::send_all, support::stream_pair, support::tcp_pair;
using support::descriptors_left, support::kept_mask;
using support::still_loop;

// --- events

TEST_CASE("bytes run the handler once, and no more until new ones come") {
    still_loop loop;
    auto ends = stream_pair();
    actor who{.act = drain};
    fd_slot& slot = loop.add(ends.a.release(), who);

    send_all(ends.b.get(), "some");
    loop.turn();
    loop.turn();
    const int after_first = who.runs;
    send_all(ends.b.get(), "more");
    loop.turn();

    CHECK(after_first == 1);
    CHECK(who.runs == 2);
    loop.close(slot);
}

TEST_CASE("a connection costs the kernel one epoll_ctl, and its steady state none and no allocation") {
    still_loop loop;
    auto ends = tcp_pair();
    actor who{.act = [](fd_slot& slot) {
        drain(slot);
        CHECK(sys::send(slot.fd, "pong", 4, false) == 4);
    }};
    const auto ctl_before = loop.polls().ctl_count();
    fd_slot& slot = loop.add(ends.a.release(), who);
    const auto allocations_before = support::allocation_count();

    char room[4];
    for (int i = 0; i < 100; i++) {
        sys::send(ends.b.get(), "ping", 4, false);
        for (int turns = 0; turns < 1000 && who.runs == i; turns++)
            loop.turn();
        CHECK(support::wait_for(ends.b.get(), POLLIN));
        CHECK(sys::recv(ends.b.get(), room, sizeof room) == 4);
    }

    const auto allocations = support::allocation_count() - allocations_before;
    CHECK(who.runs == 100);
    CHECK(allocations == 0);
    CHECK(loop.polls().ctl_count() == ctl_before + 1);
    loop.close(slot);
    CHECK(loop.polls().ctl_count() == ctl_before + 1);
}

// Scenarios 5 and 7.
TEST_CASE("a reset is seen though nothing is wanted") {
    still_loop loop;
    auto ends = tcp_pair();
    actor who{.act = met_eagain};
    fd_slot& slot = loop.add(ends.a.release(), who);
    fdtab::stop_recv(slot);

    reset(ends.b);
    REQUIRE(support::wait_for(slot.fd, POLLIN));
    loop.turn();
    loop.turn();

    CHECK(who.runs == 1);
    CHECK(slot.is(fd_state::err));
    CHECK(slot.is(fd_state::hup));
    loop.close(slot);
}

// Scenario 6.
TEST_CASE("a half-closed peer is seen though nothing is wanted, with RDHUP alone") {
    for (auto make : {stream_pair, tcp_pair}) {
        still_loop loop;
        auto ends = make(support::blocking::no);
        actor who{.act = met_eagain};
        fd_slot& slot = loop.add(ends.a.release(), who);
        fdtab::stop_recv(slot);

        support::shut_write(ends.b.get());
        REQUIRE(support::wait_for(slot.fd, POLLIN));
        loop.turn();
        loop.turn();

        CHECK(who.runs == 1);
        CHECK(slot.is(fd_state::rdhup));
        CHECK_FALSE(slot.is(fd_state::hup | fd_state::err));
        loop.close(slot);
    }
}

// Scenario 9.
TEST_CASE("a send that met EAGAIN hears of the peer's FIN, and later of the room") {
    still_loop loop;
    auto ends = stream_pair();
    support::shrink_buffers(ends.a.get());
    for (int i = 0; i < 10'000 && sys::send(ends.a.get(), "0123456789abcdef", 16, false) > 0; i++) {
    }
    REQUIRE_FALSE(support::ready(ends.a.get(), POLLOUT));
    std::vector<fd_state> seen;
    actor who{.act = [&](fd_slot& slot) {
        seen.push_back(slot.state);
        met_eagain(slot);
    }};
    fd_slot& slot = loop.add(ends.a.release(), who);
    loop.fds().want_send(slot);
    loop.turn(); // the handler meets EAGAIN
    CHECK(loop.cant_send(slot).ok());

    support::shut_write(ends.b.get());
    loop.turn();
    char room[4096];
    for (int i = 0; i < 10'000 && sys::recv(ends.b.get(), room, sizeof room) > 0; i++) {
    }
    loop.turn();

    REQUIRE(seen.size() == 3);
    CHECK(any(seen[1], fd_state::rdhup));
    CHECK_FALSE(any(seen[1], fd_state::send_ready));
    CHECK(any(seen[2], fd_state::send_ready));
}

// Scenario 10.
TEST_CASE("a send to a peer that is gone is EPIPE, without a signal and with SIGPIPE left as it was") {
    struct sigaction before, after;
    const struct sigaction deadly = [] {
        struct sigaction action {};
        action.sa_handler = SIG_DFL;
        return action;
    }();
    REQUIRE(sigaction(SIGPIPE, &deadly, &before) == 0);
    still_loop loop;
    auto ends = stream_pair();
    ends.b.close();
    const iovec part{.iov_base = const_cast<char*>("x"), .iov_len = 1};

    const auto sent = sys::send(ends.a.get(), "x", 1, false);
    const auto sent_parts = sys::send_parts(ends.a.get(), &part, 1, true);

    CHECK(sent == -EPIPE);
    CHECK(sent_parts == -EPIPE);
    REQUIRE(sigaction(SIGPIPE, &before, &after) == 0);
    CHECK((after.sa_handler == SIG_DFL));
}

// --- one batch, and what handlers do in it

// Scenarios 1 and 2: all three sockets have events before any handler runs.
TEST_CASE("a descriptor closed in its own batch does not run, and its number's new owner gets nothing stale") {
    still_loop loop;
    auto killer_ends = stream_pair(), victim_ends = stream_pair(), opener_ends = stream_pair();
    support::pair fresh_ends;
    const int victim_number = victim_ends.a.get();
    actor victim{}, fresh{};
    fd_slot* victim_slot = nullptr;
    actor killer{.act = [&](fd_slot& slot) {
        drain(slot);
        loop.close(*victim_slot);
    }};
    actor opener{.act = [&](fd_slot& slot) {
        drain(slot);
        fresh_ends = stream_pair();
        CHECK(fresh_ends.a.get() == victim_number);
        loop.add(fresh_ends.a.release(), fresh);
    }};
    fd_slot& killer_slot = loop.add(killer_ends.a.release(), killer);
    fd_slot& opener_slot = loop.add(opener_ends.a.release(), opener);
    victim_slot = &loop.add(victim_ends.a.release(), victim);
    for (auto* ends : {&killer_ends, &opener_ends, &victim_ends})
        send_all(ends->b.get(), "x");
    victim_ends.b.close();

    loop.turn();
    loop.turn();

    CHECK(killer.runs == 1);
    CHECK(opener.runs == 1);
    CHECK(victim.runs == 0);
    CHECK(fresh.runs == 0);
    CHECK(loop.fds().slot(victim_number).state == (fd_state::recv_active | fd_state::send_ready));
    send_all(fresh_ends.b.get(), "x");
    fresh.act = drain;
    loop.turn();
    CHECK(fresh.runs == 1);
    for (fd_slot* slot : {&killer_slot, &opener_slot, &loop.fds().slot(victim_number)})
        loop.close(*slot);
}

TEST_CASE("of two that close each other in one batch, one runs") {
    still_loop loop;
    auto first_ends = stream_pair(), second_ends = stream_pair();
    fd_slot* slots[2];
    actor actors[2];
    for (int me : {0, 1})
        actors[me].act = [&, me](fd_slot& slot) {
            drain(slot);
            loop.close(*slots[1 - me]);
        };
    slots[0] = &loop.add(first_ends.a.release(), actors[0]);
    slots[1] = &loop.add(second_ends.a.release(), actors[1]);
    send_all(first_ends.b.get(), "x");
    send_all(second_ends.b.get(), "x");

    loop.turn();
    loop.turn();

    CHECK(actors[0].runs + actors[1].runs == 1);
    loop.close(*slots[actors[0].runs ? 0 : 1]);
}

TEST_CASE("a handler may close itself") {
    still_loop loop;
    auto ends = stream_pair();
    actor who{.act = [&](fd_slot& slot) { loop.close(slot); }};
    loop.add(ends.a.release(), who);

    send_all(ends.b.get(), "x");
    loop.turn();
    loop.turn();

    CHECK(who.runs == 1);
    CHECK(support::ended(ends.b.get()));
    CHECK(loop.fds().used_count() == 1); // the mailbox's
}

TEST_CASE("idle slots run before the others of the same batch") {
    still_loop loop;
    auto first_ends = stream_pair(), idle_ends = stream_pair();
    std::vector<int> order;
    actor who{.act = [&](fd_slot& slot) {
        order.push_back(slot.fd);
        drain(slot);
    }};
    fd_slot& first = loop.add(first_ends.a.release(), who);
    fd_slot& idle = loop.add(idle_ends.a.release(), who);
    idle.state |= fd_state::idle;

    send_all(first_ends.b.get(), "x");
    send_all(idle_ends.b.get(), "x");
    loop.turn();

    CHECK(order == std::vector{idle.fd, first.fd});
    loop.close(first);
    loop.close(idle);
}

// --- descriptors

// Scenario 22, through the loop.
TEST_CASE("closing what is marked shared tells epoll, closing what is not does not") {
    for (bool shared : {false, true}) {
        CAPTURE(shared);
        still_loop loop;
        auto ends = stream_pair();
        const descriptor copy(dup(ends.a.get()));
        actor who;
        fd_slot& slot = loop.add(ends.a.release(), who);
        if (shared) slot.state |= fd_state::shared;
        const auto ctl_before = loop.polls().ctl_count();

        loop.close(slot);
        send_all(ends.b.get(), "x");
        loop.turn();

        CHECK(loop.polls().ctl_count() - ctl_before == (shared ? 1 : 0));
        CHECK(loop.polls().event_count() == (shared ? 0 : 1));
        CHECK(loop.fds().stale_count() == (shared ? 0 : 1));
        CHECK(who.runs == 0);
    }
}

// Scenario 24.
TEST_CASE("a descriptor beyond the table is refused and stays the caller's") {
    still_loop loop({.fd_max = 64});
    const auto ends = stream_pair();
    const descriptor high(fcntl(ends.a.get(), F_DUPFD_CLOEXEC, 64));
    REQUIRE(high.get() >= 64);
    actor who;
    const auto ctl_before = loop.polls().ctl_count();

    const auto slot = loop.watch(high.get(), interest::recv, actor::run, &who);

    CHECK(slot.error() == EMFILE);
    CHECK(fcntl(high.get(), F_GETFD) >= 0);
    CHECK(loop.polls().ctl_count() == ctl_before);
    CHECK(loop.fds().used_count() == 1);
}

TEST_CASE("a descriptor that epoll refuses is not watched, and stays the caller's") {
    still_loop loop;
    descriptor file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    actor who;

    const auto slot = loop.watch(file.get(), interest::recv, actor::run, &who);
    const auto used_after = loop.fds().used_count();

    CHECK(slot.error() == EPERM);
    CHECK(used_after == 1);
    CHECK(fcntl(file.get(), F_GETFD) >= 0);
}

// Scenario 16.
TEST_CASE("a loop that cannot have its descriptors says EMFILE and leaves nothing behind") {
    for (rlim_t more : {0u, 1u}) { // none for epoll, none for the eventfd
        CAPTURE(more);
        event_loop loop;

        int error = 0;
        {
            const descriptors_left few(more);
            error = loop.open().error();
        }

        CHECK(error == EMFILE);
    }
}

TEST_CASE("a loop fits into two descriptors") {
    event_loop loop;
    const descriptors_left two(2);

    CHECK(loop.open().ok());
}

TEST_CASE("a loop whose table has no room for its own eventfd says EMFILE") {
    event_loop loop;

    CHECK(loop.open({.fd_max = 1}).error() == EMFILE);
}

TEST_CASE("a signal that cannot have its descriptor is refused, and the loop goes on with what it had") {
    const kept_mask mask;
    still_loop loop;
    int heard = 0;
    const auto hear = [](void* owner, int) noexcept { ++*static_cast<int*>(owner); };
    REQUIRE(loop.on_signal(SIGUSR1, hear, &heard).ok());

    int error = 0;
    {
        const descriptors_left none(0);
        error = loop.on_signal(SIGUSR2, hear, &heard).error();
    }
    kill(getpid(), SIGUSR1);
    loop.turn();

    CHECK(error == EMFILE);
    CHECK(heard == 1);
}

} // namespace
