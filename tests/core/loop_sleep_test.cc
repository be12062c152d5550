// loop: when it sleeps and for how long, and how it is stopped.

#include "core/loop.hpp"

#include <atomic>
#include <chrono>
#include <thread>

#include <doctest/doctest.h>

#include "support/actors.hpp"
#include "support/loop_rig.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::actor, support::alarm_clock, support::drain, support::met_eagain;
using support::real_loop, support::still_loop;
using support::send_all, support::stream_pair, support::tcp_pair;

// --- sleeping

TEST_CASE("a turn is one epoll_wait, and a loop with nothing to do sleeps through") {
    real_loop loop;
    alarm_clock end{[&](time_point) { loop.stop(); }};
    loop.arm_in(end, 20ms);

    loop.run();

    CHECK(end.fires == 1);
    CHECK(loop.turn_count() <= 4); // asleep, fires; the letter that stops it; a rounding
    CHECK(loop.polls().wait_count() == loop.turn_count());
}

TEST_CASE("a loop does not spin on what nobody wants, nor on what is over") {
    real_loop loop;
    auto unread = stream_pair(), ended = stream_pair(), aborted = tcp_pair();
    actor stops{.act = [](fd_slot& slot) { fdtab::stop_recv(slot); }};
    actor takes_note{.act = met_eagain};
    fd_slot* slots[3];
    int at = 0;
    for (auto [ends, who] : {std::pair{&unread, &stops}, {&ended, &takes_note}, {&aborted, &takes_note}}) {
        auto slot = loop.watch(ends->a.release(), interest::recv, actor::run, who);
        REQUIRE(slot.ok());
        loop.fds().want_recv(*slot.value());
        loop.fds().want_send(*slot.value());
        REQUIRE(loop.cant_send(*slot.value()).ok());
        slots[at++] = slot.value();
    }
    fdtab::stop_send(*slots[0]);
    send_all(unread.b.get(), "unread");
    send_all(ended.b.get(), "unread");
    ended.b.close();
    reset(aborted.b);
    alarm_clock end{[&](time_point) { loop.stop(); }};
    loop.arm_in(end, 20ms);

    loop.run();

    CHECK(stops.runs == 1);
    CHECK(takes_note.runs >= 2);
    CHECK(loop.turn_count() <= 8);
    for (fd_slot* slot : slots)
        loop.close(*slot);
}

TEST_CASE("a loop that was woken by a letter sleeps again") {
    real_loop loop;
    alarm_clock end{[&](time_point) { loop.stop(); }};
    loop.arm_in(end, 20ms);
    letter mail([](letter&) noexcept {});

    // Rings although nobody sleeps yet, so that the test need not find the right moment.
    REQUIRE(sys::eventfd_ring(loop.letters().fd()) > 0);
    loop.post(mail);
    loop.run();

    CHECK(end.fires == 1);
    CHECK(loop.turn_count() <= 6);
}

TEST_CASE("a loop with more to do does not sleep over it") {
    real_loop loop;
    auto ends = stream_pair();
    actor who{.act = [](fd_slot&) {}}; // leaves its slot runnable
    auto slot = loop.watch(ends.a.release(), interest::recv, actor::run, &who);
    REQUIRE(slot.ok());
    loop.fds().want_send(*slot.value());
    const auto before = sys::now();

    loop.turn(60s);
    loop.turn(60s);

    CHECK(who.runs == 2);
    CHECK(sys::now() - before < 30s);
    loop.close(*slot.value());
}

TEST_CASE("a turn sleeps no longer than it was told") {
    real_loop loop;
    const auto before = sys::now();

    loop.turn(2ms);

    const auto slept = sys::now() - before;
    CHECK(slept >= 2ms);
    CHECK(slept < 30s);
    CHECK(loop.turn_count() == 1);
}

TEST_CASE("a turn of length zero or less does not sleep") {
    real_loop loop;
    alarm_clock later;
    loop.arm_in(later, 1h);
    const auto before = sys::now();

    CHECK(loop.turn(0ms) == 0);
    CHECK(loop.turn(-1s) == 0);

    CHECK(sys::now() - before < 30s);
    later.cancel();
}

