// http1_gateway: how many clients there may be, and how they are let go.

#include "proto/http1_gateway.hpp"

#include "support/dies.hpp"
#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- limits

TEST_CASE("at its limit of clients the gateway accepts nobody until one goes") {
    gateway_rig rig{{.clients_max = 2}};
    peer a = rig.client(), b = rig.client();
    peer c{connect_small(rig.gateway->local().port()), is_layered(side::clients)};
    c.say(get());
    rig.settle();
    CHECK(rig.conns.opened_count(conn_origin::accepted) == 2);
    CHECK(!rig.has_dialed());
    a.close();
    peer s = rig.server();
    rig.expect(s, get());
    s.say(ok("c"));
    rig.expect(c, ok("c"));
    CHECK(rig.gateway->clients_count() == 2);
}

TEST_CASE("a tunnel keeps its client's place until it ends") {
    gateway_rig rig{{.clients_max = 1}};
    peer c = rig.client();
    c.say("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    peer s = rig.server();
    s.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    rig.settle();
    CHECK(rig.counters().tunnels == 1);
    CHECK(rig.gateway->clients_count() == 1);
    c.reset();
    rig.settle();
    CHECK(rig.gateway->clients_count() == 0);
}

TEST_CASE("when connections are short an idle one makes room; without one it is a 503") {
    gateway_rig rig{{}, {.origins = {origin_state::listening, origin_state::listening}, .tab = {.connections_max = 3}}};
    peer a = rig.client(), b = rig.client();
    a.say(get());
    peer s = rig.server(0);
    b.say(get());
    rig.expect(b, own_answer(503, "Service Unavailable", "503 Service Unavailable\n", "", "Retry-After: 1\r\n"));
    CHECK(rig.counters().shed == 1);
    s.say(ok("a"));
    rig.settle();
    rig.expect(a, ok("a"));
    CHECK(rig.idle_count() == 1);
    peer t;
    for (std::size_t tries = 0; tries < 2 && !t.open(); tries++) { // the other server's turn comes
        b.say(get());
        rig.settle();
        if (ready(rig.origins[1].fd.get(), POLLIN)) t = rig.server(1);
        else s.say(ok("b"));
        rig.settle();
        b.pull().got.clear();
    }
    REQUIRE(t.open());
    CHECK(rig.ended(end_cause::idle_pressure) == 1);
    t.say(ok("t"));
    rig.expect(b, ok("t"));
}

// --- draining

struct drained_count {
    int calls = 0;
    static void count(void* self) noexcept { static_cast<drained_count*>(self)->calls++; }
};

TEST_CASE("draining finishes what runs, closes what is idle, accepts nobody, and says so once") {
    gateway_rig rig;
    peer waiting = rig.client(), running = rig.client(), unread = rig.client();
    waiting.say(get("/w"));
    peer s = rig.server();
    s.say(ok());
    rig.expect(waiting, ok());
    running.say(get("/r")); // on the connection that was idle
    unread.say(get("/u"));
    rig.settle();
    peer u = rig.server();
    u.say(ok("u"));
    rig.expect(unread, ok("u"));
    CHECK(rig.idle_count() == 1);

    drained_count done;
    const std::uint16_t port = rig.gateway->local().port();
    rig.gateway->drain(drain_kind::end, seconds{30}, drained_count::count, &done);
    rig.settle();
    CHECK(rig.idle_count() == 0);
    rig.expect_end(waiting, ending::fin);
    rig.expect_end(unread, ending::fin);
    CHECK(u.ended());
    const int late = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    descriptor guard(late);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons(port);
    CHECK(::connect(late, reinterpret_cast<const sockaddr*>(&at), sizeof at) < 0);

    rig.pass(seconds{20});
    CHECK(done.calls == 0);
    s.got.clear();
    s.say(ok("r"));
    rig.expect(running, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nr");
    rig.expect_end(running, ending::fin);
    CHECK(s.ended()); // not parked
    waiting.close();
    unread.close();
    running.close();
    rig.settle();
    rig.pass(milliseconds{10});
    CHECK(done.calls == 1);
    rig.pass(seconds{100});
    CHECK(done.calls == 1);
    CHECK(rig.conns.live_count() == 0);
}

TEST_CASE("a drain without haste serves each client that waits once more; a second drain closes who still waits") {
    gateway_rig rig;
    peer asks = rig.client(), waits = rig.client();
    asks.say(get());
    peer first = rig.server();
    first.say(ok());
    rig.expect(asks, ok());
    first.got.clear();
    rig.settle();
    first.pull().got.clear();
    rig.exchange(waits, first);

    drained_count done;
    rig.gateway->drain(drain_kind::hand_over, seconds{30}, drained_count::count, &done);
    rig.expect_silence(asks);
    asks.say(get("/more"));
    peer s = rig.server();
    s.say(ok("m"));
    rig.expect(asks, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nm");
    rig.expect_end(asks, ending::fin);
    asks.close();

    rig.expect_silence(waits);
    rig.gateway->drain(drain_kind::end, seconds{30}, drained_count::count, &done);
    rig.expect_end(waits, ending::fin);
    waits.close();
    rig.settle();
    rig.pass(milliseconds{20});
    CHECK(done.calls == 1);
}

TEST_CASE("draining with nothing under way is done with the next tick") {
    gateway_rig rig;
    drained_count done;
    rig.gateway->drain(drain_kind::end, seconds{30}, drained_count::count, &done);
    CHECK(done.calls == 0);
    rig.pass(milliseconds{10});
    CHECK(done.calls == 1);
}

TEST_CASE("a drain that takes too long is ended: requests and tunnels are aborted at the limit") {
    gateway_rig rig;
    peer running = rig.client();
    running.say(get());
    peer s = rig.server();
    peer tunnel = rig.client();
    tunnel.say("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    peer t = rig.server();
    t.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    rig.settle();
    tunnel.pull().got.clear();
    t.pull().got.clear();
    s.pull().got.clear();

    drained_count done;
    rig.gateway->drain(drain_kind::end, seconds{30}, drained_count::count, &done);
    rig.pass(seconds{30} - milliseconds{1});
    CHECK(done.calls == 0);
    rig.expect_silence(running);
    rig.expect_silence(tunnel);
    rig.pass(milliseconds{10});
    CHECK(done.calls == 1);
    for (peer* p : {&running, &s, &tunnel, &t})
        rig.expect_end(*p, ending::reset);
    CHECK(rig.conns.live_count() == 0);
}

TEST_CASE("a gateway may go with everything under way") {
    gateway_rig rig{{}, {.origins = {origin_state::listening, origin_state::swallowing}}};
    std::vector<peer> held;
    const auto begin = [&](std::string_view said) -> peer& {
        held.push_back(rig.client());
        if (!said.empty()) held.back().say(said);
        rig.settle();
        return held.back();
    };
    held.reserve(40);
    begin("");                                                                  // waits for its first request
    begin("GET / HT");                                                          // in the head
    std::vector<peer> servers;
    servers.reserve(40);
    for (const std::string& said : {get(), post("/", "x"), "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx"s, get() + get(),
                                    "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"s, get(), get(), get()})
        begin(said); // every other one waits for a server that does not accept
    while (ready(rig.origins[0].fd.get(), POLLIN))
        servers.push_back(rig.server());
    REQUIRE(servers.size() >= 4);
    servers[0].say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx");                       // in the response
    servers[1].say("HTTP/1.1 200 O");                                                     // in its head
    servers[2].say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"); // a tunnel, or a 502
    servers[3].say(ok());                                                                 // idle
    rig.settle();
    CHECK(rig.gateway->active_count() > 4);
    rig.gateway.reset();
    CHECK(rig.conns.blocks().used() == 0);
    rig.pass(seconds{5}); // those that linger
    CHECK(rig.conns.live_count() == 0);
    for (peer& p : held)
        CHECK(p.ended());
    for (peer& p : servers)
        CHECK(p.ended());
}

TEST_CASE("a gateway may go while it drains") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    drained_count done;
    rig.gateway->drain(drain_kind::end, seconds{1}, drained_count::count, &done);
    rig.turn();
    rig.gateway.reset();
    rig.pass(seconds{5});
    CHECK(done.calls == 0);
    rig.expect_end(c, ending::reset);
}

TEST_CASE("a drain counts the requests that it cuts off") {
    for (const bool answered : {true, false}) {
        acquainted rig;
        rig.c.say(get("/runs"));
        rig.expect(rig.s, get("/runs"));
        bool is_done = false;
        rig.gateway->drain(drain_kind::end, seconds{1}, [](void* done) noexcept { *static_cast<bool*>(done) = true; }, &is_done);
        if (answered) {
            rig.s.say(ok("1"));
            CHECK(rig.expect_message(rig.c).head.starts_with("HTTP/1.1 200"));
        }
        rig.clock.advance(seconds{2});
        REQUIRE(rig.until([&] { return is_done; }));
        CHECK(rig.gateway->cut_count() == (answered ? 0 : 1));
    }
}

} // namespace
