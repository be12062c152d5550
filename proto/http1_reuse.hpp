#pragma once
// http1_reuse: when an exchange is over, which of its two connections live on.
//
// Two pure functions from facts to one verdict each; the exchange collects the facts. A "no" names its first reason in
// the order of the enum, which is: what cannot be otherwise (the connection is no longer HTTP, or dead), then what
// would poison the next exchange, then what the peers asked for, then our own policy; so a policy never hides a fault.
// The facts default to those of a connection that must not live on: what the caller forgets to say, closes. How often
// and how long a server's connection may be used is the idle pool's to judge, for every protocol.

#include <cstdint>

#include "core/contract.hpp"
#include "proto/http1_head.hpp"

namespace weir::inline WEIR_KERNEL {

// What is known of the server's connection when its exchange ends. Rules R1, R2, R7-R10.
struct http1_server_facts {
    bool switched = false;          // 101: it is a tunnel now (R7)
    bool failed = false;            // a socket error or a message that was refused
    bool peer_shut = false;         // its FIN was seen (R1, R2)
    bool request_written = false;   // head and body, to the last byte, accepted by its socket (R1)
    bool early_response = false;    // the final response's head came before request_written (R10, RFC 9112 section 9.5)
    bool response_complete = false; // read to the end that its own framing gives (R1)
    bool surplus = false;    // a byte after that end was read, or is waiting to be (R2, R8, RFC 9112 section 9.2)
    bool user_bound = false; // authenticated as one user, who is not the next client (R16): http1_head::binds_user()
    http1_body_kind framing = http1_body_kind::until_close; // of the response; none for HEAD, 204, 304
    http1_version version = http1_version::v1_0;            // of the response
    bool close_asked = false;      // the response's Connection has close, or its Keep-Alive timeout=0
    bool keep_alive_asked = false; // the response's Connection has keep-alive; matters for 1.0
    bool close_sent = false;       // the request we wrote had Connection: close
    bool draining = false;         // the worker is, or the upstream was removed (R15)
};

enum class http1_server_verdict : std::uint8_t {
    park,
    switched,
    failed,
    peer_shut,
    request_unwritten,
    early_response,
    response_incomplete,
    until_close,
    surplus,
    user_bound,
    close_asked,
    version_1_0,
    close_sent,
    draining,
};

// May the server's connection go to the idle pool?
http1_server_verdict server_verdict(const http1_server_facts& facts) noexcept;

// What is known of the client's connection when its exchange ends.
struct http1_client_facts {
    bool switched = false;          // 101: it is a tunnel now
    bool failed = false;            // a socket error, or a request that was refused
    bool peer_shut = false;         // its FIN was seen
    bool pipelined = false;         // bytes after the request were read: the next one, answered even after a FIN
    bool request_complete = false;  // read to its end: else the rest of the body would be the next request
    bool response_complete = false; // all of it came, and none is missing from what is written or queued
    bool response_written = false;  // its last byte was accepted by the client's socket
    http1_body_kind framing = http1_body_kind::until_close; // of the response as written to the client
    http1_version version = http1_version::v1_0;            // of the request
    bool close_asked = false;                               // the request's Connection has close
    bool close_sent = false;                                // the response we wrote had it
    bool keep_alive_asked = false;                          // the request's Connection has keep-alive; matters for 1.0
    bool keep_alive_sent = false; // the response we wrote had it; a 1.0 client relies on it (RFC 9112 section 9.3)
    bool draining = false;
    bool uses_spent = false;
};

enum class http1_client_verdict : std::uint8_t {
    stay,
    switched,
    failed,
    request_incomplete,
    response_incomplete,
    response_unwritten,
    until_close,
    peer_shut, // and nothing pipelined
    close_asked,
    close_sent,
    version_1_0,
    draining,
    uses_spent,
};

// May the client's connection wait for its next request?
http1_client_verdict client_verdict(const http1_client_facts& facts) noexcept;

const char* to_string(http1_server_verdict verdict) noexcept;
const char* to_string(http1_client_verdict verdict) noexcept;

} // namespace weir::inline WEIR_KERNEL
