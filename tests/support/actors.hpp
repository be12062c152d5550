#pragma once
// actors: who stands behind a slot, a timer or a letter in a test: counts its runs, and does what the test says.

#include <functional>
#include <utility>

#include "core/fdtab.hpp"
#include "core/mailbox.hpp"
#include "core/timers.hpp"

namespace support {

using namespace weir;

// Behind a slot.
struct actor {
    std::function<void(fd_slot&)> act = {};
    int runs = 0;

    static void run(fd_slot& slot) noexcept {
        actor& self = *static_cast<actor*>(slot.owner);
        self.runs++;
        if (self.act) self.act(slot);
    }
};

// A handler that has received and sent all there was.
inline void met_eagain(fd_slot& slot) {
    slot.state &= ~fd_state::news;
    fdtab::cant_recv(slot);
    fdtab::cant_send(slot);
}

// Behind a deadline.
struct bell : timer {
    std::function<void(time_point)> act;
    int fires = 0;
    time_point fired_at{};

    explicit bell(std::function<void(time_point)> what = {}) : act(std::move(what)) {
        fire = [](timer& self, time_point now) noexcept {
            auto& me = static_cast<bell&>(self);
            me.fires++;
            me.fired_at = now;
            if (me.act) me.act(now);
        };
    }
};
using alarm_clock = bell; // where it ends a sleep

// A letter.
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

} // namespace support
