// http1_gateway: connections to servers that wait, and several servers.

#include "proto/http1_gateway.hpp"

#include <algorithm>

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- what waiting costs

TEST_CASE("a keep-alive request costs no allocation, no epoll_ctl and leaves no block") {
    gateway_rig rig;
    const std::uint64_t before = rig.loop.polls().ctl_count();
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.expect(s, get());
    s.say(ok("hello"));
    rig.expect(c, ok("hello"));
    CHECK(rig.loop.polls().ctl_count() == before + 2); // one ADD for the accepted, one for the dialed

    const auto encoded = [](side of, std::string bytes) { return is_layered(of) ? record(bytes) : bytes; };
    const std::string request = encoded(side::clients, get()), response = encoded(side::servers, ok("hello"));
    const std::string forwarded = encoded(side::servers, get()), delivered = encoded(side::clients, ok("hello"));
    char bytes[256];
    std::uint64_t allocations = allocation_count();
    const std::uint64_t controls = rig.loop.polls().ctl_count();
    int wrong = 0;
    const auto carry = [&](peer& from, const std::string& what, peer& to, const std::string& comes) {
        const ssize_t sent = ::send(from.fd.get(), what.data(), what.size(), MSG_NOSIGNAL);
        ssize_t got = -1;
        for (int i = 0; i < 10'000 && got < 0; i++) {
            rig.turn();
            got = ::recv(to.fd.get(), bytes, sizeof bytes, MSG_DONTWAIT);
        }
        const bool is_whole = sent == static_cast<ssize_t>(what.size());
        if (!is_whole || std::string_view(bytes, static_cast<std::size_t>(std::max<ssize_t>(got, 0))) != comes) wrong++;
    };
    for (int i = 0; i < 900; i++) {
        carry(c, request, s, forwarded);
        carry(s, response, c, delivered);
        if (rig.conns.blocks().used() != 0 || rig.gateway->active_count() != 0) wrong++;
    }
    CHECK(allocation_count() == allocations);
    CHECK(rig.loop.polls().ctl_count() == controls);
    CHECK(wrong == 0);
    CHECK(rig.counters().reused == 900);
    CHECK(rig.conns.opened_count(conn_origin::dialed) == 1);
}

TEST_CASE("a client that waits has no exchange, even where the kernel had nothing behind its last request") {
    // After pipelined requests the socket is looked at once more, in vain: that must not start an exchange that stays.
    gateway_rig rig;
    peer c = rig.client();
    c.say(get("/1") + get("/2"));
    peer s = rig.server();
    s.say(ok("1"));
    rig.settle();
    s.say(ok("2"));
    rig.expect(c, ok("1") + ok("2"));
    CHECK(rig.gateway->active_count() == 0);
    rig.pass(seconds{60} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect_end(c, ending::fin); // and it is not forgotten
}

TEST_CASE("a server connection that its server closes while idle is gone in the same turn") {
    for (const bool is_reset : {false, true}) {
        acquainted rig;
        const std::uint32_t live = rig.conns.live_count();
        connection* idle = rig.conns.first();
        while (!idle->is(conn_flag::idle))
            idle = rig.conns.after(*idle);
        if (is_reset) rig.s.reset();
        else rig.s.close();
        REQUIRE(end_arrived(*idle));
        rig.turn();
        CHECK(rig.idle_count() == 0);
        CHECK(rig.conns.live_count() == live - 1);
        CHECK(rig.ended(is_reset ? end_cause::idle_peer_failed : end_cause::idle_peer_closed) == 1);
        rig.c.say(get());
        peer t = rig.server();
        rig.expect(t, get());
    }
}

TEST_CASE("an idle server connection is closed at its age, give or take a tenth") {
    acquainted rig;
    rig.pass(seconds{27} - milliseconds{1});
    CHECK(rig.idle_count() == 1);
    rig.pass(seconds{6} + milliseconds{2});
    CHECK(rig.idle_count() == 0);
    CHECK(rig.ended(end_cause::idle_age) == 1);
    CHECK(rig.s.ended());
}

TEST_CASE("no idle connection outlives a second less than its server's Keep-Alive: timeout=, whatever the spread") {
    struct {
        const char* said;
        duration earliest, latest;
    } const cases[] = {{"1", milliseconds{400}, milliseconds{500}},
                       {"2", milliseconds{800}, seconds{1}},
                       {"12", seconds{9} - milliseconds{1}, seconds{11}},
                       {"20", seconds{15}, seconds{19}},
                       {"31", seconds{24}, seconds{30}},
                       {"32", seconds{25}, seconds{31}},
                       {"3600", seconds{27}, seconds{33}}};
    for (const auto& each : cases) {
        for (std::uint64_t seed = 0x9e3779b97f4a7c15, i = 0; i < 16; i++, seed *= 0xd1342543de82ef95) {
            INFO(each.said, ", seed ", seed);
            acquainted rig({.idle = {.seed = seed}}, "Keep-Alive: timeout=" + std::string(each.said) + ", max=99\r\n");
            rig.pass(each.earliest - milliseconds{1});
            CHECK(rig.idle_count() == 1);
            rig.pass(each.latest - each.earliest + milliseconds{2});
            CHECK(rig.idle_count() == 0);
        }
    }
}

TEST_CASE("a server that says Keep-Alive: timeout=0 keeps no idle connection: none is parked") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say(ok("1", "Keep-Alive: timeout=0\r\n"));
    rig.expect(c, ok("1"));
    CHECK(rig.idle_count() == 0);
    CHECK(s.ended());
    CHECK(!c.ended());
}

