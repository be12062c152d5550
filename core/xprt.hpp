#pragma once
// xprt: how bytes move through a connection: raw, or through a layer that the user plugs in (TLS).
//
// A layer owns what conn.xprt_context() points to. It answers io values and keeps the slot's READY bits true: it calls
// conn.cant_recv() / cant_send() when, and only when, the kernel must be waited for. A layer that holds decrypted
// bytes leaves recv ready, whatever the socket says; the engine then calls again.
// Thread: the connection's loop.

#include <cstddef>
#include <cstdint>

#include "core/ctrl.hpp"
#include "core/data_cb.hpp"

namespace weir::inline WEIR_KERNEL {

enum class io : std::uint8_t {
    done,   // `bytes` were moved, at least one
    again,  // nothing for now: the poller will say when
    closed, // recv: the peer's end, after its last byte. Never answered by send
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
    // Null where the ctrl's drain is right, because nothing is hidden in this layer.
    drain_result (*drain)(connection& conn) noexcept;
    // Null: none needed. done: established; closed, failed: over; again: called once more when the socket is ready for
    // what is wanted. Both directions are wanted at first; the layer stops the one that it does not wait for.
    io (*handshake)(connection& conn) noexcept;
    // The connection is being closed, its descriptor still open: free the context. Null: nothing to free.
    void (*close)(connection& conn) noexcept;
    // Bytes that stay in the kernel, splice(2): into a pipe that is empty, and out of one that holds `bytes`. Null where
    // they must pass through the layer. SIGPIPE is not raised: see block_pipe_signal() in sys.hpp.
    io_result (*splice_in)(connection& conn, int pipe_fd, std::size_t bytes) noexcept = nullptr;
    io_result (*splice_out)(connection& conn, int pipe_fd, std::size_t bytes) noexcept = nullptr;
};

// Bytes as they are.
extern const xprt raw_xprt;

} // namespace weir::inline WEIR_KERNEL
