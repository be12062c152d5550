// stream: the whole L4 proxy on the simulated kernel, whose clients are asked for a PROXY line.
//
// The input is a play (gateway_script.hpp): what up to four clients say from their first byte on; "@s" and what follows
// is what the next server says. What must hold, whatever it is:
//   - the simulator's own invariants: nothing leaks, nothing spins, no wake-up is lost, every client ends;
//   - a server hears what one client said behind its line, no byte else, and before it who that is; of a client without
//     a line nobody hears;
//   - a client hears what one server said, no byte else;
//   - each client is counted once, and afterwards a healthy one is served.

#include "fuzz/fuzz.hpp"

#include <optional>

#include "fuzz/actor.hpp"
#include "proto/stream_proxy.hpp"
#include "proto/tcp.hpp"

using namespace weir;

namespace {

using fuzz::actor;
using fuzz::wrong;

const endpoint door = endpoint::ipv4(0x0a000001, 8080);
const endpoint shops[] = {endpoint::ipv4(0x0a000101, 80), endpoint::ipv4(0x0a000102, 80)};
const std::string healthy_line = "PROXY TCP4 10.1.1.1 10.1.1.2 1 2\r\n";

struct client : actor {
    endpoint source{};
};

struct stage {
    explicit stage(std::string_view input) : play(fuzz::parse_script(input)), w(play.seed) {
        proxy.emplace(*w.conns, draw());
        for (const endpoint& at : shops) {
            w.k.net.serve({.where = at, .table = &newcomer_cb, .owner = this});
            proxy->add_upstream({.family = &tcp, .at = at});
        }
        w.k.net.find_service(shops[0])->refuses = w.k.chance.below(3) == 0;
        EXPECT(proxy->listen({.family = &tcp, .at = door}, {}).ok());
        w.watch_pairs(&proxy->relay());
    }

    stream_proxy_options draw();
    client& send_client(const fuzz::part& steps);
    void perform();
    void try_healthy();
    void check();
    void let_go();

    static const remote_cb newcomer_cb, server_cb, client_cb;

