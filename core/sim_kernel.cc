// sim_kernel: numbers, sleep and violations. The system calls are in sys_sim.cc.

#include "core/sim_kernel.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace weir::inline WEIR_KERNEL {

namespace {
thread_local constinit kernel* the_current = nullptr;

// Turns in a row that neither slept nor got an event nor moved anything.
constexpr std::uint32_t idle_turns_max = 3;
// A loop that may spin before it sleeps does so for less.
constexpr duration spun_max = milliseconds{20};
} // namespace

kernel::kernel(const kernel_options& options) noexcept
    : chance(options.seed), net(time, chance, faults, log, options.network), options_(options), before_(the_current),
      fds_(static_cast<std::size_t>(options.descriptors_max)) {
    EXPECT(options.descriptors_max > lowest_);
    if (options.swarm) faults.draw(chance);
    if (options.swarm) twists.draw(chance);
    the_current = this;
    on_contract_broken([](const char* fact, const char*) noexcept {
        if (the_current) the_current->report("contract", fact, 40);
    });
}

kernel::~kernel() {
    for (int fd = 0; fd < descriptors_max(); fd++)
        if (fds_[static_cast<std::size_t>(fd)]) drop(fd);
    the_current = before_;
}

kernel& kernel::current() noexcept {
    EXPECT(the_current != nullptr);
    return *the_current;
}
kernel* kernel::current_or_null() noexcept { return the_current; }

// ---- descriptors

int kernel::install(file& f) noexcept {
    while (lowest_ < descriptors_max() && fds_[static_cast<std::size_t>(lowest_)])
        lowest_++;
    if (lowest_ == descriptors_max()) return -EMFILE;
    fds_[static_cast<std::size_t>(lowest_)] = &f;
    numbers_end_ = std::max(numbers_end_, lowest_ + 1);
    f.refs++;
    open_count_++;
    return lowest_;
}

int kernel::dup(int fd) noexcept {
    file* f = at(fd);
    const int made = f ? install(*f) : -EBADF;
    log.add({time.now, call::dup, fd, 0, made, nullptr});
    return made;
}

int kernel::pair(int family, int (&ends)[2]) noexcept {
    for (int& end : ends) {
        end = install(net.make(family));
        if (end < 0) return end;
    }
    net.join(static_cast<stream&>(*at(ends[0])), static_cast<stream&>(*at(ends[1])));
    return 0;
}

int kernel::drop(int fd) noexcept {
    file* f = at(fd);
    if (!f) return -EBADF;
    fds_[static_cast<std::size_t>(fd)] = nullptr;
    lowest_ = std::min(lowest_, fd);
    open_count_--;
    if (f->refs > 1 && options_.strict && !options_.leaves_watches && f->watched_as(fd))
        violate("I3", "closed, but shared and still watched under this number");
    let_go(*f);
    return 0;
}

void kernel::raise(int signal) noexcept {
    for (file* f : fds_) {
        if (!f || f->what != file::kind::signals) continue;
        auto& queue = static_cast<signal_file&>(*f);
        if (!sigismember(&queue.accepted, signal)) continue;
        queue.pending |= std::uint64_t{1} << (signal - 1);
        queue.wake(EPOLLIN);
    }
}

// ---- time

