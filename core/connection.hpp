#pragma once
// connection: one stream socket of one loop, and who is served by it.
//
//                     dial()                 adopt() by a listener or a user
//                       │                          │
//                  connecting ──(handshake)──> connected <──────────────┐
//                       │                     │        │ park()   take()│
//                       │            attach() │        └──> idle ───────┘      idle.hpp
//                       │            swaps cb │               │
//                       └──────> close() <────┴───────────────┘
//                                  │ graceful ──> lingering ──(FIN, silence, deadline)─┐
//                                  └ after_fin, silent, abort ─────────────────────────┴─> freed at end of turn
//
// after_fin lingers, too, where a transport has still to say its own end; graceful does not once all that is over.
//
// Ends are told apart by intent and by cause, and neither is inferred from the other. The cause is set exactly once;
// per conntab, opened_count() - live_count() is the sum of the causes.
//
// A closed connection is inert, in every build, because its number may belong to another one already: bytes are answered
// `failed` (EBADF), and the other calls of a user do nothing. Without NDEBUG such a call stops the program. The object can be read
// until the end of the turn; one that lingers, until that has ended.
//
// Owner: the conntab. Users borrow a connection from adopt() or dial() until a callback of theirs answers `gone`.
// Thread: one loop's. Allocation: in conntab::open().

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "core/buffer.hpp"
#include "core/conn_facts.hpp"
#include "core/data_cb.hpp"
#include "core/loop.hpp"
#include "core/pool.hpp"
#include "core/redial.hpp"
#include "core/xprt.hpp"

namespace weir::inline WEIR_KERNEL {

class conn_queue;
class conntab;

class alignas(64) connection {
  public:
    connection(conntab& home, const ctrl& family, const xprt& transport) noexcept
        : ctrl_(&family), xprt_(&transport), home_(&home) {}
    connection(const connection&) = delete;
    connection& operator=(const connection&) = delete;

    // --- who is served
    const data_cb& cb() const noexcept { return *cb_; }
    void* owner() const noexcept { return owner_; }
    template <class Owner>
    Owner& owner_as() const noexcept {
        return *static_cast<Owner*>(owner_);
    }
    // Serves `table` from now on, with `owner` for its callbacks. Two stores: wants and readiness stay as they are.
    // Not while idle: the pool gives it back first.
    void attach(const data_cb& table, void* owner) noexcept {
        EXPECT_SLOW(!is(conn_flag::idle), "an idle connection is served by its pool: take() gives it back");
        if (!may_use()) return;
        cb_ = &table;
        owner_ = owner;
    }
    void attach(const data_cb&& table, void* owner) = delete; // a table outlives the connection: no temporary

    // --- bytes. Only while connected. Room for at least one: 0 received are taken for the peer's end.
    io_result recv(void* to, std::size_t bytes) noexcept {
        EXPECT_SLOW(bytes > 0);
        return may_use() ? xprt_->recv(*this, to, bytes) : refuse_use();
    }
    io_result send(std::string_view from, bool more = false) noexcept {
        const iovec part{.iov_base = const_cast<char*>(from.data()), .iov_len = from.size()};
        return send_parts(&part, 1, more);
    }
    io_result send_parts(const iovec* parts, std::size_t parts_count, bool more = false) noexcept {
        return may_use() ? xprt_->send(*this, parts, parts_count, more) : refuse_use();
    }
    // Bytes that stay in the kernel: xprt.hpp. Only if both its connections can.
    bool can_splice() const noexcept {
        return xprt_->splice_in && xprt_->splice_out && (!xprt_->can_splice || xprt_->can_splice(*this));
    }
    io_result splice_in(int pipe_fd, std::size_t bytes) noexcept {
        EXPECT_SLOW(bytes > 0);
        return may_use() ? xprt_->splice_in(*this, pipe_fd, bytes) : refuse_use();
    }
    io_result splice_out(int pipe_fd, std::size_t bytes) noexcept {
        return may_use() ? xprt_->splice_out(*this, pipe_fd, bytes) : refuse_use();
    }
    // Ends our side: the transport's own end, then FIN, after everything sent. Once. Where that has to wait for room,
    // the engine goes on with it; send is its to want and to stop from here on.
    void shutdown_send() noexcept;
    // Bytes may stand in a layer between the user and the socket, on their way in or out: neither side's count is the
    // other's.
    bool hides_bytes() const noexcept { return xprt_->drain != nullptr; }

    // --- what the user wants. Until connected nothing but wake is called, and these are the engine's and the
    // transport's: leave them alone.
    void want_recv() noexcept {
        if (may_use()) fds().want_recv(*slot_);
    }
    void stop_recv() noexcept {
        if (may_use()) fdtab::stop_recv(*slot_);
    }
    void want_send() noexcept {
        if (may_use()) fds().want_send(*slot_);
    }
    void stop_send() noexcept {
        if (may_use()) fdtab::stop_send(*slot_);
    }

