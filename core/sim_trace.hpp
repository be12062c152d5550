#pragma once
// sim_trace: every call that crossed the seam, with its result: the latest in a ring, all of them in a hash.
//
// Two runs took the same way exactly when their hashes are the same. Nothing that enters it is an address.

#include <array>
#include <cstdint>
#include <cstdio>

#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL {

enum class call : std::uint8_t {
    epoll_open,
    epoll_add,
    epoll_change,
    epoll_remove,
    epoll_wait,
    epoll_wait_precise,
    epoll_busy_poll,
    epoll_event, // one per report, behind its epoll_wait
    eventfd_open,
    eventfd_ring,
    eventfd_reset,
    signal_open,
    signal_read,
    socket,
    bind,
    listen,
    accept,
    connect,
    shutdown_send,
    close,
    recv,
    peek,
    discard,
    send,
    send_with,
    recv_with,
    pipe_open,
    splice,
    pipe_room,
    set_option,
    set_nonblocking,
    is_listening,
    is_readable,
    socket_error,
    local_name,
    peer_name,
    local_ports,
    peer_user,
    bytes_acked,
    send_queue,
    cpus_allowed,
    map,
    open_append,
    write,
    unlink_socket,
    set_socket_access,
    resolve,
    dup,
    remote_connect, // what the other ends do; fd is the number of the remote
    remote_send,
    remote_recv,
    remote_shutdown,
    remote_close,
    remote_reset,
    note, // of the harness
    count_
};
const char* to_string(call what) noexcept;

struct trace_entry {
    time_point at;
    call what;
    std::int32_t fd;
    std::int64_t argument;
    std::int64_t result;
    const char* text; // of a note; constant
};

class trace {
  public:
    void add(const trace_entry& entry) noexcept {
        ring_[count_ % ring_.size()] = entry;
        count_++;
        if (echo_) print_one(echo_, entry);
        mix(static_cast<std::uint64_t>(entry.at.time_since_epoch().count()));
        mix(static_cast<std::uint64_t>(entry.what) << 32 | static_cast<std::uint32_t>(entry.fd));
        mix(static_cast<std::uint64_t>(entry.argument));
        mix(static_cast<std::uint64_t>(entry.result));
    }

    std::uint64_t hash() const noexcept { return hash_; }
    std::uint64_t count() const noexcept { return count_; }

    // Prints each as it comes, too. Null: no longer.
    void echo(std::FILE* to) noexcept { echo_ = to; }

    // The latest `entries_max` of them, oldest first. A look of a remote that found nothing is left out.
    void print(std::FILE* to, std::uint64_t entries_max) const noexcept;

  private:
    static void print_one(std::FILE* to, const trace_entry& e) noexcept;
    void mix(std::uint64_t value) noexcept { hash_ = (hash_ ^ value) * 0x9fb21c651e98df25u ^ hash_ >> 29; }

    std::array<trace_entry, 1024> ring_;
    std::FILE* echo_ = nullptr;
    std::uint64_t count_ = 0;
    std::uint64_t hash_ = 0x6a09e667f3bcc908u;
};

} // namespace weir::inline WEIR_KERNEL
