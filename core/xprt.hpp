#pragma once
// xprt: how bytes move through a connection: raw, or through a layer that the user plugs in (TLS).
//
// XPRT.md beside this file says how one is written. The contract in short:
//   - The layer keeps the slot's READY bits true. It calls conn.cant_recv() or cant_send() when, and only when, this call
//     has shown that the kernel must be waited for. While it holds bytes, receiving stays ready; conn.may_recv() makes
//     it so.
//   - `failed` from recv and send follows conn.fail(errno). A handshake that answers `failed` without it refuses the
//     peer: the socket is alive, and the close sends FIN and lingers, so that an alert can be read.
//   - The layer's own end (close_notify: RFC 8446 section 6.1) is `closed`. A FIN without it is a truncation, which
//     anybody on the way can bring about: conn.fail(EPROTO), and `failed`.
//   - The layer's own talk (a ticket, a record without payload) counts as nothing. What it owes after the handshake (a
//     KeyUpdate: RFC 8446 section 4.6.3) goes out with its next send or shutdown.
//   - No function raises SIGPIPE (use sys::send) or uses conntab::scratch().
// Lifetime: the object outlives every conntab that uses it; its context (conn.xprt_context()) is made in the first
// handshake and freed in close. Several loops may share the object.
// Thread: the connection's loop.

#include <cstddef>
#include <cstdint>

#include "core/ctrl.hpp"
#include "core/data_cb.hpp"

namespace weir::inline WEIR_KERNEL {

enum class io : std::uint8_t {
    done,   // `bytes` were moved, at least one
    again,  // nothing for now: the poller will say when
    closed, // recv: the peer's end, after its last byte. Never answered by send or shutdown
    failed, // the connection is dead: connection::error()
};

struct io_result {
    io end;
    std::size_t bytes;
};

struct xprt {
    const char* name;
    io_result (*recv)(connection& conn, void* to, std::size_t bytes) noexcept;
    // Answers only bytes whose records the socket has whole. What was not answered as moved is offered again: after
    // `again` or a short `done` the next send begins with the same bytes, at least as many. A user who gives up sends
    // nothing more.
    io_result (*send)(connection& conn, const iovec* parts, std::size_t parts_count, bool more) noexcept;
    // Throws away what was received. A FIN is `closed` whatever is missing in front of it, since nobody waits for that;
    // `partial` says that the beginning of a record is kept. Null where the ctrl's drain is right, because
    // nothing is hidden in this layer: what was received is in the socket, and what send() took is all that was sent.
    drain_result (*drain)(connection& conn) noexcept;
    // Null: none needed. done: established; closed, failed: over; again: called once more when the socket is ready for
    // what is wanted. Both directions are wanted at first; the layer stops the one that it does not wait for, and wants
    // it again when it does.
    io (*handshake)(connection& conn) noexcept;
    // The connection is being closed, its descriptor still open: free the context. Null: nothing to free.
    void (*close)(connection& conn) noexcept;
    // Our end: sends the record that was begun, then the layer's own end; FIN follows when it is done.
    // again: after cant_send(); called once more when there is room, as long as the closer's deadline allows. failed:
    // it cannot be said, and a reset takes its place. Called while connected and not failed, never again after `done`.
    // Null: FIN says it all.
    io (*shutdown)(connection& conn) noexcept = nullptr;
    // Bytes that stay in the kernel, splice(2): into a pipe that is empty, and out of one that holds `bytes`. Null
    // where they must pass through the layer. A short one says nothing of the socket, which stays ready. Into a pipe,
    // `again` with recv ready says that the next bytes cannot be spliced: the slot is unsure then, and recv() gets
    // them. SIGPIPE is not raised: whoever splices out blocks it in his thread, block_pipe_signal() in sys.hpp.
    io_result (*splice_in)(connection& conn, int pipe_fd, std::size_t bytes) noexcept = nullptr;
    io_result (*splice_out)(connection& conn, int pipe_fd, std::size_t bytes) noexcept = nullptr;
    // Whether this connection, which is connected, can be spliced (kTLS depends on its cipher). Null: each can, if both
    // of the above are there.
    bool (*can_splice)(const connection& conn) noexcept = nullptr;
    // Why it failed, in words for a log. A literal, or valid until the next call of it. Null: strerror(3) of error().
    // Called before close().
    const char* (*reason)(const connection& conn) noexcept = nullptr;
};

// Bytes as they are.
extern const xprt raw_xprt;

} // namespace weir::inline WEIR_KERNEL
