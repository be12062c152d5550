#pragma once
// loop: one thread's event loop. It owns the fdtab, the poller, the timers and the mailbox, and takes turns.
//
//     a turn:   sleep (or not) ──> stamp now ──> run idle slots, then the others ──> mailbox ──> timers ──> free
//
// Each of these steps takes what is there when it begins, so a turn is bounded. A slot that becomes runnable waits for
// the next turn, and so does a letter that a letter or a timer posts; a letter that a slot posts runs in the same turn.
// What a handler wants to free it retires: the memory goes back at the end of the turn, when no list can hold it any
// more.
//
// Events and letters come before the clock, always. A timer fires only when every event that came before its deadline
// has been reported, and each of these slots has been run since. So a connection whose bytes wait in the kernel is not
// closed for being idle, however long the process stood still, and at whichever instruction. The rule costs no system
// call and no reading of the clock:
//   - A timer is judged by reported::until() (reported.hpp), not by now(). until() is a reading from before epoll was
//     asked, so a stop between the answer of epoll and a later reading makes no timer due.
//   - A sleep that runs its full time has asked at its end. So a timer that the loop slept for fires in the same turn.
//   - A sleep that a signal ends has not asked. The next turn sleeps for the rest, or asks at once.
//   - After a full batch the timers wait until every descriptor could have been reported once. With fewer descriptors
//     ready than `events_max` no timer waits.
//   - A turn that does not ask epoll moves until() not at all.
// A timer that comes due while slots run fires in the next turn. A callback of a timer gets until() as its time; now()
// may be later.
//
// Instead of sleeping at once a loop may spin: spin.hpp says for how long. While it does it counts as awake, so that a
// letter costs its sender no system call; it looks for letters all the time, at the clock every 16 looks, and asks
// epoll every 64. A turn that a letter began need not ask epoll, as long as the turn before asked, or the last one that
// did began less than 5 us before that.
//
// Thread: everything but post() and stop() belongs to one thread, and so does everything that is registered with the
// loop: its slots, timers, connections. That is the thread that called open(); from run() on the one that called that,
// which may be another one; when run() has come back, whoever comes next. claim() is for those who turn() elsewhere.
// Calling from another thread is a contract violation. Public entry points check this in every build; want(), attach()
// and arm() check it unless NDEBUG is defined. A forked child must not use its parent's loop (checked every
// turn); it may exec, or end with _exit().

#include <atomic>
#include <cstdint>

#include "core/fdtab.hpp"
#include "core/ledger.hpp"
#include "core/mailbox.hpp"
#include "core/poller.hpp"
#include "core/reported.hpp"
#include "core/shared_count.hpp"
#include "core/spin.hpp"
#include "core/timers.hpp"

namespace weir::inline WEIR_KERNEL {

struct loop_options {
    std::uint32_t fd_max = 0;       // descriptor numbers the loop can hold; 0: RLIMIT_NOFILE
    std::uint32_t events_max = 256; // reports taken from the kernel per turn
    std::uint32_t timers_max = 512; // timers fired per turn
    std::uint32_t ledger_max = 0;   // events of descriptors that the ledger remembers, 32 bytes each; 0: none
    // Instead of sleeping at once it looks for work for at most so long: spin.hpp. Off where there is one processor.
    std::uint32_t spin_us_max = 0;
    // Timers fire at their deadline, not at the end of its millisecond, and sleeps end then: timers.hpp,
    // epoll_pwait2(2). A kernel without it sleeps in milliseconds all the same: polls().imprecise_count().
    bool precise_timers = false;
    // Where the kernel has it and lets us: busy_polls(). usecs 0: off.
    sys::busy_poll busy_poll{};
    const clock* time_source = &sys::real_clock;
};

// Embedded in what is freed at the end of a turn.
struct retired {
    using callback = void (*)(retired& self) noexcept;

    retired* next = nullptr;
    callback free = nullptr;
};

class event_loop {
  public:
    event_loop() noexcept;
    event_loop(const event_loop&) = delete;
    event_loop& operator=(const event_loop&) = delete;
    // Nothing may be watched any more, and every letter has run.
    ~event_loop();

    // Once, before anything else. EMFILE, ENFILE, ENOMEM.
    result<void> open(const loop_options& options = {}) noexcept;

    // Takes turns until stop(). Returns at the end of the turn in which stop() was seen. The loop is the caller's for
    // as long, and then nobody's.
    void run() noexcept;

    // From now on the loop is the calling thread's. No other is in it, or comes back without a claim() of its own.
    void claim() noexcept;
    // Nobody's, or the calling thread's.
    bool is_mine() const noexcept {
        const sys::thread_mark owner = thread_.load(std::memory_order_relaxed);
        return owner == nullptr || owner == sys::this_thread();
    }

    // One turn, sleeping at most `sleep_max`. Returns how many handlers, timers and letters ran. Not from within one.
    std::uint32_t turn(duration sleep_max) noexcept;

    // Any thread. The present turn is finished. The loop outlives the call. It is kept: while no run() is under way it
    // ends the next one, at the latest after its first turn.
    void stop() noexcept;

    // Any thread: see mailbox.hpp. The loop outlives the call.
    void post(letter& l) noexcept { mailbox_.post(l); }

    // When the present turn began (or woke up).
    time_point now() const noexcept { return now_; }

    // --- descriptors. The caller keeps ownership of fd until it calls close().

