// http1_exchange, through a gateway: deadlines: at T, and not a millisecond before.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

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

TEST_CASE("timeouts of duration::max() are none: an exchange takes as long as it takes") {
    constexpr duration none = duration::max();
    gateway_rig rig({.http = {.header_timeout = none,
                              .body_timeout = none,
                              .keep_alive_timeout = none,
                              .connect_timeout = none,
                              .first_byte_timeout = none,
                              .write_timeout = none}});
    peer c = rig.client();
    for (int i = 0; i < 2; i++) {
        rig.pass(std::chrono::hours{24 * 365});
        rig.expect_silence(c);
        c.say("POST / HTTP/1.1\r\nHost: h\r\n");
        rig.settle();
        rig.pass(std::chrono::hours{24 * 365});
        c.say("Content-Length: 2\r\n\r\n");
        peer s = rig.server();
        rig.settle();
        rig.pass(std::chrono::hours{24 * 365});
        c.say("ab");
        rig.settle();
        rig.pass(std::chrono::hours{24 * 365});
        rig.expect_silence(c);
        s.say(ok());
        rig.expect(c, ok());
        s.close();
        rig.settle();
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
    rig.pass(rig.lateness_max(seconds{60}));
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
        rig.pass(rig.lateness_max(seconds{60}));
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
    rig.pass(rig.lateness_max(seconds{30}));
    CHECK(rig.gateway->active_count() == 0);
    CHECK(rig.ended(end_cause::timed_out) == 1);
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.end == ending::reset);
    CHECK(c.got.find("408") == c.got.npos);
    CHECK(rig.counters().refused == 0);
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
    rig.pass(rig.lateness_max(seconds{30}));
    CHECK(rig.gateway->active_count() == 0);
    CHECK(s.ended());
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.end == ending::reset);
    CHECK(rig.ended(end_cause::timed_out) == 1);
    CHECK(rig.at_rest());
}

TEST_CASE("the time of a server that its client held up begins when the client has taken everything") {
    gateway_rig rig{{.http = {.first_byte_timeout = seconds{5}}}};
    peer c = rig.client();
    c.narrow();
    c.say(get());
    peer s = rig.server();
    rig.settle();
    rig.narrow_all();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n");
    const std::string body = pattern(400'000);
    std::string_view rest = body;
    for (int i = 0; i < 50; i++) {
        rest.remove_prefix(s.say_some(rest));
        rig.settle();
    }
    REQUIRE(rig.conns.blocks().used() > 0); // the client is full, and the server waits

    (void)rig.until([&] { return c.pull().got.size() > 0; });
    rig.pass(seconds{5}); // the client takes the rest in the turn in which the server's deadline has come

    CHECK(rig.counters().truncated == 0);
    CHECK(rig.gateway->active_count() == 1);
}

TEST_CASE("the last words of a server that failed are read before a deadline that is due in the same turn") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n");
    peer s = rig.server();
    const std::string go = "HTTP/1.1 100 Continue\r\n\r\n";
    s.say(go); // its deadline begins
    rig.expect(c, go);
    for (int i = 0; i < 2; i++) {
        rig.pass(seconds{29});
        c.say(pattern(40'000));
        rig.settle();
        s.pull();
        rig.settle();
        s.pull();
    }
    rig.pass(seconds{2} - milliseconds{1});

    c.say("x"); // meets the reset
    const std::string words = own_answer(413, "Content Too Large", "no\n", closes);
    s.say(words);
    s.reset();
    rig.pass(milliseconds{1});

    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got.starts_with("HTTP/1.1 413 "));
    CHECK(rig.counters().failed == 0);
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