// Between two calls the world goes on.
void kernel::enter() noexcept {
    depth_++;
    if (options_.call_max > duration{}) time.now += chance.between(duration{1}, options_.call_max);
    if (faults.strike(fault::call_late, chance)) {
        time.now += chance.between(duration{20'000}, duration{milliseconds{5}});
        progress(); // timers may be due in each turn that is late: no spin
    }
    if (faults.strike(fault::wire_reset, chance)) net.break_one();
    time.run_due();
    if (depth_ == 1 && faults.strike(fault::stop_in_call, chance)) stand_still();
}

// SIGSTOP, a debugger, a frozen container: the others go on.
void kernel::stand_still() noexcept {
    const time_point until = time.now + chance.between(duration{seconds{1}}, duration{seconds{20}});
    for (; time.next() <= until; time.run_due())
        time.now = std::max(time.now, time.next());
    time.now = until;
    progress(); // for other loops: their timers may have become due
}

int kernel::collect(epoll_set& set, epoll_event* events, int events_max) noexcept {
    if (events_max > 1 && faults.strike(fault::epoll_few, chance))
        events_max = static_cast<int>(chance.magnitude(1, static_cast<std::uint32_t>(events_max)));
    int n = set.harvest(events, events_max, chance);
    if (n < events_max && faults.ratio(fault::epoll_spurious) > 0 && set.invent(events[n], chance) &&
        faults.strike(fault::epoll_spurious, chance))
        n++;
    return n;
}

int kernel::wait(epoll_set& set, epoll_event* events, int events_max, duration timeout) noexcept {
    const time_point until = timeout < duration{} ? never : time.now + timeout;
    const bool stops = faults.strike(fault::clock_jump, chance);
    const bool stops_behind = stops && chance.coin(); // with the answer under way
    if (stops && !stops_behind) stand_still();
    int n = collect(set, events, events_max);
    while (n == 0 && time.now < until) {
        if (set.ready.empty() && sleep_check_) sleep_check_(sleep_owner_);
        time_point next = std::min(time.next(), until);
        if (next == never) { // nothing will ever happen again
            violate("I4", "asleep for ever");
            return 0;
        }
        const bool interrupted = faults.plan.ask(call::epoll_wait) != 0;
        const bool cut_short = faults.strike(fault::epoll_early, chance) || interrupted;
        if (cut_short) next = time.now + (next - time.now) / (1 + chance.below(4));
        else if (faults.strike(fault::epoll_late, chance))
            next += chance.between(duration{}, duration{milliseconds{300}});
        time.now = std::max(time.now, next);
        progress(); // for other loops: meanwhile their timers may have become due
        time.run_due();
        if (cut_short) { // what happened at this moment happened behind the last look
            if (faults.strike(fault::stop_in_sleep, chance)) stand_still();
            return -EINTR;
        }
        n = collect(set, events, events_max);
    }
    check_spin(set, timeout, n);
    if (stops_behind) stand_still();
    return n;
}

void kernel::relax() noexcept {
    depth_++;
    const duration moment = chance.between(duration{50}, duration{2000});
    time.now += moment;
    time.run_due();
    depth_--;
    relaxed_count_++; // epoll is asked now and then meanwhile
    spun_ += moment;
    if (spun_ > spun_max && options_.strict) {
        spun_ = {};
        spins("the loop looks and looks, and does not sleep");
    }
}

// Of each loop by itself, which is known by its set.
void kernel::check_spin(epoll_set& set, duration timeout, int n) noexcept {
    const bool looked = timeout == duration{} && n == 0;
    if (set.progress_seen != progress_count_ || set.relaxed_seen != relaxed_count_) set.idle_turns = 0;
    set.progress_seen = progress_count_;
    set.relaxed_seen = relaxed_count_;
    set.idle_turns = looked ? set.idle_turns + 1 : 0;
    if (!looked) spun_ = {};
    if (set.idle_turns > idle_turns_max && options_.strict) {
        set.idle_turns = 0;
        spins("the loop turns, and nothing changes");
    }
}

// ---- memory

void* kernel::map(std::size_t bytes) noexcept {
    maps_count_++;
    return std::calloc(1, bytes);
}

void kernel::unmap(void* at) noexcept {
    maps_count_--;
    std::free(at);
}

// ---- the library's own steps

// Work that was put off on purpose is no spin.
bool kernel::twisted(twist kind) noexcept {
    if (faults.paused() || !twists.strike(kind, chance)) return false;
    note(to_string(kind));
    progress();
    return true;
}

void kernel::make_current() noexcept { the_current = this; }

void kernel::on_interleave(interleaving step, void* owner) noexcept {
    interleaving_ = step;
    interleaving_owner_ = owner;
}

void kernel::interleave() noexcept {
    if (interleaving_) interleaving_(interleaving_owner_);
}

bool buggify(twist kind) noexcept { return the_current && the_current->twisted(kind); }

void interleave() noexcept {
    if (the_current) the_current->interleave();
}

// ---- checks

void kernel::note(const char* text, std::int64_t a, std::int64_t b) noexcept {
    log.add({time.now, call::note, 0, a, b, text});
}

void kernel::on_sleep(sleep_check check, void* owner) noexcept {
    sleep_check_ = check;
    sleep_owner_ = owner;
}

void kernel::on_violation(violation handler, void* owner) noexcept {
    violation_ = handler;
    violation_owner_ = owner;
}

void kernel::report(const char* invariant, const char* text, std::uint64_t entries_max) noexcept {
    log.print(stderr, entries_max);
    std::fprintf(stderr, "seed %llu: %s: %s\n", static_cast<unsigned long long>(options_.seed), invariant, text);
}

void kernel::on_spin(spin_report tell, void* owner) noexcept {
    spin_report_ = tell;
    spin_owner_ = owner;
}

void kernel::spins(const char* what) noexcept {
    if (spin_report_) spin_report_(spin_owner_, what);
    else violate("I11", "%s", what);
}

void kernel::violate(const char* invariant, const char* format, ...) noexcept {
    char text[256];
    va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (violation_) {
        violation_(violation_owner_, *this, invariant, text);
        return;
    }
    report(invariant, text, 60);
    std::abort();
}

} // namespace weir::inline WEIR_KERNEL
