#include "core/loop.hpp"

#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <sched.h>

#include "core/dialer.hpp"
#include "core/idle.hpp"
#include "proto/tcp.hpp"
#include "support/dies.hpp"
#include "support/net.hpp"

// What a loop does before and while it sleeps, and whose it is.

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::dies;
using support::send_all;
using support::stream_pair;

// Goes on by a step whenever it is read, so that a spin ends by counting and not by the machine's speed; and lets the
// test act at a certain reading.
struct counted_clock : clock {
    explicit counted_clock(duration s = 1us)
        : clock{.now =
                    [](const clock& c) noexcept {
                        return const_cast<counted_clock&>(static_cast<const counted_clock&>(c)).read();
                    },
                .is_fake = false},
          step(s) {}
    time_point read() {
        reads++;
        at += step;
        if (on_read) on_read();
        return at;
    }

    duration step;
    time_point at{1h};
    std::uint64_t reads = 0;
    std::function<void()> on_read;
};

struct note : letter {
    std::function<void()> act;

    explicit note(std::function<void()> what = {}) : act(std::move(what)) {
        run = [](letter& l) noexcept {
            auto& me = static_cast<note&>(l);
            me.runs++;
            if (me.act) me.act();
        };
    }
    int runs = 0;
};

struct reader {
    int runs = 0, bytes = 0;

    static void run(fd_slot& slot) noexcept {
        reader& self = *static_cast<reader*>(slot.owner);
        self.runs++;
        slot.state &= ~fd_state::news;
        char room[64];
        const auto n = sys::recv(slot.fd, room, sizeof room);
        if (n > 0) self.bytes += static_cast<int>(n);
        fdtab::cant_recv(slot);
    }
};

// A loop that spins by a counted clock. Where there is one processor there is nothing to test.
struct spinning {
    explicit spinning(std::uint32_t us_max, duration step = 1us) : clock(step) {
        REQUIRE(loop.open({.spin_us_max = us_max, .precise_timers = true, .time_source = &clock}).ok());
    }
    bool can() {
        if (!loop.spins()) MESSAGE("one processor: not tested");
        return loop.spins();
    }

    counted_clock clock;
    event_loop loop;
};

// --- spinning

TEST_CASE("a letter that comes while the loop spins is run in that turn, without a ring, a sleep or a call of epoll") {
    spinning s(1000);
    if (!s.can()) return;
    note n;
    s.loop.turn(0ns); // asks epoll
    const auto waits = s.loop.polls().wait_count();
    s.clock.on_read = [&, from = s.clock.reads] {
        if (s.clock.reads == from + 2) s.loop.post(n);
    };

    s.loop.turn(60s);

    CHECK(n.runs == 1);
    CHECK(s.loop.letters().ring_count() == 0);
    CHECK(s.loop.polls().wait_count() == waits);
    CHECK(s.loop.spin_count() == 1);
    CHECK(s.loop.spin_found_count() == 1);
}

TEST_CASE("bytes that come while the loop spins are found by asking epoll, before any sleep") {
    spinning s(1000);
    if (!s.can()) return;
    const auto ends = stream_pair();
    reader r;
    auto slot = s.loop.watch(ends.a.get(), interest::recv, reader::run, &r);
    REQUIRE(slot.ok());
    s.loop.fds().want_recv(*slot.value());
    s.clock.on_read = [&] {
        if (s.clock.reads == 5) send_all(ends.b.get(), "byte");
    };

    s.loop.turn(60s);

    CHECK(r.bytes == 4);
    CHECK(s.loop.spin_found_count() == 1);
    s.loop.fds().release(*slot.value());
}

TEST_CASE("spins in vain end in sleep, become shorter and cease, and are tried again every 16th sleep") {
    spinning s(8);
    if (!s.can()) return;

    for (int i = 0; i < 4; i++) // of 8, 4, 2 and 1 us
        s.loop.turn(1ms);
    const auto spins_first = s.loop.spin_count();
    for (int i = 0; i < 15; i++)
        s.loop.turn(1ms);
    const auto spins_between = s.loop.spin_count();
    s.loop.turn(1ms);

    CHECK(spins_first == 4);
    CHECK(spins_between == 4);
    CHECK(s.loop.spin_count() == 5);
    CHECK(s.loop.spin_found_count() == 0);
}

