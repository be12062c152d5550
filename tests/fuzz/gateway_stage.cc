// gateway_stage: the ends of connections as state machines, and the acts of a run.

#include "fuzz/gateway_stage.hpp"

#include "core/contract.hpp"
#include "fuzz/strict_http1.hpp"
#include "proto/tcp.hpp"

namespace fuzz {

const endpoint door = endpoint::ipv4(0x0a000001, 8080);
const endpoint shop = endpoint::ipv4(0x0a000101, 80);

// ---- servers and clients

void server::run() {
    if (!listen()) return;
    while (!is_tunnel && read_one()) {
    }
    play();
    if (end && heard_end && is_done()) leave(false);
}

// Takes the request at the front of `in`. False: it is not there, or not all of it.
bool server::read_one() {
    const strict_message m = read_strict_request(in);
    if (m.wrong) wrong(m.wrong, in);
    if (!m.has_head) return false;
    if (!std::exchange(is_seen, true)) {
        got.push_back({});
        got.back().could_be_answered = !end->socket().send_shut;
    }
    request& now = got.back();
    now.method = m.method;
    now.target = m.target;
    now.host = m.host;
    now.body = m.body;
    now.is_complete = m.is_complete;
    const bool early = home->next_answer() && home->next_answer()->is_early;
    if (!is_answered && (m.is_complete || early)) answer(now, !m.upgrade.empty());
    if (!m.is_complete) return false;
    is_seen = is_answered = false;
    in.erase(0, m.size);
    return true;
}

void server::answer(const request& asked, bool wants_upgrade) {
    is_answered = true;
    if (const auto* next = home->next_answer()) {
        home->answers_used++;
        for (const step& s : next->steps)
            to_do.push_back(s);
        is_tunnel = wants_upgrade && !next->steps.empty() && next->steps[0].text.starts_with("HTTP/1.1 101");
        return;
    }
    const std::string head =
        "HTTP/1.1 200 OK\r\nX-Echo: " + home->nonce + asked.target + "\r\nContent-Length: 2\r\n\r\n";
    to_do.push_back({.text = asked.method == "HEAD" ? head : head + "ok"});
}

// ---- the stage

namespace {

std::string nonce_of(std::string_view input) {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const char c : input)
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return std::to_string(hash) + ' ';
}

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
    o.idle.idle_max = chance.between(1, 4);
    o.idle.age_max = seconds{3};
    o.idle.probe = chance.coin();
    o.idle.seed = chance.next();
    if (chance.below(4) == 0) {
        o.http.head = {.start_line_bytes_max = 60'000, .head_bytes_max = 65'535, .fields_max = 1000};
        o.http.server_bare_lf = true;
    }
    o.clients_max = 4;
    o.tunnel_idle_timeout = seconds{5};
    o.fin_timeout = seconds{2};
    o.http.upgrades = "w"; // of the corpus
    o.http.on_client_fin = chance.coin() ? client_fin::abort : client_fin::wait;
    return o;
}

const remote_cb client_cb{.name = "client", .run = [](remote& r) noexcept {
                              client& c = *static_cast<client*>(r.owner);
                              if (r.connecting() || !c.listen()) return;
                              c.play();
                          }};

const remote_cb server_cb{.name = "server", .run = [](remote& r) noexcept { static_cast<server*>(r.owner)->run(); }};

// A new connection of the service: its owner is still the stage.
const remote_cb newcomer_cb{.name = "server", .run = [](remote& r) noexcept {
                                stage& home = *static_cast<stage*>(r.owner);
                                home.servers.push_back(std::make_unique<server>());
                                server& s = *home.servers.back();
                                s.home = &home;
                                s.end = &r;
                                r.owner = &s;
                                r.become(server_cb);
                                s.run();
                            }};

} // namespace

stage::stage(std::string_view input) : play(parse_script(input)), nonce(nonce_of(input)), w(play.seed, {.large_blocks_max = 8}) {
    w.closes_what_failed = false; // what a server said before it failed is still passed on
    gateway = std::make_unique<http1_gateway>(*w.conns, draw(w.k.chance));
    w.k.net.serve({.where = shop, .table = &newcomer_cb, .owner = this});
    gateway->add_upstream({.family = &tcp, .at = shop});
    EXPECT(gateway->listen({.family = &tcp, .at = door}, {}).ok());
}

stage::~stage() {
    gateway.reset();
    w.close_conns();
    w.tear_down();
}

client& stage::send_client(const part& steps) {
    clients.push_back(std::make_unique<client>());
    client& c = *clients.back();
    c.to_do.assign(steps.begin(), steps.end());
    const auto port = static_cast<std::uint16_t>(20'000 + clients.size());
    c.end = &w.k.net.dial(endpoint::ipv4(0x0a000002, port), door, client_cb, &c);
    return c;
}

void stage::perform() {
    if (play.has_faults) w.k.faults.resume();
    for (const part& steps : play.clients)
        if (!steps.empty()) send_client(steps);
    const auto all_done = [this] {
        for (const auto& c : clients)
            if (!c->is_done()) return false;
        for (const auto& s : servers)
            if (!s->is_done()) return false;
        return true;
    };
    const time_point end = w.k.time.now + seconds{60};
    while (w.k.time.now < end && !(all_done() && is_quiet()))
        w.turn(std::min<duration>(end - w.k.time.now, milliseconds{100}));
}

// Nobody does anything more: everything ends by itself.
void stage::await_all_over() {
    w.k.heal();
    for (auto& c : clients)
        c->to_do.clear();
    for (auto& s : servers)
        s->to_do.clear();
    w.require_by(w.k.time.now + seconds{60}, "I8", "a client is served beyond every deadline",
                 [&] { return is_quiet(); });
}

void stage::try_healthy() {
    for (auto& s : servers)
        if (s->end) s->leave(true);
    answers_used = play.answers.size();
    w.turn_until(w.k.time.now + seconds{12}); // upstreams that rested are asked again after 10 s
    const step asks{.text = "HEAD /1 HTTP/1.1\r\nHost: shop\r\n\r\n"
                            "POST /2 HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n"
                            "3\r\nabc\r\n0\r\n\r\n"
                            "GET /3 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"};
    client& c = send_client({asks});
    w.require_by(w.k.time.now + seconds{10}, "I10", "a healthy client was not served in time",
                 [&] { return !c.end || c.heard_end; });
    std::string_view heard = c.in;
    for (const bool is_to_head : {true, false, false}) {
        const strict_message m = read_strict_response(heard, is_to_head);
        if (m.status != 200 || !m.is_complete) wrong("a healthy client was not served", c.in);
        heard.remove_prefix(m.size);
        if (c.in.find("onnection: close") < c.in.size() - heard.size()) break; // all that one connection may ask
    }
    if (c.end) c.leave(false);
    w.require_by(w.k.time.now + seconds{15}, "I8", "an idle connection outlived its age",
                 [&] { return w.conns->live_count() == 0; });
    if (w.conns->blocks().used() + w.conns->blocks().large_used() != 0) w.k.violate("I5", "a block was not given back");
    if (gateway->active_count() != 0) w.k.violate("I5", "an exchange was not given back");
}

} // namespace fuzz
