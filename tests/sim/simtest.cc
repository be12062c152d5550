// simtest: runs harnesses over ranges of seeds. A seed is a whole run: circumstances, faults, peers, time.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim/world.hpp"

namespace simtest {

namespace {

constexpr const harness* harnesses[] = {&idle_harness,    &relay_harness,  &stream_harness,   &http1_harness,
                                        &mailbox_harness, &timers_harness, &takeover_harness, &shared_harness,
                                        &records_harness, &places_harness};

// What a harness does not meet: it makes no such call, or has taken the fault out. Every other fault and twist comes
// within `seeds_enough` seeds, or the run fails.
constexpr std::uint64_t seeds_enough = 5000;
constexpr struct {
    const harness* who;
    std::string_view kinds;
} unmet[] = {
    {&idle_harness, "connect_itself recv_with_cut splice_ send_buffered"},
    {&relay_harness, "connect_eagain connect_itself name_enobufs recv_with_cut take_probes"},
    {&stream_harness, "recv_with_cut take_probes"},
    {&http1_harness, "connect_eagain name_enobufs recv_with_cut splice_"},
    {&mailbox_harness,
     "accept_ socket_ connect_ epoll_change_enomem epoll_spurious send_ recv_ option_ name_ close_eio "
     "wire_slow wire_pieces one_accept accept_unsure timer_last splice_ take_probes"},
    {&timers_harness,
     "accept_ socket_ connect_ epoll_change_enomem epoll_late epoll_spurious eventfd_eagain send_ recv_ "
     "option_ name_ wire_slow wire_pieces clock_jump call_late stop_ one_accept accept_unsure splice_ slot_later "
     "take_probes ring_anyway"},
    {&takeover_harness, "connect_eaddrnotavail connect_enetunreach connect_at_once connect_timed_out connect_lost "
                        "connect_eintr connect_itself eventfd_eagain recv_etimedout option_ splice_ send_buffered take_probes "
                        "ring_anyway"},
    {&shared_harness, "accept_ socket_ connect_ epoll_change_enomem epoll_spurious eventfd_eagain recv_etimedout "
                      "recv_with_cut recv_one recv_unsure option_ name_ wire_slow wire_pieces one_accept accept_unsure "
                      "timer_last splice_ send_one send_buffered take_probes ring_anyway"},
    {&records_harness, "socket_ connect_eaddrnotavail connect_enetunreach connect_eagain connect_at_once connect_itself "
                       "connect_timed_out connect_lost connect_eintr eventfd_eagain option_ name_ recv_with_cut "
                       "recv_one recv_unsure splice_ send_one send_buffered take_probes ring_anyway"},
};

constexpr const char* usage = "usage: weir-simtest [options]\n"
                              "\n"
                              "Runs weir on a simulated kernel, one run per seed.\n"
                              "\n"
                              "  --harness NAME   idle, relay, stream, http1, mailbox, timers, takeover, shared, records,\n"
                              "                   places (default: all)\n"
                              "  --seeds A..B     from A to B, both included; or a single one (default: 1..1000)\n"
                              "  --jobs N         processes (default: 1)\n"
                              "  --trace          print every call\n"
                              "  --hash           print the hash of each run's trace\n"
                              "  --marks          fail if a fault, a twist or a kind of peer was never seen\n"
                              "  --help           this text\n"
                              "\n"
                              "exit status: 0 all seeds passed, 1 one failed, 2 usage\n"
                              "\n"
                              "  weir-simtest --seeds 1..50000 --jobs 2\n"
                              "  weir-simtest --harness idle --seeds 4711 --trace\n";

struct request {
    const char* only = nullptr;
    std::uint64_t first = 1, last = 1000;
    int jobs = 1;
    bool trace = false, hash = false, marks = false;
};

constexpr int jobs_max = 64;
totals* shared = nullptr; // one per job
int job = 0;
request wanted;
const harness* running = nullptr;
std::uint64_t running_seed = 0;

void replay_line() {
    std::fprintf(stderr, "replay: weir-simtest --harness %s --seeds %llu --trace\n", running->name,
                 static_cast<unsigned long long>(running_seed));
}

void crashed(int signal) {
    if (kernel* k = kernel::current_or_null()) k->report("signal", strsignal(signal), 60);
    replay_line();
    _exit(1);
}

void violated(void*, kernel& k, const char* invariant, const char* text) noexcept {
    k.report(invariant, text, 60);
    replay_line();
    _exit(1);
}

void run_some() {
    for (const harness* h : harnesses) {
        if (wanted.only && std::strcmp(wanted.only, h->name) != 0) continue;
        running = h;
        for (running_seed = wanted.first + static_cast<std::uint64_t>(job); running_seed <= wanted.last;
             running_seed += static_cast<std::uint64_t>(wanted.jobs)) {
            const std::uint64_t hash = h->run(running_seed);
            if (wanted.hash)
                std::printf("%s %llu %016llx\n", h->name, static_cast<unsigned long long>(running_seed),
                            static_cast<unsigned long long>(hash));
        }
    }
}

totals add_up() {
    totals all{};
    for (int i = 0; i < wanted.jobs; i++) {
        for (std::size_t at = 0; at < all.faults.size(); at++)
            all.faults[at] += shared[i].faults[at];
        for (std::size_t at = 0; at < all.twists.size(); at++)
            all.twists[at] += shared[i].twists[at];
        for (std::size_t at = 0; at < all.marks.size(); at++)
            all.marks[at] += shared[i].marks[at];
        for (std::size_t at = 0; at < all.causes.size(); at++)
            all.causes[at] += shared[i].causes[at];
        all.seeds += shared[i].seeds;
        all.calls += shared[i].calls;
    }
    return all;
}

int print_row(const char* name, std::uint64_t count) {
    std::printf("  %-24s %12llu\n", name, static_cast<unsigned long long>(count));
    return count == 0 ? 1 : 0;
}

// How often everything that should happen did. Answers how many never did.
int print_marks(const totals& all) {
    int never_seen = 0;
    std::printf("faults\n");
    for (std::size_t at = 0; at < all.faults.size(); at++)
        never_seen += print_row(to_string(static_cast<fault>(at)), all.faults[at]);
    std::printf("twists\n");
    for (std::size_t at = 0; at < all.twists.size(); at++)
        never_seen += print_row(to_string(static_cast<twist>(at)), all.twists[at]);
    std::printf("peers and answers\n");
    for (std::size_t at = 0; at < all.marks.size(); at++)
        never_seen += print_row(to_string(static_cast<mark>(at)), all.marks[at]);
    std::printf("causes of an end\n");
    for (std::size_t at = 1; at < all.causes.size(); at++)
        print_row(to_string(static_cast<end_cause>(at)), all.causes[at]);
    return never_seen;
}

// A word that ends in '_' stands for all kinds that begin so.
bool is_unmet(std::string_view kinds, std::string_view kind) {
    while (!kinds.empty()) {
        const std::string_view word = kinds.substr(0, kinds.find(' '));
        if (word == kind || (word.back() == '_' && kind.substr(0, word.size()) == word)) return true;
        kinds.remove_prefix(std::min(kinds.size(), word.size() + 1));
    }
    return false;
}

// Of a long run of one harness: how many kinds it should have met and did not.
int count_missed(const totals& all) {
    if (!wanted.only || all.seeds < seeds_enough) return 0;
    int missed = 0;
    const auto look = [&](const char* kind, std::uint64_t count) {
        for (const auto& row : unmet) {
            if (std::strcmp(row.who->name, wanted.only) != 0 || count > 0 || is_unmet(row.kinds, kind)) continue;
            std::fprintf(stderr, "%s never met %s\n", wanted.only, kind);
            missed++;
        }
    };
    for (std::size_t at = 0; at < all.faults.size(); at++)
        look(to_string(static_cast<fault>(at)), all.faults[at]);
    for (std::size_t at = 0; at < all.twists.size(); at++)
        look(to_string(static_cast<twist>(at)), all.twists[at]);
    return missed;
}

int run_jobs() {
    shared = static_cast<totals*>(
        mmap(nullptr, sizeof(totals) * jobs_max, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    for (int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE})
        std::signal(signal, crashed);
    if (wanted.hash) std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ); // of several processes: whole lines
    const auto began = std::chrono::steady_clock::now();
    int failed = 0;
    if (wanted.jobs == 1) {
        run_some(); // in this process, for debuggers; a failure ends it
    } else {
        std::fflush(stdout);
        for (job = 0; job < wanted.jobs; job++) {
            if (fork() != 0) continue;
            run_some();
            std::fflush(stdout);
            _exit(0);
        }
        int status;
        while (wait(&status) > 0)
            failed += status != 0;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    const totals all = add_up();
    const int never_seen = wanted.hash ? 0 : print_marks(all);
    std::fprintf(wanted.hash ? stderr : stdout, "total: %llu runs, %llu calls, %d violations, %.0f runs/s\n",
                 static_cast<unsigned long long>(all.seeds), static_cast<unsigned long long>(all.calls), failed,
                 static_cast<double>(all.seeds) / took.count());
    std::fflush(stdout);
    if (wanted.marks && never_seen > 0) std::fprintf(stderr, "%d kinds were never seen\n", never_seen);
    const int missed = count_missed(all);
    return failed > 0 || missed > 0 || (wanted.marks && never_seen > 0) ? 1 : 0;
}

[[noreturn]] void refuse(const char* what, const char* right) {
    std::fprintf(stderr, "weir-simtest: %s: %s; try --help\n", what, right);
    std::exit(2);
}

bool parse_seeds(const char* text) {
    char* end;
    wanted.first = wanted.last = std::strtoull(text, &end, 10);
    if (end == text) return false;
    if (std::strncmp(end, "..", 2) == 0) wanted.last = std::strtoull(end + 2, &end, 10);
    return *end == '\0' && wanted.first <= wanted.last;
}

bool known(std::string_view name) {
    for (const harness* h : harnesses)
        if (name == h->name) return true;
    return false;
}

void parse(int argc, char** argv) {
    for (int i = 1; i < argc; i++) {
        const std::string_view option = argv[i];
        const char* value = i + 1 < argc ? argv[i + 1] : "";
        if (option == "--help") {
            std::fputs(usage, stdout);
            std::exit(0);
        }
        if (option == "--trace") wanted.trace = true;
        else if (option == "--hash") wanted.hash = true;
        else if (option == "--marks") wanted.marks = true;
        else if (option == "--harness") {
            if (!known(value)) refuse("--harness", "idle, relay, stream, http1, mailbox, timers, takeover or shared");
            wanted.only = argv[++i];
        } else if (option == "--seeds") {
            if (!parse_seeds(value)) refuse("--seeds", "a number, or A..B");
            i++;
        } else if (option == "--jobs") {
            wanted.jobs = std::atoi(value);
            if (wanted.jobs < 1 || wanted.jobs > jobs_max) refuse("--jobs", "1 to 64");
            i++;
        } else {
            refuse(argv[i], "no such option");
        }
    }
}

} // namespace

totals& sums() noexcept { return shared[job]; }

// Called by each world: what is wrong ends the program with the seed that shows it.
void watch(kernel& k) noexcept {
    k.on_violation(violated, nullptr);
    if (wanted.trace) k.log.echo(stdout);
}

} // namespace simtest

int main(int argc, char** argv) {
    simtest::parse(argc, argv);
    return simtest::run_jobs();
}