TEST_CASE("a spin lasts as long as its limit and no longer") {
    spinning s(100);
    if (!s.can()) return;

    s.loop.turn(1ms);

    // One reading per us, and one for the turn itself.
    CHECK(s.clock.reads >= 100);
    CHECK(s.clock.reads <= 105);
}

TEST_CASE("a spin is not longer than the sleep would be, and a timer that ends it says nothing against spinning") {
    spinning s(1000);
    if (!s.can()) return;
    struct alarm {
        timer t{[](timer& self, time_point) noexcept { container_of<&alarm::t>(self).rang = true; }};
        bool rang = false;
    } a;
    s.loop.turn(0ns);

    for (int i = 0; i < 20; i++) {
        a.rang = false;
        s.loop.arm_in(a.t, 200us);
        const time_point due = s.loop.now() + 200us;
        int turns = 0;
        for (; !a.rang && turns < 10; turns++)
            s.loop.turn(60s);
        CHECK(a.rang);
        CHECK(s.loop.now() >= due);
        CHECK(s.loop.now() <= due + 10us);
        a.t.cancel();
    }
    CHECK(s.loop.spin_count() == 20); // not one of them was spared
    CHECK(s.loop.spin_found_count() == 0);
}

TEST_CASE("a clock that stands still does not keep a spin from ending") {
    spinning s(50, 0ns);
    if (!s.can()) return;

    s.loop.turn(1ms);

    CHECK(s.loop.spin_count() == 1);
    CHECK(s.loop.spin_found_count() == 0);
}

TEST_CASE("letters that keep coming do not keep sockets waiting") {
    spinning s(1000);
    if (!s.can()) return;
    const auto ends = stream_pair();
    reader r;
    auto slot = s.loop.watch(ends.a.get(), interest::recv, reader::run, &r);
    REQUIRE(slot.ok());
    s.loop.fds().want_recv(*slot.value());
    s.loop.turn(0ns);
    note n;
    bool posted = false;
    n.act = [&] { posted = false; };
    s.clock.on_read = [&] {
        if (!std::exchange(posted, true)) s.loop.post(n);
    };
    send_all(ends.b.get(), "byte");

    int turns = 0;
    for (; r.bytes == 0 && turns < 100; turns++)
        s.loop.turn(60s);

    CHECK(r.bytes == 4);
    CHECK(turns <= 8); // of about 2 us each; epoll is asked after 5
    s.clock.on_read = {};
    s.loop.turn(0ns);
    s.loop.fds().release(*slot.value());
}

TEST_CASE("a loop that may not spin, or has a fake clock, does not") {
    event_loop plain;
    REQUIRE(plain.open().ok());
    fake_clock still;
    event_loop fake;
    REQUIRE(fake.open({.spin_us_max = 1000, .time_source = &still}).ok());

    plain.turn(1ms);
    fake.turn(1ms);

    CHECK_FALSE(plain.spins());
    CHECK(plain.spin_count() == 0);
    CHECK(fake.spin_count() == 0);
}

TEST_CASE("where only one processor may be used spinning is off") {
    cpu_set_t was, one;
    REQUIRE(sched_getaffinity(0, sizeof was, &was) == 0);
    int first = 0;
    while (!CPU_ISSET(static_cast<std::size_t>(first), &was))
        first++;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(first), &one);
    event_loop loop;

    sched_setaffinity(0, sizeof one, &one);
    const bool opened = loop.open({.spin_us_max = 1000}).ok();
    const bool spins = loop.spins();
    loop.turn(1ms);
    sched_setaffinity(0, sizeof was, &was);

    CHECK(opened);
    CHECK_FALSE(spins);
    CHECK(loop.spin_count() == 0);
}

// --- precise sleeps

TEST_CASE("a precise loop fires no timer early, and sleeps by epoll_pwait2 where there is one") {
    event_loop loop;
    REQUIRE(loop.open({.precise_timers = true}).ok());
    struct alarm {
        timer t{[](timer& self, time_point now) noexcept { container_of<&alarm::t>(self).rang_at = now; }};
        time_point rang_at{};
    } a;
    const auto waits = loop.polls().wait_count();

    for (int i = 1; i <= 20; i++) {
        a.rang_at = {};
        const time_point due = sys::now() + 100us + i * 37us;
        loop.arm(a.t, due);
        for (int turns = 0; a.rang_at == time_point{} && turns < 100; turns++)
            loop.turn(5s);
        CHECK(a.rang_at >= due);
    }

    const auto imprecise = loop.polls().imprecise_count();
    CHECK((imprecise == 0 || imprecise == loop.polls().wait_count() - waits));
}

