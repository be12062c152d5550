// relay: ends, aborts and deadlines of a pair.

#include "core/relay.hpp"

#include <algorithm>
#include <utility>

namespace weir::inline WEIR_KERNEL {

// The end at 1 - to has said its last byte: so does ends[to]. Nothing is pending for it any more.
verdict relay_pool::carry_fin(pair& p, std::size_t to) noexcept {
    p.ends[to]->shutdown_send();
    if (p.ends[to]->is(conn_flag::recv_ended) && p.ends[1 - to]->is(conn_flag::send_ended)) {
        // The kernel goes on sending what it holds.
        constexpr ending in_order{close_intent::after_fin, end_cause::peer_closed};
        return end(p, in_order, in_order);
    }
    p.last_byte = conns_.loop().now();
    p.ways[to].progress.sent();
    arm(p);
    return verdict::keep;
}

verdict relay_pool::on_wake(connection& conn) noexcept {
    pair& p = conn.owner_as<pair>();
    if (conn.is_broken()) return p.home.break_off(p, conn);
    const bool is_established = p.ends[1] && p.ends[0]->is(conn_flag::connected) && p.ends[1]->is(conn_flag::connected);
    if (is_established && !p.deadline.armed()) p.home.set_up(p);
    return verdict::keep;
}

// --- deadlines

// Without a byte on the wire, either way.
duration relay_pool::timeout_of(const pair& p) const noexcept {
    const bool is_ending = p.state != health::whole || p.ends[1]->is(conn_flag::recv_ended);
    return is_ending ? std::min(options_.fin_timeout, options_.idle_timeout) : options_.idle_timeout;
}

// A look comes before the deadline, as long as an end may have something to take.
void relay_pool::arm(pair& p) noexcept {
    const duration timeout = timeout_of(p);
    const time_point due = later(p.last_byte, timeout);
    p.is_watched = !p.ways[0].progress.is_settled() || !p.ways[1].progress.is_settled();
    const time_point look_at = later(conns_.loop().now(), send_progress::wait_between_looks(timeout));
    conns_.loop().arm(p.deadline, p.is_watched ? std::min(due, look_at) : due);
}

// Whether either end has taken something since the last look.
bool relay_pool::look(pair& p) noexcept {
    bool is_progress = false;
    for (std::size_t i = 0; i < 2; i++)
        is_progress |= p.ways[i].progress.look(*p.ends[i]);
    return is_progress;
}

void relay_pool::on_deadline(timer& t, time_point now) noexcept {
    pair& p = container_of<&pair::deadline>(t);
    relay_pool& home = p.home;
    if (p.state == health::emptied) return home.await_taking(p);
    const duration timeout = home.timeout_of(p);
    // Bytes have passed since it was armed: the look is due behind them.
    const time_point look_at = later(p.last_byte, send_progress::wait_between_looks(timeout));
    if (p.is_watched && look_at > now) return home.conns_.loop().arm(t, look_at);
    if (home.look(p)) p.last_byte = now;
    if (later(p.last_byte, timeout) <= now) home.time_out(p);
    else home.arm(p);
}

// An end that has everything the other one said, and its FIN, is closed in order. Otherwise something is missing, or
// its kernel holds bytes that it does not take: RST.
verdict relay_pool::time_out(pair& p) noexcept {
    const auto ending_of = [&p](std::size_t i) noexcept {
        const bool has_all = p.ends[i]->is(conn_flag::send_ended) && p.ways[i].progress.is_settled();
        return ending{has_all ? close_intent::after_fin : close_intent::abort, end_cause::timed_out};
    };
    return end(p, ending_of(0), ending_of(1));
}

// --- a broken end

// The other one is to be told in the only way that cannot be taken for an end, once it has what was said before. A
// failure of our own says nothing of bytes in front of it.
verdict relay_pool::break_off(pair& p, connection& broken) noexcept {
    note_unheard(p, broken);
    const std::size_t side = side_of(p, broken);
    const bool is_ours = broken.is(conn_flag::gave_up) || is_shortage(broken.error());
    if (is_ours || !p.deadline.armed()) return abort(p, broken); // or the two were not joined yet
    if (p.state != health::whole && p.broken_side != side) return abort(p, *p.ends[p.broken_side]);
    if (p.state == health::emptied) return verdict::keep;
    const std::size_t to = 1 - side;
    if (p.state == health::whole) {
        p.state = health::broken;
        p.broken_side = static_cast<std::uint8_t>(side);
        p.last_byte = conns_.loop().now();
        drop_bytes(p.ways[side]);
        p.ways[side].progress = {};
        broken.stop_send();
        p.ends[to]->stop_recv(); // it would be said to nobody
        arm(p);
    }
    if (p.ways[to].pipe || !p.ways[to].pending.empty()) return verdict::keep; // on_send() goes on
    if (broken.is(conn_flag::recv_ended | conn_flag::failed)) return emptied(p);
    resume(p, to);
    return verdict::keep;
}

// All that the broken end had said was given to the kernel.
verdict relay_pool::emptied(pair& p) noexcept {
    const std::size_t to = 1 - p.broken_side;
    p.state = health::emptied;
    p.ends[p.broken_side]->stop_recv();
    if (p.ways[to].progress.look(*p.ends[to])) p.last_byte = conns_.loop().now();
    if (p.ways[to].progress.is_settled()) return abort(p, *p.ends[p.broken_side]);
    conns_.loop().arm(p.deadline, later(conns_.loop().now(), milliseconds{1}));
    return verdict::keep;
}

// A RST throws away what the kernel still holds, so it waits: looks come twice as late each time.
void relay_pool::await_taking(pair& p) noexcept {
    const std::size_t to = 1 - p.broken_side;
    const time_point now = conns_.loop().now();
    const duration timeout = timeout_of(p);
    if (p.ways[to].progress.look(*p.ends[to])) p.last_byte = now;
    const time_point due = later(p.last_byte, timeout);
    if (p.ways[to].progress.is_settled()) {
        abort(p, *p.ends[p.broken_side]);
    } else if (due <= now) {
        abort_both(p, end_cause::timed_out);
    } else {
        p.looks_count = std::min<std::uint8_t>(p.looks_count + 1, 20);
        const duration doubled = milliseconds{1 << p.looks_count};
        const duration wait = std::min(doubled, send_progress::wait_between_looks(timeout));
        conns_.loop().arm(p.deadline, std::min(due, later(now, wait)));
    }
}

// --- the end of a pair

verdict relay_pool::abort(pair& p, const connection& broken) noexcept {
    const ending of_broken{close_intent::abort, broken.failure()}, of_other{close_intent::abort, end_cause::done};
    const bool is_second = side_of(p, broken) == 1;
    return end(p, is_second ? of_other : of_broken, is_second ? of_broken : of_other);
}

// Both ends at once.
verdict relay_pool::end(pair& p, const ending& first, const ending& second) noexcept {
    p.deadline.cancel();
    for (direction& way : p.ways)
        drop_bytes(way);
    connection* ends[2] = {p.ends[0], p.ends[1]};
    void* tag = p.tag;
    const relay_end how = p.ways[0].has_carried ? relay_end::any : p.how;
    p.hook.unlink();
    pairs_.free(p);
    ends[0]->close(first.intent, first.cause);
    if (ends[1]) ends[1]->close(second.intent, second.cause);
    if (options_.ended) options_.ended(options_.owner, tag, how);
    return verdict::gone;
}

} // namespace weir::inline WEIR_KERNEL
