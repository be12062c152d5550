// http1_harness: the gateway between HTTP clients and servers: no answer to the wrong request, no POST twice.

#include "proto/http1_gateway.hpp"

#include "proto/tcp.hpp"
#include "sim/peers.hpp"

namespace simtest {

namespace {

const endpoint door = endpoint::ipv4(0x0a000001, 8080);
endpoint shop(std::uint32_t i) { return endpoint::ipv4(0x0a000101 + i, 80); }

http1_gateway_options draw(dice& chance) {
    http1_gateway_options o;
    o.http.header_timeout = seconds{3};
    o.http.body_timeout = seconds{3};
    o.http.body_rate_min = 0;
    o.http.keep_alive_timeout = seconds{4};
    o.http.keep_alive_requests = chance.coin() ? 1000 : chance.between(1, 6);
    o.http.connect_timeout = seconds{2};
    o.http.first_byte_timeout = seconds{4};
    o.http.write_timeout = seconds{4};
    o.idle.idle_max = chance.between(1, 16);
    o.idle.age_max = chance.between(duration{milliseconds{50}}, duration{seconds{3}});
    o.idle.probe = chance.coin();
    o.idle.seed = chance.next();
    o.clients_max = chance.between(8, 32);
    return o;
}

std::uint64_t run(std::uint64_t seed) {
    world w{seed};
    w.closes_what_failed = false; // what a server said before it failed is still passed on
    town people{w.k, town::between::judges, town::tongue::http1};
    const std::uint32_t shops = w.k.chance.between(1, 3);
    auto gateway = std::make_unique<http1_gateway>(*w.conns, draw(w.k.chance));
    for (std::uint32_t i = 0; i < shops; i++) {
        people.open_shop(shop(i));
        gateway->add_upstream({.family = &tcp, .at = shop(i)});
    }
    if (!gateway->listen({.family = &tcp, .at = door}, {.accept_budget = w.k.chance.between(1, 16)}))
        w.k.violate("I10", "no listener, though nothing is wrong");

    go_through_trouble(w, people, door, 16);
    w.turn_until(w.k.time.now + seconds{12}); // upstreams that rested are asked again after 10 s
    w.require_by(w.k.time.now + seconds{60}, "I8", "a client is served beyond every deadline", [&] {
        return gateway->clients_count() == 0 && w.conns->live_count() == gateway->idle().idle_count();
    });
    serve_healthy(w, people, door, 3, milliseconds{300});
    w.require_by(w.k.time.now + seconds{15}, "I8", "an idle connection outlived its age",
                 [&] { return w.conns->live_count() == 0; });
    if (w.conns->blocks().used() != 0) w.k.violate("I5", "a block was not given back");
    if (gateway->active_count() != 0) w.k.violate("I5", "an exchange was not given back");

    w.k.note("teardown");
    gateway.reset();
    w.close_conns();
    w.tear_down();
    return w.k.log.hash();
}

} // namespace

const harness http1_harness{.name = "http1", .run = run};

} // namespace simtest
