#include "core/loop.hpp"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <functional>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/counting.hpp"
#include "support/dies.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using namespace std::chrono_literals;
using support::descriptor;
using support::dies;
using support::send_all;
using support::stream_pair;
using support::tcp_pair;

// Stands behind a slot: counts its runs and does what the test says.
struct actor {
    std::function<void(fd_slot&)> act = {};
    int runs = 0;

    static void run(fd_slot& slot) noexcept {
        actor& self = *static_cast<actor*>(slot.owner);
        self.runs++;
        if (self.act) self.act(slot);
    }
};

void met_eagain(fd_slot& slot) {
    slot.state &= ~fd_state::news;
    fdtab::cant_recv(slot);
    fdtab::cant_send(slot);
}

// Reads all there is, as an edge wants it. True when the end was met.
bool drain(fd_slot& slot) {
    slot.state &= ~fd_state::news;
    char room[512];
    for (int turns = 0; turns < 10'000; turns++) {
        const auto n = sys::recv(slot.fd, room, sizeof room);
        if (n > 0) continue;
        fdtab::cant_recv(slot);
        return n != -EAGAIN;
    }
    FAIL_CHECK("no end of bytes");
    return true;
}

// A loop whose time stands still, so that it never sleeps.
struct still_loop : event_loop {
    fake_clock clock;

    explicit still_loop(loop_options options = {}) {
        options.time_source = &clock;
        REQUIRE(open(options).ok());
    }

    ~still_loop() {
        for (std::uint32_t fd = 0; fds().used_count() > 1 && fd < fds().fd_max(); fd++)
            if (fds().slot(static_cast<int>(fd)).handler == actor::run) close(fds().slot(static_cast<int>(fd)));
    }

    // Watches and wants to receive. The loop closes fd.
    fd_slot& add(int fd, actor& who, interest first = interest::recv) {
        auto slot = watch(fd, first, actor::run, &who);
        REQUIRE(slot.ok());
        fds().want_recv(*slot.value());
        return *slot.value();
    }
    std::uint32_t turn() { return event_loop::turn(0ms); }
};

// The real clock: it sleeps.
struct real_loop : event_loop {
    real_loop() { REQUIRE(open().ok()); }
};

struct alarm_clock : timer {
    std::function<void(time_point)> act;
    int fires = 0;

    explicit alarm_clock(std::function<void(time_point)> what = {}) : act(std::move(what)) {
        fire = [](timer& self, time_point now) noexcept {
            auto& me = static_cast<alarm_clock&>(self);
            me.fires++;
            if (me.act) me.act(now);
        };
    }
};

// While it lives, the process can open exactly `more` descriptors.
class descriptors_left {
  public:
    explicit descriptors_left(rlim_t more) {
        REQUIRE(getrlimit(RLIMIT_NOFILE, &was_) == 0);
        const int lowest = dup(STDOUT_FILENO);
        REQUIRE(lowest >= 0);
        close(lowest);
        rlimit now = was_;
        now.rlim_cur = static_cast<rlim_t>(lowest) + more;
        REQUIRE(setrlimit(RLIMIT_NOFILE, &now) == 0);
    }
    ~descriptors_left() { setrlimit(RLIMIT_NOFILE, &was_); }

  private:
    rlimit was_;
};

// A loop blocks the signals it handles: a test gives the mask back.
class kept_mask {
  public:
    kept_mask() { pthread_sigmask(SIG_SETMASK, nullptr, &was_); }
    ~kept_mask() { pthread_sigmask(SIG_SETMASK, &was_, nullptr); }

  private:
    sigset_t was_;
};

// --- events

TEST_CASE("bytes run the handler once, and no more until new ones come") {
    still_loop loop;
    auto ends = stream_pair();
    actor who{.act = drain};
    fd_slot& slot = loop.add(ends.a.release(), who);

    send_all(ends.b.get(), "some");
    loop.turn();
    loop.turn();
    const int after_first = who.runs;
    send_all(ends.b.get(), "more");
    loop.turn();

    CHECK(after_first == 1);
    CHECK(who.runs == 2);
    loop.close(slot);
}

