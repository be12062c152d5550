// connection: the names of causes and origins.

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

const char* to_string(end_cause cause) noexcept {
    EXPECT(cause < end_cause::count_);
    switch (cause) {
    case end_cause::none: return "none";
    case end_cause::done: return "done";
    case end_cause::peer_closed: return "peer_closed";
    case end_cause::peer_failed: return "peer_failed";
    case end_cause::protocol: return "protocol";
    case end_cause::timed_out: return "timed_out";
    case end_cause::no_room: return "no_room";
    case end_cause::connect_failed: return "connect_failed";
    case end_cause::connect_timed_out: return "connect_timed_out";
    case end_cause::idle_peer_closed: return "idle_peer_closed";
    case end_cause::idle_peer_failed: return "idle_peer_failed";
    case end_cause::idle_unsolicited: return "idle_unsolicited";
    case end_cause::idle_age: return "idle_age";
    case end_cause::idle_worn: return "idle_worn";
    case end_cause::idle_evicted: return "idle_evicted";
    case end_cause::idle_pressure: return "idle_pressure";
    case end_cause::idle_flushed: return "idle_flushed";
    case end_cause::not_at_rest: return "not_at_rest";
    case end_cause::shutdown: return "shutdown";
    case end_cause::count_: break;
    }
    return "";
}

const char* to_string(conn_origin origin) noexcept {
    switch (origin) {
    case conn_origin::accepted: return "accepted";
    case conn_origin::dialed: return "dialed";
    case conn_origin::adopted: return "adopted";
    }
    return "";
}

} // namespace weir::inline WEIR_KERNEL
