// loop: the turn, and what surrounds it.

#include "core/loop.hpp"

#include <algorithm>

#include "core/buggify.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {
// epoll_wait takes an int of milliseconds; a longer sleep is cut and gone on with. 35 minutes also stays below
// what old kernels overflowed on.
constexpr duration sleep_limit = std::chrono::minutes{35};
} // namespace

namespace sys {
thread_mark this_thread() noexcept {
    static thread_local constinit char mark = 0;
    return &mark;
}
} // namespace sys

event_loop::event_loop() noexcept : timers_(time_point{}) {
    sigemptyset(&signals_);
    stop_letter_.run = [](letter& l) noexcept {
        event_loop& self = container_of<&event_loop::stop_letter_>(l);
        self.stop_posted_.store(false);
        self.stop_.store(true);
    };
}

event_loop::~event_loop() {
    EXPECT(!is_running_);
    thread_ = sys::this_thread();
    mailbox_.run(); // a stop() that came too late to be seen
    free_retired();
    if (signal_slot_) close(*signal_slot_);
    if (wake_slot_) fds_.release(*wake_slot_); // the mailbox closes its own descriptor
    if (born_here_) sys::unmap(born_here_, sizeof *born_here_);
}

result<void> event_loop::open(const loop_options& options) noexcept {
    EXPECT(clock_ == nullptr);
    EXPECT(options.timers_max > 0);
    is_precise_ = options.precise_timers;
    spin_wish_ = std::chrono::microseconds{options.spin_us_max};
    claim();
    if (is_precise_) timers_.become(timers::manner::precise);
    std::uint32_t fd_max = options.fd_max;
    if (fd_max == 0) {
        const int limit = sys::descriptor_limit();
        if (limit < 0) return failure{-limit};
        fd_max = static_cast<std::uint32_t>(limit);
    }
    born_here_ = static_cast<int*>(sys::map_wiped_on_fork(sizeof *born_here_));
    if (!born_here_) return failure{ENOMEM};
    *born_here_ = 1;
    if (auto r = fds_.open(fd_max); !r) return r;
    if (options.ledger_max > 0)
        if (auto r = ledger_.open(options.ledger_max, fd_max); !r) return r;
    introduce_own();
    if (auto r = poller_.open(fds_, options.events_max); !r) return r;
    if (options.busy_poll.usecs > 0) busy_polls_ = poller_.busy_poll(options.busy_poll);
    if (auto r = mailbox_.open(); !r) return r;
    now_ = read_at_ = options.time_source->now(*options.time_source);
    reported_ = reported{now_};
    auto slot = watch(mailbox_.fd(), interest::recv, woken, this, "mailbox");
    if (!slot) return failure{slot.error()};
    wake_slot_ = slot.value();
    fds_.want_recv(*wake_slot_);

    clock_ = options.time_source;
    timers_max_ = options.timers_max;
    timers_.run(now_, 0); // the wheel begins at the present
    return {};
}

void event_loop::introduce_own() noexcept {
    ledger_.introduce(woken, [](const fd_slot&, fd_facts& to) noexcept { to.role = "mailbox"; });
    ledger_.introduce(signalled, [](const fd_slot&, fd_facts& to) noexcept { to.role = "signals"; });
}

void event_loop::claim() noexcept {
    thread_ = sys::this_thread();
    if (is_precise_) sys::sleep_precisely();
    // Alone on its processor, whoever spins keeps those from running that it waits for.
    const bool may_spin = spin_wish_ > duration{} && sys::cpus_allowed() > 1;
    spin_max_ = may_spin ? spin_wish_ : duration{};
    spin_limit_ = spin_limit{spin_max_};
}

void event_loop::run() noexcept {
    EXPECT(!is_running_.exchange(true)); // by one thread
    claim();
    while (!stop_.load(std::memory_order_relaxed))
        turn(sleep_limit);
    stop_.store(false);
    thread_ = nullptr;
    is_running_ = false;
}

std::uint32_t event_loop::turn(duration sleep_max) noexcept {
    EXPECT(clock_ != nullptr);
    EXPECT(is_mine());
    EXPECT(*born_here_ == 1); // a forked child would steal its parent's events
    EXPECT(!turning_);        // so no callback is ever entered from within another one
    turning_ = true;
    has_asked_ = false;
    rest(sleep_ahead(sleep_max));
    now_ = read_clock();
    if (has_asked_) polled_at_ = now_;
    turn_count_++;

    std::uint32_t ran = fds_.run();
    ran += mailbox_.run();
    // The clock of a test may stand still while the kernel's goes on: no timer fires before now.
    const time_point due = std::min(reported_.until(), now_);
    if (!buggify(twist::timers_later)) ran += timers_.run(due, buggify(twist::one_timer) ? 1 : timers_max_);
    free_retired();
    turning_ = false;
    return ran;
}

// 0: there is something to do.
duration event_loop::sleep_ahead(duration sleep_max) noexcept {
    if (clock_->is_fake) return read_clock(), duration{};
    if (fds_.has_runnable() || !mailbox_.empty() || reported_.in_round()) return {};
    const time_point first = timers_.next();
    duration sleep = std::min(sleep_max, sleep_limit);
    if (first != never) sleep = std::min(sleep, first - read_clock()); // the turn took its time, too
    return std::max(sleep, duration{});
}

