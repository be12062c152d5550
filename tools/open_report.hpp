#pragma once
// open_report: what is open in a loop, said on stderr for SIGUSR1, as fast as somebody reads it.
//
// A line per descriptor (fd_ledger::list), then how many lines there were; behind that, for the first of several loops, the
// counters. A part of the list is written in each step, as much as the writer has room for, and the loop goes on
// meanwhile. Where nobody reads for 5 s the rest is left out, and that is said.
//
// Owner: the user; loop and writer outlive it. Thread: the loop's. Allocation: none.

#include <cstdint>
#include <span>

#include "tools/log_writer.hpp"

namespace weir::inline WEIR_KERNEL::tools {

class open_report {
  public:
    // Writes to `room`, which has nearly 4,000 bytes, and returns how many.
    using counters_writer = std::size_t (*)(void* owner, std::span<char> room) noexcept;

    open_report(event_loop& loop, log_writer& to) noexcept : loop_(loop), to_(to) {}
    open_report(const open_report&) = delete;
    open_report& operator=(const open_report&) = delete;
    ~open_report() { timer_.cancel(); }

    // `index` is the loop's, of `loops_count`. While one is under way, asking for another changes nothing.
    void begin(std::uint32_t index, std::uint32_t loops_count, counters_writer counters, void* owner) noexcept;

  private:
    void step() noexcept;
    void end(std::uint32_t count) noexcept;
    static void take(void* self, std::string_view line) noexcept;

    event_loop& loop_;
    log_writer& to_;
    counters_writer counters_ = nullptr;
    void* owner_ = nullptr;
    std::uint32_t index_ = 0, loops_count_ = 1;
    std::uint32_t next_fd_ = 0;
    std::uint32_t open_count_ = 0;
    std::uint32_t told_count_ = 0;
    bool has_waited_ = false; // and so the descriptors may have changed meanwhile
    time_point moved_at_{}; // when a line was last written
    timer timer_{[](timer& t, time_point) noexcept { container_of<&open_report::timer_>(t).step(); }};
};

} // namespace weir::inline WEIR_KERNEL::tools
