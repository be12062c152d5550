// http1_gateway: servers that serve fewer connections at a time than they have.

#include "proto/http1_gateway.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

constexpr duration place_time = seconds{1};

// Answers, and sees its client have it.
void serve(gateway_rig& rig, peer& s, peer& c, std::string_view request) {
    rig.expect(s, request);
    s.say(ok("ok"));
    rig.expect(c, ok("ok"));
}

TEST_CASE("a server of one connection at a time serves a crowd after a second, each as soon as the one before is done" *
          raw_only(side::servers, "a handshake that its server has not taken up is a connect, which has its own time")) {
    gateway_rig rig;
    std::vector<peer> clients;
    for (int i = 0; i < 5; i++) {
        clients.push_back(rig.client());
        clients.back().say(get("/" + std::to_string(i)));
        rig.settle();
    }
    CHECK(rig.conns.opened_count(conn_origin::dialed) == 5);
    peer s = rig.server();
    serve(rig, s, clients[0], get("/0"));
    CHECK(rig.idle_count() == 1);
    rig.pass(place_time - milliseconds{2});
    CHECK(!s.ended());
    CHECK(rig.counters().places_made == 0);
    rig.pass(milliseconds{4});
    for (std::size_t i = 1; i < 5; i++) { // at no further time
        INFO(i);
        (void)rig.until([&] { return s.ended(); });
        CHECK(s.ended());
        s = rig.server();
        serve(rig, s, clients[i], get("/" + std::to_string(i)));
    }
    CHECK(rig.counters().places_made == 4);
    CHECK(rig.ended(end_cause::idle_pressure) == 1);
    CHECK(rig.idle_count() == 1);
    CHECK(!s.ended());
}

TEST_CASE("a slow answer on a fresh connection ends at most one other connection") {
    for (const bool is_idle_first : {true, false}) {
        INFO(is_idle_first);
        gateway_rig rig;
        peer slow = rig.client(), c = rig.client();
        slow.say(get("/slow"));
        peer s = rig.server();
        rig.expect(s, get("/slow"));
        if (!is_idle_first) rig.pass(place_time + milliseconds{5});
        c.say(get());
        peer other = rig.server();
        serve(rig, other, c, get());
        if (is_idle_first) {
            CHECK(rig.idle_count() == 1);
            rig.pass(place_time + milliseconds{5});
        }
        (void)rig.until([&] { return other.ended(); });
        CHECK(other.ended());
        CHECK(rig.idle_count() == 0);
        for (int i = 0; i < 3; i++) {
            c.say(get());
            if (i == 0) other = rig.server();
            serve(rig, other, c, get());
            CHECK(rig.idle_count() == 1);
            rig.pass(seconds{5});
        }
        CHECK(rig.counters().places_made == 1);
        s.say(ok("late"));
        rig.expect(slow, ok("late"));
        CHECK(rig.idle_count() == 2);
    }
}

TEST_CASE("a request that is answered, or whose client is gone, asks for no place any more") {
    for (const bool is_answered : {true, false}) {
        INFO(is_answered);
        gateway_rig rig;
        peer slow = rig.client(), c = rig.client();
        slow.say(get("/slow"));
        peer s = rig.server();
        rig.expect(s, get("/slow"));
        rig.pass(place_time + milliseconds{5});
        if (is_answered) {
            s.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1");
            rig.expect(slow, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1");
        } else {
            slow.reset();
            rig.settle();
        }
        c.say(get());
        peer other = rig.server();
        serve(rig, other, c, get());
        CHECK(rig.idle_count() == 1);
        CHECK(rig.counters().places_made == 0);
        CHECK(!other.ended());
    }
}

TEST_CASE("a request on a connection that was idle asks for no place, nor one whose client is slow with its body") {
    gateway_rig rig;
    peer a = rig.client(), b = rig.client(), c = rig.client();
    a.say(get("/a"));
    peer sa = rig.server();
    b.say(get("/b"));
    peer sb = rig.server();
    serve(rig, sa, a, get("/a"));
    serve(rig, sb, b, get("/b"));
    CHECK(rig.idle_count() == 2);
    a.say(get("/slow")); // on the connection parked last
    rig.expect(sb, get("/slow"));
    rig.pass(3 * place_time);
    CHECK(rig.idle_count() == 1);
    b.say(get("/slow"));
    rig.expect(sa, get("/slow"));
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n1");
    peer sc = rig.server();
    rig.settle();
    sa.say(ok("ok"));
    rig.expect(b, ok("ok"));
    rig.pass(3 * place_time);
    CHECK(rig.idle_count() == 1);
    CHECK(rig.counters().places_made == 0);
}

TEST_CASE("a place at one server is made by none of another's connections") {
    gateway_rig rig{{}, {.origins = {origin_state::listening, origin_state::listening}}};
    peer slow = rig.client(), c = rig.client();
    slow.say(get("/slow"));
    peer s = rig.server(0);
    rig.expect(s, get("/slow"));
    c.say(get());
    peer other = rig.server(1);
    serve(rig, other, c, get());
    rig.pass(3 * place_time);
    CHECK(rig.idle_count() == 1);
    CHECK(!other.ended());
    CHECK(rig.counters().places_made == 0);
}

} // namespace
