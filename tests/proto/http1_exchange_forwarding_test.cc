// http1_exchange, through a gateway: heads that do not go on as they came: Upgrade, Host, interim responses.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

const std::string offers_h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n";
const std::string asks_websocket = "Connection: upgrade\r\nUpgrade: websocket\r\n";
const std::string switching = "HTTP/1.1 101 Switching Protocols\r\n";

// --- Upgrade

TEST_CASE("an offer of h2c is taken out, and the request is served") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST /x HTTP/1.1\r\nHost: h\r\n" + offers_h2c + "Content-Length: 3\r\n\r\nabc");
    peer s = rig.server();
    rig.expect(s, post("/x", "abc"));
    s.say(ok("3"));
    rig.expect(c, ok("3"));
    CHECK(rig.idle_count() == 1);

    c.say("GET /y HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n\r\n");
    rig.expect(s, get("/y"));
    s.say(switching + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"); // to nothing that it was asked for
    CHECK(rig.expect_message(c).head.substr(9, 3) == "502");
    CHECK(rig.counters().tunnels == 0);
}

TEST_CASE("of several offers those that are allowed go on") {
    gateway_rig rig{{.http = {.upgrades = "websocket, toy/2"}}};
    peer c = rig.client();
    c.say(get("/", "Connection: upgrade\r\nUpgrade: h2c, Toy/2, other\r\nUpgrade: WebSocket\r\n"));
    peer s = rig.server();
    rig.expect(s, get("/", "Connection: upgrade\r\nUpgrade: Toy/2, WebSocket\r\n"));
    s.say(switching + "Connection: upgrade\r\nUpgrade: toy/2\r\n\r\nhello");
    rig.expect(c, switching + "Connection: upgrade\r\nUpgrade: toy/2\r\n\r\nhello");
    CHECK(rig.counters().tunnels == 1);
}

TEST_CASE("where no upgrade is allowed none goes on") {
    gateway_rig rig{{.http = {.upgrades = ""}}};
    peer c = rig.client();
    c.say(get("/", asks_websocket));
    peer s = rig.server();
    rig.expect(s, get());
}

TEST_CASE("a 101 that does not name what was asked for is a 502") {
    for (const char* fields : {"", "Connection: upgrade\r\n", "Connection: upgrade\r\nUpgrade: h2c\r\n",
                               "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n", "Upgrade: websocket/13\r\n"}) {
        INFO(fields);
        gateway_rig rig;
        peer c = rig.client();
        c.say(get("/", asks_websocket));
        peer s = rig.server();
        rig.expect(s, get("/", asks_websocket));
        s.say(switching + fields + "\r\n");
        rig.expect(c, bad_gateway());
        rig.settle();
        CHECK(s.ended());
        CHECK(rig.counters().tunnels == 0);
        REQUIRE(rig.troubles.size() == 1);
        CHECK(rig.troubles[0].ends_with("a 101 to a protocol that was not asked for"));
        CHECK(rig.at_rest());
    }
}

TEST_CASE("a 101 that leaves Connection out, and names what was asked for, makes a tunnel") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get("/", asks_websocket));
    peer s = rig.server();
    rig.expect(s, get("/", asks_websocket));
    s.say(switching + "Upgrade: websocket\r\n\r\nhello");
    rig.expect(c, switching + "Connection: upgrade\r\nUpgrade: websocket\r\n\r\nhello");
    c.say("to you");
    rig.expect(s, "to you");
}

// --- Host

TEST_CASE("a request of HTTP/1.0 without Host gets the server's own name") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    peer s = rig.server();
    const std::string name = "127.0.0.1:" + std::to_string(port_of(rig, 0));
    rig.expect(s, "GET /a HTTP/1.1\r\nHost: " + name + "\r\n\r\n");
    s.say(ok("x"));
    CHECK(rig.expect_message(c).body == "x");

    c.say("GET /b HTTP/1.0\r\nHost:\r\n\r\n"); // says that it has none
    rig.expect(s, "GET /b HTTP/1.1\r\nHost: \r\n\r\n");
}

