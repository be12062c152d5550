// relay: carrying bytes, ends and aborts from one connection to the other.

#include "core/relay.hpp"

#include <algorithm>
#include <utility>

#include "core/buggify.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr std::uint64_t read_cost_min = 4096; // of the budget: a turn has an end, however little comes at a time
constexpr std::uint8_t full_to_splice = 4; // reads in a row that filled a block: then splicing pays
constexpr std::uint8_t thin_to_copy = 4;   // splices in a row that were smaller than a block: then it no longer does
} // namespace

const data_cb relay_pool::pair_cb{.name = "relay", .recv = on_recv, .send = on_send, .wake = on_wake};

relay_pool::relay_pool(conntab& conns, const relay_options& options) noexcept
    : conns_(conns), options_(options), pairs_(options.pairs_max) {
    EXPECT(options.recv_budget_bytes > 0);
    if (options.pipes.pipes_max > 0) pipes_.emplace(conns, options.pipes);
}

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
                              std::string_view early_to_a, void* tag) noexcept {
    if (a.was_closed() || b.was_closed()) return failure{EBADF};
    for (const connection* conn : {&a, &b}) {
        EXPECT(conn->is(conn_flag::connected));
        EXPECT(!conn->is(conn_flag::send_ended));
    }
    pair* p = make_pair(a);
    if (!p) return failure{ENFILE};
    if (p->ways[0].pending.append(early_to_a, conns_.blocks()) == buffer::append_result::full ||
        p->ways[1].pending.append(early_to_b, conns_.blocks()) == buffer::append_result::full) {
        p->ways[0].pending.clear(conns_.blocks());
        p->hook.unlink();
        pairs_.free(*p);
        return failure{ENOBUFS};
    }
    p->ends[1] = &b;
    p->tag = tag;
    for (connection* conn : p->ends) {
        conn->attach(pair_cb, p);
        conn->disarm(); // of a user who is no more
    }
    set_up(*p);
    return {};
}

verdict relay_pool::dial(connection& client, const ctrl& family, const endpoint& to) noexcept {
    EXPECT_SLOW(!client.was_closed(), "relayed after it was closed");
    if (client.was_closed()) return verdict::gone;
    pair* p = make_pair(client);
    if (!p) return client.close(close_intent::abort, end_cause::no_room);
    client.attach(pair_cb, p);
    if (client.is(conn_flag::connected)) {
        client.stop_recv();
        client.disarm();
    } else { // its handshake goes on, and ends the deadline
        client.arm(later(conns_.loop().now(), options_.connect_timeout), connection::timed_out);
    }
    const dial_options how{.timeout = options_.connect_timeout,
                           .user_timeout = options_.user_timeout,
                           .transport = options_.transport};
    auto server = weir::dial(conns_, family, to, how, pair_cb, p);
    if (!server) return end(*p, close_intent::abort, end_cause::connect_failed, end_cause::connect_failed);
    p->ends[1] = server.value();
    return verdict::keep;
}

// Both ends are connected: bytes may flow. What has come meanwhile is still marked ready. An end that was received
// before is carried by on_send(): in a later turn, because the pair may be over with it.
void relay_pool::set_up(pair& p) noexcept {
    p.last_byte = conns_.loop().now();
    conns_.loop().arm(p.deadline, due(p));
    const bool can_splice = pipes_ && p.ends[0]->can_splice() && p.ends[1]->can_splice();
    for (direction& way : p.ways) {
        way.can_splice = can_splice;
        way.spliced = can_splice && buggify(twist::splice_soon);
    }
    for (std::size_t i = 0; i < 2; i++) {
        if (p.ways[i].pending.empty() && !p.ends[1 - i]->is(conn_flag::recv_ended)) {
            p.ends[1 - i]->want_recv();
        } else {
            p.ends[i]->want_send();
            p.ends[1 - i]->stop_recv(); // what is pending goes first
        }
    }
}

verdict relay_pool::on_recv(connection& conn) noexcept {
    pair& p = conn.owner_as<pair>();
    relay_pool& home = p.home;
    const std::size_t to = 1 - side_of(p, conn);
    for (std::uint64_t received = 0; received < home.options_.recv_budget_bytes;) {
        const std::uint64_t before = home.bytes_;
        // A splice never gets past an urgent byte; recv(2) leaves it out.
        const bool splices = p.ways[to].spliced && !conn.slot().is(fd_state::unsure);
        const round r = splices ? home.splice_some(p, to) : home.copy_some(p, to);
        if (r == round::gone) return verdict::gone;
        if (r == round::stopped || !conn.slot().is(fd_state::recv_ready)) break;
        received += std::max(home.bytes_ - before, read_cost_min);
    }
    return verdict::keep;
}

relay_pool::round relay_pool::copy_some(pair& p, std::size_t to) noexcept {
    connection &from = *p.ends[1 - to], &other = *p.ends[to];
    direction& way = p.ways[to];
    const io_result got = from.recv(conns_.scratch(), block_bytes); // what is not sent must fit into a block
    if (got.end != io::done) return received_nothing(p, to, got.end);
    p.last_byte = conns_.loop().now();
    bytes_ += got.bytes;
    note_size(way, got.bytes);
    const std::string_view bytes{conns_.scratch(), got.bytes};
    const io_result sent = buggify(twist::send_buffered) ? io_result{io::again, 0} : other.send(bytes);
    if (sent.end == io::failed) return abort(p, other), round::gone;
    if (sent.bytes == bytes.size()) return round::moved;
    if (way.pending.append(bytes.substr(sent.bytes), conns_.blocks()) == buffer::append_result::full)
        return end(p, close_intent::abort, end_cause::no_room, end_cause::no_room), round::gone;
    hold_up(p, to);
    return round::stopped;
}

