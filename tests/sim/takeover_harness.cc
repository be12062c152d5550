// takeover_harness: proxies that take over from each other, in one simulated kernel, while clients come all the time.
//
// A process is a loop with what stands on it. Killed it is by its destructors: its loop is turned no more, and all of its
// descriptors are closed between two calls of the others. Every client is known by its address, so it is known who
// accepted it: in runs without faults that harm a client by themselves, only what a killed process held may be lost.

#include "core/takeover.hpp"

#include <array>
#include <cstring>

#include "core/tables.hpp"
#include "proto/tcp.hpp"
#include "proto/unix.hpp"
#include "sim/world.hpp"

namespace simtest {

namespace {

const endpoint door = endpoint::ipv4(0x0a000001, 8080);
const endpoint path = endpoint::unix_path("/run/weir.takeover").value();
constexpr std::uint32_t main_door = 1;
constexpr duration giver_patience = milliseconds{800}, taker_patience = milliseconds{900};

struct scene;

// One that connects, says a word, hears it and leaves.
struct customer {
    scene* home;
    endpoint from;
    remote* end = nullptr;
    std::size_t said = 0, heard = 0;
    bool over = false, served = false;
    int accepted_by = -1; // number of a process
    void run(remote& r) noexcept;
    void leave(remote& r, bool was_served) noexcept;
    static const remote_cb table;
};

struct process {
    process(scene& s, int n) : home(s), number(n), conns(loop), port(conns), giver(loop), taker(loop) {}
    process(const process&) = delete;
    process& operator=(const process&) = delete;
    ~process() {
        port.close(); // before the connections, which it might still accept
        while (connection* conn = conns.first())
            conn->close(close_intent::after_fin, end_cause::shutdown);
        for (buffer& b : buffers)
            if (!b.empty()) b.clear(conns.blocks());
    }

    bool open();       // the loop and what needs no socket
    void open_fresh(); // as the first of its line; faults are silent
    void turn(duration sleep_max);
    void serve(unique_fd fd);
    void give_on();
    bool is_serving() const { return port.is_open(); }

    static void accepted(void* self, connection& conn, const endpoint& peer) noexcept;
    static void on_taken(void* self) noexcept;
    static void on_failed(void* self, takeover_failure why, int error) noexcept;
    static void on_received(void* self, std::span<taken_fd> fds) noexcept;
    static void on_over(void* self, takeover_end how, int error) noexcept;
    static constexpr takeover_giver::callbacks giver_told{.taken = on_taken, .failed = on_failed};
    static constexpr takeover_taker::callbacks taker_told{.received = on_received, .over = on_over};

    scene& home;
    const int number;
    event_loop loop;
    conntab conns;
    listener port;
    takeover_giver giver;
    takeover_taker taker;
    std::optional<loop_check> check;
    std::array<buffer, 256> buffers; // by descriptor
    unique_fd takeover_socket;
    bool has_given = false;
    std::optional<takeover_end> end;
    bool gives_up = false; // it could not serve what it received
    duration needs{};      // from everything received until it is ready
    time_point ready_at = never;
    time_point stopped_until{}; // not turned before
};

struct scene {
    explicit scene(world& world_of_it) : w(world_of_it), k(world_of_it.k) {}

    process* start_one();
    void run();
    void attempt();
    void settle(process& next);
    void start_fresh();
    void kill(std::unique_ptr<process>& who);
    void let_drain(std::unique_ptr<process>& who);
    void let_go(const process& who);
    void turn_all(duration sleep_max);
    void turn_until(time_point end);
    void come();
    void send_stranger();
    void check_descriptors();
    void lost(const customer& c) noexcept;
    customer* at(const endpoint& from) noexcept;

