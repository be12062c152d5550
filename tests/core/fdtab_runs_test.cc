// fdtab: when a slot runs, and in which order.

#include "core/fdtab.hpp"

#include <cerrno>
#include <cstdlib>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <sys/epoll.h>

#include "support/actors.hpp"
#include "support/small_table.hpp"

namespace {

using namespace weir;
using support::actor, support::met_eagain, support::small_table;

// --- when a slot runs

TEST_CASE("a slot runs exactly when a direction is wanted and ready, or when there is news") {
    for (unsigned mix = 0; mix < 32; mix++) {
        CAPTURE(mix);
        small_table fds;
        actor who{.act = met_eagain};
        fd_slot& slot = fds.add(7, who);
        const bool recv_active = mix & 1, recv_ready = mix & 2, send_active = mix & 4, send_ready = mix & 8, news = mix & 16;

        if (recv_active) fds.want_recv(slot);
        if (recv_ready) fds.may_recv(slot);
        if (send_active) fds.want_send(slot);
        if (send_ready) fds.may_send(slot);
        if (news) fds.set(slot, fd_state::news);
        const bool runs = (recv_active && recv_ready) || (send_active && send_ready) || news;

        CHECK(slot.runnable() == runs);
        CHECK(fds.has_runnable() == runs);
        CHECK(fds.run() == (runs ? 1u : 0u));
        CHECK(who.runs == (runs ? 1 : 0));
    }
}

TEST_CASE("ready without active does not run") {
    small_table fds;
    actor who;
    fd_slot& slot = fds.add(7, who);

    fds.say(slot, EPOLLIN | EPOLLOUT);

    CHECK_FALSE(fds.has_runnable());
    CHECK(fds.run() == 0);
    CHECK(who.runs == 0);
}

TEST_CASE("wanting what is ready already runs without a new report") {
    small_table fds;
    actor who{.act = met_eagain};
    fd_slot& slot = fds.add(7, who);
    fds.say(slot, EPOLLIN);

    fds.want_recv(slot);

    CHECK(fds.run() == 1);
    CHECK(fds.run() == 0);
}

TEST_CASE("a slot that is stopped while queued does not run, and is queued again when wanted again") {
    small_table fds;
    actor who{.act = met_eagain};
    fd_slot& slot = fds.add(7, who);
    fds.want_recv(slot);
    fds.may_recv(slot);

    fdtab::stop_recv(slot);
    const auto while_stopped = fds.run();
    fds.want_recv(slot);

    CHECK(while_stopped == 0);
    CHECK(fds.run() == 1);
}

TEST_CASE("a slot that meets EAGAIN while queued does not run until the kernel speaks again") {
    small_table fds;
    actor who{.act = met_eagain};
    fd_slot& slot = fds.add(7, who);
    fds.want_send(slot);
    fds.may_send(slot);

    fdtab::cant_send(slot);
    const auto before = fds.run();
    fds.say(slot, EPOLLOUT);

    CHECK(before == 0);
    CHECK(fds.run() == 1);
}

TEST_CASE("the two directions do not answer for each other") {
    small_table fds;
    actor who;
    fd_slot& slot = fds.add(7, who);

    fds.want_send(slot);
    fds.say(slot, EPOLLIN);

    CHECK(fds.run() == 0);
}

// --- the run list

TEST_CASE("a slot that is runnable for several reasons runs once") {
    small_table fds;
    actor who{.act = met_eagain};
    fd_slot& slot = fds.add(7, who);
    fds.want_recv(slot);
    fds.want_send(slot);

    fds.say(slot, EPOLLIN);
    fds.say(slot, EPOLLOUT);
    fds.say(slot, EPOLLIN | EPOLLRDHUP);

    CHECK(fds.run() == 1);
    CHECK_FALSE(fds.has_runnable());
}

TEST_CASE("a handler that leaves its slot runnable runs again, in the next turn and behind the others") {
    small_table fds;
    std::vector<int> order;
    auto note = [&](fd_slot& slot) { order.push_back(slot.fd); };
    actor greedy{.act = note}, second{}, third{};
    for (actor* who : {&second, &third})
        who->act = [&](fd_slot& slot) {
            note(slot);
            met_eagain(slot);
        };
    fd_slot& a = fds.add(1, greedy);
    fd_slot& b = fds.add(2, second);
    fd_slot& c = fds.add(3, third);
    for (fd_slot* slot : {&a, &b, &c}) {
        fds.want_recv(*slot);
        fds.say(*slot, EPOLLIN);
    }

    CHECK(fds.run() == 3);
    fds.say(b, EPOLLIN);
    CHECK(fds.run() == 2);

    CHECK(order == std::vector{1, 2, 3, 1, 2});
    CHECK(fds.has_runnable());
}

TEST_CASE("what becomes runnable in a run waits for the next") {
    small_table fds;
    actor other{.act = met_eagain}, first{};
    fd_slot& quiet = fds.add(2, other);
    fds.may_recv(quiet);
    first.act = [&](fd_slot& slot) {
        met_eagain(slot);
        fds.want_recv(quiet);
    };
    fd_slot& loud = fds.add(1, first);
    fds.want_recv(loud);
    fds.may_recv(loud);

    const auto ran = fds.run();
    const int other_ran_at_once = other.runs;

    CHECK(ran == 1);
    CHECK(other_ran_at_once == 0);
    CHECK(fds.run() == 1);
    CHECK(other.runs == 1);
}

TEST_CASE("what an idle slot makes runnable waits for the next run, too") {
    small_table fds;
    actor other{.act = met_eagain}, first{};
    fd_slot& quiet = fds.add(2, other);
    fds.may_recv(quiet);
    first.act = [&](fd_slot& slot) {
        met_eagain(slot);
        fds.want_recv(quiet);
    };
    fd_slot& idle = fds.add(1, first);
    idle.state |= fd_state::idle;
    fds.set(idle, fd_state::news);

    CHECK(fds.run() == 1);
    CHECK(other.runs == 0);
    CHECK(fds.run() == 1);
    CHECK(other.runs == 1);
}

TEST_CASE("idle slots run first, whatever the order of the reports") {
    small_table fds;
    std::vector<int> order;
    actor who{.act = [&](fd_slot& slot) {
        order.push_back(slot.fd);
        met_eagain(slot);
    }};
    for (int fd : {1, 2, 3, 4}) {
        fd_slot& slot = fds.add(fd, who);
        if (fd % 2 == 0) slot.state |= fd_state::idle;
        fds.want_recv(slot);
    }

    for (int fd : {1, 2, 3, 4})
        fds.say(fds.slot(fd), EPOLLIN);
    fds.run();

    CHECK(order == std::vector{2, 4, 1, 3});
}

TEST_CASE("a slot that turns idle while it is queued keeps its place, once") {
    small_table fds;
    actor who{.act = met_eagain};
    fd_slot& slot = fds.add(1, who);
    fds.want_recv(slot);
    fds.may_recv(slot);

    slot.state |= fd_state::idle;
    fds.set(slot, fd_state::news);

    CHECK(fds.run() == 1);
    CHECK(fds.run() == 0);
}

// --- everything at once

// The same rules, written so that they are plain and not fast.
struct model {
    struct entry {
        fd_state state{};
        bool owned = false, queued = false, idle = false, drains = false;
    };
    entry entries[64];
    std::vector<int> lists[2];

