// weir-gateway: an HTTP/1.1 keep-alive reverse proxy. Options, and what each of its threads has.

#include <cstring>

#include "proto/http1_gateway.hpp"
#include "tools/crew.hpp"
#include "tools/log_writer.hpp"

namespace {

using namespace weir;

struct settings : tools::crew_options {
    http1_gateway_options gateway;
    std::uint64_t body_max = 0;
    const char* access_log = nullptr;
    tools::listen_place admin{.file = {.mode = 0600}}; // what it tells is not for every user
    bool probe = false;
    duration linger = seconds{30}, linger_silence = seconds{5};
};

constexpr const char* unsolicited_words[] = {"kill", "drain"};
constexpr const char* repeat_words[] = {"auto", "off"};
constexpr const char* client_fin_words[] = {"abort", "wait"};

void check_upgrade_option(const char* list) {
    switch (check_upgrades(list)) {
    case http1_upgrades_error::none: return;
    case http1_upgrades_error::not_a_protocol:
        tools::options::wrong("--upgrade", "protocols like websocket or name/version, separated by commas, not '%s'", list);
    case http1_upgrades_error::http:
        tools::options::wrong("--upgrade", "no version of HTTP (h2c, h2, HTTP/2.0): such a tunnel carries requests past "
                                           "every limit and the access log");
    case http1_upgrades_error::too_many:
        tools::options::wrong("--upgrade", "at most %zu protocols", http1_upgrades_max);
    }
}

void parse(settings& set, int argc, char** argv) {
    tools::options o{
        {.program = "weir-gateway",
         .usage = "[options] LISTEN UPSTREAM [UPSTREAM...]",
         .purpose = "Forwards HTTP/1.1 requests to the upstreams and keeps their connections for the next one.\n"
                    "SIGTERM, SIGINT: stop accepting, finish what runs, exit 0; a second one: exit 1 at once.\n"
                    "SIGUSR1: say what is open and the counters. SIGHUP: open the access log anew, look names up again.",
         .examples = {"weir-gateway 127.0.0.1:8080 127.0.0.1:8081",
                      "weir-gateway --balance least --access-log - unix:/tmp/weir.sock localhost:8081 [::1]:8082"}}};
    http1_options& http = set.gateway.http;
    constexpr duration ms = milliseconds{1};
    constexpr std::uint64_t head_max = 64 * 1024; // 65,536 is accepted and means 65,535
    const char* upgrades = http.upgrades.data(); // a literal
    o.time("--connect-timeout", http.connect_timeout, "to connect to an upstream", ms);
    o.time("--first-byte-timeout", http.first_byte_timeout,
           "for an answer to begin, once the upstream has taken the request, and for its next bytes", ms);
    o.time("--header-timeout", http.header_timeout, "for a request's whole head", ms);
    o.time("--body-timeout", http.body_timeout, "for the next bytes of a request's body", ms);
    o.time("--write-timeout", http.write_timeout, "for a client to take more of its answer; a slow reader is in time",
           ms);
    o.time("--keep-alive-timeout", http.keep_alive_timeout, "of a client between two requests", ms);
    o.time("--linger-timeout", set.linger, "to throw away what a client sends behind its last answer", ms);
    o.time("--linger-idle-timeout", set.linger_silence, "of such a client that sends nothing", ms);
    o.count("--keep-alive-requests", http.keep_alive_requests, "per client connection", {1, UINT32_MAX});
    o.time("--idle-timeout", set.gateway.tunnel_idle_timeout, "of a tunnel (101) without a byte on the wire either way",
           ms);
    o.time("--fin-timeout", set.gateway.fin_timeout,
           "the same, once the upstream has ended its side or one side was reset", ms);
    o.size("--request-line-max", http.head.start_line_bytes_max, "-> 414; of a status line -> 502", {16, head_max});
    o.size("--head-max", http.head.head_bytes_max, "of a request -> 431, of an answer -> 502; at most 65,535 bytes", {16, head_max});
    o.count("--fields-max", http.head.fields_max, "in a head; likewise", {1, http1_head::fields_capacity});
    o.size("--body-rate-min", http.body_rate_min,
           "of a request with a length, a second, over --body-timeout; 0: any");
    o.size("--chunked-rate-min", http.chunked_rate_min, "of a request in chunks, likewise; 0: any");
    o.flag("--allow-bare-lf", http.server_bare_lf, "as a line's end in an upstream's head, beside CRLF");
    o.size("--body-max", set.body_max, "of a request; 0: no limit");
    o.time("--pool-idle-timeout", set.gateway.idle.age_max, "of an upstream connection, +-10 %", ms);
    o.count("--pool-size", set.gateway.idle.idle_max,
            "idle upstream connections, of each thread; 0: none, and each request tells its upstream so", {0, 1'000'000});
    o.choice("--unsolicited", set.gateway.idle.on_bytes, unsolicited_words, "bytes on an idle connection");
    o.flag("--probe", set.probe, "peek at an idle connection before it is used");
    o.choice("--retry", http.repeats, repeat_words, "repeat a request where that is proven harmless");
    o.choice("--client-fin", http.on_client_fin, client_fin_words,
             "of a client whose request is complete. abort: it has gone, and so is the request; wait: it still reads");
    o.text("--upgrade", upgrades, "TOKEN[,TOKEN...]",
           "what a client may ask for by Upgrade; any other is taken out of its request");
    o.text("--access-log", set.access_log, "FILE",
           "a line per request; -, /dev/stdout, /dev/fd/N: as inherited. What is not read is lost, and counted on stderr");
    o.listen_at("--admin", set.admin, "where GET /counters answers, with the sums over all threads");
    o.flag("--quiet", set.quiet, "no line for each 502, 503 and 504");
    tools::declare(o, set);
    o.parse(argc, argv);
    if (set.access_log && tools::own_descriptor(set.access_log) == -EBADF)
        tools::options::wrong("--access-log", "%s: that descriptor is not open", set.access_log);
    if (set.admin.fd >= 0) tools::options::wrong("--admin", "an address; an inherited descriptor is not taken here");
    set.gateway.how = set.how;
    check_upgrade_option(upgrades);
    http.upgrades = upgrades;
    http.user_timeout = set.gateway.tunnel_user_timeout = set.user_timeout;
    set.gateway.idle.probe = set.probe;
    if (set.body_max > 0) http.body_bytes_max = set.body_max;
    constexpr std::uint32_t highest = http1_exchange::large_head_bytes_max;
    http.head.head_bytes_max = std::min(http.head.head_bytes_max, highest);
    set.idle_max = set.gateway.idle.idle_max;
    set.admin_clients_max = set.admin.at.family ? http1_gateway::admin_clients_max : 0;
    set.lingers = true;
}

http1_gateway_options limited(http1_gateway_options gateway, const tools::share& mine) {
    gateway.clients_max = mine.limits.clients_max;
    gateway.tunnels_max = mine.limits.clients_max;
    gateway.places = &mine.places;
    gateway.idle.idle_max = mine.limits.idle_max;
    return gateway;
}

// Blocks of a thread for heads that do not fit into ordinary ones. Memory is touched when it is used.
std::uint32_t large_blocks_of(const http1_limits& head, const tools::share& mine) {
    constexpr std::uint32_t most = 1024; // 80 MB
    return http1_exchange::needs_large_blocks(head) ? std::min(2 * mine.limits.clients_max, most) : 0;
}

// What one thread has.
struct worker {
    using settings = ::settings;
    static constexpr const char* in_use = "requests and tunnels";

