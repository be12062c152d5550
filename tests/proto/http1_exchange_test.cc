// http1_exchange, through a gateway: what goes in and what comes out on both sides, byte for byte, and how it ends.

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

const std::vector<conversation>& conversations() {
    static const std::vector<conversation> all = [] {
        const forgiven these; // static
        const std::string chunked_post = "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        const std::string chunked_ok = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        const std::string get10 = "GET / HTTP/1.0\r\n\r\n", got10 = "GET / HTTP/1.1\r\nHost: \r\n\r\n";
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
            {"1.0 with keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", got10, ok("x"),
             "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx"},
            {"chunks to 1.0 with keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", got10,
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
        gateway_rig rig;
        peer c, s;
        for (std::size_t at = 1; at < talk.request.size(); at++)
            hold(rig, c, s, talk, {at, SIZE_MAX}, {SIZE_MAX, SIZE_MAX});
        CHECK(rig.troubles.empty());
    }
}

TEST_CASE("every conversation goes through whichever way the response is cut in two") {
    for (const conversation& talk : conversations()) {
        INFO(talk.name);
        gateway_rig rig;
        peer c, s;
        for (std::size_t at = 1; at < talk.response.size(); at++)
            hold(rig, c, s, talk, {SIZE_MAX, SIZE_MAX}, {at, SIZE_MAX});
        CHECK(rig.troubles.empty());
    }
}

TEST_CASE("every conversation goes through byte by byte") {
    for (const conversation& talk : conversations()) {
        INFO(talk.name);
        gateway_rig rig;
        peer c, s;
        for (int again = 0; again < 2; again++) // on a fresh server connection, then on the same, if it stays
            hold(rig, c, s, talk, {1, 1}, {1, 1});
        CHECK(rig.troubles.empty());
    }
}

TEST_CASE("conversations of every kind follow each other on the same connections") {
    gateway_rig rig;
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

// --- large bodies

TEST_CASE("a large request body arrives whole, with a length and in chunks") {
    const std::string body = pattern(300'000);
    for (const bool chunked : {false, true}) {
        gateway_rig rig;
        peer c = rig.client();
        std::string request = post("/", body);
        if (chunked) {
            request = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
            for (std::size_t at = 0; at < body.size(); at += 1000)
                request += "3e8\r\n" + body.substr(at, 1000) + "\r\n";
            request += "0\r\n\r\n";
        }
        for (int again = 0; again < 2; again++) { // the second time on a connection that was idle
            peer s;
            std::string_view rest = request;
            std::optional<message> m;
            const bool done = rig.until([&] {
                if (!rest.empty()) rest.remove_prefix(c.say_some(rest));
                if (!s.open() && ready(rig.origins[0].fd.get(), POLLIN)) s = rig.server();
                return s.open() && (m = take_message(s.pull().got)).has_value();
            });
            REQUIRE(done);
            CHECK(shown(m->body) == shown(body));
            CHECK(m->is_chunked == chunked);
            s.say(ok("thanks", "Connection: close\r\n"));
            rig.expect(c, ok("thanks"));
        }
        CHECK(rig.at_rest());
    }
}

TEST_CASE("a large body arrives whole on a connection that was idle, where the request is kept for repeating") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.expect(s, get());
    s.say(ok());
    rig.expect(c, ok());
    const std::string body = pattern(300'000);
    const std::string request = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n" + body;
    std::string_view rest = request;
    REQUIRE(rig.until([&] {
        if (!rest.empty()) rest.remove_prefix(c.say_some(rest));
        return s.pull().got.size() >= request.size();
    }));
    CHECK(shown(s.got) == shown(request));
    CHECK(rig.conns.blocks().used() <= 1);
    s.say(ok("x"));
    rig.expect(c, ok("x"));
    CHECK(rig.idle_count() == 1);
}

TEST_CASE("a slow client: its server stops being read, one block is held, and every byte arrives") {
    const std::string body = pattern(1'000'000);
    for (const char* framing : {"length", "chunked", "until close"}) {
        INFO(framing);
        gateway_rig rig;
        peer c = rig.client();
        c.narrow();
        c.say(get());
        peer s = rig.server();
        rig.expect(s, get());
        s.narrow();
        rig.narrow_all();
        std::string response = "HTTP/1.1 200 OK\r\n";
        if (framing == "length"sv) response += "Content-Length: 1000000\r\n\r\n" + body;
        if (framing == "until close"sv) response += "\r\n" + body;
        if (framing == "chunked"sv) response += "Transfer-Encoding: chunked\r\n\r\nF4240\r\n" + body + "\r\n0\r\n\r\n";

        std::string_view rest = response;
        for (int idle = 0; idle < 20;) {
            const std::size_t n = s.say_some(rest);
            rest.remove_prefix(n);
            rig.settle();
            idle = n == 0 ? idle + 1 : 0;
            CHECK(rig.conns.blocks().used() <= 1);
        }
        CHECK(rest.size() > response.size() / 2); // the server was stopped
        CHECK(rig.conns.blocks().used() == 1);
        CHECK(rig.sleeps());

        std::optional<message> m;
        bool is_shut = false;
        REQUIRE(rig.until([&] {
            for (int i = 0; i < 50; i++) {
                rest.remove_prefix(s.say_some(rest));
                if (rest.empty() && !is_shut && framing == "until close"sv) {
                    is_shut = true;
                    s.shut();
                }
                c.pull(3000);
                rig.turn();
            }
            m = take_message(c.got);
            return m.has_value();
        }));
        CHECK(shown(m->body) == shown(body));
        CHECK(rig.at_rest());
        CHECK(rig.idle_count() == (framing == "until close"sv ? 0 : 1));
    }
}

TEST_CASE("a slow server: its client stops being read, one block is held, and every byte arrives") {
    const std::string body = pattern(1'000'000);
    for (const bool chunked : {false, true}) {
        gateway_rig rig;
        peer c = rig.client();
        c.narrow();
        std::string request = "POST / HTTP/1.1\r\nHost: h\r\n";
        if (chunked) request += "Transfer-Encoding: chunked\r\n\r\nF4240\r\n" + body + "\r\n0\r\n\r\n";
        else request += "Content-Length: 1000000\r\n\r\n" + body;
        std::string_view rest = request;
        rest.remove_prefix(c.say_some(rest.substr(0, 100)));
        peer s = rig.server();
        s.narrow();
        rig.settle();
        rig.narrow_all();

        for (int idle = 0; idle < 20;) {
            const std::size_t n = c.say_some(rest);
            rest.remove_prefix(n);
            rig.settle();
            idle = n == 0 ? idle + 1 : 0;
            CHECK(rig.conns.blocks().used() <= 2); // pending, and what was read beyond it
        }
        CHECK(rest.size() > request.size() / 2);
        CHECK(rig.sleeps());

        std::optional<message> m;
        REQUIRE(rig.until([&] {
            for (int i = 0; i < 50; i++) {
                rest.remove_prefix(c.say_some(rest));
                s.pull(3000);
                rig.turn();
            }
            m = take_message(s.got);
            return m.has_value();
        }));
        CHECK(shown(m->body) == shown(body));
        s.say(ok("x"));
        rig.expect(c, ok("x"));
        CHECK(rig.at_rest());
    }
}

TEST_CASE("a body and its answer stream both ways at once") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    peer s = rig.server();
    rig.expect(s, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    s.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n");
    rig.expect(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n");
    for (int i = 0; i < 3; i++) {
        c.say("2\r\nbb\r\n");
        rig.expect(s, "2\r\nbb\r\n");
        s.say("2\r\nBB\r\n");
        rig.expect(c, "2\r\nBB\r\n");
    }
    c.say("0\r\n\r\n");
    rig.expect(s, "0\r\n\r\n");
    s.say("0\r\n\r\n");
    rig.expect(c, "0\r\n\r\n");
    CHECK(rig.at_rest());
    CHECK(!c.ended());
    rig.expect_end(s, ending::reset); // answered before it had the body: not trusted with another request
}

TEST_CASE("heads of the largest size that a gateway may allow pass both ways, cut anywhere; one byte more does not") {
    const std::size_t most = http1_exchange::head_bytes_max;
    const http1_gateway_options options{.http = {.head = {.head_bytes_max = static_cast<std::uint32_t>(most)}}};
    for (const std::size_t size : {most, most + 1}) {
        for (const std::size_t at : {std::size_t{1}, std::size_t{100}, most / 2, most - 1}) {
            INFO(at);
            gateway_rig rig{options};
            peer c = rig.client();
            const std::string request = get("/", "X: " + std::string(size - get().size() - 5, 'x') + "\r\n");
            REQUIRE(request.size() == size);
            rig.say_in_pieces(c, request, at);
            if (size > most) {
                CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 431 "));
                continue;
            }
            peer s = rig.server();
            rig.expect(s, request);
            const std::string response = ok("", "X: " + std::string(size - ok().size() - 5, 'x') + "\r\n");
            rig.say_in_pieces(s, response, at);
            rig.expect(c, response);
            c.say(get());
            rig.expect(s, get());
            rig.say_in_pieces(s, ok("", "X: " + std::string(size - ok().size() - 4, 'x') + "\r\n"), at);
            rig.expect(c, bad_gateway());
        }
    }
}

// --- pipelining

TEST_CASE("a thousand pipelined requests and a FIN are answered, in order") {
    // 62, 64, 128: a read of the gateway's ends exactly between two of them.
    for (const std::size_t size : {38u, 62u, 64u, 100u, 128u}) {
        INFO(size);
        gateway_rig rig{{.http = {.keep_alive_requests = 2000}}};
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
    gateway_rig rig;
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

TEST_CASE("a client that half-closed after its request is answered") {
    gateway_rig rig;
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

// --- upgrade

const std::string upgrade_request = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: toy\r\n\r\n";
const std::string upgrade_response = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: toy\r\n\r\n";

TEST_CASE("after a 101 the connections are a tunnel, with what each side said early") {
    for (std::size_t at = 1; at < upgrade_response.size(); at += 7) {
        gateway_rig rig;
        peer c = rig.client();
        c.say("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: toy\r\n\r\nearly client;");
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
    for (const std::string& request : {get(), "GET / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: toy\r\n\r\n"s,
                                       "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: toy\r\n\r\n"s}) {
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
    c.say("POST /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: toy\r\nContent-Length: 9\r\n\r\nbody");
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
    const std::string request = "POST /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: toy\r\nContent-Length: 100000\r\n\r\n";
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
    rig.pass(milliseconds{1});
    rig.expect_end(c, ending::reset);
    rig.expect_end(s, ending::reset);
}

TEST_CASE("no tunnel is left: both are closed") {
    gateway_rig rig{{.tunnels_max = 1}};
    std::vector<peer> held;
    for (int i = 0; i < 2; i++) {
        held.push_back(rig.client());
        held.back().say(upgrade_request);
        held.push_back(rig.server());
        held.back().say(upgrade_response);
        rig.settle();
    }
    CHECK(!held[0].ended());
    CHECK(held[2].ended());
    CHECK(held[3].ended());
    CHECK(rig.ended(end_cause::no_room) == 1);
}

// --- the final response comes early, or the server goes

TEST_CASE("a final response while the body is being sent is delivered; both connections end") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nfirst");
    peer s = rig.server();
    rig.expect(s, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nfirst");
    s.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!");
    rig.expect_end(s, ending::reset);
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!");
    CHECK(c.end == ending::fin);
    c.say("more of the body that nobody wants"); // lingering: no reset comes of it
    rig.settle();
    c.got.clear();
    CHECK(c.pull().got == "");
    CHECK(c.end == ending::fin);
    CHECK(rig.idle_count() == 0);
    CHECK(rig.conns.live_count() == 1);
    c.close();
    CHECK(rig.until([&] { return rig.conns.live_count() == 0; }));
}

TEST_CASE("a lingering client is let go after its time") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nfirst");
    peer s = rig.server();
    s.say(ok("x"));
    rig.settle();
    rig.pass(seconds{2} - milliseconds{1});
    CHECK(rig.conns.live_count() == 1);
    rig.pass(milliseconds{1});
    CHECK(rig.conns.live_count() == 0);
}

TEST_CASE("a server that answers and closes with the body unread: the answer is delivered") {
    // Scenario 33: its close resets the connection under what the gateway still sends.
    for (const std::size_t body_bytes : {100'000u, 1'000'000u}) {
        gateway_rig rig;
        peer c = rig.client();
        const std::string body = pattern(body_bytes);
        const std::string request = post("/", body);
        std::string_view rest = request;
        rest.remove_prefix(c.say_some(rest.substr(0, 60'000)));
        peer s = rig.server();
        rig.settle();
        s.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope");
        s.close();
        (void)rig.until([&] {
            if (c.end == ending::none) rest.remove_prefix(c.say_some(rest.substr(0, 4000)));
            return c.ended();
        });
        CHECK(c.got == "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope");
        CHECK(rig.idle_count() == 0);
        CHECK(rig.gateway->active_count() == 0);
    }
}

TEST_CASE("a server that answers and closes while a send is under way: the answer is delivered") {
    // The reset is met by a send, before any report: what the server said before is still in the socket.
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nfirst");
    peer s = rig.server();
    rig.expect(s, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nfirst");
    c.say("second");
    rig.settle();
    c.say("third");
    s.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope");
    s.close(); // "second" is unread: a reset
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope");
    CHECK(c.end == ending::fin);
}

TEST_CASE("bytes behind the response keep its connection out of the pool") {
    for (const std::string& response :
         {ok("x") + "y", "HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\ny"s, "HTTP/1.1 304 Not Modified\r\n\r\ny"s,
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\ny"s, ok("x") + ok("y")}) {
        INFO(response);
        gateway_rig rig;
        peer c = rig.client();
        c.say(get());
        peer s = rig.server();
        s.say(response);
        rig.settle();
        CHECK(s.ended());
        CHECK(rig.idle_count() == 0);
        CHECK(rig.ended(end_cause::protocol) == 1);
        CHECK(!c.ended());
        c.got.clear();
        c.say(get("/2"));
        peer t = rig.server();
        rig.expect(t, get("/2"));
        t.say(ok("right"));
        rig.expect(c, ok("right"));
    }
}

TEST_CASE("bytes behind the response that come right after it was parked kill the connection") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say(ok("x"));
    rig.expect(c, ok("x"));
    CHECK(rig.idle_count() == 1);
    s.say("y");
    rig.settle();
    CHECK(rig.idle_count() == 0);
    CHECK(rig.ended(end_cause::idle_unsolicited) == 1);
}

TEST_CASE("a response that breaks the rules is a 502, and its connection is closed") {
    for (const char* response : {
             "nonsense\r\n\r\n",
             "HTTP/1.1 99 Low\r\n\r\n",
             "HTTP/1.1 600 High\r\n\r\n",
             "HTTP/2.0 200 OK\r\n\r\n",
             "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
             "HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nok",
             "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
             "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
             "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
             "HTTP/1.1 200 OK\nX: a\n\n",
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
         }) {
        INFO(response);
        gateway_rig rig;
        peer c = rig.client();
        c.say(get("/what"));
        peer s = rig.server();
        s.say(response);
        rig.expect(c, bad_gateway());
        rig.settle();
        CHECK(s.ended());
        CHECK(rig.idle_count() == 0);
        CHECK(rig.counters().failed == 1);
        CHECK(rig.ended(end_cause::protocol) == 1);
        REQUIRE(rig.troubles.size() == 1);
        CHECK(rig.troubles[0].starts_with("502 \"GET /what\" upstream 127.0.0.1:"));
        CHECK(!c.ended()); // it stays, and is served again
        CHECK(rig.at_rest());
    }
}

TEST_CASE("seventeen interim responses are a 502, sixteen are not") {
    for (const int count : {16, 17}) {
        gateway_rig rig;
        peer c = rig.client();
        c.say("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        peer s = rig.server();
        for (int i = 0; i < count; i++) {
            s.say("HTTP/1.1 102 Processing\r\n\r\n");
            rig.settle();
        }
        if (!s.ended()) s.say(ok(""));
        const message m = rig.expect_message(c);
        CHECK(m.head.substr(9, 3) == (count == 16 ? "200" : "502"));
    }
}

TEST_CASE("a response that is cut off is cut off for the client too") {
    struct {
        const char* request;
        const char* response;
        const char* delivered;
        ending how;
    } const cases[] = {
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
         "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", ending::fin},
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", ending::fin},
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", ending::fin},
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n",
         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", ending::fin},
        // Nothing in the message would tell where its end is: the connection must.
        {"GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
         "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhel", ending::reset},
    };
    for (const auto& each : cases) {
        INFO(each.response);
        const auto& [request, response, delivered, how] = each;
        gateway_rig rig;
        peer c = rig.client();
        c.say(request);
        peer s = rig.server();
        s.say(response);
        rig.settle();
        c.pull();
        CHECK(shown(c.got) == shown(delivered));
        CHECK(c.end == ending::none);
        s.shut();
        (void)rig.until([&] { return c.ended(); });
        CHECK(shown(c.got) == shown(delivered));
        CHECK(c.end == how);
        CHECK(rig.counters().truncated == 1);
        CHECK(rig.counters().responses == 0);
        CHECK(rig.troubles.size() == 1);
        CHECK(rig.gateway->active_count() == 0);
    }
}

TEST_CASE("a reset is no end of a response until close") {
    for (const bool is_old : {false, true}) {
        gateway_rig rig;
        peer c = rig.client();
        c.say(is_old ? "GET / HTTP/1.0\r\n\r\n" : get());
        peer s = rig.server();
        rig.settle();
        s.pull();
        s.say("HTTP/1.1 200 OK\r\n\r\nhel");
        rig.settle();
        s.reset();
        (void)rig.until([&] { return c.ended(); });
        CHECK(c.end == (is_old ? ending::reset : ending::fin));
        CHECK(c.got.find("0\r\n\r\n") == c.got.npos);
        CHECK(rig.counters().truncated == 1);
    }
}

TEST_CASE("a chunk that breaks the rules in the middle cuts the response off") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n");
    rig.settle();
    s.say("zz\r\n");
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n");
    CHECK(c.end == ending::fin);
    CHECK(rig.ended(end_cause::protocol) == 1);
}

TEST_CASE("a head that is cut off is a 502") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say("HTTP/1.1 200 OK\r\nContent-");
    rig.settle();
    s.shut();
    rig.expect(c, bad_gateway());
    CHECK(rig.troubles.at(0).ends_with("the response's head was cut off"));
}

TEST_CASE("a fresh connection that closes without a byte is a 502, and nothing is sent twice") {
    for (const std::string& request : {get(), post("/", "x")}) {
        gateway_rig rig;
        peer c = rig.client();
        c.say(request);
        peer s = rig.server();
        rig.expect(s, request);
        s.close();
        rig.expect(c, bad_gateway());
        CHECK(!rig.has_dialed());
        CHECK(rig.counters().repeated == 0);
    }
}

// --- the client goes

TEST_CASE("a client that aborts takes its server connection with it, in every phase") {
    const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n";
    struct {
        const char* phase;
        std::string said, answered;
    } const phases[] = {
        {"the head", "GET / HT", ""},
        {"the body", head + "12345", ""},
        {"a chunked body", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", ""},
        {"waiting", get(), ""},
        {"waiting, body sent", head + "1234567890", ""},
        {"after an interim response", get(), "HTTP/1.1 103 Early Hints\r\n\r\n"},
        {"the response's head", get(), "HTTP/1.1 200"},
        {"the response", get(), "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"},
        {"a chunked response", get(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12"},
        {"a response until close", get(), "HTTP/1.1 200 OK\r\n\r\n12345"},
        {"both ways", head + "12", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"},
    };
    for (const auto& each : phases) {
        INFO(each.phase);
        const auto& [phase, said, answered] = each;
        for (const bool reused : {false, true}) {
            gateway_rig rig;
            peer c = rig.client(), s;
            if (reused) {
                c.say(get());
                s = rig.server();
                s.say(ok());
                rig.expect(c, ok());
            }
            c.say(said);
            if (said.size() > 10 && !s.open()) s = rig.server();
            rig.settle();
            if (!answered.empty()) s.say(answered);
            rig.settle();
            c.reset();
            rig.settle();
            if (said.size() > 10) CHECK(s.ended());
            CHECK(rig.idle_count() == (said.size() > 10 || !reused ? 0 : 1));
            CHECK(rig.gateway->clients_count() == 0);
            CHECK(rig.at_rest());
            CHECK(rig.ended(end_cause::peer_failed) == 1);
        }
    }
}

TEST_CASE("a client that goes while its server is being dialed ends the dial") {
    gateway_rig rig{{}, {.origins = {origin_state::swallowing}}};
    peer c = rig.client();
    c.say(get());
    rig.settle();
    CHECK(rig.conns.live_count() == 2);
    c.reset();
    rig.settle();
    CHECK(rig.conns.live_count() == 0);
    CHECK(rig.at_rest());
}

TEST_CASE("a client that ends its side in the middle of a body is gone, and so is its server connection") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345");
    peer s = rig.server();
    rig.settle();
    c.shut();
    rig.settle();
    CHECK(s.ended());
    CHECK(s.end == ending::reset); // it must not take what it has for the whole
    CHECK(rig.idle_count() == 0);
    CHECK(rig.counters().abandoned == 1);
}

TEST_CASE("a client that aborts while its answer waits to be sent takes all with it") {
    gateway_rig rig;
    peer c = rig.client();
    c.narrow();
    c.say(get());
    peer s = rig.server();
    rig.settle();
    rig.narrow_all();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n");
    for (int i = 0; i < 40; i++) {
        s.say_some(pattern(5000));
        rig.settle();
    }
    CHECK(rig.conns.blocks().used() == 1);
    c.reset();
    rig.settle();
    CHECK(s.ended());
    CHECK(rig.conns.live_count() == 0);
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

TEST_CASE("a body that breaks the rules later closes the server connection as well") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    peer s = rig.server();
    rig.settle();
    c.say("zz\r\n");
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 400 "));
    rig.settle();
    s.pull();
    CHECK(s.end == ending::reset);
    CHECK(s.got.find("0\r\n\r\n") == s.got.npos);
    CHECK(rig.at_rest());
}

TEST_CASE("a body of the largest size passes, one byte more is 413, with a length and in chunks") {
    const http1_gateway_options options{.http = {.body_bytes_max = 10}};
    for (const std::size_t size : {10u, 11u}) {
        for (const bool chunked : {false, true}) {
            INFO(size);
            gateway_rig rig{options};
            peer c = rig.client();
            const std::string body(size, 'x');
            if (chunked) c.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nxxxxx\r\n" + (size == 10 ? "5\r\nxxxxx"s : "6\r\nxxxxxx"s) + "\r\n0\r\n\r\n");
            else c.say(post("/", body));
            if (size == 10) {
                peer s = rig.server();
                CHECK(rig.expect_message(s).body == body);
                s.say(ok("x"));
                rig.expect(c, ok("x"));
                continue;
            }
            CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 413 "));
            rig.expect_end(c, ending::fin);
        }
    }
}

TEST_CASE("a body whose length is too large is refused before a server is asked") {
    gateway_rig rig{{.http = {.body_bytes_max = 10}}};
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n");
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 413 "));
    rig.expect_end(c, ending::fin);
    CHECK(rig.counters().fresh == 0);
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

// --- shortage

TEST_CASE("without a block for the request's head: 503, and the connection closes") {
    gateway_rig rig;
    held_blocks held{rig.conns.blocks()};
    held.all_but(0);
    for (const std::string& said : {get(), "GET / HT"s, get() + get()}) {
        INFO(said);
        peer c = rig.client();
        c.say(said);
        CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"));
        rig.expect_end(c, ending::fin);
        CHECK(!rig.has_dialed());
    }
    CHECK(rig.counters().shed == 3);
}

TEST_CASE("whenever the blocks run out, the request fails or is cut off, and nothing is left behind") {
    // All but `spare` blocks are gone from the start, or from when the request is under way.
    for (const bool later : {false, true}) {
        for (std::size_t spare = 0; spare < 4; spare++) {
            INFO(spare);
            INFO(later);
            gateway_rig rig;
            held_blocks held{rig.conns.blocks()};
            if (!later) held.all_but(spare);
            peer c = rig.client(), s;
            c.narrow();
            c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n");
            rig.settle();
            if (later) {
                s = rig.server();
                rig.settle();
                rig.narrow_all();
                held.all_but(spare);
            }
            const std::string body = pattern(400'000);
            std::string_view to_server = body, to_client = body;
            s.narrow();
            bool is_answering = false;
            for (int i = 0; i < 400 && rig.gateway->active_count() > 0; i++) {
                rig.settle();
                if (!s.open() && ready(rig.origins[0].fd.get(), POLLIN)) s = rig.server();
                to_server.remove_prefix(c.say_some(to_server));
                if (i < 100) continue; // the server does not read at first
                if (s.open()) s.pull(10'000);
                if (s.got.size() >= body.size() && !is_answering) {
                    is_answering = true;
                    (void)s.say_some("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n");
                }
                if (is_answering) to_client.remove_prefix(s.say_some(to_client));
                if (i > 250) c.pull(20'000);
            }
            c.close();
            s.close();
            CHECK(rig.until([&] { return rig.gateway->active_count() == 0; }));
            CHECK(rig.conns.blocks().used() == held.blocks.size());
        }
    }
}

TEST_CASE("without a block for what a slow client leaves, its answer is cut off for want of room") {
    gateway_rig rig;
    peer c = rig.client();
    c.narrow();
    c.say(get());
    peer s = rig.server();
    rig.settle();
    rig.narrow_all();
    held_blocks held{rig.conns.blocks()};
    held.all_but(0);
    // the request's own block is given back when the response begins: take that as well
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n");
    rig.settle();
    held.all_but(0);
    const std::string body = pattern(400'000);
    std::string_view rest = body;
    CHECK(rig.until([&] {
        rest.remove_prefix(s.say_some(rest));
        return rig.gateway->active_count() == 0;
    }));
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.end == ending::reset);
    CHECK(rig.ended(end_cause::no_room) == 1);
}

TEST_CASE("without a block for what a slow server leaves: 503") {
    gateway_rig rig;
    peer c = rig.client();
    c.narrow();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n");
    peer s = rig.server();
    s.narrow();
    rig.settle();
    rig.narrow_all();
    held_blocks held{rig.conns.blocks()};
    held.all_but(0);
    const std::string body = pattern(400'000);
    std::string_view rest = body;
    (void)rig.until([&] {
        rest.remove_prefix(c.say_some(rest));
        return rig.gateway->active_count() == 0;
    });
    CHECK(rig.gateway->active_count() == 0);
    c.pull();
    CHECK(c.got.starts_with("HTTP/1.1 503 "));
    CHECK(rig.counters().shed == 1);
}

TEST_CASE("pipelined bytes that found no block are not taken for another request") {
    // The answer to the first one must end the connection: what was lost may have begun anywhere.
    gateway_rig rig;
    held_blocks held{rig.conns.blocks()};
    held.all_but(1);
    peer c = rig.client();
    c.say(get("/1") + "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\n"); // one block for /1, none for /2
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 503 "));
    rig.expect_end(c, ending::fin);
    CHECK(rig.counters().requests == 1);
}

// Answers fill the client's socket until `full()`.
template <class Condition>
void fill(gateway_rig& rig, peer& c, peer& s, Condition full) {
    c.narrow();
    rig.narrow_all();
    c.say(get());
    s = rig.server();
    for (int i = 0; i < 300; i++) {
        rig.expect(s, get());
        s.say(ok(pattern(2500)));
        rig.settle();
        if (full()) return;
        c.say(get());
    }
    FAIL("the client's socket is never full");
}

TEST_CASE("a client that does not take the tail of its answer is cut off after the write timeout") {
    gateway_rig rig;
    peer c = rig.client(), s;
    fill(rig, c, s, [&] { return rig.conns.blocks().used() > 0; }); // the tail waits in a block
    CHECK(rig.gateway->active_count() == 1);
    CHECK(rig.idle_count() == 1); // its server is done with it
    rig.pass(seconds{30} - milliseconds{1});
    CHECK(rig.gateway->active_count() == 1);
    rig.pass(milliseconds{1});
    CHECK(rig.gateway->active_count() == 0);
    CHECK(rig.ended(end_cause::timed_out) == 1);
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.end == ending::reset);
    CHECK(c.got.find("408") == c.got.npos);
    CHECK(rig.counters().refused == 0);
}

const gateway_rig::setup choking{.clients = &choked_xprt};

TEST_CASE("a refusal that cannot be sent at once does not go on to ask a server") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    rig.choke_clients();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    rig.settle();
    CHECK(rig.counters().refused == 1);
    CHECK(rig.gateway->active_count() == 1);
    CHECK(!rig.has_dialed());
    CHECK(rig.counters().fresh == 0);
    rig.let_clients_take();
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    rig.expect_end(c, ending::fin);
    CHECK(rig.at_rest());
}

TEST_CASE("a refusal in the middle of a body that cannot be sent at once is sent later") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    peer s = rig.server();
    rig.settle();
    rig.choke_clients();
    c.say("zz\r\n" + get());
    rig.settle();
    CHECK(s.ended());
    rig.let_clients_take();
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    rig.expect_end(c, ending::fin);
    CHECK(rig.at_rest());
    CHECK(rig.counters().fresh == 1);
}

TEST_CASE("after an interim response that had to wait, the body has its deadline again") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
    peer s = rig.server();
    rig.choke_clients();
    s.say("HTTP/1.1 103 Early Hints\r\n\r\n");
    rig.settle();
    rig.pass(seconds{25});
    rig.let_clients_take();
    rig.expect(c, "HTTP/1.1 103 Early Hints\r\n\r\n");
    rig.pass(seconds{30} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect(c, own_answer(408, "Request Timeout", "408 Request Timeout: the request's body stalled\n", closes));
}

TEST_CASE("a client that takes a little of its answer has its whole time again") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.choke_clients();
    s.say(ok("hello"));
    rig.settle();
    rig.pass(seconds{29});
    rig.let_clients_take(4);
    rig.expect(c, "HTTP");
    rig.pass(seconds{30} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect_end(c, ending::reset);
}

TEST_CASE("an early answer that a client does not take has its deadline when the request's body ends, too") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
    peer s = rig.server();
    rig.choke_clients();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst");
    rig.settle();
    c.say("4567890");
    rig.settle();
    rig.pass(seconds{30} - milliseconds{1});
    CHECK(rig.gateway->active_count() == 1);
    rig.pass(milliseconds{1});
    CHECK(rig.gateway->active_count() == 0);
    CHECK(rig.ended(end_cause::timed_out) == 1);
}

TEST_CASE("interim responses that a client does not take wait in their server's socket") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.choke_clients();
    const std::string hint = "HTTP/1.1 103 Early Hints\r\nLink: " + pattern(5000) + "\r\n\r\n";
    std::string all;
    for (int i = 0; i < 10; i++) {
        s.say(hint);
        rig.settle();
        all += hint;
    }
    CHECK(rig.conns.blocks().used() <= 2);
    s.say(ok("done"));
    rig.let_clients_take();
    rig.expect(c, all + ok("done"));
    CHECK(rig.at_rest());
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

TEST_CASE("a send to the server that fails for a reason that recv never shows ends the request") {
    // ENOMEM, say: nothing comes after it, neither bytes nor an end.
    for (const bool is_answering : {false, true}) {
        gateway_rig rig;
        peer c = rig.client();
        c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
        peer s = rig.server();
        if (is_answering) s.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
        rig.settle();
        c.pull().got.clear();
        rig.conn_of("http1-server").fail(ENOMEM);
        rig.settle();
        CHECK(rig.gateway->active_count() == 0);
        CHECK(s.ended());
        c.pull();
        CHECK(c.got == (is_answering ? "" : bad_gateway(closes)));
    }
}

// --- deadlines: at T, and not a millisecond before

TEST_CASE("a client that says nothing at all is closed in silence") {
    gateway_rig rig;
    peer c = rig.client();
    rig.pass(seconds{10} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect_end(c, ending::fin);
    CHECK(rig.ended(end_cause::timed_out) == 0); // it lingers
    c.close();
    CHECK(rig.until([&] { return rig.ended(end_cause::timed_out) == 1; }));
}

TEST_CASE("a head must be there ten seconds after its first byte, however it drips: 408") {
    for (const bool is_first : {true, false}) {
        INFO(is_first);
        gateway_rig rig;
        peer c = rig.client(), s;
        if (!is_first) {
            c.say(get());
            s = rig.server();
            s.say(ok());
            rig.expect(c, ok());
            rig.pass(seconds{55}); // close to the keep-alive timeout, which no longer counts
        } else {
            rig.pass(seconds{5});
        }
        c.say("GET / HTTP/1.1\r\n");
        rig.settle();
        for (int i = 0; i < 9; i++) {
            rig.pass(seconds{1});
            c.say("X: y\r\n");
            rig.expect_silence(c);
        }
        rig.pass(milliseconds{999});
        rig.expect_silence(c);
        rig.pass(milliseconds{1});
        rig.expect(c, own_answer(408, "Request Timeout", "408 Request Timeout: the request's head took too long\n", closes));
        rig.expect_end(c, ending::fin);
        CHECK(rig.at_rest());
    }
}

TEST_CASE("a head that is complete in time is served, however long that takes") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("GET / HTTP/1.1\r\n");
    rig.pass(seconds{9});
    c.say("Host: h\r\n\r\n");
    peer s = rig.server();
    rig.pass(seconds{59});
    s.say(ok("x"));
    rig.expect(c, ok("x"));
}

TEST_CASE("a body that stalls is a 408 after its time") {
    const auto stalls = [](bool reused, std::string_view early) {
        gateway_rig rig;
        peer c = rig.client(), s;
        if (reused) {
            c.say(get());
            s = rig.server();
            s.say(ok());
            rig.expect(c, ok());
        }
        rig.pass(seconds{7});
        c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
        if (!reused) s = rig.server();
        rig.settle();
        if (!early.empty()) {
            s.say(early);
            rig.expect(c, early);
        }
        for (int i = 0; i < 3; i++) {
            c.say(pattern(40'000 / 2));
            rig.settle();
            s.pull(); // records need more room than their bytes
            rig.settle();
            rig.pass(seconds{29});
        }
        rig.pass(milliseconds{999});
        rig.expect_silence(c);
        s.pull();
        CHECK(s.end == ending::none);
        rig.pass(milliseconds{1});
        rig.expect(c, own_answer(408, "Request Timeout", "408 Request Timeout: the request's body stalled\n", closes));
        rig.expect_end(c, ending::fin);
        CHECK(s.ended());
        CHECK(rig.at_rest());
    };
    stalls(false, "");
    stalls(true, "");
    stalls(false, "HTTP/1.1 100 Continue\r\n\r\n");
}

TEST_CASE("a body that is all there in time has no deadline any more") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(post("/", "x"));
    peer s = rig.server();
    rig.pass(seconds{59});
    s.say(ok("x"));
    rig.expect(c, ok("x"));
}

TEST_CASE("a body slower than the least rate is a 408, one that just makes it is not") {
    for (const std::size_t bytes : {1024u * 3 - 1, 1024u * 3}) {
        INFO(bytes);
        gateway_rig rig; // 30 s of 1 KB/s; a read every 3 s
        peer c = rig.client();
        c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
        peer s = rig.server();
        rig.settle();
        const std::string piece(bytes, 'x');
        for (int i = 0; i < 9; i++) {
            rig.pass(seconds{3});
            c.say(piece);
            rig.expect_silence(c);
        }
        rig.pass(seconds{3});
        c.say(piece);
        rig.settle();
        c.pull();
        CHECK(c.got.starts_with("HTTP/1.1 408 ") == (bytes < 1024 * 3));
        CHECK(c.got.empty() == (bytes >= 1024 * 3));
    }
}

TEST_CASE("a body held up by its server is not the client's fault") {
    // Neither the stall nor the rate: what the client sends waits in its socket, unread.
    gateway_rig rig{{.http = {.body_timeout = seconds{10}, .first_byte_timeout = seconds{60}}}};
    peer c = rig.client();
    c.narrow();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 400001\r\n\r\n");
    peer s = rig.server();
    s.narrow();
    rig.settle();
    rig.narrow_all();
    const std::string body = pattern(400'000);
    std::string_view rest = body;
    for (int i = 0; i < 50; i++) {
        rest.remove_prefix(c.say_some(rest));
        rig.settle();
    }
    REQUIRE(!rest.empty());
    rig.pass(seconds{59}); // the server reads nothing
    rig.expect_silence(c);
    REQUIRE(rig.until([&] {
        for (int i = 0; i < 50; i++) {
            rest.remove_prefix(c.say_some(rest));
            s.pull(5000);
            rig.turn();
        }
        return rest.empty() && s.got.size() >= body.size() + 30;
    }));
    rig.pass(seconds{10} - milliseconds{1}); // from here on it is: one byte is missing
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect(c, own_answer(408, "Request Timeout", "408 Request Timeout: the request's body stalled\n", closes));
}

TEST_CASE("a server that takes no more of a body is a 504") {
    gateway_rig rig;
    peer c = rig.client();
    c.narrow();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n");
    peer s = rig.server();
    s.narrow();
    rig.settle();
    rig.narrow_all();
    const std::string body = pattern(400'000);
    std::string_view rest = body;
    for (int i = 0; i < 50; i++) {
        rest.remove_prefix(c.say_some(rest));
        rig.settle();
    }
    REQUIRE(!rest.empty());
    rig.pass(seconds{60} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect(c, gateway_timeout(closes));
    CHECK(rig.ended(end_cause::timed_out) == 1);
}

TEST_CASE("a server that does not accept is a 504 after the connect timeout") {
    gateway_rig rig{{}, {.origins = {origin_state::swallowing}}};
    peer c = rig.client();
    c.say(get());
    rig.settle();
    rig.pass(seconds{5} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect(c, gateway_timeout());
    CHECK(rig.ended(end_cause::connect_timed_out) == 1);
    CHECK(rig.troubles.size() == 1);
    CHECK(!c.ended());
}

TEST_CASE("a server that does not answer is a 504 after the first-byte timeout") {
    for (const bool reused : {false, true}) {
        gateway_rig rig{{.idle = {.age_max = seconds{1000}}}};
        peer c = rig.client(), s;
        if (reused) {
            c.say(get());
            s = rig.server();
            s.say(ok());
            rig.expect(c, ok());
            rig.pass(seconds{7});
        }
        c.say(get());
        if (!reused) s = rig.server();
        rig.settle();
        rig.pass(seconds{60} - milliseconds{1});
        rig.expect_silence(c);
        rig.pass(milliseconds{1});
        rig.expect(c, gateway_timeout());
        rig.settle();
        CHECK(s.ended());
        CHECK(rig.ended(end_cause::timed_out) == 1);
        CHECK(!rig.has_dialed()); // it may have seen the request: not repeated
        CHECK(!c.ended());
    }
}

TEST_CASE("a response that stalls is cut off after the first-byte timeout") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1");
    rig.settle();
    rig.pass(seconds{40});
    s.say("2");
    rig.settle();
    rig.pass(seconds{60} - milliseconds{1});
    rig.expect(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12");
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect_end(c, ending::fin);
    CHECK(s.ended());
    CHECK(rig.counters().truncated == 1);
    CHECK(rig.ended(end_cause::timed_out) == 1);
}

TEST_CASE("a client that takes nothing of its answer is cut off after the write timeout") {
    gateway_rig rig{{.http = {.first_byte_timeout = seconds{5}}}}; // the server waits for the client: not its deadline
    peer c = rig.client();
    c.narrow();
    c.say(get());
    peer s = rig.server();
    rig.settle();
    rig.narrow_all();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n");
    const std::string body = pattern(400'000);
    std::string_view rest = body;
    const auto fill = [&] {
        for (int i = 0; i < 50; i++) {
            rest.remove_prefix(s.say_some(rest));
            rig.settle();
        }
    };
    fill();
    rig.pass(seconds{29});
    (void)rig.until([&] { return c.pull(4000).got.size() > 100'000; }); // it takes some: a new deadline
    fill();
    c.got.clear();
    rig.pass(seconds{30} - milliseconds{1});
    CHECK(rig.gateway->active_count() == 1);
    rig.pass(milliseconds{1});
    CHECK(rig.gateway->active_count() == 0);
    CHECK(s.ended());
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.end == ending::reset);
    CHECK(rig.ended(end_cause::timed_out) == 1);
    CHECK(rig.at_rest());
}

TEST_CASE("a client idle between requests gets a silent FIN after the keep-alive timeout") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say(ok());
    rig.expect(c, ok());
    rig.pass(seconds{60} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect_end(c, ending::fin);
    CHECK(rig.gateway->clients_count() == 0);
}

TEST_CASE("a body and its answer that both stall are ended") {
    // The answer has begun before the body's end: neither side's deadline may wait for the other's.
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
    peer s = rig.server();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
    rig.expect(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
    for (int i = 0; i < 20 && rig.gateway->active_count() > 0; i++)
        rig.pass(seconds{30});
    CHECK(rig.gateway->active_count() == 0);
    CHECK(c.ended());
    CHECK(s.ended());
}

TEST_CASE("a body that comes too slowly while its answer is under way is cut off, not answered twice") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
    peer s = rig.server();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
    rig.expect(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
    for (int i = 0; i < 4 && rig.gateway->active_count() > 0; i++) {
        rig.pass(seconds{20});
        if (!c.ended()) c.say("x");
        rig.settle();
    }
    CHECK(rig.gateway->active_count() == 0);
    CHECK(c.pull().got == "");
    CHECK(c.ended());
    CHECK(s.ended());
}

TEST_CASE("a deadline that passed unused does not keep later ones from firing" *
          raw_only(side::clients, "the least rate is just kept if each piece is read at once")) {
    // The timer fires while nothing is expected of the client; then the client is expected to go on with its body.
    gateway_rig rig;
    peer c = rig.client();
    rig.pass(seconds{5});
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    peer s = rig.server();
    rig.settle();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1");
    rig.settle();
    for (int i = 0; i < 9; i++) {
        rig.pass(seconds{10});
        c.say(pattern(10'240));
        s.say("1");
        rig.settle();
    }
    CHECK(rig.gateway->active_count() == 1);
    c.pull().got.clear();
    rig.pass(seconds{30} - milliseconds{1});
    CHECK(rig.gateway->active_count() == 1);
    rig.pass(milliseconds{1});
    CHECK(rig.gateway->active_count() == 0);
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == "");
}

} // namespace
