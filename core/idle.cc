// idle: the table that serves idle connections, and the pool that holds them.

#include "core/idle.hpp"

#include <new>

#include "core/buggify.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {
// An idle server that has sent as much before it was looked at counts as hostile.
constexpr std::size_t drain_bytes_max = 16 * 1024 * 1024;
} // namespace

const data_cb idle_pool::idle_cb{.name = "idle", .recv = idle_ready, .send = idle_ready, .wake = idle_wake};

// Something happened to a connection that nobody uses. Either it is found ended, and wake reaps it in this same event,
// or it is left waiting for the poller; never runnable, or the loop would spin.
verdict idle_pool::idle_ready(connection& conn) noexcept {
    entry& e = conn.owner_as<entry>();
    conn.stop_send(); // room to send is no news to anybody here
    const bool hides = conn.hides_bytes();
    if (conn.ended()) {
        // The transport's own end stands before a FIN: unread, it would make our close a reset.
        if (hides && !conn.is_broken()) static_cast<void>(conn.transport().drain(conn));
        return idle_wake(conn);
    }

    if (!hides && !conn.family().drain) {
        if (e.pool.is_quiet(conn)) return verdict::keep;
        if (conn.ended()) return idle_wake(conn);
        if (e.pool.options_.on_bytes == unsolicited::kill) return e.pool.kill(e, end_cause::idle_unsolicited);
        conn.stop_recv();
        return verdict::keep;
    }
    const drain_result r = hides ? conn.transport().drain(conn) : conn.family().drain(conn.fd(), drain_bytes_max);
    if (r.bytes > 0 && e.pool.options_.on_bytes == unsolicited::kill)
        return e.pool.kill(e, end_cause::idle_unsolicited);
    e.partial = r.partial;
    if (r.end != drained::again) {
        note_end(conn, r.end);
        return idle_wake(conn);
    }
    conn.cant_recv();
    return verdict::keep;
}

// Only an end says when the server likes to close.
void idle_pool::note_end(connection& conn, drained how) noexcept {
    if (how == drained::closed) conn.end_recv();
    else conn.fail(ECONNRESET); // or what else it was: it has no other reader
}

verdict idle_pool::idle_wake(connection& conn) noexcept {
    if (!conn.ended()) return verdict::keep;
    entry& e = conn.owner_as<entry>();
    const bool failed = conn.is_broken();
    if (!failed) {
        const duration age = conn.loop().now() - e.parked_at;
        if (age < e.in.closed_at_age) e.in.closed_at_age = age;
    }
    return e.pool.kill(e, failed ? end_cause::idle_peer_failed : end_cause::idle_peer_closed);
}

void idle_pool::idle_aged(timer& t, time_point) noexcept {
    entry& e = connection::of(t).owner_as<entry>();
    e.pool.kill(e, end_cause::idle_age);
}

idle_pool::idle_pool(conntab& conns, const idle_options& options) noexcept
    : conns_(conns), options_(options), entries_(options.idle_max > 0 ? options.idle_max : 1),
      buckets_(new (std::nothrow) bucket[options.keys_max]), random_(options.seed | 1) {
    EXPECT(options.age_max > duration{0});
    EXPECT(options.keys_max > 0);
    if (capacity() == 0) options_.keys_max = 0;
    if (options_.idle_per_key_max == 0) options_.idle_per_key_max = options.idle_max;
    conns.on_shortage(
        [](void* owner, shortage) noexcept {
            return static_cast<idle_pool*>(owner)->kill_oldest(end_cause::idle_pressure);
        },
        this);
}

idle_pool::~idle_pool() {
    flush();
    conns_.no_shortage(this);
}

idle_pool::key idle_pool::key_of(const idle_identity& identity) noexcept {
    EXPECT(identity.family != nullptr && identity.remote.specified());
    for (std::uint32_t i = 0; i < keys_count_; i++)
        if (buckets_[i].identity == identity) return key{&buckets_[i]};
    bucket* free = nullptr;
    for (std::uint32_t i = 0; i < keys_count_ && !free; i++)
        if (!buckets_[i].identity.family) free = &buckets_[i];
    if (!free && keys_count_ == options_.keys_max) return key{};
    if (!free) free = &buckets_[keys_count_++];
    free->identity = identity;
    free->closed_at_age = duration::max();
    return key{free};
}

