// http1_exchange, through a gateway: what goes in and what comes out on both sides, byte for byte.

#include "proto/http1_exchange.hpp"

#include <algorithm>

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- conversations: the same bytes must come out however those that go in are cut

struct conversation {
    const char* name;
    std::string request, forwarded, response, delivered;
    bool server_closes = false;  // after its response
    bool client_is_closed = false, server_is_closed = false; // by the gateway, at the end
};

// Time stands still here: a server connection that rests would rest for ever.
const http1_gateway_options restless{.http = {.rest = duration{0}}};

const std::vector<conversation>& conversations() {
    static const std::vector<conversation> all = [] {
        const forgiven these; // static
        const std::string chunked_post = "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        const std::string chunked_ok = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        const std::string get10 = "GET / HTTP/1.0\r\nHost: h\r\n\r\n", got10 = get();
        return std::vector<conversation>{
            {"GET", get("/a//b?c=%2f&d", "X-A: 1\r\nx-b:  2 \r\n"), get("/a//b?c=%2f&d", "X-A: 1\r\nx-b: 2\r\n"), ok("hello"),
             ok("hello")},
            {"GET in absolute form", "GET http://there:8/p HTTP/1.1\r\nHost: here\r\n\r\n", "GET /p HTTP/1.1\r\nHost: there:8\r\n\r\n",
             ok(""), ok("")},
            {"HEAD", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
             "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"},
            {"POST with a length", post("/p", "some body"), post("/p", "some body"), ok("x"), ok("x")},
            {"POST of nothing", post("/p", ""), post("/p", ""), ok("x"), ok("x")},
            {"POST in chunks", chunked_post + "5;x=\"y\"\r\nhello\r\n01\r\n!\r\n0\r\nX-Trailer: v\r\n\r\n",
             chunked_post + "6\r\nhello!\r\n0\r\n\r\n", ok("x"), ok("x")},
            {"an answer in chunks", get(), get(), chunked_ok + "2\r\nhe\r\n3;e\r\nllo\r\n000\r\nT: v\r\n\r\n",
             chunked_ok + "5\r\nhello\r\n0\r\n\r\n"},
            {"an answer until close", get(), get(), "HTTP/1.1 200 OK\r\nX: 1\r\n\r\nhello",
             "HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true, false, true},
            {"an empty answer until close", get(), get(), "HTTP/1.0 200 OK\r\n\r\n",
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, false, true},
            {"204", get(), get(), "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"},
            {"304 with the length of what it does not send", get(), get(), "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
             "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"},
            {"interim responses", get(), get(),
             "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok("done"),
             "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok("done")},
            {"interim responses to 1.0", get10, got10, "HTTP/1.1 103 Early Hints\r\n\r\n" + ok("done"),
             "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone", false, true, false},
            {"chunks to 1.0", get10, got10, chunked_ok + "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
             "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", false, true, false},
            {"until close to 1.0", get10, got10, "HTTP/1.0 200 OK\r\n\r\nhello", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
             true, true, true},
            {"1.0 with keep-alive", "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", got10, ok("x"),
             "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx"},
            {"chunks to 1.0 with keep-alive", "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", got10,
             chunked_ok + "1\r\nx\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nx", false, true, false},
            {"a client that asks for close", get("/", "Connection: close\r\n"), get(), ok("x"),
             "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", false, true, false},
            {"a server that asks for close", get(), get(), ok("x", "Connection: close\r\n"), ok("x"), false, false, true},
            {"a response of 1.0", get(), get(), "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", ok("x"), false, false, true},
            {"a response of 1.0 with keep-alive", get(), get(),
             "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", ok("x")},
            {"Expect", "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
             "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
             "HTTP/1.1 100 Continue\r\n\r\n" + ok(""), "HTTP/1.1 100 Continue\r\n\r\n" + ok("")},
            {"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", ok(""), ok("")},
        };
    }();
    return all;
}

// The same, or the same in other chunks.
bool is_alike(std::string got, std::string wanted) {
    if (got == wanted) return true;
    const auto a = take_message(got), b = take_message(wanted);
    if (!a || !b || !got.empty() || !wanted.empty()) return false;
    return a->is_chunked && b->is_chunked && a->head == b->head && a->body == b->body;
}

void await(gateway_rig& rig, peer& p, const std::string& wanted) {
    (void)rig.until([&] { return is_alike(p.pull().got, wanted) || p.end != ending::none; });
    if (!is_alike(p.got, wanted)) CHECK(shown(p.got) == shown(wanted));
    p.got.clear();
}

struct cut {
    std::size_t first, piece;
};

// Holds a conversation on connections that may exist already, and leaves them as the gateway does.
void hold(gateway_rig& rig, peer& c, peer& s, const conversation& talk, cut of_request, cut of_response) {
    if (!c.open()) c = rig.client();
    rig.say_in_pieces(c, talk.request, of_request.first, of_request.piece);
    if (!s.open()) s = rig.server();
    await(rig, s, talk.forwarded);
    rig.say_in_pieces(s, talk.response, of_response.first, of_response.piece);
    if (talk.server_closes) s.shut();
    await(rig, c, talk.delivered);

    rig.settle();
    CHECK(c.ended() == talk.client_is_closed);
    CHECK(s.ended() == talk.server_is_closed);
    CHECK(rig.idle_count() == (talk.server_is_closed ? 0 : 1));
    CHECK(rig.at_rest());
    if (talk.client_is_closed) CHECK(c.end == ending::fin);
    if (talk.client_is_closed) c = {};
    if (talk.server_is_closed) s = {};
}

TEST_CASE("every conversation goes through byte for byte") {
    for (const conversation& talk : conversations()) {
        INFO(talk.name);
        gateway_rig rig;
        peer c, s;
        c = rig.client();
        c.say(talk.request);
        s = rig.server();
        rig.expect(s, talk.forwarded);
        s.say(talk.response);
        if (talk.server_closes) s.shut();

        const bool closes_now = talk.client_is_closed;
        (void)rig.until([&] { return c.pull().got.size() >= talk.delivered.size() && (!closes_now || c.ended()); });
        CHECK(c.got == talk.delivered);
        CHECK(rig.troubles.empty());
    }
}

TEST_CASE("every conversation goes through whichever way the request is cut in two") {
    for (const conversation& talk : conversations()) {
        INFO(talk.name);
        gateway_rig rig{restless};
        peer c, s;
        for (std::size_t at = 1; at < talk.request.size(); at++)
            hold(rig, c, s, talk, {at, SIZE_MAX}, {SIZE_MAX, SIZE_MAX});
        CHECK(rig.troubles.empty());
    }
}

TEST_CASE("every conversation goes through whichever way the response is cut in two") {
    for (const conversation& talk : conversations()) {
        INFO(talk.name);
        gateway_rig rig{restless};
        peer c, s;
        for (std::size_t at = 1; at < talk.response.size(); at++)
            hold(rig, c, s, talk, {SIZE_MAX, SIZE_MAX}, {at, SIZE_MAX});
        CHECK(rig.troubles.empty());
    }
}

TEST_CASE("every conversation goes through byte by byte") {
    for (const conversation& talk : conversations()) {
        INFO(talk.name);
        gateway_rig rig{restless};
        peer c, s;
        for (int again = 0; again < 2; again++) // on a fresh server connection, then on the same, if it stays
            hold(rig, c, s, talk, {1, 1}, {1, 1});
        CHECK(rig.troubles.empty());
    }
}

TEST_CASE("conversations of every kind follow each other on the same connections") {
    gateway_rig rig{restless};
    peer c, s;
    for (const conversation& first : conversations())
        for (const conversation& then : conversations()) {
            INFO(first.name);
            INFO(then.name);
            hold(rig, c, s, first, {SIZE_MAX, SIZE_MAX}, {SIZE_MAX, SIZE_MAX});
            hold(rig, c, s, then, {SIZE_MAX, SIZE_MAX}, {SIZE_MAX, SIZE_MAX});
        }
}

TEST_CASE("a HEAD answered with 204 has no Content-Length") {
    gateway_rig rig; // RFC 9110 section 8.6
    peer c = rig.client();
    c.say("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    peer s = rig.server();
    s.say("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n");
    rig.expect(c, "HTTP/1.1 204 No Content\r\n\r\n");
}

TEST_CASE("whatever the gateway says may have to wait, and every byte comes") {
    // Each send meets a full socket once. What came meanwhile of the server is not lost, nor taken out of turn.
    for (const conversation& talk : conversations()) {
        INFO(talk.name);
        gateway_rig rig{{}, choking};
        peer c = rig.client();
        rig.choke_clients();
        c.say(talk.request);
        peer s = rig.server();
        rig.expect(s, talk.forwarded);
        for (std::size_t at = 0; at < talk.response.size(); at += 9) {
            s.say(std::string_view(talk.response).substr(at, 9));
            rig.settle();
            rig.let_clients_take();
            rig.choke_clients();
        }
        if (talk.server_closes) s.shut();
        rig.settle();
        rig.let_clients_take();
        await(rig, c, talk.delivered);
        rig.settle();
        CHECK(c.ended() == talk.client_is_closed);
        CHECK(rig.at_rest());
    }
}

// --- pipelining

TEST_CASE("a thousand pipelined requests and a FIN are answered, in order") {
    // 62, 64, 128: a read of the gateway's ends exactly between two of them.
    for (const std::size_t size : {38u, 62u, 64u, 100u, 128u}) {
        INFO(size);
        gateway_rig rig{{.http = {.keep_alive_requests = 2000, .on_client_fin = client_fin::wait}}};
        peer c = rig.client();
        std::string requests, delivered;
        for (int i = 0; i < 1000; i++) {
            std::string number = std::to_string(i);
            number.insert(0, 4 - number.size(), '0');
            std::string r = "GET /" + number + " HTTP/1.1\r\nHost: h\r\n\r\n";
            if (r.size() < size) r = "GET /" + number + " HTTP/1.1\r\nHost: " + std::string(size - r.size() + 1, 'h') + "\r\n\r\n";
            REQUIRE(r.size() == std::max<std::size_t>(size, 33));
            requests += r;
            delivered += ok(number);
        }
        std::string_view rest = requests;
        bool is_shut = false;
        peer s;
        REQUIRE(rig.until([&] {
            for (int i = 0; i < 300; i++) {
                rest.remove_prefix(c.say_some(rest));
                if (rest.empty() && !is_shut) c.shut();
                if (rest.empty()) is_shut = true;
                rig.turn();
                if (!s.open() && ready(rig.origins[0].fd.get(), POLLIN)) s = rig.server();
                if (s.open())
                    while (auto m = take_message(s.pull().got))
                        s.say(ok(m->head.substr(5, 4)));
                c.pull();
            }
            return c.got.size() >= delivered.size() || c.end != ending::none;
        }));
        CHECK(shown(c.got) == shown(delivered));
        CHECK(rig.until([&] { return c.ended(); }));
        CHECK(c.end == ending::fin);
        CHECK(rig.counters().responses == 1000);
        CHECK(rig.conns.opened_count(conn_origin::dialed) == 1);
        CHECK(rig.at_rest());
        CHECK(rig.gateway->clients_count() == 0);
    }
}

TEST_CASE("a request that came with a FIN behind it, while another was served, is answered") {
    gateway_rig rig{{.http = {.on_client_fin = client_fin::wait}}};
    peer c = rig.client();
    c.say(get("/1"));
    peer s = rig.server();
    rig.expect(s, get("/1"));
    c.say(get("/2"));
    c.shut();
    rig.settle();
    s.say(ok("1"));
    rig.expect(c, ok("1"));
    rig.expect(s, get("/2"));
    s.say(ok("2"));
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == ok("2"));
    CHECK(c.end == ending::fin);
    CHECK(rig.ended(end_cause::peer_closed) == 1);
}

TEST_CASE("pipelined requests cut anywhere are answered in order") {
    const std::string requests = get("/1") + post("/2", "body") + "POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" +
                                 "3\r\nabc\r\n0\r\n\r\n" + get("/4");
    for (std::size_t at = 1; at < requests.size(); at++) {
        INFO(at);
        gateway_rig rig;
        peer c = rig.client(), s;
        rig.say_in_pieces(c, requests, at);
        for (const char* number : {"1", "2", "3", "4"}) {
            if (!s.open()) s = rig.server();
            const message m = rig.expect_message(s);
            CHECK(m.head.find("/"s + number) < 10);
            CHECK(m.body == (number == "2"sv ? "body" : number == "3"sv ? "abc" : ""));
            s.say(ok(number));
            rig.expect(c, ok(number));
        }
        CHECK(rig.at_rest());
    }
}

TEST_CASE("one request is before the server at a time") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get("/1") + get("/2"));
    peer s = rig.server();
    rig.expect(s, get("/1"));
    rig.expect_silence(s);
    s.say(ok("1"));
    rig.expect(s, get("/2"));
}

