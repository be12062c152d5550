// failures_gateway: the HTTP/1.1 gateway.

#include "proto/http1_gateway.hpp"

#include "proto/tcp.hpp"
#include "sim/failures.hpp"

namespace failures {

namespace {

const address shop{.family = &tcp, .at = shop_at}, other{.family = &tcp, .at = other_shop};
const endpoint office_at = endpoint::ipv4(0x0a000001, 9090);

struct gateway {
    explicit gateway(stage& s, std::initializer_list<address> upstreams = {shop}) : home(s) {
        s.open_conns();
        http1_gateway_options o;
        o.http.header_timeout = o.http.body_timeout = o.http.keep_alive_timeout = seconds{1};
        o.http.connect_timeout = o.http.first_byte_timeout = o.http.write_timeout = seconds{1};
        o.http.body_rate_min = 0;
        o.idle.idle_max = 4;
        o.idle.age_max = seconds{2};
        o.clients_max = 8;
        o.tunnels_max = 4;
        o.tunnel_idle_timeout = o.fin_timeout = seconds{1};
        s.start([&] {
            it.emplace(*s.conns, o);
            for (const address& a : upstreams)
                it->add_upstream(a);
            if (it->listen({.family = &tcp, .at = door_at}, {}).ok()) return true;
            it.reset();
            return false;
        });
    }
    stage& home;
    std::optional<http1_gateway> it;
};

const std::string get = "GET /one HTTP/1.1\r\nHost: here\r\n\r\n";
const std::string last_get = "GET /one HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
const std::string get_two = "GET /two HTTP/1.1\r\nHost: here\r\n\r\n";
const std::string last_get_two = "GET /two HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
std::string get_of(const char* path) { return std::string{"GET "} + path + " HTTP/1.1\r\nHost: here\r\n\r\n"; }
const std::string ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const std::string head_end = "\r\n\r\n";

const step go_on{.what = step::act::answer}; // as any other server
const script asks_once{say(last_get), hear("hello"), hear_end};

// What must have happened in the unharmed life, for the scenario to be what it says.
using expected = bool (*)(const http1_counters& c);
bool one_request(const http1_counters& c) { return c.requests >= 1; }

// `client` against `server`; afterwards somebody who asks once.
void exchange(stage& s, script client, script server, expected holds = one_request) {
    s.serve_http(shop_at, std::move(server));
    gateway g{s};
    s.come(door_at, std::move(client));
    s.settle();
    s.require(s.harmed() || holds(g.it->counters()), "the scenario is not what it says");
    s.recover(door_at, asks_once);
    s.require(g.it->active_count() == 0, "an exchange was not given back");
}

void gets(stage& s) { exchange(s, asks_once, {}); }

void gets_from_one_that_closes(stage& s) {
    exchange(s, {say(last_get_two), hear("hello"), hear_end},
             {hear(head_end), say("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")});
}

void posts(stage& s) {
    s.only_once("POST /two");
    exchange(s,
             {say("POST /two HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"),
              wait(milliseconds{5}), say("body"), hear("hello"), hear_end},
             {hear("body"), say(ok), go_on});
}

void posts_in_chunks(stage& s) {
    s.only_once("POST /two");
    exchange(s,
             {say("POST /two HTTP/1.1\r\nHost: here\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"),
              say("4\r\nbody\r\n"), wait(milliseconds{5}), say("3\r\nend\r\n0\r\n\r\n"), hear("0\r\n\r\n"), hear_end},
             {hear("0\r\n\r\n"), say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
              wait(milliseconds{5}), say("0\r\n\r\n"), go_on});
}

void keeps_alive(stage& s) {
    exchange(s,
             {say(get_of("/0")), hear("hell0"), wait(milliseconds{20}), say(get_of("/1")), hear("hell1"),
              wait(milliseconds{20}), say(last_get), hear("hello"), hear_end},
             {}, [](const http1_counters& c) { return c.reused == 2; });
}

void client_waits_too_long(stage& s) { exchange(s, {say(get), hear("hello"), hear_end}, {}); }

// The server goes when it hears a second request.
void reuse_meets(stage& s, const step& end) {
    exchange(s, {say(get_two), hear("hello"), wait(milliseconds{20}), say(last_get_two), hear("hello"), hear_end},
             {hear(head_end), say(ok), hear(head_end), end}, [](const http1_counters& c) { return c.repeated == 1; });
}
void reuse_meets_a_reset(stage& s) { reuse_meets(s, reset); }
void reuse_meets_an_end(stage& s) { reuse_meets(s, close_it); }

// A POST on a connection whose server is just going must not be made twice.
void post_meets_an_end(stage& s) {
    s.only_once("POST /three");
    exchange(s,
             {say(get_two), hear("hello"),
              say("POST /three HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"),
              hear("hello"), hear_end},
             {hear(head_end), say(ok), close_it});
}

// On a connection that was used before; the server hears it and goes.
void post_is_heard(stage& s, const step& end) {
    s.only_once("POST /three");
    exchange(s,
             {say(get_two), hear("hello"), wait(milliseconds{20}),
              say("POST /three HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"),
              hear("502 "), hear_end},
             {hear(head_end), say(ok), hear("body"), end},
             [](const http1_counters& c) { return c.reused == 1 && c.repeated == 0; });
}
void post_meets_a_reset(stage& s) { post_is_heard(s, reset); }
void post_is_heard_and_left(stage& s) { post_is_heard(s, close_it); }

void answered_early(stage& s) {
    s.only_once("POST /two");
    exchange(s,
             {say("POST /two HTTP/1.1\r\nHost: here\r\nContent-Length: 20000\r\n\r\n" + pattern(3000)), hear("hello"),
              hear_end},
             {hear(head_end), say(ok)});
}

void continues(stage& s) {
    s.only_once("POST /two");
    exchange(s,
             {say("POST /two HTTP/1.1\r\nHost: here\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: "
                  "4\r\n\r\n"),
              hear("100 "), say("body"), hear("hello"), hear_end},
             {hear(head_end), say("HTTP/1.1 100 Continue\r\n\r\n"), hear("body"), say(ok), go_on});
}

void upgrades(stage& s) {
    exchange(s,
             {say("GET /two HTTP/1.1\r\nHost: here\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nearly"), hear("101 "),
              hear("welcome"), say("hello"), hear("hello back"), fin, hear_end},
             {hear(head_end),
              say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nwelcome"),
              hear("early"), hear("hello"), say("hello back"), hear_end},
             [](const http1_counters& c) { return c.tunnels == 1; });
}

void without_bodies(stage& s) {
    exchange(s,
             {say("HEAD /one HTTP/1.1\r\nHost: here\r\n\r\n"), hear(head_end), say(get_of("/204")), hear(head_end),
              say(get_of("/304")), hear(head_end), say(last_get), hear("hello"), hear_end},
             {});
}

void pipelines(stage& s) {
    exchange(s, {say(get_of("/0") + get_of("/1") + last_get), hear("hell0"), hear("hell1"), hear("hello"), hear_end},
             {});
}

void large_both_ways(stage& s) {
    s.only_once("POST /two");
    const std::string much = pattern(20000);
    exchange(s,
             {say("POST /two HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 20000\r\n\r\n" + much),
              wait(milliseconds{50}), hear(much), hear_end},
             {hear(head_end), wait(milliseconds{50}), hear(much),
              say("HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + much), go_on});
}

void several_clients(stage& s) {
    s.serve_http(shop_at);
    gateway g{s};
    for (int i = 0; i < 4; i++)
        s.come(door_at, {say(get), hear("hello"), wait(milliseconds{10}), say(last_get), hear("hello"), hear_end});
    s.settle();
    s.recover(door_at, asks_once);
}

void client_aborts(stage& s) {
    s.serve_http(shop_at, {hear(head_end), wait(milliseconds{50}), say(ok), go_on});
    gateway g{s};
    s.come(door_at, {say(get_two), wait(milliseconds{10}), reset});
    s.settle();
    s.turns(milliseconds{100});
    s.recover(door_at, asks_once);
}

void server_never_answers(stage& s) {
    exchange(s, {say(last_get_two), hear("504 "), hear_end}, {hear(head_end), hear_reset});
}
void answer_is_cut_off(stage& s) {
    exchange(
        s, {say(last_get_two), hear("hel"), hear_reset},
        {hear(head_end), say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"), wait(milliseconds{10}), close_it});
}
void nonsense_is_refused(stage& s) {
    exchange(s, {say("NONSENSE\r\n\r\n"), hear("400 "), hear_end}, {},
             [](const http1_counters& c) { return c.refused == 1; });
}
void head_never_ends(stage& s) {
    exchange(s, {say("GET /one HT"), hear("408 "), hear_end}, {},
             [](const http1_counters& c) { return c.refused == 1; });
}

void second_upstream_answers(stage& s) {
    s.refuse(shop_at);
    s.serve_http(other_shop);
    gateway g{s, {shop, other}};
    s.come(door_at, asks_once);
    s.settle();
    s.recover(door_at, asks_once);
}

void no_upstream_answers(stage& s) {
    s.refuse(shop_at);
    gateway g{s};
    const script refused{say(last_get), hear("502 "), hear_end};
    s.come(door_at, refused);
    s.settle();
    s.recover(door_at, refused);
}

struct log_lines {
    int access = 0, trouble = 0;
};

void logs(stage& s) {
    s.serve_http(shop_at);
    gateway g{s};
    log_lines lines;
    g.it->on_access([](void* l, std::string_view) noexcept { static_cast<log_lines*>(l)->access++; }, &lines);
    g.it->on_trouble([](void* l, std::string_view) noexcept { static_cast<log_lines*>(l)->trouble++; }, &lines);
    s.come(door_at, asks_once);
    s.settle();
    s.recover(door_at, asks_once);
    s.require(s.harmed() ? lines.access <= 2 : lines.access == 2, "not a line for each request");
    s.require(s.harmed() || lines.trouble == 0, "trouble, though nothing failed");
}

void counts(stage& s) {
    s.serve_http(shop_at);
    gateway g{s};
    s.start([&] { return g.it->listen_admin({.family = &tcp, .at = office_at}).ok(); });
    const script reader{say("GET /counters HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"), hear("\"requests\""),
                        hear_end};
    // What it counts differs from life to life.
    s.come(office_at, reader);
    s.settle();
    s.recover(office_at, reader);
}

void drains(stage& s) {
    s.serve_http(shop_at, {hear(head_end), wait(milliseconds{50}), say(ok), go_on});
    gateway g{s};
    s.come(door_at, {say(get_two), hear("hello"), hear_end});
    s.come(door_at, {hear_end}); // waits
    s.turns(milliseconds{20});
    bool drained = false;
    g.it->drain(
        drain_kind::end, seconds{3}, [](void* done) noexcept { *static_cast<bool*>(done) = true; }, &drained);
    s.settle();
    s.recover();
    s.turns(seconds{4});
    s.require(drained, "it never was drained");
}

// It goes with everything under way.
void is_torn_down(stage& s) {
    s.serve_http(shop_at, {hear(head_end), hear_reset});
    {
        gateway g{s};
        s.come(door_at, {say(get_two), hear_reset});
        s.come(door_at, {hear_reset});
        s.turns(milliseconds{20});
    }
    s.settle();
    s.recover();
}

constexpr setting http{.language = speech::http, .rest = seconds{3}};
constexpr setting narrow{.buffer_bytes = 1500, .language = speech::http, .rest = seconds{3}};

} // namespace

const std::vector<scenario> gateway_scenarios{
    {"gets", gets, http},
    {"gets-from-one-that-closes", gets_from_one_that_closes, http},
    {"posts", posts, http},
    {"posts-in-chunks", posts_in_chunks, http},
    {"keeps-alive", keeps_alive, http},
    {"client-waits-too-long", client_waits_too_long, http},
    {"reuse-meets-a-reset", reuse_meets_a_reset, http},
    {"reuse-meets-an-end", reuse_meets_an_end, http},
    {"post-meets-an-end", post_meets_an_end, http},
    {"post-meets-a-reset", post_meets_a_reset, http},
    {"post-is-heard-and-left", post_is_heard_and_left, http},
    {"answered-early", answered_early, http},
    {"continues", continues, http},
    {"upgrades", upgrades, http},
    {"without-bodies", without_bodies, http},
    {"pipelines", pipelines, http},
    {"large-both-ways", large_both_ways, narrow},
    {"several-clients", several_clients, http},
    {"client-aborts", client_aborts, http},
    {"server-never-answers", server_never_answers, http},
    {"answer-is-cut-off", answer_is_cut_off, http},
    {"nonsense-is-refused", nonsense_is_refused, http},
    {"head-never-ends", head_never_ends, http},
    {"second-upstream-answers", second_upstream_answers, http},
    {"no-upstream-answers", no_upstream_answers, http},
    {"logs", logs, http},
    {"counts", counts, {.language = speech::numbers}},
    {"drains", drains, http},
    {"is-torn-down", is_torn_down, http},
};

} // namespace failures
