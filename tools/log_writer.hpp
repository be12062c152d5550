#pragma once
// log_writer: the one writer of lines from a loop: an access log, or stderr. It never waits.
//
//     2026-11-23T21:35:00.123Z TEXT       open(): a file that can be rotated, gathered for 100 ms or 16 KB
//     weir-gateway: TEXT                  open_stderr(): written at once
//
// What the other side does not take stays in the 16 KB and is tried again every 100 ms. When those are full, lines are
// lost; so are those that a full disk or a closed pipe refuses. How many is told: of an access log through the writer
// of stderr, at once, every 10 s and at the end; of stderr itself when it takes lines again.
//
// Several may write to the same file, pipe, socket or terminal, threads and other processes too: lines stay whole. A
// process's own descriptor may be shared with others and so blocks: O_NONBLOCK would change it for them. A pipe or a
// terminal is therefore opened once more, by /proc/self/fd, and a socket is sent to with MSG_DONTWAIT. Where that cannot
// be, the descriptor is asked first (poll) and given no more than PIPE_BUF, which waits only if another process fills it
// in between.
// Owner: the user. Thread: its loop's. Allocation: none.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/loop.hpp"

namespace weir::inline WEIR_KERNEL::tools {

class log_writer {
  public:
    static constexpr std::size_t room_bytes = 16 * 1024;

    log_writer() noexcept = default;
    log_writer(const log_writer&) = delete;
    log_writer& operator=(const log_writer&) = delete;
    ~log_writer() { close(); }

    // An access log. "-", "/dev/stdout", "/dev/stderr", "/dev/fd/N", "/proc/self/fd/N": the process's own descriptor,
    // which is not opened anew by reopen(). Ends the program with 1 if it cannot be opened. `path` is borrowed for good;
    // `trouble` outlives this, and is open.
    void open(event_loop& loop, const char* path, log_writer& trouble) noexcept;
    void open_stderr(event_loop& loop) noexcept;

    void line(std::string_view text) noexcept;
    [[gnu::format(printf, 2, 3)]] void print(const char* format, ...) noexcept;
    // line(), for on_trouble() and on_access(): `self` is a log_writer.
    static void take(void* self, std::string_view text) noexcept { static_cast<log_writer*>(self)->line(text); }

    void flush() noexcept;
    // SIGHUP: what is gathered goes to the old file. If there can be no new one, says so and keeps the old.
    void reopen() noexcept;
    // Flushes as far as it is taken; the rest is lost, and told.
    void close() noexcept;

    // A line of so many bytes has room without one being lost.
    bool has_room(std::size_t text_bytes) const noexcept;

  private:
    enum class way : std::uint8_t { file, nonblocking, socket, polled };

    void open_own(int fd) noexcept;
    void set_way() noexcept;
    std::size_t write_head(char* to) const noexcept;
    std::size_t at_once(std::size_t at) const noexcept;
    sys::count write_some(std::size_t at) noexcept;
    std::size_t write_out() noexcept;
    void lose_from(std::size_t at) noexcept;
    void tell_lost() noexcept;

    event_loop* loop_ = nullptr;
    log_writer* trouble_ = nullptr; // null: this is stderr's
    const char* path_ = "-";
    int fd_ = -1;
    way way_ = way::polled;
    bool owns_ = false;       // fd_
    bool can_reopen_ = false; // it was opened by its name
    bool is_full_ = false;    // it took less than there was
    bool is_torn_ = false;    // a write ended within a line: the next one begins with a line end
    std::uint64_t lost_count_ = 0; // not yet told
    time_point told_at_ = never;
    std::size_t size_ = 0;
    timer flush_timer_{[](timer& t, time_point) noexcept { container_of<&log_writer::flush_timer_>(t).flush(); }};
    char room_[room_bytes];
};

// The descriptor that a path names as the process's own, -1: none. Before anything else is opened: whether it is open is
// looked at here, -EBADF.
int own_descriptor(const char* path) noexcept;

} // namespace weir::inline WEIR_KERNEL::tools
