// loop: signals, and processes that fork.

#include "core/loop.hpp"

#include <chrono>
#include <csignal>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/actors.hpp"
#include "support/dies.hpp"
#include "support/loop_rig.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::actor, support::alarm_clock, support::met_eagain;
using support::dies, support::kept_mask;
using support::real_loop, support::still_loop;
using support::send_all, support::stream_pair;

// --- signals

struct heard_signals {
    std::vector<int> heard;
    event_loop* stops = nullptr;

    static void hear(void* owner, int signal) noexcept {
        auto& self = *static_cast<heard_signals*>(owner);
        self.heard.push_back(signal);
        if (self.stops) self.stops->stop();
    }
};

TEST_CASE("a signal calls its handler in a turn, not before") {
    const kept_mask mask;
    still_loop loop;
    heard_signals ears;
    REQUIRE(loop.on_signal(SIGUSR1, heard_signals::hear, &ears).ok());

    kill(getpid(), SIGUSR1);
    const bool before = ears.heard.empty();
    loop.turn();
    loop.turn();

    CHECK(before);
    CHECK(ears.heard == std::vector{SIGUSR1});
}

TEST_CASE("each signal has its handler, and those that came first are not lost when another is added") {
    const kept_mask mask;
    still_loop loop;
    heard_signals first, second;
    REQUIRE(loop.on_signal(SIGUSR1, heard_signals::hear, &first).ok());
    kill(getpid(), SIGUSR1);
    REQUIRE(loop.on_signal(SIGUSR2, heard_signals::hear, &second).ok());
    kill(getpid(), SIGUSR2);

    for (int turn = 0; turn < 3; turn++)
        loop.turn();

    CHECK(first.heard == std::vector{SIGUSR1});
    CHECK(second.heard == std::vector{SIGUSR2});
    CHECK(loop.fds().used_count() == 2);
}

TEST_CASE("a signal's handler may stop the loop, and add another signal") {
    const kept_mask mask;
    real_loop loop;
    struct adder {
        heard_signals ears;
        event_loop* loop;
    } who;
    who.loop = &loop;
    const auto add_another = [](void* owner, int) noexcept {
        auto& self = *static_cast<adder*>(owner);
        CHECK(self.loop->on_signal(SIGUSR2, heard_signals::hear, &self.ears).ok());
        kill(getpid(), SIGUSR2);
    };
    who.ears.stops = &loop;
    REQUIRE(loop.on_signal(SIGUSR1, add_another, &who).ok());

    kill(getpid(), SIGUSR1);
    loop.run();

    CHECK(who.ears.heard == std::vector{SIGUSR2});
}

TEST_CASE("a signal that could not be watched is left as it was, and the next one is heard without it") {
    const kept_mask mask;
    still_loop loop({.fd_max = 64});
    heard_signals ears;
    {
        std::vector<support::descriptor> below; // the table's numbers
        do
            below.emplace_back(dup(0));
        while (below.back().get() >= 0 && below.back().get() < 64);
        CHECK(loop.on_signal(SIGUSR1, heard_signals::hear, &ears).error() == EMFILE);
    }
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    CHECK_FALSE(sigismember(&blocked, SIGUSR1));
    REQUIRE(loop.on_signal(SIGUSR2, heard_signals::hear, &ears).ok());

    sigset_t first;
    sigemptyset(&first);
    sigaddset(&first, SIGUSR1);
    sys::block_signals(first); // by whoever else is in this program
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR2);
    loop.turn();
    loop.turn();

    CHECK(ears.heard == std::vector{SIGUSR2});
    int taken = 0;
    sigwait(&first, &taken);
    CHECK(taken == SIGUSR1);
}

