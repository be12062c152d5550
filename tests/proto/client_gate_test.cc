// client_gate, through both proxies: who has a place, who makes room for whom, and what never keeps a client out.

#include "proto/client_gate.hpp"

#include <vector>

#include "support/gateway_rig.hpp"
#include "support/stream_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// A gateway whose conntab has the room that the gateway asks for and no more.
struct full_rig : gateway_rig {
    explicit full_rig(const http1_gateway_options& options, std::size_t origins_count = 1)
        : gateway_rig(options, {.origins = std::vector<origin_state>(origins_count, origin_state::listening),
                                .tab = {.connections_max = http1_gateway::connections_needed(options)}}) {}

    // A client that may still be in the backlog.
    peer caller() { return peer{connect_small(gateway->local().port()), is_layered(side::clients)}; }
    peer admin() {
        if (!gateway->admin_port().is_open())
            REQUIRE(gateway->listen_admin({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}).ok());
        return peer{connect_small(gateway->admin_port().local().port())};
    }
    // One request, answered by whichever server connection it comes through.
    void serve(peer& c, std::vector<peer>& servers) {
        c.say(get());
        settle();
        if (ready(origins[0].fd.get(), POLLIN)) servers.push_back(server());
        settle();
        for (peer& s : servers) {
            s.pull();
            if (s.got.empty()) continue;
            s.got.clear();
            s.say(ok());
        }
        expect(c, ok());
    }
    std::uint64_t accepted_count() const { return conns.opened_count(conn_origin::accepted); }
};

// --- who makes room

TEST_CASE("at the limit the client that waits for the longest makes room, and hears a FIN") {
    full_rig rig({.idle = {.idle_max = 4}, .clients_max = 4});
    std::vector<peer> servers, clients;
    for (int i = 0; i < 4; i++)
        clients.push_back(rig.client());
    for (const std::size_t i : {std::size_t{2}, std::size_t{0}, std::size_t{3}, std::size_t{1}})
        rig.serve(clients[i], servers);
    rig.serve(clients[2], servers); // it waits for the shortest now

    peer fifth = rig.client();
    rig.serve(fifth, servers);
    rig.expect_end(clients[0], ending::fin);
    CHECK(rig.gateway->clients_count() == 4);
    CHECK(rig.ended(end_cause::idle_evicted) + rig.conns.live_count() > 0);
    CHECK(rig.gateway->gate().let_go_count() == 1);

    peer sixth = rig.client();
    rig.expect_end(clients[3], ending::fin);
    rig.expect_silence(clients[1]);
    rig.expect_silence(clients[2]);
    rig.serve(sixth, servers);
}

