#pragma once
// conn_facts: the state of a connection as flags, why it ended, and how it may be closed.

#include <cstdint>

#include "core/flags.hpp"

namespace weir::inline WEIR_KERNEL {

enum class conn_flag : std::uint16_t {
    connecting = 1 << 0,        // connect() is under way
    handshaking = 1 << 1,       // the transport's handshake is under way
    connected = 1 << 2,         // bytes may be moved
    recv_ended = 1 << 3,        // the peer's end was received
    send_ended = 1 << 4,        // our end was sent (shutdown)
    failed = 1 << 5,            // an error was met: error()
    idle = 1 << 6,              // in an idle_pool
    lingering = 1 << 7,         // closed gracefully: its user is gone already
    ending = 1 << 8,            // send_ended, but the transport's own end, and so the FIN, are still to be sent
    gave_up = 1 << 9,           // failed by our own doing: a deadline, a want of memory
    has_user_timeout = 1 << 10, // its TCP_USER_TIMEOUT is not the system's
    closed = 1 << 11,           // closed by its user: was_closed()
    refused = 1 << 12,          // its transport failed the handshake; the socket is alive, and delivers what was said
};
template <>
inline constexpr bool enable_flags<conn_flag> = true;

// Why a connection ended. Exactly one per connection.
enum class end_cause : std::uint8_t {
    none,           // it has not
    done,           // its user had no more use for it
    peer_closed,    // the peer's FIN, in use
    peer_failed,    // RST or another socket error, in use
    protocol,       // the peer broke the protocol
    timed_out,      // a deadline of its user
    no_room,        // it was accepted beyond what the conntab or the fdtab can hold
    connect_failed, // refused, unreachable: error()
    connect_timed_out,
    idle_peer_closed, // the peer's FIN, while idle
    idle_peer_failed, // RST or another socket error, while idle
    idle_unsolicited, // bytes arrived that nobody had asked for
    idle_age,         // idle for too long
    idle_worn,        // too old or used too often to be kept
    idle_evicted,     // the pool was full and this one idle for the longest
    idle_pressure,    // closed to free a descriptor, or a place at its server
    idle_flushed,     // its pool was emptied
    not_at_rest,      // it was to be parked with something still under way
    shutdown,         // the conntab was closed
    count_
};
const char* to_string(end_cause cause) noexcept;

enum class close_intent : std::uint8_t {
    graceful,  // send FIN, throw away what the peer still sends until it has ended or a deadline, then close: RFC 9112 9.6
    after_fin, // both sides are done: close, once the transport has said its own end. It has graceful's deadline
    silent,    // RST if the peer has not ended yet: no TIME_WAIT stays behind
    abort,     // RST: the peer shall see that something is missing
};

enum class conn_origin : std::uint8_t { accepted, dialed, adopted };
const char* to_string(conn_origin origin) noexcept;

} // namespace weir::inline WEIR_KERNEL
