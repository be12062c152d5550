// weir-gateway: an HTTP/1.1 keep-alive reverse proxy. Options, set-up, loop, drain.

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>

#include "proto/http1_gateway.hpp"
#include "tools/log_file.hpp"
#include "tools/options.hpp"
#include "tools/process.hpp"

namespace {

using namespace weir;

struct settings {
    tools::listen_place listen;
    std::array<tools::upstream_place, http1_upstreams::capacity> upstreams;
    std::size_t upstreams_count = 0;
    http1_gateway_options gateway;
    duration linger = seconds{2};
    duration drain = seconds{30};
    std::uint64_t body_max = 0;
    const char* access_log = nullptr;
    std::uint32_t ledger = 4096;
    tools::listen_place admin;
    bool probe = false;
    bool quiet = false;
};

constexpr const char* unsolicited_words[] = {"kill", "drain"};
constexpr const char* balance_words[] = {"round-robin", "least"};
constexpr const char* repeat_words[] = {"auto", "off"};

void parse(settings& set, int argc, char** argv) {
    tools::options o{
        {.program = "weir-gateway",
         .usage = "[options] LISTEN UPSTREAM [UPSTREAM...]",
         .purpose = "Forwards HTTP/1.1 requests to the upstreams and keeps their connections for the next one.\n"
                    "SIGTERM, SIGINT: stop accepting, finish what runs, exit 0; a second one: exit 1 at once.\n"
                    "SIGUSR1: say what is open and the counters. SIGHUP: open the access log anew.",
         .examples = {"weir-gateway 127.0.0.1:8080 127.0.0.1:8081",
                      "weir-gateway --balance least --access-log - unix:/tmp/weir.sock localhost:8081 [::1]:8082"}}};
    http1_options& http = set.gateway.http;
    constexpr duration ms = milliseconds{1};
    o.time("--connect-timeout", http.connect_timeout, "to connect to an upstream", ms);
    o.time("--first-byte-timeout", http.first_byte_timeout, "for an answer, or its next bytes", ms);
    o.time("--header-timeout", http.header_timeout, "for a request's whole head", ms);
    o.time("--body-timeout", http.body_timeout, "for the next bytes of a request's body", ms);
    o.time("--write-timeout", http.write_timeout, "for a client to take more of its answer", ms);
    o.time("--keep-alive-timeout", http.keep_alive_timeout, "of a client between two requests", ms);
    o.count("--keep-alive-requests", http.keep_alive_requests, "per client connection", {1, UINT32_MAX});
    o.time("--idle-timeout", set.gateway.tunnel_idle_timeout, "of a tunnel (101) without a byte", ms);
    o.time("--fin-timeout", set.gateway.fin_timeout, "of a tunnel one side of which has ended", ms);
    o.time("--linger-timeout", set.linger, "to throw away what a client still sends", ms);
    o.time("--drain-timeout", set.drain, "to finish what runs after SIGTERM");
    o.count("--max-connections", set.gateway.clients_max, "of clients; 0: half of the descriptors", {0, 1'000'000});
    o.size("--body-max", set.body_max, "of a request; 0: no limit");
    o.time("--pool-idle-timeout", set.gateway.idle.age_max, "of an upstream connection, +-10 %", ms);
    o.count("--pool-size", set.gateway.idle.idle_max, "idle upstream connections", {1, 1'000'000});
    o.choice("--unsolicited", set.gateway.idle.on_bytes, unsolicited_words, "bytes on an idle connection");
    o.flag("--probe", set.probe, "peek at an idle connection before it is used");
    o.choice("--retry", http.repeats, repeat_words, "repeat a request where that is proven harmless");
    o.choice("--balance", set.gateway.how, balance_words, "among several upstreams");
    o.text("--access-log", set.access_log, "FILE", "a line per request; -: standard output");
    o.count("--ledger", set.ledger, "events of descriptors that SIGUSR1 remembers; 0: none", {0, 1 << 24});
    o.listen_at("--admin", set.admin, "where GET /counters answers");
    o.flag("--quiet", set.quiet, "no line for each 502, 503 and 504");
    o.listen_at("LISTEN", set.listen);
    o.connect_to("UPSTREAM", set.upstreams, set.upstreams_count);
    o.parse(argc, argv);
}

// Two descriptors per client; 32 for everything else.
void fit_to_descriptors(settings& set, std::uint32_t descriptors) {
    constexpr std::uint32_t reserve = 32, clients_min = 16, clients_default_max = 65'536;
    const std::uint32_t room = descriptors > reserve ? (descriptors - reserve) / 2 : 0;
    if (room < clients_min)
        tools::fail("%u descriptors are too few: raise the limit (ulimit -n) to at least 64", descriptors);
    std::uint32_t& clients_max = set.gateway.clients_max;
    if (clients_max > room)
        tools::fail("--max-connections %u needs %u descriptors, the limit is %u", clients_max,
                    2 * clients_max + reserve, descriptors);
    if (clients_max == 0) clients_max = std::min(room, clients_default_max);
    set.gateway.idle.idle_max = std::min(set.gateway.idle.idle_max, room);
}

struct program {
    event_loop& loop;
    http1_gateway& gateway;
    const settings& set;
    tools::log_file access{};

