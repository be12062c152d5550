// weir-leak: brings a proxy to each of twelve endings, many times, and looks whether it keeps anything.

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "tools/child.hpp"
#include "tools/leak_peers.hpp"
#include "tools/leak_storm.hpp"
#include "tools/leak_watch.hpp"
#include "tools/options.hpp"

#if defined(__has_feature) // clang
#if __has_feature(address_sanitizer)
#define WEIR_ADDRESS_SANITIZER
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define WEIR_ADDRESS_SANITIZER
#endif

using namespace weir;

namespace {

#ifdef WEIR_ADDRESS_SANITIZER
constexpr bool is_sanitized = true;
#else
constexpr bool is_sanitized = false;
#endif

struct settings {
    std::uint64_t cycles = 20'000;
    std::uint32_t jobs = 64;
    address target; // no family: none
    bool self = false, json = false, quiet = false;
    std::uint32_t pid = 0, pool = UINT32_MAX, plant = 0, ledger = 65'536;
    duration deadline = seconds{5}, settle = seconds{3}, connect_timeout = milliseconds{20};
    const char* path = "/";
};

settings parse(int argc, char** argv) {
    settings set;
    const char* target = nullptr;
    tools::options o{
        {.program = "weir-leak",
         .usage = "[--self] | --target ADDRESS [--pid PID]",
         .purpose =
             "Brings a proxy to each of twelve endings and looks whether it keeps a descriptor, a socket in "
             "CLOSE_WAIT\n"
             "or memory. Exit 0: nothing kept; 1: something is, and is named; 2: usage.\n"
             "--self (default): all twelve, on weir's own relay and idle pool in a child process; the ledger tells of\n"
             "what is left open. --target: an HTTP server anywhere, with the endings that a client can make; --pid is\n"
             "its process, without which only CLOSE_WAIT is looked for.\n"
             "A connect is black-holed by a listening socket whose backlog is full: the kernel drops the SYN, and the\n"
             "proxy's own --connect-timeout ends it. Such cycles are 1/8, those with a killed process 1/4 of a usual\n"
             "ending's.",
         .examples = {"weir-leak --cycles 200000", "weir-leak --cycles 1000 --json --self"}}};
    o.count("--cycles", set.cycles, "all endings together", {1, UINT64_MAX / 16});
    o.count("--jobs", set.jobs, "connections at a time", {1, 4096});
    o.flag("--self", set.self, "test weir's own proxy");
    o.text("--target", target, "ADDRESS", "test whoever listens there");
    o.count("--pid", set.pid, "of the target", {0, 1 << 22});
    o.count("--pool", set.pool, "connections the target may keep for later, in all; the default: as many as --jobs");
    o.text("--path", set.path, "PATH", "what is requested of a target");
    o.time("--deadline", set.deadline, "for one cycle", milliseconds{1});
    o.time("--settle", set.settle, "to let go of everything after an ending");
    o.time("--connect-timeout", set.connect_timeout, "of the proxy, for black-holed connects", milliseconds{1});
    o.count("--plant", set.plant, "with --self: leak at every so many clients, to see it found; 0: never");
    o.count("--ledger", set.ledger, "with --self: events of descriptors that are remembered, to be told", {1, 1 << 24});
    o.flag("--json", set.json, "the report as JSON");
    o.flag("--quiet", set.quiet, "no progress on a terminal");
    o.parse(argc, argv);
    const settings usual;
    if (!target) {
        if (set.pid) tools::options::wrong("--pid", "belongs to a --target");
        if (set.pool != usual.pool) tools::options::wrong("--pool", "belongs to a --target");
        if (set.path != usual.path) tools::options::wrong("--path", "belongs to a --target");
        return set;
    }
    if (set.self) tools::options::wrong("--target", "cannot go with --self");
    if (set.plant != usual.plant) tools::options::wrong("--plant", "goes with --self only");
    if (set.ledger != usual.ledger) tools::options::wrong("--ledger", "goes with --self only");
    if (set.connect_timeout != usual.connect_timeout)
        tools::options::wrong("--connect-timeout", "goes with --self only: it is that of weir's own proxy");
    const auto at = parse_address(target);
    if (!at) tools::options::wrong("--target", "\"%s\" is no address: 127.0.0.1:8080, unix:/run/x.sock", target);
    if (!set.pid && at.value().at.family() == AF_UNIX)
        tools::options::wrong("--target", "only /proc/PID/fd shows unix sockets: --pid is needed, too");
    set.target = at.value();
    return set;
}

struct row {
    tools::leak_ending ending;
    bool skipped = false;
    tools::storm_result storm{};
    std::size_t fds_before = 0, fds_after = 0, close_wait = 0;
    std::int64_t rss_delta = 0; // bytes
    bool is_fat = false;
    std::vector<std::string> leaked{};

