#pragma once
// sim_faults: what the simulated kernel does wrong on purpose, how often, and how often it did.
//
// Each kind has a ratio, which draw() sets for a run: 0 with probability 1/2 (so that combinations are explored in
// which most kinds are silent), else something between rare and constant. strike() asks whether a kind happens now and
// marks it when it does: a kind whose mark stays 0 over many seeds is not tested at all.
// heal() ends all of them.
//
// Beside chance there is a plan for one run: the n-th crossing that can fail does, with the k-th errno that its man
// page documents, once or, with every later call of its kind, from then on. So a test can try all of them in turn.

#include <array>
#include <cstdint>
#include <span>

#include "core/sim_dice.hpp"
#include "core/sim_trace.hpp"

namespace weir::inline WEIR_KERNEL {

enum class fault : std::uint8_t {
    accept_emfile, // errors that accept(2) documents: shortage,
    accept_enfile,
    accept_enobufs,
    accept_enomem,
    accept_econnaborted, // or a matter of that one connection
    accept_eproto,
    accept_eperm,
    socket_emfile,
    socket_enfile,
    socket_enobufs,
    socket_enomem,
    connect_eaddrnotavail, // no local port is left to that address, for a while
    connect_enetunreach,
    connect_eagain, // a unix backlog that is full, for a while
    connect_at_once,
    connect_refused,
    connect_timed_out,
    connect_lost,  // nothing ever answers
    connect_reset, // established, and reset before anybody looks
    connect_eintr, // done, but it says only that it goes on
    epoll_open_emfile,
    epoll_add_enospc,
    epoll_add_enomem,
    epoll_change_enomem,
    epoll_early,    // a signal ends the sleep: EINTR
    epoll_late,     // the machine was busy elsewhere
    epoll_few,      // a batch cut below what was asked for
    epoll_spurious, // IN or OUT, though there is neither
    eventfd_emfile,
    eventfd_eagain, // the counter is saturated
    signalfd_emfile,
    send_short,
    send_eagain, // memory pressure: though there is room
    send_enobufs,
    send_enomem,
    recv_enomem,
    recv_etimedout, // the peer has not acknowledged anything for too long
    option_einval,
    name_enobufs,
    map_enomem,
    close_eintr,
    close_eio,
    wire_slow,     // a delivery takes its time
    wire_pieces,   // it comes in parts
    wire_reset,    // both ends see a reset
    clock_jump,    // the process stands still for 1 to 20 s, before epoll looks or behind that
    call_late,     // before a call the process has to wait for its processor, up to 5 ms: peers go on meanwhile
    recv_with_cut, // short of descriptors for what was passed; as often as accept_emfile
    splice_cut,    // to a socket, ended between two pieces by a signal; with epoll_early
    splice_mark,   // urgent data stands before bytes and a FIN, so that it answers 0; with wire_pieces
    stop_in_sleep, // SIGSTOP and SIGCONT: EINTR, and what came meanwhile waits; with clock_jump
    stop_in_call,  // the process stands still before any other call; with clock_jump, and more seldom
    connect_itself, // nobody listens there, and the kernel connects from that very port; more often than connect_refused
    count_
};
const char* to_string(fault kind) noexcept;

// What a call may answer by its man page, and what may befall weir: not its own mistakes (EBADF, EFAULT, EINVAL), and
// not what every call of it must expect (EAGAIN, EINPROGRESS). EINTR stands only where the seam itself settles it.
std::span<const int> documented_errnos(call what) noexcept;

class planned_failure {
  public:
    enum class extent : std::uint8_t { once, from_then_on };

    // `crossing` counts from 1 those that ask(); 0: none. `way` is an index into documented_errnos() of its call.
    void set(std::uint64_t crossing, std::size_t way, extent how_long) noexcept {
        at_ = crossing;
        way_ = way;
        how_long_ = how_long;
    }
    // Nothing fails and nothing is counted between the two.
    void pause() noexcept { paused_ = true; }
    void resume() noexcept { paused_ = false; }

    // The errno with which this call is to fail, 0: none.
    int ask(call what) noexcept;

    std::uint64_t crossings_count() const noexcept { return count_; }
    bool reached() const noexcept { return ways_ > 0; }  // the crossing has come,
    bool struck() const noexcept { return error_ != 0; } // and failed: it knows so many ways
    std::size_t ways_count() const noexcept { return ways_; }
    call what() const noexcept { return what_; } // that failed. reached()
    int error() const noexcept { return error_; }

  private:
    std::uint64_t at_ = 0, count_ = 0;
    std::size_t way_ = 0, ways_ = 0;
    call what_{};
    int error_ = 0;
    extent how_long_ = extent::once;
    bool paused_ = false;
};

class fault_plan {
  public:
    static constexpr std::size_t kinds = static_cast<std::size_t>(fault::count_);

    // Ratios for a run.
    void draw(dice& chance) noexcept;
    // One kind, `ratio` times in 10,000.
    void set(fault kind, std::uint32_t ratio) noexcept { ratios_[static_cast<std::size_t>(kind)] = ratio; }
    std::uint32_t ratio(fault kind) const noexcept { return ratios_[static_cast<std::size_t>(kind)]; }
    void heal() noexcept { ratios_ = {}; }
    // Nothing strikes from now on, or what was drawn does again.
    void pause() noexcept { paused_ = true; }
    void resume() noexcept { paused_ = false; }
    bool paused() const noexcept { return paused_; }

    bool strike(fault kind, dice& chance) noexcept {
        const auto at = static_cast<std::size_t>(kind);
        if (paused_ || ratios_[at] == 0 || !chance.chance(ratios_[at])) return false;
        marks_[at]++;
        return true;
    }

    std::uint64_t marks(fault kind) const noexcept { return marks_[static_cast<std::size_t>(kind)]; }

    planned_failure plan;

  private:
    std::array<std::uint32_t, kinds> ratios_{};
    std::array<std::uint64_t, kinds> marks_{};
    bool paused_ = false;
};

} // namespace weir::inline WEIR_KERNEL