    static bool runnable(const entry& e) {
        const bool recv = all(e.state, fd_state::recv_active | fd_state::recv_ready);
        const bool send = all(e.state, fd_state::send_active | fd_state::send_ready);
        return recv || send || any(e.state, fd_state::news);
    }
    void queue_if_runnable(int fd) {
        entry& e = entries[fd];
        if (!runnable(e) || e.queued) return;
        e.queued = true;
        lists[e.idle ? 0 : 1].push_back(fd);
    }
    void set(int fd, fd_state bits) {
        entries[fd].state |= bits;
        queue_if_runnable(fd);
    }
    std::vector<int> run() {
        std::vector<int> taken = lists[0], ran;
        taken.insert(taken.end(), lists[1].begin(), lists[1].end());
        lists[0].clear();
        lists[1].clear();
        for (int fd : taken) {
            entry& e = entries[fd];
            e.queued = false;
            if (!e.owned || !runnable(e)) continue;
            ran.push_back(fd);
            if (e.drains) e.state &= ~(fd_state::recv_ready | fd_state::send_ready | fd_state::news);
            queue_if_runnable(fd);
        }
        return ran;
    }
};

TEST_CASE("a random life runs the same slots in the same order as the model") {
    const char* given = std::getenv("WEIR_SEED");
    const auto seed = given ? std::strtoul(given, nullptr, 0) : std::random_device{}();
    INFO("WEIR_SEED=", seed);
    std::mt19937 dice(static_cast<std::uint32_t>(seed));
    auto roll = [&](unsigned sides) { return dice() % sides; };

    small_table fds;
    model should;
    std::vector<int> ran;
    actor who;
    who.act = [&](fd_slot& slot) {
        ran.push_back(slot.fd);
        if (should.entries[slot.fd].drains) met_eagain(slot);
    };

    for (int step = 0; step < 20'000; step++) {
        const int fd = static_cast<int>(roll(12));
        model::entry& e = should.entries[fd];
        fd_slot& slot = fds.slot(fd);
        if (roll(8) == 0) {
            ran.clear();
            const auto expected = should.run();
            for (const int number : expected)
                CHECK(should.entries[number].owned);
            // The handler asks the model what to do, which run() above has not changed.
            const auto count = fds.run();
            REQUIRE(ran == expected);
            REQUIRE(count == expected.size());
        } else if (!e.owned) {
            fds.add(fd, who);
            e = {.owned = true, .queued = e.queued, .idle = roll(3) == 0, .drains = roll(4) != 0};
            if (e.idle) slot.state |= fd_state::idle;
        } else {
            const fd_state bits[] = {fd_state::recv_active, fd_state::recv_ready, fd_state::send_active, fd_state::send_ready,
                                     fd_state::news};
            const fd_state bit = bits[roll(5)];
            switch (roll(5)) {
            case 0:
            case 1:
            case 2:
                fds.set(slot, bit);
                should.set(fd, bit);
                break;
            case 3:
                slot.state &= ~bit;
                e.state &= ~bit;
                break;
            default:
                fds.release(slot);
                e = {.queued = e.queued};
            }
        }
    }
}

} // namespace
