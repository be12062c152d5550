#pragma once
// idle: connections that nobody uses but that stay open for the next one, watched.
//
// An idle connection is served by the idle table. Whatever happens to it ends in one of two ways: it is still good and
// waits for the poller, or it is closed, counted and forgotten at once, in the turn of the event.
//
//              park()                        FIN, RST, error ──────> idle_peer_closed, idle_peer_failed
//     in use ─────────> idle ── bytes ──┬── kill ──────────────────> idle_unsolicited
//              <───────               └── drain, and wait again
//               take()           timers, caps, pressure, flush ───> idle_age, _worn, _evicted, _pressure, _flushed
//
//   - park() is idempotent; it subscribes first and publishes last. It is told that the connection is at rest, and
//     closes it instead if the end is already known or it is worn out.
//   - take() hands out the one parked last (LIFO, so that a surplus ages) with no system call, unless something is
//     readable that the idle table has not yet looked at: then, and with `probe` always, one MSG_PEEK decides.
//   - A connection may be parked with a rest: take() passes it over until the rest is over. Bytes that come meanwhile
//     are unsolicited like any others. For a server that may still send something behind its answer.
//   - Unsolicited bytes: `kill` is right for every protocol in which the server speaks only when asked, since the
//     bytes would become the next client's answer (RFC 9112 section 9.2). `drain` throws them away, as the idle
//     manager of 2013 did. A transport's own talk is not unsolicited; but as long as it holds the beginning of a
//     record, which may turn out to be bytes, nobody who asks with `kill` is given the connection.
//   - Membership (linked in a bucket) and accounting (idle_count) change in one function each way.
//
// Owner: a pool owns what is parked in it. Thread: one loop's. Allocation: when made; without memory for it there are
// no keys, so nothing is ever parked. Outlived by its conntab, which asks it in a shortage: on_shortage() has a limit.

#include <cstdint>
#include <memory>

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

// Told that a connection it had parked is no more. Embedded by a stream that must know; lives while it is parked.
struct idle_owner {
    // `conn` is already closed: read its fields, do not use it. May be called from inside park(), take(), flush() or
    // any dial(). The caller of these may have another connection in hand, which must not be closed here; the one that
    // is being parked may be.
    void (*lost)(idle_owner& self, const connection& conn, end_cause cause) noexcept = nullptr;
};

// Everything that makes two connections interchangeable. What compares equal here is handed to anybody.
struct idle_identity {
    endpoint remote{};
    endpoint source{}; // the address it was bound to; unspecified: none
    const ctrl* family = nullptr;
    const xprt* transport = &raw_xprt;
    std::uint64_t tag = 0;            // anything else: TLS name, PROXY header, credentials; the user's numbering
    const void* private_to = nullptr; // bound to one user (NTLM and the like)

    friend bool operator==(const idle_identity&, const idle_identity&) noexcept = default;
};

enum class unsolicited : std::uint8_t { kill, drain };

struct idle_options {
    std::uint32_t idle_max = 256;       // parked at once, all keys together; 0: none is ever parked
    std::uint32_t idle_per_key_max = 0; // 0: idle_max
    std::uint32_t keys_max = 64;
    duration age_max = seconds{30};      // idle for longer: closed, +-10 % so that a burst does not end together
    duration lifetime_max = duration{0}; // since it was opened; 0: no limit. Checked when parked
    std::uint32_t uses_max = 0;          // 0: no limit. Checked when parked
    unsolicited on_bytes = unsolicited::kill;
    bool probe = false;     // MSG_PEEK on every take()
    std::uint64_t seed = 1; // of the jitter
};

class idle_pool {
    struct bucket;
    struct entry;

  public:
    // Names an identity; valid as long as the pool, or until it is forgotten.
    class key {
      public:
        key() noexcept = default;
        explicit operator bool() const noexcept { return in_ != nullptr; }
        friend bool operator==(const key&, const key&) noexcept = default;

      private:
        friend class idle_pool;
        explicit key(bucket* in) noexcept : in_(in) {}
        bucket* in_ = nullptr;
    };

    idle_pool(conntab& conns, const idle_options& options) noexcept;
    idle_pool(const idle_pool&) = delete;
    idle_pool& operator=(const idle_pool&) = delete;
    ~idle_pool(); // flushes

    // The key of an identity, the same for equal ones. A null key: keys_max are in use, or there was no memory; nothing
    // can be parked under it.
    key key_of(const idle_identity& identity) noexcept;
    // Closes what is parked under `k`, which is valid no more; its place is free for another identity. An
    // idle_owner that is told of it parks nothing under `k`: EXPECTed.
    void forget(key k) noexcept;

