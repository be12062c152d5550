// fdtab: slots that are closed while they are queued, reports that come too late, endings, and numbers.

#include "core/fdtab.hpp"

#include <cerrno>
#include <vector>

#include <doctest/doctest.h>

#include <sys/epoll.h>

#include "support/actors.hpp"
#include "support/dies.hpp"
#include "support/small_table.hpp"

namespace {

using namespace weir;
using support::actor, support::dies, support::met_eagain, support::small_table;

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

} // namespace