    static void drain(void* self) noexcept {
        program& p = *static_cast<program*>(self);
        p.gateway.drain(p.set.drain, drained, self);
    }
    static void drained(void* self) noexcept {
        program& p = *static_cast<program*>(self);
        if (const std::size_t n = p.gateway.cut_count())
            tools::say("%zu requests and tunnels that still ran at --drain-timeout were cut off", n);
        p.loop.stop();
    }
    static std::size_t counters(void* self, std::span<char> room) noexcept {
        return static_cast<program*>(self)->gateway.write_counters(room);
    }
    void keep_access_log() {
        access.open(loop, set.access_log);
        gateway.on_access(
            [](void* to, std::string_view line) noexcept { static_cast<program*>(to)->access.line(line); }, this);
        const auto reopen = [](void* at, int) noexcept { static_cast<program*>(at)->access.reopen(); };
        if (auto r = loop.on_signal(SIGHUP, reopen, this); !r)
            tools::fail("signals cannot be received: %s", std::strerror(r.error()));
    }
};

} // namespace

int main(int argc, char** argv) {
    settings set;
    set.gateway.clients_max = 0;
    parse(set, argc, argv);
    fit_to_descriptors(set, tools::prepare_process());
    set.gateway.idle.probe = set.probe;
    if (set.body_max > 0) set.gateway.http.body_bytes_max = set.body_max;

    event_loop loop;
    if (auto r = loop.open({.ledger_max = set.ledger}); !r) tools::fail("no event loop: %s", std::strerror(r.error()));
    conntab conns{loop};
    const std::uint32_t connections_max = 2 * set.gateway.clients_max;
    if (auto r = conns.open({.connections_max = connections_max, .linger = set.linger}); !r)
        tools::fail("no memory for %u connections: lower --max-connections", connections_max);
    http1_gateway gateway{conns, set.gateway};
    for (std::size_t i = 0; i < set.upstreams_count; i++)
        gateway.add_upstream(set.upstreams[i].at);

    program self{loop, gateway, set};
    if (set.access_log) self.keep_access_log();
    else std::signal(SIGHUP, SIG_IGN); // as for every daemon; there is nothing to open anew
    if (!set.quiet) gateway.on_trouble(tools::say_line, nullptr);
    const tools::listen_place& at = set.listen;
    auto listening =
        at.fd >= 0 ? gateway.listen(unique_fd{at.fd}, tools::family_of(at), {}) : gateway.listen(at.at, {});
    if (!listening) tools::fail("cannot listen at %s: %s", at.text, std::strerror(listening.error()));
    if (set.admin.fd >= 0) tools::options::wrong("--admin", "an address; an inherited descriptor is not taken here");
    if (set.admin.at.family) {
        if (auto r = gateway.listen_admin(set.admin.at); !r)
            tools::fail("cannot listen at %s: %s", set.admin.text, std::strerror(r.error()));
        char text[endpoint::text_max];
        const std::string_view where = gateway.admin_local().text(text);
        tools::say("admin on %.*s", static_cast<int>(where.size()), where.data());
    }
    tools::on_stop_signal(loop, program::drain, &self);
    tools::on_report_signal(loop, program::counters, &self);
    tools::announce(gateway.local());

    loop.run();
    return 0;
}
