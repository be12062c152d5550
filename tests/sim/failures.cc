// failures: the program: every scenario, unharmed, then with each failure in turn.

#include "sim/failures.hpp"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include <unistd.h>

namespace failures {

namespace {

using extent = planned_failure::extent;

constexpr const char* usage =
    "usage: weir-failures [options]\n"
    "\n"
    "Plays small lives of weir on a simulated kernel, and lets every call and every allocation fail in turn.\n"
    "\n"
    "  --scenario NAME   only this one\n"
    "  --call N          only the N-th call that can fail\n"
    "  --errno E         only with this errno: its number, or a name like EMFILE\n"
    "  --allocation N    only the N-th allocation\n"
    "  --forever         from then on; without it, with --call or --allocation: once\n"
    "  --trace           print every call\n"
    "  --list            the names of the scenarios\n"
    "  --help            this text\n"
    "\n"
    "exit status: 0 all passed, 1 one failed, 2 usage\n"
    "\n"
    "  weir-failures --scenario accepts-one\n"
    "  weir-failures --scenario accepts-one --call 7 --errno EMFILE --forever --trace\n";

struct request {
    const char* only = nullptr;
    std::uint64_t call = 0, allocation = 0;
    int error = 0;
    bool forever = false, trace = false, list = false;
} wanted;

const scenario* playing = nullptr;
fault_wish wish;
std::uint64_t runs = 0, calls_failed = 0, allocations_failed = 0;
struct injected {
    std::uint64_t once = 0, from_then_on = 0;
};
std::map<std::pair<call, int>, injected> seen;

[[noreturn]] void refuse(const char* what, const char* right) {
    std::fprintf(stderr, "weir-failures: %s: %s; try --help\n", what, right);
    std::exit(2);
}

const char* how_long() { return wish.extent == extent::once ? "once" : "from then on"; }

void replay_line() {
    const kernel* k = kernel::current_or_null();
    std::fprintf(stderr, "scenario %s", playing->name);
    if (wish.call && k && k->faults.plan.reached())
        std::fprintf(stderr, ": call %llu, %s, fails with %s %s", static_cast<unsigned long long>(wish.call),
                     to_string(k->faults.plan.what()), strerrorname_np(k->faults.plan.error()), how_long());
    if (wish.allocation)
        std::fprintf(stderr, ": allocation %llu fails %s", static_cast<unsigned long long>(wish.allocation),
                     how_long());
    std::fprintf(stderr, "\nreplay: weir-failures --scenario %s", playing->name);
    if (wish.call && k && k->faults.plan.reached())
        std::fprintf(stderr, " --call %llu --errno %s", static_cast<unsigned long long>(wish.call),
                     strerrorname_np(k->faults.plan.error()));
    if (wish.allocation) std::fprintf(stderr, " --allocation %llu", static_cast<unsigned long long>(wish.allocation));
    std::fprintf(stderr, "%s --trace\n", wish.extent == extent::from_then_on ? " --forever" : "");
}

void crashed(int signal) {
    if (kernel* k = kernel::current_or_null())
        k->report("signal", signal == SIGALRM ? "it hangs in a call" : strsignal(signal), 60);
    replay_line();
    _exit(1);
}

struct outcome {
    std::uint64_t crossings = 0, allocations = 0;
    bool struck = false;
    std::size_t ways = 0;
    call what{};
    int error = 0;
};

[[noreturn]] void stop(const char* why) {
    std::fprintf(stderr, "%s\n", why);
    replay_line();
    _exit(1);
}

outcome live(memories& m) {
    stage s{playing->how, wish, m};
    if (wanted.trace) s.k.log.echo(stdout);
    playing->play(s);
    s.finish();
    const planned_failure& plan = s.k.faults.plan;
    return {.crossings = plan.crossings_count(),
            .allocations = allocations_count(),
            .struck = s.harmed(),
            .ways = plan.ways_count(),
            .what = plan.what(),
            .error = plan.error()};
}

outcome play(memories& m) {
    const std::int64_t before = heap_balance();
    const bool fills = !m.filled;
    alarm(20);
    const outcome o = live(m);
    runs++;
    if (!fills && heap_balance() != before) stop("memory was taken and not given back");
    if (o.error != 0) {
        injected& count = seen[{o.what, o.error}];
        (wish.extent == extent::once ? count.once : count.from_then_on)++;
    }
    return o;
}

constexpr extent extents[] = {extent::once, extent::from_then_on};
bool is_asked_for(extent e) { return (e == extent::from_then_on) == wanted.forever; }

// The place of --errno among those of the n-th call: a life in which it is reached, but knows no such way, tells.
std::size_t way_of(memories& m, std::uint64_t nth) {
    wish = {.call = nth, .way = ~std::size_t{0}};
    const std::span<const int> errnos = documented_errnos(play(m).what);
    for (std::size_t way = 0; way < errnos.size(); way++)
        if (errnos[way] == wanted.error) return way;
    refuse("--errno", "not documented for that call");
}

void fail_call(memories& m, std::uint64_t nth) {
    const bool one = wanted.call != 0;
    const std::size_t first = wanted.error ? way_of(m, nth) : 0;
    for (std::size_t way = first, ways = way + 1; way < ways && (way == first || !wanted.error); way++) {
        for (const extent e : extents) {
            if (one && !is_asked_for(e)) continue;
            wish = {.call = nth, .way = way, .extent = e};
            const outcome o = play(m);
            ways = o.ways;
            if (o.struck) calls_failed++;
        }
    }
}

void fail_allocation_number(memories& m, std::uint64_t nth) {
    for (const extent e : extents) {
        if (wanted.allocation != 0 && !is_asked_for(e)) continue;
        wish = {.allocation = nth, .extent = e};
        if (play(m).struck) allocations_failed++;
    }
}

void play_all(const scenario& it) {
    playing = &it;
    wish = {};
    memories m;
    play(m);
    const outcome clean = play(m);
    if (wanted.call) return fail_call(m, wanted.call);
    if (wanted.allocation) return fail_allocation_number(m, wanted.allocation);
    for (std::uint64_t n = 1; n <= clean.crossings; n++)
        fail_call(m, n);
    for (std::uint64_t n = 1; n <= clean.allocations; n++)
        fail_allocation_number(m, n);
}

// Answers how many of the documented failures never came.
int print_totals() {
    int missing = 0;
    std::printf("%-16s %-14s %10s %14s\n", "call", "errno", "once", "from then on");
    for (unsigned at = 0; at < static_cast<unsigned>(call::count_); at++) {
        const call what = static_cast<call>(at);
        for (const int error : documented_errnos(what)) {
            const injected count = seen[{what, error}];
            std::printf("%-16s %-14s %10llu %14llu\n", to_string(what), strerrorname_np(error),
                        static_cast<unsigned long long>(count.once),
                        static_cast<unsigned long long>(count.from_then_on));
            missing += count.once == 0 || count.from_then_on == 0;
        }
    }
    return missing;
}

int errno_named(const char* text) {
    for (int error = 1; error < 200; error++)
        if (const char* name = strerrorname_np(error); name && std::strcmp(name, text) == 0) return error;
    const int number = std::atoi(text);
    if (number <= 0) refuse("--errno", "a number, or a name like EMFILE");
    return number;
}

std::uint64_t number_of(const char* option, const char* text) {
    char* end;
    const std::uint64_t n = std::strtoull(text, &end, 10);
    if (end == text || *end != '\0' || n == 0) refuse(option, "a number from 1");
    return n;
}

void parse(int argc, char** argv) {
    for (int i = 1; i < argc; i++) {
        const std::string_view option = argv[i];
        const char* value = i + 1 < argc ? argv[i + 1] : "";
        if (option == "--help") {
            std::fputs(usage, stdout);
            std::exit(0);
        }
        if (option == "--list") wanted.list = true;
        else if (option == "--trace") wanted.trace = true;
        else if (option == "--forever") wanted.forever = true;
        else if (option == "--scenario") wanted.only = argv[++i] ? value : "";
        else if (option == "--call") wanted.call = number_of("--call", value), i++;
        else if (option == "--allocation") wanted.allocation = number_of("--allocation", value), i++;
        else if (option == "--errno") wanted.error = errno_named(value), i++;
        else refuse(argv[i], "no such option");
    }
    if (wanted.error && !wanted.call) refuse("--errno", "it needs --call");
    if ((wanted.call || wanted.allocation) && !wanted.only) refuse("--call and --allocation", "they need --scenario");
}

int run() {
    for (int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM})
        std::signal(signal, crashed);
    const auto began = std::chrono::steady_clock::now();
    int scenarios = 0;
    for (const auto* list :
         {&core_scenarios, &dial_scenarios, &stream_scenarios, &proxy_scenarios, &gateway_scenarios,
          &takeover_scenarios}) {
        for (const scenario& it : *list) {
            if (wanted.only && std::strcmp(wanted.only, it.name) != 0) continue;
            scenarios++;
            if (wanted.list) std::printf("%s\n", it.name);
            else play_all(it);
        }
    }
    if (wanted.only && scenarios == 0) refuse(wanted.only, "no such scenario");
    if (wanted.list) return 0;
    const int missing = wanted.only ? 0 : print_totals();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    std::printf("total: %d scenarios, %llu calls failed, %llu allocations failed, %llu runs\n", scenarios,
                static_cast<unsigned long long>(calls_failed), static_cast<unsigned long long>(allocations_failed),
                static_cast<unsigned long long>(runs));
    std::fprintf(stderr, "%.1f s\n", took.count());
    if (missing > 0) std::fprintf(stderr, "%d documented failures were never tried\n", missing);
    return missing > 0 ? 1 : 0;
}

} // namespace

void give_up(kernel& k, const char* invariant, const char* text) noexcept {
    k.report(invariant, text, 60);
    replay_line();
    _exit(1);
}

bool is_harmless(call what, int error) noexcept {
    switch (error) {
    case EINTR: return true;
    case EAGAIN: return what != call::connect;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        if (what == call::accept) return true;
        break;
    default: break;
    }
    return what == call::close || what == call::set_option || what == call::bytes_acked || what == call::send_queue || what == call::map ||
           what == call::epoll_open || what == call::eventfd_open || what == call::signal_open ||
           what == call::listen || what == call::local_name || what == call::is_listening ||
           what == call::set_nonblocking;
}

} // namespace failures

int main(int argc, char** argv) {
    failures::parse(argc, argv);
    return failures::run();
}