    // --- what the kernel says. For transports.
    void may_recv() noexcept { fds().may_recv(*slot_); } // recv() may have something, though the kernel has not said so
    void cant_recv() noexcept { slot_->state &= ~(fd_state::recv_ready | fd_state::unsure); }
    void cant_send() noexcept;
    void fail(int error) noexcept; // errno; both directions are over
    void end_recv() noexcept;      // the peer's end was received

    // --- state
    bool is(conn_flag bits) const noexcept { return any(flags_, bits); }
    conn_flag flags() const noexcept { return flags_; }
    int error() const noexcept { return error_; } // errno of what failed, 0: nothing has
    // The same in words: its transport's, or strerror(3). A literal, or valid until the next call. Not after close().
    const char* reason() const noexcept { return xprt_->reason ? xprt_->reason(*this) : error_text(error_); }
    end_cause cause() const noexcept { return cause_; }
    // The cause that its state suggests, for a user who closes it because it ended or failed. Once connected, what we
    // failed ourselves is told from what the peer did: timed_out(), and no_room where epoll had no memory for OUT.
    end_cause failure() const noexcept;
    // The peer is known to have ended its side or the socket to be dead, received or not.
    bool ended() const noexcept { return is(conn_flag::recv_ended | conn_flag::failed) || slot_->ended(); }
    // Its socket is dead: an error was met or reported.
    bool is_broken() const noexcept { return is(conn_flag::failed) || slot_->is(fd_state::err); }
    // close() was called, by whomever. It may still linger; for its user it is gone.
    bool was_closed() const noexcept { return is(conn_flag::closed); }
    conn_origin origin() const noexcept { return origin_; }
    fd_slot& slot() const noexcept { return *slot_; } // its own while its socket is open, else one that nothing runs
    int fd() const noexcept { return slot_->fd; }     // -1 once its socket was closed
    conntab& home() const noexcept { return *home_; }
    event_loop& loop() const noexcept;
    const ctrl& family() const noexcept { return *ctrl_; }
    const xprt& transport() const noexcept { return *xprt_; }
    time_point born() const noexcept { return born_; }
    // Whose socket is at the other end, as accept() or connect() was told: also after a reset, when the kernel no longer
    // knows. An IPv4 client of an IPv6 listener is an IPv4 endpoint here. Unspecified: not known, since the user adopted
    // it without saying, or a unix socket's name cannot be had. Of a unix socket the kernel is asked each time.
    endpoint peer() const noexcept;
    void* xprt_context() const noexcept { return xprt_context_; }
    void set_xprt_context(void* context) noexcept { xprt_context_ = context; }

    // --- one deadline, for whoever is served. Cancelled by close, by the end of the handshake, and by whoever takes
    // the connection over: idle_pool's park and take, relay_pool's join and dial.
    void arm(time_point deadline, timer::callback fire) noexcept;
    // For arm(): it fails with ETIMEDOUT, which its wake is told.
    static void timed_out(timer& t, time_point) noexcept { of(t).give_up(ETIMEDOUT); }
    void disarm() noexcept {
        if (may_use()) timer_.cancel();
    }
    static connection& of(timer& t) noexcept { return container_of<&connection::timer_>(t); }

    // TCP_USER_TIMEOUT from now on, socket.hpp; 0: the system's. For whoever gives the connection another role. Makes a
    // system call only where that may change something: none for 0 on a socket that has no other, none if not TCP.
    void set_user_timeout(duration timeout) noexcept;

    // --- the end. Always `gone`. The caller and every callback under way must not use the connection afterwards.
    verdict close(close_intent intent, end_cause cause) noexcept;

    // --- how often it was used: counted by its user, looked at by an idle_pool
    std::uint32_t uses() const noexcept { return uses_; }
    void count_use() noexcept { uses_++; }

  private:
    friend class conntab;
    friend class conn_queue;
    friend class idle_pool;

    enum class peer_kind : std::uint8_t { unknown, ipv4, ipv6, local };

    static void ready(fd_slot& slot) noexcept;
    static void tell(const fd_slot& slot, fd_facts& to) noexcept;
    bool may_use() const noexcept; // by its user
    [[gnu::cold]] io_result refuse_use() noexcept;
    void end_send() noexcept;
    bool go_on() noexcept;
    bool establish() noexcept;
    void say_end() noexcept;
    void give_up(int error) noexcept;
    void begin_linger(end_cause cause) noexcept;
    verdict finish(close_intent intent, end_cause cause) noexcept;
    fdtab& fds() const noexcept;
    bool is_mine() const noexcept; // the calling thread's, see loop.hpp
    void keep_peer(const endpoint& at) noexcept;

