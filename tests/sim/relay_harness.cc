// relay_harness: a relay between clients and servers, which must neither lose a byte nor an end.
//
// Some clients are tied to their server at once; of others something is read first, as a gateway does before it knows
// where to go, and joined to the server as early bytes.
// In some runs there are two relays in a row, and what is between them is a transport with records: record_xprt. The
// peers at the ends must see no difference.

#include "core/relay.hpp"

#include "core/dialer.hpp"
#include "core/listener.hpp"
#include "proto/tcp.hpp"
#include "sim/peers.hpp"
#include "support/record_xprt.hpp"

namespace simtest {

namespace {

const endpoint shop = endpoint::ipv4(0x0a000101, 80);
const endpoint door = endpoint::ipv4(0x0a000001, 8080);
const endpoint back_door = endpoint::ipv4(0x0a000001, 8081);

// A client that has said something before it got a server.
struct guest {
    explicit guest(connection& c) noexcept : client(&c) {}
    connection* client;
    connection* server = nullptr;
    std::uint32_t early_bytes = 0;
    char early[24];
};

struct house {
    house(world& w, bool records)
        : conns(*w.conns), chance(w.k.chance), over_records(records), pairs(*w.conns, options(records)),
          back_pairs(*w.conns, options(false)), port(*w.conns), back_port(*w.conns) {}
    relay_options options(bool to_records) {
        return {.pairs_max = 32,
                .connect_timeout = seconds{3},
                .transport = to_records ? &support::record_xprt : &raw_xprt,
                .fin_timeout = seconds{2},
                .idle_timeout = seconds{6},
                .pipes = {.pipes_max = chance.coin() ? 0 : chance.between(1, 4)}};
    }
    const endpoint& next() const { return over_records ? back_door : shop; }

    conntab& conns;
    dice& chance;
    const bool over_records;
    relay_pool pairs, back_pairs; // the second from the records on
    listener port, back_port;
    fixed_pool<guest> guests{64};
};
house* the_house = nullptr; // of the run under way

verdict hear_guest(connection& conn) noexcept;
verdict watch_guest(connection& conn) noexcept;
constexpr data_cb guest_cb{.name = "guest", .recv = hear_guest, .send = keep_on, .wake = watch_guest};

verdict see_off(guest& g, close_intent intent, end_cause cause) noexcept {
    connection* const ends[] = {g.client, g.server};
    the_house->guests.free(g);
    for (connection* conn : ends)
        if (conn) conn->close(intent, cause);
    return verdict::gone;
}

verdict hear_guest(connection& conn) noexcept {
    guest& g = conn.owner_as<guest>();
    const io_result r = conn.recv(g.early, the_house->chance.between(1, sizeof g.early));
    if (r.end == io::again) return verdict::keep;
    if (r.end != io::done) return see_off(g, close_intent::abort, conn.failure());
    conn.stop_recv();
    g.early_bytes = static_cast<std::uint32_t>(r.bytes);
    const xprt& transport = the_house->over_records ? support::record_xprt : raw_xprt;
    const dial_options how{.timeout = seconds{3}, .transport = &transport};
    auto dialed = dial(the_house->conns, tcp, the_house->next(), how, guest_cb, &g);
    if (!dialed) return see_off(g, close_intent::abort, end_cause::connect_failed);
    g.server = dialed.value();
    return verdict::keep;
}

verdict watch_guest(connection& conn) noexcept {
    guest& g = conn.owner_as<guest>();
    if (conn.is_broken()) return see_off(g, close_intent::abort, conn.failure());
    if (!g.server || !g.server->is(conn_flag::connected)) return verdict::keep;
    const std::string_view early{g.early, g.early_bytes};
    g.client->disarm();
    g.server->disarm();
    g.client->want_recv(); // what is early goes first all the same
    if (!the_house->pairs.join(*g.client, *g.server, early)) return see_off(g, close_intent::abort, end_cause::no_room);
    the_house->guests.free(g);
    return verdict::keep;
}

void accepted(void*, connection& conn, const endpoint&) noexcept {
    house& home = *the_house;
    guest* g = home.chance.coin() ? home.guests.make(conn) : nullptr;
    if (!g) {
        static_cast<void>(home.pairs.dial(conn, tcp, home.next()));
        return;
    }
    conn.attach(guest_cb, g);
    conn.arm(home.conns.loop().now() + seconds{6}, [](timer& t, time_point) noexcept {
        see_off(connection::of(t).owner_as<guest>(), close_intent::abort, end_cause::timed_out);
    });
    conn.want_recv();
}

void accepted_back(void*, connection& conn, const endpoint&) noexcept {
    static_cast<void>(the_house->back_pairs.dial(conn, tcp, shop));
}

std::uint64_t run(std::uint64_t seed) {
    world w{seed};
    town people{w.k, town::between::passes_on};
    people.open_shop(shop);
    std::optional<house> h;
    // With few descriptors the two relays would take them from each other, and wait.
    const bool has_many = w.connections_max == 64 && w.k.options().descriptors_max >= 256;
    const bool over_records = w.k.chance.below(4) == 0 && has_many;
    h.emplace(w, over_records);
    the_house = &*h;
    if (over_records) {
        saw(mark::over_records);
        support::record_layer::read_max = w.k.chance.coin() ? 4096 : w.k.chance.magnitude(1, 300);
    }
    const listener_options how{.socket = {.backlog_count = 16}, .accept_budget = w.k.chance.between(1, 16)};
    if (!h->port.open(tcp, door, how, accepted, &*h)) w.k.violate("I10", "no listener, though nothing is wrong");
    if (over_records && !h->back_port.open(tcp, back_door, {.transport = &support::record_xprt}, accepted_back, &*h))
        w.k.violate("I10", "no second listener, though nothing is wrong");

    w.watch_accepts(&h->port, how.accept_budget);
    w.watch_pairs(&h->pairs, &h->back_pairs);

    go_through_trouble(w, people, door, 24);
    w.turn_until(w.k.time.now + seconds{3});
    // A backlog that was full may make a client's kernel ask again for as long as 127 s. Who comes so late would take
    // descriptors from those who are to be served.
    const auto& queue = static_cast<const stream&>(*w.k.at(h->port.fd())).accept_queue;
    w.require_by(w.k.time.now + seconds{170}, "I8", "a pair outlived every deadline",
                 [&] { return w.conns->live_count() == 0 && queue.empty() && !people.is_anybody_connecting(); });
    const std::uint64_t timeouts = w.conns->ended_count(end_cause::timed_out);
    serve_healthy(w, people, door, 1, milliseconds{1});
    w.require_by(w.k.time.now + seconds{10}, "I8", "a pair outlived its ends",
                 [&] { return h->pairs.pair_count() + h->back_pairs.pair_count() == 0; });
    if (w.conns->ended_count(end_cause::timed_out) != timeouts)
        w.k.violate("I9", "a pair of healthy ends came to its end by a timeout");
    if (w.conns->blocks().used() != 0) w.k.violate("I5", "a block was not given back");

    w.k.note("teardown");
    w.watch_accepts(nullptr, 0);
    w.watch_pairs(nullptr);
    h.reset();
    w.close_conns();
    w.tear_down();
    if (support::record_layer::live_count != 0) w.k.violate("I5", "a transport's context was not freed");
    return w.k.log.hash();
}

} // namespace

const harness relay_harness{.name = "relay", .run = run};

} // namespace simtest