TEST_CASE("a client that is served never makes room; the next in the backlog gets the place of the first that has ended") {
    full_rig rig({.clients_max = 2});
    peer a = rig.client(), b = rig.client();
    a.say(get());
    peer sa = rig.server();
    b.say(get());
    peer sb = rig.server();
    peer c = rig.caller();
    rig.pass(seconds{20});
    CHECK(rig.accepted_count() == 2);
    CHECK(rig.gateway->gate().is_pressed());

    sa.say(ok("a"));
    rig.expect(a, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na"); // no close crosses a request
    rig.expect_end(a, ending::fin);
    CHECK(rig.accepted_count() == 3);
    CHECK(!rig.gateway->gate().is_pressed());
    sb.say(ok("b"));
    rig.expect(b, ok("b"));
    rig.expect_silence(b);
}

TEST_CASE("a client that begins to wait while another is in the backlog makes room for it") {
    full_rig rig({.clients_max = 1});
    peer a = rig.client();
    a.say(get());
    peer s = rig.server();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"); // its head says that the connection stays
    rig.expect(a, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    peer b = rig.caller();
    rig.settle();
    CHECK(rig.gateway->gate().is_pressed());
    s.say("k");
    rig.expect(a, "k");
    rig.pass(milliseconds{2});
    rig.expect_end(a, ending::fin);
    CHECK(rig.accepted_count() == 2);
}

TEST_CASE("a client whose request has come unread is not let go; a quiet one is") {
    full_rig rig({.idle = {.idle_max = 2}, .clients_max = 2});
    std::vector<peer> servers;
    peer older = rig.client(), newer = rig.client();
    rig.serve(older, servers);
    rig.serve(newer, servers);

    peer c = rig.caller();
    older.say(get("/unread")); // in its socket when the accept runs, whichever the kernel reports first
    rig.settle();
    rig.expect_end(newer, ending::fin);
    for (peer& s : servers) {
        s.pull();
        if (!s.got.empty()) s.say(ok("u"));
    }
    rig.expect(older, ok("u"));
    CHECK(rig.accepted_count() == 3);
}

TEST_CASE("a client that was accepted a moment ago is not let go; one that is silent for a second is, before all others") {
    full_rig rig({.clients_max = 2});
    std::vector<peer> servers;
    peer served = rig.client();
    rig.serve(served, servers);
    peer silent = rig.client();
    rig.pass(milliseconds{900});

    peer third = rig.client();
    rig.expect_end(served, ending::fin);
    rig.expect_silence(silent);

    peer fourth = rig.caller();
    rig.settle();
    CHECK(rig.accepted_count() == 3); // both have just come
    rig.expect_silence(silent);
    rig.pass(milliseconds{102});
    rig.expect_end(silent, ending::fin);
    CHECK(rig.accepted_count() == 4);
    rig.serve(third, servers);
    rig.serve(fourth, servers);
}

TEST_CASE("a client in the backlog that goes again costs no other one its place") {
    full_rig rig({.clients_max = 1});
    std::vector<peer> servers;
    peer a = rig.client();
    a.say(get());
    servers.push_back(rig.server());
    { peer gone = rig.caller(); }
    rig.settle();
    servers[0].say(ok());
    (void)rig.until([&] { return a.pull().ended(); });
    CHECK(a.got.starts_with("HTTP/1.1 200 "));
    rig.pass(seconds{3});
    CHECK(rig.gateway->clients_count() == 0);
    peer b = rig.client();
    rig.serve(b, servers);
}

// --- what never keeps a client out

TEST_CASE("idle server connections keep no client out, not even from a second server") {
    full_rig rig({.idle = {.idle_max = 4}, .clients_max = 4}, 2);
    std::vector<peer> clients, servers;
    // As many as there may be are parked, to whichever server.
    for (int i = 0; i < 4; i++) {
        clients.push_back(rig.client());
        clients.back().say(get());
        rig.settle();
    }
    for (const std::size_t origin : {std::size_t{0}, std::size_t{1}})
        while (ready(rig.origins[origin].fd.get(), POLLIN))
            servers.push_back(rig.server(origin));
    REQUIRE(servers.size() == 4);
    for (peer& s : servers)
        s.say(ok());
    for (peer& c : clients)
        rig.expect(c, ok());
    CHECK(rig.idle_count() == 4);
    clients.clear();
    rig.settle();

    for (int i = 0; i < 4; i++) {
        clients.push_back(rig.client()); // accepted, each of them
        clients.back().say(get());
    }
    rig.settle();
    CHECK(rig.gateway->active_count() == 4);
    CHECK(rig.gateway->port().paused_count() == 0);
    CHECK(rig.counters().shed == 0);
}

TEST_CASE("in a conntab that idle connections fill, a client is accepted all the same") {
    gateway_rig rig{{.idle = {.idle_max = 4}, .clients_max = 4}, {.tab = {.connections_max = 4}}};
    std::vector<peer> clients, servers;
    for (int i = 0; i < 2; i++) {
        clients.push_back(rig.client());
        clients.back().say(get());
        servers.push_back(rig.server());
    }
    for (peer& s : servers)
        s.say(ok());
    for (peer& c : clients)
        rig.expect(c, ok());
    CHECK(rig.idle_count() == 2);
    CHECK(rig.conns.full());

    clients.push_back(rig.client());
    CHECK(rig.idle_count() == 1);
    CHECK(rig.ended(end_cause::idle_pressure) == 1);
    CHECK(rig.gateway->port().paused_count() == 0);
}

TEST_CASE("lingering connections keep no client out") {
    gateway_rig rig{{.clients_max = 2}, {.tab = {.connections_max = 2}}};
    std::vector<peer> held;
    for (int i = 0; i < 2; i++) {
        peer bad = rig.client();
        bad.say("nonsense\r\n\r\n");
        CHECK(rig.expect_message(bad).head.starts_with("HTTP/1.1 400 "));
        held.push_back(std::move(bad)); // its side stays open: the gateway's lingers
    }
    rig.settle();
    CHECK(rig.gateway->clients_count() == 0);
    CHECK(rig.conns.full());

    peer c = rig.client();
    CHECK(rig.gateway->clients_count() == 1);
    CHECK(rig.gateway->port().paused_count() == 0);
}

// --- the admin page

TEST_CASE("the admin page answers while clients hold every place, and takes none of theirs") {
    full_rig rig({.idle = {.idle_max = 2}, .clients_max = 2});
    peer admin = rig.admin();
    peer a = rig.client(), b = rig.client();
    a.say(get());
    peer sa = rig.server();
    b.say(get());
    peer sb = rig.server();
    peer c = rig.caller();
    rig.settle();
    CHECK(rig.gateway->clients_count() == 2);

    admin.say(get("/counters"));
    CHECK(rig.expect_message(admin).head.starts_with("HTTP/1.1 200 OK\r\n"));
    peer other = rig.admin();
    other.say(get("/counters"));
    CHECK(rig.expect_message(other).head.starts_with("HTTP/1.1 200 OK\r\n"));
    CHECK(rig.gateway->clients_count() == 2);
    CHECK(rig.gateway->admin_gate().clients_count() == 2);
}

TEST_CASE("silent connections to the admin page keep neither a client out nor one that asks there") {
    full_rig rig({.clients_max = 2});
    std::vector<peer> silent;
    for (std::uint32_t i = 0; i < http1_gateway::admin_clients_max + 4; i++)
        silent.push_back(rig.admin());
    rig.settle();
    CHECK(rig.gateway->admin_gate().clients_count() == http1_gateway::admin_clients_max);
    std::vector<peer> servers;
    peer a = rig.client(), b = rig.client();
    rig.serve(a, servers);
    rig.serve(b, servers);

    rig.pass(milliseconds{1100});
    peer asks = rig.admin();
    asks.say(get("/counters"));
    CHECK(rig.expect_message(asks).head.starts_with("HTTP/1.1 200 OK\r\n"));
    rig.expect_end(silent[0], ending::fin);
}

// --- blocks

TEST_CASE("slow heads cannot take the blocks that requests need") {
    gateway_rig rig{{.clients_max = 32}, {.tab = {.connections_max = 64, .blocks_max = 16}}};
    std::vector<peer> slow;
    for (int i = 0; i < 16; i++) {
        slow.push_back(rig.client());
        slow.back().say("GET / HTTP/1.1\r\nHo");
        rig.settle();
    }
    CHECK(rig.counters().shed == 4); // the last quarter is not for heads
    CHECK(rig.expect_message(slow.back()).head.starts_with("HTTP/1.1 503 "));
    peer good = rig.client();
    good.say(get());
    peer s = rig.server();
    s.say(ok());
    rig.expect(good, ok());
}

TEST_CASE("a conntab has two blocks for each connection, however many there are") {
    event_loop loop;
    REQUIRE(loop.open().ok());
    conntab conns{loop};
    REQUIRE(conns.open({.connections_max = 20'000}).ok());
    CHECK(conns.blocks().capacity() == 40'000);
}

// --- the relay

TEST_CASE("in a relay a client whose PROXY line has not begun for a second makes room, any other does not") {
    stream_rig rig({.relay = {.pairs_max = 2}, .accept_proxy = true});
    peer silent = rig.client(), begun = rig.client();
    begun.say("PROXY ");
    rig.turn(3);
    peer third{connect_tcp(rig.proxy->port().local().port())};
    rig.turn(3);
    CHECK(rig.proxy->clients_count() == 2);
    CHECK(rig.proxy->counters().clients_total == 2);

    rig.pass(milliseconds{1100});
    rig.expect_end(silent, ending::reset);
    CHECK(rig.until([&] { return rig.proxy->counters().clients_total == 3; }));
    third.say("PROXY UNKNOWN\r\nhello");
    peer s = rig.server();
    rig.expect(s, "hello");

    peer fourth{connect_tcp(rig.proxy->port().local().port())};
    rig.pass(seconds{5});
    CHECK(rig.proxy->counters().clients_total == 3);
    CHECK(begun.pull().end == ending::none);
    begun.say("UNKNOWN\r\n");
    peer sb = rig.server();
    CHECK(rig.proxy->clients_count() == 2);
}

// --- several loops

// Proxies of two loops, which share their places and which the test turns one after the other. Their clients are to say
// a PROXY line: one that has not begun only waits, one that has begun has something under way.
struct two_loops {
    explicit two_loops(std::uint32_t clients_max) : places(clients_max, 2) {
        for (int i = 0; i < 2; i++) {
            REQUIRE(loops[i].open({.time_source = &clock}).ok());
            REQUIRE(conns[i].open({.connections_max = 16}).ok());
            proxies[i].emplace(conns[i], stream_proxy_options{.relay = {.pairs_max = clients_max},
                                                              .places = &places,
                                                              .accept_proxy = true,
                                                              .proxy_timeout = seconds{600}});
            proxies[i]->add_upstream({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 9)});
            REQUIRE(proxies[i]->listen({.family = &tcp, .at = any_port}, {}).ok());
        }
    }
    ~two_loops() {
        for (auto& proxy : proxies)
            proxy.reset();
        turn(4);
        CHECK(places.paused_count() == 0);
        CHECK(places.taken_count() == 0);
    }
    void turn(int count = 1) {
        for (int i = 0; i < 2 * count; i++)
            loops[i % 2].turn(duration{0});
    }
    template <class Condition>
    [[nodiscard]] bool until(Condition holds) {
        for (int i = 0; i < patience.count(); i++) {
            turn();
            if (holds()) return true;
            poll(nullptr, 0, i < 20 ? 0 : 1);
        }
        return false;
    }
    void pass(duration time) {
        clock.advance(time);
        turn(4);
    }
    std::uint64_t accepted(int at) const { return proxies[at]->counters().clients_total; }
    peer caller(int at) { return peer{connect_tcp(proxies[at]->port().local().port())}; }
    // An accepted client that cannot be let go.
    peer busy(int at) {
        const std::uint64_t before = accepted(at);
        peer p = caller(at);
        p.say("PROXY ");
        REQUIRE(until([&] { return accepted(at) > before; }));
        turn(4);
        return p;
    }
    // A client of that loop is in the backlog, and the loop waits for a place.
    peer awaiting(int at) {
        const std::uint32_t before = places.paused_count();
        peer p = caller(at);
        REQUIRE(until([&] { return places.paused_count() > before; }));
        return p;
    }

    client_places places;
    fake_clock clock;
    event_loop loops[2];
    conntab conns[2]{conntab{loops[0]}, conntab{loops[1]}};
    std::optional<stream_proxy> proxies[2];
};

TEST_CASE("one loop may have every place that there is") {
    two_loops both(3);
    peer a = both.busy(1), b = both.busy(1), c = both.busy(1);
    CHECK(both.accepted(1) == 3);
    peer d = both.awaiting(0);
    CHECK(both.places.taken_count() == 3);
    b.reset();
    CHECK(both.until([&] { return both.accepted(0) == 1; }));
}

TEST_CASE("a free place goes to the loop that has waited for the longest, not to the one that frees it") {
    two_loops both(2);
    peer a = both.busy(0), b = both.busy(0);
    peer first = both.awaiting(1), second = both.awaiting(0);
    a.reset();
    CHECK(both.until([&] { return both.accepted(1) == 1; }));
    both.turn(10);
    CHECK(both.accepted(0) == 2);
    first.say("PROXY ");
    b.reset();
    CHECK(both.until([&] { return both.accepted(0) == 3; }));
    CHECK(both.places.taken_count() == 2);
}

TEST_CASE("a loop that has nobody to let go asks the other one") {
    two_loops both(2);
    peer a = both.busy(1), silent = both.caller(0);
    REQUIRE(both.until([&] { return both.accepted(0) == 1; }));
    peer b = both.awaiting(1);
    both.pass(milliseconds{900});
    CHECK(both.accepted(1) == 1);
    both.pass(milliseconds{200});
    CHECK(both.until([&] { return both.accepted(1) == 2; }));
    CHECK(both.until([&] { return silent.pull().ended(); }));
    CHECK(both.proxies[0]->gate().let_go_count() == 1);
    CHECK(a.pull().end == ending::none);
}

TEST_CASE("a place that is given to a loop whose client has left the backlog goes on to the next") {
    two_loops both(1);
    peer a = both.busy(0);
    peer first = both.awaiting(1), second = both.awaiting(0);
    // What waits at loop 1 is taken by another holder of its listener.
    descriptor taken{::accept4(both.proxies[1]->port().fd(), nullptr, nullptr, SOCK_CLOEXEC)};
    REQUIRE(taken.get() >= 0);
    a.reset();
    CHECK(both.until([&] { return both.accepted(0) == 2; }));
    CHECK(both.accepted(1) == 0);
    CHECK(both.places.paused_count() == 0);
}

TEST_CASE("a loop that goes while it is given a place passes it on") {
    two_loops both(1);
    peer a = both.busy(0);
    peer first = both.awaiting(1), second = both.awaiting(0);
    a.reset();
    REQUIRE(both.until([&] {
        both.loops[0].turn(duration{0});
        return both.places.paused_count() == 1; // the letter to loop 1 is under way
    }));
    both.proxies[1].reset();
    CHECK(both.until([&] { return both.accepted(0) == 2; }));
}

TEST_CASE("who drains waits for no place any more") {
    two_loops both(1);
    peer a = both.busy(0);
    peer first = both.awaiting(1), second = both.awaiting(0);
    bool is_over = false;
    both.proxies[1]->drain(drain_kind::end, seconds{1}, [](void* at) noexcept { *static_cast<bool*>(at) = true; }, &is_over);
    a.reset();
    CHECK(both.until([&] { return both.accepted(0) == 2; }));
    both.pass(milliseconds{20});
    CHECK(is_over);
}

} // namespace
