#include "core/fdtab.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <sys/epoll.h>

#include "support/dies.hpp"

namespace {

using namespace weir;
using support::dies;

// Stands behind a slot: counts its runs and does what the test says.
struct actor {
    std::function<void(fd_slot&)> act = [](fd_slot&) {};
    int runs = 0;

    static void run(fd_slot& slot) noexcept {
        actor& self = *static_cast<actor*>(slot.owner);
        self.runs++;
        self.act(slot);
    }
};

// A table of 64 numbers; no descriptor stands behind them.
struct small_table : fdtab {
    small_table() { REQUIRE(open(64).ok()); }
    ~small_table() {
        for (int fd = 0; fd < 64; fd++)
            if (slot(fd).handler) release(slot(fd));
    }

    fd_slot& add(int fd, actor& who) {
        auto added = insert(fd, actor::run, &who);
        REQUIRE(added.ok());
        return *added.value();
    }
    void say(fd_slot& slot, std::uint32_t events) { report(data_of(slot), events); }
};

void met_eagain(fd_slot& slot) {
    slot.state &= ~fd_state::news;
    fdtab::cant_recv(slot);
    fdtab::cant_send(slot);
}

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

// --- closed while queued

TEST_CASE("a slot released while queued does not run") {
    small_table fds;
    actor who, behind{.act = met_eagain};
    fd_slot& slot = fds.add(7, who);
    fd_slot& next = fds.add(8, behind);
    for (fd_slot* s : {&slot, &next}) {
        fds.want_recv(*s);
        fds.may_recv(*s);
    }

    fds.release(slot);

    CHECK(fds.run() == 1);
    CHECK(who.runs == 0);
    CHECK(behind.runs == 1); // what was queued behind it still is
}

TEST_CASE("a number queued for its earlier owner runs its new one once, and only if that is runnable") {
    for (bool new_one_wants : {false, true}) {
        CAPTURE(new_one_wants);
        small_table fds;
        actor earlier, now{.act = met_eagain}, behind{.act = met_eagain};
        fd_slot& slot = fds.add(7, earlier);
        fd_slot& next = fds.add(8, behind);
        for (fd_slot* s : {&slot, &next}) {
            fds.want_recv(*s);
            fds.may_recv(*s);
        }

        fds.release(slot);
        fds.add(7, now);
        fds.may_recv(slot);
        if (new_one_wants) fds.want_recv(slot);
        fds.run();
        fds.run();

        CHECK(earlier.runs == 0);
        CHECK(now.runs == (new_one_wants ? 1 : 0));
        CHECK(behind.runs == 1);
        CHECK_FALSE(fds.has_runnable());
    }
}

TEST_CASE("a handler may release its own slot, and the number's new owner runs in the next turn") {
    small_table fds;
    actor now{.act = met_eagain}, self{};
    self.act = [&](fd_slot& slot) {
        fds.release(slot);
        fd_slot& again = fds.add(7, now);
        fds.want_recv(again);
        fds.may_recv(again);
    };
    fd_slot& slot = fds.add(7, self);
    fds.want_recv(slot);
    fds.may_recv(slot);

    const auto ran = fds.run();

    CHECK(ran == 1);
    CHECK(now.runs == 0);
    CHECK(fds.run() == 1);
    CHECK(now.runs == 1);
    CHECK_FALSE(fds.has_runnable());
}

TEST_CASE("a released slot has forgotten everything but its generation") {
    small_table fds;
    actor who;
    fd_slot& slot = fds.add(7, who);
    const auto before = slot.generation;
    slot.state |= fd_state::idle | fd_state::shared | fd_state::awaits_send | fd_state::connecting;
    fds.say(slot, EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLRDHUP);
    fds.run();

    fds.release(slot);

    CHECK((slot.state & ~fd_state::queued) == fd_state{});
    CHECK(!slot.handler);
    CHECK(slot.owner == nullptr);
    CHECK(slot.generation == before + 1);
    CHECK(fds.used_count() == 0);
}

// --- reports that come too late

TEST_CASE("a report for an earlier owner of the number is dropped and counted") {
    small_table fds;
    actor earlier, now;
    fd_slot& slot = fds.add(7, earlier);
    const auto old_data = fds.data_of(slot);
    fds.release(slot);

    fds.report(old_data, EPOLLIN | EPOLLHUP); // nobody has the number
    fds.add(7, now);
    fds.want_recv(slot);
    fds.report(old_data, EPOLLIN | EPOLLHUP); // somebody else has it

    CHECK(fds.stale_count() == 2);
    CHECK(slot.state == fd_state::recv_active);
    CHECK(fds.run() == 0);
    CHECK(now.runs == 0);
}

TEST_CASE("a report for a number without an owner is dropped though the generation is its") {
    small_table fds;

    fds.report(fds.data_of(fds.slot(0)), EPOLLIN);

    CHECK(fds.stale_count() == 1);
    CHECK_FALSE(fds.has_runnable());
}

TEST_CASE("the generation may wrap") {
    small_table fds;
    actor who{.act = met_eagain};
    fds.slot(7).generation = 0xFFFF'FFFE;
    std::vector<std::uint64_t> earlier;

    for (int owner = 0; owner < 4; owner++) {
        CAPTURE(owner);
        fd_slot& slot = fds.add(7, who);
        fds.want_recv(slot);
        for (std::uint64_t data : earlier)
            fds.report(data, EPOLLIN);
        const auto ran_stale = fds.run();
        fds.say(slot, EPOLLIN);
        const auto ran = fds.run();

        CHECK(ran_stale == 0);
        CHECK(ran == 1);
        earlier.push_back(fds.data_of(slot));
        fds.release(slot);
    }

    CHECK(fds.stale_count() == 0 + 1 + 2 + 3);
    CHECK(earlier[1] == 0xFFFF'FFFF'0000'0007); // all 32 bits are used
    CHECK(earlier[2] == 7);
}

TEST_CASE("the generation is the upper half of epoll's data, the number the lower") {
    small_table fds;
    actor who;
    fds.slot(7).generation = 0xFFFF'FFFF;

    CHECK(fds.data_of(fds.add(7, who)) == 0xFFFF'FFFF'0000'0007);
}

// Scenario 1: A's event closes B, a listener's event takes the number, B's old event follows in the same batch.
TEST_CASE("a number that is closed and taken again within a batch gets nothing of its earlier owner") {
    small_table fds;
    actor a{}, b{}, listener{}, fresh{};
    a.act = [&](fd_slot& slot) {
        met_eagain(slot);
        fds.release(fds.slot(2));
    };
    listener.act = [&](fd_slot& slot) {
        met_eagain(slot);
        fds.want_recv(fds.add(2, fresh));
    };
    for (auto [fd, who] : {std::pair{1, &a}, {3, &listener}, {2, &b}}) {
        fds.want_recv(fds.add(fd, *who));
        fds.say(fds.slot(fd), EPOLLIN | (fd == 2 ? std::uint32_t{EPOLLHUP} : 0));
    }

    const auto ran = fds.run();

    CHECK(ran == 2);
    CHECK(b.runs == 0);
    CHECK(fds.run() == 0);
    CHECK(fresh.runs == 0);
    CHECK(fds.slot(2).state == fd_state::recv_active);
}

// Scenario 48.
TEST_CASE("an idle slot that is killed and its number taken in one batch leaves nothing behind") {
    small_table fds;
    actor idle{.act = [&](fd_slot& slot) { fds.release(slot); }}, fresh{}, dialer{};
    dialer.act = [&](fd_slot& slot) {
        met_eagain(slot);
        fds.want_recv(fds.add(2, fresh));
    };
    fds.want_recv(fds.add(1, dialer));
    fds.add(2, idle).state |= fd_state::idle;
    const auto idle_data = fds.data_of(fds.slot(2));

    fds.say(fds.slot(1), EPOLLIN);
    fds.report(idle_data, EPOLLIN | EPOLLRDHUP);
    const auto ran = fds.run();
    fds.report(idle_data, EPOLLIN | EPOLLRDHUP | EPOLLHUP);

    CHECK(ran == 2);
    CHECK(idle.runs == 1);
    CHECK(fds.run() == 0);
    CHECK(fresh.runs == 0);
    CHECK(fds.slot(2).state == fd_state::recv_active);
    CHECK(fds.stale_count() == 1);
}

// --- endings

TEST_CASE("an ending is told though nothing is wanted, once, and stays visible until release") {
    for (std::uint32_t event : {std::uint32_t{EPOLLRDHUP}, std::uint32_t{EPOLLHUP}, std::uint32_t{EPOLLERR}}) {
        CAPTURE(event);
        small_table fds;
        actor who{.act = met_eagain};
        fd_slot& slot = fds.add(7, who);

        fds.say(slot, event);
        const auto first = fds.run();
        fds.say(slot, event | EPOLLIN);
        const auto again = fds.run();

        CHECK(first == 1);
        CHECK(again == 0);
        CHECK(slot.ended());
    }
}

TEST_CASE("an ending that follows another is news again") {
    small_table fds;
    actor who{.act = met_eagain};
    fd_slot& slot = fds.add(7, who);

    fds.say(slot, EPOLLIN | EPOLLRDHUP);
    fds.run();
    fds.say(slot, EPOLLIN | EPOLLRDHUP | EPOLLHUP);
    fds.run();
    fds.say(slot, EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    fds.run();

    CHECK(who.runs == 3);
}

TEST_CASE("each event makes ready what may work after it") {
    using enum fd_state;
    const struct {
        std::uint32_t event;
        fd_state state;
    } rows[] = {
        {EPOLLIN, recv_ready},
        {EPOLLOUT, send_ready},
        {EPOLLRDHUP, recv_ready | rdhup | news},
        {EPOLLHUP, recv_ready | send_ready | hup | news},
        {EPOLLERR, recv_ready | send_ready | err | news},
        {EPOLLPRI, recv_ready | unsure},
    };
    for (const auto& row : rows) {
        CAPTURE(row.event);
        small_table fds;
        actor who;
        fd_slot& slot = fds.add(7, who);

        fds.say(slot, row.event);

        CHECK((slot.state & ~queued) == row.state);
    }
}

TEST_CASE("an end without ERR is not latched while connecting, but makes unsure and runs the handler every time") {
    for (std::uint32_t event : {std::uint32_t{EPOLLHUP}, std::uint32_t{EPOLLRDHUP}}) {
        CAPTURE(event);
        small_table fds;
        actor who{.act = met_eagain};
        fd_slot& slot = fds.add(7, who);
        slot.state |= fd_state::connecting;

        for (int time = 0; time < 2; time++) {
            fds.say(slot, EPOLLOUT | event);
            CHECK(fds.run() == 1);
        }

        CHECK_FALSE(slot.ended());
        CHECK(slot.is(fd_state::unsure));
    }
}

TEST_CASE("an end with ERR is latched while connecting, too") {
    small_table fds;
    actor who{.act = met_eagain};
    fd_slot& slot = fds.add(7, who);
    slot.state |= fd_state::connecting;

    fds.say(slot, EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLERR);

    CHECK(all(slot.state, fd_state::hup | fd_state::err));
    CHECK_FALSE(slot.is(fd_state::unsure));
    CHECK(fds.run() == 1);
}

TEST_CASE("a connect that just succeeds is no news") {
    small_table fds;
    actor who;
    fd_slot& slot = fds.add(7, who);
    slot.state |= fd_state::connecting;

    fds.say(slot, EPOLLOUT);

    CHECK_FALSE(slot.is(fd_state::news | fd_state::unsure));
    CHECK(slot.is(fd_state::send_ready));
}

// --- numbers and mistakes

TEST_CASE("a number beyond the table is refused, the last one within is not") {
    small_table fds;
    actor who;

    const auto beyond = fds.insert(64, actor::run, &who);

    CHECK(beyond.error() == EMFILE);
    CHECK(fds.used_count() == 0);
    CHECK(fds.insert(63, actor::run, &who).ok());
    CHECK(fds.used_count() == 1);
}

TEST_CASE("a table costs no memory before its slots are used, and no allocation at all") {
    fdtab fds;

    const auto opened = fds.open((1u << 31) - 1);

    // 64 GiB of addresses; a machine that does not overcommit may say no.
    CHECK((opened.ok() || opened.error() == ENOMEM));
}

TEST_CASE("a mistake with a number is caught") {
    small_table fds;
    actor who;
    fd_slot& slot = fds.add(7, who);
    auto insert = [&](int fd, fd_handler handler) { static_cast<void>(fds.insert(fd, handler, &who)); };

    CHECK(dies([&] { insert(7, actor::run); }, "slot.handler == nullptr"));
    CHECK(dies([&] { insert(8, nullptr); }, "handler != nullptr"));
    CHECK(dies([&] { insert(-1, actor::run); }, "fd >= 0"));
    CHECK(dies([&] { fds.release(fds.slot(8)); }, "slot.handler != nullptr"));
    CHECK(dies([&] { fds.report(64, EPOLLIN); }, "fd < fd_max_"));
    CHECK(dies([&] { fds.slot(64); }, "fd_max_"));
    CHECK(dies([&] { static_cast<void>(fds.open(64)); }, "!slots_"));
    CHECK(dies([] {
              fdtab left;
              static_cast<void>(left.open(8));
              static_cast<void>(left.insert(1, actor::run, nullptr));
          },
               "used_count_ == 0"));
    CHECK_FALSE(dies([&] { fds.release(slot); }, ""));
}

TEST_CASE("every state bit has a name, and all of them fit") {
    char room[160];

    const auto text = to_string(static_cast<fd_state>((1u << 14) - 1), room);

    CHECK(text == "recv_active+recv_ready+send_active+send_ready+rdhup+hup+err+news+queued+idle+connecting+awaits_send+shared+"
                  "unsure");
    CHECK(to_string(fd_state{}, room).empty());
    CHECK(to_string(fd_state::recv_active | fd_state::rdhup, room) == "recv_active+rdhup");
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
