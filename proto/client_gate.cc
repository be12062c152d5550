// client_gate: accepting within the limit, letting go of clients that only wait, draining.

#include "proto/client_gate.hpp"

#include <algorithm>
#include <utility>

#include "core/buggify.hpp"

namespace weir::inline WEIR_KERNEL {

client_gate::client_gate(conntab& conns, const client_gate_options& options) noexcept
    : conns_(conns), options_(options), places_(options.places ? *options.places : own_.emplace(options.clients_max, 1u)),
      seat_(places_.has_memory() ? &places_.join(conns.loop(), *this) : nullptr),
      door_(conns, {.may_accept = may_accept, .none_came = none_came, .owner = this}), fresh_(conns), served_(conns) {
    EXPECT(options.accepted && options.let_go);
}

client_gate::~client_gate() {
    EXPECT(clients_count_ == 0);
    drain_.stop();
    close();
    if (seat_) places_.leave(*seat_);
}

result<void> client_gate::listen(const address& at, const listener_options& options) noexcept {
    if (!has_memory()) return failure{ENOMEM};
    return door_.open(*at.family, at.at, options, accepted, this);
}

result<void> client_gate::listen(unique_fd inherited, const ctrl& family, const listener_options& options) noexcept {
    if (!has_memory()) return failure{ENOMEM};
    return door_.adopt(std::move(inherited), family, options, accepted, this);
}

// --- before a client is accepted, and then

bool client_gate::may_accept(void* self) noexcept {
    client_gate& g = *static_cast<client_gate*>(self);
    EXPECT(!g.has_place_ && !g.victim_);
    g.has_place_ = client_places::take_given(*g.seat_) || g.places_.take();
    if (g.has_place_) return true;
    if (!g.door_.has_waiting()) return false; // of another holder's socket: that one has it
    g.victim_ = g.longest_waiting();
    if (g.victim_) return true;
    g.has_place_ = g.places_.pause(*g.seat_);
    if (g.has_place_) return true;
    g.door_.pause();
    g.look_later();
    interleave();
    g.places_.ask_others(*g.seat_);
    return false;
}

void client_gate::none_came(void* self) noexcept {
    client_gate& g = *static_cast<client_gate*>(self);
    g.victim_ = nullptr;
    if (std::exchange(g.has_place_, false)) g.places_.release(*g.seat_);
    while (client_places::take_given(*g.seat_))
        g.places_.release(*g.seat_);
}

void client_gate::accepted(void* self, connection& client, const endpoint& peer) noexcept {
    client_gate& g = *static_cast<client_gate*>(self);
    g.has_place_ = false; // it is the client's
    g.clients_count_++;
    g.clients_total_++;
    if (g.victim_) g.let_go(*std::exchange(g.victim_, nullptr));
    g.options_.accepted(g.options_.owner, client, peer);
}

void client_gate::gone() noexcept {
    EXPECT(clients_count_ > 0);
    clients_count_--;
    if (!std::exchange(passing_on_, false)) places_.release(*seat_);
}

// --- clients that wait

void client_gate::waits(connection& client) noexcept {
    const bool is_first = fresh_.empty() && served_.empty();
    (client.uses() == 0 ? fresh_ : served_).push_back(client);
    if (is_first && places_.is_shared()) seat_->has_waiting.store(true, std::memory_order_seq_cst);
    interleave();
    if (is_pressed()) conns_.loop().arm(look_again_, conns_.loop().now());
}

// Nothing of the client's is unread. epoll may not have reported yet what has just come, so the socket is asked.
bool client_gate::is_quiet(const connection& client) noexcept {
    const fd_slot& slot = client.slot();
    return !slot.runnable() && !slot.is(fd_state::recv_ready) && !sys::is_readable(slot.fd);
}

// A client that is not quiet goes to the end of its queue: its request runs soon, or it was nothing. Only so many are
// looked at, because each costs a system call.
connection* client_gate::first_quiet(conn_queue& queue) noexcept {
    constexpr int looks_max = 16;
    for (int looks = 0; looks < looks_max; looks++) {
        connection* client = queue.front();
        if (!client || is_quiet(*client)) return client;
        queue.push_back(*client);
    }
    return nullptr;
}

connection* client_gate::longest_waiting() noexcept {
    connection* silent = fresh_.front();
    const bool is_due = silent && conns_.loop().now() - silent->born() >= options_.first_byte_grace;
    if (is_due && (silent = first_quiet(fresh_)) && conns_.loop().now() - silent->born() >= options_.first_byte_grace)
        return silent;
    return first_quiet(served_);
}

// Its place is the caller's afterwards.
void client_gate::let_go(connection& client) noexcept {
    let_go_count_++;
    passing_on_ = true;
    options_.let_go(options_.owner, client);
    EXPECT(!passing_on_);
}

// For gates that pause, of this loop or of others, as long as clients of this one can be let go.
void client_gate::make_room() noexcept {
    // The client that this gate pauses for may be another holder's by now; epoll does not tell that.
    const bool pauses = seat_->ticket.load(std::memory_order_relaxed) != 0;
    if (pauses && !door_.has_waiting() && places_.withdraw(*seat_)) door_.resume();
    while (is_pressed()) {
        connection* client = longest_waiting();
        if (!client) {
            const bool has_any = !fresh_.empty() || !served_.empty();
            if (!has_any) seat_->has_waiting.store(false, std::memory_order_relaxed);
            return look_later();
        }
        client_places::seat* next = places_.claim();
        if (!next) return;
        let_go(*client);
        places_.give(*next, *seat_);
    }
}

// When a client may have become one that can be let go: the oldest that has not said a byte, or one that had something
// to read, which may have been nothing.
void client_gate::look_later() noexcept {
    constexpr duration pause_min = milliseconds{10};
    connection* silent = fresh_.front();
    if ((!silent && served_.empty()) || look_again_.armed()) return;
    const time_point soon = later(conns_.loop().now(), pause_min);
    const time_point due = silent ? later(silent->born(), options_.first_byte_grace) : soon;
    conns_.loop().arm(look_again_, served_.empty() ? std::max(soon, due) : soon);
}

void client_gate::look_again(timer& t, time_point) noexcept { container_of<&client_gate::look_again_>(t).make_room(); }

void client_gate::got_place() noexcept { door_.resume(); }

// A place that came too late for the client in the backlog goes on.
void client_gate::called() noexcept {
    if (seat_->given_count.load(std::memory_order_relaxed) > 0) {
        places_.withdraw(*seat_); // it may pause again since it was promised this place
        door_.resume();
        if (!door_.is_open() || !door_.has_waiting()) none_came(this);
    }
    make_room();
}

// --- draining

void client_gate::drain(drain_kind how, duration limit, drained done, void* owner) noexcept {
    EXPECT(done != nullptr && options_.cut_off != nullptr);
    EXPECT(!drained_);
    drained_ = done;
    drained_owner_ = owner;
    places_.withdraw(*seat_); // accept_rest() takes what there is
    if (how == drain_kind::end) door_.accept_rest(places_.clients_max()); // closing the listener would reset them
    close();
    drain_.begin(conns_, limit, drain_over, this);
}

void client_gate::close() noexcept {
    look_again_.cancel();
    door_.close();
    if (!seat_) return;
    places_.withdraw(*seat_);
    none_came(this);
}

void client_gate::drain_over(void* self) noexcept {
    client_gate& g = *static_cast<client_gate*>(self);
    g.cut_count_ = g.options_.cut_off(g.options_.owner);
    g.drained_(g.drained_owner_);
}

} // namespace weir::inline WEIR_KERNEL
