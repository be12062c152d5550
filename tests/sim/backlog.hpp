#pragma once
// backlog: at the limit of clients, the first in the backlog is accepted as soon as it can have a place (I22).

#include "proto/client_gate.hpp"
#include "sim/world.hpp"

namespace simtest {

class backlog_check {
  public:
    // After every turn. `is_waiting_client`: whether a connection is a client of this gate that has nothing under way.
    template <class Predicate>
    void look(world& w, client_gate& gate, Predicate is_waiting_client) {
        const listener& door = gate.door();
        const std::uint64_t tries = door.accepted_count() + door.failed_count() + door.paused_count();
        const bool is_waiting =
            door.is_open() && !static_cast<const stream&>(*w.k.at(door.fd())).accept_queue.empty();
        const bool is_pressed = is_waiting && gate.is_pressed();
        if (is_pressed && !was_pressed_) saw(mark::place_awaited);
        was_pressed_ = is_pressed;
        if (gate.let_go_count() > let_go_count_) saw(mark::client_let_go);
        let_go_count_ = gate.let_go_count();
        if (!is_waiting || tries != tries_ || turns_ == 0) {
            begin(w, is_waiting ? 1 : 0);
            tries_ = tries;
            had_room_ = false;
            return;
        }
        // The turns that a slot or a timer may be put off, and the time that accepting rests for want of descriptors.
        if (++turns_ <= turns_max || w.k.time.now - since_ <= milliseconds{300}) return;
        bool has_room = gate.has_place(); // since when is not known: the clock may have jumped
        for (connection* conn = w.conns->first(); conn && !has_room; conn = w.conns->after(*conn))
            has_room = is_waiting_client(*conn) && may_go(*w.loop, *conn);
        if (has_room && had_room_) w.k.violate("I22", "a client is in the backlog, and there is a place for it");
        had_room_ = has_room;
        begin(w, 1);
    }

  private:
    static constexpr std::uint32_t turns_max = 64;

    static bool may_go(const event_loop& loop, const connection& client) {
        const bool is_silent = client.uses() == 0 && loop.now() - client.born() < seconds{1};
        return !is_silent && !client.slot().runnable() && !client.slot().is(fd_state::recv_ready) &&
               !sys::is_readable(client.fd());
    }
    void begin(const world& w, std::uint32_t turns) {
        turns_ = turns;
        since_ = w.k.time.now;
    }

    std::uint64_t tries_ = 0, let_go_count_ = 0;
    std::uint32_t turns_ = 0; // in which a client was there, and the listener did nothing; 0: none was there
    time_point since_{};
    bool had_room_ = false, was_pressed_ = false;
};

} // namespace simtest
