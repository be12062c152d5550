#include "sim/takeover_scene.hpp"

#include <cstring>

#include "core/tables.hpp"
#include "proto/tcp.hpp"
#include "proto/unix.hpp"

namespace simtest {

// ---- clients

namespace {

constexpr char word[] = "sixteen letters.";
constexpr std::size_t word_bytes = sizeof word - 1;

} // namespace

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

} // namespace simtest
