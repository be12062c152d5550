#pragma once
// relay: carries bytes between two connections, both ways, and knows nothing of them.
//
//      ends[0] ── recv ──> scratch ── send ──> ends[1]        and the other way round
//                             └─ short: the rest into pending[1], and ends[0] stops receiving until it is gone
//
//   - A direction that keeps filling its reads is spliced: from then on its bytes stay in the kernel, in a pipe that is
//     borrowed while there are any in it. When little comes at a time they are copied again, which is cheaper then.
//   - A half-close is carried across after the last byte. Once the server has ended its side, the client has
//     fin_timeout; until then, also after the client's own end, idle_timeout counts.
//   - A byte counts when it moves on the wire: when it is received, when send() accepts it, and when the peer takes what
//     the kernel holds (send_progress.hpp). A reader that is slow all the time is alive.
//   - An abort is carried across as an abort (RST), so that a truncation shows. What had arrived in front of it goes
//     first: the receive queue of the broken end is emptied, under back-pressure, and the RST waits until the other end
//     has taken all of it, as long as it takes something within fin_timeout.
//   - At a deadline an end that has got the other's last byte and FIN, and has taken them, is closed in order. Any other
//     end gets RST: something is missing, and it must not look like an end.
//   - A pair that is quiet owns no block and no pipe.
//
// Owner: a relay_pool owns the pairs and both their connections. Thread: one loop's. Allocation: when the pool is made.
// Where it splices, its pipes count for the limit of conntab::on_shortage().

#include <cstdint>
#include <optional>

#include "core/connection.hpp"
#include "core/dialer.hpp"
#include "core/pipes.hpp"
#include "core/send_progress.hpp"

namespace weir::inline WEIR_KERNEL {

enum class relay_end : std::uint8_t {
    any,
    unheard, // the second end, its server, ended or failed first, and had not said a byte
};

struct relay_options {
    std::uint32_t pairs_max = 512;
    duration connect_timeout = seconds{5}; // of the server's connect, and of either side's handshake
    const xprt* transport = &raw_xprt;     // of the servers that are dialed
    // Without a byte on the wire either way, once the server (the second of a pair) has ended its side or one end was
    // reset; not above idle_timeout.
    duration fin_timeout = seconds{30};
    duration idle_timeout = seconds{300}; // without a byte on the wire either way
    // TCP_USER_TIMEOUT, socket.hpp: of both ends from join() or dial() on. Raised to idle_timeout. A finite one ends slow
    // readers.
    duration user_timeout = user_timeout_default;
    // A direction goes on receiving in a turn until it has so many bytes: beyond them by less than a block where it
    // copies, by less than a pipe where it splices. A read of few bytes counts as 4 KB.
    std::uint32_t recv_budget_bytes = 64 * 1024;
    // Large flows are spliced, through so many pipes at most; 0: never. SIGPIPE is blocked, from the first splice on
    // and for good, in each thread that turns the loop.
    pipe_options pipes{.pipes_max = 0};
    // The second end of a pair, its server, has said its first byte. `tag`: that of join(). Null: not wanted.
    void (*answered)(void* owner, void* tag) noexcept = nullptr;
    // A pair is no more: the `tag` it was made with. Null: nobody wants to know.
    void (*ended)(void* owner, void* tag, relay_end how) noexcept = nullptr;
    void* owner = nullptr;
};

class relay_pool {
  public:
    relay_pool(conntab& conns, const relay_options& options) noexcept;
    relay_pool(const relay_pool&) = delete;
    relay_pool& operator=(const relay_pool&) = delete;
    ~relay_pool(); // aborts every pair

    // Ties two connected connections together: `a`, the client, and `b`, the server. Both are the pool's from now on,
    // without the deadlines and the TCP_USER_TIMEOUT that they had. `early_to_b` is sent before what `a` still says, and the other way round; both are copied. The end of one that
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
    // What its ends have for TCP_USER_TIMEOUT.
    duration user_timeout() const noexcept { return user_timeout_for(options_.user_timeout, options_.idle_timeout); }
    const pipe_pool* pipes() const noexcept { return pipes_ ? &*pipes_ : nullptr; }

  private:
    // Bytes wait in `pending` or in `pipe`, never in both; while there are any, nothing more is received.
    struct direction {
        buffer pending;
        pipe_lease* pipe = nullptr;
        send_progress progress;      // of ends[i]
        std::uint8_t full_count = 0; // reads in a row that filled a block
        std::uint8_t thin_count = 0; // splices in a row that moved little
        bool can_splice = false;     // both ends can, and there are pipes
        bool spliced = false;
        bool has_carried = false; // at least one byte
    };
    // whole ──(one end was reset)──> broken ──(all that it had said was sent)──> emptied ──(and taken)──> RST to the other
    enum class health : std::uint8_t { whole, broken, emptied };
    struct pair {
        pair(relay_pool& pool, connection& client) noexcept : home(pool), ends{&client, nullptr} {}

        relay_pool& home;
        connection* ends[2]; // the client; the server, null until it is dialed
        direction ways[2];   // [i]: from the other end to ends[i]
        time_point last_byte{}; // or end; on the wire, as far as it is known
        relay_end how = relay_end::any; // unheard: the server ended first; it may still be heard
        timer deadline{on_deadline};
        void* tag = nullptr;
        std::uint8_t looks_count = 0; // since it was emptied
        bool is_watched = false;      // a look is due at the latest when the timer fires; else both ways are settled
        health state = health::whole;
        std::uint8_t broken_side = 0; // unless whole: which end is
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
    static round after(verdict v) noexcept;
    round copy_some(pair& p, std::size_t to) noexcept;
    round splice_some(pair& p, std::size_t to) noexcept;
    round received_nothing(pair& p, std::size_t to, io why) noexcept;
    void hold_up(pair& p, std::size_t to) noexcept;
    void note_size(direction& way, std::size_t bytes) noexcept;
    void note_first(pair& p, std::size_t to) noexcept;
    static void note_unheard(pair& p, const connection& ended) noexcept;
    void copy_again(direction& way) noexcept;
    void drop_bytes(direction& way) noexcept;
    void note_sent(pair& p, std::size_t to) noexcept;
    void resume(pair& p, std::size_t to) noexcept;
    // --- relay_ends.cc
    verdict carry_fin(pair& p, std::size_t to) noexcept;
    duration timeout_of(const pair& p) const noexcept;
    void arm(pair& p) noexcept;
    verdict break_off(pair& p, connection& broken) noexcept;
    verdict emptied(pair& p) noexcept;
    void await_taking(pair& p) noexcept;
    bool look(pair& p) noexcept;
    verdict abort(pair& p, const connection& broken) noexcept;
    verdict time_out(pair& p) noexcept;
    struct ending {
        close_intent intent;
        end_cause cause;
    };
    verdict end(pair& p, const ending& first, const ending& second) noexcept; // of ends[0], of ends[1]
    verdict abort_both(pair& p, end_cause cause) noexcept {
        return end(p, {close_intent::abort, cause}, {close_intent::abort, cause});
    }

    conntab& conns_;
    relay_options options_;
    std::optional<pipe_pool> pipes_; // none: nothing is spliced
    fixed_pool<pair> pairs_;
    list<&pair::hook> live_;
    counter bytes_, spliced_bytes_, unspliced_;
};

} // namespace weir::inline WEIR_KERNEL