// Adding a signal replaces the signalfd under the handler that runs: what takes the number must not be read as one.
TEST_CASE("a socket that takes the signalfd's number in a signal's handler keeps its bytes") {
    const kept_mask mask;
    still_loop loop;
    struct everything {
        still_loop* loop;
        support::pair ends;
        actor who;
        heard_signals ears;
    } all{.loop = &loop, .ends = {}, .who = {}, .ears = {}};
    const auto add_and_open = [](void* owner, int) noexcept {
        auto& self = *static_cast<everything*>(owner);
        CHECK(self.loop->on_signal(SIGUSR2, heard_signals::hear, &self.ears).ok());
        self.ends = stream_pair();
        send_all(self.ends.b.get(), std::string(200, 'x')); // more than a signalfd_siginfo
        self.loop->fds().may_recv(self.loop->add(self.ends.a.release(), self.who));
    };
    int number = -1;
    {
        const auto probe = stream_pair();
        number = probe.a.get(); // the lowest that is free: the signalfd's
    }
    REQUIRE(loop.on_signal(SIGUSR1, add_and_open, &all).ok());

    kill(getpid(), SIGUSR1);
    loop.turn();
    const auto in_the_socket = support::recv_exactly(number, 200).size();

    CHECK((loop.fds().slot(number).handler == actor::run));
    CHECK(in_the_socket == 200);
    CHECK(loop.fds().slot(number).is(fd_state::recv_ready));
}

TEST_CASE("a signal wakes a sleeping loop") {
    const kept_mask mask;
    real_loop loop;
    heard_signals ears;
    REQUIRE(loop.on_signal(SIGUSR1, heard_signals::hear, &ears).ok());

    std::thread other([] { kill(getpid(), SIGUSR1); });
    for (int turn = 0; turn < 3 && ears.heard.empty(); turn++)
        loop.turn(5s);
    other.join();

    CHECK(ears.heard.size() == 1);
    CHECK(loop.turn_count() <= 2);
}

TEST_CASE("a signal number that does not exist is a mistake") {
    still_loop loop;

    CHECK(dies([&] { static_cast<void>(loop.on_signal(0, heard_signals::hear, nullptr)); }, "signal > 0"));
    CHECK(dies([&] { static_cast<void>(loop.on_signal(65, heard_signals::hear, nullptr)); }, "signal <= signal_max"));
    CHECK(dies([&] { static_cast<void>(loop.on_signal(SIGUSR1, nullptr, nullptr)); }, "handler != nullptr"));
}

// --- processes

// Scenario 21.
TEST_CASE("a forked child that takes a turn with its parent's loop is stopped") {
    still_loop loop;

    CHECK(dies([&] { loop.turn(); }, "born_here_"));

    loop.turn(); // the parent goes on
}

TEST_CASE("a forked child may make a loop of its own") {
    still_loop parents;

    const pid_t child = fork();
    if (child == 0) {
        event_loop loop;
        const bool fine = loop.open().ok() && loop.turn(0ms) == 0;
        _exit(fine ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);

    CHECK(status == 0);
}

// Scenario 23.
TEST_CASE("a loop works with descriptors 0, 1 and 2") {
    const pid_t child = fork();
    if (child == 0) {
        for (int fd : {0, 1, 2})
            ::close(fd);
        int runs = 0;
        const auto count = [](fd_slot& slot) noexcept {
            ++*static_cast<int*>(slot.owner);
            met_eagain(slot);
        };
        int ends[2];
        int why = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0 && ends[0] == 0 ? 0 : 1;
        event_loop loop;
        if (!loop.open().ok()) why |= 2; // epoll is 2 now
        auto slot = loop.watch(0, interest::recv, count, &runs);
        if (!slot.ok()) _exit(why | 4);
        loop.fds().want_recv(*slot.value());
        if (sys::send(ends[1], "x", 1, false) != 1) why |= 8;
        loop.turn(5s);
        loop.stop();
        loop.run();
        if (runs != 1) why |= 16;
        loop.close(*slot.value());
        if (fcntl(0, F_GETFD) >= 0) why |= 32;
        _exit(why);
    }
    int status = -1;
    waitpid(child, &status, 0);

    CHECK(status == 0);
}

TEST_CASE("a loop that was not opened cannot take a turn, and one cannot be opened twice") {
    event_loop loop;
    still_loop opened;

    CHECK(dies([&] { loop.turn(0ms); }, "clock_ != nullptr"));
    CHECK(dies([&] { static_cast<void>(opened.open()); }, "clock_ == nullptr"));
}

TEST_CASE("a turn within a turn is a broken contract") {
    CHECK(dies(
        [] { // a loop of the child's own: a parent's must not be turned there
            still_loop loop;
            alarm_clock impatient{[&](time_point) { loop.turn(); }};
            loop.arm(impatient, loop.now());
            loop.clock.advance(2ms);
            loop.turn();
        },
        "!turning_"));
}

} // namespace
