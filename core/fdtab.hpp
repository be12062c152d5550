#pragma once
// fdtab: what one loop knows about every file descriptor, indexed by its number.
//
// A descriptor has two directions. In each, ACTIVE says that the user wants it and READY that the kernel may do it:
// it said so, and nobody has met EAGAIN since. A slot is runnable when both meet, or when there is NEWS.
//
//        want_recv / stop_recv: the user         may_recv / cant_recv: the kernel
//
//                        want                                   may (a report)
//        stopped  <---------------->  wanted       waiting  <--------------------->  ready
//                        stop                                   cant (EAGAIN, short read)
//
//        wanted and ready  ==>  runnable  ==>  on the run list, once  ==>  handler
//
// None of these makes a system call. HUP, ERR and RDHUP stay set until the descriptor is released; NEWS says that
// one of them has come and the handler was not told yet, so a side that wants nothing still hears of an abort.
//
// A number outlives its descriptor. The generation is counted up on release and travels in epoll's data: a report
// for an earlier owner of the number is seen and dropped. A queued slot stays queued across release, and whoever
// has the number when its turn comes is looked at; so the run list never has to be searched.
//
// Idle slots have a run list of their own, which a turn runs first.
//
// Owner: one event_loop. Thread: that loop's. Allocation: one lazily touched mapping, in open().

#include <cstdint>
#include <string_view>

#include "core/flags.hpp"
#include "core/result.hpp"
#include "core/shared_count.hpp"

namespace weir::inline WEIR_KERNEL {

struct fd_slot;

// Runs a slot that is runnable. It clears NEWS once it has taken note of it, or it is run again; it may close
// descriptors, its own too.
using fd_handler = void (*)(fd_slot& slot) noexcept;

enum class fd_state : std::uint32_t {
    recv_active = 1 << 0,  // the user wants to receive
    recv_ready = 1 << 1,   // a recv may work
    send_active = 1 << 2,  // the user wants to send
    send_ready = 1 << 3,   // a send may work
    rdhup = 1 << 4,        // latched: the peer will send no more (EPOLLRDHUP)
    hup = 1 << 5,          // latched: both directions are over (EPOLLHUP)
    err = 1 << 6,          // latched: the socket has an error (EPOLLERR)
    news = 1 << 7,         // a latched bit is set that the handler has not been told of
    queued = 1 << 8,       // on a run list; belongs to the number, not to its owner
    idle = 1 << 9,         // its run list is the one that runs first
    connecting = 1 << 10,  // a HUP without ERR means nothing yet and is not latched
    awaits_send = 1 << 11, // epoll was asked for EPOLLOUT
    shared = 1 << 12,      // the description is known to another descriptor or process: DEL before close
    unsure = 1 << 13,      // a short read proves nothing, only EAGAIN does: an end seen while connecting, urgent data
};
template <>
inline constexpr bool enable_flags<fd_state> = true;

// The bits' names, '+'-separated, for traces: "recv_active+rdhup". `room` is borrowed by the view.
std::string_view to_string(fd_state state, char (&room)[160]) noexcept;

struct fd_slot {
    fd_handler handler;       // null exactly when the number has no owner
    void* owner;              // the handler's
    std::uint32_t generation; // how often the number was released
    fd_state state;
    std::int32_t next; // the run list's link; valid while queued
    std::int32_t fd;   // its own index; valid since the first insert

    bool is(fd_state bits) const noexcept { return any(state, bits); }
    // The peer has ended its side, or the socket is dead.
    bool ended() const noexcept { return is(fd_state::rdhup | fd_state::hup | fd_state::err); }
    bool runnable() const noexcept {
        const auto s = static_cast<std::uint32_t>(state);
        return (s & s >> 1 & 0b101) != 0 || is(fd_state::news); // ACTIVE stands one bit below its READY
    }
};
static_assert(sizeof(fd_slot) == 32, "two slots per cache line");

class fdtab {
  public:
    fdtab() noexcept = default;
    fdtab(const fdtab&) = delete;
    fdtab& operator=(const fdtab&) = delete;
    ~fdtab();

    // Room for the numbers 0 .. fd_max-1. ENOMEM.
    result<void> open(std::uint32_t fd_max) noexcept;

    // Gives the number an owner. One owner per number: EXPECTed. EMFILE: the number lies beyond the table.
    result<fd_slot*> insert(int fd, fd_handler handler, void* owner) noexcept;

    // Takes the owner away, forgets its state and outdates every report still under way.
    void release(fd_slot& slot) noexcept;

    void want_recv(fd_slot& slot) noexcept { set(slot, fd_state::recv_active); }
    void want_send(fd_slot& slot) noexcept { set(slot, fd_state::send_active); }
    void may_recv(fd_slot& slot) noexcept { set(slot, fd_state::recv_ready); }
    void may_send(fd_slot& slot) noexcept { set(slot, fd_state::send_ready); }
    // Sets bits and puts the slot on its run list if that makes it runnable.
    void set(fd_slot& slot, fd_state bits) noexcept {
        slot.state |= bits;
        if (slot.runnable()) queue(slot);
    }
    static void stop_recv(fd_slot& slot) noexcept { slot.state &= ~fd_state::recv_active; }
    static void stop_send(fd_slot& slot) noexcept { slot.state &= ~fd_state::send_active; }
    static void cant_recv(fd_slot& slot) noexcept { slot.state &= ~fd_state::recv_ready; }
    static void cant_send(fd_slot& slot) noexcept { slot.state &= ~fd_state::send_ready; }

    // Merges one report of the kernel into its slot. The number that `data` names must lie in the table.
    void report(std::uint64_t data, std::uint32_t events) noexcept;

    // Runs what is runnable now, the idle ones first, each slot once; what becomes runnable meanwhile waits for
    // the next turn. Returns how many handlers ran.
    std::uint32_t run() noexcept;

    bool has_runnable() const noexcept { return lists_[0].first >= 0 || lists_[1].first >= 0; }

    std::uint64_t data_of(const fd_slot& slot) const noexcept {
        return std::uint64_t{slot.generation} << 32 | static_cast<std::uint32_t>(slot.fd);
    }

    std::uint32_t fd_max() const noexcept { return fd_max_; }
    std::uint32_t used_count() const noexcept { return used_count_; }
    std::uint64_t stale_count() const noexcept { return stale_count_; } // reports for an earlier owner

    // The slot of a number, for tests and ledgers. fd < fd_max().
    fd_slot& slot(int fd) noexcept {
        EXPECT(fd >= 0 && static_cast<std::uint32_t>(fd) < fd_max_);
        return slots_[fd];
    }

  private:
    struct run_list {
        std::int32_t first = -1;
        std::int32_t last = -1;
    };

    void queue(fd_slot& slot) noexcept {
        if (slot.is(fd_state::queued)) return;
        append(slot);
    }
    void append(fd_slot& slot) noexcept;
    std::uint32_t run_from(std::int32_t first) noexcept;

    fd_slot* slots_ = nullptr;
    std::uint32_t fd_max_ = 0;
    std::uint32_t used_count_ = 0;
    counter stale_count_;
    run_list lists_[2]; // [0]: idle
};

} // namespace weir::inline WEIR_KERNEL