TEST_CASE("a connection costs the kernel one epoll_ctl, and its steady state none and no allocation") {
    still_loop loop;
    auto ends = tcp_pair();
    actor who{.act = [](fd_slot& slot) {
        drain(slot);
        CHECK(sys::send(slot.fd, "pong", 4, false) == 4);
    }};
    const auto ctl_before = loop.polls().ctl_count();
    fd_slot& slot = loop.add(ends.a.release(), who);
    const auto allocations_before = support::allocation_count();

    char room[4];
    for (int i = 0; i < 100; i++) {
        sys::send(ends.b.get(), "ping", 4, false);
        for (int turns = 0; turns < 1000 && who.runs == i; turns++)
            loop.turn();
        CHECK(support::wait_for(ends.b.get(), POLLIN));
        CHECK(sys::recv(ends.b.get(), room, sizeof room) == 4);
    }

    const auto allocations = support::allocation_count() - allocations_before;
    CHECK(who.runs == 100);
    CHECK(allocations == 0);
    CHECK(loop.polls().ctl_count() == ctl_before + 1);
    loop.close(slot);
    CHECK(loop.polls().ctl_count() == ctl_before + 1);
}

// Scenarios 5 and 7.
TEST_CASE("a reset is seen though nothing is wanted") {
    still_loop loop;
    auto ends = tcp_pair();
    actor who{.act = met_eagain};
    fd_slot& slot = loop.add(ends.a.release(), who);
    fdtab::stop_recv(slot);

    reset(ends.b);
    REQUIRE(support::wait_for(slot.fd, POLLIN));
    loop.turn();
    loop.turn();

    CHECK(who.runs == 1);
    CHECK(slot.is(fd_state::err));
    CHECK(slot.is(fd_state::hup));
    loop.close(slot);
}

// Scenario 6.
TEST_CASE("a half-closed peer is seen though nothing is wanted, with RDHUP alone") {
    for (auto make : {stream_pair, tcp_pair}) {
        still_loop loop;
        auto ends = make(support::blocking::no);
        actor who{.act = met_eagain};
        fd_slot& slot = loop.add(ends.a.release(), who);
        fdtab::stop_recv(slot);

        support::shut_write(ends.b.get());
        REQUIRE(support::wait_for(slot.fd, POLLIN));
        loop.turn();
        loop.turn();

        CHECK(who.runs == 1);
        CHECK(slot.is(fd_state::rdhup));
        CHECK_FALSE(slot.is(fd_state::hup | fd_state::err));
        loop.close(slot);
    }
}

// Scenario 9.
TEST_CASE("a send that met EAGAIN hears of the peer's FIN, and later of the room") {
    still_loop loop;
    auto ends = stream_pair();
    support::shrink_buffers(ends.a.get());
    for (int i = 0; i < 10'000 && sys::send(ends.a.get(), "0123456789abcdef", 16, false) > 0; i++) {
    }
    REQUIRE_FALSE(support::ready(ends.a.get(), POLLOUT));
    std::vector<fd_state> seen;
    actor who{.act = [&](fd_slot& slot) {
        seen.push_back(slot.state);
        met_eagain(slot);
    }};
    fd_slot& slot = loop.add(ends.a.release(), who);
    loop.fds().want_send(slot);
    loop.turn(); // the handler meets EAGAIN
    CHECK(loop.cant_send(slot).ok());

    support::shut_write(ends.b.get());
    loop.turn();
    char room[4096];
    for (int i = 0; i < 10'000 && sys::recv(ends.b.get(), room, sizeof room) > 0; i++) {
    }
    loop.turn();

    REQUIRE(seen.size() == 3);
    CHECK(any(seen[1], fd_state::rdhup));
    CHECK_FALSE(any(seen[1], fd_state::send_ready));
    CHECK(any(seen[2], fd_state::send_ready));
}

