#include "core/loop_group.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <pthread.h>
#include <signal.h>

#include "support/dies.hpp"

namespace {

using namespace weir;
using support::dies;

constexpr std::uint32_t many = 4;
enum what : std::uint32_t { hello, again };

// What each member sees, kept apart by member.
struct company {
    struct place {
        std::thread::id set_up{}, told{}, torn_down{};
        std::atomic<int> told_count{0};
        sigset_t blocked{};
    };
    std::array<place, many> places;
    std::atomic<std::uint32_t> told_total{0};
    std::uint32_t fails_at = many;
    loop_group* group = nullptr;
    std::uint32_t stop_after = 0; // messages; 0: never

    loop_group_options options(std::uint32_t loops) {
        return {.loops_count = loops,
                .set_up = [](void* self, event_loop&, std::uint32_t index) noexcept -> result<void> {
                    auto& me = *static_cast<company*>(self);
                    me.places[index].set_up = std::this_thread::get_id();
                    pthread_sigmask(SIG_SETMASK, nullptr, &me.places[index].blocked);
                    if (index == me.fails_at) return failure{EADDRINUSE};
                    return {};
                },
                .tear_down =
                    [](void* self, event_loop&, std::uint32_t index) noexcept {
                        static_cast<company*>(self)->places[index].torn_down = std::this_thread::get_id();
                    },
                .told =
                    [](void* self, event_loop&, std::uint32_t index, std::uint32_t) noexcept {
                        auto& me = *static_cast<company*>(self);
                        me.places[index].told = std::this_thread::get_id();
                        me.places[index].told_count++;
                        if (++me.told_total == me.stop_after) me.group->stop();
                    },
                .owner = this};
    }
};

TEST_CASE("each member is set up, told and torn down in a thread of its own, the first in the caller's") {
    company c;
    loop_group group;
    c.group = &group;
    c.stop_after = many;
    REQUIRE(group.open(c.options(many)).ok());

    group.tell(hello);
    group.run();

    std::set<std::thread::id> threads;
    for (const company::place& p : c.places) {
        CHECK(p.told_count == 1);
        CHECK(p.set_up == p.told);
        CHECK(p.set_up == p.torn_down);
        threads.insert(p.set_up);
    }
    CHECK(threads.size() == many);
    CHECK(c.places[0].set_up == std::this_thread::get_id());
}

TEST_CASE("the first member takes no turn before run, however long the others take to start") {
    company c;
    loop_group group;
    loop_group_options options = c.options(many);
    static loop_group* telling;
    telling = &group;
    options.set_up = [](void* self, event_loop& loop, std::uint32_t index) noexcept -> result<void> {
        if (index > 0) telling->tell(hello);
        return static_cast<company*>(self)->options(many).set_up(self, loop, index);
    };

    REQUIRE(group.open(options).ok());
    CHECK(group.loop(0).turn_count() == 0);
    CHECK(c.places[0].told_count == 0);

    group.stop();
    group.run();
    CHECK(c.places[0].told_count == 1);
}

TEST_CASE("a group of one has no thread") {
    company c;
    loop_group group;
    c.group = &group;
    c.stop_after = 1;
    REQUIRE(group.open(c.options(1)).ok());
    CHECK(group.size() == 1);

    group.tell(hello);
    group.run();

    CHECK(c.places[0].torn_down == std::this_thread::get_id());
}

TEST_CASE("when one member cannot be set up, none stays") {
    for (std::uint32_t fails_at = 0; fails_at < many; fails_at++) {
        company c;
        c.fails_at = fails_at;
        loop_group group;

        const auto r = group.open(c.options(many));

        REQUIRE(!r.ok());
        CHECK(r.error() == EADDRINUSE);
        for (std::uint32_t i = 1; i < many; i++) {
            const company::place& p = c.places[i];
            if (i != fails_at) CHECK(p.torn_down == p.set_up);
            else CHECK(p.torn_down == std::thread::id{}); // it was never up
            if (fails_at == 0) CHECK(p.set_up == std::thread::id{}); // nobody else was started
        }
        CHECK((c.places[0].torn_down == std::thread::id{}) == (fails_at == 0));
    }
}

TEST_CASE("a loop that cannot be opened is the group's error") {
    company c;
    loop_group group;
    loop_group_options options = c.options(many);
    options.loop.fd_max = 1; // not even the loop's own descriptors fit

    const auto r = group.open(options);

    REQUIRE(!r.ok());
    CHECK(r.error() == EMFILE);
}

TEST_CASE("signals are blocked in every thread but the first") {
    sigset_t before;
    pthread_sigmask(SIG_SETMASK, nullptr, &before);
    company c;
    loop_group group;
    REQUIRE(group.open(c.options(many)).ok());
    group.stop();
    group.run();

    CHECK(sigismember(&c.places[0].blocked, SIGTERM) == sigismember(&before, SIGTERM));
    for (std::uint32_t i = 1; i < many; i++)
        CHECK(sigismember(&c.places[i].blocked, SIGTERM) == 1);
    sigset_t after;
    pthread_sigmask(SIG_SETMASK, nullptr, &after);
    CHECK(sigismember(&after, SIGTERM) == sigismember(&before, SIGTERM));
}

TEST_CASE("what is told twice before it is taken is one message, afterwards another") {
    company c;
    loop_group group;
    REQUIRE(group.open(c.options(1)).ok());

    group.tell(hello);
    group.tell(hello);
    group.tell(again);
    group.loop(0).turn(duration{});
    CHECK(c.places[0].told_count == 2);
    group.tell(hello);
    group.loop(0).turn(duration{});
    CHECK(c.places[0].told_count == 3);

    group.stop();
    group.run();
}

TEST_CASE("who was never set up is told nothing, whenever it was told") {
    company c;
    c.fails_at = 2;
    loop_group group;
    loop_group_options options = c.options(3);
    static loop_group* telling;
    telling = &group;
    options.set_up = [](void* self, event_loop& loop, std::uint32_t index) noexcept -> result<void> {
        telling->tell(hello);
        return static_cast<company*>(self)->options(3).set_up(self, loop, index);
    };

    CHECK(!group.open(options).ok());

    CHECK(c.places[2].told_count == 0);
}

TEST_CASE("other threads may tell and stop at any time, and nobody is told after the end") {
    for (int round = 0; round < 20; round++) {
        company c;
        std::vector<std::thread> tellers;
        std::atomic<bool> over{false};
        loop_group group;
        REQUIRE(group.open(c.options(3)).ok());
        for (int i = 0; i < 2; i++)
            tellers.emplace_back([&] {
                for (int n = 0; n < 10'000 && !over; n++)
                    group.tell(n % 2 == 0 ? hello : again);
                group.stop();
            });

        group.run();
        over = true;

        for (std::thread& t : tellers)
            t.join();
        const std::uint32_t told = c.told_total;
        group.tell(hello);
        group.tell(again);
        CHECK(c.told_total == told);
    }
}

TEST_CASE("a message without anybody to take it is a broken contract") {
    company c;
    CHECK(dies(
        [&] {
            loop_group group;
            loop_group_options options = c.options(1);
            options.told = nullptr;
            static_cast<void>(group.open(options));
            group.tell(hello);
        },
        "told != nullptr"));
    CHECK(dies(
        [&] {
            loop_group group;
            static_cast<void>(group.open(c.options(1)));
            group.tell(loop_group::messages_max);
        },
        "what < messages_max"));
    CHECK(dies(
        [&] {
            loop_group group;
            static_cast<void>(group.open(c.options(1))); // and run() never came back
        },
        "!is_up_"));
}

} // namespace