TEST_CASE("a client that half-closed after its request is answered where a FIN is waited out") {
    gateway_rig rig{{.http = {.on_client_fin = client_fin::wait}}};
    peer c = rig.client();
    c.say(get());
    c.shut();
    peer s = rig.server();
    s.say(ok("x"));
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == ok("x"));
    CHECK(c.end == ending::fin);
    CHECK(rig.at_rest());
}

// --- requests that are refused

TEST_CASE("a request that breaks the rules is refused, nothing of it is forwarded, and the connection closes") {
    struct {
        std::string request;
        const char* status;
    } const cases[] = {
        {"nonsense\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
        {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", "501"},
        {"GET / HTTP/2.0\r\nHost: h\r\n\r\n", "505"},
        {"GET /" + std::string(9000, 'a') + " HTTP/1.1\r\nHost: h\r\n\r\n", "414"},
        {"GET / HTTP/1.1\r\nHost: h\r\nX: " + std::string(16000, 'a') + "\r\n\r\n", "431"},
        {"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", "501"},
        {"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", "405"},
        {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
    };
    for (const auto& each : cases) {
        INFO(each.request.substr(0, 60));
        const auto& [request, status] = each;
        gateway_rig rig;
        peer c = rig.client();
        c.say(request + get("/next")); // not looked at any more
        const message m = rig.expect_message(c);
        CHECK(m.head.substr(9, 3) == status);
        CHECK(m.head.find(closes) != m.head.npos);
        CHECK(m.body.starts_with(status));
        rig.expect_end(c, ending::fin);
        CHECK(!rig.has_dialed());
        CHECK(rig.counters().refused == 1);
        CHECK(rig.troubles.empty());
        CHECK(rig.at_rest());
    }
}

TEST_CASE("the last request that a connection may carry is told so by an answer of ours, too") {
    gateway_rig rig{{.http = {.keep_alive_requests = 2}}, {.origins = {origin_state::refusing}}};
    peer c = rig.client();
    c.say(get());
    rig.expect(c, bad_gateway());
    c.say(get());
    rig.expect(c, bad_gateway(closes));
    rig.expect_end(c, ending::fin);
}

TEST_CASE("the last request that a connection may carry is told so") {
    gateway_rig rig{{.http = {.keep_alive_requests = 2}}};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say(ok("1"));
    rig.expect(c, ok("1"));
    s.got.clear();
    c.say(get());
    rig.settle();
    s.say(ok("2"));
    rig.expect(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n2");
    rig.expect_end(c, ending::fin);
    CHECK(rig.idle_count() == 1); // the server's stays
}

} // namespace