// Scenario 10.
TEST_CASE("a send to a peer that is gone is EPIPE, without a signal and with SIGPIPE left as it was") {
    struct sigaction before, after;
    const struct sigaction deadly = [] {
        struct sigaction action {};
        action.sa_handler = SIG_DFL;
        return action;
    }();
    REQUIRE(sigaction(SIGPIPE, &deadly, &before) == 0);
    still_loop loop;
    auto ends = stream_pair();
    ends.b.close();
    const iovec part{.iov_base = const_cast<char*>("x"), .iov_len = 1};

    const auto sent = sys::send(ends.a.get(), "x", 1, false);
    const auto sent_parts = sys::send_parts(ends.a.get(), &part, 1, true);

    CHECK(sent == -EPIPE);
    CHECK(sent_parts == -EPIPE);
    REQUIRE(sigaction(SIGPIPE, &before, &after) == 0);
    CHECK((after.sa_handler == SIG_DFL));
}

// --- one batch, and what handlers do in it

// Scenarios 1 and 2: all three sockets have events before any handler runs.
TEST_CASE("a descriptor closed in its own batch does not run, and its number's new owner gets nothing stale") {
    still_loop loop;
    auto killer_ends = stream_pair(), victim_ends = stream_pair(), opener_ends = stream_pair();
    support::pair fresh_ends;
    const int victim_number = victim_ends.a.get();
    actor victim{}, fresh{};
    fd_slot* victim_slot = nullptr;
    actor killer{.act = [&](fd_slot& slot) {
        drain(slot);
        loop.close(*victim_slot);
    }};
    actor opener{.act = [&](fd_slot& slot) {
        drain(slot);
        fresh_ends = stream_pair();
        CHECK(fresh_ends.a.get() == victim_number);
        loop.add(fresh_ends.a.release(), fresh);
    }};
    fd_slot& killer_slot = loop.add(killer_ends.a.release(), killer);
    fd_slot& opener_slot = loop.add(opener_ends.a.release(), opener);
    victim_slot = &loop.add(victim_ends.a.release(), victim);
    for (auto* ends : {&killer_ends, &opener_ends, &victim_ends})
        send_all(ends->b.get(), "x");
    victim_ends.b.close();

    loop.turn();
    loop.turn();

    CHECK(killer.runs == 1);
    CHECK(opener.runs == 1);
    CHECK(victim.runs == 0);
    CHECK(fresh.runs == 0);
    CHECK(loop.fds().slot(victim_number).state == (fd_state::recv_active | fd_state::send_ready));
    send_all(fresh_ends.b.get(), "x");
    fresh.act = drain;
    loop.turn();
    CHECK(fresh.runs == 1);
    for (fd_slot* slot : {&killer_slot, &opener_slot, &loop.fds().slot(victim_number)})
        loop.close(*slot);
}

TEST_CASE("of two that close each other in one batch, one runs") {
    still_loop loop;
    auto first_ends = stream_pair(), second_ends = stream_pair();
    fd_slot* slots[2];
    actor actors[2];
    for (int me : {0, 1})
        actors[me].act = [&, me](fd_slot& slot) {
            drain(slot);
            loop.close(*slots[1 - me]);
        };
    slots[0] = &loop.add(first_ends.a.release(), actors[0]);
    slots[1] = &loop.add(second_ends.a.release(), actors[1]);
    send_all(first_ends.b.get(), "x");
    send_all(second_ends.b.get(), "x");

    loop.turn();
    loop.turn();

    CHECK(actors[0].runs + actors[1].runs == 1);
    loop.close(*slots[actors[0].runs ? 0 : 1]);
}

TEST_CASE("a handler may close itself") {
    still_loop loop;
    auto ends = stream_pair();
    actor who{.act = [&](fd_slot& slot) { loop.close(slot); }};
    loop.add(ends.a.release(), who);

    send_all(ends.b.get(), "x");
    loop.turn();
    loop.turn();

    CHECK(who.runs == 1);
    CHECK(support::ended(ends.b.get()));
    CHECK(loop.fds().used_count() == 1); // the mailbox's
}

