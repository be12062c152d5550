// deadlines: what a connection and a pair keep to themselves, and what must hold of it.

#include "sim/deadlines.hpp"

#include <algorithm>

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
template <auto Pairs>
struct of_relay {
    static void each(const relay_pool& pool, each_end visit, void* owner) {
        auto& pairs = const_cast<relay_pool&>(pool).*Pairs;
        for (auto* p = pairs.front(); p; p = pairs.after(*p))
            for (connection* end : p->ends)
                if (end) visit(owner, p->deadline, *end);
    }
    friend void each_pair(const relay_pool& pool, each_end visit, void* owner) { each(pool, visit, owner); }
};
template struct of_relay<&relay_pool::live_>;

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

} // namespace

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

void deadline_check::before_turn(kernel& k, loop_check& check, conntab& conns) {
    constexpr duration turn_max = milliseconds{1}; // what comes meanwhile may be told of in this turn
    first_due_ = never;
    timeouts_before_ = timeouts_count(conns);
    each_deadline(conns, relays_, [&](const timer& t, connection& conn) {
        const time_point due = due_at(t);
        first_due_ = std::min(first_due_, due);
        if (due <= k.time.now + turn_max && !conn.slot().runnable()) check.before_reaping(conn.slot());
    });
}

void deadline_check::after_turn(kernel& k, const event_loop& loop, conntab& conns) {
    if (knows_all_ && timeouts_count(conns) > timeouts_before_ && first_due_ > loop.now())
        k.violate("I9", "a connection ended by a timeout, and no deadline had come");

    for (const fault kind : {fault::clock_jump, fault::epoll_late, fault::call_late})
        if (k.faults.ratio(kind) > 0) return;
    std::uint64_t overdue = 0;
    each_deadline(conns, relays_,
                  [&](const timer& t, connection&) { overdue += due_at(t) < loop.now() - milliseconds{20}; });
    overdue_max_ = overdue > 0 ? std::max(overdue, overdue_max_) : 0;
    overdue_turns_ = overdue > 0 ? overdue_turns_ + 1 : 0;
    // A full batch puts timers off for 16 turns, and a twist fires one of them then. Some belong to nobody's
    // connection.
    if (overdue_turns_ > 17 * (overdue_max_ + 8)) k.violate("I8", "a connection outlives its deadline");
}

} // namespace simtest
