// relay: carrying bytes, ends and aborts from one connection to the other.

#include "core/relay.hpp"

#include <algorithm>

#include "core/buggify.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr int reads_per_turn = 4; // of at most one block each: what is not sent must fit into one
}

const data_cb relay_pool::pair_cb{.name = "relay", .recv = on_recv, .send = on_send, .wake = on_wake};

relay_pool::relay_pool(conntab& conns, const relay_options& options) noexcept
    : conns_(conns), options_(options), pairs_(options.pairs_max) {}

relay_pool::~relay_pool() { abort_all(); }

void relay_pool::abort_all() noexcept {
    while (pair* p = live_.front())
        end(*p, close_intent::abort, end_cause::shutdown, end_cause::shutdown);
}

relay_pool::pair* relay_pool::make_pair(connection& a) noexcept {
    pair* p = pairs_.make(*this, a);
    if (!p) return nullptr;
    live_.push_back(*p);
    p->last_byte = conns_.loop().now();
    return p;
}

result<void> relay_pool::join(connection& a, connection& b, std::string_view early_to_b,
                              std::string_view early_to_a) noexcept {
    EXPECT(a.is(conn_flag::connected) && b.is(conn_flag::connected));
    pair* p = make_pair(a);
    if (!p) return failure{ENFILE};
    if (p->pending[0].append(early_to_a, conns_.blocks()) == buffer::append_result::full ||
        p->pending[1].append(early_to_b, conns_.blocks()) == buffer::append_result::full) {
        p->pending[0].clear(conns_.blocks());
        p->hook.unlink();
        pairs_.free(*p);
        return failure{ENOBUFS};
    }
    p->ends[1] = &b;
    a.attach(pair_cb, p);
    b.attach(pair_cb, p);
    set_up(*p);
    return {};
}

verdict relay_pool::dial(connection& client, const ctrl& family, const endpoint& to) noexcept {
    pair* p = make_pair(client);
    if (!p) return client.close(close_intent::abort, end_cause::no_room);
    client.attach(pair_cb, p);
    if (client.is(conn_flag::connected)) client.stop_recv(); // otherwise its handshake goes on
    auto server = weir::dial(conns_, family, to, {.timeout = options_.connect_timeout}, pair_cb, p);
    if (!server) return end(*p, close_intent::abort, end_cause::connect_failed, end_cause::connect_failed);
    p->ends[1] = server.value();
    return verdict::keep;
}

// Both ends are connected: bytes may flow. What has come meanwhile is still marked ready.
void relay_pool::set_up(pair& p) noexcept {
    p.last_byte = conns_.loop().now();
    conns_.loop().arm(p.deadline, p.last_byte + options_.idle_timeout);
    for (std::size_t i = 0; i < 2; i++) {
        if (p.pending[i].empty()) {
            p.ends[1 - i]->want_recv();
        } else {
            p.ends[i]->want_send();
            p.ends[1 - i]->stop_recv(); // what is pending goes first
        }
    }
}

verdict relay_pool::on_recv(connection& conn) noexcept {
    pair& p = conn.owner_as<pair>();
    const std::size_t to = 1 - side_of(p, conn);
    connection& other = *p.ends[to];
    conntab& conns = p.home.conns_;
    for (int reads = 0; reads < reads_per_turn; reads++) {
        const io_result got = conn.recv(conns.scratch(), block_bytes);
        switch (got.end) {
        case io::again: return verdict::keep;
        case io::failed: return p.home.abort(p, conn);
        case io::closed: return p.home.carry_fin(p, to);
        case io::done: break;
        }
        p.last_byte = conns.loop().now();
        p.home.bytes_ += got.bytes;
        const std::string_view bytes{conns.scratch(), got.bytes};
        const io_result sent = buggify(twist::send_buffered) ? io_result{io::again, 0} : other.send(bytes);
        if (sent.end == io::failed) return p.home.abort(p, other);
        if (sent.bytes < bytes.size()) {
            if (p.pending[to].append(bytes.substr(sent.bytes), conns.blocks()) == buffer::append_result::full)
                return p.home.end(p, close_intent::abort, end_cause::no_room, end_cause::no_room);
            conn.stop_recv();
            other.want_send();
            return verdict::keep;
        }
        if (!conn.slot().is(fd_state::recv_ready)) return verdict::keep;
    }
    return verdict::keep;
}

verdict relay_pool::on_send(connection& conn) noexcept {
    pair& p = conn.owner_as<pair>();
    const std::size_t to = side_of(p, conn);
    buffer& pending = p.pending[to];
    const io_result sent = conn.send(pending.bytes());
    if (sent.end == io::failed) return p.home.abort(p, conn);
    if (sent.bytes > 0) p.last_byte = conn.loop().now(); // a reader that takes its time is not idle
    pending.consume(sent.bytes, p.home.conns_.blocks());
    if (!pending.empty()) return verdict::keep;
    conn.stop_send();
    p.ends[1 - to]->want_recv();
    return verdict::keep;
}

// The end at 1 - to has said its last byte: so does ends[to]. Nothing is pending for it, or the end would not have been
// received.
verdict relay_pool::carry_fin(pair& p, std::size_t to) noexcept {
    p.ends[to]->shutdown_send();
    if (p.ends[to]->is(conn_flag::recv_ended))
        return end(p, close_intent::after_fin, end_cause::peer_closed, end_cause::peer_closed);
    conns_.loop().arm(p.deadline, conns_.loop().now() + std::min(options_.fin_timeout, options_.idle_timeout));
    return verdict::keep;
}

verdict relay_pool::on_wake(connection& conn) noexcept {
    pair& p = conn.owner_as<pair>();
    if (conn.is_broken()) return p.home.abort(p, conn);
    const bool is_established = p.ends[1] && p.ends[0]->is(conn_flag::connected) && p.ends[1]->is(conn_flag::connected);
    if (is_established && !p.deadline.armed()) p.home.set_up(p);
    return verdict::keep;
}

void relay_pool::on_deadline(timer& t, time_point now) noexcept {
    pair& p = container_of<&pair::deadline>(t);
    const bool half_closed = p.ends[0]->is(conn_flag::recv_ended) || p.ends[1]->is(conn_flag::recv_ended);
    const relay_options& options = p.home.options_;
    const time_point due =
        p.last_byte + (half_closed ? std::min(options.fin_timeout, options.idle_timeout) : options.idle_timeout);
    if (due > now) p.home.conns_.loop().arm(t, due); // bytes have passed since it was armed
    else p.home.end(p, close_intent::abort, end_cause::timed_out, end_cause::timed_out);
}

// One end is broken: the other is told in the only way that cannot be taken for an end.
verdict relay_pool::abort(pair& p, connection& broken) noexcept {
    const end_cause cause = broken.failure();
    const bool is_server = side_of(p, broken) == 1;
    return end(p, close_intent::abort, is_server ? end_cause::done : cause, is_server ? cause : end_cause::done);
}

// Both ends at once. `cause` is ends[0]'s, `other_cause` ends[1]'s.
verdict relay_pool::end(pair& p, close_intent intent, end_cause cause, end_cause other_cause) noexcept {
    p.deadline.cancel();
    for (buffer& b : p.pending)
        b.clear(conns_.blocks());
    connection* ends[2] = {p.ends[0], p.ends[1]};
    p.hook.unlink();
    pairs_.free(p);
    ends[0]->close(intent, cause);
    if (ends[1]) ends[1]->close(intent, other_cause);
    if (options_.ended) options_.ended(options_.owner);
    return verdict::gone;
}

} // namespace weir::inline WEIR_KERNEL