    worker(event_loop& on, const settings& s, const tools::share& mine) noexcept
        : loop(on), set(s), options(limited(s.gateway, mine)), conns(on),
          large_blocks_max(large_blocks_of(s.gateway.http.head, mine)), proxy(conns, options) {}

    void open(tools::crew<worker>& home, std::uint32_t index) noexcept {
        const conntab_options needed{.connections_max = http1_gateway::connections_needed(options),
                                     .blocks_max = http1_gateway::blocks_needed(options),
                                     .large_blocks_max = large_blocks_max,
                                     .linger = set.linger,
                                     .linger_silence = set.linger_silence};
        if (auto r = conns.open(needed); !r)
            tools::fail("no memory for %u connections: lower --max-connections", needed.connections_max);
        for (std::size_t i = 0; i < set.upstreams_count; i++)
            proxy.add_upstream(set.upstreams[i].addresses());
        if (!set.quiet) proxy.on_trouble(tools::log_writer::take, &home.lines(index));
        if (set.access_log) {
            access.open(loop, set.access_log, home.lines(index));
            proxy.on_access(tools::log_writer::take, &access);
        }
        if (index > 0) return;
        if (!set.admin.at.family) return;
        const auto write = tools::crew<worker>::write_counters;
        unique_fd before = home.inherited(tools::heirloom::admin, set.admin.at.at);
        auto r = before ? proxy.listen_admin(std::move(before), *set.admin.at.family, write, &home)
                        : proxy.listen_admin(set.admin.at, write, &home, {.socket = {.file = set.admin.file}});
        if (!r) tools::fail("cannot listen at %s: %s", set.admin.text, std::strerror(r.error()));
        if (set.takeover.at.family) proxy.admin_port().share();
        char text[endpoint::text_max];
        const std::string_view where = proxy.admin_port().local().text(text);
        tools::say("admin on %.*s", static_cast<int>(where.size()), where.data());
    }
    void drain(drain_kind how, http1_gateway::drained done, void* owner) noexcept {
        proxy.drain(how, set.drain, done, owner);
    }
    void reopen() noexcept {
        if (set.access_log) access.reopen();
    }
    int admin_fd() const noexcept { return proxy.admin_port().fd(); }
    endpoint admin_at() const noexcept { return proxy.admin_port().local(); }

    event_loop& loop;
    const settings& set;
    const http1_gateway_options options;
    tools::log_writer access;
    conntab conns;
    std::uint32_t large_blocks_max;
    http1_gateway proxy;
};

} // namespace

int main(int argc, char** argv) {
    tools::hold_standard_descriptors();
    settings set;
    parse(set, argc, argv);
    tools::crew<worker> crew{set, tools::prepare_process()};
    crew.run();
    return 0;
}
