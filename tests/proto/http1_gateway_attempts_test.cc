// http1_gateway: what a failed attempt says of a server, the next server, and servers with several addresses.

#include "proto/http1_gateway.hpp"

#include "support/gateway_rig.hpp"
#include "support/odd_families.hpp"

namespace {

using namespace weir;
using namespace support;

const gateway_rig::setup two{.origins = {origin_state::listening, origin_state::listening}};

address at_origin(const gateway_rig& rig, std::size_t i) {
    return {.family = &tcp, .at = endpoint::ipv4(0x7f000001, rig.origins[i].port)};
}
std::string unheard(const char* what, gateway_rig& rig, std::size_t origin, const char* why) {
    return std::string(what) + " upstream 127.0.0.1:" + std::to_string(port_of(rig, origin)) + ": " + why;
}

// --- a fresh connection that ends before a byte of an answer

TEST_CASE("a GET whose server accepts and closes goes to the next server, once, and the first one rests") {
    for (const bool is_reset : {false, true}) {
        gateway_rig rig{{}, two};
        peer c = rig.client();
        c.say(get("/1"));
        peer dead = rig.server(0);
        rig.expect(dead, get("/1"));
        if (is_reset) dead.reset();
        else dead.close();
        peer s = rig.server(1);
        rig.expect(s, get("/1"));
        s.say(ok("1"));
        rig.expect(c, ok("1"));

        CHECK(rig.counters().failed == 0);
        CHECK(rig.counters().repeated == 1);
        REQUIRE(rig.troubles.size() == 1);
        CHECK(rig.troubles[0] ==
              unheard("passed over \"GET /1\"", rig, 0, is_reset ? "Connection reset by peer" : "closed without an answer"));
        for (int i = 0; i < 4; i++)
            rig.exchange(c, s); // the first one is not asked
        CHECK_FALSE(rig.has_dialed(0));
        CHECK(rig.at_rest());
    }
}

TEST_CASE("no third server is asked, and none twice: with two that close it is a 502") {
    gateway_rig rig{{}, {.origins = {origin_state::listening, origin_state::listening, origin_state::listening}}};
    peer c = rig.client();
    c.say(get());
    for (const std::size_t origin : {0u, 1u}) {
        peer dead = rig.server(origin);
        rig.expect(dead, get());
        dead.close();
    }
    rig.expect(c, bad_gateway());
    CHECK_FALSE(rig.has_dialed(2));
    CHECK(!c.ended());
    CHECK(rig.at_rest());
}

TEST_CASE("the only server that closes without an answer is a 502, and is asked again for the next request") {
    gateway_rig rig;
    peer c = rig.client();
    for (int i = 0; i < 3; i++) {
        c.say(get());
        peer dead = rig.server();
        rig.expect(dead, get());
        dead.close();
        rig.expect(c, bad_gateway());
        CHECK(rig.troubles.back() == unheard("502 \"GET /\"", rig, 0, "closed without an answer"));
    }
    CHECK(rig.counters().repeated == 0);
}

TEST_CASE("the pause of a server that only accepts grows, since a connect is no answer") {
    gateway_rig rig{{}, two};
    peer c = rig.client();
    c.say(get());
    peer first = rig.server(0);
    first.close();
    peer s = rig.server(1);
    rig.expect(s, get());
    s.say(ok());
    rig.expect(c, ok());
    for (duration pause = milliseconds{100}; pause < seconds{1}; pause *= 2) {
        rig.pass(pause - milliseconds{1});
        rig.exchange(c, s);
        CHECK_FALSE(rig.has_dialed(0));
        rig.pass(milliseconds{1});
        c.say(get("/trial"));
        peer dead = rig.server(0);
        rig.expect(dead, get("/trial"));
        dead.close();
        peer fresh = rig.server(1);
        rig.expect(fresh, get("/trial"));
        fresh.say(ok("", "Connection: close\r\n"));
        rig.expect(c, ok());
    }
}

TEST_CASE("a POST that a server may have seen is not sent to the next one; the server rests all the same") {
    gateway_rig rig{{}, two};
    peer c = rig.client();
    c.say(post("/", "body"));
    peer dead = rig.server(0);
    rig.expect(dead, post("/", "body"));
    dead.close();
    rig.expect(c, bad_gateway());
    for (int i = 0; i < 3; i++) {
        c.say(get());
        peer s = rig.server(1);
        rig.expect(s, get());
        s.say(ok("", "Connection: close\r\n"));
        rig.expect(c, ok());
    }
    CHECK_FALSE(rig.has_dialed(0));
}

TEST_CASE("a POST whose server was gone before a byte of it was sent goes to the next one" *
          raw_only(side::servers, "the handshake of a transport is what meets the end there")) {
    for (const bool is_reset : {false, true}) {
        gateway_rig rig{{}, two};
        peer c = rig.client();
        c.say(post("/", "body"));
        REQUIRE(rig.until([&] { return ready(rig.origins[0].fd.get(), POLLIN); }));
        descriptor dead = accept_tcp(rig.origins[0]); // and the gateway has not looked yet
        if (is_reset) reset(dead);
        else dead.close();
        peer s = rig.server(1);
        rig.expect(s, post("/", "body"));
        s.say(ok("1"));
        rig.expect(c, ok("1"));
        CHECK(rig.counters().failed == 0);
    }
}

TEST_CASE("what a server says unasked, before it closes at once, is its answer" *
          raw_only(side::servers, "the handshake of a transport comes first there")) {
    gateway_rig rig{{}, two};
    peer c = rig.client();
    c.say(post("/", "body"));
    REQUIRE(rig.until([&] { return ready(rig.origins[0].fd.get(), POLLIN); }));
    descriptor s = accept_tcp(rig.origins[0]);
    const std::string full = "HTTP/1.1 503 Full\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull";
    send_all(s.get(), full);
    s.close();
    rig.expect(c, "HTTP/1.1 503 Full\r\nContent-Length: 4\r\n\r\nfull");
    CHECK(rig.counters().repeated == 0);
    CHECK(rig.at_rest());
}

TEST_CASE("with repeats off nothing is repeated, and the server rests all the same") {
    gateway_rig rig{{.http = {.repeats = repeat::off}}, two};
    peer c = rig.client();
    c.say(get());
    peer dead = rig.server(0);
    rig.expect(dead, get());
    dead.close();
    rig.expect(c, bad_gateway());
    c.say(get("/2"));
    peer s = rig.server(1);
    rig.expect(s, get("/2"));
    s.say(ok());
    rig.expect(c, ok());
    for (int i = 0; i < 3; i++)
        rig.exchange(c, s);
}

TEST_CASE("a request that met a close on an idle connection is not repeated a second time") {
    gateway_rig rig{{}, two};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server(0);
    rig.expect(s, get());
    s.say(ok());
    rig.expect(c, ok());
    c.say(get());
    peer t = rig.server(1);
    rig.expect(t, get());
    t.say(ok());
    rig.expect(c, ok());
    c.say(get("/x"));
    rig.expect(s, get("/x"));
    s.close();
    peer u = rig.server(1);
    rig.expect(u, get("/x"));
    u.close();
    rig.expect(c, bad_gateway());
    CHECK(rig.counters().repeated == 1);
}

TEST_CASE("a body that has outgrown its block is not sent to the next server") {
    gateway_rig rig{{}, two};
    peer c = rig.client();
    const std::string head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 30000\r\n\r\n";
    c.say(head + pattern(12'000));
    peer dead = rig.server(0);
    rig.expect(dead, head + pattern(12'000));
    c.say(pattern(12'000, 2));
    rig.expect(dead, pattern(12'000, 2));
    dead.reset();
    rig.expect(c, bad_gateway("Connection: close\r\n"));
    CHECK_FALSE(rig.has_dialed(1));
}

TEST_CASE("a request to the only server holds no block once it is sent") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.expect(s, get());
    CHECK(rig.conns.blocks().used() == 0);
}

// --- whose fault it is

struct odd_rig : gateway_rig {
    enum class servers { odd_alone, and_another };
    odd_rig(address first, servers which) : odd(conns, {}) {
        odd.add_upstream(first);
        if (which == servers::and_another) odd.add_upstream(at_origin(*this, 0), transport_of(side::servers));
        REQUIRE(odd.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {.transport = &transport_of(side::clients)}).ok());
    }
    peer asker() {
        peer p{connect_small(odd.local().port()), clients_layered};
        REQUIRE(until([&] { return p.greeted(); }));
        return p;
    }
    http1_gateway odd;
};

TEST_CASE("a server to which no port is left, or whose queue is full, is passed over and does not rest") {
    for (const auto make : {portless, busy}) {
        odd_rig rig{make(9), odd_rig::servers::and_another};
        peer c = rig.asker();
        for (int i = 0; i < 4; i++) {
            c.say(post("/", "body"));
            peer s = rig.server(0);
            rig.expect(s, post("/", "body"));
            s.say(ok("", "Connection: close\r\n"));
            rig.expect(c, ok());
        }
        CHECK(rig.odd.counters().failed == 0);
        CHECK(rig.odd.counters().shed == 0);
    }
}

TEST_CASE("when there is no port, or no room in any queue, it is a 503; a want of our own asks no other server") {
    const std::string unavailable = own_answer(503, "Service Unavailable", "503 Service Unavailable\n", "", "Retry-After: 1\r\n");
    for (const auto make : {portless, busy}) {
        odd_rig rig{make(9), odd_rig::servers::odd_alone};
        peer c = rig.asker();
        c.say(get());
        rig.expect(c, unavailable);
    }
    odd_rig rig{needy(9), odd_rig::servers::and_another};
    peer c = rig.asker();
    c.say(get());
    rig.expect(c, unavailable);
    CHECK(rig.odd.counters().shed == 1);
    CHECK_FALSE(rig.has_dialed(0));
}

// --- names

TEST_CASE("of a name every address is an attempt, in its order, and each has a health of its own") {
    gateway_rig rig{{}, {.origins = {origin_state::refusing, origin_state::listening}}};
    http1_gateway named(rig.conns, {});
    named.add_upstream(std::vector{at_origin(rig, 0), at_origin(rig, 1)}, transport_of(side::servers));
    std::vector<std::string> lines;
    named.on_trouble(
        [](void* to, std::string_view line) noexcept { static_cast<std::vector<std::string>*>(to)->emplace_back(line); },
        &lines);
    REQUIRE(named.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
    peer c{connect_small(named.local().port())};
    for (int i = 0; i < 3; i++) {
        c.say(get());
        peer s = rig.server(1);
        rig.expect(s, get());
        s.say(ok("", "Connection: close\r\n"));
        rig.expect(c, ok());
    }
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].starts_with("passed over \"GET /\" client 127.0.0.1:"));
    CHECK(lines[0].ends_with(unheard("", rig, 0, "Connection refused")));
}

TEST_CASE("when a name has moved, idle connections to what is gone are closed, and what runs stays") {
    gateway_rig rig{{}, two};
    http1_gateway named(rig.conns, {});
    named.add_upstream(std::vector{at_origin(rig, 0)}, transport_of(side::servers));
    std::vector<std::string> lines;
    named.on_access(
        [](void* to, std::string_view line) noexcept { static_cast<std::vector<std::string>*>(to)->emplace_back(line); },
        &lines);
    REQUIRE(named.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
    peer a{connect_small(named.local().port())}, b{connect_small(named.local().port())};
    a.say(get("/idle"));
    peer idle = rig.server(0);
    rig.expect(idle, get("/idle"));
    b.say(get("/busy"));
    peer busy_one = rig.server(0);
    rig.expect(busy_one, get("/busy"));
    idle.say(ok());
    rig.expect(a, ok());
    CHECK(named.idle().idle_count() == 1);

    named.set_upstream(0, std::vector{at_origin(rig, 1)});

    CHECK(named.idle().idle_count() == 0);
    CHECK(rig.ended(end_cause::idle_flushed) == 1);
    CHECK(idle.ended());
    a.say(get("/new"));
    peer fresh = rig.server(1);
    rig.expect(fresh, get("/new"));
    fresh.say(ok("new"));
    rig.expect(a, ok("new"));
    CHECK(named.idle().idle_count() == 1);
    busy_one.say(ok("busy"));
    rig.expect(b, ok("busy"));
    CHECK(named.idle().idle_count() == 1); // that of an address that is gone is not kept
    CHECK(busy_one.ended());
    REQUIRE(lines.size() == 3);
    CHECK(lines[2].find("upstream 127.0.0.1:" + std::to_string(port_of(rig, 0))) != std::string::npos);
}

TEST_CASE("a name may move for ever: keys of idle connections and places are free again") {
    gateway_rig rig{{}, two};
    http1_gateway named(rig.conns, {});
    named.add_upstream(std::vector{at_origin(rig, 0)}, transport_of(side::servers));
    REQUIRE(named.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
    peer c{connect_small(named.local().port())};
    for (std::uint32_t i = 0; i < 1000; i++)
        named.set_upstream(0, std::vector{address{.family = &tcp, .at = endpoint::ipv4(0x0a000000 + i, 80)}});
    for (const std::size_t origin : {1u, 0u}) {
        named.set_upstream(0, std::vector{at_origin(rig, origin)});
        c.say(get());
        peer s = rig.server(origin);
        rig.expect(s, get());
        s.say(ok());
        rig.expect(c, ok());
        CHECK(named.idle().idle_count() == 1);
    }
}

TEST_CASE("two upstreams at one address share its idle connections; one of them may leave") {
    gateway_rig rig{{}, two};
    http1_gateway named(rig.conns, {});
    for (int i = 0; i < 2; i++)
        named.add_upstream(at_origin(rig, 0), transport_of(side::servers));
    REQUIRE(named.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
    peer c{connect_small(named.local().port())};
    c.say(get());
    peer s = rig.server(0);
    rig.expect(s, get());
    s.say(ok());
    rig.expect(c, ok());
    named.set_upstream(0, std::vector{at_origin(rig, 1)});
    CHECK(named.idle().idle_count() == 1);
    c.say(get());
    rig.expect(s, get());
}

} // namespace
