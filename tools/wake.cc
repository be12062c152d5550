// wake: slices, threads, and what machine this is.

#include "tools/wake.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include <sched.h>
#include <sys/utsname.h>

#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

constexpr std::uint64_t slices_max = 20;

struct end_of_duel {
    const wake_pair& sides;
    wake_row& row;
    std::uint64_t rounds;
    int cpu;
    bool is_near;
    wake_counts weir_did{}, raw_did{};
    std::uint64_t weir_cpu = 0, raw_cpu = 0;
};

std::uint64_t thread_cpu_ns() noexcept {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(t.tv_nsec);
}

void pin(int cpu) noexcept {
    if (cpu < 0) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(cpu), &one);
    if (sched_setaffinity(0, sizeof one, &one) < 0) no_way("processor to run on", errno);
}

void run_slice(end_of_duel& end, wake_side& side, std::uint64_t rounds, histogram& to, wake_counts& did,
               std::uint64_t& cpu) {
    const wake_counts before = end.is_near ? side.near_counts() : side.far_counts();
    const std::uint64_t cpu_before = thread_cpu_ns();
    if (end.is_near) side.near(rounds, to);
    else side.far(rounds);
    cpu += thread_cpu_ns() - cpu_before;
    const wake_counts after = end.is_near ? side.near_counts() : side.far_counts();
    did.rings += after.rings - before.rings;
    did.waits += after.waits - before.waits;
}

void run_end(end_of_duel& end) {
    pin(end.cpu);
    // What is met for the first time is not measured.
    const std::uint64_t warm = std::min<std::uint64_t>(end.rounds, 100);
    wake_tally unused;
    run_slice(end, *end.sides.weir, warm, unused.ns, unused.did, unused.cpu_ns);
    run_slice(end, *end.sides.raw, warm, unused.ns, unused.did, unused.cpu_ns);
    for (std::uint64_t i = 0; i < slices_max; i++) {
        const std::uint64_t n = end.rounds * (i + 1) / slices_max - end.rounds * i / slices_max;
        if (n == 0) continue;
        run_slice(end, *end.sides.weir, n, end.row.weir.ns, end.weir_did, end.weir_cpu);
        run_slice(end, *end.sides.raw, n, end.row.raw.ns, end.raw_did, end.raw_cpu);
    }
}

void* live(void* end) {
    run_end(*static_cast<end_of_duel*>(end));
    return nullptr;
}

void start(sys::thread& made, end_of_duel& end) noexcept {
    if (const int error = sys::thread_start(made, live, &end); error < 0) no_way("thread", -error);
}

// One line of a file, without its end. False: there is none.
bool read_line(const char* path, char* to, std::size_t bytes) noexcept {
    std::FILE* f = std::fopen(path, "re");
    if (!f) return false;
    const bool has_line = std::fgets(to, static_cast<int>(bytes), f) != nullptr;
    std::fclose(f);
    if (has_line) to[std::strcspn(to, "\n")] = '\0';
    return has_line;
}

bool is_virtual() noexcept {
    std::FILE* f = std::fopen("/proc/cpuinfo", "re");
    if (!f) return false;
    char line[4096];
    bool found = false;
    while (!found && std::fgets(line, sizeof line, f))
        found = std::strncmp(line, "flags", 5) == 0 && std::strstr(line, " hypervisor") != nullptr;
    std::fclose(f);
    return found;
}

} // namespace

void no_way(const char* what, int error) noexcept { fail("no %s: %s", what, std::strerror(error)); }

loop_options wake_options::loop() const noexcept {
    const auto us = [](duration d) { return static_cast<std::uint32_t>(d / std::chrono::microseconds{1}); };
    return {.spin_us_max = us(spin), .precise_timers = is_precise, .busy_poll = {.usecs = us(busy_poll)}};
}

double wake_row::ratio() const noexcept {
    const auto median = [](const wake_tally& t) { return static_cast<double>(t.ns.quantile(0.5)); };
    return raw.ns.quantile(0.5) > 0 ? median(weir) / median(raw) : 0;
}

// Both ends have threads of their own, so that the process's first one may still run anywhere: see sys::cpus_allowed().
void measure(wake_row& row, const wake_options& how, const wake_pair& sides) {
    end_of_duel near{.sides = sides, .row = row, .rounds = how.count, .cpu = how.cpus[0], .is_near = true};
    end_of_duel far{.sides = sides, .row = row, .rounds = how.count, .cpu = how.cpus[1], .is_near = false};
    sys::thread threads[2];
    if (sides.has_far) start(threads[1], far);
    start(threads[0], near);
    sys::thread_join(threads[0]);
    if (sides.has_far) sys::thread_join(threads[1]);
    const auto add_up = [&](wake_tally& to, wake_counts end_of_duel::*did, std::uint64_t end_of_duel::*cpu) {
        to.wakes = how.count * sides.wakes_per_round;
        to.did.rings = (near.*did).rings + (far.*did).rings;
        to.did.waits = (near.*did).waits + (far.*did).waits;
        to.cpu_ns = near.*cpu + far.*cpu;
    };
    add_up(row.weir, &end_of_duel::weir_did, &end_of_duel::weir_cpu);
    add_up(row.raw, &end_of_duel::raw_did, &end_of_duel::raw_cpu);
}

void open_loop(event_loop& loop, const wake_options& how) {
    if (auto r = loop.open(how.loop()); !r) no_way("event loop", r.error());
}

bare_epoll::bare_epoll(bool spins) : spins_(spins) {
    const int fd = sys::epoll_open();
    if (fd < 0) no_way("epoll", -fd);
    fd_.reset(fd);
}

void bare_epoll::add(int fd, std::uint32_t events) {
    const int r = sys::epoll_add(fd_.get(), fd, events | EPOLLET, static_cast<std::uint64_t>(fd));
    if (r < 0) no_way("watch", -r);
}

int bare_epoll::wait() noexcept {
    epoll_event e;
    for (;;) {
        waits_count_++;
        if (sys::epoll_wait(fd_.get(), &e, 1, spins_ ? 0 : -1) == 1) return static_cast<int>(e.data.u64);
    }
}

bool bare_epoll::wait_for(duration timeout, bool is_precise) noexcept {
    epoll_event e;
    waits_count_++;
    if (is_precise) {
        const int n = sys::epoll_wait_precise(fd_.get(), &e, 1, timeout);
        if (n != -ENOSYS && n != -EPERM) return n > 0;
    }
    return sys::epoll_wait(fd_.get(), &e, 1, poller::in_ms(timeout)) > 0;
}

wake_machine look_at_machine() {
    wake_machine m;
    utsname name{};
    ::uname(&name);
    std::snprintf(m.kernel, sizeof m.kernel, "%.60s %.60s", name.release, name.machine);
    read_line("/sys/devices/system/cpu/cpuidle/current_driver", m.idle_driver, sizeof m.idle_driver);
    read_line("/sys/module/haltpoll/parameters/guest_halt_poll_ns", m.haltpoll_ns, sizeof m.haltpoll_ns);
    m.is_virtual = is_virtual();
    cpu_set_t all;
    if (sched_getaffinity(0, sizeof all, &all) == 0)
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(static_cast<std::size_t>(cpu), &all)) m.cpus.push_back(cpu);
    return m;
}

} // namespace weir::inline WEIR_KERNEL::tools