TEST_CASE("idle slots run before the others of the same batch") {
    still_loop loop;
    auto first_ends = stream_pair(), idle_ends = stream_pair();
    std::vector<int> order;
    actor who{.act = [&](fd_slot& slot) {
        order.push_back(slot.fd);
        drain(slot);
    }};
    fd_slot& first = loop.add(first_ends.a.release(), who);
    fd_slot& idle = loop.add(idle_ends.a.release(), who);
    idle.state |= fd_state::idle;

    send_all(first_ends.b.get(), "x");
    send_all(idle_ends.b.get(), "x");
    loop.turn();

    CHECK(order == std::vector{idle.fd, first.fd});
    loop.close(first);
    loop.close(idle);
}

// --- descriptors

// Scenario 22, through the loop.
TEST_CASE("closing what is marked shared tells epoll, closing what is not does not") {
    for (bool shared : {false, true}) {
        CAPTURE(shared);
        still_loop loop;
        auto ends = stream_pair();
        const descriptor copy(dup(ends.a.get()));
        actor who;
        fd_slot& slot = loop.add(ends.a.release(), who);
        if (shared) slot.state |= fd_state::shared;
        const auto ctl_before = loop.polls().ctl_count();

        loop.close(slot);
        send_all(ends.b.get(), "x");
        loop.turn();

        CHECK(loop.polls().ctl_count() - ctl_before == (shared ? 1 : 0));
        CHECK(loop.polls().event_count() == (shared ? 0 : 1));
        CHECK(loop.fds().stale_count() == (shared ? 0 : 1));
        CHECK(who.runs == 0);
    }
}

// Scenario 24.
TEST_CASE("a descriptor beyond the table is refused and stays the caller's") {
    still_loop loop({.fd_max = 64});
    const auto ends = stream_pair();
    const descriptor high(fcntl(ends.a.get(), F_DUPFD_CLOEXEC, 64));
    REQUIRE(high.get() >= 64);
    actor who;
    const auto ctl_before = loop.polls().ctl_count();

    const auto slot = loop.watch(high.get(), interest::recv, actor::run, &who);

    CHECK(slot.error() == EMFILE);
    CHECK(fcntl(high.get(), F_GETFD) >= 0);
    CHECK(loop.polls().ctl_count() == ctl_before);
    CHECK(loop.fds().used_count() == 1);
}

TEST_CASE("a descriptor that epoll refuses is not watched, and stays the caller's") {
    still_loop loop;
    descriptor file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    actor who;

    const auto slot = loop.watch(file.get(), interest::recv, actor::run, &who);
    const auto used_after = loop.fds().used_count();

    CHECK(slot.error() == EPERM);
    CHECK(used_after == 1);
    CHECK(fcntl(file.get(), F_GETFD) >= 0);
}

// Scenario 16.
TEST_CASE("a loop that cannot have its descriptors says EMFILE and leaves nothing behind") {
    for (rlim_t more : {0u, 1u}) { // none for epoll, none for the eventfd
        CAPTURE(more);
        event_loop loop;

        int error = 0;
        {
            const descriptors_left few(more);
            error = loop.open().error();
        }

        CHECK(error == EMFILE);
    }
}

TEST_CASE("a loop fits into two descriptors") {
    event_loop loop;
    const descriptors_left two(2);

    CHECK(loop.open().ok());
}

TEST_CASE("a loop whose table has no room for its own eventfd says EMFILE") {
    event_loop loop;

    CHECK(loop.open({.fd_max = 1}).error() == EMFILE);
}

TEST_CASE("a signal that cannot have its descriptor is refused, and the loop goes on with what it had") {
    const kept_mask mask;
    still_loop loop;
    int heard = 0;
    const auto hear = [](void* owner, int) noexcept { ++*static_cast<int*>(owner); };
    REQUIRE(loop.on_signal(SIGUSR1, hear, &heard).ok());

    int error = 0;
    {
        const descriptors_left none(0);
        error = loop.on_signal(SIGUSR2, hear, &heard).error();
    }
    kill(getpid(), SIGUSR1);
    loop.turn();

    CHECK(error == EMFILE);
    CHECK(heard == 1);
}

// --- sleeping

