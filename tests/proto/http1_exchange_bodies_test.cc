// http1_exchange, through a gateway: large bodies, slow readers of them, and bodies that are refused.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

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
        CHECK(rig.until([&] { return rig.sleeps(); })); // a window probe may carry a few bytes on

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
        CHECK(rig.until([&] { return rig.sleeps(); })); // a window probe may carry a few bytes on

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

// --- bodies that are refused

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

} // namespace
