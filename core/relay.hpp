#pragma once
// relay: carries bytes between two connections, both ways, and knows nothing of them.
//
//      ends[0] ── recv ──> scratch ── send ──> ends[1]        and the other way round
//                             └─ short: the rest into pending[1], and ends[0] stops receiving until it is gone
//
//   - A half-close is carried across after the last byte. From the first one on the fin timer runs.
//   - An abort is carried across as an abort (RST), so that a truncation shows.
//   - A pair that is quiet owns no block.
//
// Owner: a relay_pool owns the pairs and both their connections. Thread: one loop's. Allocation: when the pool is made.

#include <cstdint>

#include "core/connection.hpp"
#include "core/dialer.hpp"

namespace weir::inline WEIR_KERNEL {

struct relay_options {
    std::uint32_t pairs_max = 512;
    duration connect_timeout = seconds{5};
    duration fin_timeout = seconds{30};            // without a byte once an end was carried across
    duration idle_timeout = seconds{300};          // without a byte either way
    void (*ended)(void* owner) noexcept = nullptr; // a pair is no more; null: nobody wants to know
    void* owner = nullptr;
};

class relay_pool {
  public:
    relay_pool(conntab& conns, const relay_options& options) noexcept;
    relay_pool(const relay_pool&) = delete;
    relay_pool& operator=(const relay_pool&) = delete;
    ~relay_pool(); // aborts every pair

    // Ties two connected connections together; both are the pool's from now on. `early_to_b` is sent before what `a`
    // still says, and the other way round; both are copied. ENFILE: no pair is free; ENOBUFS: one is larger than a
    // block, or no block is left. The connections are the caller's then.
    result<void> join(connection& a, connection& b, std::string_view early_to_b = {},
                      std::string_view early_to_a = {}) noexcept;

    // Dials `to` for `client` and ties the two together; on failure `client` is closed with RST. What the client says
    // meanwhile waits in its socket. The client is the pool's from now on, whatever happens: answers `gone` if it was
    // closed at once.
    verdict dial(connection& client, const ctrl& family, const endpoint& to) noexcept;

    void abort_all() noexcept;
    // 0: there was no memory for any pair; then none can be made.
    std::size_t capacity() const noexcept { return pairs_.capacity(); }
    std::size_t pair_count() const noexcept { return pairs_.used(); }
    std::uint64_t bytes_count() const noexcept { return bytes_; } // carried so far, both ways

  private:
    struct pair {
        pair(relay_pool& pool, connection& client) noexcept : home(pool), ends{&client, nullptr} {}

        relay_pool& home;
        connection* ends[2]; // the client; the server, null until it is dialed
        buffer pending[2];   // [i]: received from the other end, to be sent to ends[i]
        time_point last_byte{};
        timer deadline{on_deadline};
        list_hook hook;
    };

    static const data_cb pair_cb;
    static verdict on_recv(connection& conn) noexcept;
    static verdict on_send(connection& conn) noexcept;
    static verdict on_wake(connection& conn) noexcept;
    static void on_deadline(timer& t, time_point now) noexcept;

    static std::size_t side_of(const pair& p, const connection& conn) noexcept { return p.ends[1] == &conn ? 1 : 0; }
    pair* make_pair(connection& a) noexcept;
    void set_up(pair& p) noexcept;
    verdict carry_fin(pair& p, std::size_t to) noexcept;
    verdict abort(pair& p, connection& broken) noexcept;
    verdict end(pair& p, close_intent intent, end_cause cause, end_cause other_cause) noexcept;

    conntab& conns_;
    relay_options options_;
    fixed_pool<pair> pairs_;
    list<&pair::hook> live_;
    std::uint64_t bytes_ = 0;
};

} // namespace weir::inline WEIR_KERNEL
