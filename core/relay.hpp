#pragma once
// relay: carries bytes between two connections, both ways, and knows nothing of them.
//
//      ends[0] ── recv ──> scratch ── send ──> ends[1]        and the other way round
//                             └─ short: the rest into pending[1], and ends[0] stops receiving until it is gone
//
//   - A direction that keeps filling its reads is spliced: from then on its bytes stay in the kernel, in a pipe that is
//     borrowed while there are any in it. When little comes at a time they are copied again, which is cheaper then.
//   - A half-close is carried across after the last byte. From the first one on the fin timer runs.
//   - An abort is carried across as an abort (RST), so that a truncation shows.
//   - A pair that is quiet owns no block and no pipe.
//
// Owner: a relay_pool owns the pairs and both their connections. Thread: one loop's. Allocation: when the pool is made.
// Where it splices, its pipes count for the limit of conntab::on_shortage().

#include <cstdint>
#include <optional>

#include "core/connection.hpp"
#include "core/dialer.hpp"
#include "core/pipes.hpp"

namespace weir::inline WEIR_KERNEL {

struct relay_options {
    std::uint32_t pairs_max = 512;
    duration connect_timeout = seconds{5}; // of the server's connect, and of either side's handshake
    const xprt* transport = &raw_xprt;     // of the servers that are dialed
    duration fin_timeout = seconds{30};    // without a byte once one side has ended
    duration idle_timeout = seconds{300};  // without a byte either way
    duration user_timeout = seconds{300};  // of the servers that are dialed, socket.hpp: a reader may pause
    // A direction goes on receiving in a turn until it has so many bytes: beyond them by less than a block where it
    // copies, by less than a pipe where it splices. A read of few bytes counts as 4 KB.
    std::uint32_t recv_budget_bytes = 64 * 1024;
    // Large flows are spliced, through so many pipes at most; 0: never. SIGPIPE is blocked, from the first splice on
    // and for good, in each thread that turns the loop.
    pipe_options pipes{.pipes_max = 0};
    // A pair is no more: the `tag` it was made with. Null: nobody wants to know.
    void (*ended)(void* owner, void* tag) noexcept = nullptr;
    void* owner = nullptr;
};

class relay_pool {
  public:
    relay_pool(conntab& conns, const relay_options& options) noexcept;
    relay_pool(const relay_pool&) = delete;
    relay_pool& operator=(const relay_pool&) = delete;
    ~relay_pool(); // aborts every pair

    // Ties two connected connections together; both are the pool's from now on, without the deadlines that they had.
    // `early_to_b` is sent before what `a` still says, and the other way round; both are copied. The end of one that
    // has said its last byte already is carried across behind them; our own was sent to neither. ENFILE: no pair is
    // free; ENOBUFS: one is larger than a block, or no block is left. The connections are the caller's then.
    result<void> join(connection& a, connection& b, std::string_view early_to_b = {}, std::string_view early_to_a = {},
                      void* tag = nullptr) noexcept;

    // Dials `to` for `client` and ties the two together, without a tag; on failure `client` is closed with RST. What
    // the client says meanwhile waits in its socket. The client is the pool's from now on, whatever happens: answers
    // `gone` if it was closed at once.
    verdict dial(connection& client, const ctrl& family, const endpoint& to) noexcept;

    void abort_all() noexcept;
    // 0: there was no memory for any pair; then none can be made.
    std::size_t capacity() const noexcept { return pairs_.capacity(); }
    std::size_t pair_count() const noexcept { return pairs_.used(); }
    std::uint64_t bytes_count() const noexcept { return bytes_; }           // carried so far, both ways
    std::uint64_t spliced_count() const noexcept { return spliced_bytes_; } // of these, the bytes that were spliced
    // Directions that went back to copying: little came at a time, or there was no pipe.
    std::uint64_t unspliced_count() const noexcept { return unspliced_; }
    const pipe_pool* pipes() const noexcept { return pipes_ ? &*pipes_ : nullptr; }

  private:
    // Bytes wait in `pending` or in `pipe`, never in both; while there are any, nothing more is received.
    struct direction {
        buffer pending;
        pipe_lease* pipe = nullptr;
        std::uint8_t full_count = 0; // reads in a row that filled a block
        std::uint8_t thin_count = 0; // splices in a row that moved little
        bool can_splice = false;     // both ends can, and there are pipes
        bool spliced = false;
    };
    struct pair {
        pair(relay_pool& pool, connection& client) noexcept : home(pool), ends{&client, nullptr} {}

        relay_pool& home;
        connection* ends[2]; // the client; the server, null until it is dialed
        direction ways[2];   // [i]: from the other end to ends[i]
        time_point last_byte{}; // or end
        timer deadline{on_deadline};
        void* tag = nullptr;
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
    // What a round of carrying has come to: go on, wait (answer keep), or the pair is gone.
    enum class round : std::uint8_t { moved, stopped, gone };
    round copy_some(pair& p, std::size_t to) noexcept;
    round splice_some(pair& p, std::size_t to) noexcept;
    round received_nothing(pair& p, std::size_t to, io why) noexcept;
    void hold_up(pair& p, std::size_t to) noexcept;
    void note_size(direction& way, std::size_t bytes) noexcept;
    void copy_again(direction& way) noexcept;
    verdict carry_fin(pair& p, std::size_t to) noexcept;
    time_point due(const pair& p) const noexcept;
    verdict abort(pair& p, connection& broken) noexcept;
    verdict end(pair& p, close_intent intent, end_cause cause, end_cause other_cause) noexcept;

    conntab& conns_;
    relay_options options_;
    std::optional<pipe_pool> pipes_; // none: nothing is spliced
    fixed_pool<pair> pairs_;
    list<&pair::hook> live_;
    counter bytes_, spliced_bytes_, unspliced_;
};

} // namespace weir::inline WEIR_KERNEL
