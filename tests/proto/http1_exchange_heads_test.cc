// http1_exchange, through a gateway: what of a head is passed on, and in which form.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("a status of no known class goes on as it is, with its body, and both connections stay") {
    gateway_rig rig;
    peer c = rig.client(), s;
    for (const char* status : {"600", "742", "999"}) {
        c.say(get());
        if (!s.open()) s = rig.server();
        rig.expect(s, get());
        const std::string answer = "HTTP/1.1 "s + status + " Denied\r\nContent-Length: 2\r\n\r\nno";
        s.say(answer);
        rig.expect(c, answer);
        CHECK(rig.idle_count() == 1);
    }
    CHECK(rig.counters().fresh == 1);
    CHECK(rig.counters().failed == 0);
}

TEST_CASE("white space before a colon is dropped from what a server says, and frames its body") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.expect(s, get());
    s.say("HTTP/1.1 200 OK\r\nContent-Length : 2\r\nX \t: a\r\nConnection : y\r\nY : b\r\n\r\nok");
    rig.expect(c, "HTTP/1.1 200 OK\r\nX: a\r\nContent-Length: 2\r\n\r\nok");
    c.say(get());
    rig.expect(s, get());
    s.say("HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    rig.expect(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    c.say(get());
    rig.expect(s, get());
    s.say("HTTP/1.1 200 OK\r\nContent-Length : 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    rig.expect(c, bad_gateway());
    c.say(get("/", "X : a\r\n"));
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 400 "));
}

TEST_CASE("a server's bare LF is passed on as CRLF where that is allowed, a client's is refused, and so is a chunk's") {
    for (const bool allowed : {false, true}) {
        INFO(allowed);
        gateway_rig rig{{.http = {.server_bare_lf = allowed}}};
        peer c = rig.client();
        c.say(get());
        peer s = rig.server();
        rig.expect(s, get());
        s.say("HTTP/1.1 200 OK\nContent-Length: 2\nX: a\r\n\nok");
        rig.expect(c, allowed ? ok("ok", "X: a\r\n") : bad_gateway());
        c.say(get());
        if (!allowed) s = rig.server();
        rig.expect(s, get());
        s.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n");
        rig.expect(c, bad_gateway());
        c.say("GET / HTTP/1.1\nHost: h\n\n");
        CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 400 "));
    }
}

// --- more fields than a head holds itself

std::string many_fields(std::size_t count) {
    std::string lines;
    for (std::size_t i = 0; i < count; i++)
        lines += "N" + std::to_string(i) + ": v\r\n";
    return lines;
}

constexpr http1_gateway_options of_many_fields{.http = {.head = {.fields_max = 1000}}};
const gateway_rig::setup with_large_blocks{.tab = {.connections_max = 64, .large_blocks_max = 2}};

TEST_CASE("up to a thousand fields pass both ways where that is allowed, and their block is given back") {
    for (const std::size_t count : {99u, 100u, 400u, 998u}) {
        INFO(count);
        gateway_rig rig{of_many_fields, with_large_blocks};
        peer c = rig.client();
        c.narrow();
        const std::string lines = many_fields(count);
        c.say(get("/", lines));
        peer s = rig.server();
        rig.expect(s, get("/", lines));
        CHECK(rig.conns.blocks().used() == 0); // while the server works
        const std::string interim = "HTTP/1.1 103 Early Hints\r\n" + lines + "\r\n";
        s.say(interim + ok("ok", lines));
        rig.expect(c, interim + ok("ok", lines));
        CHECK(rig.at_rest());
        c.say(get("/", many_fields(1000)));
        CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 431 "));
    }
}

TEST_CASE("without a block for the fields of a head it is a 503, of a request and of a response") {
    const std::string lines = many_fields(400);
    for (const bool of_request : {true, false}) {
        INFO(of_request);
        gateway_rig rig{of_many_fields, with_large_blocks};
        held_blocks held{rig.conns.blocks()};
        peer c = rig.client();
        if (of_request) {
            held.all_but(0);
            c.say(get("/", lines));
        } else {
            c.say(get());
            peer s = rig.server();
            rig.expect(s, get());
            held.all_but(0);
            s.say(ok("ok", lines));
            CHECK(rig.until([&] { return s.ended() || c.pull().got.size() > 0; }));
        }
        CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 503 "));
        CHECK(rig.counters().shed == 1);
        CHECK(rig.troubles.size() == 1);
        held.release();
        CHECK(rig.at_rest());
    }
}

// --- what is said to a server whose connection is not kept

TEST_CASE("without an idle pool each request tells its server to close, and is sent on a connection of its own") {
    gateway_rig rig{{.idle = {.idle_max = 0}}};
    const std::string closing = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    peer c = rig.client();
    for (int i = 0; i < 3; i++) {
        c.say(get());
        peer s = rig.server();
        rig.expect(s, closing);
        s.say(ok("ok"));
        rig.expect(c, ok("ok"));
        (void)rig.until([&] { return s.ended(); });
        CHECK(s.ended());
        CHECK(rig.idle_count() == 0);
    }
    CHECK(rig.counters().fresh == 3);
    CHECK(!c.ended());
}

TEST_CASE("without an idle pool an upgrade is asked for all the same") {
    gateway_rig rig{{.idle = {.idle_max = 0}}};
    peer c = rig.client();
    c.say(get("/", "Connection: upgrade\r\nUpgrade: websocket\r\n"));
    peer s = rig.server();
    CHECK(rig.expect_message(s).head.find("Connection: upgrade\r\n") != std::string::npos);
    s.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello");
    (void)rig.until([&] { return c.pull().got.ends_with("hello"); });
    CHECK(c.got.ends_with("hello"));
}

} // namespace
