#pragma once
// log_file: a file of lines, each with its time in UTC, that can be rotated.
//
//     2026-11-23T21:35:00.123Z TEXT
//
// Lines are gathered and written 100 ms after the first of them, or when 16 KB are full. Several may write to the same
// file or pipe: lines stay whole. reopen() goes on in a file of the same name: after a rename nothing is lost and
// nothing is written twice.
// Nobody is waited for: what a pipe, a socket or a terminal does not take stays in the 16 KB, and when those are full,
// lines are lost. So are those that a full disk or a closed pipe refuses. How many is said on stderr, at once, every
// 10 s and at the end.
// Owner: the user. Thread: its loop's. Allocation: none.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/loop.hpp"

namespace weir::inline WEIR_KERNEL::tools {

class log_file {
  public:
    log_file() noexcept = default;
    log_file(const log_file&) = delete;
    log_file& operator=(const log_file&) = delete;
    ~log_file() { close(); }

    // "-": standard output. Ends the program with 1 if it cannot be opened. `path` is borrowed for good.
    void open(event_loop& loop, const char* path) noexcept;
    void line(std::string_view text) noexcept;
    void flush() noexcept;
    // SIGHUP: what is gathered goes to the old file. If there can be no new one, says so and keeps the old.
    void reopen() noexcept;

  private:
    std::size_t at_once(std::size_t at) const noexcept;
    std::size_t write_out() noexcept;
    void lose_from(std::size_t at) noexcept;
    void say_lost() noexcept;
    void set_kind() noexcept;
    void close() noexcept;

    event_loop* loop_ = nullptr;
    const char* path_ = "-";
    int fd_ = -1;
    bool owns_ = false;            // fd_, unless it is the process's stdout
    bool is_file_ = false;         // of the kind that is never waited for
    bool is_full_ = false;         // it took less than there was
    bool is_torn_ = false;         // a write ended within a line: the next one begins with a line end
    std::uint64_t lost_count_ = 0; // not yet said
    time_point said_at_ = never;
    std::size_t size_ = 0;
    timer flush_timer_{[](timer& t, time_point) noexcept { container_of<&log_file::flush_timer_>(t).flush(); }};
    char room_[16 * 1024];
};

} // namespace weir::inline WEIR_KERNEL::tools
