// weir-relay: an L4 proxy. Options, and what each of its threads has.

#include "proto/stream_proxy.hpp"
#include "tools/crew.hpp"

namespace {

using namespace weir;

enum class splicing : std::uint8_t { automatic, off };

struct settings : tools::crew_options {
    stream_proxy_options stream;
    splicing splice = splicing::automatic;
    proxy_tlvs tlvs = proxy_tlvs::skip;
};

constexpr std::uint32_t pipes_per_thread = 32; // lent only while bytes are in them

constexpr const char* splice_words[] = {"auto", "off"};
constexpr const char* send_words[] = {"off", "v1", "v2"};
constexpr const char* tlv_words[] = {"refuse", "skip"};

void parse(settings& set, int argc, char** argv) {
    tools::options o{
        {.program = "weir-relay",
         .usage = "[options] LISTEN UPSTREAM [UPSTREAM...]",
         .purpose = "Carries bytes between its clients and the upstreams, and ends and aborts as what they are.\n"
                    "SIGTERM, SIGINT: stop accepting, let what runs end, exit 0; a second one: exit 1 at once.\n"
                    "SIGUSR1: say what is open and the counters. SIGHUP: look names up again.",
         .examples = {"weir-relay 127.0.0.1:6380 127.0.0.1:6379",
                      "weir-relay --threads 2 --balance least --send-proxy v2 [::]:8443 10.0.0.1:443 10.0.0.2:443"}}};
    relay_options& relay = set.stream.relay;
    constexpr duration ms = milliseconds{1};
    o.time("--connect-timeout", relay.connect_timeout, "to connect to an upstream", ms);
    o.time("--idle-timeout", relay.idle_timeout, "without a byte on the wire either way", ms);
    o.time("--fin-timeout", relay.fin_timeout,
           "the same, once the upstream has ended its side or one side was reset; not above --idle-timeout", ms);
    o.flag("--accept-proxy", set.stream.accept_proxy, "clients are proxies that say first for whom (PROXY v1, v2)");
    o.time("--proxy-timeout", set.stream.proxy_timeout, "for all of that", ms);
    o.choice("--proxy-tlvs", set.tlvs, tlv_words, "in it; skipped ones are not passed on");
    o.choice("--send-proxy", set.stream.send, send_words, "say first to the upstream for whom this is");
    o.choice("--splice", set.splice, splice_words, "large flows stay in the kernel");
    o.flag("--quiet", set.quiet, "no line for each client that is refused");
    tools::declare(o, set);
    o.parse(argc, argv);
    set.stream.how = set.how;
    set.stream.relay.user_timeout = set.user_timeout;
    set.stream.proxy.tlvs = set.tlvs;
    set.pipes_max = set.splice == splicing::automatic ? pipes_per_thread : 0;
}

stream_proxy_options limited(stream_proxy_options stream, const tools::crew_options& set, const tools::share& mine) {
    stream.relay.pairs_max = mine.limits.clients_max;
    stream.places = &mine.places;
    stream.relay.pipes.pipes_max = set.pipes_max;
    return stream;
}

// What one thread has.
struct worker {
    using settings = ::settings;
    static constexpr const char* in_use = "clients";

    worker(event_loop& loop, const settings& s, const tools::share& mine) noexcept
        : set(s), conns(loop), connections_max(stream_proxy::connections_needed(limited(s.stream, s, mine))),
          proxy(conns, limited(s.stream, s, mine)) {}

    void open(tools::crew<worker>& home, std::uint32_t index) noexcept {
        if (auto r = conns.open({.connections_max = connections_max}); !r)
            tools::fail("no memory for %u connections: lower --max-connections", connections_max);
        for (std::size_t i = 0; i < set.upstreams_count; i++)
            proxy.add_upstream(set.upstreams[i].addresses());
        if (!set.quiet) proxy.on_trouble(tools::log_writer::take, &home.lines(index));
    }
    void drain(drain_kind how, stream_proxy::drained done, void* owner) noexcept {
        proxy.drain(how, set.drain, done, owner);
    }
    void reopen() noexcept {}
    int admin_fd() const noexcept { return -1; }
    endpoint admin_at() const noexcept { return {}; }

    const settings& set;
    conntab conns;
    std::uint32_t connections_max;
    stream_proxy proxy;
};

} // namespace

int main(int argc, char** argv) {
    tools::hold_standard_descriptors();
    settings set;
    set.user_timeout = set.stream.relay.user_timeout;
    parse(set, argc, argv);
    tools::crew<worker> crew{set, tools::prepare_process()};
    crew.run();
    return 0;
}
