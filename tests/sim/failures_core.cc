// failures_core: the loop, listeners, names and files.

#include "proto/address.hpp"
#include "proto/unix.hpp"
#include "sim/failures_door.hpp"

namespace failures {

namespace {

// ---- the loop

void loop_opens(stage& s) { s.turns(milliseconds{30}); }

void loop_hears_signals(stage& s) {
    int heard = 0;
    const auto count = [](void* n, int signal) noexcept { *static_cast<int*>(n) += signal; };
    s.start([&] { return s.loop->on_signal(SIGHUP, count, &heard).ok(); });
    s.start([&] { return s.loop->on_signal(SIGTERM, count, &heard).ok(); });
    s.k.raise(SIGHUP);
    s.k.raise(SIGTERM);
    s.turns(milliseconds{30});
    s.require(heard == SIGHUP + SIGTERM, "a signal was not heard once");
}

struct counted_letter {
    letter l{[](letter& self) noexcept { container_of<&counted_letter::l>(self).ran++; }};
    int ran = 0;
};

// Posted while the loop sleeps, from what stands for another thread.
void post_in(stage& s, counted_letter& l, duration when) {
    static event_loop* loop;
    loop = s.loop.get();
    s.k.time.plan(
        s.k.time.now + when, [](void* at, std::uint32_t) noexcept { loop->post(static_cast<counted_letter*>(at)->l); },
        &l, 0);
}

void letters_run(stage& s) {
    counted_letter letters[4];
    for (counted_letter& l : letters) {
        post_in(s, l, milliseconds{5});
        s.turns(milliseconds{20});
    }
    for (const counted_letter& l : letters)
        s.require(l.ran == 1, "a letter did not run once");
}

// With a loop that stays awake for a while: whoever posts then need not ring.
void letters_find_it_awake(stage& s) {
    letters_run(s);
    s.require(s.harmed() || s.loop->spin_count() > 0, "it never spun");
    const bool may_not = s.k.faults.plan.what() == call::cpus_allowed;
    s.require(!s.harmed() || may_not || s.loop->spins(), "it does not spin, and nothing is in the way");
}

// Fires in its own microsecond, or where the kernel cannot do that in its millisecond.
void timer_fires_precisely(stage& s) {
    struct alarm {
        timer t{[](timer& self, time_point now) noexcept { container_of<&alarm::t>(self).rang_at = now; }};
        time_point rang_at{};
    } a;
    for (int i = 0; i < 4; i++) {
        a.rang_at = {};
        const time_point due = s.k.time.now + milliseconds{7} + std::chrono::microseconds{300};
        s.loop->arm(a.t, due);
        s.turns(milliseconds{20});
        const bool is_late = s.loop->polls().imprecise_count() > 0;
        s.require(a.rang_at >= due, "a timer did not fire, or early");
        s.require(a.rang_at < due + std::chrono::microseconds{is_late ? 1020 : 20}, "a timer fired late");
        s.require(s.harmed() || !is_late, "it was imprecise though nothing failed");
    }
}

void loop_polls_busily(stage& s) {
    s.turns(milliseconds{30});
    const bool refused = s.k.faults.plan.struck() && s.k.faults.plan.what() == call::epoll_busy_poll;
    s.require(s.loop->busy_polls() != refused, "what it says of busy polling is not what the kernel said");
}

// Rings are refused until the counter was emptied.
void letters_meet_a_full_counter(stage& s) {
    s.k.faults.set(fault::eventfd_eagain, 10'000);
    letters_run(s);
}

void loop_stops(stage& s) {
    struct stopper {
        letter l{[](letter& self) noexcept { container_of<&stopper::l>(self).loop->stop(); }};
        event_loop* loop;
    } stop{.loop = s.loop.get()};
    s.k.time.plan(
        s.k.time.now + milliseconds{5},
        [](void* at, std::uint32_t) noexcept {
            stopper& it = *static_cast<stopper*>(at);
            it.loop->post(it.l);
        },
        &stop, 0);
    s.loop->run();
}

void conntab_opens(stage& s) { s.open_conns(); }

// ---- listeners

void accepts_one(stage& s) {
    s.open_conns();
    door d{s, greeter};
    d.open();
    s.come(door_at, greet);
    s.settle();
    s.recover(door_at, greet);
}

void accepts_many(stage& s) {
    s.open_conns();
    door d{s, greeter, {.accept_budget = 2}};
    d.open();
    for (int i = 0; i < 7; i++)
        s.come(door_at, greet);
    s.settle();
    s.recover(door_at, greet);
}

void accepts_at_the_limit(stage& s) {
    s.open_conns();
    door d{s, {hear("hello"), wait(milliseconds{150}), say("hello back"), leave(close_intent::graceful)}};
    d.open();
    for (int i = 0; i < 5; i++)
        s.come(door_at, greet);
    s.settle();
    s.require(s.harmed() || d.port.paused_count() > 0, "it was never short of anything");
    s.recover(door_at, greet);
}

void accepts_at_the_descriptor_limit(stage& s) { accepts_at_the_limit(s); }

void pauses_and_resumes(stage& s) {
    s.open_conns();
    door d{s, greeter};
    d.open();
    d.port.pause();
    s.come(door_at, greet);
    s.come(door_at, greet);
    s.turns(milliseconds{50});
    d.port.resume();
    s.settle();
    s.recover(door_at, greet);
}

void accepts_the_rest(stage& s) {
    s.open_conns();
    door d{s, greeter};
    d.open();
    d.port.pause();
    for (int i = 0; i < 3; i++)
        s.come(door_at, greet);
    s.turns(milliseconds{20});
    d.port.accept_rest(16);
    d.port.close();
    s.settle();
    s.recover();
}

void closes_in_the_callback(stage& s) {
    s.open_conns();
    door d{s, greeter};
    d.closes_after = 1;
    d.open();
    s.come(door_at, greet);
    s.settle();
    s.recover();
}

void adopts_a_listener(stage& s) {
    s.open_conns();
    door d{s, greeter};
    s.start([&] {
        auto fd = open_listener(door_at, {.backlog_count = 8, .reuse_port = true});
        return fd && d.port.adopt(std::move(fd).value(), tcp, d.options, door::accepted, &d).ok();
    });
    s.come(door_at, greet);
    s.settle();
    s.recover(door_at, greet);
}

void listens_at_a_path(stage& s) {
    s.open_conns();
    door d{s, greeter};
    d.open(unix_stream, path);
    s.come(path, greet);
    s.settle();
    s.recover(path, greet);
}

// Whoever listened there before has left its path behind.
void listens_at_an_abandoned_path(stage& s) {
    s.open_conns();
    door d{s, greeter};
    d.open(unix_stream, path);
    d.port.close();
    d.open(unix_stream, path);
    s.come(path, greet);
    s.settle();
    s.recover(path, greet);
}

// ---- names and files

void resolves(stage& s) {
    s.start([&] { return parse_tcp("localhost:80").ok(); });
    s.start([&] { return parse_tcp("10.0.0.1:80").ok(); });
    s.k.net.name("two", {endpoint::ipv4(0x0a000001, 0), endpoint::ipv4(0x0a000002, 0)});
    s.start([&] {
        address at[4];
        auto count = parse_addresses("two:80", at);
        return count && count.value() == 2 && at[1].at == endpoint::ipv4(0x0a000002, 80);
    });
}

void opens_sockets(stage& s) {
    s.start([&] { return tcp.listen(door_at, {.reuse_port = true}).ok(); });
    s.start([&] { return unix_stream.listen(path, {}).ok(); });
    s.serve(shop_at, {{hear_end}});
    s.start([&] { return tcp.connect(shop_at, {}).ok(); });
}

// From one end of a pair through a pipe and back to it.
bool carries(kernel& k) {
    int ends[2], pipe[2] = {-1, -1};
    if (k.pair(AF_UNIX, ends) < 0) return false;
    char room[8];
    const bool did = sys::pipe_open(pipe) == 0 && sys::set_pipe_room(pipe[1], 4096) == 4096 &&
                     sys::send(ends[0], "byte", 4, false) == 4 && sys::splice(ends[1], pipe[1], 4096) == 4 &&
                     sys::splice(pipe[0], ends[1], 4096) == 4 && sys::recv(ends[0], room, sizeof room) == 4;
    for (const int fd : {ends[0], ends[1], pipe[0], pipe[1]})
        if (fd >= 0) sys::close(fd);
    return did;
}

void splices(stage& s) {
    s.start([&] { return carries(s.k); });
}

void writes_a_log(stage& s) {
    int fd = -1;
    s.start([&] { return (fd = sys::open_append("/var/log/weir")) >= 0; });
    for (int i = 0; i < 3; i++)
        s.start([&] { return sys::write(fd, "line\n", 5) == 5; });
    sys::close(fd);
}

} // namespace

const std::vector<scenario> core_scenarios{
    {"loop-opens", loop_opens},
    {"loop-hears-signals", loop_hears_signals},
    {"letters-run", letters_run},
    {"letters-meet-a-full-counter", letters_meet_a_full_counter},
    {"letters-find-it-awake", letters_find_it_awake, {.loop = {.events_max = 16, .spin_us_max = 200}}},
    {"timer-fires-precisely", timer_fires_precisely, {.loop = {.events_max = 16, .precise_timers = true}}},
    {"loop-polls-busily", loop_polls_busily, {.loop = {.events_max = 16, .busy_poll = {.usecs = 50}}}},
    {"loop-stops", loop_stops},
    {"conntab-opens", conntab_opens},
    {"accepts-one", accepts_one},
    {"accepts-many", accepts_many},
    {"accepts-at-the-limit", accepts_at_the_limit, {.connections_max = 2}},
    {"accepts-at-the-descriptor-limit", accepts_at_the_descriptor_limit, {.descriptors_max = 8}},
    {"pauses-and-resumes", pauses_and_resumes},
    {"accepts-the-rest", accepts_the_rest, {.suffer_max = 3}},
    {"closes-in-the-callback", closes_in_the_callback},
    {"adopts-a-listener", adopts_a_listener},
    {"listens-at-a-path", listens_at_a_path},
    {"listens-at-an-abandoned-path", listens_at_an_abandoned_path},
    {"resolves", resolves},
    {"opens-sockets", opens_sockets},
    {"splices", splices},
    {"writes-a-log", writes_a_log},
};

} // namespace failures
