// failures_proxy: the L4 proxy as a whole.

#include "proto/stream_proxy.hpp"

#include "proto/tcp.hpp"
#include "proto/unix.hpp"
#include "sim/failures.hpp"

namespace failures {

namespace {

const address shop{.family = &tcp, .at = shop_at}, other{.family = &tcp, .at = other_shop};
const address door{.family = &tcp, .at = door_at};

const script asks{say("hello"), hear("hello back"), fin, hear_end};
const script answers{hear("hello"), say("hello back"), hear_end, fin};
const std::string told = "PROXY TCP4 10.1.2.3 10.3.2.1 1111 80\r\n";

struct proxy {
    explicit proxy(stage& s, stream_proxy_options o = {}, std::initializer_list<address> servers = {shop},
                   const address& at = door)
        : home(s) {
        s.open_conns();
        o.relay.pairs_max = o.relay.pairs_max == 512 ? 8 : o.relay.pairs_max;
        o.relay.connect_timeout = o.relay.fin_timeout = seconds{1};
        o.relay.idle_timeout = seconds{2};
        o.proxy_timeout = seconds{1};
        s.start([&] {
            it.emplace(*s.conns, o);
            for (const address& a : servers)
                it->add_upstream(a);
            if (it->listen(at, {}).ok()) return true;
            it.reset();
            return false;
        });
    }
    const stream_proxy::counters_type& counters() const { return it->counters(); }

    // The visitor of after the failure, and the books.
    void recover(const endpoint& at = door_at, const script& visitor = asks) {
        home.recover(at, visitor);
        home.turns(milliseconds{50});
        check();
    }
    void check() const {
        const auto& c = counters();
        home.require(it->clients_count() == 0, "a client outlives everybody");
        home.require(c.clients_total == c.relayed + c.refused + c.bad_greetings + c.silent + c.abandoned,
                     "clients are not counted once each");
        for (std::size_t i = 0; i < it->upstreams().size(); i++)
            home.require(it->upstreams().at(i).active_count == 0, "a server has clients that are gone");
    }

