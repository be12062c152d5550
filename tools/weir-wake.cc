// weir-wake: how long it takes until somebody who waits is awake, and what that costs.

#include <algorithm>
#include <cstdio>
#include <vector>

#include "tools/options.hpp"
#include "tools/process.hpp"
#include "tools/wake.hpp"

using namespace weir;

namespace {

enum class mode : std::uint8_t { post, socket, timer, idle_close, all };
constexpr const char* mode_words[] = {"post", "socket", "timer", "idle-close", "all"};
enum class placement : std::uint8_t { cross, same };
constexpr const char* placement_words[] = {"cross", "same"};

struct settings {
    mode what = mode::all;
    placement where = placement::cross;
    const char* pin = nullptr;
    bool json = false;
    tools::wake_options how;
};

settings parse(int argc, char** argv) {
    settings set;
    tools::options o{
        {.program = "weir-wake",
         .usage = "[options]",
         .purpose =
             "Measures how long it takes to wake whoever waits, beside the bare system calls that do the same.\n"
             "post: a letter to another thread's loop and one back; raw: two eventfds, or with --spin two words in\n"
             "memory. socket: a byte over loopback to a loop and back. timer: how late it fires; raw: a wait\n"
             "until then. idle-close: from a server's close() to the close of the parked connection at the other end.\n"
             "Both take turns in slices. The ratio is that of the medians, weir to raw. cpu/wake (time of both\n"
             "threads), rings (writes to an eventfd) and waits (calls of epoll_wait) are per wake-up; a round has\n"
             "two, of a timer one. all: each of these; where two processors may be used, post and socket also with\n"
             "--spin 50us, or as long as that says; timer also with --precise.",
         .examples = {"weir-wake --count 500", "weir-wake --mode post --spin 50us --json"}}};
    o.choice("--mode", set.what, mode_words, "what to measure");
    o.choice("--threads", set.where, placement_words, "on two processors, or both on one");
    o.time("--spin", set.how.spin, "look for work for up to so long before a sleep");
    o.count("--count", set.how.count, "rounds of each; 0: 20000, of timer 1000, of idle-close 2000", {0, 100'000'000});
    o.count("--idle", set.how.idle_count, "parked connections, for idle-close", {1, 100'000});
    o.text("--pin", set.pin, "A,B", "processors of the thread that measures and of the other one");
    o.flag("--precise", set.how.is_precise, "timers and sleeps to the nanosecond");
    o.time("--busy-poll", set.how.busy_poll, "ask network cards for packets while waiting, where the kernel can");
    o.flag("--json", set.json, "the report as JSON");
    o.parse(argc, argv);
    constexpr duration spin_max = seconds{1};
    if (set.how.spin > spin_max) tools::options::wrong("--spin", "at most 1s");
    if (set.how.busy_poll > spin_max) tools::options::wrong("--busy-poll", "at most 1s");
    return set;
}

// Two of the processors that may be used: those that were asked for, or the first ones.
void choose_cpus(settings& set, const tools::wake_machine& machine) {
    int(&cpus)[2] = set.how.cpus;
    if (set.pin) {
        char rest = '\0';
        if (std::sscanf(set.pin, "%d,%d%c", &cpus[0], &cpus[1], &rest) != 2)
            tools::options::wrong("--pin", "\"%s\": two processors, like 0,1", set.pin);
    } else if (!machine.cpus.empty()) {
        const bool has_two = machine.cpus.size() > 1 && set.where == placement::cross;
        cpus[0] = machine.cpus[0];
        cpus[1] = machine.cpus[has_two ? 1 : 0];
    }
    const auto may_use = [&](int cpu) {
        return std::find(machine.cpus.begin(), machine.cpus.end(), cpu) != machine.cpus.end();
    };
    if (!may_use(cpus[0]) || !may_use(cpus[1])) tools::options::wrong("--pin", "processors that may be used");
    const bool is_same = cpus[0] == cpus[1];
    if (set.pin && is_same != (set.where == placement::same))
        tools::options::wrong("--pin", "one processor with --threads same, two with cross");
    if (is_same && set.where == placement::cross) tools::say("only one processor may be used: both threads run there");
    if (is_same && set.how.spin > duration{})
        tools::options::wrong("--spin", "on one processor it would keep the other thread from running");
}

tools::wake_row run(const settings& set, mode what, duration spin, bool is_precise) {
    tools::wake_options how = set.how;
    how.spin = spin;
    how.is_precise = is_precise;
    if (how.count == 0) how.count = what == mode::timer ? 1000 : what == mode::idle_close ? 2000 : 20'000;
    const bool spins = spin > duration{};
    tools::wake_row row{.mode = mode_words[static_cast<std::size_t>(what)],
                        .how = spins && is_precise ? "spin, precise"
                               : spins             ? "spin"
                               : is_precise        ? "precise"
                                                   : ""};
    tools::wake_pair sides;
    switch (what) {
    case mode::post: sides = tools::make_post(how); break;
    case mode::socket: sides = tools::make_socket(how); break;
    case mode::timer: sides = tools::make_timer(how); break;
    case mode::idle_close: sides = tools::make_idle_close(how); break;
    case mode::all: EXPECT(what != mode::all);
    }
    tools::measure(row, how, sides);
    return row;
}

std::vector<tools::wake_row> run_all(const settings& set) {
    const duration spin = set.how.spin;
    const bool is_precise = set.how.is_precise;
    if (set.what != mode::all) return {run(set, set.what, spin, is_precise)};
    const bool may_spin = set.how.cpus[0] != set.how.cpus[1];
    const duration some = spin > duration{} ? spin : duration{std::chrono::microseconds{50}};
    std::vector<tools::wake_row> rows;
    rows.push_back(run(set, mode::post, {}, is_precise));
    if (may_spin) rows.push_back(run(set, mode::post, some, is_precise));
    rows.push_back(run(set, mode::socket, {}, is_precise));
    if (may_spin) rows.push_back(run(set, mode::socket, some, is_precise));
    rows.push_back(run(set, mode::timer, {}, false));
    rows.push_back(run(set, mode::timer, {}, true));
    rows.push_back(run(set, mode::idle_close, {}, is_precise));
    return rows;
}

// ---- the report

constexpr double quantiles[] = {0.5, 0.9, 0.99, 0.999, 1};
constexpr const char* quantile_names[] = {"p50", "p90", "p99", "p99.9", "max"};

void print_side(const tools::wake_row& row, const char* who, const tools::wake_tally& t) {
    std::printf("%-10s %-13s %-4s", row.mode, row.how, who);
    for (const double q : quantiles)
        std::printf(" %9.2f", static_cast<double>(t.ns.quantile(q)) / 1000);
    std::printf(" %9.2f %7.2f %7.2f", t.per_wake(t.cpu_ns) / 1000, t.per_wake(t.did.rings), t.per_wake(t.did.waits));
}

// Whether the kernel would have it.
bool busy_polls(const settings& set) {
    event_loop loop;
    tools::open_loop(loop, set.how);
    return loop.busy_polls();
}

void print_table(const tools::wake_machine& m, const settings& set, const std::vector<tools::wake_row>& rows) {
    std::printf("Linux %s, %s, cpuidle %s", m.kernel, m.is_virtual ? "virtual machine" : "metal", m.idle_driver);
    if (m.haltpoll_ns[0]) std::printf(" (guest_halt_poll_ns %s)", m.haltpoll_ns);
    std::printf(", %zu processors allowed, threads on %d and %d\n", m.cpus.size(), set.how.cpus[0], set.how.cpus[1]);
    if (set.how.busy_poll > duration{})
        std::printf("busy polling: %s\n", busy_polls(set) ? "on" : "not to be had here");
    std::printf("%-10s %-13s %-4s", "us", "", "");
    for (const char* name : quantile_names)
        std::printf(" %9s", name);
    std::printf(" %9s %7s %7s  %s\n", "cpu/wake", "rings", "waits", "ratio");
    for (const tools::wake_row& row : rows) {
        print_side(row, "weir", row.weir);
        std::printf("  %.2f\n", row.ratio());
        print_side(row, "raw", row.raw);
        std::printf("\n");
    }
}

void print_json_side(const char* who, const tools::wake_tally& t) {
    std::printf("\"%s\": {\"count\": %llu, \"wakes\": %llu, ", who, static_cast<unsigned long long>(t.ns.count()),
                static_cast<unsigned long long>(t.wakes));
    for (std::size_t i = 0; i < std::size(quantiles); i++)
        std::printf("\"%s_ns\": %llu, ", quantile_names[i],
                    static_cast<unsigned long long>(t.ns.quantile(quantiles[i])));
    std::printf("\"cpu_ns_per_wake\": %.0f, \"rings_per_wake\": %.4f, \"waits_per_wake\": %.4f}", t.per_wake(t.cpu_ns),
                t.per_wake(t.did.rings), t.per_wake(t.did.waits));
}

void print_json(const tools::wake_machine& m, const settings& set, const std::vector<tools::wake_row>& rows) {
    std::printf("{\"machine\": {\"kernel\": \"%s\", \"virtual\": %s, \"cpuidle\": \"%s\", \"guest_halt_poll_ns\": "
                "\"%s\", \"cpus_allowed\": %zu, \"pinned\": [%d, %d], \"busy_polls\": %s},\n \"rows\": [",
                m.kernel, m.is_virtual ? "true" : "false", m.idle_driver, m.haltpoll_ns, m.cpus.size(), set.how.cpus[0],
                set.how.cpus[1], busy_polls(set) ? "true" : "false");
    for (const tools::wake_row& row : rows) {
        std::printf("%s{\"mode\": \"%s\", \"how\": \"%s\", \"ratio\": %.3f,\n   ", &row == rows.data() ? "" : ",\n  ",
                    row.mode, row.how, row.ratio());
        print_json_side("weir", row.weir);
        std::printf(",\n   ");
        print_json_side("raw", row.raw);
        std::printf("}");
    }
    std::printf("]}\n");
}

} // namespace

int main(int argc, char** argv) {
    tools::hold_standard_descriptors();
    settings set = parse(argc, argv);
    const std::uint32_t descriptors = tools::prepare_process();
    const bool parks = set.what == mode::idle_close || set.what == mode::all;
    if (parks && std::uint64_t{set.how.idle_count} * 4 + 64 > descriptors)
        tools::options::wrong("--idle", "four descriptors each, and there are %u in all", descriptors);
    const tools::wake_machine machine = tools::look_at_machine();
    choose_cpus(set, machine);

    const std::vector<tools::wake_row> rows = run_all(set);
    set.json ? print_json(machine, set, rows) : print_table(machine, set, rows);
    return 0;
}
