#pragma once
// tables: data_cbs that many programs need once and nobody wants to write twice.
//
// The idle table is idle_pool's (idle.hpp), the relay table relay_pool's (relay.hpp).

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

// Throws away what comes, and closes when the peer has ended. Needs no owner.
extern const data_cb discard_cb;

// Sends back what comes, in order, ends when the peer has ended and closes. While the peer does not take what it gets,
// nothing more is received. `owner` is a buffer, empty at first; it lives until the connection has ended.
extern const data_cb echo_cb;

} // namespace weir::inline WEIR_KERNEL
