#include "core/mailbox.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/loop.hpp"
#include "support/actors.hpp"
#include "support/counting.hpp"
#include "support/dies.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::descriptor;
using support::dies;
using support::note;

struct open_mailbox : mailbox {
    open_mailbox() { REQUIRE(open().ok()); }
};

// Watches the eventfd as a loop does: edge-triggered, never reading it.
struct edges {
    descriptor epoll{epoll_create1(EPOLL_CLOEXEC)};

    explicit edges(const mailbox& box) {
        epoll_event e{.events = EPOLLIN | EPOLLET, .data = {.u64 = 0}};
        REQUIRE(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, box.fd(), &e) == 0);
    }
    bool came() {
        epoll_event e;
        return epoll_wait(epoll.get(), &e, 1, 0) == 1;
    }
};

TEST_CASE("letters run in the order in which they were posted, once") {
    open_mailbox box;
    std::vector<int> order;
    std::vector<note> notes(5);
    for (int i = 0; i < 5; i++) {
        notes[static_cast<std::size_t>(i)].act = [&order, i] { order.push_back(i); };
        box.post(notes[static_cast<std::size_t>(i)]);
    }

    const auto ran = box.run();

    CHECK(ran == 5);
    CHECK(order == std::vector{0, 1, 2, 3, 4});
    CHECK(box.run() == 0);
    CHECK(box.empty());
}

TEST_CASE("a letter posted from inside a letter runs the next time") {
    open_mailbox box;
    int runs = 0;
    note other([&] { runs += 100; });
    note again;
    again.act = [&] {
        if (++runs == 1) {
            box.post(again);
            box.post(other);
        }
    };
    box.post(again);

    const auto first = box.run();
    const int after_first = runs;

    CHECK(first == 1);
    CHECK(after_first == 1);
    CHECK(box.run() == 2);
    CHECK(runs == 102);
}

TEST_CASE("a letter may free itself") {
    open_mailbox box;
    struct own : letter {
        int* freed;
    };
    int freed = 0;
    for (int i = 0; i < 3; i++) {
        auto* l = new own;
        l->freed = &freed;
        l->run = [](letter& self) noexcept {
            auto* me = static_cast<own*>(&self);
            ++*me->freed;
            delete me;
        };
        box.post(*l);
    }

    box.run();

    CHECK(freed == 3);
}

TEST_CASE("a letter for a loop that is awake costs no system call") {
    open_mailbox box;
    edges bell(box);
    std::vector<note> notes(10);

    for (note& n : notes)
        box.post(n);

    CHECK(box.ring_count() == 0);
    CHECK_FALSE(bell.came());
    CHECK(box.run() == 10);
}

TEST_CASE("a sleeping loop is rung once, and again when it sleeps again") {
    open_mailbox box;
    edges bell(box);
    note a, b, c;

    REQUIRE(box.may_sleep());
    box.post(a);
    box.post(b);
    const auto rings_first = box.ring_count();
    const bool edge_first = bell.came();
    box.awake();
    box.run();
    REQUIRE(box.may_sleep());
    const bool edge_between = bell.came();
    box.post(c);

    CHECK(rings_first == 1);
    CHECK(edge_first);
    CHECK_FALSE(edge_between);
    CHECK(box.ring_count() == 2);
    CHECK(bell.came());
    box.awake();
    box.run();
}

TEST_CASE("a loop with letters may not sleep, and is not rung") {
    open_mailbox box;
    note a, b;
    box.post(a);

    CHECK_FALSE(box.may_sleep());
    box.post(b);

    CHECK(box.ring_count() == 0);
    CHECK(box.run() == 2);
}

// Scenario 26. 2^64-2 is the most that fits in.
TEST_CASE("a saturated counter still wakes") {
    open_mailbox box;
    edges bell(box);
    const std::uint64_t full = ~std::uint64_t{0} - 1;
    REQUIRE(::write(box.fd(), &full, sizeof full) == sizeof full);
    REQUIRE(bell.came());
    note n;

    REQUIRE(box.may_sleep());
    box.post(n);

    CHECK(box.ring_count() == 1);
    CHECK(bell.came());
    box.awake();
    CHECK(box.run() == 1);
}

TEST_CASE("posting allocates nothing") {
    open_mailbox box;
    letter l([](letter&) noexcept {});
    const auto before = support::allocation_count();

    for (int i = 0; i < 100; i++) {
        box.post(l);
        box.run();
    }

    CHECK(support::allocation_count() == before);
}

TEST_CASE("a letter without an address to run, and a mailbox that dies with mail, are mistakes") {
    open_mailbox box;
    letter blank;

    CHECK(dies([&] { box.post(blank); }, "l.run != nullptr"));
    CHECK(dies([] {
              open_mailbox left;
              letter l([](letter&) noexcept {});
              left.post(l);
          },
               "stack_.load() == nullptr"));
}

TEST_CASE("a mailbox that cannot have its eventfd says EMFILE") {
    rlimit was;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &was) == 0);
    rlimit none = was;
    none.rlim_cur = 0;
    mailbox box;

    setrlimit(RLIMIT_NOFILE, &none);
    const int error = box.open().error();
    setrlimit(RLIMIT_NOFILE, &was);

    CHECK(error == EMFILE);
}

// --- with threads

