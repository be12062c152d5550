#pragma once
// data_cb: who is served by a connection. The front door of the library.
//
// A connection points to one table. Changing what it does is changing that pointer: no allocation, no system call.
//
//     recv   bytes, or an end, may be readable. Called while the user wants to receive and the kernel may.
//     send   there may be room. Called while the user wants to send and the kernel may.
//     wake   the connection's state changed: connected, ended, failed. Called last, at most once per event, whatever
//            is wanted: a side that wants nothing still hears of an abort.
//
// The contract
//   - A callback goes on until it has no more to do, until `again`, or until it stops wanting; as long as it leaves a
//     direction wanted and ready it is called again, in the next turn.
//   - It answers `gone` if the connection was closed, by whomever; nothing of it is touched after that. Otherwise
//     `keep`. connection::close() returns `gone`, so that a callback can end with `return conn.close(...)`.
//   - The table and the descriptor's generation are read again before each of the three: after a swap inside recv the
//     rest of the event goes to the new table, after a close to nobody.
//   - A callback may close, dial, attach, park or take any connection of its own loop. It must not block.
//   - No slot is null: "nothing to do" is a function, here keep_on().
// Thread: the connection's loop. Tables are constants and outlive every connection that points to them.

#include <cstdint>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL {

class connection;

enum class verdict : std::uint8_t {
    keep, // the connection is still there
    gone, // it was closed: touch nothing of it
};

struct data_cb {
    const char* name; // for traces and ledgers
    verdict (*recv)(connection& conn) noexcept;
    verdict (*send)(connection& conn) noexcept;
    verdict (*wake)(connection& conn) noexcept;
};

// The callback that does nothing.
inline verdict keep_on(connection&) noexcept { return verdict::keep; }

} // namespace weir::inline WEIR_KERNEL