    const fuzz::script play;
    simtest::world w;
    send_proxy tells = send_proxy::off;
    std::uint16_t header_bytes_max = 0;
    bool is_over = false; // the play: who comes now is healthy
    std::optional<stream_proxy> proxy{};
    std::vector<std::unique_ptr<client>> clients{};
    std::vector<std::unique_ptr<actor>> servers{};
};

stream_proxy_options stage::draw() {
    dice& chance = w.k.chance;
    stream_proxy_options o;
    o.relay.pairs_max = chance.between(1, w.connections_max / 2);
    o.relay.connect_timeout = o.relay.fin_timeout = seconds{2};
    o.relay.idle_timeout = seconds{4};
    o.relay.pipes.pipes_max = chance.below(3);
    o.how = chance.coin() ? balance::least : balance::round_robin;
    o.accept_proxy = true;
    o.proxy.bytes_max = header_bytes_max = static_cast<std::uint16_t>(chance.between(16, 4096));
    o.proxy_timeout = seconds{3};
    tells = o.send = static_cast<send_proxy>(chance.below(3));
    return o;
}

const remote_cb stage::client_cb{.name = "client", .run = [](remote& r) noexcept {
                                     client& c = *static_cast<client*>(r.owner);
                                     if (!r.connecting() && c.listen()) c.play();
                                 }};
const remote_cb stage::server_cb{.name = "server", .run = [](remote& r) noexcept {
                                     actor& s = *static_cast<actor*>(r.owner);
                                     if (!s.listen()) return;
                                     s.play();
                                     if (s.end && s.heard_end && s.is_done()) s.leave(false);
                                 }};
// A new connection of the service: its owner is still the stage.
const remote_cb stage::newcomer_cb{.name = "server", .run = [](remote& r) noexcept {
                                       stage& home = *static_cast<stage*>(r.owner);
                                       const std::size_t at = home.servers.size();
                                       home.servers.push_back(std::make_unique<actor>());
                                       actor& s = *home.servers.back();
                                       if (at < home.play.answers.size() && !home.is_over)
                                           s.to_do.assign(home.play.answers[at].steps.begin(),
                                                          home.play.answers[at].steps.end());
                                       else s.to_do.push_back({.text = "welcome"});
                                       s.end = &r;
                                       r.owner = &s;
                                       r.become(server_cb);
                                       server_cb.run(r);
                                   }};

client& stage::send_client(const fuzz::part& steps) {
    clients.push_back(std::make_unique<client>());
    client& c = *clients.back();
    c.to_do.assign(steps.begin(), steps.end());
    c.source = endpoint::ipv4(0x0a000002, static_cast<std::uint16_t>(20'000 + clients.size()));
    c.end = &w.k.net.dial(c.source, door, client_cb, &c);
    return c;
}

void stage::perform() {
    if (play.has_faults) w.k.faults.resume();
    for (const fuzz::part& steps : play.clients)
        if (!steps.empty()) send_client(steps);
    w.turn_until(w.k.time.now + seconds{2});
    w.k.heal();
    w.require_by(w.k.time.now + seconds{120}, "I8", "a client outlived every deadline", [this] {
        for (const auto& c : clients)
            if (c->end && c->end->connecting()) return false;
        return proxy->clients_count() == 0 && w.conns->live_count() == 0;
    });
}

void stage::try_healthy() {
    is_over = true;
    client& c = send_client({{.text = healthy_line + "hello"}});
    const auto heard = [](const actor& a, std::string_view text) { return a.in.ends_with(text); };
    w.require_by(w.k.time.now + seconds{10}, "I10", "a healthy client was not heard",
                 [&] { return !servers.empty() && heard(*servers.back(), "hello"); });
    w.require_by(w.k.time.now + seconds{10}, "I10", "a healthy client was not answered",
                 [&] { return heard(c, "welcome"); });
    if (c.end) c.leave(true);
    w.require_by(w.k.time.now + seconds{10}, "I8", "a pair outlived its ends",
                 [&] { return w.conns->live_count() == 0; });
}

// What a server may hear of that client: all of it, or the beginning. Nothing: it has said no PROXY line.
std::optional<std::string> what_is_told(const stage& st, const client& c) {
    proxy_line line;
    line.start({.bytes_max = st.header_bytes_max});
    if (line.parse(c.said) != proxy_line::progress::done) return {};
    const bool is_known = line.source().specified();
    const endpoint& source = is_known ? line.source() : c.source;
    const endpoint& destination = is_known ? line.destination() : door;
    char room[proxy_v2_bytes_max];
    std::string told;
    if (st.tells == send_proxy::v1)
        told = write_proxy_v1(std::span{room}.first<proxy_v1_bytes_max>(), source, destination);
    else if (st.tells == send_proxy::v2) told = write_proxy_v2(room, source, destination);
    return told + c.said.substr(line.size());
}

void stage::check() {
    std::vector<std::string> all;
    for (const auto& c : clients)
        if (auto told = what_is_told(*this, *c)) all.push_back(*told);
    for (const auto& s : servers) {
        const auto is_of = [&](const std::string& told) { return told.starts_with(s->in); };
        if (!s->in.empty() && std::none_of(all.begin(), all.end(), is_of))
            wrong("a server heard what no client has said", s->in);
    }
    for (const auto& c : clients) {
        const auto is_from = [&](const auto& s) { return s->said.starts_with(c->in); };
        if (!c->in.empty() && std::none_of(servers.begin(), servers.end(), is_from))
            wrong("a client heard what no server has said", c->in);
    }
    const auto& n = proxy->counters();
    if (n.clients_total != n.relayed + n.refused + n.bad_greetings + n.silent + n.abandoned)
        wrong("clients are not counted once each", "");
    if (w.conns->blocks().used() != 0) w.k.violate("I5", "a block was not given back");
}

void stage::let_go() {
    w.watch_pairs(nullptr);
    proxy.reset();
    w.close_conns();
    w.tear_down();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    stage st{fuzz::text_of(data, size)};
    st.perform();
    st.try_healthy();
    st.check();
    st.let_go();
    return 0;
}