    // The caller says, field by field, that nothing is under way. A connection of which one is false, or whose own end
    // was sent, is closed instead, cause: not_at_rest.
    struct at_rest {
        bool messages_complete; // both directions: the last byte of either was sent and received
        bool buffers_empty;     // nothing received is unread, nothing to send is unsent
    };
    struct park_options {
        duration age_max = duration{0}; // shorter than the pool's, if the server asked for it; 0: the pool's
        idle_owner* owner = nullptr;
        duration rest = duration{0}; // take() passes it over for so long
    };
    // keep: it is idle now (or was already). gone: it was closed instead.
    verdict park(connection& conn, key k, at_rest state, const park_options& how) noexcept;
    verdict park(connection& conn, key k, at_rest state) noexcept { return park(conn, k, state, park_options{}); }

    // Takes the one parked last and attaches it; receiving stays wanted. Null: none that will do.
    struct need {
        duration age_max = duration::max(); // idle for longer than this: not for this one
    };
    connection* take(key k, const data_cb& table, void* owner, const need& what) noexcept;
    connection* take(key k, const data_cb& table, void* owner) noexcept { return take(k, table, owner, need{}); }

    // Takes this one, which is parked here, resting or not. False: it had just ended and was closed.
    [[nodiscard]] bool take_back(connection& conn, const data_cb& table, void* owner) noexcept;

    // The idle age up to which this server has not been seen to close: 0.8 of the shortest age at which it did. A
    // request that could not be repeated gets no older connection. duration::max() until it was seen.
    duration safe_age(key k) const noexcept;

    // Closes the one idle for the longest, of all or of that key. False: none is idle.
    bool kill_oldest(end_cause cause) noexcept;
    bool kill_oldest(key k, end_cause cause) noexcept;
    void flush() noexcept;

    // How many can be parked at once. 0: none is wanted, or there was no memory for any.
    std::size_t capacity() const noexcept { return buckets_ && options_.idle_max > 0 ? entries_.capacity() : 0; }
    std::uint32_t idle_count() const noexcept { return idle_count_; }
    std::uint32_t idle_count(key k) const noexcept;
    std::uint64_t parked_count() const noexcept { return parked_count_; } // park() that kept, ever
    std::uint64_t taken_count() const noexcept { return taken_count_; }   // take() that found one, ever
    static const data_cb& table() noexcept { return idle_cb; }

  private:
    struct entry {
        entry(connection& c, idle_pool& p, bucket& b, idle_owner* o, time_point at) noexcept
            : conn(c), pool(p), in(b), owner(o), parked_at(at) {}

        connection& conn;
        idle_pool& pool;
        bucket& in;
        idle_owner* owner;
        time_point parked_at;
        time_point rests_until{}; // while it is in bucket::resting
        bool partial = false; // the transport holds the beginning of a record
        list_hook by_key, by_age;
    };
    struct bucket {
        idle_identity identity;
        std::uint32_t count = 0;
        duration closed_at_age = duration::max(); // shortest age at which the server closed one
        list<&entry::by_key> entries;             // newest first; those whose rest is over as if parked then
        list<&entry::by_key> resting;             // oldest first
        entry& oldest() noexcept { return entries.empty() ? *resting.front() : *entries.back(); }
    };

    static verdict idle_ready(connection& conn) noexcept;
    static verdict idle_wake(connection& conn) noexcept;
    static void idle_aged(timer& t, time_point now) noexcept;
    static const data_cb idle_cb;

    bool is_worn(const connection& conn) const noexcept;
    bool is_quiet(connection& conn) noexcept;
    static void note_end(connection& conn, drained how) noexcept;
    duration jittered(duration age) noexcept;
    bool evict_one(bucket& in) noexcept;
    void wake_rested(bucket& in) noexcept;
    void admit(connection& conn, bucket& in, const park_options& how) noexcept;
    void dismiss(entry& e) noexcept;
    void note_survival(entry& e) noexcept;
    connection& hand_out(entry& e, const data_cb& table, void* owner) noexcept;
    verdict kill(entry& e, end_cause cause) noexcept;

    conntab& conns_;
    idle_options options_;
    fixed_pool<entry> entries_;
    std::unique_ptr<bucket[]> buckets_;
    std::uint32_t keys_count_ = 0;
    list<&entry::by_age> by_age_; // oldest first
    shared_count<std::uint32_t> idle_count_;
    counter parked_count_, taken_count_;
    std::uint64_t random_;
};

} // namespace weir::inline WEIR_KERNEL
