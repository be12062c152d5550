// timers_harness: deadlines, to the millisecond: never early, and late only by the grain and what a turn costs.

#include <algorithm>
#include <array>

#include "sim/world.hpp"

namespace simtest {

namespace {

constexpr std::uint32_t alarms_max = 48;
// The grain, the rounding of a sleep, and turns that were put off on purpose; nothing else costs time here.
constexpr duration late_max = milliseconds{6};

struct alarm {
    world* home = nullptr;
    timer t;
    time_point due{};
    bool is_armed = false;
};

class alarms {
  public:
    explicit alarms(world& w) : world_(w) {
        for (alarm& a : all_) {
            a.home = &w;
            a.t.fire = rang;
        }
    }
    ~alarms() {
        for (alarm& a : all_)
            a.t.cancel();
    }

    // Arms, pushes, pulls or cancels one.
    void change_one() {
        dice& chance = world_.k.chance;
        alarm& a = all_[chance.below(alarms_max)];
        if (a.is_armed && chance.below(4) == 0) {
            a.t.cancel();
            a.is_armed = false;
            return;
        }
        static constexpr duration far[] = {milliseconds{5}, milliseconds{100}, seconds{5}, seconds{400}};
        const duration span = far[chance.below(4)];
        const duration wait = chance.between(duration{}, span);
        a.due = world_.k.time.now + (chance.coin() ? wait : wait / span * span); // some of them in one tick
        a.is_armed = true;
        world_.loop->arm(a.t, a.due);
    }

    void check() {
        for (const alarm& a : all_)
            if (a.is_armed && world_.k.time.now > a.due + late_max) world_.k.violate("I8", "a deadline has passed by");
    }
    bool all_rang() const {
        return std::none_of(all_.begin(), all_.end(), [](const alarm& a) { return a.is_armed; });
    }

  private:
    static void rang(timer& t, time_point now) noexcept {
        alarm& a = container_of<&alarm::t>(t);
        kernel& k = a.home->k;
        if (!a.is_armed) k.violate("I8", "a timer fired that was cancelled, or twice");
        if (now < a.due) k.violate("I8", "a timer fired early");
        a.is_armed = false;
        k.progress();
    }

    world& world_;
    std::array<alarm, alarms_max> all_{};
};

std::uint64_t run(std::uint64_t seed) {
    world w{seed, {.may_spin = true, .may_be_precise = true}};
    for (fault kind : {fault::epoll_late, fault::clock_jump, fault::call_late, fault::stop_in_sleep,
                       fault::stop_in_call}) // they are late by themselves
        w.k.faults.set(kind, 0);
    w.k.faults.resume();
    alarms all{w};
    for (std::uint32_t round = w.k.chance.between(4, 40); round > 0; round--) {
        for (std::uint32_t changes = w.k.chance.below(8); changes > 0; changes--)
            all.change_one();
        w.turn(w.k.chance.between(duration{}, duration{milliseconds{200}}));
        all.check();
    }
    const time_point end = w.k.time.now + seconds{410};
    while (!all.all_rang() && w.k.time.now < end) {
        w.turn(seconds{60});
        all.check();
    }
    w.k.heal();
    w.close_conns();
    w.tear_down();
    return w.k.log.hash();
}

} // namespace

const harness timers_harness{.name = "timers", .run = run};

} // namespace simtest
