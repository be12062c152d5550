// connection: dispatch, establishing, the ways to end; and the table of them all.

#include "core/connection.hpp"

#include <algorithm>
#include <new>

namespace weir::inline WEIR_KERNEL {

// Who is served between the adoption and the user's first attach(): that has to come before anything happens.
const data_cb connection::unserved_cb = [] {
    constexpr auto nobody = [](connection& conn) noexcept {
        EXPECT(&conn.cb() != &unserved_cb, "no table was attached to a connection");
        return verdict::keep;
    };
    return data_cb{.name = "", .recv = nobody, .send = nobody, .wake = nobody};
}();

// For the ledger.
void connection::tell(const fd_slot& slot, fd_facts& to) noexcept {
    const connection& conn = *static_cast<const connection*>(slot.owner);
    to = {.role = to_string(conn.origin_),
          .table = conn.cb_->name,
          .owner = conn.owner_,
          .since = conn.born_};
}

// From a runnable slot to the user's callbacks. The table is read again before each of them, and a generation that
// moved means that the connection was closed meanwhile, whatever the callback answered.
void connection::ready(fd_slot& slot) noexcept {
    connection& conn = *static_cast<connection*>(slot.owner);
    const std::uint32_t generation = slot.generation;
    const conn_flag before = conn.flags_;
    constexpr conn_flag unsettled = conn_flag::connecting | conn_flag::handshaking | conn_flag::ending;
    if (conn.is(unsettled) && !conn.is(conn_flag::failed) && !conn.go_on()) return;

    constexpr fd_state recv_both = fd_state::recv_active | fd_state::recv_ready;
    constexpr fd_state send_both = fd_state::send_active | fd_state::send_ready;
    const bool has_news = slot.is(fd_state::news);
    slot.state &= ~fd_state::news;
    if (all(slot.state, recv_both)) {
        if (conn.cb_->recv(conn) == verdict::gone || slot.generation != generation) return;
    }
    if (all(slot.state, send_both)) {
        if (conn.cb_->send(conn) == verdict::gone || slot.generation != generation) return;
    }
    constexpr conn_flag state = conn_flag::connected | conn_flag::recv_ended | conn_flag::failed;
    if (!has_news && !any(before ^ conn.flags_, state)) return;
    slot.state &= ~fd_state::news; // a failure that recv or send met: this wake tells it, not another in the next turn
    conn.cb_->wake(conn);
}

// What is the engine's to do, before the user is asked. False: the user is not asked.
bool connection::go_on() noexcept {
    if (!is(conn_flag::ending)) return establish();
    if (slot_->is(fd_state::send_ready)) say_end();
    if (is(conn_flag::ending) || !all(flags_, conn_flag::lingering | conn_flag::recv_ended)) return true;
    finish(close_intent::after_fin, end_cause::none);
    return false;
}

// Goes on with connecting and handshaking. True: something to tell the user; false: the kernel must be waited for.
bool connection::establish() noexcept {
    fd_slot& at = *slot_;
    if (is(conn_flag::connecting)) {
        // OUT alone means connected: a TCP socket is not writable before. Anything beside it, the socket is asked.
        const bool must_ask = at.is(fd_state::news | fd_state::unsure);
        at.state &= ~fd_state::news;
        if (const int error = must_ask ? sys::socket_error(at.fd) : 0) {
            fail(error);
            return true;
        }
        sockaddr_storage peer;
        socklen_t bytes = sizeof peer;
        const int named = must_ask ? sys::peer_name(at.fd, reinterpret_cast<sockaddr*>(&peer), &bytes) : 0;
        if (named < 0 && named != -ENOTCONN) { // nobody can say, and nothing will be told again
            fail(-named);
            return true;
        }
        if (named < 0 || !at.is(fd_state::send_ready)) {
            at.state &= ~(fd_state::recv_ready | fd_state::send_ready);
            return false;
        }
        at.state &= ~fd_state::connecting;
        flags_ &= ~conn_flag::connecting;
    }
    if (is(conn_flag::handshaking)) {
        switch (xprt_->handshake(*this)) {
        case io::done: flags_ &= ~conn_flag::handshaking; break;
        case io::again:
            if (is(conn_flag::failed)) return true; // in cant_send(): nobody would say when there is room
            at.state &= ~fd_state::news;            // for the transport, which has looked; what is latched stays so
            return false;
        case io::closed: fail(ECONNRESET); return true;
        case io::failed:
            if (is(conn_flag::failed)) return true;
            flags_ |= conn_flag::refused;
            fail(EPROTO);
            return true;
        }
    }
    timer_.cancel();
    flags_ |= conn_flag::connected;
    fdtab::stop_recv(*slot_);
    fdtab::stop_send(*slot_);
    // The transport may have read bytes behind its handshake: the socket does not tell of those. Costs one recv in vain.
    if (hides_bytes()) may_recv();
    return true;
}

// For what its user calls after close().
io_result connection::refuse_use() noexcept {
    if (error_ == 0) error_ = EBADF;
    return {io::failed, 0};
}

void connection::cant_send() noexcept {
    if (auto r = loop().cant_send(*slot_); !r) give_up(r.error()); // without OUT nobody would ever send again
}

// Whoever met the error may stand deep in a callback: wake tells the user, at the latest in the next turn.
void connection::fail(int error) noexcept {
    if (!is(conn_flag::failed)) error_ = static_cast<std::uint16_t>(error);
    flags_ |= conn_flag::failed;
    fdtab::stop_recv(*slot_);
    fdtab::stop_send(*slot_);
    fds().set(*slot_, fd_state::news);
}

// The same for what is no doing of the peer's.
void connection::give_up(int error) noexcept {
    if (!is_broken()) flags_ |= conn_flag::gave_up;
    fail(error);
}

void connection::end_recv() noexcept {
    flags_ |= conn_flag::recv_ended;
    fdtab::stop_recv(*slot_);
    cant_recv();
}

void connection::shutdown_send() noexcept {
    if (may_use()) end_send();
}

void connection::end_send() noexcept {
    EXPECT(!is(conn_flag::send_ended));
    flags_ |= conn_flag::send_ended;
    fdtab::stop_send(*slot_);
    if (!xprt_->shutdown) {
        sys::shutdown_send(fd()); // ENOTCONN: the peer has reset it, which wake tells
        return;
    }
    flags_ |= conn_flag::ending;
    if (!is(conn_flag::failed)) say_end();
}

// Until the transport has said its own end no FIN follows, and finish() sends none either: a FIN alone would be a
// truncation.
void connection::say_end() noexcept {
    switch (xprt_->shutdown(*this)) {
    case io::done: break;
    case io::again:
        if (!is(conn_flag::failed)) fds().want_send(*slot_); // else in cant_send(), as above
        return;
    case io::closed:
    case io::failed:
        if (!is(conn_flag::failed)) fail(EPROTO);
        return;
    }
    flags_ &= ~conn_flag::ending;
    fdtab::stop_send(*slot_);
    sys::shutdown_send(fd()); // ENOTCONN, as above
}

void connection::set_user_timeout(duration timeout) noexcept {
    if (!may_use()) return;
    const bool is_tcp = family().counts_acked;
    if (!is_tcp || (timeout == duration{0} && !is(conn_flag::has_user_timeout))) return;
    weir::set_user_timeout(fd(), timeout);
    flags_ &= ~conn_flag::has_user_timeout;
    if (timeout > duration{0}) flags_ |= conn_flag::has_user_timeout;
}

end_cause connection::failure() const noexcept {
    if (!is(conn_flag::connected))
        return error_ == ETIMEDOUT ? end_cause::connect_timed_out : end_cause::connect_failed;
    if (!is_broken()) return end_cause::peer_closed;
    if (!is(conn_flag::gave_up)) return end_cause::peer_failed;
    return error_ == ETIMEDOUT ? end_cause::timed_out : end_cause::no_room;
}

verdict connection::close(close_intent intent, end_cause cause) noexcept {
    EXPECT(is_mine());
    EXPECT(cause != end_cause::none);
    EXPECT_SLOW(!was_closed(), "closed a second time");
    if (was_closed()) return verdict::gone;
    EXPECT(!is(conn_flag::idle), "an idle connection is closed by its pool");
    if (is(conn_flag::refused) && !slot_->ended()) { // whatever the intent: a reset would take the layer's alert away
        begin_linger(cause);
        return verdict::gone;
    }
    const bool is_polite = intent == close_intent::graceful || intent == close_intent::after_fin;
    const bool is_alive = is(conn_flag::connected) && !is_broken();
    if (!is_polite || !is_alive) return finish(intent, cause);
    // A FIN that is only known may stand behind unread input, and closing on that would reset the peer.
    const bool must_drain = intent == close_intent::graceful && !is(conn_flag::recv_ended);
    // Whoever ended his own side may still wait for the end of ours.
    if (xprt_->shutdown && !is(conn_flag::send_ended)) end_send();
    if (!must_drain && (!is(conn_flag::ending) || is(conn_flag::failed))) return finish(intent, cause);
    begin_linger(cause);
    return verdict::gone;
}

// The last step of every end. A lingering connection has its cause already: `cause` is none then.
verdict connection::finish(close_intent intent, end_cause cause) noexcept {
    EXPECT((cause_ == end_cause::none) != (cause == end_cause::none));
    if (cause != end_cause::none) cause_ = cause;
    if (is(conn_flag::connecting)) home_->redials_->remove(*this);
    timer_.cancel();
    if (xprt_->close) xprt_->close(*this);
    // After the peer's FIN or an error of the socket there is nothing to abort, and no TIME_WAIT on our side to avoid.
    // A failure may be of our own making: a deadline, a want of memory.
    const bool peer_ended = is(conn_flag::recv_ended) || slot_->ended();
    const bool is_silent = intent == close_intent::silent && !peer_ended;
    if (intent == close_intent::abort || is_silent || is(conn_flag::ending)) sys::set_abortive(fd());
    loop().close(*slot_, to_string(cause_));
    slot_ = &home_->dead_slot_;
    flags_ |= conn_flag::closed;
    home_->bury(*this);
    return verdict::gone;
}

conntab::~conntab() {
    while (connection* conn = lingering_.front())
        conn->finish(close_intent::after_fin, end_cause::none);
    while (connection* conn = first()) {
        conn->flags_ &= ~conn_flag::idle;
        conn->finish(close_intent::silent, end_cause::shutdown);
    }
    while (connection* conn = dead_.pop_front())
        pool_->free(*conn);
    if (retired_.free) loop_.forget(retired_);
}

result<void> conntab::open(const conntab_options& options) noexcept {
    EXPECT(!pool_);
    EXPECT(options.connections_max > 0);
    options_ = options;
    if (options_.blocks_max == 0) options_.blocks_max = 2 * options.connections_max;
    // The dead are freed at the end of the turn; until then the places that they left can be taken all the same.
    pool_.emplace(std::size_t{2} * options.connections_max);
    blocks_.emplace(options_.blocks_max, options_.large_blocks_max);
    // The worst case may ask for more than a small machine allows, and half will do.
    for (; blocks_->capacity() == 0 && options_.blocks_max > 1024; options_.blocks_max /= 2)
        blocks_.emplace(options_.blocks_max / 2, options_.large_blocks_max);
    scratch_.reset(new (std::nothrow) char[scratch_size()]);
    redials_.emplace(loop_, options_.connections_max);
    if (sys::local_ports(local_ports_) < 0) local_ports_ = {}; // not to be read: it may be any
    loop_.ledger().introduce(connection::ready, connection::tell);
    ipv6_peers_.reset(new (std::nothrow) ipv6_peer[std::size_t{2} * options.connections_max]);
    const bool has_blocks = blocks_->capacity() > 0 && blocks_->large_capacity() == options_.large_blocks_max;
    const bool has_pools = pool_->capacity() > 0 && has_blocks && redials_->capacity() > 0;
    if (has_pools && scratch_ && ipv6_peers_) return {};
    pool_.reset();
    blocks_.reset();
    redials_.reset();
    scratch_.reset();
    ipv6_peers_.reset();
    return failure{ENOMEM};
}

result<connection*> conntab::adopt(unique_fd fd, const ctrl& family, const xprt& transport,
                                   const adopt_options& how) noexcept {
    EXPECT(is_open());
    EXPECT(fd);
    EXPECT(loop_.is_mine());
    opened_[static_cast<std::size_t>(how.origin)]++;
    const auto refuse = [&](int error) noexcept {
        ended_[static_cast<std::size_t>(end_cause::no_room)]++;
        sys::set_abortive(fd.get()); // its peer shall not take this for the end of what was to be said
        return failure{error};
    };
    connection* conn = full() ? nullptr : pool_->make(*this, family, transport);
    if (!conn) return refuse(ENFILE);
    const bool dialed = how.connecting || how.connected_at_once;
    auto slot = loop_.watch(fd.get(), dialed ? interest::recv_send : interest::recv, connection::ready, conn,
                            to_string(how.origin));
    if (!slot) {
        pool_->free(*conn);
        return refuse(slot.error());
    }
    [[maybe_unused]] const int owned = fd.release(); // by the slot from here on
    conn->slot_ = slot.value();
    conn->origin_ = how.origin;
    if (how.peer) conn->keep_peer(*how.peer);
    conn->born_ = loop_.now();
    live_.push_back(*conn);
    live_count_++;
    if (how.has_user_timeout) conn->flags_ |= conn_flag::has_user_timeout;
    if (!dialed && !transport.handshake) {
        conn->flags_ |= conn_flag::connected;
        return conn;
    }
    if (dialed) {
        conn->flags_ |= conn_flag::connecting;
        conn->slot_->state |= fd_state::connecting;
    }
    if (transport.handshake) conn->flags_ |= conn_flag::handshaking;
    conn->want_send();
    if (transport.handshake) conn->want_recv();
    if (how.connected_at_once) loop_.fds().may_send(*conn->slot_);
    return conn;
}

void conntab::bury(connection& conn) noexcept {
    ended_[static_cast<std::size_t>(conn.cause_)]++;
    live_count_--;
    conn.hook_.unlink();
    dead_.push_back(conn);
    if (retired_.free) return; // on its way already
    retired_.free = free_dead;
    loop_.retire(retired_);
}

void conntab::free_dead(retired& r) noexcept {
    conntab& self = container_of<&conntab::retired_>(r);
    self.retired_.free = nullptr;
    while (connection* conn = self.dead_.pop_front())
        self.pool_->free(*conn);
}

void conntab::on_shortage(relief callback, void* owner) noexcept {
    std::size_t free = 0;
    while (free < helpers_max && reliefs_[free].callback)
        free++;
    EXPECT(free < helpers_max);
    reliefs_[free] = {callback, owner};
}

void conntab::no_shortage(void* owner) noexcept {
    for (auto& entry : reliefs_)
        if (entry.owner == owner) entry = {};
}

bool conntab::relieve(shortage of) noexcept {
    // The places of the dead are free at the end of the turn, whoever else dies until then.
    if (of == shortage::connections && pool_->full()) return false;
    if (end_lingering()) return true;
    for (auto& entry : reliefs_)
        if (entry.callback && entry.callback(entry.owner, of)) return true;
    return false;
}

bool conntab::end_lingering() noexcept {
    connection* conn = lingering_.front();
    if (conn) conn->finish(close_intent::after_fin, end_cause::none);
    return conn != nullptr;
}

connection* conn_queue::first_from(conn_queue* queue) noexcept {
    while (queue && queue->empty())
        queue = queue->next_;
    return queue ? queue->front() : nullptr;
}

connection* conntab::first() noexcept { return live_.empty() ? conn_queue::first_from(queues_) : live_.front(); }

connection* conntab::after(connection& conn) noexcept {
    if (live_.is_last(conn)) return conn_queue::first_from(queues_);
    for (conn_queue* queue = queues_; queue; queue = queue->next_)
        if (queue->list_.is_last(conn)) return conn_queue::first_from(queue->next_);
    return live_.after(conn); // what is not the last of its list has one behind it, whichever list that is
}

conn_queue::~conn_queue() {
    while (connection* conn = front())
        take_out(*conn);
    conn_queue** at = &home_.queues_;
    while (*at != this)
        at = &(*at)->next_;
    *at = next_;
}

} // namespace weir::inline WEIR_KERNEL
