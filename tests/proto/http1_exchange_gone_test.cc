// http1_exchange, through a gateway: a client that ends its side behind a complete request has gone, unless it is to be
// waited for.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

const http1_gateway_options waiting{.http = {.on_client_fin = client_fin::wait}};

void expect_given_up(gateway_rig& rig, peer& s) {
    (void)rig.until([&] { return s.ended(); });
    CHECK(s.end == ending::reset);
    CHECK(rig.counters().abandoned == 1);
    CHECK(rig.counters().failed + rig.counters().truncated == 0);
    CHECK(rig.gateway->clients_count() == 0);
    CHECK(rig.idle_count() == 0);
    CHECK(rig.troubles.empty());
    CHECK(rig.at_rest());
}

TEST_CASE("the server of a client that has gone is told at once, in every phase") {
    struct {
        const char* phase;
        std::string said, answered;
    } const phases[] = {
        {"waiting", get(), ""},
        {"waiting, with a body", post("/", "1234567890"), ""},
        {"waiting, with chunks", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ""},
        {"after an interim response", get(), "HTTP/1.1 102 Processing\r\n\r\n"},
        {"in the response's head", get(), "HTTP/1.1 200"},
        {"in the response", get(), "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"},
        {"in an event stream", get(), "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"},
        {"asking for a tunnel", get("/", "Connection: upgrade\r\nUpgrade: websocket\r\n"), ""},
    };
    for (const auto& each : phases) {
        for (const bool reused : {false, true}) {
            for (const bool closes : {false, true}) {
                INFO(each.phase, reused, closes);
                gateway_rig rig;
                peer c = rig.client(), s;
                if (reused) {
                    s = (c.say(get()), rig.server());
                    s.say(ok());
                    rig.expect(c, ok());
                }
                c.say(each.said);
                if (!s.open()) s = rig.server();
                rig.settle();
                s.say(each.answered);
                rig.settle();
                CHECK(!s.ended());
                if (closes) c.close();
                else c.shut();
                expect_given_up(rig, s);
            }
        }
    }
}

TEST_CASE("a client that has gone before its server is connected is given up, and its server hears nothing") {
    gateway_rig rig{{}, {.origins = {origin_state::swallowing}}};
    peer c = rig.client();
    c.say(get());
    rig.settle();
    CHECK(rig.conns.live_count() == 2);
    c.shut();
    CHECK(rig.until([&] { return rig.conns.live_count() == 0; }));
    CHECK(rig.counters().abandoned == 1);
    CHECK(c.ended());
    CHECK(c.end == ending::fin);
    CHECK(rig.at_rest());
}

TEST_CASE("a request whose client had gone when it was read does not reach a server") {
    for (const std::string& request : {get("/2"), post("/2", "body")}) {
        acquainted rig;
        rig.c.say(request);
        rig.c.shut();
        (void)rig.until([&] { return rig.c.ended(); });
        CHECK(rig.s.pull().got == "");
        CHECK(!rig.s.ended());
        CHECK(rig.idle_count() == 1);
        CHECK(rig.counters().abandoned == 1);
    }
}

TEST_CASE("a FIN that was known before the body was complete counts when it is complete") {
    gateway_rig rig;
    peer c = rig.client();
    const std::string body = pattern(60'000);
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n");
    peer s = rig.server();
    s.narrow();
    rig.settle();
    rig.narrow_all();
    std::string_view rest = body;
    for (int i = 0; i < 2000 && !rest.empty(); i++) {
        rest.remove_prefix(c.say_some(rest));
        if (!rest.empty()) s.pull(2000);
        rig.settle();
    }
    REQUIRE(rest.empty());
    c.shut(); // while most of the body waits on its way
    rig.settle();
    (void)rig.until([&] { return s.pull().ended(); });
    CHECK(s.end == ending::reset);
    CHECK(rig.counters().abandoned == 1);
    CHECK(rig.at_rest());
}

TEST_CASE("a client that pipelines has not gone: bytes stand between its request and its FIN") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get("/1"));
    peer s = rig.server();
    rig.expect(s, get("/1"));
    c.say(get("/2") + "GET /3 HT"); // the rest never comes
    c.shut();
    rig.settle();
    CHECK(!s.ended());
    s.say(ok("1"));
    rig.expect(s, get("/2"));
    s.say(ok("2"));
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == ok("1") + ok("2"));
    CHECK(c.end == ending::fin);
    CHECK(rig.counters().abandoned == 0);
    CHECK(rig.at_rest());
}