TEST_CASE("bytes on an idle server connection never reach a client") {
    const std::string stray = ok("poison");
    for (const unsolicited how : {unsolicited::kill, unsolicited::drain}) {
        acquainted rig{{.idle = {.on_bytes = how}}};
        rig.s.say(stray);
        rig.settle();
        CHECK(rig.idle_count() == (how == unsolicited::drain ? 1 : 0));
        rig.c.say(get("/2"));
        peer t = how == unsolicited::drain ? std::move(rig.s) : rig.server();
        rig.expect(t, get("/2"));
        t.say(ok("right"));
        rig.expect(rig.c, ok("right"));
    }
    for (const bool stray_first : {true, false}) { // in the same batch as the request, in both orders
        acquainted rig;
        if (stray_first) rig.s.say(stray);
        rig.c.say(get("/2"));
        if (!stray_first) rig.s.say(stray);
        peer t = rig.server();
        rig.expect(t, get("/2"));
        t.say(ok("right"));
        rig.expect(rig.c, ok("right"));
        CHECK(rig.ended(end_cause::idle_unsolicited) == 1);
    }
}

TEST_CASE("with a probe, bytes that came within the turn are found, too") {
    acquainted rig{{.idle = {.probe = true}}};
    meanwhile m{rig};
    m.next([&] { rig.s.say(ok("poison")); });
    rig.c.say(get("/2"));
    peer t = rig.server();
    rig.expect(t, get("/2"));
    t.say(ok("right"));
    rig.expect(rig.c, ok("right"));
    CHECK(m.done_count == 1);
}

TEST_CASE("a connection that authenticated one user is not handed to another") {
    gateway_rig rig;
    peer c = rig.client();
    const std::string request = "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: NTLM abc\r\n\r\n";
    c.say(request);
    peer s = rig.server();
    rig.expect(s, request);
    s.say(ok("mine"));
    rig.expect(c, ok("mine"));
    rig.settle();
    CHECK(rig.idle_count() == 0);
    CHECK(s.ended());
}

// --- several servers

TEST_CASE("a server that refuses is passed over at once, and rests") {
    gateway_rig rig{{}, {.origins = {origin_state::refusing, origin_state::listening}}};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server(1);
    rig.expect(s, get());
    s.say(ok("1"));
    rig.expect(c, ok("1"));
    CHECK(rig.counters().failed == 0);
    REQUIRE(rig.troubles.size() == 1);
    CHECK(rig.troubles[0] == "passed over \"GET /\" upstream 127.0.0.1:" + std::to_string(port_of(rig, 0)) + ": Connection refused");
    CHECK(rig.ended(end_cause::connect_failed) == 1);
    for (int i = 0; i < 3; i++)
        rig.exchange(c, s);
    CHECK(rig.ended(end_cause::connect_failed) == 1); // it rests meanwhile
}

TEST_CASE("a POST whose server refuses goes to the next with its whole body") {
    gateway_rig rig{{}, {.origins = {origin_state::refusing, origin_state::listening}}};
    peer c = rig.client();
    c.say(post("/", "the body"));
    peer s = rig.server(1);
    rig.expect(s, post("/", "the body"));
}

TEST_CASE("when all refuse it is a 502, and every cause is told") {
    gateway_rig rig{{}, {.origins = {origin_state::refusing, origin_state::refusing}}};
    peer c = rig.client();
    c.say(get("/x"));
    rig.expect(c, bad_gateway());
    REQUIRE(rig.troubles.size() == 2);
    for (std::size_t i = 0; i < 2; i++)
        CHECK(rig.troubles[i] == (i == 0 ? "passed over" : "502") + (" \"GET /x\" upstream 127.0.0.1:" + std::to_string(port_of(rig, i))) + ": Connection refused");
    c.say(post("/y", "b"));
    rig.expect(c, bad_gateway());
    CHECK(!c.ended());
    CHECK(rig.counters().failed == 2);
    CHECK(rig.at_rest());
}

TEST_CASE("a server that is back is used again without a restart") {
    gateway_rig rig{{}, {.origins = {origin_state::refusing}}};
    peer c = rig.client();
    c.say(get());
    rig.expect(c, bad_gateway());
    rig.listen_again(0);
    c.say(get());
    peer s = rig.server();
    rig.expect(s, get());
    s.say(ok("back"));
    rig.expect(c, ok("back"));
}

