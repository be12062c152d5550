// leak_proxy: doors, lending, and the processes.

#include "tools/leak_proxy.hpp"

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "core/idle.hpp"
#include "core/listener.hpp"
#include "core/relay.hpp"
#include "proto/tcp.hpp"
#include "tools/child.hpp"
#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

constexpr duration idle_age = milliseconds{10};
constexpr duration drain_every = milliseconds{3};

struct proxy;

// One byte of a client, carried to an upstream and back.
struct lending {
    proxy& home;
    connection* client;
    connection* server = nullptr;
    char byte = 0;
};

struct door {
    proxy* home = nullptr;
    leak_door what{};
    std::unique_ptr<listener> port{};
};

struct proxy {
    explicit proxy(const leak_proxy_options& o) : options(o) {
        if (auto r = loop.open({.ledger_max = o.ledger}); !r) fail("no event loop: %s", std::strerror(r.error()));
        if (!conns.open({.connections_max = o.connections_max})) fail("no memory for the proxy under test");
        pools = std::make_unique<parts>(*this);
        for (std::size_t i = 0; i < leak_doors; i++)
            doors[i] = {.home = this, .what = static_cast<leak_door>(i), .port = std::make_unique<listener>(conns)};
    }

    struct parts {
        explicit parts(proxy& p)
            : relays(p.conns, {.pairs_max = p.options.connections_max}),
              holes(p.conns, {.pairs_max = p.options.connections_max, .connect_timeout = p.options.hole_timeout}),
              idle(p.conns, {.idle_max = p.options.connections_max, .age_max = idle_age}),
              lendings(p.options.connections_max) {}
        relay_pool relays, holes;
        idle_pool idle;
        fixed_pool<lending> lendings;
    };

    const endpoint& next_upstream() noexcept { return options.upstreams[dialed_count++ % options.upstreams.size()]; }
    void plant() noexcept;

    const leak_proxy_options options;
    event_loop loop;
    conntab conns{loop};
    std::unique_ptr<parts> pools;
    std::array<door, leak_doors> doors;
    std::size_t dialed_count = 0;
    std::uint32_t relayed_count = 0, admitted_count = 0;
    bool draining = false;
    timer drain_timer;
    time_point told_at{}; // what was open before has been told
};

// --- gate

verdict gate_over(connection& conn) noexcept {
    proxy& p = conn.owner_as<proxy>();
    p.admitted_count--;
    return conn.close(close_intent::silent, conn.failure());
}
verdict gate_recv(connection& conn) noexcept {
    char byte;
    return conn.recv(&byte, 1).end == io::again ? verdict::keep : gate_over(conn);
}
verdict gate_wake(connection& conn) noexcept { return conn.is_broken() ? gate_over(conn) : verdict::keep; }
constinit const data_cb gate_cb{.name = "gate", .recv = gate_recv, .send = keep_on, .wake = gate_wake};

void enter_gate(proxy& p, connection& client) noexcept {
    if (p.admitted_count == gate_max) {
        client.close(close_intent::abort, end_cause::no_room);
        return;
    }
    p.admitted_count++;
    client.attach(gate_cb, &p);
    client.want_recv();
    client.send("k");
}

// --- lend

// While it drains the door is closed, what runs is finished, and what is idle goes at once.
void end_drain_if_done(proxy& p) noexcept {
    if (!p.draining) return;
    p.pools->idle.flush();
    if (p.pools->lendings.used() > 0) return;
    p.draining = false;
    p.doors[static_cast<std::size_t>(leak_door::lend)].port->resume();
}
void begin_drain(timer& t, time_point) noexcept {
    proxy& p = container_of<&proxy::drain_timer>(t);
    p.draining = true;
    p.doors[static_cast<std::size_t>(leak_door::lend)].port->pause();
    end_drain_if_done(p); // nothing may be under way
}

verdict give_up(lending& l, end_cause cause) noexcept {
    proxy& p = l.home;
    connection *client = l.client, *server = l.server;
    p.pools->lendings.free(l);
    client->close(close_intent::abort, cause);
    if (server) server->close(close_intent::abort, cause);
    end_drain_if_done(p);
    return verdict::gone;
}

verdict borrower_recv(connection& client) noexcept;
verdict lent_recv(connection& server) noexcept;
verdict lent_wake(connection& server) noexcept;
verdict borrower_wake(connection& client) noexcept {
    return client.is_broken() ? give_up(client.owner_as<lending>(), client.failure()) : verdict::keep;
}
constinit const data_cb borrower_cb{.name = "borrower", .recv = borrower_recv, .send = keep_on, .wake = borrower_wake};
constinit const data_cb lent_cb{.name = "lent", .recv = lent_recv, .send = keep_on, .wake = lent_wake};

verdict borrower_recv(connection& client) noexcept {
    lending& l = client.owner_as<lending>();
    const io_result r = client.recv(&l.byte, 1);
    if (r.end == io::again) return verdict::keep;
    if (r.end != io::done) return give_up(l, client.failure());
    client.stop_recv();
    auto server = dial(l.home.conns, tcp, l.home.next_upstream(), {}, lent_cb, &l);
    if (!server) return give_up(l, end_cause::connect_failed);
    l.server = server.value();
    return verdict::keep;
}