    bool is_clean() const noexcept { return leaked.empty() && !is_fat && storm.failed == 0; }
    const char* verdict() const noexcept {
        if (skipped) return "skipped";
        if (!leaked.empty()) return "LEAK";
        if (is_fat) return "GROWS";
        return storm.failed > 0 ? "FAILED" : "clean";
    }
};

row try_ending(tools::storm& storm, event_loop& loop, tools::subject& s, const settings& set, tools::leak_ending e,
               std::uint64_t cycles) {
    // The proxy of our own: AddressSanitizer holds on to what was freed.
    const bool keeps_aside = is_sanitized && !s.door.specified();
    const std::int64_t rss_slack = keeps_aside ? 64 << 20 : 1 << 20;
    constexpr std::int64_t rss_per_cycle = 16;
    row r{.ending = e, .fds_before = s.known.size()};
    // Pools and caches reach their size; what leaks meanwhile is found all the same.
    storm.run(e, std::min<std::uint64_t>(cycles, std::uint64_t{4} * set.jobs));
    const auto rss_before = static_cast<std::int64_t>(tools::resident_bytes(s.pid));

    r.storm = storm.run(e, cycles);
    tools::suspects left = tools::rest(loop, s, set.settle);
    if (left.leaked.empty()) s.pooled.insert(s.pooled.end(), left.pooled.begin(), left.pooled.end());

    if (s.pid) s.known = tools::open_descriptors(s.pid);
    r.fds_after = s.known.size();
    r.close_wait = left.close_wait;
    r.leaked = std::move(left.leaked);
    r.rss_delta = static_cast<std::int64_t>(tools::resident_bytes(s.pid)) - rss_before;
    r.is_fat = r.rss_delta > rss_slack + rss_per_cycle * static_cast<std::int64_t>(cycles);
    return r;
}

// --- the report

void print_table(const std::vector<row>& rows, bool has_pid) {
    std::printf("%-30s %10s %9s %10s %9s %10s %9s  %s\n", "ending", "cycles", "cycles/s", "fds before", "fds after",
                "CLOSE_WAIT", "rss", "verdict");
    for (const row& r : rows) {
        if (r.skipped) {
            std::printf("%-30s %10s %9s %10s %9s %10s %9s  skipped: needs --self\n", tools::to_string(r.ending), "-",
                        "-", "-", "-", "-", "-");
            continue;
        }
        const double rate = r.storm.seconds > 0 ? static_cast<double>(r.storm.cycles) / r.storm.seconds : 0;
        std::printf("%-30s %10llu %9.0f ", tools::to_string(r.ending), static_cast<unsigned long long>(r.storm.cycles),
                    rate);
        if (has_pid) std::printf("%10zu %9zu %10zu ", r.fds_before, r.fds_after, r.close_wait);
        else std::printf("%10s %9s %10zu ", "-", "-", r.close_wait);
        if (has_pid) std::printf("%+6lld kB  ", static_cast<long long>(r.rss_delta / 1024));
        else std::printf("%9s  ", "-");
        std::printf("%s", r.verdict());
        if (r.storm.failed > 0)
            std::printf(", %llu cycles failed, %llu of them late: %s", static_cast<unsigned long long>(r.storm.failed),
                        static_cast<unsigned long long>(r.storm.late),
                        r.storm.error ? std::strerror(r.storm.error) : "ended otherwise than it should");
        std::printf("\n");
    }
    constexpr std::size_t named_max = 50;
    for (const row& r : rows) {
        for (std::size_t i = 0; i < std::min(r.leaked.size(), named_max); i++)
            std::printf("leaked, %s: %s\n", tools::to_string(r.ending), r.leaked[i].c_str());
        if (r.leaked.size() > named_max) std::printf("... and %zu more\n", r.leaked.size() - named_max);
    }
}

void print_json(const std::vector<row>& rows) {
    std::printf("[");
    for (const row& r : rows) {
        std::printf("%s{\"ending\": \"%s\", \"verdict\": \"%s\", \"cycles\": %llu, \"failed\": %llu, \"late\": %llu, "
                    "\"seconds\": %.3f, \"fds_before\": %zu, \"fds_after\": %zu, \"close_wait\": %zu, "
                    "\"rss_delta\": %lld, \"leaked\": [",
                    &r == rows.data() ? "" : ",\n ", tools::to_string(r.ending), r.verdict(),
                    static_cast<unsigned long long>(r.storm.cycles), static_cast<unsigned long long>(r.storm.failed),
                    static_cast<unsigned long long>(r.storm.late), r.storm.seconds, r.fds_before, r.fds_after,
                    r.close_wait, static_cast<long long>(r.rss_delta));
        // What JSON would want escaped can only be in the path of a file.
        for (const std::string& text : r.leaked) {
            std::string escaped;
            for (const char byte : text)
                if (byte == '"' || byte == '\\' || static_cast<unsigned char>(byte) < ' ') escaped += '?';
                else escaped += byte;
            std::printf("%s\"%s\"", &text == r.leaked.data() ? "" : ", ", escaped.c_str());
        }
        std::printf("]}");
    }
    std::printf("]\n");
}

} // namespace