    stage& home;
    std::optional<stream_proxy> it;
};

void forwards(stage& s) {
    s.serve(shop_at, {answers});
    proxy p{s};
    s.come(door_at, asks);
    s.settle();
    s.require(s.harmed() || p.counters().relayed == 1, "the scenario is not what it says");
    p.recover();
}

void forwards_paths(stage& s) {
    const endpoint from = endpoint::unix_path("@door").value(), to = endpoint::unix_path("@shop").value();
    s.serve(to, {answers});
    proxy p{s, {.send = send_proxy::v1}, {{.family = &unix_stream, .at = to}}, {.family = &unix_stream, .at = from}};
    s.come(from, asks);
    s.settle();
    p.recover(from);
}

void tells(stage& s, send_proxy version) {
    s.serve(shop_at, {answers});
    proxy p{s, {.send = version}};
    s.come(door_at, asks);
    s.settle();
    p.recover();
}
void tells_in_v1(stage& s) { tells(s, send_proxy::v1); }
void tells_in_v2(stage& s) { tells(s, send_proxy::v2); }

// The line comes in two pieces, with the first bytes behind it.
void passes_on_who_speaks(stage& s) {
    s.serve(shop_at, {{hear(told), hear("hello"), say("hello back"), hear_end, fin}});
    proxy p{s, {.accept_proxy = true, .send = send_proxy::v1}};
    const script client{say(told.substr(0, 20)),
                        wait(milliseconds{5}),
                        say(told.substr(20) + "hello"),
                        hear("hello back"),
                        fin,
                        hear_end};
    s.come(door_at, client);
    s.settle();
    p.recover(door_at, client);
}

void turned_away(stage& s, const script& client) {
    s.serve(shop_at, {answers});
    proxy p{s, {.accept_proxy = true}};
    s.come(door_at, client);
    s.settle();
    s.require(s.harmed() || p.counters().bad_greetings == 1, "the scenario is not what it says");
    p.recover(door_at, {say(told + "hello"), hear("hello back"), fin, hear_end});
}
void greeting_is_wrong(stage& s) { turned_away(s, {say("GET / HTTP/1.1\r\n"), hear_reset}); }
void greeting_is_late(stage& s) { turned_away(s, {say(told.substr(0, 20)), hear_reset}); }
void greeting_is_cut(stage& s) { turned_away(s, {say(told.substr(0, 20)), fin, hear_reset}); }

void asks_the_next_server(stage& s) {
    s.refuse(shop_at);
    s.serve(other_shop, {answers});
    proxy p{s, {.send = send_proxy::v1}, {shop, other}};
    s.come(door_at, asks);
    s.settle();
    s.require(s.harmed() || p.counters().connect_failed == 1, "the scenario is not what it says");
    p.recover();
}

// The first server answers no connect.
void asks_the_next_server_in_time(stage& s) {
    s.serve(shop_at, {answers});
    s.k.net.find_service(shop_at)->swallows = true;
    s.serve(other_shop, {answers});
    proxy p{s, {.how = balance::least}, {shop, other}};
    s.come(door_at, asks);
    s.settle();
    p.recover();
}

void serves_by_two(stage& s) {
    s.serve(shop_at, {answers});
    s.serve(other_shop, {answers});
    proxy p{s, {.how = balance::least}, {shop, other}};
    for (int i = 0; i < 3; i++)
        s.come(door_at, asks);
    s.settle();
    p.recover();
}

void is_refused_by_all(stage& s) {
    s.refuse(shop_at);
    s.refuse(other_shop);
    proxy p{s, {}, {shop, other}};
    s.come(door_at, {hear_reset});
    s.settle();
    s.require(s.harmed() || p.counters().refused == 1, "the scenario is not what it says");
    p.recover(door_at, {hear_reset});
}

void is_abandoned(stage& s) {
    s.serve(shop_at, {answers});
    s.k.net.find_service(shop_at)->swallows = true;
    proxy p{s};
    s.come(door_at, {say("hello"), wait(milliseconds{100}), reset});
    s.settle();
    s.require(s.harmed() || p.counters().abandoned == 1, "the scenario is not what it says");
    s.k.net.find_service(shop_at)->swallows = false;
    p.recover();
}

void waits_at_the_limit(stage& s) {
    s.serve(shop_at, {answers});
    proxy p{s, {.relay = {.pairs_max = 1}}};
    for (int i = 0; i < 3; i++)
        s.come(door_at, asks);
    s.settle();
    p.recover();
}

// So much that it is spliced, to one who is slow to read.
void splices(stage& s) {
    const std::string much = pattern(300'000);
    const script client{say("more"), wait(milliseconds{50}), hear(much), fin, hear_end};
    s.serve(shop_at, {{hear("more"), say(much), hear_end, fin}});
    proxy p{s, {.relay = {.pipes = {.pipes_max = 2}}}};
    s.come(door_at, client);
    s.settle();
    s.require(s.harmed() || p.it->relay().spliced_count() > 0, "nothing was spliced");
    p.recover(door_at, client);
    const pipe_pool* pipes = p.it->relay().pipes();
    s.require(!pipes || pipes->lent_count() == 0, "a pipe was not given back");
}

// Somebody is served to his end, somebody is cut off.
void drains(stage& s) {
    s.serve(shop_at, {answers});
    proxy p{s};
    s.come(door_at, {say("hello"), hear("hello back"), hear_reset});
    s.come(door_at, {wait(milliseconds{60}), say("hello"), hear("hello back"), wait(milliseconds{5}), fin, hear_reset});
    s.turns(milliseconds{50});
    bool is_over = false;
    p.it->drain(
        drain_kind::end, milliseconds{500}, [](void* at) noexcept { *static_cast<bool*>(at) = true; }, &is_over);
    s.settle();
    s.turns(seconds{1});
    s.require(is_over, "a drain outlived its limit");
    s.require(s.harmed() || p.it->cut_count() == 1, "the scenario is not what it says");
    s.recover();
    p.check();
}

} // namespace

const std::vector<scenario> proxy_scenarios{
    {"proxy-forwards", forwards},
    {"proxy-forwards-paths", forwards_paths},
    {"proxy-tells-in-v1", tells_in_v1},
    {"proxy-tells-in-v2", tells_in_v2},
    {"proxy-passes-on-who-speaks", passes_on_who_speaks},
    {"proxy-greeting-is-wrong", greeting_is_wrong},
    {"proxy-greeting-is-late", greeting_is_late},
    {"proxy-greeting-is-cut", greeting_is_cut},
    {"proxy-asks-the-next-server", asks_the_next_server},
    {"proxy-asks-the-next-server-in-time", asks_the_next_server_in_time},
    {"proxy-serves-by-two", serves_by_two},
    {"proxy-is-refused-by-all", is_refused_by_all},
    {"proxy-is-abandoned", is_abandoned},
    {"proxy-waits-at-the-limit", waits_at_the_limit},
    {"proxy-splices", splices},
    {"proxy-drains", drains},
};

} // namespace failures