void idle_pool::forget(key k) noexcept {
    EXPECT(conns_.loop().is_mine());
    EXPECT(static_cast<bool>(k));
    for (std::uint32_t left = k.in_->count; left > 0; left--)
        kill(k.in_->oldest(), end_cause::idle_flushed);
    EXPECT(k.in_->count == 0); // an owner that was told has parked another
    k.in_->identity = {};
}

verdict idle_pool::park(connection& conn, key k, at_rest state, const park_options& how) noexcept {
    EXPECT(conns_.loop().is_mine());
    EXPECT_SLOW(!conn.was_closed(), "parked after it was closed");
    if (conn.was_closed()) return verdict::gone;
    if (conn.is(conn_flag::idle)) {
        EXPECT(&conn.owner_as<entry>().pool == this);
        return verdict::keep;
    }
    EXPECT(conn.is(conn_flag::connected));
    // What its user computed may be the peer's doing: an answer before the request was out, a byte too many.
    const bool is_at_rest = state.messages_complete && state.buffers_empty && !conn.is(conn_flag::send_ended);
    if (!is_at_rest) return conn.close(close_intent::silent, end_cause::not_at_rest);
    if (conn.ended()) {
        const bool failed = conn.is_broken();
        return conn.close(close_intent::silent, failed ? end_cause::idle_peer_failed : end_cause::idle_peer_closed);
    }
    if (is_worn(conn)) return conn.close(close_intent::silent, end_cause::idle_worn);
    if (!k) return conn.close(close_intent::silent, end_cause::idle_evicted);
    while (evict_one(*k.in_)) { // whoever is told of it may close this one, or park it
        if (conn.cause() != end_cause::none) return verdict::gone;
        if (conn.is(conn_flag::idle)) return verdict::keep;
    }
    admit(conn, *k.in_, how);
    return verdict::keep;
}

bool idle_pool::is_worn(const connection& conn) const noexcept {
    if (options_.uses_max && conn.uses() >= options_.uses_max) return true;
    return options_.lifetime_max > duration{0} && conns_.loop().now() - conn.born() >= options_.lifetime_max;
}

// False: there is room for one more.
bool idle_pool::evict_one(bucket& in) noexcept {
    const bool key_is_full = in.count >= options_.idle_per_key_max;
    if (!key_is_full && idle_count_ < options_.idle_max) return false;
    kill(key_is_full ? in.oldest() : *by_age_.front(), end_cause::idle_evicted);
    return true;
}

// Into the pool: the only function that links and counts.
void idle_pool::admit(connection& conn, bucket& in, const park_options& how) noexcept {
    const time_point now = conns_.loop().now();
    entry* e = entries_.make(conn, *this, in, how.owner, now);
    EXPECT(e != nullptr);
    conns_.loop().note(conn.slot(), fd_event::parked, conn.cb_->name);
    conn.attach(idle_cb, e);
    conn.flags_ |= conn_flag::idle;
    conn.slot().state |= fd_state::idle;
    conn.stop_send();
    conn.want_recv();
    const bool is_shorter = how.age_max > duration{0} && how.age_max < options_.age_max;
    conn.arm(later(now, jittered(is_shorter ? how.age_max : options_.age_max)), idle_aged);
    idle_count_++;
    in.count++;
    parked_count_++;
    by_age_.push_back(*e);
    if (how.rest > duration{0}) {
        e->rests_until = later(now, how.rest);
        in.resting.push_back(*e);
    } else {
        in.entries.push_front(*e);
    }
    // What the transport holds it only tells when it is asked.
    if (conn.hides_bytes()) conn.may_recv();
}

// Out of the pool: the only function that unlinks and uncounts.
void idle_pool::dismiss(entry& e) noexcept {
    connection& conn = e.conn;
    e.by_key.unlink();
    e.by_age.unlink();
    e.in.count--;
    idle_count_--;
    conn.disarm();
    conn.flags_ &= ~conn_flag::idle;
    conn.slot().state &= ~fd_state::idle;
    conn.owner_ = nullptr;
    entries_.free(e);
}

// It lived longer than another did: what was learned from that one no longer holds.
void idle_pool::note_survival(entry& e) noexcept {
    const duration age = conns_.loop().now() - e.parked_at;
    if (age > e.in.closed_at_age) e.in.closed_at_age = age;
}

verdict idle_pool::kill(entry& e, end_cause cause) noexcept {
    if (cause != end_cause::idle_peer_closed && cause != end_cause::idle_peer_failed) note_survival(e);
    connection& conn = e.conn;
    idle_owner* owner = e.owner;
    dismiss(e);
    conn.close(close_intent::silent, cause);
    if (owner) owner->lost(*owner, conn, cause);
    return verdict::gone;
}