TEST_CASE("of many producers each letter runs exactly once, in its producer's order") {
    constexpr int producers = 4, each = 100'000, burst = 1000;
    event_loop loop;
    REQUIRE(loop.open().ok());
    struct tray {
        std::atomic<int> delivered{0};
        int expected_next = 0, out_of_order = 0;
    } trays[producers];
    struct numbered : letter {
        tray* to = nullptr;
        int number = 0;
    };
    std::unique_ptr<numbered[]> letters[producers];
    for (int p = 0; p < producers; p++) {
        letters[p] = std::make_unique<numbered[]>(each);
        for (int i = 0; i < each; i++) {
            numbered& l = letters[p][static_cast<std::size_t>(i)];
            l.to = &trays[p];
            l.number = i;
            l.run = [](letter& self) noexcept {
                auto& me = static_cast<numbered&>(self);
                me.to->out_of_order += me.number != me.to->expected_next++;
                me.to->delivered.fetch_add(1, std::memory_order_release);
            };
        }
    }

    std::vector<std::thread> threads;
    for (int p = 0; p < producers; p++)
        threads.emplace_back([&, p] {
            for (int i = 0; i < each; i++) {
                loop.post(letters[p][static_cast<std::size_t>(i)]);
                // Waits at times, so that the loop falls asleep and must be woken.
                while (i % burst == burst - 1 && trays[p].delivered.load(std::memory_order_acquire) <= i)
                    std::this_thread::yield();
            }
        });
    auto delivered = [&] {
        int sum = 0;
        for (tray& t : trays)
            sum += t.delivered.load(std::memory_order_relaxed);
        return sum;
    };
    int lost_wakes = 0;
    while (delivered() < producers * each && lost_wakes < 3) {
        const auto turn_began = std::chrono::steady_clock::now();
        loop.turn(30s);
        if (std::chrono::steady_clock::now() - turn_began >= 30s) lost_wakes++;
    }
    REQUIRE(delivered() == producers * each);
    for (std::thread& t : threads)
        t.join();

    CHECK(lost_wakes == 0);
    for (tray& t : trays) {
        CHECK(t.delivered.load() == each);
        CHECK(t.out_of_order == 0);
    }
    CHECK(loop.letters().ring_count() > 0);
    CHECK(loop.letters().ring_count() <= loop.polls().wait_count());
}

// The moment between the last look for letters and the sleep, met over and over. The sleep is a loop that waits for the
// bell, so that a round takes a fraction of a microsecond; a growing delay sweeps the moment over the post.
TEST_CASE("no wake is lost between a producer and a loop that falls asleep") {
    constexpr int rounds = 100'000;
    open_mailbox box;
    struct ball : letter {
        std::atomic<int> caught{0};
    } ball;
    ball.run = [](letter& l) noexcept { static_cast<struct ball&>(l).caught.fetch_add(1, std::memory_order_release); };
    // Waits for `fact`, giving the processor away at times. False: it did not come true.
    auto spin_until = [](auto fact, std::chrono::milliseconds limit) {
        const auto deadline = std::chrono::steady_clock::now() + limit;
        for (unsigned i = 1; !fact(); i++)
            if (i % 256 == 0) {
                if (std::chrono::steady_clock::now() > deadline) return false;
                std::this_thread::yield();
            }
        return true;
    };

    std::thread thrower([&] {
        for (int i = 0; i < rounds; i++) {
            spin_until([&] { return ball.caught.load(std::memory_order_acquire) == i; }, 60s);
            box.post(ball);
        }
    });
    int lost_wakes = 0;
    for (int delay = 0; ball.caught.load(std::memory_order_relaxed) < rounds && lost_wakes < 3; delay = (delay + 1) % 400) {
        const auto rings = box.ring_count();
        for (int i = 0; i < delay; i++)
            std::atomic_signal_fence(std::memory_order_seq_cst); // keeps the empty loop
        if (box.may_sleep()) {
            if (!spin_until([&] { return box.ring_count() != rings; }, 30s)) lost_wakes++;
            box.awake();
        }
        box.run();
    }
    // After a loss the thrower still needs somebody who catches.
    while (ball.caught.load(std::memory_order_relaxed) < rounds)
        box.run();
    thrower.join();

    CHECK(lost_wakes == 0);
    CHECK(ball.caught.load() == rounds);
}

TEST_CASE("no wake is lost between two threads, with a kernel between them") {
    constexpr int rounds = 5'000;
    event_loop loop;
    REQUIRE(loop.open().ok());
    struct ball : letter {
        std::atomic<int> caught{0};
    } ball;
    ball.run = [](letter& l) noexcept { static_cast<struct ball&>(l).caught.fetch_add(1, std::memory_order_release); };

    std::thread thrower([&] {
        for (int i = 0; i < rounds; i++) {
            loop.post(ball);
            while (ball.caught.load(std::memory_order_acquire) <= i)
                std::this_thread::yield();
        }
    });
    int lost_wakes = 0;
    while (ball.caught.load(std::memory_order_relaxed) < rounds && lost_wakes < 3) {
        const auto turn_began = std::chrono::steady_clock::now();
        loop.turn(30s);
        if (std::chrono::steady_clock::now() - turn_began >= 30s) lost_wakes++;
    }
    thrower.join();

    CHECK(lost_wakes == 0);
    CHECK(ball.caught.load() == rounds);
}

} // namespace
