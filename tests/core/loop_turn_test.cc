// loop: what a turn does in which order, what it leaves to the next one, and when things are freed.

#include "core/loop.hpp"

#include <chrono>
#include <vector>

#include <doctest/doctest.h>

#include "support/actors.hpp"
#include "support/dies.hpp"
#include "support/loop_rig.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::actor, support::alarm_clock, support::drain;
using support::dies;
using support::send_all, support::stream_pair;
using support::still_loop;

// --- order and bounds of a turn

TEST_CASE("a turn runs slots, then letters, then timers, then frees") {
    still_loop loop;
    auto ends = stream_pair();
    std::vector<char> order;
    actor who{.act = [&](fd_slot& slot) {
        drain(slot);
        order.push_back('s');
    }};
    alarm_clock bell{[&](time_point) { order.push_back('t'); }};
    struct noted : letter, retired {
        std::vector<char>* order;
    } note;
    note.order = &order;
    note.run = [](letter& l) noexcept { static_cast<noted&>(l).order->push_back('l'); };
    note.free = [](retired& r) noexcept { static_cast<noted&>(r).order->push_back('f'); };
    fd_slot& slot = loop.add(ends.a.release(), who);
    loop.retire(note);
    loop.post(note);
    loop.arm_in(bell, 1ms);
    loop.clock.advance(1ms);
    send_all(ends.b.get(), "x");

    const auto ran = loop.turn();

    CHECK(order == std::vector{'s', 'l', 't', 'f'});
    CHECK(ran == 3);
    loop.close(slot);
}

TEST_CASE("what handlers, timers and letters start runs in the next turn") {
    still_loop loop;
    int runs = 0;
    struct again : letter {
        still_loop* loop;
        int* runs;
    } mail;
    mail.loop = &loop;
    mail.runs = &runs;
    mail.run = [](letter& l) noexcept {
        auto& self = static_cast<again&>(l);
        if (++*self.runs < 3) self.loop->post(self);
    };
    alarm_clock bell;
    bell.act = [&](time_point now) {
        if (bell.fires < 3) loop.arm(bell, now);
    };
    loop.post(mail);
    loop.arm_in(bell, 1ms);

    for (int turn = 1; turn <= 3; turn++) {
        loop.clock.advance(1ms);
        CHECK(loop.turn() == 2);
        CHECK(runs == turn);
        CHECK(bell.fires == turn);
    }
    CHECK(loop.turn() == 0);
}

TEST_CASE("a timer armed in the past by a timer waits for the next turn, after a long stall, too") {
    still_loop loop;
    alarm_clock bell;
    bell.act = [&](time_point now) { loop.arm(bell, now - 1s); };
    loop.arm_in(bell, 1ms);

    loop.clock.advance(1h);
    const auto ran = loop.turn();
    loop.clock.advance(1ms);
    loop.turn();

    CHECK(ran == 1);
    CHECK(bell.fires == 2);
    bell.cancel();
}

// Scenario 27.
TEST_CASE("timers wait while batches are full, until every descriptor could have been reported") {
    still_loop loop({.events_max = 1});
    constexpr int busy = 20;
    struct chatterer {
        support::pair ends = stream_pair();
        actor who{};
        fd_slot* slot = nullptr;
    } all[busy];
    for (chatterer& c : all) {
        c.slot = &loop.add(c.ends.a.release(), c.who);
        c.who.act = [&](fd_slot& slot) {
            drain(slot);
            send_all(c.ends.b.get(), "x"); // so every batch is full
        };
        send_all(c.ends.b.get(), "x");
    }
    const auto watched = static_cast<int>(loop.fds().used_count());
    alarm_clock bell;
    loop.arm_in(bell, 1s);
    loop.clock.advance(10s);

    int fired_at = 0;
    for (int turn = 1; turn <= 1000 && fired_at == 0; turn++) {
        loop.turn();
        if (bell.fires > 0) fired_at = turn;
    }

    CHECK(fired_at == watched);
    for (chatterer& c : all) {
        CHECK(c.who.runs >= 1);
        loop.close(*c.slot);
    }
}