connection& idle_pool::hand_out(entry& e, const data_cb& table, void* owner) noexcept {
    connection& conn = e.conn;
    note_survival(e);
    dismiss(e);
    conn.attach(table, owner);
    conns_.loop().note(conn.slot(), fd_event::taken, table.name);
    taken_count_++;
    return conn;
}

// Makes those whose rest is over the first to be taken. Each is moved once, so take() stays O(1) over time. One with a
// longer rest than those behind it makes them wait as well.
void idle_pool::wake_rested(bucket& in) noexcept {
    while (entry* e = in.resting.front()) {
        if (e->rests_until > conns_.loop().now()) return;
        e->by_key.unlink();
        in.entries.push_front(*e);
    }
}

connection* idle_pool::take(key k, const data_cb& table, void* owner, const need& what) noexcept {
    EXPECT(conns_.loop().is_mine());
    if (!k) return nullptr;
    wake_rested(*k.in_);
    while (entry* e = k.in_->entries.front()) {
        // The others are older still, or younger by no more than this one has rested.
        if (conns_.loop().now() - e->parked_at > what.age_max) return nullptr;
        if (is_quiet(e->conn)) return &hand_out(*e, table, owner);
        if (e->conn.ended()) idle_wake(e->conn);
        else kill(*e, end_cause::idle_unsolicited);
    }
    return nullptr;
}

bool idle_pool::take_back(connection& conn, const data_cb& table, void* owner) noexcept {
    EXPECT(conn.is(conn_flag::idle));
    entry& e = conn.owner_as<entry>();
    EXPECT(&e.pool == this);
    if (is_quiet(conn)) {
        hand_out(e, table, owner);
        return true;
    }
    e.owner = nullptr; // the caller is told by the answer
    if (conn.ended()) idle_wake(conn);
    else kill(e, end_cause::idle_unsolicited);
    return false;
}

// Nothing has come that the next user would take for an answer. Where a transport may hide bytes it is asked, since
// what lies in the socket is its own: records, not bytes of the server.
bool idle_pool::is_quiet(connection& conn) noexcept {
    if (conn.ended()) return false;
    const bool unseen = conn.slot().is(fd_state::recv_ready);
    const bool drains = options_.on_bytes == unsolicited::drain;
    if (!unseen && !options_.probe && !buggify(twist::take_probes)) return drains || !conn.owner_as<entry>().partial;
    const bool hides = conn.hides_bytes();
    if (!hides) {
        const sys::count n = sys::peek(conn.fd());
        if (n == -EAGAIN) {
            conn.cant_recv();
            return true;
        }
        if (n == 0) conn.end_recv();
        if (n < 0) conn.fail(static_cast<int>(-n));
        if (n <= 0 || options_.on_bytes == unsolicited::kill || !conn.family().drain) return false;
    }
    const drain_result r = hides ? conn.transport().drain(conn) : conn.family().drain(conn.fd(), drain_bytes_max);
    if (r.end != drained::again) {
        note_end(conn, r.end);
        return false;
    }
    conn.cant_recv();
    return options_.on_bytes == unsolicited::drain || (r.bytes == 0 && !r.partial);
}

duration idle_pool::safe_age(key k) const noexcept {
    if (!k || k.in_->closed_at_age == duration::max()) return duration::max();
    return k.in_->closed_at_age / 5 * 4;
}

bool idle_pool::kill_oldest(end_cause cause) noexcept {
    entry* e = by_age_.front();
    if (e) kill(*e, cause);
    return e != nullptr;
}

bool idle_pool::kill_oldest(key k, end_cause cause) noexcept {
    entry* e = k && k.in_->count > 0 ? &k.in_->oldest() : nullptr;
    if (e) kill(*e, cause);
    return e != nullptr;
}

void idle_pool::flush() noexcept {
    for (std::uint32_t left = idle_count_; left > 0; left--) // an owner that is told may park another
        kill_oldest(end_cause::idle_flushed);
}

std::uint32_t idle_pool::idle_count(key k) const noexcept { return k ? k.in_->count : 0; }

// age, give or take a tenth. xorshift64: the spread has to be even, not unpredictable.
duration idle_pool::jittered(duration age) noexcept {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    const auto permille = static_cast<std::int64_t>(random_ % 201) - 100;
    const duration spread = age / 1000 * permille;
    return spread < duration::max() - age ? age + spread : duration::max();
}

} // namespace weir::inline WEIR_KERNEL
