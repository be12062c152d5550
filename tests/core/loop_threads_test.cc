// loop: which thread it is of, and letters from many.

#include "core/loop.hpp"

#include <atomic>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "core/dialer.hpp"
#include "core/idle.hpp"
#include "core/listener.hpp"
#include "proto/tcp.hpp"
#include "support/actors.hpp"
#include "support/dies.hpp"
#include "support/loop_rig.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::dies, support::note, support::reader, support::stream_pair;

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
    listener door(w.conns);
    const auto ignore = [](void*, connection&, const endpoint&) noexcept {};
    REQUIRE(door.open(tcp, endpoint::ipv4(0x7f000001, 0), {}, ignore, nullptr).ok());
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
    CHECK(stopped([&] { door.share(); }));
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
    char room[1];
    CHECK(stopped([&] { w.conn->recv(room, 1); }));
    CHECK(stopped([&] { w.conn->send("x"); }));
    CHECK(stopped([&] { w.conn->splice_in(-1, 1); }));
    CHECK(stopped([&] { w.conn->splice_out(-1, 1); }));
    CHECK(stopped([&] { w.conn->shutdown_send(); }));
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
                // A letter is used again once it has run. Now and then it waits for all of them, so that the loop
                // sleeps.
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
        loop.turn(30s);
        if (sys::now() - began >= 30s) lost_wakes++;
    }
    REQUIRE(delivered() == each * producers);
    for (std::thread& t : threads)
        t.join();

    CHECK(lost_wakes == 0);
    for (const tray& t : trays) {
        CHECK(t.delivered.load() == each);
        CHECK(t.out_of_order == 0);
    }
    CHECK(loop.letters().ring_count() < posts / 2);
}

} // namespace
