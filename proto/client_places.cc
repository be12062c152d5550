// client_places: taking, giving back and giving away places, between threads.

#include "proto/client_places.hpp"

#include <new>

#include "proto/client_gate.hpp"

namespace weir::inline WEIR_KERNEL {

client_places::client_places(std::uint32_t clients_max, std::uint32_t gates_max) noexcept
    : clients_max_(clients_max), gates_max_(gates_max) {
    EXPECT(clients_max > 0);
    EXPECT(gates_max > 0);
    if (gates_max > 1) more_seats_.reset(new (std::nothrow) seat[gates_max - 1]);
}

client_places::seat& client_places::join(event_loop& loop, client_gate& gate) noexcept {
    const std::uint32_t index = seats_count_.fetch_add(1);
    EXPECT(index < gates_max_);
    seat& s = seat_at(index);
    s.home = this;
    s.loop = &loop;
    s.gate = &gate;
    s.call.run = called;
    return s;
}

void client_places::leave(seat& s) noexcept {
    s.gate = nullptr;
    withdraw(s);
    while (take_given(s))
        release(s);
}

bool client_places::take() noexcept {
    std::uint32_t taken = taken_.load(std::memory_order_seq_cst);
    while (taken < clients_max_)
        if (taken_.compare_exchange_weak(taken, taken + 1, std::memory_order_seq_cst)) return true;
    return false;
}

bool client_places::take_given(seat& s) noexcept {
    if (s.given_count.load(std::memory_order_relaxed) == 0) return false;
    s.given_count.fetch_sub(1, std::memory_order_relaxed); // only its own thread takes
    return true;
}

// Goes round again only if another thread has taken the ticket, or the place, that it has just seen.
void client_places::release(seat& from) noexcept {
    for (;;) {
        if (seat* next = claim()) return give(*next, from);
        taken_.fetch_sub(1, std::memory_order_seq_cst);
        if (paused_count() == 0) return;
        bool is_awaited = false;
        for (std::uint32_t i = 0; i < seats_count_.load(); i++)
            is_awaited |= seat_at(i).ticket.load(std::memory_order_seq_cst) != 0;
        // Without a ticket yet, the gate that is about to pause looks for the place itself: pause().
        if (!is_awaited || !take()) return;
    }
}

bool client_places::pause(seat& s) noexcept {
    EXPECT(s.ticket.load() == 0);
    paused_count_.fetch_add(1, std::memory_order_seq_cst);
    s.ticket.store(next_ticket_.fetch_add(1), std::memory_order_seq_cst);
    if (!take()) return false;
    withdraw(s); // if that comes too late, a second place is on its way, and goes on to another gate when it comes
    return true;
}

bool client_places::withdraw(seat& s) noexcept {
    if (s.ticket.exchange(0, std::memory_order_seq_cst) == 0) return false;
    paused_count_.fetch_sub(1, std::memory_order_seq_cst);
    return true;
}

client_places::seat* client_places::claim() noexcept {
    while (paused_count() > 0) {
        seat* first = nullptr;
        std::uint64_t lowest = UINT64_MAX;
        for (std::uint32_t i = 0; i < seats_count_.load(); i++) {
            const std::uint64_t ticket = seat_at(i).ticket.load(std::memory_order_seq_cst);
            if (ticket == 0 || ticket >= lowest) continue;
            lowest = ticket;
            first = &seat_at(i);
        }
        if (!first) return nullptr; // it is about to pause, or has just gone on
        if (!first->ticket.compare_exchange_strong(lowest, 0, std::memory_order_seq_cst)) continue;
        paused_count_.fetch_sub(1, std::memory_order_seq_cst);
        return first;
    }
    return nullptr;
}

void client_places::give(seat& to, seat& from) noexcept {
    to.given_count.fetch_add(1, std::memory_order_seq_cst);
    if (&to != &from) call(to);
    else if (to.gate) to.gate->got_place();
}

void client_places::ask_others(const seat& s) noexcept {
    for (std::uint32_t i = 0; i < seats_count_.load(); i++)
        if (&seat_at(i) != &s && seat_at(i).has_waiting.load(std::memory_order_seq_cst)) call(seat_at(i));
}

void client_places::call(seat& s) noexcept {
    if (!s.called.exchange(true)) s.loop->post(s.call);
}

// In the thread of the seat's loop.
void client_places::called(letter& l) noexcept {
    seat& s = container_of<&seat::call>(l);
    s.called.store(false); // called again from here on is another letter
    if (s.gate) return s.gate->called();
    while (take_given(s))
        s.home->release(s);
}

} // namespace weir::inline WEIR_KERNEL