TEST_CASE("a server that was back rests only shortly when it fails again") {
    gateway_rig rig{{}, {.origins = {origin_state::refusing, origin_state::refusing}}};
    peer c = rig.client();
    const auto ask = [&](bool is_served) {
        c.say(get());
        if (!is_served) return rig.expect(c, bad_gateway());
        peer s = rig.server(0);
        rig.expect(s, get());
        s.say(ok("", "Connection: close\r\n"));
        rig.expect(c, ok());
    };
    ask(false);
    rig.pass(milliseconds{100});
    ask(false); // both rest for 200 ms now
    rig.pass(milliseconds{200});
    rig.listen_again(0);
    ask(true);
    rig.origins[0].fd.close();
    rig.pass(seconds{10});
    const std::uint64_t before = rig.ended(end_cause::connect_failed);
    ask(false); // both fail: the first for 100 ms, the second for longer
    CHECK(rig.ended(end_cause::connect_failed) == before + 2);
    rig.pass(milliseconds{100});
    rig.listen_again(0);
    ask(true);
    ask(true);
    CHECK(rig.ended(end_cause::connect_failed) == before + 2); // the second is not asked while it rests
}

TEST_CASE("a server that does not accept in time is passed over; when none is left it is a 504") {
    gateway_rig rig{{}, {.origins = {origin_state::swallowing, origin_state::listening}}};
    peer c = rig.client();
    c.say(get());
    rig.settle();
    rig.pass(seconds{5});
    peer s = rig.server(1);
    rig.expect(s, get());
    s.say(ok("1"));
    rig.expect(c, ok("1"));

    gateway_rig none{{}, {.origins = {origin_state::swallowing, origin_state::swallowing}}};
    peer d = none.client();
    d.say(get());
    none.settle();
    none.pass(seconds{5});
    none.expect_silence(d);
    none.pass(seconds{5});
    none.expect(d, gateway_timeout());
    CHECK(none.troubles.size() == 2);
}

TEST_CASE("round robin and least spread what is new") {
    gateway_rig rig{{}, {.origins = {origin_state::listening, origin_state::listening}}};
    std::vector<peer> held;
    for (std::size_t i = 0; i < 4; i++) {
        held.push_back(rig.client());
        held.back().say(get());
        held.push_back(rig.server(i % 2));
    }
    gateway_rig by_load{{.how = balance::least}, {.origins = {origin_state::listening, origin_state::listening}}};
    peer a = by_load.client(), b = by_load.client();
    a.say(get());
    peer s = by_load.server(0), t;
    for (int i = 0; i < 3; i++) { // the first is busy: the second gets all
        b.say(get());
        if (!t.open()) t = by_load.server(1);
        by_load.expect(t, get());
        t.say(ok());
        by_load.expect(b, ok());
    }
}

TEST_CASE("a request that is over counts no more for least, however it ended") {
    gateway_rig rig{{.how = balance::least}, {.origins = {origin_state::listening, origin_state::listening}}};
    peer c = rig.client();
    const auto ask = [&](std::size_t origin, std::string_view response) {
        c.say(get());
        peer s = rig.server(origin);
        rig.expect(s, get());
        s.say(response);
        rig.expect_message(c);
        s.close();
        rig.settle();
    };
    for (const std::string& response : {ok("", "Connection: close\r\n"), "nonsense\r\n\r\n"s, ok()}) {
        INFO(response);
        ask(0, response);
        ask(1, ok());
    }
    ask(0, ok()); // none is thought to be busy
}

TEST_CASE("a tunnel counts for least until it ends") {
    gateway_rig rig{{.how = balance::least}, {.origins = {origin_state::listening, origin_state::listening}}};
    peer c = rig.client(), d = rig.client();
    const std::string switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    const auto ask = [&](std::size_t origin) {
        d.say(get());
        peer s = rig.server(origin);
        rig.expect(s, get());
        s.say(ok("", "Connection: close\r\n"));
        rig.expect(d, ok());
        s.close();
        rig.settle();
    };
    c.say(get("/ws", "Connection: upgrade\r\nUpgrade: websocket\r\n"));
    peer tunnel = rig.server(0);
    tunnel.say(switching);
    rig.expect(c, switching);
    for (int i = 0; i < 3; i++)
        ask(1);
    c.reset();
    rig.settle();
    ask(0);
}

TEST_CASE("a cause is told once, of the server that it was") {
    gateway_rig rig{{}, {.origins = {origin_state::refusing, origin_state::listening}}};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server(1);
    rig.expect(s, get());
    s.say(ok());
    rig.expect(c, ok());
    rig.pass(milliseconds{100}); // the first is asked again, then the idle connection of the second
    c.say(get());
    rig.expect(s, get());
    CHECK(rig.troubles.size() == 2);
    s.close(); // repeated
    peer t = rig.server(1);
    rig.expect(t, get());
    CHECK(rig.counters().repeated == 1);
    CHECK(rig.troubles.size() == 2);
}

} // namespace
