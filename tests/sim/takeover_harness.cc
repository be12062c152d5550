// takeover_harness: proxies that take over from each other, in one simulated kernel, while clients come all the time.

#include "proto/unix.hpp"
#include "sim/takeover_scene.hpp"

namespace simtest {

void scene::turn_all(duration sleep_max) {
    process* all[] = {now.get(), next.get(), drains.get()};
    std::size_t first = k.chance.below(3);
    bool slept = false;
    for (std::size_t i = 0; i < 3; i++) {
        process* p = all[(first + i) % 3];
        if (!p || k.time.now < p->stopped_until) continue;
        p->turn(
            std::min<duration>(sleep_max, milliseconds{1})); // never none: a turn that cannot sleep counts as a spin
        slept = true;
    }
    if (!slept) { // all are stopped
        k.time.now += milliseconds{1};
        k.time.run_due();
    }
    if (drains && drains->conns.live_count() == 0) drains.reset();
    if (k.time.now < come_until && k.chance.below(6) == 0) come();
}

void scene::turn_until(time_point until) {
    while (k.time.now < until)
        turn_all(until - k.time.now);
}

void scene::kill(std::unique_ptr<process>& who) {
    is_killed[static_cast<std::size_t>(who->number)] = true;
    let_go(*who);
    who.reset();
}

// Before it gives its listener up.
void scene::let_go(const process& who) {
    const auto holds = [&](const process* p) { return p && p != &who && p->is_serving(); };
    if (who.is_serving() && !holds(now.get()) && !holds(next.get())) queue_was_lost = true;
}

// It accepts no more, and lives until those that it has are gone. Of two that drain the older one is killed.
void scene::let_drain(std::unique_ptr<process>& who) {
    if (drains) kill(drains);
    let_go(*who);
    drains = std::move(who);
    drains->port.close();
    drains->giver.close();
    drains->taker.close();
    drains->takeover_socket.reset();
    drains->ready_at = never;
}

process* scene::start_one() {
    is_killed.push_back(false);
    next = std::make_unique<process>(*this, static_cast<int>(is_killed.size()) - 1);
    if (next->open() &&
        next->taker.open(unix_stream, path, {.timeout = taker_patience}, process::taker_told, next.get()))
        return next.get();
    saw(mark::start_failed);
    next.reset();
    return nullptr;
}

// Nobody is there any more.
void scene::start_fresh() {
    k.faults.pause();
    queue_was_lost = true;
    is_killed.push_back(false);
    now = std::make_unique<process>(*this, static_cast<int>(is_killed.size()) - 1);
    now->open_fresh();
    k.faults.resume();
}

void scene::attempt() {
    if (k.chance.below(4) == 0) send_stranger();
    if (!start_one()) return;
    if (k.chance.below(3) == 0) next->needs = k.chance.between(duration{}, 2 * giver_patience);
    if (k.chance.below(8) == 0) next->needs = std::chrono::hours{10}; // it never is
    const std::uint32_t what = k.chance.below(6); // 0: the new one is killed, 1: the old one, 2: the old one is stopped
    std::uint32_t when = k.chance.magnitude(1, 60);
    // Both of a time and of turns: the clock may jump, and with many clients many turns take little time.
    const time_point until = k.time.now + seconds{6};
    std::int32_t turns_left = 20'000;
    const auto is_undecided = [&] { return next && !next->end && !next->gives_up; };
    const auto may_go_on = [&] { return turns_left-- > 0 || k.time.now < until; };
    for (; now && is_undecided() && may_go_on(); when -= when > 0) {
        turn_all(milliseconds{1});
        if (when != 1) continue;
        if (what == 0) saw(now->has_given ? mark::taker_killed_behind_the_answer : mark::taker_killed), kill(next);
        else if (what == 1) saw(mark::giver_killed), kill(now);
        else if (what == 2) {
            saw(mark::giver_stopped);
            now->stopped_until = k.time.now + k.chance.between(duration{}, duration{seconds{3}});
        }
    }
    // Of a dead old one the new one hears by itself.
    while (is_undecided() && may_go_on())
        turn_all(milliseconds{1});
    if (is_undecided()) k.violate("I8", "a takeover has no end");
    if (next) settle(*next);
    if (!now) start_fresh();
    if (now->has_given && !next) { // killed behind the answer, it leaves nobody
        let_drain(now);
        start_fresh();
    }
}

// What the new one does about how it ended.
void scene::settle(process& newer) {
    const bool serves = newer.end == takeover_end::taken || newer.end == takeover_end::taken_alone;
    if (!serves) {
        let_drain(next);                             // it withdraws, but some it may have accepted
        turn_until(k.time.now + 2 * giver_patience); // until the old one has noticed
        if (now && (now->has_given || !now->giver.is_open()))
            k.violate("T2", "a takeover that failed has ended the old one");
        return;
    }
    if (now && !now->has_given) k.violate("T2", "both serve: the old one goes on, and the new one does not know");
    if (now) {
        turn_until(k.time.now + milliseconds{50});
        let_drain(now);
    }
    now = std::move(next);
    now->give_on();
}

void scene::check_descriptors() {
    std::uint32_t known = 0;
    for (const process* p : {now.get(), next.get(), drains.get()})
        if (p) known += 1 + const_cast<process*>(p)->loop.fds().used_count(); // and its epoll set
    if (static_cast<int>(known) != k.open_count()) k.violate("I1", "a descriptor belongs to nobody");
}

void scene::run() {
    start_fresh();
    queue_was_lost = false;
    // A unix socket knows no such end; the other side would not hear of it.
    k.faults.set(fault::recv_etimedout, 0);
    harms_nobody = k.chance.coin();
    if (harms_nobody)
        for (const fault kind :
             {fault::connect_refused, fault::connect_timed_out, fault::connect_lost, fault::connect_reset,
              fault::accept_econnaborted, fault::accept_eproto, fault::accept_eperm, fault::epoll_add_enospc,
              fault::epoll_add_enomem, fault::epoll_change_enomem, fault::send_enobufs, fault::send_enomem,
              fault::recv_enomem, fault::wire_reset})
            k.faults.set(kind, 0);

    come_until = never;
    for (std::uint32_t rounds = k.chance.between(1, 4); rounds > 0; rounds--) {
        turn_until(k.time.now + k.chance.between(duration{}, duration{milliseconds{30}}));
        attempt();
        check_descriptors();
    }

    k.note("heal");
    k.heal();
    come_until = k.time.now;
    turn_until(k.time.now + seconds{2});
    queue_was_lost = false;
    harms_nobody = true;
    const std::size_t first = customers.size();
    for (int i = 0; i < 6; i++)
        come();
    const time_point deadline = k.time.now + seconds{300};
    const auto is_over = [&] {
        for (std::size_t i = first; i < customers.size(); i++)
            if (!customers[i]->served) return false;
        return true;
    };
    while (!is_over() && k.time.now < deadline)
        turn_all(milliseconds{5});
    if (!is_over()) k.violate("I10", "nobody serves any more");
    if (!now->is_serving() || now->has_given) k.violate("T2", "the one that serves has given away its sockets");
    check_descriptors();

    k.note("teardown");
    for (const auto& c : customers)
        if (!c->over) harms_nobody = false; // those that are still there are lost now
    next.reset();
    drains.reset();
    now.reset();
    if (k.open_count() != 0) k.violate("I1", "a descriptor is left open");
}

namespace {

std::uint64_t run(std::uint64_t seed) {
    world w{seed};
    w.close_conns(); // its kernel is what is needed
    w.check.reset();
    w.loop.reset();
    scene s{w};
    s.run();
    return w.k.log.hash();
}

} // namespace

const harness takeover_harness{.name = "takeover", .run = run};

} // namespace simtest
