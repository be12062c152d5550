#pragma once
// ledger: which descriptors of a loop are open, whose they are, and what became of each number before.
//
// Two sources, and nothing is kept twice. What is open, its state and its owner stand in the fdtab and in the owners
// themselves: list() walks them, and asks the owner by a teller that is registered per handler. That works always. What
// would be lost stands in the history: who opened a number and when, parked and took it, closed it and why. That is a
// ring of the last `entries` events, written only where a system call is made anyway; with 0 entries it costs one
// branch there.
//
//     ring      [ ... | 7 opened accepted | 9 closed done | 7 parked http1-server | ... ]   oldest is overwritten
//                        └──────────────── previous ────────────┘
//     newest_   per number: its newest entry, from where `previous` leads back as far as the ring reaches
//
// A change of table by attach() is two stores and is not an event; the table that serves now is read where it stands.
//
// Owner: one event_loop. Thread: that loop's. Allocation: two mappings, lazily touched, in open(): 32 bytes per
// entry and 4 per number.

#include <array>
#include <cstdint>
#include <string_view>

#include "core/fdtab.hpp"
#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL {

enum class fd_event : std::uint8_t {
    opened,    // by: its role: "accepted", "dialed", "listener", ...
    parked,    // by: the table that served it until then
    taken,     // by: the table that serves it from then on
    lingering, // closed by its user, by: the cause; the peer's end is awaited
    closed,    // by: the cause, "" if there was none to say
};
const char* to_string(fd_event what) noexcept;

// What the owner of a slot knows of it. Texts are literals, or live as long as the slot.
struct fd_facts {
    const char* role = "other";  // "accepted", "dialed", "adopted"; "listener", "mailbox", "signals", ...
    const char* table = "";      // data_cb::name
    const void* owner = nullptr; // the user's
    time_point since = never;    // when it was opened; never: the owner does not know
};
// Writes what it knows to `to`, which has the defaults. The slot has an owner, and its handler is the teller's.
using fd_teller = void (*)(const fd_slot& slot, fd_facts& to) noexcept;

// Where lines go. `line` is borrowed for the call and has no line end.
struct line_sink {
    void (*take)(void* to, std::string_view line) noexcept;
    void* to = nullptr;
};

class fd_ledger {
  public:
    struct entry {
        time_point at; // the loop's time
        const char* by;
        std::int32_t fd;
        std::uint32_t generation;
        std::uint32_t previous; // number of the entry before it of the same descriptor number, modulo 2^32; 0: none
        fd_event what;
    };

    fd_ledger() noexcept = default;
    fd_ledger(const fd_ledger&) = delete;
    fd_ledger& operator=(const fd_ledger&) = delete;
    ~fd_ledger();

    // Begins a history of the last `entries` events. ENOMEM.
    result<void> open(std::uint32_t entries, std::uint32_t fd_max) noexcept;
    bool has_history() const noexcept { return ring_ != nullptr; }

    // `by` is a literal.
    void note(const fd_slot& slot, fd_event what, const char* by, time_point at) noexcept {
        if (ring_) [[unlikely]]
            record(slot, what, by, at);
    }

    // Who knows about slots of this handler, from now on. At most 16 handlers; the same again changes nothing.
    void introduce(fd_handler handler, fd_teller teller) noexcept;
    fd_facts facts(const fd_slot& slot) const noexcept;

    // One line per open descriptor, in the order of their numbers:
    //   fd 12 accepted http1-client 127.0.0.1:8080 - 127.0.0.1:40112 age 1.204 s owner 0x7f.. recv_active; opened
    //   accepted 1.204 s ago
    // Returns how many.
    std::uint32_t list(fdtab& fds, time_point now, line_sink out) const noexcept;
    // The same in parts, where `out` may have to wait: at most `lines_max` lines, at least 1, from descriptor `from` on.
    // Returns the number to go on with; fds.fd_max(): nothing is left.
    std::uint32_t list_some(fdtab& fds, std::uint32_t from, std::uint32_t lines_max, time_point now,
                            line_sink out) const noexcept;

    // One line per event of this number that the ring still holds, the newest first, earlier owners of it too. Returns
    // how many.
    std::uint32_t tell(int fd, time_point now, line_sink out) const noexcept;

    // The newest entry of a number, and the one before it. Null: the ring holds none. Valid until the next note().
    const entry* newest(int fd) const noexcept;
    const entry* before(const entry& e) const noexcept { return find(e.previous, e.fd); }

    std::uint64_t recorded_count() const noexcept { return recorded_count_; } // ever

  private:
    static constexpr std::size_t tellers_max = 16;

    void describe(const fd_slot& slot, time_point now, line_sink out) const noexcept;
    void record(const fd_slot& slot, fd_event what, const char* by, time_point at) noexcept;
    const entry* find(std::uint32_t number, int fd) const noexcept;
    time_point opened_at(const fd_slot& slot, const fd_facts& known) const noexcept;

    entry* ring_ = nullptr;
    std::uint32_t* newest_ = nullptr; // [fd]: number of its newest entry modulo 2^32, from 1 on; 0: none
    std::uint32_t entries_ = 0;
    std::uint32_t fd_max_ = 0;
    std::uint64_t recorded_count_ = 0; // entry number n, from 1 on, lies at (n - 1) % entries_
    std::uint32_t tellers_count_ = 0;
    struct {
        fd_handler handler = nullptr;
        fd_teller teller = nullptr;
    } tellers_[tellers_max];
};
static_assert(sizeof(fd_ledger::entry) == 32, "two entries per cache line");

// A sink that writes each line to a descriptor, which stays the caller's. The one thing here that may block: a line
// waits where writing does, and the loop with it. To a pipe or socket that nobody reads any more it raises SIGPIPE.
line_sink lines_to(int fd) noexcept;

} // namespace weir::inline WEIR_KERNEL
