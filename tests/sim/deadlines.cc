// deadlines: what a connection and a pair keep to themselves, and what must hold of it.

#include "sim/deadlines.hpp"

#include <algorithm>
#include <unordered_map>

namespace simtest {

// ---- The library does not tell when a timer is due, and need not. An explicit instantiation may name what is private.

namespace {

using each_end = void (*)(void* owner, const timer& t, connection& end);

timer& timer_of(connection& conn) noexcept;
template <auto Timer>
struct of_connection {
    friend timer& timer_of(connection& conn) noexcept { return conn.*Timer; }
};
template struct of_connection<&connection::timer_>;

void each_pair(const relay_pool& pool, each_end visit, void* owner);
// Without a movement on the wire of either end, as the pair is now.
using each_timeout = void (*)(void* owner, connection& a, connection& b, duration timeout);
void each_pair_timeout(const relay_pool& pool, each_timeout visit, void* owner);
bool is_breaking(const relay_pool& pool, const connection& conn);
template <auto Pairs, auto Options>
struct of_relay {
    static void each_timeout_of(const relay_pool& pool, each_timeout visit, void* owner) {
        auto& pairs = const_cast<relay_pool&>(pool).*Pairs;
        const relay_options& options = pool.*Options;
        for (auto* p = pairs.front(); p; p = pairs.after(*p)) {
            if (!p->deadline.armed()) continue; // not joined yet
            const bool is_ending = static_cast<int>(p->state) != 0 || p->ends[1]->is(conn_flag::recv_ended);
            const duration shorter = std::min(options.fin_timeout, options.idle_timeout);
            visit(owner, *p->ends[0], *p->ends[1], is_ending ? shorter : options.idle_timeout);
        }
    }
    friend void each_pair_timeout(const relay_pool& pool, each_timeout visit, void* owner) {
        each_timeout_of(pool, visit, owner);
    }
    static bool has_breaking(const relay_pool& pool, const connection& conn) {
        auto& pairs = const_cast<relay_pool&>(pool).*Pairs;
        for (auto* p = pairs.front(); p; p = pairs.after(*p))
            if (static_cast<int>(p->state) != 0 && p->ends[p->broken_side] == &conn) return true;
        return false;
    }
    friend bool is_breaking(const relay_pool& pool, const connection& conn) { return has_breaking(pool, conn); }
    static void each(const relay_pool& pool, each_end visit, void* owner) {
        auto& pairs = const_cast<relay_pool&>(pool).*Pairs;
        for (auto* p = pairs.front(); p; p = pairs.after(*p))
            for (connection* end : p->ends)
                if (end) visit(owner, p->deadline, *end);
    }
    friend void each_pair(const relay_pool& pool, each_end visit, void* owner) { each(pool, visit, owner); }
};
template struct of_relay<&relay_pool::live_, &relay_pool::options_>;

// Those that end gracefully are in no list that a user walks.
void each_lingering(const conntab& conns, each_end visit, void* owner);
template <auto Lingering>
struct of_conntab {
    static void each(const conntab& conns, each_end visit, void* owner) {
        auto& ends = const_cast<conntab&>(conns).*Lingering;
        for (connection* end = ends.front(); end; end = ends.after(*end))
            visit(owner, timer_of(*end), *end);
    }
    friend void each_lingering(const conntab& conns, each_end visit, void* owner) { each(conns, visit, owner); }
};
template struct of_conntab<&conntab::lingering_>;

// Why the owner of that number at that generation was closed. "": it was not, or the ledger no longer knows.
std::string_view end_of(fd_ledger& ledger, int fd, std::uint32_t generation) noexcept {
    const fd_ledger::entry* e = ledger.newest(fd);
    while (e && e->generation != generation)
        e = ledger.before(*e);
    return e && (e->what == fd_event::closed || e->what == fd_event::lingering) ? e->by : "";
}

// A loop's wheel starts there.
time_point due_at(const timer& t) noexcept {
    return t.armed() ? time_point{} + duration{static_cast<std::int64_t>(t.at)} : never;
}

// Every connection whose end a timer may be, with that timer.
template <class Visit>
void each_deadline(conntab& conns, const relay_pool* const (&relays)[2], Visit visit) {
    for (connection* conn = conns.first(); conn; conn = conns.after(*conn))
        visit(timer_of(*conn), *conn);
    const each_end pass_on = [](void* to, const timer& t, connection& end) { (*static_cast<Visit*>(to))(t, end); };
    each_lingering(conns, pass_on, &visit);
    for (const relay_pool* pool : relays)
        if (pool) each_pair(*pool, pass_on, &visit);
}

// ---- I20. A timer that ends a connection is watched while it fires: its callback is exchanged before the turn.

struct observed {
    timer::callback fire; // the library's
    kernel* k;
    connection* ends[2]; // of a pair; the second one is null otherwise
};
// By address. An entry outlives its timer, and is written anew for the next one that lies there.
std::unordered_map<const timer*, observed> observed_timers;
std::uint64_t put_off_before = 0; // slots of this turn that a twist left unrun

struct end_of_life {
    const fd_slot* slot = nullptr;
    const connection* conn = nullptr;
    const char* table = "";
    std::uint32_t generation = 0;
    bool has_unseen = false; // bytes or an end in its socket that came before the deadline and nobody has asked for
};

end_of_life look_at(const kernel& k, connection* conn, bool is_pair, time_point due) noexcept {
    if (!conn) return {};
    const fd_slot& slot = conn->slot();
    const auto& socket = static_cast<const stream&>(*k.at(slot.fd));
    // What a connection has to send, it has a deadline for, and what it says meanwhile does not count. A pair has one
    // deadline for all.
    const bool is_of_sending = !is_pair && slot.is(fd_state::send_active);
    // epoll_few hides events behind a batch that looks like the last one, which Linux does not.
    const bool is_excused =
        k.faults.ratio(fault::epoll_few) > 0 || k.twists.marks(twist::slot_later) != put_off_before;
    return {.slot = &slot,
            .conn = conn,
            .table = conn->cb().name,
            .generation = slot.generation,
            .has_unseen = slot.is(fd_state::recv_active) && socket.came_at < due && !is_of_sending && !is_excused};
}

void fire_observed(timer& t, time_point now) noexcept {
    const observed o = observed_timers.find(&t)->second;
    const time_point due = time_point{} + duration{static_cast<std::int64_t>(t.at)};
    const bool is_pair = o.ends[1] != nullptr;
    const end_of_life before[] = {look_at(*o.k, o.ends[0], is_pair, due), look_at(*o.k, o.ends[1], is_pair, due)};
    o.fire(t, now);
    for (const end_of_life& end : before) {
        if (!end.has_unseen) continue;
        const bool has_ended = end.slot->generation != end.generation || end.conn->is(conn_flag::lingering);
        if (has_ended)
            o.k->violate("I20", "a deadline ended a connection whose bytes had come and were not looked at: fd %d %s",
                         end.slot->fd, end.table);
    }
}

} // namespace

void deadline_check::observe(kernel& k, timer& t, connection& end) {
    if (!t.armed()) return;
    if (t.fire != fire_observed) {
        observed_timers[&t] = {t.fire, &k, {&end, nullptr}};
        t.fire = fire_observed;
    } else if (observed& o = observed_timers.find(&t)->second; o.ends[0] != &end) {
        o.ends[1] = &end;
    }
}

// Who ends gracefully has its cause from the beginning, and is counted at the end.
std::uint64_t deadline_check::timeouts_count(const conntab& conns) noexcept {
    std::uint64_t sum = conns.ended_count(end_cause::timed_out) + conns.ended_count(end_cause::idle_age);
    each_lingering(
        conns,
        [](void* to, const timer&, connection& end) {
            *static_cast<std::uint64_t*>(to) += end.cause() == end_cause::timed_out;
        },
        &sum);
    return sum;
}

bool deadline_check::is_breaking(const connection& conn) const noexcept {
    return std::any_of(std::begin(relays_), std::end(relays_),
                       [&](const relay_pool* pool) { return pool && simtest::is_breaking(*pool, conn); });
}

// A connection that a timeout may end no earlier than `timeout` after the wire of `socket` moved.
void deadline_check::expect_alive(const connection& conn, time_point moved, duration timeout) {
    alive_.push_back({conn.fd(), conn.slot().generation, later(moved, timeout)});
}

void deadline_check::note_movement(kernel& k, conntab& conns) {
    alive_.clear();
    const auto socket_of = [&k](const connection& conn) -> const stream& {
        return *static_cast<const stream*>(k.at(conn.fd()));
    };
    // Of a record that is not complete a transport's user hears nothing.
    const auto either_way = [&](const connection& conn) {
        const stream& socket = socket_of(conn);
        return conn.hides_bytes() ? socket.sent_at : std::max(socket.sent_at, socket.received_at);
    };
    struct {
        deadline_check* self;
        decltype(either_way)* moved;
    } context{this, &either_way};
    for (const relay_pool* pool : relays_) {
        if (!pool) continue;
        each_pair_timeout(
            *pool,
            [](void* at, connection& a, connection& b, duration timeout) {
                auto& c = *static_cast<decltype(context)*>(at);
                const time_point moved = std::max((*c.moved)(a), (*c.moved)(b));
                c.self->expect_alive(a, moved, timeout);
                c.self->expect_alive(b, moved, timeout);
            },
            &context);
    }
    for (connection* conn = conns.first(); conn; conn = conns.after(*conn)) {
        const std::string_view role = conn->cb().name;
        if (!conn->is(conn_flag::connected)) continue;
        if (role == "http1-server") expect_alive(*conn, either_way(*conn), first_byte_timeout_);
        const bool is_to_take = role == "http1-client" && conn->slot().is(fd_state::send_active);
        if (is_to_take) expect_alive(*conn, socket_of(*conn).sent_at, write_timeout_);
    }
}

// What moves within a turn is later than the turn's own time by no more than `slack`.
void deadline_check::check_movement(kernel& k, event_loop& loop) {
    constexpr duration slack = milliseconds{50};
    // A process that stood still within a turn goes on by that turn's time: what it arms then is due too early, also for a
    // while after the run is healed.
    if (k.faults.ratio(fault::clock_jump) > 0) jumps_until_ = k.time.now + std::chrono::minutes{1};
    if (k.time.now < jumps_until_) return;
    for (const alive& a : alive_) {
        if (loop.fds().slot(a.fd).generation == a.generation || loop.now() >= a.until - slack) continue;
        if (end_of(loop.ledger(), a.fd, a.generation) == "timed_out")
            k.violate("I21", "a connection ended by a timeout, though its wire had moved less than that before");
    }
}

void deadline_check::before_turn(kernel& k, loop_check& check, conntab& conns) {
    if (knows_all_) note_movement(k, conns);
    constexpr duration turn_max = milliseconds{1}; // what comes meanwhile may be told of in this turn
    first_due_ = never;
    put_off_before = k.twists.marks(twist::slot_later);
    timeouts_before_ = timeouts_count(conns);
    each_deadline(conns, relays_, [&](const timer& t, connection& conn) {
        const time_point due = due_at(t);
        first_due_ = std::min(first_due_, due);
        observe(k, const_cast<timer&>(t), conn);
        if (due <= k.time.now + turn_max && !conn.slot().runnable()) check.before_reaping(conn.slot());
    });
}

void deadline_check::after_turn(kernel& k, event_loop& loop, conntab& conns) {
    if (knows_all_) check_movement(k, loop);
    if (knows_all_ && timeouts_count(conns) > timeouts_before_ && first_due_ > loop.now())
        k.violate("I9", "a connection ended by a timeout, and no deadline had come");

    for (const fault kind : {fault::clock_jump, fault::epoll_late, fault::call_late})
        if (k.faults.ratio(kind) > 0) return;
    std::uint64_t overdue = 0;
    each_deadline(conns, relays_,
                  [&](const timer& t, connection&) { overdue += due_at(t) < loop.now() - milliseconds{20}; });
    overdue_max_ = overdue > 0 ? std::max(overdue, overdue_max_) : 0;
    overdue_turns_ = overdue > 0 ? overdue_turns_ + 1 : 0;
    // Full batches put timers off for two rounds of reports over all that is watched, and twists may let one fire then,
    // or none. Some belong to nobody's connection.
    const std::uint64_t turns_max = 2 * loop.fds().used_count() + 17 * (overdue_max_ + 8);
    if (overdue_turns_ > turns_max) k.violate("I8", "a connection outlives its deadline");
}

} // namespace simtest