TEST_CASE("bytes that wait in the kernel after a stall are looked at before an idle timer fires, however many wait") {
    still_loop loop({.events_max = 2});
    constexpr int connections = 101; // 51 batches
    struct client {
        support::pair ends = stream_pair();
        actor who{};
        alarm_clock idle{};
        fd_slot* slot = nullptr;
    } clients[connections];
    for (client& c : clients) {
        c.slot = &loop.add(c.ends.a.release(), c.who);
        c.who.act = [&](fd_slot& slot) {
            drain(slot);
            loop.arm_in(c.idle, 1s);
        };
        loop.arm_in(c.idle, 1s);
        send_all(c.ends.b.get(), "x");
    }

    loop.clock.advance(10s); // the machine stood still
    for (int turn = 0; turn < 60; turn++)
        loop.turn();

    for (client& c : clients) {
        CHECK(c.who.runs == 1);
        CHECK(c.idle.fires == 0);
        c.idle.cancel();
        loop.close(*c.slot);
    }
}

TEST_CASE("timers do not wait when the batch has room") {
    still_loop loop({.events_max = 2});
    auto ends = stream_pair();
    actor who{.act = drain};
    fd_slot& slot = loop.add(ends.a.release(), who);
    alarm_clock bell;
    loop.arm_in(bell, 1s);
    send_all(ends.b.get(), "x");
    loop.clock.advance(1s);

    loop.turn();

    CHECK(bell.fires == 1);
    loop.close(slot);
}

// Scenario 28.
TEST_CASE("timers that are all due at once are spread over turns") {
    still_loop loop({.timers_max = 100});
    std::vector<alarm_clock> bells(1000);
    for (alarm_clock& bell : bells)
        loop.arm_in(bell, 5ms);
    loop.clock.advance(5ms);

    std::uint32_t most = 0, all = 0;
    for (int turn = 0; turn < 10; turn++) {
        const auto ran = loop.turn();
        most = std::max(most, ran);
        all += ran;
    }

    CHECK(most == 100);
    CHECK(all == 1000);
}

// --- freeing

TEST_CASE("what is retired is freed at the end of the turn, once") {
    still_loop loop;
    auto ends = stream_pair();
    struct thing : retired {
        int freed = 0;
    } a, b;
    for (thing* t : {&a, &b})
        t->free = [](retired& r) noexcept { static_cast<thing&>(r).freed++; };
    int freed_in_handler = -1;
    actor who{.act = [&](fd_slot& slot) {
        drain(slot);
        loop.retire(a);
        loop.retire(b);
        freed_in_handler = a.freed + b.freed;
    }};
    fd_slot& slot = loop.add(ends.a.release(), who);
    send_all(ends.b.get(), "x");

    loop.turn();
    loop.turn();

    CHECK(freed_in_handler == 0);
    CHECK(a.freed == 1);
    CHECK(b.freed == 1);
    loop.close(slot);
}

TEST_CASE("what is retired while others are freed is freed, too, and a loop that dies frees the rest") {
    struct thing : retired {
        event_loop* loop = nullptr;
        thing* then = nullptr;
        int freed = 0;
    } a, b, late;
    {
        still_loop loop;
        for (thing* t : {&a, &b, &late}) {
            t->loop = &loop;
            t->free = [](retired& r) noexcept {
                auto& self = static_cast<thing&>(r);
                self.freed++;
                if (self.then) self.loop->retire(*self.then);
            };
        }
        a.then = &b;
        loop.retire(a);
        loop.turn();
        loop.retire(late);
    }

    CHECK(a.freed == 1);
    CHECK(b.freed == 1);
    CHECK(late.freed == 1);
}

TEST_CASE("what is forgotten is not freed, wherever it stands") {
    struct thing : retired {
        int freed = 0;
    };
    for (int which : {0, 1, 2}) {
        still_loop loop;
        thing things[3];
        for (thing& t : things) {
            t.free = [](retired& r) noexcept { static_cast<thing&>(r).freed++; };
            loop.retire(t);
        }

        loop.forget(things[which]);
        loop.turn();

        for (int i : {0, 1, 2})
            CHECK(things[i].freed == (i == which ? 0 : 1));
    }
}

TEST_CASE("forgetting what was not retired, or retiring what cannot be freed, is a mistake") {
    still_loop loop;
    retired nothing;

    CHECK(dies([&] { loop.forget(nothing); }, "*at != nullptr"));
    CHECK(dies([&] { loop.retire(nothing); }, "r.free != nullptr"));
}

} // namespace
