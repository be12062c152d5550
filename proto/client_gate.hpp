#pragma once
// client_gate: one listener of a proxy, the clients that came through it, and their places.
//
//     backlog ──(a place is free)──> client ──(its request)──> busy
//        │                             ▲ waits()                 │ stops_waiting()
//        │                             └─────────────────────────┘
//        └──(no place is free)──> the client that has only waited for the longest is let go: its place is taken over;
//                                 if none only waits, the listener pauses, and is the first to go on when that changes
//
// Which client is let go, when a place is needed for one in the backlog:
//   1. a client that has not said a byte for first_byte_grace since it was accepted, the oldest first (one that has
//      something to read goes behind the others, because its request runs soon);
//   2. a client that was served and waits for its next request, the one that waits for the longest first.
// Never a client whose socket has something to read, or that has anything under way: a request, a tunnel, a pair.
// With several loops: a client of the accepting loop; if no client of that loop can go, one of another loop.
//
// While the listener pauses, is_pressed() is true: a proxy that can say so tells the clients that it has served not to
// stay, and no close crosses a request.
//
// A client that lingers has no place any more.
//
// Owner: a proxy; its conntab outlives it. Thread: the loop's; clients_count() any. Allocation: when made, and only
// without `places`.

#include <cstdint>
#include <optional>

#include "core/drain.hpp"
#include "core/listener.hpp"
#include "proto/address.hpp"
#include "proto/client_places.hpp"

namespace weir::inline WEIR_KERNEL {

struct client_gate_options {
    std::uint32_t clients_max = 1024; // above 0, EXPECTed
    client_places* places = nullptr;  // shared with gates of other loops: its limit is the limit, clients_max is unused
    duration first_byte_grace = seconds{1};
    // A new client, which has its place. It is attached to a table, or closed.
    void (*accepted)(void* owner, connection& client, const endpoint& peer) noexcept = nullptr;
    // Closes `client`, which waits(), and calls gone(): its place is needed.
    void (*let_go)(void* owner, connection& client) noexcept = nullptr;
    // The limit of a drain: aborts whatever still runs. How many clients were cut off.
    std::size_t (*cut_off)(void* owner) noexcept = nullptr;
    void* owner = nullptr;
};

class client_gate {
  public:
    client_gate(conntab& conns, const client_gate_options& options) noexcept;
    client_gate(const client_gate&) = delete;
    client_gate& operator=(const client_gate&) = delete;
    ~client_gate(); // each client is gone(): EXPECTed

    bool has_memory() const noexcept { return places_.has_memory(); }

    // Once. Errors as listener::open() and adopt(); ENOMEM: !has_memory().
    result<void> listen(const address& at, const listener_options& options) noexcept;
    result<void> listen(unique_fd inherited, const ctrl& family, const listener_options& options) noexcept;
    listener& door() noexcept { return door_; }
    const listener& door() const noexcept { return door_; }

    // `client` has a place and nothing under way. Called again, it is the last in its order.
    void waits(connection& client) noexcept;
    // `client`, which waits, has something under way from now on.
    void stops_waiting(connection& client) noexcept { fresh_.take_out(client); } // the same for either queue
    // A client of this gate was closed, or is about to be; in the latter case nothing else happens before it is.
    void gone() noexcept;

    // A client is in the backlog of some loop, and no place is free.
    bool is_pressed() const noexcept { return places_.paused_count() > 0; }
    bool has_place() const noexcept { return places_.taken_count() < places_.clients_max(); }

    std::uint32_t clients_count() const noexcept { return clients_count_; }
    std::uint64_t clients_total() const noexcept { return clients_total_; }
    std::uint64_t let_go_count() const noexcept { return let_go_count_; }

    // Closes the listener; with drain_kind::end it first accepts those in the backlog for which there are places. Calls
    // `done` when the conntab is empty, or after `limit` and cut_off(). Once.
    using drained = void (*)(void* owner) noexcept;
    void drain(drain_kind how, duration limit, drained done, void* owner) noexcept;
    bool is_draining() const noexcept { return drained_ != nullptr; }
    void close() noexcept; // the listener; its clients stay
    void stop_drain() noexcept { drain_.stop(); }
    std::size_t cut_count() const noexcept { return cut_count_; } // by a drain's limit; valid from `done` on

  private:
    friend class client_places;

    static bool may_accept(void* self) noexcept;
    static void none_came(void* self) noexcept;
    static void accepted(void* self, connection& client, const endpoint& peer) noexcept;
    static void look_again(timer& t, time_point now) noexcept;
    static void drain_over(void* self) noexcept;
    static bool is_quiet(const connection& client) noexcept;
    static connection* first_quiet(conn_queue& queue) noexcept;
    connection* longest_waiting() noexcept;
    void let_go(connection& client) noexcept;
    void make_room() noexcept;
    void look_later() noexcept;
    // Of client_places: this seat was given a place; this seat was called by another thread.
    void got_place() noexcept;
    void called() noexcept;

    conntab& conns_;
    client_gate_options options_;
    std::optional<client_places> own_;
    client_places& places_;
    client_places::seat* seat_ = nullptr; // null: no memory
    listener door_;
    conn_queue fresh_, served_;     // clients that wait: before their first request, and behind one
    timer look_again_{look_again};
    bool has_place_ = false;        // for the client that is about to be accepted
    connection* victim_ = nullptr;  // or this client's is for it
    bool passing_on_ = false;       // the place of the client that goes now is taken over
    shared_count<std::uint32_t> clients_count_;
    counter clients_total_, let_go_count_;
    drained drained_ = nullptr;
    void* drained_owner_ = nullptr;
    std::size_t cut_count_ = 0;
    drain_watch drain_;
};

} // namespace weir::inline WEIR_KERNEL