TEST_CASE("a timer armed in a time beyond all telling waits for ever") {
    still_loop loop;
    alarm_clock later, soon;
    for (const duration beyond : {duration::max(), never - loop.now(), never - loop.now() - 1ns}) {
        loop.arm_in(later, beyond);
        loop.arm_in(soon, 10ms);

        loop.clock.advance(24h);
        loop.turn();

        CHECK(soon.fires == 1);
        CHECK(later.fires == 0);
        CHECK(later.armed());
        soon.fires = 0;
    }
    later.cancel();
}

TEST_CASE("a timer never fires early by the real clock, though the loop sleeps in milliseconds") {
    real_loop loop;
    for (auto delay : {1ns, 300'000ns, 999'999ns, 1'000'001ns, 2'500'000ns}) {
        CAPTURE(delay.count());
        time_point fired_at{};
        alarm_clock bell{[&](time_point) { fired_at = sys::now(); }};
        const time_point deadline = sys::now() + delay;
        loop.arm(bell, deadline);

        for (int turns = 0; turns < 100 && bell.fires == 0; turns++)
            loop.turn(1s);

        CHECK(bell.fires == 1);
        CHECK(fired_at >= deadline);
    }
}

TEST_CASE("an event wakes a sleeping loop") {
    real_loop loop;
    auto ends = stream_pair();
    actor who{.act = drain};
    auto slot = loop.watch(ends.a.release(), interest::recv, actor::run, &who);
    REQUIRE(slot.ok());
    loop.fds().want_recv(*slot.value());
    const int peer = ends.b.get();

    std::thread sender([peer] { sys::send(peer, "x", 1, false); });
    loop.turn(30s);
    sender.join();

    CHECK(who.runs == 1);
    loop.close(*slot.value());
}

TEST_CASE("the time of a turn is taken after the sleep") {
    real_loop loop;
    loop.turn(0ms);
    const time_point before = loop.now();

    loop.turn(2ms);

    CHECK(loop.now() - before >= 2ms);
}

TEST_CASE("a loop on a fake clock does not sleep, and its time is the clock's") {
    still_loop loop;
    const auto before = sys::now();

    loop.event_loop::turn(1h);
    loop.clock.advance(5s);
    loop.event_loop::turn(1h);

    CHECK(loop.now() == loop.clock.at);
    CHECK(sys::now() - before < 30s);
}

// --- stopping

TEST_CASE("stop before run makes run return after one turn, and run may be called again") {
    real_loop loop;

    loop.stop();
    loop.run();
    const auto turns = loop.turn_count();
    loop.stop();
    loop.run();

    CHECK(turns == 1);
    CHECK(loop.turn_count() == 2);
}

TEST_CASE("stop from another thread wakes the loop") {
    real_loop loop;

    std::thread other([&] { loop.stop(); });
    loop.run();
    other.join();

    CHECK(loop.turn_count() <= 3);
}

TEST_CASE("stop during start is not lost") {
    for (int i = 0; i < 200; i++) {
        real_loop loop;
        std::atomic<bool> go{false};
        std::thread other([&] {
            while (!go.load()) {
            }
            loop.stop();
        });

        go = true;
        loop.run();
        other.join();

        CHECK(loop.turn_count() >= 1);
    }
}

TEST_CASE("a stop that comes while another is under way, or too late to be seen, does no harm") {
    real_loop loop;
    static int delivered;
    delivered = 0;
    letter before([](letter&) noexcept { delivered++; });
    letter between([](letter&) noexcept { delivered++; });

    loop.post(before);
    loop.stop();
    loop.post(between);
    loop.stop();
    loop.run();
    loop.stop();

    CHECK(loop.turn_count() == 1);
    CHECK(delivered == 2);
}

TEST_CASE("stop inside a handler finishes the turn") {
    real_loop loop;
    auto first_ends = stream_pair(), second_ends = stream_pair();
    actor who{.act = [&](fd_slot& slot) {
        drain(slot);
        loop.stop();
    }};
    fd_slot* slots[2];
    for (int i : {0, 1}) {
        auto slot = loop.watch((i ? second_ends : first_ends).a.release(), interest::recv, actor::run, &who);
        REQUIRE(slot.ok());
        loop.fds().want_recv(*slot.value());
        slots[i] = slot.value();
    }
    send_all(first_ends.b.get(), "x");
    send_all(second_ends.b.get(), "x");

    loop.run();

    CHECK(who.runs == 2);
    CHECK(loop.turn_count() == 1);
    for (fd_slot* slot : slots)
        loop.close(*slot);
}

} // namespace
