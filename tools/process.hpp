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
    const char* text = ""; // as given
};

// What say() and fail() put before each line. Borrowed; once, before anything else: options do it.
void name_program(const char* name) noexcept;

// One line on stderr, with the program's name before it.
[[gnu::format(printf, 1, 2)]] void say(const char* format, ...) noexcept;
// The same, for whoever takes a function and its owner: line_sink, http1_gateway::on_trouble().
void say_line(void* nobody, std::string_view line) noexcept;
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

// Says what is open in a loop, a line per descriptor (fd_ledger::list), and how much; behind it, for the first of
// `loops_count` loops, what `counters` writes: at most 4,000 bytes, whose number it returns. Somebody reads stderr, or
// the loop waits for them.
using counters_writer = std::size_t (*)(void* owner, std::span<char> room) noexcept;
void say_open(event_loop& loop, std::uint32_t index, std::uint32_t loops_count, counters_writer counters,
              void* owner) noexcept;

// Another number for the same descriptor; ends with 1 if there is none.
unique_fd duplicate(int fd) noexcept;

} // namespace weir::inline WEIR_KERNEL::tools