relay_pool::round relay_pool::splice_some(pair& p, std::size_t to) noexcept {
    connection &from = *p.ends[1 - to], &other = *p.ends[to];
    direction& way = p.ways[to];
    pipe_lease* pipe = pipes_->take();
    if (!pipe) { // they are all lent, or there are no descriptors for more
        copy_again(way);
        return copy_some(p, to);
    }
    const io_result got = from.splice_in(pipe->write_fd, pipes_->bytes());
    if (got.end != io::done) {
        pipes_->give_back(*pipe);
        return received_nothing(p, to, got.end);
    }
    p.last_byte = conns_.loop().now();
    bytes_ += got.bytes;
    spliced_bytes_ += got.bytes;
    note_size(way, got.bytes);
    const io_result sent = other.splice_out(pipe->read_fd, got.bytes);
    pipe->held_bytes = static_cast<std::uint32_t>(got.bytes - sent.bytes);
    if (sent.end == io::failed) {
        pipes_->give_back(*pipe);
        return abort(p, other), round::gone;
    }
    if (pipe->held_bytes == 0) {
        pipes_->give_back(*pipe);
        return round::moved;
    }
    way.pipe = pipe;
    hold_up(p, to);
    return round::stopped;
}

relay_pool::round relay_pool::received_nothing(pair& p, std::size_t to, io why) noexcept {
    if (why == io::failed) return abort(p, *p.ends[1 - to]), round::gone;
    if (why == io::closed) return carry_fin(p, to) == verdict::gone ? round::gone : round::stopped;
    return round::stopped;
}

// What was received could not all be sent: nothing more is received until it is.
void relay_pool::hold_up(pair& p, std::size_t to) noexcept {
    p.ends[1 - to]->stop_recv();
    p.ends[to]->want_send();
}

// Splicing or copying, by what the flow does. A spliced byte is not touched, but a splice is two calls more.
void relay_pool::note_size(direction& way, std::size_t bytes) noexcept {
    if (way.spliced) {
        way.thin_count = bytes < block_bytes ? static_cast<std::uint8_t>(way.thin_count + 1) : std::uint8_t{0};
        if (way.thin_count == thin_to_copy) copy_again(way);
    } else if (way.can_splice) {
        way.full_count = bytes == block_bytes ? static_cast<std::uint8_t>(way.full_count + 1) : std::uint8_t{0};
        way.spliced = way.full_count == full_to_splice;
    }
}

// Until reads are full again.
void relay_pool::copy_again(direction& way) noexcept {
    way.spliced = false;
    way.full_count = way.thin_count = 0;
    unspliced_++;
}

verdict relay_pool::on_send(connection& conn) noexcept {
    pair& p = conn.owner_as<pair>();
    relay_pool& home = p.home;
    const std::size_t to = side_of(p, conn);
    direction& way = p.ways[to];
    io_result sent{io::done, 0};
    if (way.pipe) sent = conn.splice_out(way.pipe->read_fd, way.pipe->held_bytes);
    else if (!way.pending.empty()) sent = conn.send(way.pending.bytes());
    if (sent.end == io::failed) return home.abort(p, conn);
    if (sent.bytes > 0) p.last_byte = conn.loop().now(); // a reader that takes its time is not idle
    if (way.pipe) {
        way.pipe->held_bytes -= static_cast<std::uint32_t>(sent.bytes);
        if (way.pipe->held_bytes > 0) return verdict::keep;
        home.pipes_->give_back(*std::exchange(way.pipe, nullptr));
    } else {
        way.pending.consume(sent.bytes, home.conns_.blocks());
        if (!way.pending.empty()) return verdict::keep;
    }
    conn.stop_send();
    if (p.ends[1 - to]->is(conn_flag::recv_ended)) return home.carry_fin(p, to);
    p.ends[1 - to]->want_recv();
    return verdict::keep;
}

// The end at 1 - to has said its last byte: so does ends[to]. Nothing is pending for it any more.
verdict relay_pool::carry_fin(pair& p, std::size_t to) noexcept {
    p.ends[to]->shutdown_send();
    if (p.ends[to]->is(conn_flag::recv_ended) && p.ends[1 - to]->is(conn_flag::send_ended))
        return end(p, close_intent::after_fin, end_cause::peer_closed, end_cause::peer_closed);
    p.last_byte = conns_.loop().now();
    conns_.loop().arm(p.deadline, due(p));
    return verdict::keep;
}

// When the pair has been quiet for too long: of two ends, and of one that is left.
time_point relay_pool::due(const pair& p) const noexcept {
    const bool half_closed = p.ends[0]->is(conn_flag::recv_ended) || p.ends[1]->is(conn_flag::recv_ended);
    return later(p.last_byte,
                 half_closed ? std::min(options_.fin_timeout, options_.idle_timeout) : options_.idle_timeout);
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
    const time_point due = p.home.due(p);
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
    for (direction& way : p.ways) {
        way.pending.clear(conns_.blocks());
        if (way.pipe) pipes_->give_back(*way.pipe);
    }
    connection* ends[2] = {p.ends[0], p.ends[1]};
    void* tag = p.tag;
    p.hook.unlink();
    pairs_.free(p);
    ends[0]->close(intent, cause);
    if (ends[1]) ends[1]->close(intent, other_cause);
    if (options_.ended) options_.ended(options_.owner, tag);
    return verdict::gone;
}

} // namespace weir::inline WEIR_KERNEL