verdict lent_wake(connection& server) noexcept {
    lending& l = server.owner_as<lending>();
    if (server.is_broken()) return give_up(l, server.failure());
    if (server.slot().is(fd_state::recv_active)) return verdict::keep;
    server.send("e");
    server.want_recv();
    return verdict::keep;
}

verdict lent_recv(connection& server) noexcept {
    lending& l = server.owner_as<lending>();
    proxy& p = l.home;
    char byte;
    const io_result r = server.recv(&byte, 1);
    if (r.end == io::again) return verdict::keep;
    if (r.end != io::done) return give_up(l, server.failure());
    connection& client = *l.client;
    const bool drains = l.byte == 'd';
    p.pools->lendings.free(l);
    client.send({&byte, 1});
    client.close(close_intent::graceful, end_cause::done);
    const auto key = p.pools->idle.key_of({.remote = p.options.upstreams[0], .family = &tcp});
    const verdict kept = p.pools->idle.park(server, key, {.messages_complete = true, .buffers_empty = true});
    if (drains && !p.draining && !p.drain_timer.armed()) p.loop.arm_in(p.drain_timer, drain_every);
    if (!p.draining) return kept;
    end_drain_if_done(p);
    return verdict::gone;
}

// --- doors

constinit const data_cb planted_cb{.name = "planted", .recv = keep_on, .send = keep_on, .wake = keep_on};

void proxy::plant() noexcept {
    if (options.plant == 0 || ++relayed_count % options.plant != 0) return;
    [[maybe_unused]] const auto forgotten = dial(conns, tcp, next_upstream(), {}, planted_cb, nullptr);
}

void accepted(void* owner, connection& client, const endpoint&) noexcept {
    door& d = *static_cast<door*>(owner);
    proxy& p = *d.home;
    switch (d.what) {
    case leak_door::relay:
        p.plant();
        p.pools->relays.dial(client, tcp, p.next_upstream());
        break;
    case leak_door::refused: p.pools->relays.dial(client, tcp, p.options.refused); break;
    case leak_door::hole: p.pools->holes.dial(client, tcp, p.options.hole); break;
    case leak_door::victim: p.pools->relays.dial(client, tcp, p.options.victim); break;
    case leak_door::gate: enter_gate(p, client); break;
    case leak_door::lend: {
        lending* l = p.pools->lendings.make(p, &client);
        EXPECT(l != nullptr); // as many as connections
        client.attach(borrower_cb, l);
        client.want_recv();
        break;
    }
    case leak_door::count_: break;
    }
}

// What the ledger knows of the connections that are open: here those are the leaks.
void tell_open(void* owner, int) noexcept {
    constexpr int told_max = 20;
    proxy& p = *static_cast<proxy*>(owner);
    const line_sink out{.take = [](void*, std::string_view line) noexcept {
        say("under test: %.*s", static_cast<int>(line.size()), line.data());
    }};
    int told = 0;
    for (connection* conn = p.conns.first(); conn && told < told_max; conn = p.conns.after(*conn)) {
        if (conn->born() < p.told_at) continue;
        told++;
        if (p.loop.ledger().tell(conn->fd(), p.loop.now(), out) == 0)
            say("under test: fd %d: what happened to it was overwritten; --ledger N keeps more", conn->fd());
    }
    p.told_at = p.loop.now();
}

[[noreturn]] void serve(const leak_proxy_options& options, int report_to) {
    proxy p{options};
    p.drain_timer.fire = begin_drain;
    // The whole ring is touched, so that its pages are no growth.
    const fd_slot nobody{.handler = nullptr, .owner = nullptr, .generation = 0, .state = {}, .next = -1, .fd = 0};
    for (std::uint32_t i = 0; i < options.ledger; i++)
        p.loop.note(nobody, fd_event::closed, "");
    std::array<endpoint, leak_doors> at;
    for (std::size_t i = 0; i < leak_doors; i++) {
        const auto r = p.doors[i].port->open(tcp, endpoint::ipv4(INADDR_LOOPBACK, 0), {}, accepted, &p.doors[i]);
        if (!r) fail("the proxy under test cannot listen: %s", std::strerror(r.error()));
        at[i] = p.doors[i].port->local();
    }
    const auto stop = [](void* loop, int) noexcept { static_cast<event_loop*>(loop)->stop(); };
    if (!p.loop.on_signal(SIGTERM, stop, &p.loop) || !p.loop.on_signal(SIGUSR1, tell_open, &p))
        fail("the proxy under test has no signals");
    if (sys::write(report_to, &at, sizeof at) != sizeof at) std::_Exit(1);
    sys::close(report_to);
    p.loop.run();
    std::_Exit(0); // what is left goes with the process
}

} // namespace

leak_proxy start_leak_proxy(const leak_proxy_options& options) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) fail("no pipe: %s", std::strerror(errno));
    leak_proxy made;
    made.pid = fork_child(ends[1]);
    if (made.pid == 0) serve(options, 3);
    ::close(ends[1]);
    const ssize_t n = ::read(ends[0], made.doors.data(), sizeof made.doors);
    char end; // it has closed its side then, so nothing is open in it that is not of the proxy
    if (::read(ends[0], &end, 1) != 0) fail("the proxy under test says more than it should");
    ::close(ends[0]);
    if (n != sizeof made.doors) fail("the proxy under test did not start");
    return made;
}

} // namespace weir::inline WEIR_KERNEL::tools
