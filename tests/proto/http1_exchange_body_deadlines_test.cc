// http1_exchange, through a gateway: how long a client may take for a request's body.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

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

TEST_CASE("who waits for a 100 has its server's time for that, and its own from the 100 or the first byte on") {
    const std::string request = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n";
    const std::string go = "HTTP/1.1 100 Continue\r\n\r\n", hints = "HTTP/1.1 103 Early Hints\r\n\r\n";
    const std::string stalled = own_answer(408, "Request Timeout", "408 Request Timeout: the request's body stalled\n", closes);
    for (const bool reused : {false, true}) {
        for (const char* how : {"100", "103", "byte", "nothing"}) {
            INFO(how);
            gateway_rig rig;
            peer c = rig.client(), s;
            if (reused) {
                c.say(get());
                s = rig.server();
                s.say(ok());
                rig.expect(c, ok());
            }
            c.say(request);
            if (!reused) s = rig.server();
            rig.settle();
            rig.pass(seconds{60} - milliseconds{1});
            rig.expect_silence(c);
            if (how == "103"sv) {
                s.say(hints);
                rig.expect(c, hints);
                rig.pass(seconds{60} - milliseconds{1});
                rig.expect_silence(c);
            }
            if (how == "100"sv) {
                s.say(go);
                rig.expect(c, go);
            }
            const bool is_told = how == "100"sv || how == "byte"sv;
            if (how == "byte"sv) c.say("x");
            rig.settle();
            if (is_told) rig.pass(seconds{30} - milliseconds{1});
            rig.expect_silence(c);
            rig.pass(is_told ? milliseconds{1} : rig.lateness_max(seconds{60}));
            rig.expect(c, is_told ? stalled : gateway_timeout(closes));
            rig.expect_end(c, ending::fin);
            CHECK(rig.at_rest());
        }
    }
}

TEST_CASE("the time in which a client waited for its 100 is none in which it was slow") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n");
    peer s = rig.server();
    rig.pass(seconds{50});
    s.say("HTTP/1.1 100 Continue\r\n\r\n");
    rig.expect(c, "HTTP/1.1 100 Continue\r\n\r\n");
    c.say("x");
    rig.expect_silence(c);
    rig.pass(seconds{29});
    c.say("x");
    rig.expect_silence(c);
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

TEST_CASE("bytes of a body that came while the process stood still are counted before the rate is judged") {
    gateway_rig rig; // 30 KB in 30 s; one read takes less
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    peer s = rig.server();
    rig.settle();

    c.say(pattern(40'000));
    rig.clock.advance(seconds{31}); // in one step
    rig.turn();

    rig.expect_silence(c);
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

TEST_CASE("a chunked body may be as slow as it likes within its time, unless a least rate is asked for") {
    for (const std::uint32_t rate : {0u, 100u}) {
        INFO(rate);
        gateway_rig rig{{.http = {.chunked_rate_min = rate}}};
        peer c = rig.client();
        c.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        peer s = rig.server();
        for (int i = 0; i < 9; i++) {
            rig.pass(seconds{20});
            if (i == 2 && rate > 0) break; // a window of 30 s is over, and had two bytes
            c.say("1\r\nx\r\n");
            rig.settle();
        }
        if (rate > 0) {
            c.say("1\r\nx\r\n");
            CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 408 "));
            continue;
        }
        c.say("0\r\n\r\n");
        CHECK(rig.expect_message(s).body == "xxxxxxxxx");
        s.say(ok("ok"));
        rig.expect(c, ok("ok"));
    }
}

TEST_CASE("what came of a body with its head counts for the least rate, and its end is never too slow" *
          raw_only(side::clients, "the least rate is just kept if each piece is read at once")) {
    const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
    for (const bool is_enough : {false, true}) { // 30 s of 1 KB/s
        INFO(is_enough);
        gateway_rig rig;
        peer c = rig.client();
        c.say(head + pattern(10'000));
        peer s = rig.server();
        rig.settle();
        for (int i = 0; i < 2; i++) {
            s.pull();
            rig.pass(seconds{15});
            c.say(pattern(i == 0 ? 10'000 : is_enough ? 10'720 : 10'719));
            rig.settle();
        }
        CHECK(c.pull().got.starts_with("HTTP/1.1 408 ") == !is_enough);
    }
    for (const bool chunked : {false, true}) {
        INFO(chunked);
        gateway_rig rig;
        peer c = rig.client();
        c.say("POST / HTTP/1.1\r\nHost: h\r\n"s + (chunked ? "Transfer-Encoding: chunked" : "Content-Length: 3") + "\r\n\r\n");
        peer s = rig.server();
        for (const char* piece : {"1\r\na\r\n", "1\r\nb\r\n", "1\r\nc\r\n0\r\n\r\n"}) {
            rig.settle();
            rig.pass(seconds{10});
            c.say(chunked ? piece : std::string(1, piece[3]));
        }
        rig.expect_silence(c);
        s.pull();
        CHECK(s.got.ends_with(chunked ? "c\r\n0\r\n\r\n" : "\r\n\r\nabc"));
        s.say(ok("x"));
        rig.expect(c, ok("x"));
        CHECK(!c.ended());
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

} // namespace