TEST_CASE("a turn is one epoll_wait, and a loop with nothing to do sleeps through") {
    real_loop loop;
    alarm_clock end{[&](time_point) { loop.stop(); }};
    loop.arm_in(end, 20ms);

    loop.run();

    CHECK(end.fires == 1);
    CHECK(loop.turn_count() <= 4); // asleep, fires; the letter that stops it; a rounding
    CHECK(loop.polls().wait_count() == loop.turn_count());
}

TEST_CASE("a loop does not spin on what nobody wants, nor on what is over") {
    real_loop loop;
    auto unread = stream_pair(), ended = stream_pair(), aborted = tcp_pair();
    actor stops{.act = [](fd_slot& slot) { fdtab::stop_recv(slot); }};
    actor takes_note{.act = met_eagain};
    fd_slot* slots[3];
    int at = 0;
    for (auto [ends, who] : {std::pair{&unread, &stops}, {&ended, &takes_note}, {&aborted, &takes_note}}) {
        auto slot = loop.watch(ends->a.release(), interest::recv, actor::run, who);
        REQUIRE(slot.ok());
        loop.fds().want_recv(*slot.value());
        loop.fds().want_send(*slot.value());
        REQUIRE(loop.cant_send(*slot.value()).ok());
        slots[at++] = slot.value();
    }
    fdtab::stop_send(*slots[0]);
    send_all(unread.b.get(), "unread");
    send_all(ended.b.get(), "unread");
    ended.b.close();
    reset(aborted.b);
    alarm_clock end{[&](time_point) { loop.stop(); }};
    loop.arm_in(end, 20ms);

    loop.run();

    CHECK(stops.runs == 1);
    CHECK(takes_note.runs >= 2);
    CHECK(loop.turn_count() <= 8);
    for (fd_slot* slot : slots)
        loop.close(*slot);
}

TEST_CASE("a loop that was woken by a letter sleeps again") {
    real_loop loop;
    alarm_clock end{[&](time_point) { loop.stop(); }};
    loop.arm_in(end, 20ms);
    letter mail([](letter&) noexcept {});

    // Rings although nobody sleeps yet, so that the test need not find the right moment.
    REQUIRE(sys::eventfd_ring(loop.letters().fd()) > 0);
    loop.post(mail);
    loop.run();

    CHECK(end.fires == 1);
    CHECK(loop.turn_count() <= 6);
}

TEST_CASE("a loop with more to do does not sleep over it") {
    real_loop loop;
    auto ends = stream_pair();
    actor who{.act = [](fd_slot&) {}}; // leaves its slot runnable
    auto slot = loop.watch(ends.a.release(), interest::recv, actor::run, &who);
    REQUIRE(slot.ok());
    loop.fds().want_send(*slot.value());
    const auto before = sys::now();

    loop.turn(10s);
    loop.turn(10s);

    CHECK(who.runs == 2);
    CHECK(sys::now() - before < 5s);
    loop.close(*slot.value());
}

TEST_CASE("a turn sleeps no longer than it was told") {
    real_loop loop;
    const auto before = sys::now();

    loop.turn(2ms);

    const auto slept = sys::now() - before;
    CHECK(slept >= 2ms);
    CHECK(slept < 1s);
    CHECK(loop.turn_count() == 1);
}

TEST_CASE("a turn of length zero or less does not sleep") {
    real_loop loop;
    alarm_clock later;
    loop.arm_in(later, 1h);
    const auto before = sys::now();

    CHECK(loop.turn(0ms) == 0);
    CHECK(loop.turn(-1s) == 0);

    CHECK(sys::now() - before < 1s);
    later.cancel();
}

TEST_CASE("a timer armed in a time beyond all telling waits for ever") {
    still_loop loop;
    alarm_clock later, soon;
    for (const duration beyond : {duration::max(), never - loop.now(), never - loop.now() - 1ns}) {
        loop.arm_in(later, beyond);
        loop.arm_in(soon, 10ms);

        loop.clock.advance(24h);
        loop.turn();

        CHECK(soon.fires == 1);
        CHECK(later.fires == 0);
        CHECK(later.armed());
        soon.fires = 0;
    }
    later.cancel();
}

