// shared_harness: descriptors that somebody else holds, too, and that are closed without a word to epoll.
//
// epoll forgets the description, not the number: what is closed while a dup() of it lives goes on being reported, under
// a number that may have another owner by then. So reports for an earlier owner come all the time here; each must find
// nobody. Whoever is run because he may receive has something to receive.

#include <array>

#include "sim/world.hpp"

namespace simtest {

namespace {

constexpr std::uint32_t seats_max = 12;

class party {
  public:
    explicit party(world& w) : world_(w) {
        for (seat& s : seats_)
            s.home = this;
    }

    void step() {
        seat& s = seats_[world_.k.chance.below(seats_max)];
        if (!s.slot) sit_down(s);
        else if (world_.k.chance.below(3) == 0) leave(s);
        else say(s.far);
        // To whoever still holds what was closed: its number may have been taken since.
        if (world_.k.chance.coin()) say(holders_[world_.k.chance.below(holders_max)].far);
    }

    void leave_all() {
        for (seat& s : seats_)
            if (s.slot) leave(s);
        for (holder& h : holders_)
            let_go(h);
    }

  private:
    struct seat {
        party* home = nullptr;
        fd_slot* slot = nullptr; // null: nobody sits there
        int far = -1;            // its other end, which nobody watches
    };
    struct holder {
        int fd = -1, far = -1;
    };
    static constexpr std::uint32_t holders_max = 16;

    void sit_down(seat& s) {
        if (world_.k.open_count() + 8 > world_.k.descriptors_max()) return;
        int ends[2];
        world_.k.pair(AF_UNIX, ends);
        auto slot = world_.loop->watch(ends[0], interest::recv, ready, &s, "guest");
        if (!slot) { // epoll refused it
            sys::close(ends[0]);
            sys::close(ends[1]);
            return;
        }
        s.slot = slot.value();
        s.far = ends[1];
        world_.loop->fds().want_recv(*s.slot);
    }

    // Half of them leave somebody behind who holds the same.
    void leave(seat& s) {
        dice& chance = world_.k.chance;
        holder& h = holders_[chance.below(holders_max)];
        const bool is_held = chance.coin();
        if (is_held) {
            let_go(h);
            h = {.fd = world_.k.dup(s.slot->fd), .far = s.far}; // sit_down() has left room for that
        }
        // Some know, and say so.
        if (is_held && chance.below(4) == 0) s.slot->state |= fd_state::shared;
        world_.loop->close(*std::exchange(s.slot, nullptr));
        if (!is_held) sys::close(s.far);
        s.far = -1;
    }

    void let_go(holder& h) {
        if (h.fd < 0) return;
        sys::close(h.fd);
        sys::close(h.far);
        h = {};
    }

    void say(int far) {
        if (far < 0) return;
        static constexpr char word[] = "word";
        const std::size_t bytes = world_.k.chance.between(1, sizeof word);
        static_cast<void>(sys::send(far, word, bytes, false));
    }

    static void ready(fd_slot& slot) noexcept {
        seat& s = *static_cast<seat*>(slot.owner);
        kernel& k = s.home->world_.k;
        if (s.slot != &slot) k.violate("I3", "somebody was run who has left");
        if (!slot.is(fd_state::recv_ready)) return;
        char room[8];
        sys::count n;
        do {
            n = sys::recv(slot.fd, room, sizeof room);
        } while (n == -ENOMEM);
        if (n == -EAGAIN) k.violate("I3", "a report for an earlier owner of the number reached this one");
        while (n > 0 || n == -ENOMEM)
            n = sys::recv(slot.fd, room, sizeof room);
        fdtab::cant_recv(slot);
    }

    world& world_;
    std::array<seat, seats_max> seats_{};
    std::array<holder, holders_max> holders_{};
};

std::uint64_t run(std::uint64_t seed) {
    world w{seed, {.leaves_watches = true}};
    w.k.faults.set(fault::epoll_spurious, 0); // a report that nothing stands behind is what is looked for
    w.k.faults.set(fault::recv_etimedout, 0); // a unix socket knows no such end
    w.k.faults.resume();
    party guests{w};
    for (std::uint32_t turns = w.k.chance.between(40, 200); turns > 0; turns--) {
        for (std::uint32_t steps = w.k.chance.below(8); steps > 0; steps--)
            guests.step();
        w.turn(w.k.chance.between(duration{}, duration{milliseconds{5}}));
    }
    w.k.heal();
    guests.leave_all();
    w.turn(duration{});
    if (w.loop->stale_count() > 0) saw(mark::stale_report);
    w.close_conns();
    w.tear_down();
    return w.k.log.hash();
}

} // namespace

const harness shared_harness{.name = "shared", .run = run};

} // namespace simtest
