// http1_exchange, through a gateway: a 101, and the tunnel behind it.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

const std::string upgrade_request = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
const std::string upgrade_response = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

TEST_CASE("after a 101 the connections are a tunnel, with what each side said early") {
    for (std::size_t at = 1; at < upgrade_response.size(); at += 7) {
        gateway_rig rig;
        peer c = rig.client();
        c.say("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly client;");
        peer s = rig.server();
        rig.expect(s, upgrade_request); // none of what follows the request, before the 101
        c.say("later client;");
        rig.expect_silence(s);
        rig.say_in_pieces(s, upgrade_response + "early server;", at);
        rig.expect(c, upgrade_response + "early server;");
        rig.expect(s, "early client;later client;");

        c.say("ping");
        rig.expect(s, "ping");
        s.say("pong");
        rig.expect(c, "pong");
        CHECK(rig.gateway->active_count() == 0);
        CHECK(rig.counters().tunnels == 1);
        c.shut();
        rig.expect_end(s, ending::fin);
        s.say("last");
        s.shut();
        (void)rig.until([&] { return c.ended(); });
        CHECK(c.got == "last");
        CHECK(rig.idle_count() == 0);
        CHECK(rig.gateway->clients_count() == 0);
    }
}

TEST_CASE("a 101 behind other interim responses is a tunnel too") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(upgrade_request);
    peer s = rig.server();
    s.say("HTTP/1.1 103 Early Hints\r\n\r\n" + upgrade_response + "x");
    rig.expect(c, "HTTP/1.1 103 Early Hints\r\n\r\n" + upgrade_response + "x");
    c.say("y");
    rig.expect(s, upgrade_request + "y");
}

TEST_CASE("a 101 that nobody asked for is a 502") {
    for (const std::string& request : {get(), "GET / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n"s,
                                       "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n"s}) {
        gateway_rig rig;
        peer c = rig.client();
        c.say(request);
        peer s = rig.server();
        s.say(upgrade_response);
        rig.expect(c, bad_gateway(request.find("1.0") != request.npos ? "Connection: keep-alive\r\n" : ""));
        rig.settle();
        CHECK(s.ended());
        CHECK(rig.at_rest());
    }
}

TEST_CASE("a 101 before the request's body was sent is a 502") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 9\r\n\r\nbody");
    peer s = rig.server();
    s.say(upgrade_response);
    rig.expect_message(c);
    rig.settle();
    CHECK(s.ended());
    CHECK(rig.counters().tunnels == 0);
}

TEST_CASE("a 101 while the request's tail still waits to be sent is a 502") {
    gateway_rig rig;
    peer c = rig.client();
    const std::string body = pattern(100'000);
    const std::string request = "POST /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 100000\r\n\r\n";
    c.say(request);
    peer s = rig.server();
    s.narrow();
    rig.settle();
    rig.narrow_all();
    // Feed until the last of the body is with the gateway but not with the server.
    std::string_view rest = body;
    for (int i = 0; i < 2000 && !rest.empty(); i++) {
        rest.remove_prefix(c.say_some(rest.substr(0, 4096)));
        rig.settle();
        if (rest.size() > 12'000) s.pull(2000);
    }
    REQUIRE(rest.empty());
    CHECK(rig.conns.blocks().used() > 0);
    s.say(upgrade_response);
    const message m = rig.expect_message(c);
    CHECK(m.head.starts_with("HTTP/1.1 502 "));
    CHECK(rig.counters().tunnels == 0);
}

TEST_CASE("an upgrade that the server does not take is an ordinary exchange") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(upgrade_request);
    peer s = rig.server();
    rig.expect(s, upgrade_request);
    s.say(ok("no"));
    rig.expect(c, ok("no"));
    CHECK(rig.idle_count() == 1);
}

TEST_CASE("a tunnel that is idle for its time is aborted, not a millisecond before") {
    gateway_rig rig{{.tunnel_idle_timeout = seconds{300}}};
    peer c = rig.client();
    c.say(upgrade_request);
    peer s = rig.server();
    s.say(upgrade_response);
    rig.expect(c, upgrade_response);
    rig.expect(s, upgrade_request);
    rig.pass(seconds{300} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(rig.lateness_max(seconds{300}));
    rig.expect_end(c, ending::reset);
    rig.expect_end(s, ending::reset);
}

TEST_CASE("no tunnel is left: the client gets a 503 instead of the 101") {
    gateway_rig rig{{.tunnels_max = 1}};
    peer first = rig.client();
    first.say(upgrade_request);
    peer s = rig.server();
    s.say(upgrade_response);
    rig.expect(first, upgrade_response);
    rig.expect(s, upgrade_request);
    peer second = rig.client();
    second.say(upgrade_request);
    peer t = rig.server();
    t.say("HTTP/1.1 103 Early Hints\r\n\r\n" + upgrade_response);
    rig.expect(second, own_answer(503, "Service Unavailable", "503 Service Unavailable\n", "", "Retry-After: 1\r\n"));
    rig.settle();
    CHECK(t.ended());
    CHECK(rig.ended(end_cause::no_room) == 1);
    CHECK(rig.counters().shed == 1);
    REQUIRE(rig.troubles.size() == 1);
    CHECK(rig.troubles[0].ends_with(": no tunnel is left"));
    CHECK(!second.ended());

    first.reset(); // its tunnel is free again
    rig.expect_end(s, ending::reset);
    second.say(upgrade_request);
    peer u = rig.server();
    u.say(upgrade_response);
    rig.expect(second, upgrade_response);
    CHECK(rig.counters().tunnels == 2);
}

} // namespace
