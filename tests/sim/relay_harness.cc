// relay_harness: a relay between clients and servers, which must neither lose a byte nor an end.

#include "core/relay.hpp"

#include "core/listener.hpp"
#include "proto/tcp.hpp"
#include "sim/peers.hpp"

namespace simtest {

namespace {

const endpoint shop = endpoint::ipv4(0x0a000101, 80);
const endpoint door = endpoint::ipv4(0x0a000001, 8080);

struct house {
    explicit house(world& w)
        : pairs(
              *w.conns,
              {.pairs_max = 32, .connect_timeout = seconds{3}, .fin_timeout = seconds{2}, .idle_timeout = seconds{6}}),
          port(*w.conns) {}
    relay_pool pairs;
    listener port;
};

void accepted(void* self, connection& conn, const endpoint&) noexcept {
    static_cast<void>(static_cast<house*>(self)->pairs.dial(conn, tcp, shop));
}

std::uint64_t run(std::uint64_t seed) {
    world w{seed};
    town people{w.k, town::between::passes_on};
    people.open_shop(shop);
    std::optional<house> h;
    h.emplace(w);
    const listener_options how{.socket = {.backlog_count = 16}, .accept_budget = w.k.chance.between(1, 16)};
    if (!h->port.open(tcp, door, how, accepted, &*h)) w.k.violate("I10", "no listener, though nothing is wrong");

    w.k.note("warm-up");
    people.send_clients(door, 2, milliseconds{50}, false);
    w.turn_until(w.k.time.now + milliseconds{200});
    w.k.note("faults");
    w.k.faults.resume();
    people.send_clients(door, w.k.chance.between(2, 24), seconds{2}, false);
    const duration trouble = w.k.chance.between(duration{milliseconds{500}}, duration{seconds{4}});
    w.turn_until(w.k.time.now + trouble);

    w.k.note("heal");
    w.k.heal();
    people.calm_down();
    w.turn_until(w.k.time.now + seconds{3});
    w.require_by(w.k.time.now + seconds{40}, "I8", "a pair outlived every deadline",
                 [&] { return w.conns->live_count() == 0; });
    people.send_clients(door, 1, milliseconds{1}, true);
    w.turn_until(w.k.time.now + milliseconds{1});
    w.require_by(w.k.time.now + seconds{60}, "I10", "a healthy client was not served in time",
                 [&] { return people.all_must_succeed_over(); });
    w.require_by(w.k.time.now + seconds{10}, "I8", "a pair outlived its ends",
                 [&] { return h->pairs.pair_count() == 0; });
    if (w.conns->blocks().used() != 0) w.k.violate("I5", "a block was not given back");

    w.k.note("teardown");
    h.reset();
    w.close_conns();
    w.tear_down();
    return w.k.log.hash();
}

} // namespace

const harness relay_harness{.name = "relay", .run = run};

} // namespace simtest