TEST_CASE("a precise loop on a counted clock takes its timers at their deadline, not at their millisecond's end") {
    fake_clock still;
    event_loop loop;
    REQUIRE(loop.open({.precise_timers = true, .time_source = &still}).ok());
    struct alarm {
        timer t{[](timer& self, time_point) noexcept { container_of<&alarm::t>(self).rang = true; }};
        bool rang = false;
    } a;
    loop.turn(0ns);
    loop.arm_in(a.t, 10'300'001ns);

    still.advance(10'300'000ns);
    loop.turn(0ns);
    const bool early = a.rang;
    still.advance(1ns);
    loop.turn(0ns);

    CHECK_FALSE(early);
    CHECK(a.rang);
}

TEST_CASE("busy polling is on exactly where the kernel has it") {
    event_loop loop, without, refused;
    REQUIRE(loop.open({.busy_poll = {.usecs = 50}}).ok());
    REQUIRE(without.open().ok());
    REQUIRE(refused.open({.busy_poll = {.usecs = UINT32_MAX}}).ok());
    const int epoll_fd = sys::epoll_open();
    REQUIRE(epoll_fd >= 0);

    const int answer = sys::epoll_busy_poll(epoll_fd, {.usecs = 50});
    sys::close(epoll_fd);

    CHECK(loop.busy_polls() == (answer == 0));
    CHECK((answer == 0 || answer == -ENOTTY || answer == -EINVAL || answer == -EOPNOTSUPP || answer == -EPERM));
    CHECK_FALSE(without.busy_polls());
    CHECK_FALSE(refused.busy_polls());
}

// --- whose a loop is

void elsewhere(const std::function<void()>& act) { std::thread(act).join(); }

struct with_connection {
    with_connection() {
        REQUIRE(loop.open().ok());
        REQUIRE(conns.open({.connections_max = 8}).ok());
        auto ends = support::tcp_pair();
        peer = std::move(ends.a);
        auto made = conns.adopt(unique_fd{ends.b.release()}, tcp);
        REQUIRE(made.ok());
        conn = made.value();
    }

    event_loop loop;
    conntab conns{loop};
    support::descriptor peer;
    connection* conn = nullptr;
};

TEST_CASE("a thread that comes to a foreign loop's doors is stopped") {
    with_connection w;
    idle_pool pool(w.conns, {});
    const auto key = pool.key_of({.remote = endpoint::ipv4(0x7f000001, 80), .family = &tcp});
    const auto ends = stream_pair();
    retired r{.free = [](retired&) noexcept {}};
    const auto stopped = [](const std::function<void()>& act) { return dies([&] { elsewhere(act); }, "is_mine()"); };

    CHECK(stopped([&] { w.loop.turn(0ns); }));
    CHECK(stopped([&] { static_cast<void>(w.loop.watch(ends.a.get(), interest::recv, reader::run, nullptr)); }));
    CHECK(stopped([&] { w.loop.close(w.conn->slot()); }));
    CHECK(stopped([&] { w.loop.retire(r); }));
    CHECK(stopped([&] { static_cast<void>(w.conns.adopt(unique_fd{dup(ends.a.get())}, tcp)); }));
    CHECK(stopped([&] {
        static_cast<void>(dial(w.conns, tcp, endpoint::ipv4(0x7f000001, 1), {}, idle_pool::table(), nullptr));
    }));
    CHECK(stopped([&] { w.conn->close(close_intent::silent, end_cause::shutdown); }));
    CHECK(stopped([&] { pool.park(*w.conn, key, {.messages_complete = true, .buffers_empty = true}); }));
    CHECK(stopped([&] { pool.take(key, idle_pool::table(), nullptr); }));
}

#ifndef NDEBUG
TEST_CASE("a thread that touches a foreign connection or timer is stopped, in builds that look") {
    with_connection w;
    timer t{[](timer&, time_point) noexcept {}};
    const auto stopped = [](const std::function<void()>& act) { return dies([&] { elsewhere(act); }, "is_mine()"); };

    CHECK(stopped([&] { w.loop.arm(t, w.loop.now() + 1s); }));
    CHECK(stopped([&] { w.loop.arm_in(t, 1s); }));
    CHECK(stopped([&] { w.conn->attach(idle_pool::table(), nullptr); }));
    CHECK(stopped([&] { w.conn->want_recv(); }));
    CHECK(stopped([&] { w.conn->stop_recv(); }));
    CHECK(stopped([&] { w.conn->want_send(); }));
    CHECK(stopped([&] { w.conn->stop_send(); }));
    CHECK(stopped([&] { w.conn->disarm(); }));
}
#endif