    // EMFILE: fd lies beyond the table. ENOSPC, ENOMEM, EPERM: epoll refused it. On error nothing is watched.
    // `role` is for the ledger: a literal.
    result<fd_slot*> watch(int fd, interest first, fd_handler handler, void* owner,
                           const char* role = "other") noexcept;

    // Forgets the descriptor and closes it. Reports under way are dropped. `why` is for the ledger: a literal.
    void close(fd_slot& slot, const char* why = "") noexcept;

    // What is open, and what became of it: see ledger.hpp.
    fd_ledger& ledger() noexcept { return ledger_; }
    void note(const fd_slot& slot, fd_event what, const char* by) noexcept { ledger_.note(slot, what, by, now_); }
    std::uint32_t list_descriptors(line_sink out) noexcept { return ledger_.list(fds_, now_, out); }
    // ledger.hpp: list_some(). The number of descriptors that a whole list has: open_count().
    std::uint32_t list_some(std::uint32_t from, std::uint32_t lines_max, line_sink out) noexcept {
        return ledger_.list_some(fds_, from, lines_max, now_, out);
    }
    std::uint32_t open_count() const noexcept { return fds_.used_count(); }

    // The send side met EAGAIN: not ready until the kernel says so.
    result<void> cant_send(fd_slot& slot) noexcept {
        EXPECT_SLOW(is_mine());
        fdtab::cant_send(slot);
        return poller_.await_send(slot);
    }

    // --- time
    void arm(timer& t, time_point deadline) noexcept {
        EXPECT_SLOW(is_mine());
        timers_.arm(t, deadline);
    }
    // A time beyond what a time_point can tell is `never`.
    void arm_in(timer& t, duration from_now) noexcept { arm(t, later(now_, from_now)); }

    // Frees at the end of this turn. `r.free` is set.
    void retire(retired& r) noexcept;
    // Takes a retired one back, because its memory goes away earlier. It must be retired.
    void forget(retired& r) noexcept;

    // From now on the signal does not act on the process but calls `handler` in a turn. It is blocked in this thread:
    // call before starting others. At most one handler per signal. EMFILE, ENFILE, ENOMEM, EINVAL: nothing has changed.
    using signal_handler = void (*)(void* owner, int signal) noexcept;
    result<void> on_signal(int signal, signal_handler handler, void* owner) noexcept;

    fdtab& fds() noexcept {
        EXPECT_SLOW(is_mine());
        return fds_;
    }
    const poller& polls() const noexcept { return poller_; }
    const mailbox& letters() const noexcept { return mailbox_; }
    bool spins() const noexcept { return spin_max_ > duration{}; } // option given, and processors enough
    bool busy_polls() const noexcept { return busy_polls_; }
    // Any thread may ask for these counts.
    std::uint64_t turn_count() const noexcept { return turn_count_; }
    std::uint64_t stale_count() const noexcept { return fds_.stale_count(); }     // reports of an earlier owner's
    std::uint64_t spin_count() const noexcept { return spin_count_; }             // before a sleep
    std::uint64_t spin_found_count() const noexcept { return spin_found_count_; } // of these, there was no sleep

  private:
    static constexpr int signal_max = 64;
    // Of a spin. A look takes 1 to 50 ns with its pause, the clock 20, epoll 100.
    static constexpr std::uint32_t looks_per_clock = 16, looks_per_poll = 64;
    static constexpr duration unpolled_max = std::chrono::microseconds{5};

    struct signal_entry {
        signal_handler handler = nullptr;
        void* owner = nullptr;
    };

    static void woken(fd_slot& slot) noexcept;
    static void signalled(fd_slot& slot) noexcept;
    void introduce_own() noexcept;
    duration sleep_ahead(duration sleep_max) noexcept;
    time_point read_clock() noexcept { return read_at_ = clock_->now(*clock_); }
    void rest(duration sleep) noexcept;
    bool spin(duration limit, duration& sleep) noexcept;
    void ask(duration sleep) noexcept;
    void free_retired() noexcept;

    const clock* clock_ = nullptr;
    time_point now_{};
    time_point read_at_{}; // the newest reading of the clock
    fdtab fds_;
    fd_ledger ledger_;
    poller poller_;
    timers timers_;
    mailbox mailbox_;
    retired* retired_ = nullptr;
    counter turn_count_;
    bool turning_ = false;
    std::uint32_t timers_max_ = 0;
    reported reported_;      // what the timers are judged by
    bool has_asked_ = false; // epoll has answered in this turn
    std::atomic<bool> stop_{false};
    letter stop_letter_;
    std::atomic<bool> stop_posted_{false};
    fd_slot* wake_slot_ = nullptr;
    fd_slot* signal_slot_ = nullptr;
    sigset_t signals_;
    signal_entry signal_entries_[signal_max + 1];
    std::atomic<sys::thread_mark> thread_{nullptr}; // whose it is; written by itself, asked by those who are wrong here
    std::atomic<bool> is_running_{false};
    bool is_precise_ = false, busy_polls_ = false;
    duration spin_wish_{}, spin_max_{};
    spin_limit spin_limit_;
    time_point polled_at_{}; // the turn that asked epoll last
    counter spin_count_, spin_found_count_;
    int* born_here_ = nullptr; // 1, and 0 in a forked child
};

} // namespace weir::inline WEIR_KERNEL