int main(int argc, char** argv) {
    tools::hold_standard_descriptors();
    const settings set = parse(argc, argv);
    tools::prepare_process();
    const bool is_self = !set.target.family;

    std::unique_ptr<tools::leak_peers> peers;
    tools::leak_proxy proxy;
    if (is_self) {
        peers = std::make_unique<tools::leak_peers>();
        tools::leak_proxy_options how{.hole_timeout = set.connect_timeout,
                                      .connections_max = 8 * set.jobs + 256,
                                      .ledger = set.ledger,
                                      .plant = set.plant};
        how.connections_max += set.plant ? static_cast<std::uint32_t>(set.cycles / set.plant) : 0;
        peers->tell(how);
        proxy = tools::start_leak_proxy(how);
    }

    event_loop loop;
    if (auto r = loop.open(); !r) tools::fail("no event loop: %s", std::strerror(r.error()));
    conntab conns{loop};
    if (!conns.open({.connections_max = 16 * set.jobs + 1024, .linger = milliseconds{100}}))
        tools::fail("no memory for %u jobs", set.jobs);
    if (peers) peers->serve(conns);
    const std::string request = std::string{"GET "} + set.path + " HTTP/1.1\r\nHost: weir-leak\r\n\r\n";
    tools::storm storm{conns,
                       {.proxy = is_self ? &proxy : nullptr,
                        .target = set.target,
                        .request = request,
                        .victims_socket = peers ? peers->victims_socket() : -1,
                        .jobs = set.jobs,
                        .deadline = set.deadline}};
    tools::subject s{.pid = is_self ? proxy.pid : static_cast<pid_t>(set.pid)};
    if (!is_self) s.door = set.target.at;
    if (!is_self) s.pool = set.pool == UINT32_MAX ? set.jobs : set.pool;
    if (s.pid) s.known = tools::open_descriptors(s.pid);
    if (s.pid && s.known.empty()) tools::fail("process %d is not there, or not ours to look at", s.pid);

    unsigned shares = 0;
    const auto applies = [&](tools::leak_ending e) { return is_self || tools::is_for_any_target(e); };
    for (std::size_t i = 0; i < tools::leak_endings; i++)
        if (const auto e = static_cast<tools::leak_ending>(i); applies(e)) shares += tools::share_of(e);
    const bool shows = !set.quiet && ::isatty(STDERR_FILENO);
    std::vector<row> rows;
    for (std::size_t i = 0; i < tools::leak_endings; i++) {
        const auto e = static_cast<tools::leak_ending>(i);
        if (shows) std::fprintf(stderr, "\r\033[K%zu/%zu %s", i + 1, tools::leak_endings, tools::to_string(e));
        const std::uint64_t cycles = std::max<std::uint64_t>(set.cycles * tools::share_of(e) / shares, 1);
        rows.push_back(applies(e) ? try_ending(storm, loop, s, set, e, cycles) : row{.ending = e, .skipped = true});
        if (is_self && !rows.back().leaked.empty()) ::kill(proxy.pid, SIGUSR1); // while the ledger still knows
    }
    if (shows) std::fprintf(stderr, "\r\033[K");

    const bool is_clean = std::all_of(rows.begin(), rows.end(), [](const row& r) { return r.skipped || r.is_clean(); });
    set.json ? print_json(rows) : print_table(rows, s.pid != 0);
    std::fflush(stdout);
    if (is_self) tools::end_process(proxy.pid, SIGTERM); // after a SIGUSR1: the lower number is taken first, signal(7)
    peers.reset();                                       // they listen on the loop
    return is_clean ? 0 : 1;
}
