#pragma once
// process: what every weir tool does around its loop: talking, listening, reporting, stopping.

#include <cstdint>
#include <span>
#include <string_view>

#include "core/listener.hpp"
#include "proto/address.hpp"

namespace weir::inline WEIR_KERNEL::tools {

// Where to listen: an address, or a descriptor that listens already ("fd:3").
struct listen_place {
    address at{};
    int fd = -1;           // >= 0: inherited
    socket_file file{};    // of a unix path: ",mode=660,user=NAME,group=NAME"
    const char* text = ""; // as given
};

// What say() and fail() put before each line. Borrowed; once, before anything else: options do it.
void name_program(const char* name) noexcept;
const char* program_name() noexcept;

// First of all in main(): opens /dev/null at each of 0, 1 and 2 that is closed, so that no socket or file that is opened
// later gets one of these numbers and is written to as if it were stderr. Ends with 1 if that cannot be.
void hold_standard_descriptors() noexcept;

// One line on stderr, with the program's name before it. Waits for the reader of stderr, at most 1 s, and then the line is
// lost: so this is for before the loops run and after; in a loop, a log_writer says it.
[[gnu::format(printf, 1, 2)]] void say(const char* format, ...) noexcept;
// The same, then ends with 1.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...) noexcept;

// Before the loop is opened: raises RLIMIT_NOFILE to its hard limit (the new value is returned), and lets a write to a
// pipe that nobody reads answer EPIPE.
std::uint32_t prepare_process() noexcept;

// The family of a place; an inherited descriptor is asked, or the program ends with 1.
const ctrl& family_of(const listen_place& place) noexcept;

// Listens, or ends with 1 and the reason. Says nothing yet: see announce().
void open_listener_at(listener& at, const listen_place& place, const listener_options& how, listener::accepted callback,
                      void* owner) noexcept;

// "listening on 127.0.0.1:41234": once, when everything is ready.
void announce(const endpoint& at) noexcept;

// SIGTERM and SIGINT: the first calls `drain` in a turn, the second ends the process at once with 1.
using drain_callback = void (*)(void* owner) noexcept;
void on_stop_signal(event_loop& loop, drain_callback drain, void* owner) noexcept;

// The file of a unix listener, to be removed at the end if it is still the same one: another process may have taken the
// path over.
class socket_file_kept {
  public:
    // `at` is listened at by now. An address without a file is none to remove.
    void remember(const endpoint& at) noexcept;
    // Before the listener is closed: as long as it listens no other weir takes the path.
    void remove() noexcept;

  private:
    endpoint at_;
    std::uint64_t device_ = 0, inode_ = 0;
};

// Another number for the same descriptor; ends with 1 if there is none.
unique_fd duplicate(int fd) noexcept;

} // namespace weir::inline WEIR_KERNEL::tools