    void await_more() noexcept;
    drained discard_some() noexcept;
    static verdict linger_recv(connection& conn) noexcept;
    static verdict linger_wake(connection& conn) noexcept;
    static const data_cb linger_cb, unserved_cb;

    const data_cb* cb_ = &unserved_cb;
    void* owner_ = nullptr;
    fd_slot* slot_ = nullptr; // the conntab's dead_slot_ once the socket was closed
    const ctrl* ctrl_;
    const xprt* xprt_;
    void* xprt_context_ = nullptr;
    conntab* home_;
    time_point born_{};
    timer timer_;
    list_hook hook_; // in the conntab's list of live ones or in a conn_queue, then among the dead ones
    conn_flag flags_{};
    std::uint16_t error_ = 0;
    end_cause cause_ = end_cause::none;
    conn_origin origin_ : 4 = conn_origin::adopted;
    peer_kind peer_kind_ : 4 = peer_kind::unknown;
    std::uint16_t peer_port_ = 0;
    std::uint32_t peer_ipv4_ = 0; // host byte order; an IPv6 address stands in the conntab
    std::uint32_t uses_ = 0;      // while it lingers: when that ends, in ms of the loop's clock, modulo 2^32
};
static_assert(sizeof(connection) <= 128, "two cache lines");

enum class shortage : std::uint8_t { descriptors, connections };

struct conntab_options {
    std::uint32_t connections_max = 1024;
    // 16 KB blocks for pending bytes. 0: two per connection, one for each direction. They are address space, since a
    // block is memory only once it was used; where so much is refused it is half, and so on down to 1,024.
    std::uint32_t blocks_max = 0;
    std::uint32_t large_blocks_max = 0;   // 80 KB blocks, for bytes that must lie together: buffer.hpp
    duration linger = seconds{30};        // a graceful close waits no longer for the peer's FIN; less than 24 days
    duration linger_silence = seconds{5}; // nor without a byte. There is no limit to the bytes that are thrown away
};

// Every connection of one loop: their storage, their blocks, their counters.
class conntab {
  public:
    explicit conntab(event_loop& loop) noexcept : loop_(loop) {}
    conntab(const conntab&) = delete;
    conntab& operator=(const conntab&) = delete;
    ~conntab(); // closes what is left with RST, cause: shutdown; tells nobody

    // Once, after the loop was opened. ENOMEM: the address space for so many is not to be had; it is not open then, and
    // may be tried again.
    result<void> open(const conntab_options& options = {}) noexcept;

    // Makes a connection of a socket, which is non-blocking; `fd` is owned from now on, whatever is returned. On error
    // it is closed with RST. Open.
    // ENFILE: no connection is free. EMFILE, ENOSPC, ENOMEM, EPERM: see event_loop::watch().
    // The caller attaches a table right away. Nothing is wanted at first: want_recv(), want_send().
    struct adopt_options {
        conn_origin origin = conn_origin::adopted;
        bool connecting = false;        // connect() is under way
        bool connected_at_once = false; // connect() was done at once: wake is called in the next turn
        const endpoint* peer = nullptr; // for connection::peer(); borrowed for the call
        bool has_user_timeout = false;  // its TCP_USER_TIMEOUT is not the system's
    };
    result<connection*> adopt(unique_fd fd, const ctrl& family, const xprt& transport,
                              const adopt_options& how) noexcept;
    result<connection*> adopt(unique_fd fd, const ctrl& family) noexcept {
        return adopt(std::move(fd), family, raw_xprt, {});
    }

    // Room for bytes in passing: valid until the callback returns or calls something that may use it.
    static constexpr std::size_t scratch_bytes = 64 * 1024;
    char* scratch() noexcept { return scratch_.get(); }
    // scratch_bytes, and as much as a large block holds if there are any.
    std::size_t scratch_size() const noexcept {
        return scratch_bytes + (options_.large_blocks_max > 0 ? large_block_bytes : 0);
    }
    // For dial(): connects that wait for room in a unix backlog, and the ports from which a connect may come.
    redial_pool& redials() noexcept { return *redials_; }
    const sys::port_range& local_ports() const noexcept { return local_ports_; }
    block_pool& blocks() noexcept { return *blocks_; }
    const block_pool& blocks() const noexcept { return *blocks_; }

