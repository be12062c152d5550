// loop: a process that stands still, at any instruction, looks at what came meanwhile before it looks at deadlines.

#include "core/loop.hpp"

#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

#include <doctest/doctest.h>

#include "support/actors.hpp"
#include "support/loop_rig.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::send_all, support::stream_pair;

// A real clock plus what it was told to skip. A reading can be made the moment of a stop.
struct stalled_clock : clock {
    explicit stalled_clock(bool fake)
        : clock{.now = [](const clock& c) noexcept {
                    auto& self = const_cast<stalled_clock&>(static_cast<const stalled_clock&>(c));
                    self.reads++;
                    if (self.on_read) self.on_read();
                    return (self.is_fake ? time_point{1h} : sys::now()) + self.skipped;
                },
                .is_fake = fake} {}

    duration skipped{};
    int reads = 0;
    std::function<void()> on_read;
};

// A connection of the simplest kind: what comes pushes its idle deadline.
struct client {
    explicit client(event_loop& l) : loop(l) {
        auto added = loop.watch(
            ends.a.release(), interest::recv,
            [](fd_slot& s) noexcept {
                auto& self = *static_cast<client*>(s.owner);
                self.reads++;
                support::drain(s);
                self.loop.arm_in(self.idle, 5s);
            },
            this);
        REQUIRE(added.ok());
        slot = added.value();
        loop.fds().want_recv(*slot);
        loop.arm_in(idle, 5s);
    }
    ~client() {
        idle.cancel();
        loop.close(*slot);
    }
    void say() { send_all(ends.b.get(), "x"); }

    event_loop& loop;
    support::pair ends = stream_pair();
    fd_slot* slot = nullptr;
    int reads = 0;
    support::alarm_clock idle{};
};

struct stall_rig {
    // The client speaks, and 10 s are gone.
    void stand_still() {
        c.say();
        clock.skipped += 10s;
        clock.on_read = {};
    }

    stalled_clock clock{true};
    struct opened_loop : event_loop {
        explicit opened_loop(const stalled_clock& source) { REQUIRE(open({.time_source = &source}).ok()); }
    } loop{clock};
    client c{loop};
};

TEST_CASE("a stop between the answer of epoll and the next reading of the clock") {
    stall_rig r;
    const int reads = r.clock.reads;
    r.clock.on_read = [&] {
        if (r.clock.reads == reads + 2) r.stand_still(); // the first is before epoll is asked
    };

    r.loop.turn(1h);
    CHECK(r.clock.skipped == 10s);
    CHECK(r.c.reads == 0);
    CHECK(r.c.idle.fires == 0);
    r.loop.turn(1h);

    CHECK(r.c.reads == 1);
    CHECK(r.c.idle.fires == 0);
}

TEST_CASE("a stop before epoll is asked, and one while slots run") {
    for (bool in_slot : {false, true}) {
        CAPTURE(in_slot);
        stall_rig r;
        client other(r.loop);
        support::actor stops{.act = [&](fd_slot& slot) {
            support::drain(slot);
            r.stand_still();
        }};
        auto ends = stream_pair();
        auto slot = r.loop.watch(ends.a.release(), interest::recv, support::actor::run, &stops);
        REQUIRE(slot.ok());
        r.loop.fds().want_recv(*slot.value());

        if (in_slot) send_all(ends.b.get(), "x");
        else r.stand_still();
        r.loop.turn(1h);
        r.loop.turn(1h);

        CHECK(r.c.reads == 1);
        CHECK(r.c.idle.fires == 0);
        CHECK(other.idle.fires == 1); // the one that said nothing
        r.loop.close(*slot.value());
    }
}

TEST_CASE("a sleep that a signal ends has not asked") {
    struct sigaction was, noisy {};
    noisy.sa_handler = [](int) {}; // without SA_RESTART; SIGCONT needs none
    REQUIRE(sigaction(SIGUSR1, &noisy, &was) == 0);
    for (bool precise : {false, true}) {
        CAPTURE(precise);
        stalled_clock clock(false);
        event_loop loop;
        REQUIRE(loop.open({.precise_timers = precise, .time_source = &clock}).ok());
        client c(loop);
        std::atomic<bool> over{false};
        int reads = 0;
        // The client speaks behind the interrupted wait, before the clock is read.
        clock.on_read = [&] {
            if (++reads < 2) return;
            over = true;
            c.say();
            clock.skipped += 10s;
            clock.on_read = {};
        };
        const pthread_t self = pthread_self();

        std::thread poker([&] {
            while (!over) {
                pthread_kill(self, SIGUSR1);
                std::this_thread::yield();
            }
        });
        loop.turn(1h);
        poker.join();
        CHECK(clock.skipped == 10s);
        CHECK(c.reads == 0);
        CHECK(c.idle.fires == 0);
        for (int turns = 0; turns < 5 && c.reads == 0; turns++)
            loop.turn(1h);

        CHECK(c.reads == 1);
        CHECK(c.idle.fires == 0);
    }
    sigaction(SIGUSR1, &was, nullptr);
}

TEST_CASE("a letter that came while the process stood still runs before a timer") {
    stall_rig r;
    struct answer : letter {
        timer* patience;
    } mail;
    mail.patience = &r.c.idle;
    mail.run = [](letter& l) noexcept { static_cast<answer&>(l).patience->cancel(); };

    r.loop.post(mail);
    r.clock.skipped += 10s;
    r.loop.turn(1h);

    CHECK(r.c.idle.fires == 0);
}

TEST_CASE("a sleep that runs its full time fires what it slept for in the same turn, with one call of epoll") {
    for (bool precise : {false, true}) {
        CAPTURE(precise);
        event_loop loop;
        REQUIRE(loop.open({.precise_timers = precise}).ok());
        support::alarm_clock bell;
        loop.arm_in(bell, 3ms);
        loop.turn(0ms); // the turn's time is young
        std::uint64_t waits = 0;

        for (int turns = 0; turns < 100 && bell.fires == 0; turns++) { // the wheel's slots on the way end some sleeps
            waits = loop.polls().wait_count();
            loop.turn(1h);
        }

        CHECK(bell.fires == 1);
        CHECK(loop.polls().wait_count() == waits + 1);
    }
}

} // namespace
