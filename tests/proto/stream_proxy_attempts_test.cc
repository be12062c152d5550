// stream_proxy: what a failed attempt says of a server, and servers with several addresses.

#include "proto/stream_proxy.hpp"

#include "support/odd_families.hpp"
#include "support/stream_rig.hpp"

namespace {

using namespace weir;
using namespace support;

using state = upstream_address::health;

const upstream_address& address_of(const stream_rig& rig, std::size_t i, std::size_t place = 0) {
    return rig.proxy->upstreams().at(i).places[place];
}
address at_origin(const stream_rig& rig, std::size_t i) {
    return {.family = &tcp, .at = endpoint::ipv4(0x7f000001, rig.origins[i].port)};
}

TEST_CASE("a server that accepts and ends without a byte rests, and so ever longer") {
    for (const bool is_reset : {false, true}) {
        stream_rig rig({}, {origin_state::listening, origin_state::listening});
        std::vector<peer> others;
        duration pause = milliseconds{100};
        for (int round = 0; round < 4; round++) {
            CAPTURE(round);
            peer c = rig.client();
            c.say("x");
            peer s = rig.server(0);
            rig.expect(s, "x");
            if (is_reset) s.reset();
            else s.close();
            rig.expect_end(c, is_reset ? ending::reset : ending::fin);
            c.close();
            CHECK(rig.until([&] { return address_of(rig, 0).state == state::resting; }));
            CHECK(address_of(rig, 0).rest == pause);
            for (int i = 0; i < 3; i++) { // the other one has them all
                others.push_back(rig.client());
                others.push_back(rig.server(1));
            }
            rig.pass(pause);
            pause *= 2;
        }
        CHECK(rig.proxy->counters().unheard == 4);
        CHECK(rig.proxy->counters().connect_failed == 0);
    }
}

TEST_CASE("one byte of a server ends the record of its failures") {
    stream_rig rig({}, {origin_state::listening});
    peer a = rig.client(), sa = rig.server();
    sa.close();
    rig.expect_end(a, ending::fin);
    a.close();
    REQUIRE(rig.until([&] { return address_of(rig, 0).rest == milliseconds{100}; }));

    peer b = rig.client(), sb = rig.server();
    CHECK(address_of(rig, 0).rest == milliseconds{100}); // connected is not answered
    sb.say("x");
    rig.expect(b, "x");
    CHECK(address_of(rig, 0).rest == duration{});
    sb.close();
    rig.expect_end(b, ending::fin);
    b.close();
    CHECK(rig.until([&] { return rig.proxy->clients_count() == 0; }));
    CHECK(address_of(rig, 0).state == state::well);
}

TEST_CASE("a client that ends first is no failure of its server") {
    stream_rig rig;
    peer c = rig.client(), s = rig.server();
    c.say("a line of a log");
    rig.expect(s, "a line of a log");
    c.shut();
    rig.expect_end(s, ending::fin);
    s.close();
    CHECK(rig.until([&] { return rig.proxy->clients_count() == 0; }));
    CHECK(address_of(rig, 0).state == state::well);
    CHECK(rig.proxy->counters().unheard == 0);
}

TEST_CASE("a server to which no port is left, or whose queue is full, is passed over and does not rest") {
    for (const auto make : {portless, busy}) {
        stream_rig rig({}, {origin_state::listening});
        stream_proxy proxy(rig.conns, {});
        proxy.add_upstream(make(9));
        proxy.add_upstream(at_origin(rig, 0));
        REQUIRE(proxy.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
        for (int i = 0; i < 4; i++) {
            peer c{connect_tcp(proxy.port().local().port())};
            peer s = rig.server(0);
            c.say("x");
            rig.expect(s, "x");
        }
        CHECK(proxy.upstreams().at(0).places[0].state == state::well);
        CHECK(proxy.counters().connect_failed == 0);
        CHECK(proxy.counters().refused == 0);
    }
}

TEST_CASE("a want of our own is no server's fault, and no other server is asked") {
    stream_rig rig({}, {origin_state::listening});
    stream_proxy proxy(rig.conns, {});
    proxy.add_upstream(needy(9));
    proxy.add_upstream(at_origin(rig, 0));
    REQUIRE(proxy.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
    peer c{connect_tcp(proxy.port().local().port())};
    rig.expect_end(c, ending::reset);
    CHECK(proxy.upstreams().at(0).places[0].state == state::well);
    CHECK(rig.ended(end_cause::no_room) == 1);
    CHECK_FALSE(ready(rig.origins[0].fd.get(), POLLIN));
}

// --- names

TEST_CASE("of a name every address is an attempt, in its order, and each has a health of its own") {
    stream_rig rig({}, {origin_state::refusing, origin_state::listening});
    stream_proxy proxy(rig.conns, {});
    proxy.add_upstream(std::vector{at_origin(rig, 0), at_origin(rig, 1)});
    REQUIRE(proxy.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
    for (int i = 0; i < 3; i++) {
        peer c{connect_tcp(proxy.port().local().port())};
        peer s = rig.server(1);
        c.say("x");
        rig.expect(s, "x");
    }
    CHECK(proxy.counters().connect_failed == 1); // then it rested
    CHECK(proxy.upstreams().at(0).places[0].state == state::resting);
    CHECK(proxy.upstreams().at(0).places[1].state == state::well);
}

TEST_CASE("when a name has moved, new clients go where it is now, and those that are served stay") {
    stream_rig rig({}, {origin_state::listening, origin_state::listening});
    stream_proxy proxy(rig.conns, {.how = balance::least});
    proxy.add_upstream(at_origin(rig, 0));
    REQUIRE(proxy.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
    peer old{connect_tcp(proxy.port().local().port())};
    peer s0 = rig.server(0);

    proxy.set_upstream(0, std::vector{at_origin(rig, 1)});

    peer fresh{connect_tcp(proxy.port().local().port())};
    peer s1 = rig.server(1);
    fresh.say("new");
    rig.expect(s1, "new");
    old.say("old");
    rig.expect(s0, "old");
    CHECK(proxy.upstreams().at(0).active_count == 2);
    s0.close();
    rig.expect_end(old, ending::fin);
    old.close();
    CHECK(rig.until([&] { return proxy.clients_count() == 1; }));
    CHECK(proxy.upstreams().at(0).active_count == 1);
    CHECK(proxy.upstreams().at(0).places[0].users_count == 0);
}

TEST_CASE("a name that moves while its server is dialed leaves the dial as it is") {
    stream_rig rig({.relay = {.connect_timeout = seconds{1}}}, {origin_state::swallowing, origin_state::listening});
    stream_proxy proxy(rig.conns, {.relay = {.connect_timeout = seconds{1}}});
    proxy.add_upstream(at_origin(rig, 0));
    REQUIRE(proxy.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
    peer c{connect_tcp(proxy.port().local().port())};
    REQUIRE(rig.until([&] { return proxy.clients_count() == 1; }));
    proxy.set_upstream(0, std::vector{at_origin(rig, 1)});
    rig.pass(seconds{1});
    peer s = rig.server(1); // the next attempt is at the new address
    c.say("x");
    rig.expect(s, "x");
    CHECK(proxy.upstreams().at(0).places[0].users_count == 0);
}

} // namespace