    // Something is short: closes the connection that has lingered for the longest, or else asks whoever registered to
    // close something that nobody uses: an idle_pool a connection, a pipe_pool a pipe, which gives back descriptors
    // only. True: one of what is short can be had. At most helpers_max are registered at a time: EXPECTed.
    static constexpr std::size_t helpers_max = 16;
    using relief = bool (*)(void* owner, shortage of) noexcept;
    void on_shortage(relief callback, void* owner) noexcept;
    void no_shortage(void* owner) noexcept; // takes the registration of `owner` back
    bool relieve(shortage of) noexcept;
    // Closes the connection that has lingered for the longest. False: no connection lingers.
    bool end_lingering() noexcept;

    event_loop& loop() const noexcept { return loop_; }
    std::uint64_t opened_count(conn_origin origin) const noexcept { return opened_[static_cast<std::size_t>(origin)]; }
    std::uint64_t ended_count(end_cause cause) const noexcept { return ended_[static_cast<std::size_t>(cause)]; }
    std::uint32_t live_count() const noexcept { return live_count_; }
    std::uint32_t connections_max() const noexcept { return options_.connections_max; }
    bool is_open() const noexcept { return pool_.has_value(); }
    bool full() const noexcept { return live_count_ >= options_.connections_max || pool_->full(); }

    // For ledgers and shutdown: the connections that have a user, in the order in which they were opened; those of a
    // conn_queue come last, in the queue's order. Lingering connections have no user.
    connection* first() noexcept;
    connection* after(connection& conn) noexcept;

  private:
    friend class connection;
    friend class conn_queue;

    // Trivial, so that memory for it stays untouched until one is kept.
    struct ipv6_peer {
        std::array<std::uint8_t, 16> address;
        std::uint32_t scope;
    };

    void bury(connection& conn) noexcept;
    // What the closed ones point to. It is marked `queued`, so that it never gets into a run list.
    static constexpr fd_slot no_slot{
        .handler = nullptr, .owner = nullptr, .generation = 0, .state = fd_state::queued, .next = -1, .fd = -1};
    static void free_dead(retired& r) noexcept;

    event_loop& loop_;
    fd_slot dead_slot_ = no_slot;
    conntab_options options_;
    std::optional<fixed_pool<connection>> pool_;
    std::optional<block_pool> blocks_;
    std::optional<redial_pool> redials_;
    sys::port_range local_ports_{}; // as of open()
    std::unique_ptr<char[]> scratch_;
    std::unique_ptr<ipv6_peer[]> ipv6_peers_; // [the connection's place in pool_]
    list<&connection::hook_> live_, lingering_, dead_;
    conn_queue* queues_ = nullptr; // linked by next_
    retired retired_;
    shared_count<std::uint32_t> live_count_;
    std::array<counter, 3> opened_{};
    std::array<counter, static_cast<std::size_t>(end_cause::count_)> ended_{};
    struct {
        relief callback = nullptr;
        void* owner = nullptr;
    } reliefs_[helpers_max];
};

// Connections in an order that their user keeps, such as clients by how long they wait. The connection's own links make
// the queue, so that a place in it costs no memory. A connection is in one queue at most, and leaves it when it closes
// or lingers. Owner: the user; the conntab outlives it. Thread: the loop's. Allocation: none.
class conn_queue {
  public:
    explicit conn_queue(conntab& home) noexcept : home_(home), next_(home.queues_) { home.queues_ = this; }
    conn_queue(const conn_queue&) = delete;
    conn_queue& operator=(const conn_queue&) = delete;
    ~conn_queue(); // its connections stay open

    // `conn`, which has a user, becomes the last of this queue, wherever it was before.
    void push_back(connection& conn) noexcept {
        conn.hook_.unlink();
        list_.push_back(conn);
    }
    // `conn` leaves the queue that it is in, if it is in one.
    void take_out(connection& conn) noexcept {
        conn.hook_.unlink();
        home_.live_.push_back(conn);
    }
    connection* front() noexcept { return list_.front(); }
    bool empty() const noexcept { return list_.empty(); }

  private:
    friend class conntab;
    static connection* first_from(conn_queue* queue) noexcept; // of it and the queues behind it; null: there is none

    conntab& home_;
    conn_queue* next_;
    list<&connection::hook_> list_;
};

inline event_loop& connection::loop() const noexcept { return home_->loop(); }
inline bool connection::is_mine() const noexcept { return home_->loop().is_mine(); }
inline fdtab& connection::fds() const noexcept { return home_->loop().fds(); }
inline bool connection::may_use() const noexcept {
    EXPECT_SLOW(is_mine());
    EXPECT_SLOW(!was_closed(), "used after it was closed: whoever closes answers `gone`");
    return !was_closed();
}
inline void connection::arm(time_point deadline, timer::callback fire) noexcept {
    if (!may_use()) return;
    timer_.fire = fire;
    loop().arm(timer_, deadline);
}

} // namespace weir::inline WEIR_KERNEL