TEST_CASE("of pipelined requests the last is given up, and the answers before it come whole") {
    for (const bool at_once : {false, true}) {
        INFO(at_once);
        gateway_rig rig;
        peer c = rig.client();
        c.say(at_once ? get("/1") + get("/2") : get("/1"));
        peer s = rig.server();
        rig.expect(s, get("/1"));
        if (!at_once) c.say(get("/2"));
        c.shut();
        rig.settle();
        CHECK(!s.ended());
        s.say(ok("1"));
        (void)rig.until([&] { return c.ended(); });
        CHECK(c.got == ok("1"));
        CHECK(c.end == ending::fin); // not a reset, which could overtake the answer
        CHECK(s.pull().got == "");
        CHECK(rig.counters().abandoned == 1);
        CHECK(rig.idle_count() == 1);
        CHECK(rig.at_rest());
    }
}

TEST_CASE("an answer that is complete, and still being taken, is not cut off by a FIN" *
          raw_only(side::clients, "the clients are choked")) {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.settle();
    rig.choke_clients();
    s.say(ok(pattern(1'000)));
    rig.settle();
    CHECK(rig.idle_count() == 1);
    c.shut();
    rig.settle();
    CHECK(rig.counters().abandoned == 0);
    rig.let_clients_take();
    (void)rig.until([&] { return c.ended(); });
    CHECK(shown(c.got) == shown(ok(pattern(1'000))));
    CHECK(c.end == ending::fin);
    CHECK(rig.at_rest());
}

TEST_CASE("a client that is given up sees that its answer is not whole") {
    struct {
        const char* request;
        const char* answer;
        ending how;
    } const rows[] = {
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", ending::fin},
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nhel", ending::fin}, // in chunks
        {"GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nhel", ending::reset},
    };
    for (const auto& row : rows) {
        INFO(row.request, row.answer);
        gateway_rig rig;
        peer c = rig.client();
        c.say(row.request);
        peer s = rig.server();
        rig.settle();
        s.say(row.answer);
        CHECK(rig.until([&] { return c.pull().got.find("hel") != std::string::npos; }));
        c.shut();
        (void)rig.until([&] { return c.ended(); });
        CHECK(c.end == row.how);
        CHECK(c.got.find("0\r\n\r\n") == std::string::npos);
        expect_given_up(rig, s);
    }
}

TEST_CASE("a client over a transport that is cut off has gone as well" *
          raw_only(side::clients, "the clients are over records, of which this one chooses")) {
    for (const bool says_end : {false, true}) {
        INFO(says_end);
        gateway_rig rig{{}, {.clients = &record_xprt}};
        peer c = rig.client();
        c.say(get());
        peer s = rig.server();
        rig.expect(s, get());
        if (says_end) c.close();
        else c.cut_off();
        expect_given_up(rig, s);
    }
}

TEST_CASE("a request that its transport holds stands behind the first one, and is served" *
          raw_only(side::clients, "the clients are over records, of which this one chooses")) {
    gateway_rig rig{{}, {.clients = &record_xprt}};
    peer c = rig.client();
    c.say(get("/1"));
    peer s = rig.server();
    rig.expect(s, get("/1"));
    c.say(get("/2") + get("/3"));
    c.shut();
    rig.settle();
    CHECK(!s.ended());
    s.say(ok("1"));
    rig.expect(s, get("/2"));
    s.say(ok("2"));
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == ok("1") + ok("2"));
    CHECK(rig.counters().abandoned == 1); // the third
}

TEST_CASE("where a FIN is waited out the client is answered, in every phase") {
    for (const bool early : {false, true}) {
        gateway_rig rig{waiting};
        peer c = rig.client();
        c.say(get());
        if (early) c.shut();
        peer s = rig.server();
        rig.expect(s, get());
        if (!early) c.shut();
        rig.settle();
        s.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
        rig.settle();
        CHECK(!s.ended());
        s.say("lo");
        (void)rig.until([&] { return c.ended(); });
        CHECK(c.got == "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        CHECK(c.end == ending::fin);
        CHECK(rig.counters().abandoned == 0);
        CHECK(rig.at_rest());
    }
}

TEST_CASE("the access log names the client that has gone, and says so") {
    std::vector<std::string> lines;
    gateway_rig rig;
    rig.gateway->on_access(
        [](void* to, std::string_view line) noexcept { static_cast<std::vector<std::string>*>(to)->emplace_back(line); }, &lines);
    peer c = rig.client();
    c.say(get("/poll"));
    peer s = rig.server();
    rig.settle();
    c.shut();
    (void)rig.until([&] { return s.ended(); });
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].starts_with("127.0.0.1:"));
    CHECK(lines[0].find("\"GET /poll\" 0 0 bytes") != std::string::npos);
    CHECK(lines[0].ends_with(" cut off, client gone"));
}

} // namespace