    world& w;
    kernel& k;
    bool harms_nobody = false; // no fault harms a client by itself
    std::vector<std::unique_ptr<customer>> customers;
    std::unique_ptr<process> now, next, drains;
    std::vector<bool> is_killed; // by number
    bool queue_was_lost = false; // the last holder of the sockets died, and whoever waited in their queues with it
    time_point come_until{};
};

// ---- clients

constexpr char word[] = "sixteen letters.";
constexpr std::size_t word_bytes = sizeof word - 1;

const remote_cb customer::table{.name = "customer",
                                .run = [](remote& r) noexcept { static_cast<customer*>(r.owner)->run(r); }};

void customer::leave(remote& r, bool was_served) noexcept {
    over = true;
    served = was_served;
    end = nullptr;
    const bool waited_too_long = r.error() == ETIMEDOUT; // before a full queue: nobody has refused it
    r.close();
    if (!served && !waited_too_long) home->lost(*this);
}

void customer::run(remote& r) noexcept {
    if (r.connecting()) return;
    if (r.failed()) return leave(r, false);
    if (said < word_bytes) {
        const sys::count n = r.send({word + said, word_bytes - said});
        if (n < 0 && n != -EAGAIN) return leave(r, false);
        if (n > 0) said += static_cast<std::size_t>(n);
    }
    char bytes[word_bytes];
    while (heard < word_bytes) {
        const sys::count n = r.recv({bytes, word_bytes - heard});
        if (n == -EAGAIN) return;
        if (n <= 0) return leave(r, false);
        const auto got = static_cast<std::size_t>(n);
        if (std::memcmp(bytes, word + heard, got) != 0) home->k.violate("I6", "a client heard what it did not say");
        heard += got;
    }
    leave(r, true);
}

void scene::come() {
    customers.push_back(std::make_unique<customer>());
    customer& c = *customers.back();
    c.home = this;
    c.from = endpoint::ipv4(0x0a00ff01, static_cast<std::uint16_t>(1000 + customers.size()));
    c.end = &k.net.dial(c.from, door, customer::table, &c);
}

customer* scene::at(const endpoint& from) noexcept {
    const std::size_t i = std::size_t{from.port()} - 1001;
    return i < customers.size() ? customers[i].get() : nullptr;
}

// May it be?
void scene::lost(const customer& c) noexcept {
    if (!harms_nobody) return;
    const bool its_server_died = c.accepted_by >= 0 && is_killed[static_cast<std::size_t>(c.accepted_by)];
    if (!its_server_died && !queue_was_lost) k.violate("T1", "a client was refused or reset because of a takeover");
}

// Of another user, it comes to the takeover socket.
void scene::send_stranger() {
    static constexpr remote_cb stranger{.name = "stranger", .run = [](remote& r) noexcept {
                                            char bytes[64];
                                            if (r.connecting()) return;
                                            const sys::count n = r.recv(bytes);
                                            if (n > 6)
                                                kernel::current().violate("T3", "a stranger was given something");
                                            if (n > 0 || n == -EAGAIN) return;
                                            r.close();
                                        }};
    k.net.user = 1001;
    k.net.dial(endpoint::unix_path("@stranger").value(), path, stranger, nullptr);
    k.net.user = 1000;
}

// ---- a process

bool process::open() {
    if (!loop.open({.events_max = 16})) return false;
    if (!conns.open({.connections_max = 32})) return false;
    check.emplace(loop);
    return true;
}

void process::open_fresh() {
    if (!open() || !port.open(tcp, door, {.socket = {.backlog_count = 200}}, accepted, this) ||
        !giver.open(unix_stream, path, {.timeout = giver_patience}, giver_told, this) ||
        !giver.offer({main_door, 0}, port))
        home.k.violate("I10", "a fresh start fails, though nothing is wrong");
}

void process::turn(duration sleep_max) {
    // Each check registers itself, and takes that back; here the one whose loop sleeps is meant.
    home.k.on_sleep([](void* at) noexcept { static_cast<loop_check*>(at)->asleep(); }, &*check);
    if (home.k.time.now >= ready_at) {
        ready_at = never;
        if (taker.is_open()) taker.ready();
    }
    const no_allocations none;
    loop.turn(sleep_max);
}

void process::accepted(void* self, connection& conn, const endpoint& peer) noexcept {
    process& p = *static_cast<process*>(self);
    if (customer* c = p.home.at(peer)) c->accepted_by = p.number;
    conn.attach(echo_cb, &p.buffers[static_cast<std::size_t>(conn.fd())]);
    conn.want_recv();
}

void process::serve(unique_fd fd) {
    const listener_options how{.accept_budget = home.k.chance.between(1, 8)};
    gives_up = !port.adopt(std::move(fd), tcp, how, accepted, this);
}

// Its own giver, on the socket that it was given.
void process::give_on() {
    if (!giver.adopt(std::move(takeover_socket), {.timeout = giver_patience}, giver_told, this)) {
        // The socket is gone with it: a new one in the place of the path that nobody listens at any more.
        home.k.faults.pause();
        const bool opened = giver.open(unix_stream, path, {.timeout = giver_patience}, giver_told, this).ok();
        home.k.faults.resume();
        if (!opened) home.k.violate("I10", "no takeover socket, though nothing is wrong");
    }
    if (giver.offers_count() == 0 && !giver.offer({main_door, 0}, port))
        home.k.violate("I10", "a listener cannot be offered");
}

void process::on_taken(void* self) noexcept {
    process& p = *static_cast<process*>(self);
    p.has_given = true;
    p.port.close();
}

void process::on_failed(void* self, takeover_failure why, int) noexcept {
    process& p = *static_cast<process*>(self);
    if (!p.giver.is_open() || !p.port.is_open()) p.home.k.violate("T2", "a takeover that failed has ended the old one");
    if (why == takeover_failure::untrusted) saw(mark::takeover_untrusted);
    if (why == takeover_failure::too_late) saw(mark::takeover_too_late);
}

void process::on_received(void* self, std::span<taken_fd> fds) noexcept {
    process& p = *static_cast<process*>(self);
    if (fds.size() != 2 || fds[1].tag != takeover_tag{main_door, 0})
        p.home.k.violate("T3", "what was received is not what was offered");
    p.takeover_socket = std::move(fds[0].fd);
    p.serve(std::move(fds[1].fd));
    if (p.gives_up) return p.taker.close();
    if (p.needs == duration{}) p.taker.ready();
    else p.ready_at = p.home.k.time.now + p.needs;
}

void process::on_over(void* self, takeover_end how, int) noexcept {
    process& p = *static_cast<process*>(self);
    p.end = how;
    switch (how) {
    case takeover_end::taken: return saw(mark::takeover_taken);
    case takeover_end::taken_alone: return saw(mark::takeover_taken_alone);
    case takeover_end::refused: return saw(mark::takeover_refused);
    case takeover_end::died: return saw(mark::takeover_died);
    case takeover_end::timed_out: return saw(mark::takeover_timed_out);
    case takeover_end::system: return saw(mark::takeover_system);
    case takeover_end::mismatch: return p.home.k.violate("T3", "a giver of this version was not understood");
    }
}

// ---- what happens

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
    std::int32_t turns_left = 20'000; // not a time: the clock may jump
    for (; now && next && !next->end && !next->gives_up && turns_left-- > 0; when -= when > 0) {
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
    while (next && !next->end && !next->gives_up && turns_left-- > 0)
        turn_all(milliseconds{1});
    if (next && !next->end && !next->gives_up) k.violate("I8", "a takeover has no end");
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
    for (int i = 0; i < 3; i++)
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