TEST_CASE("a request without Host that goes to another server gets that one's name, and keeps its body") {
    gateway_rig rig{{}, {.origins = {origin_state::refusing, origin_state::listening}}};
    peer c = rig.client();
    const std::string body = pattern(40'000); // more than a block holds
    REQUIRE(rig.say_all(c, "POST /p HTTP/1.0\r\nContent-Length: 40000\r\n\r\n" + body));
    peer s = rig.server(1);
    const message m = rig.expect_message(s);
    CHECK(m.head == "POST /p HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(port_of(rig, 1)) + "\r\nContent-Length: 40000\r\n\r\n");
    CHECK(shown(m.body) == shown(body));
}

TEST_CASE("a request without Host is repeated with the name once") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    peer s = rig.server();
    const std::string host = "Host: 127.0.0.1:" + std::to_string(port_of(rig, 0)) + "\r\n\r\n";
    rig.expect(s, "GET /1 HTTP/1.1\r\n" + host);
    s.say(ok());
    rig.expect_message(c);
    meanwhile m{rig};
    m.next([&] { s.close(); });
    c.say("GET /2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    peer t = rig.server();
    rig.expect(t, "GET /2 HTTP/1.1\r\n" + host);
    CHECK(rig.counters().repeated == 1);
}

// --- interim responses

const std::string interim = "HTTP/1.1 102 Processing\r\n\r\n";

TEST_CASE("interim responses have no number that is too many, if they take their time") {
    gateway_rig rig{{.http = {.first_byte_timeout = seconds{10}}}};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    for (int i = 0; i < 800; i++) { // an hour and more
        s.say(interim);
        rig.expect(c, interim);
        rig.pass(seconds{5});
    }
    s.say(ok("done"));
    rig.expect(c, ok("done"));
    CHECK(rig.idle_count() == 1);
}

TEST_CASE("thirty interim responses a second pass for ever, sixty-four at once") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    std::string burst;
    for (int i = 0; i < 64; i++)
        burst += interim;
    s.say(burst);
    rig.expect(c, burst);
    for (int i = 0; i < 320; i++) {
        rig.pass(milliseconds{1000} / 30);
        s.say(interim);
        rig.expect(c, interim);
    }
    s.say(ok("done"));
    rig.expect(c, ok("done"));
}

TEST_CASE("the sixty-fifth interim response at once is a 502, to a client of either version") {
    for (const char* request : {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"}) {
        for (const int count : {64, 65}) {
            INFO(request, count);
            gateway_rig rig;
            peer c = rig.client();
            c.say(request);
            peer s = rig.server();
            for (int i = 0; i < count; i++) {
                s.say(interim);
                rig.settle();
            }
            if (!s.ended()) s.say(ok(""));
            rig.settle();
            c.pull();
            const std::size_t final_at = c.got.rfind("HTTP/1.1 ");
            REQUIRE(final_at != c.got.npos);
            CHECK(c.got.substr(final_at + 9, 3) == (count == 64 ? "200" : "502"));
            CHECK(rig.counters().failed == (count == 64 ? 0u : 1u));
        }
    }
}

TEST_CASE("large interim responses count with their bytes") {
    const std::string links = "HTTP/1.1 103 Early Hints\r\nLink: <" + std::string(8000, 'x') + ">\r\n\r\n";
    for (const int count : {8, 9}) { // 64 KB and a little more
        INFO(count);
        gateway_rig rig;
        peer c = rig.client();
        c.say(get());
        peer s = rig.server();
        for (int i = 0; i < count && !s.ended(); i++) {
            s.say(links);
            rig.settle();
            c.pull();
        }
        if (!s.ended()) s.say(ok("x"));
        rig.settle();
        c.pull();
        CHECK(c.got.ends_with(count == 8 ? ok("x") : bad_gateway()));
    }
}

TEST_CASE("interim responses that grow too much when they are written anew are a 502") {
    std::string head = "HTTP/1.1 103 E\r\n";
    for (int i = 0; i < 90; i++)
        head += "a:b\r\n"; // goes on as "a: b"
    head += "\r\n";
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say(head + head + ok("x"));
    CHECK(rig.expect_message(c, true).head.starts_with("HTTP/1.1 103 "));
    CHECK(rig.expect_message(c, true).head.starts_with("HTTP/1.1 103 "));
    CHECK(rig.expect_message(c).body == "x");
    c.say(get());
    rig.settle();
    s.pull().got.clear();
    s.say(head + head + head + ok("x"));
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 502 "));
}

} // namespace