TEST_CASE("a timer never fires early by the real clock, though the loop sleeps in milliseconds") {
    real_loop loop;
    for (auto delay : {1ns, 300'000ns, 999'999ns, 1'000'001ns, 2'500'000ns}) {
        CAPTURE(delay.count());
        time_point fired_at{};
        alarm_clock bell{[&](time_point) { fired_at = sys::now(); }};
        const time_point deadline = sys::now() + delay;
        loop.arm(bell, deadline);

        for (int turns = 0; turns < 100 && bell.fires == 0; turns++)
            loop.turn(1s);

        CHECK(bell.fires == 1);
        CHECK(fired_at >= deadline);
    }
}

TEST_CASE("an event wakes a sleeping loop") {
    real_loop loop;
    auto ends = stream_pair();
    actor who{.act = drain};
    auto slot = loop.watch(ends.a.release(), interest::recv, actor::run, &who);
    REQUIRE(slot.ok());
    loop.fds().want_recv(*slot.value());
    const int peer = ends.b.get();

    std::thread sender([peer] { sys::send(peer, "x", 1, false); });
    loop.turn(5s);
    sender.join();

    CHECK(who.runs == 1);
    loop.close(*slot.value());
}

TEST_CASE("the time of a turn is taken after the sleep") {
    real_loop loop;
    loop.turn(0ms);
    const time_point before = loop.now();

    loop.turn(2ms);

    CHECK(loop.now() - before >= 2ms);
}

TEST_CASE("a loop on a fake clock does not sleep, and its time is the clock's") {
    still_loop loop;
    const auto before = sys::now();

    loop.event_loop::turn(1h);
    loop.clock.advance(5s);
    loop.event_loop::turn(1h);

    CHECK(loop.now() == loop.clock.at);
    CHECK(sys::now() - before < 5s);
}

// --- stopping

TEST_CASE("stop before run makes run return after one turn, and run may be called again") {
    real_loop loop;

    loop.stop();
    loop.run();
    const auto turns = loop.turn_count();
    loop.stop();
    loop.run();

    CHECK(turns == 1);
    CHECK(loop.turn_count() == 2);
}

TEST_CASE("stop from another thread wakes the loop") {
    real_loop loop;

    std::thread other([&] { loop.stop(); });
    loop.run();
    other.join();

    CHECK(loop.turn_count() <= 3);
}

TEST_CASE("stop during start is not lost") {
    for (int i = 0; i < 200; i++) {
        real_loop loop;
        std::atomic<bool> go{false};
        std::thread other([&] {
            while (!go.load()) {
            }
            loop.stop();
        });

        go = true;
        loop.run();
        other.join();

        CHECK(loop.turn_count() >= 1);
    }
}

TEST_CASE("a stop that comes while another is under way, or too late to be seen, does no harm") {
    real_loop loop;
    static int delivered;
    delivered = 0;
    letter before([](letter&) noexcept { delivered++; });
    letter between([](letter&) noexcept { delivered++; });

    loop.post(before);
    loop.stop();
    loop.post(between);
    loop.stop();
    loop.run();
    loop.stop();

    CHECK(loop.turn_count() == 1);
    CHECK(delivered == 2);
}

TEST_CASE("stop inside a handler finishes the turn") {
    real_loop loop;
    auto first_ends = stream_pair(), second_ends = stream_pair();
    actor who{.act = [&](fd_slot& slot) {
        drain(slot);
        loop.stop();
    }};
    fd_slot* slots[2];
    for (int i : {0, 1}) {
        auto slot = loop.watch((i ? second_ends : first_ends).a.release(), interest::recv, actor::run, &who);
        REQUIRE(slot.ok());
        loop.fds().want_recv(*slot.value());
        slots[i] = slot.value();
    }
    send_all(first_ends.b.get(), "x");
    send_all(second_ends.b.get(), "x");

    loop.run();

    CHECK(who.runs == 2);
    CHECK(loop.turn_count() == 1);
    for (fd_slot* slot : slots)
        loop.close(*slot);
}

// --- order and bounds of a turn

