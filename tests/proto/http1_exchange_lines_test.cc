// http1_exchange, through a gateway: empty lines before a request, which belong to none.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// A request with `behind` in the same piece, answered.
void ask(gateway_rig& rig, peer& c, peer& s, std::string_view behind) {
    c.say(post("/", "body") + std::string(behind));
    if (!s.open()) s = rig.server();
    rig.expect(s, post("/", "body"));
    s.say(ok());
    rig.expect(c, ok());
}

TEST_CASE("an empty line behind a POST got a 408 on a connection that was idle") {
    for (const bool is_at_once : {true, false}) {
        INFO(is_at_once);
        gateway_rig rig;
        peer c = rig.client(), s;
        ask(rig, c, s, is_at_once ? "\r\n" : "");
        rig.pass(seconds{20});
        if (!is_at_once) c.say("\r\n");
        rig.settle();
        CHECK(rig.at_rest()); // without an exchange, without a block
        rig.pass(seconds{40} - milliseconds{1});
        rig.expect_silence(c);
        rig.pass(milliseconds{1}); // its deadline is that of a client that waits, no matter when the line came
        rig.expect(c, "");
        rig.expect_end(c, ending::fin);
        CHECK(rig.counters().refused == 0);
        CHECK(rig.gateway->clients_count() == 0);
    }
}

TEST_CASE("an empty line of which a half has come belongs to no request either") {
    gateway_rig rig;
    peer c = rig.client(), s;
    ask(rig, c, s, "\r");
    rig.pass(seconds{9});
    c.say("\n");
    rig.settle();
    CHECK(rig.at_rest());
    rig.pass(seconds{60} - milliseconds{1});
    rig.expect_silence(c);
    c.say("\r");
    rig.expect_silence(c);
    rig.pass(seconds{10});
    rig.expect(c, "");
    rig.expect_end(c, ending::fin);
    CHECK(rig.counters().refused == 0);
}

TEST_CASE("a request behind empty lines is served, however they were cut") {
    const std::string lines = "\r\n\r\n\r\n";
    for (std::size_t cut = 0; cut <= lines.size(); cut++) {
        INFO(cut);
        gateway_rig rig;
        peer c = rig.client(), s;
        ask(rig, c, s, lines.substr(0, cut));
        rig.settle();
        c.say(lines.substr(cut) + get("/next"));
        rig.expect(s, get("/next"));
        s.say(ok("next"));
        rig.expect(c, ok("next"));
    }
}

TEST_CASE("empty lines before the first request do not put its deadline off") {
    gateway_rig rig;
    peer c = rig.client();
    for (int i = 0; i < 9; i++) {
        rig.pass(seconds{1});
        c.say("\r\n");
        rig.expect_silence(c);
    }
    rig.pass(milliseconds{999});
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect(c, "");
    rig.expect_end(c, ending::fin);
}

TEST_CASE("empty lines are bounded: many at once are a 400, and each that comes alone is a use of the connection") {
    gateway_rig rig{{.http = {.keep_alive_requests = 6}}};
    peer many = rig.client();
    many.say("\r\n\r\n\r\n\r\n\r\n");
    CHECK(rig.expect_message(many).head.starts_with("HTTP/1.1 400 "));
    peer c = rig.client(), s;
    ask(rig, c, s, "");
    for (int i = 0; i < 5; i++) {
        c.say("\r\n");
        rig.expect_silence(c);
    }
    c.say("\r\n");
    rig.expect(c, "");
    rig.expect_end(c, ending::fin);
    CHECK(rig.counters().refused == 1); // of `many`
}

TEST_CASE("a client that may ask once may say an empty line first") {
    gateway_rig rig{{.http = {.keep_alive_requests = 1}}};
    peer c = rig.client();
    c.say("\r\n");
    rig.expect_silence(c);
    c.say(get());
    peer s = rig.server();
    s.say(ok());
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 200 OK\r\n"));
}

TEST_CASE("a client of which only an empty line was left does not hold a drain up") {
    gateway_rig rig;
    peer c = rig.client(), s;
    ask(rig, c, s, "\r");
    bool is_drained = false;
    rig.gateway->drain(
        drain_kind::end, seconds{30}, [](void* at) noexcept { *static_cast<bool*>(at) = true; }, &is_drained);
    c.say("\n");
    rig.expect_end(c, ending::fin);
    c.close();
    rig.pass(milliseconds{10});
    CHECK(rig.until([&] { return is_drained; }));
}

} // namespace
