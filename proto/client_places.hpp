#pragma once
// client_places: how many clients there may be, over all loops of a proxy; and who gets a place when one is free.
//
//     client_gate (loop 0) ──┐                    each gate takes a place before it accepts, and gives it back when the
//     client_gate (loop 1) ──┼── client_places    client is gone; a gate that finds none pauses, and is first in line
//     client_gate (loop 2) ──┘                    for the next: the gate that paused first gets the first free place
//
// A client stays with the loop that accepted it, so no socket moves between threads. Each loop has room for all the
// clients there may be; that is address space, not memory.
//
// Order in memory. A gate that pauses stores its ticket and then looks for a free place; a gate that frees a place
// makes it free and then looks for a ticket. All four are seq_cst, so one of the two sees the other's store, and no
// place is free while a gate waits for it. The same holds for a gate that pauses and looks at has_waiting, against a
// gate whose first client begins to wait and that looks at paused_count().
//
// Owner: the user; it outlives the gates and the loops. Thread: any. Allocation: when made, and for one gate none.

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/loop.hpp"

namespace weir::inline WEIR_KERNEL {

class client_gate;

class client_places {
  public:
    // Both above 0, EXPECTed. `gates_max`: how many gates may ever join.
    client_places(std::uint32_t clients_max, std::uint32_t gates_max) noexcept;
    client_places(const client_places&) = delete;
    client_places& operator=(const client_places&) = delete;

    bool has_memory() const noexcept { return gates_max_ == 1 || more_seats_ != nullptr; }
    std::uint32_t clients_max() const noexcept { return clients_max_; }
    // Places that clients have, or that a gate is about to use.
    std::uint32_t taken_count() const noexcept { return taken_.load(std::memory_order_seq_cst); }
    // Gates that have a client in their listener's queue and no place for it.
    std::uint32_t paused_count() const noexcept { return paused_count_.load(std::memory_order_seq_cst); }

  private:
    friend class client_gate;

    // What the other threads know of a gate. It stays when the gate goes: a letter may be under way to it.
    struct seat {
        client_places* home = nullptr;
        event_loop* loop = nullptr;
        client_gate* gate = nullptr;              // its thread's; null: the gate is gone, or there was none
        std::atomic<std::uint64_t> ticket{0};     // since when it pauses; 0: it does not, or it has been given a place
        std::atomic<std::uint32_t> given_count{0}; // places that it was given and has not used yet
        std::atomic<bool> has_waiting{false};     // some client of it may only wait; a hint that may be true too long
        std::atomic<bool> called{false};          // `call` is under way
        letter call;
    };

    seat& join(event_loop& loop, client_gate& gate) noexcept;
    void leave(seat& s) noexcept;

    // A free place. False: there is none.
    bool take() noexcept;
    // One of those that `s` was given.
    static bool take_given(seat& s) noexcept;
    // A place is free: the gate that has paused for the longest gets it, or nobody. `from`: of the calling thread.
    void release(seat& from) noexcept;
    // True: a place became free meanwhile; it is taken, and the gate does not pause.
    bool pause(seat& s) noexcept;
    // False: it does not pause, or was just given a place.
    bool withdraw(seat& s) noexcept;
    // The gate that has paused for the longest; it does not pause any more, and is given a place next. Null: none does.
    seat* claim() noexcept;
    void give(seat& to, seat& from) noexcept;
    // Every other gate that may have a client that only waits is called.
    void ask_others(const seat& s) noexcept;
    static void call(seat& s) noexcept;
    static void called(letter& l) noexcept;
    bool is_shared() const noexcept { return gates_max_ > 1; }
    seat& seat_at(std::uint32_t index) noexcept { return index == 0 ? first_seat_ : more_seats_[index - 1]; }

    const std::uint32_t clients_max_, gates_max_;
    seat first_seat_;
    std::unique_ptr<seat[]> more_seats_;
    std::atomic<std::uint32_t> seats_count_{0};
    alignas(64) std::atomic<std::uint32_t> taken_{0};
    alignas(64) std::atomic<std::uint32_t> paused_count_{0}; // read for each request: it changes at the limit only
    std::atomic<std::uint64_t> next_ticket_{1};
};

} // namespace weir::inline WEIR_KERNEL