void event_loop::rest(duration sleep) noexcept {
    if (sleep > duration{})
        if (const duration limit = spin_limit_.ahead(); limit > duration{})
            if (spin(limit, sleep)) return;
    const bool sleeps = sleep > duration{} && mailbox_.may_sleep();
    ask(sleeps ? sleep : duration{});
    if (sleeps) mailbox_.awake();
}

// Looks for work for `limit`, but not longer than `sleep`. False: there was none; of the sleep so much is left.
bool event_loop::spin(duration limit, duration& sleep) noexcept {
    spin_count_++;
    const auto looks_max = static_cast<std::uint64_t>(limit.count()); // a clock that stands still ends nothing
    time_point began{};
    for (std::uint64_t looks = 1; looks <= looks_max; looks++) {
        if (looks % looks_per_clock == 1) interleave();
        if (!mailbox_.empty()) {
            spin_limit_.found();
            spin_found_count_++;
            if (now_ - polled_at_ >= unpolled_max) ask(duration{});
            return true;
        }
        sys::relax();
        if (looks % looks_per_clock != 0) continue;
        const time_point now = read_clock();
        if (looks == looks_per_clock) began = now; // the first few are not counted, and need no clock
        if (now - began >= sleep) {
            sleep = {}; // a timer is due: that says nothing about spinning
            return false;
        }
        if (now - began >= limit) {
            sleep -= now - began;
            break;
        }
        if (looks % looks_per_poll != 0) continue;
        const std::uint64_t events_before = poller_.event_count();
        ask(duration{});
        if (poller_.event_count() != events_before) {
            spin_limit_.found();
            spin_found_count_++;
            return true;
        }
    }
    spin_limit_.in_vain();
    return false;
}

// One call of epoll, and what it proves about the moment of the newest reading of the clock.
void event_loop::ask(duration sleep) noexcept {
    const bool sleeps = sleep > duration{};
    const std::uint64_t events_before = poller_.event_count(), stale_before = fds_.stale_count();
    const poller::batch batch =
        is_precise_ && sleeps ? poller_.wait_precisely(sleep) : poller_.wait(poller::in_ms(sleep));
    if (batch == poller::batch::interrupted) return;
    has_asked_ = true;
    const std::uint64_t events = poller_.event_count() - events_before;
    const std::uint64_t stale = fds_.stale_count() - stale_before;
    if (batch == poller::batch::full) reported_.some(read_at_, events - stale, fds_.used_count());
    else reported_.all(events == 0 ? read_at_ + sleep : read_at_);
}

void event_loop::stop() noexcept {
    if (!stop_posted_.exchange(true)) mailbox_.post(stop_letter_);
}

result<fd_slot*> event_loop::watch(int fd, interest first, fd_handler handler, void* owner, const char* role) noexcept {
    EXPECT(is_mine());
    auto slot = fds_.insert(fd, handler, owner);
    if (!slot) return slot;
    if (auto r = poller_.add(*slot.value(), first); !r) {
        fds_.release(*slot.value());
        return failure{r.error()};
    }
    note(*slot.value(), fd_event::opened, role);
    return slot;
}

void event_loop::close(fd_slot& slot, const char* why) noexcept {
    EXPECT(is_mine());
    const int fd = slot.fd;
    note(slot, fd_event::closed, why);
    if (slot.is(fd_state::shared)) poller_.remove(slot);
    fds_.release(slot);
    const int r = sys::close(fd); // EINTR, EIO: it is closed all the same
    EXPECT(r != -EBADF);
}

void event_loop::retire(retired& r) noexcept {
    EXPECT(is_mine());
    EXPECT(r.free != nullptr);
    r.next = retired_;
    retired_ = &r;
}

void event_loop::forget(retired& r) noexcept {
    EXPECT(is_mine());
    retired** at = &retired_;
    while (*at != &r) {
        EXPECT(*at != nullptr);
        at = &(*at)->next;
    }
    *at = r.next;
}

void event_loop::free_retired() noexcept {
    while (retired* r = retired_) {
        retired_ = r->next;
        r->free(*r);
    }
}

// The letters themselves run at their place in the turn; here only the edge is taken note of.
void event_loop::woken(fd_slot& slot) noexcept { fdtab::cant_recv(slot); }

result<void> event_loop::on_signal(int signal, signal_handler handler, void* owner) noexcept {
    EXPECT(signal > 0 && signal <= signal_max);
    EXPECT(handler != nullptr);
    sigset_t signals = signals_;
    sigaddset(&signals, signal);
    const int fd = sys::signal_open(signals);
    if (fd < 0) return failure{-fd};
    auto slot = watch(fd, interest::recv, signalled, this, "signals");
    if (!slot) {
        sys::close(fd);
        return failure{slot.error()};
    }
    sys::block_signals(signals); // now that nothing fails any more: until here it acts on the process
    signals_ = signals;
    if (signal_slot_) close(*signal_slot_); // its successor knows all its signals
    signal_slot_ = slot.value();
    fds_.want_recv(*signal_slot_);
    signal_entries_[signal] = {handler, owner};
    return {};
}

void event_loop::signalled(fd_slot& slot) noexcept {
    event_loop& self = *static_cast<event_loop*>(slot.owner);
    const std::uint32_t generation = slot.generation;
    for (int budget = signal_max; budget > 0; budget--) {
        const int signal = sys::signal_read(slot.fd);
        if (signal < 0) {
            fdtab::cant_recv(slot);
            return;
        }
        const signal_entry& entry = self.signal_entries_[signal];
        entry.handler(entry.owner, signal);
        if (slot.generation != generation) return;
    }
}

} // namespace weir::inline WEIR_KERNEL