TEST_CASE("a loop may be opened in one thread, run in another, and taken down in the first") {
    with_connection w;
    int ticks = 0;
    note last([&] { ticks++; });

    std::thread runner([&] { w.loop.run(); });
    w.loop.post(last);
    w.loop.stop();
    runner.join();
    const bool is_mine_again = w.loop.is_mine();
    w.conn->close(close_intent::silent, end_cause::shutdown);

    CHECK(ticks == 1);
    CHECK(is_mine_again);
    CHECK(w.conns.live_count() == 0);
}

TEST_CASE("a loop that is turned elsewhere is claimed there, and claimed back") {
    event_loop loop;
    REQUIRE(loop.open().ok());
    bool was_mine = true, is_mine_then = false;

    elsewhere([&] {
        was_mine = loop.is_mine();
        loop.claim();
        is_mine_then = loop.is_mine();
        loop.turn(0ns);
    });

    CHECK_FALSE(was_mine);
    CHECK(is_mine_then);
    CHECK(dies([&] { loop.turn(0ns); }, "is_mine()"));
    loop.claim();
    CHECK(loop.turn(0ns) == 0);
}

TEST_CASE("two threads that run one loop are stopped") {
    CHECK(dies(
        [] {
            event_loop loop;
            if (!loop.open()) return;
            note second([&] { loop.run(); });
            loop.post(second);
            loop.run();
        },
        "is_running_"));
}

// --- under load

// WEIR_POSTS: how many, for soaks.
TEST_CASE("of ten million posts each runs once and in its producer's order, with a loop that spins and sleeps") {
    const char* given = std::getenv("WEIR_POSTS");
    const std::uint64_t posts = given ? std::strtoull(given, nullptr, 0) : 10'000'000;
    constexpr std::uint64_t producers = 4, tray_letters = 512;
    event_loop loop;
    REQUIRE(loop.open({.spin_us_max = 20}).ok());
    struct tray;
    struct numbered : letter {
        tray* from = nullptr;
        std::uint64_t number = 0;
    };
    struct alignas(64) tray {
        std::vector<numbered> letters{tray_letters};
        std::uint64_t out_of_order = 0;
        alignas(64) std::atomic<std::uint64_t> delivered{0};
    };
    std::vector<tray> trays(producers);
    for (tray& t : trays)
        for (numbered& l : t.letters) {
            l.from = &t;
            l.run = [](letter& self) noexcept {
                auto& me = static_cast<numbered&>(self);
                const std::uint64_t expected = me.from->delivered.load(std::memory_order_relaxed);
                me.from->out_of_order += me.number != expected;
                me.from->delivered.store(expected + 1, std::memory_order_release);
            };
        }
    const std::uint64_t each = posts / producers;

    std::vector<std::thread> threads;
    for (tray& t : trays)
        threads.emplace_back([&] {
            for (std::uint64_t i = 0; i < each; i++) {
                // A letter is used again once it has run. Now and then it waits for all of them, so that the loop sleeps.
                const std::uint64_t free_from = i % 50'000 == 0 ? i : i < tray_letters ? 0 : i - tray_letters + 1;
                while (t.delivered.load(std::memory_order_acquire) < free_from)
                    std::this_thread::yield();
                numbered& l = t.letters[i % tray_letters];
                l.number = i;
                loop.post(l);
            }
        });
    const auto delivered = [&] {
        std::uint64_t sum = 0;
        for (const tray& t : trays)
            sum += t.delivered.load(std::memory_order_relaxed);
        return sum;
    };
    int lost_wakes = 0;
    while (delivered() < each * producers && lost_wakes < 3) {
        const time_point began = sys::now();
        loop.turn(5s);
        if (sys::now() - began >= 5s) lost_wakes++;
    }
    REQUIRE(delivered() == each * producers);
    for (std::thread& t : threads)
        t.join();

    CHECK(lost_wakes == 0);
    for (const tray& t : trays) {
        CHECK(t.delivered.load() == each);
        CHECK(t.out_of_order == 0);
    }
    CHECK(loop.letters().ring_count() < posts / 10);
}

} // namespace
