// relay: carrying bytes from one connection to the other. Ends and deadlines are in relay_ends.cc.

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
        abort_both(*p, end_cause::shutdown);
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
    for (direction& way : p->ways)
        way.progress.sent(); // of what their users gave to the kernel nothing is known
    p->tag = tag;
    for (connection* conn : p->ends) {
        conn->attach(pair_cb, p);
        conn->disarm(); // of a user who is no more
        conn->set_user_timeout(user_timeout());
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
    client.set_user_timeout(user_timeout());
    if (client.is(conn_flag::connected)) {
        client.stop_recv();
        client.disarm();
    } else { // its handshake goes on, and ends the deadline
        client.arm(later(conns_.loop().now(), options_.connect_timeout), connection::timed_out);
    }
    const dial_options how{.timeout = options_.connect_timeout,
                           .user_timeout = user_timeout(),
                           .transport = options_.transport};
    auto server = weir::dial(conns_, family, to, how, pair_cb, p);
    if (!server) return abort_both(*p, end_cause::connect_failed);
    p->ends[1] = server.value();
    return verdict::keep;
}

// Both ends are connected: bytes may flow. What has come meanwhile is still marked ready. An end that was received
// before is carried by on_send(): in a later turn, because the pair may be over with it.
void relay_pool::set_up(pair& p) noexcept {
    p.last_byte = conns_.loop().now();
    arm(p);
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

relay_pool::round relay_pool::after(verdict v) noexcept { return v == verdict::gone ? round::gone : round::stopped; }

relay_pool::round relay_pool::copy_some(pair& p, std::size_t to) noexcept {
    connection &from = *p.ends[1 - to], &other = *p.ends[to];
    direction& way = p.ways[to];
    const io_result got = from.recv(conns_.scratch(), block_bytes); // what is not sent must fit into a block
    if (got.end != io::done) return received_nothing(p, to, got.end);
    p.last_byte = conns_.loop().now();
    bytes_ += got.bytes;
    if (!way.has_carried) note_first(p, to);
    note_size(way, got.bytes);
    const std::string_view bytes{conns_.scratch(), got.bytes};
    const io_result sent = buggify(twist::send_buffered) ? io_result{io::again, 0} : other.send(bytes);
    if (sent.end == io::failed) return after(break_off(p, other));
    if (send_progress::has_sent(other, sent)) note_sent(p, to);
    if (sent.bytes == bytes.size()) return round::moved;
    if (way.pending.append(bytes.substr(sent.bytes), conns_.blocks()) == buffer::append_result::full)
        return after(abort_both(p, end_cause::no_room));
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
    if (!way.has_carried) note_first(p, to);
    note_size(way, got.bytes);
    const io_result sent = other.splice_out(pipe->read_fd, got.bytes);
    pipe->held_bytes = static_cast<std::uint32_t>(got.bytes - sent.bytes);
    if (sent.end == io::failed) {
        pipes_->give_back(*pipe);
        return after(break_off(p, other));
    }
    if (sent.bytes > 0) note_sent(p, to);
    if (pipe->held_bytes == 0) {
        pipes_->give_back(*pipe);
        return round::moved;
    }
    way.pipe = pipe;
    hold_up(p, to);
    return round::stopped;
}

relay_pool::round relay_pool::received_nothing(pair& p, std::size_t to, io why) noexcept {
    if (why == io::failed) return after(break_off(p, *p.ends[1 - to]));
    const bool is_unsure = why == io::again && p.ends[1 - to]->slot().is(fd_state::recv_ready); // a splice: it goes on
    if (p.state != health::whole) return is_unsure ? round::stopped : after(emptied(p));
    if (why != io::closed) return round::stopped;
    note_unheard(p, *p.ends[1 - to]);
    return after(carry_fin(p, to));
}

// Bytes were given to the kernel of ends[to].
void relay_pool::note_sent(pair& p, std::size_t to) noexcept {
    p.last_byte = conns_.loop().now();
    p.ways[to].progress.sent();
    if (!p.is_watched) arm(p);
}

// Nothing is pending for ends[to] any more: the other one goes on. What it has latched as ready may be out of date only
// for an end that is broken, which hears of nothing new.
void relay_pool::resume(pair& p, std::size_t to) noexcept {
    connection& from = *p.ends[1 - to];
    from.want_recv();
    if (p.state != health::whole) conns_.loop().fds().may_recv(from.slot());
}

void relay_pool::drop_bytes(direction& way) noexcept {
    way.pending.clear(conns_.blocks());
    if (way.pipe) pipes_->give_back(*std::exchange(way.pipe, nullptr));
}

// What was received could not all be sent: nothing more is received until it is.
void relay_pool::hold_up(pair& p, std::size_t to) noexcept {
    p.ends[1 - to]->stop_recv();
    p.ends[to]->want_send();
}

void relay_pool::note_first(pair& p, std::size_t to) noexcept {
    p.ways[to].has_carried = true;
    if (to == 0 && options_.answered) options_.answered(options_.owner, p.tag);
}

// `ended` is the end that ended or failed just now.
void relay_pool::note_unheard(pair& p, const connection& ended) noexcept {
    const bool is_first = side_of(p, ended) == 1 && !p.ends[0]->ended();
    if (is_first && !p.ways[0].has_carried) p.how = relay_end::unheard;
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
    if (sent.end == io::failed) return home.break_off(p, conn);
    if (send_progress::has_sent(conn, sent)) home.note_sent(p, to);
    if (way.pipe) {
        way.pipe->held_bytes -= static_cast<std::uint32_t>(sent.bytes);
        if (way.pipe->held_bytes > 0) return verdict::keep;
        home.pipes_->give_back(*std::exchange(way.pipe, nullptr));
    } else {
        way.pending.consume(sent.bytes, home.conns_.blocks());
        if (!way.pending.empty()) return verdict::keep;
    }
    conn.stop_send();
    const connection& from = *p.ends[1 - to];
    if (p.state != health::whole && from.is(conn_flag::recv_ended | conn_flag::failed)) return home.emptied(p);
    if (from.is(conn_flag::recv_ended)) return home.carry_fin(p, to);
    home.resume(p, to);
    return verdict::keep;
}

} // namespace weir::inline WEIR_KERNEL
