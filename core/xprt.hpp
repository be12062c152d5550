#pragma once
// xprt: how bytes move through a connection: raw, or through a layer that the user plugs in (TLS).
//
// A layer owns what conn.xprt_context() points to. It answers io values and keeps the slot's READY bits true: it calls
// conn.cant_recv() / cant_send() when, and only when, the kernel must be waited for. A layer that holds decrypted
// bytes leaves recv ready, whatever the socket says; the engine then calls again.
//
//   - The layer's own talk (a ticket, a record without payload) is taken in by recv and drain, and counts as nothing.
//   - What it owes of its own accord after the handshake (a KeyUpdate: RFC 8446 section 4.6.3) goes out with its next
//     send or shutdown; nobody calls it for that.
//   - An end is the layer's own end (close_notify: RFC 8446 section 6.1) and the FIN behind it. recv answers `closed`
//     for the former. A FIN that comes without it is a truncation, which anybody on the way can bring about: then recv
//     calls conn.fail(EPROTO) and answers `failed`, never `closed`.
//   - A layer with settings (a name to expect, credentials) derives from xprt: conn.transport() is the object that was
//     handed to dial() or listen().
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
    // Our end: sends what send() took and the layer still holds, then the layer's own end; FIN follows when it is done.
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
};

// Bytes as they are.
extern const xprt raw_xprt;

} // namespace weir::inline WEIR_KERNEL