TEST_CASE("a turn runs slots, then timers, then letters, then frees") {
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

    CHECK(order == std::vector{'s', 't', 'l', 'f'});
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
TEST_CASE("timers wait while batches are full, for at most 16 turns") {
    still_loop loop({.events_max = 1});
    auto ends = stream_pair();
    actor who{.act = [&](fd_slot& slot) {
        drain(slot);
        send_all(ends.b.get(), "x"); // the next batch is full again
    }};
    fd_slot& slot = loop.add(ends.a.release(), who);
    alarm_clock bell;
    loop.arm_in(bell, 1s);
    send_all(ends.b.get(), "x");
    loop.clock.advance(10s);

    int fired_at = 0;
    for (int turn = 1; turn <= 40 && fired_at == 0; turn++) {
        loop.turn();
        if (bell.fires > 0) fired_at = turn;
    }

    CHECK(fired_at == 17);
    CHECK(who.runs == 17);
    loop.close(slot);
}

TEST_CASE("bytes that wait in the kernel after a stall are looked at before an idle timer fires") {
    still_loop loop({.events_max = 2});
    constexpr int connections = 9;
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
    for (int turn = 0; turn < 10; turn++)
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

// --- signals

struct heard_signals {
    std::vector<int> heard;
    event_loop* stops = nullptr;

    static void hear(void* owner, int signal) noexcept {
        auto& self = *static_cast<heard_signals*>(owner);
        self.heard.push_back(signal);
        if (self.stops) self.stops->stop();
    }
};

TEST_CASE("a signal calls its handler in a turn, not before") {
    const kept_mask mask;
    still_loop loop;
    heard_signals ears;
    REQUIRE(loop.on_signal(SIGUSR1, heard_signals::hear, &ears).ok());

    kill(getpid(), SIGUSR1);
    const bool before = ears.heard.empty();
    loop.turn();
    loop.turn();

    CHECK(before);
    CHECK(ears.heard == std::vector{SIGUSR1});
}

TEST_CASE("each signal has its handler, and those that came first are not lost when another is added") {
    const kept_mask mask;
    still_loop loop;
    heard_signals first, second;
    REQUIRE(loop.on_signal(SIGUSR1, heard_signals::hear, &first).ok());
    kill(getpid(), SIGUSR1);
    REQUIRE(loop.on_signal(SIGUSR2, heard_signals::hear, &second).ok());
    kill(getpid(), SIGUSR2);

    for (int turn = 0; turn < 3; turn++)
        loop.turn();

    CHECK(first.heard == std::vector{SIGUSR1});
    CHECK(second.heard == std::vector{SIGUSR2});
    CHECK(loop.fds().used_count() == 2);
}

TEST_CASE("a signal's handler may stop the loop, and add another signal") {
    const kept_mask mask;
    real_loop loop;
    struct adder {
        heard_signals ears;
        event_loop* loop;
    } who;
    who.loop = &loop;
    const auto add_another = [](void* owner, int) noexcept {
        auto& self = *static_cast<adder*>(owner);
        CHECK(self.loop->on_signal(SIGUSR2, heard_signals::hear, &self.ears).ok());
        kill(getpid(), SIGUSR2);
    };
    who.ears.stops = &loop;
    REQUIRE(loop.on_signal(SIGUSR1, add_another, &who).ok());

    kill(getpid(), SIGUSR1);
    loop.run();

    CHECK(who.ears.heard == std::vector{SIGUSR2});
}

// Adding a signal replaces the signalfd under the handler that runs: what takes the number must not be read as one.
TEST_CASE("a socket that takes the signalfd's number in a signal's handler keeps its bytes") {
    const kept_mask mask;
    still_loop loop;
    struct everything {
        still_loop* loop;
        support::pair ends;
        actor who;
        heard_signals ears;
    } all{.loop = &loop, .ends = {}, .who = {}, .ears = {}};
    const auto add_and_open = [](void* owner, int) noexcept {
        auto& self = *static_cast<everything*>(owner);
        CHECK(self.loop->on_signal(SIGUSR2, heard_signals::hear, &self.ears).ok());
        self.ends = stream_pair();
        send_all(self.ends.b.get(), std::string(200, 'x')); // more than a signalfd_siginfo
        self.loop->fds().may_recv(self.loop->add(self.ends.a.release(), self.who));
    };
    int number = -1;
    {
        const auto probe = stream_pair();
        number = probe.a.get(); // the lowest that is free: the signalfd's
    }
    REQUIRE(loop.on_signal(SIGUSR1, add_and_open, &all).ok());

    kill(getpid(), SIGUSR1);
    loop.turn();
    const auto in_the_socket = support::recv_exactly(number, 200).size();

    CHECK((loop.fds().slot(number).handler == actor::run));
    CHECK(in_the_socket == 200);
    CHECK(loop.fds().slot(number).is(fd_state::recv_ready));
}

TEST_CASE("a signal wakes a sleeping loop") {
    const kept_mask mask;
    real_loop loop;
    heard_signals ears;
    REQUIRE(loop.on_signal(SIGUSR1, heard_signals::hear, &ears).ok());

    std::thread other([] { kill(getpid(), SIGUSR1); });
    for (int turn = 0; turn < 3 && ears.heard.empty(); turn++)
        loop.turn(5s);
    other.join();

    CHECK(ears.heard.size() == 1);
    CHECK(loop.turn_count() <= 2);
}

TEST_CASE("a signal number that does not exist is a mistake") {
    still_loop loop;

    CHECK(dies([&] { static_cast<void>(loop.on_signal(0, heard_signals::hear, nullptr)); }, "signal > 0"));
    CHECK(dies([&] { static_cast<void>(loop.on_signal(65, heard_signals::hear, nullptr)); }, "signal <= signal_max"));
    CHECK(dies([&] { static_cast<void>(loop.on_signal(SIGUSR1, nullptr, nullptr)); }, "handler != nullptr"));
}

// --- processes

// Scenario 21.
TEST_CASE("a forked child that takes a turn with its parent's loop is stopped") {
    still_loop loop;

    CHECK(dies([&] { loop.turn(); }, "born_here_"));

    loop.turn(); // the parent goes on
}

TEST_CASE("a forked child may make a loop of its own") {
    still_loop parents;

    const pid_t child = fork();
    if (child == 0) {
        event_loop loop;
        const bool fine = loop.open().ok() && loop.turn(0ms) == 0;
        _exit(fine ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);

    CHECK(status == 0);
}

// Scenario 23.
TEST_CASE("a loop works with descriptors 0, 1 and 2") {
    const pid_t child = fork();
    if (child == 0) {
        for (int fd : {0, 1, 2})
            ::close(fd);
        int runs = 0;
        const auto count = [](fd_slot& slot) noexcept {
            ++*static_cast<int*>(slot.owner);
            met_eagain(slot);
        };
        int ends[2];
        int why = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0 && ends[0] == 0 ? 0 : 1;
        event_loop loop;
        if (!loop.open().ok()) why |= 2; // epoll is 2 now
        auto slot = loop.watch(0, interest::recv, count, &runs);
        if (!slot.ok()) _exit(why | 4);
        loop.fds().want_recv(*slot.value());
        if (sys::send(ends[1], "x", 1, false) != 1) why |= 8;
        loop.turn(5s);
        loop.stop();
        loop.run();
        if (runs != 1) why |= 16;
        loop.close(*slot.value());
        if (fcntl(0, F_GETFD) >= 0) why |= 32;
        _exit(why);
    }
    int status = -1;
    waitpid(child, &status, 0);

    CHECK(status == 0);
}

TEST_CASE("a loop that was not opened cannot take a turn, and one cannot be opened twice") {
    event_loop loop;
    still_loop opened;

    CHECK(dies([&] { loop.turn(0ms); }, "clock_ != nullptr"));
    CHECK(dies([&] { static_cast<void>(opened.open()); }, "clock_ == nullptr"));
}

TEST_CASE("a turn within a turn is a broken contract") {
    CHECK(dies(
        [] { // a loop of the child's own: a parent's must not be turned there
            still_loop loop;
            alarm_clock impatient{[&](time_point) { loop.turn(); }};
            loop.arm(impatient, loop.now());
            loop.clock.advance(2ms);
            loop.turn();
        },
        "!turning_"));
}

} // namespace
