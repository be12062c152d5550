#pragma once
// listener: accepts connections for one loop, within bounds.
//
// At most accept_budget connections are accepted per turn; the rest waits for the next. A full conntab makes room:
// conntab::relieve(). When descriptors are short (EMFILE, ENFILE), the connection that has lingered for the longest is
// closed; idle connections are left alone, because the accepted one would find no descriptor for its server. When
// neither helps, or memory is short (ENOMEM, ENOBUFS), accepting pauses for `pause` and then tries again, so it never
// spins. Accepting pauses as well after many refusals in a row: an accept() that is forbidden (a security module, a
// filter) leaves its connection in the queue. Errors that concern only the connection that was
// about to be accepted (ECONNABORTED, EPROTO, EPERM and the like, accept(2)) are counted and passed over.
//
// Owner: the user; its conntab outlives it. Thread: the loop's. Allocation: none.

#include <cstdint>

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

struct listener_options {
    listen_options socket{};            // held: nobody is accepted before begin()
    std::uint32_t accept_budget = 64;   // connections per turn; the only bound on a transport's handshakes in one, too
    duration pause = milliseconds{100}; // without descriptors or memory
    const xprt* transport = &raw_xprt;
};

class listener {
  public:
    // The user attaches a table to `conn` and says what is wanted (want_recv()), or closes it. `peer` is borrowed for
    // the call.
    using accepted = void (*)(void* owner, connection& conn, const endpoint& peer) noexcept;

    // For users who count: asked before each accept().
    struct admission {
        // False: has_waiting() has said that there is no connection, or pause() was called.
        bool (*may_accept)(void* owner) noexcept = nullptr;
        // The accept() brought no connection, or the last connection was accepted: what may_accept() has set aside is
        // not needed now.
        void (*none_came)(void* owner) noexcept = nullptr;
        void* owner = nullptr;
    };

    explicit listener(conntab& conns) noexcept : conns_(conns) {}
    listener(conntab& conns, const admission& asked) noexcept : conns_(conns), admission_(asked) {}
    listener(const listener&) = delete;
    listener& operator=(const listener&) = delete;
    ~listener() { close(); }

    // Listens at `at` (port 0: the kernel chooses, see local()). EADDRINUSE, EACCES, EMFILE, ...
    result<void> open(const ctrl& family, const endpoint& at, const listener_options& options, accepted callback,
                      void* owner) noexcept;
    // The same with a descriptor that listens already; if it is to be held, it may also only be bound. It is owned from
    // now on; on error it is closed. EINVAL: it does not listen; ENOTSOCK, EBADF. A TCP one gets the options that open()
    // sets: tune_inherited_tcp().
    result<void> adopt(unique_fd fd, const ctrl& family, const listener_options& options, accepted callback,
                       void* owner) noexcept;
    // Ends `held`: listens, and accepts. EADDRINUSE: another socket without SO_REUSEPORT listens there by now.
    result<void> begin() noexcept;
    // Stops listening. Connections that the kernel has accepted already are reset. A socket file is left.
    void close() noexcept;

    bool is_open() const noexcept { return slot_ != nullptr; }
    endpoint local() const noexcept { return local_; }
    // Another process, or another descriptor, is about to hold the socket, too: close() takes it out of epoll first.
    // Open; the thread of its loop, or before that runs.
    void share() noexcept;
    int fd() const noexcept { return slot_ ? slot_->fd : -1; } // stays the listener's

    // A connection is there to be accepted. Open. Costs a poll(2).
    bool has_waiting() noexcept;

    // Before close(): takes what the kernel has accepted already, paused or not, at most so many; none while it is
    // held.
    void accept_rest(std::uint32_t connections_max) noexcept;

    // For users with limits of their own: nothing is accepted between the two, but by accept_rest(). They do not nest.
    void pause() noexcept;
    void resume() noexcept;

    std::uint64_t accepted_count() const noexcept { return accepted_count_; }
    std::uint64_t failed_count() const noexcept { return failed_count_; } // accept() calls, EAGAIN aside
    // How often it paused by itself: for want of descriptors, memory or connections, after many refusals, shut down.
    std::uint64_t paused_count() const noexcept { return paused_count_; }

  private:
    static constexpr std::uint32_t refused_in_row_max = 64; // then it is no matter of one connection

    enum class outcome : std::uint8_t { accepted, passed, drained, short_of_room, not_admitted };

    result<void> start(unique_fd fd, const ctrl& family, const listener_options& options, accepted callback,
                       void* owner) noexcept;
    static void ready(fd_slot& slot) noexcept;
    static void pause_over(timer& t, time_point now) noexcept;
    static bool may_have_more(int fd) noexcept;
    void rest(fd_slot& slot) noexcept;
    outcome accept_one() noexcept;
    outcome try_accept() noexcept;

    conntab& conns_;
    admission admission_;
    listener_options options_;
    const ctrl* family_ = nullptr;
    accepted callback_ = nullptr;
    void* owner_ = nullptr;
    fd_slot* slot_ = nullptr;
    endpoint local_;
    timer pause_timer_{pause_over};
    bool held_ = false;
    bool paused_by_user_ = false;
    std::uint32_t refused_in_row_ = 0;
    counter accepted_count_, failed_count_, paused_count_;
};

} // namespace weir::inline WEIR_KERNEL
