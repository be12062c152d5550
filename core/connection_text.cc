// connection: what is told of it: the names of causes and origins, and its peer.

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

// IPv4 has room in the connection itself, which is exactly full: no client costs memory for its address but one of IPv6.
void connection::keep_peer(const endpoint& at) noexcept {
    const endpoint plain = at.unmapped();
    peer_port_ = plain.port();
    switch (plain.family()) {
    case AF_INET:
        peer_kind_ = peer_kind::ipv4;
        peer_ipv4_ = plain.ipv4_address();
        break;
    case AF_INET6:
        peer_kind_ = peer_kind::ipv6;
        home_->ipv6_peers_[home_->pool_->index_of(*this)] = {plain.ipv6_address(), plain.scope()};
        break;
    case AF_UNIX: peer_kind_ = peer_kind::local; break;
    default: break;
    }
}

endpoint connection::peer() const noexcept {
    switch (peer_kind_) {
    case peer_kind::unknown: break;
    case peer_kind::ipv4: return endpoint::ipv4(peer_ipv4_, peer_port_);
    case peer_kind::ipv6: {
        const auto& known = home_->ipv6_peers_[home_->pool_->index_of(*this)];
        return endpoint::ipv6(known.address, peer_port_, known.scope);
    }
    case peer_kind::local: { // up to 107 bytes, which hardly any client has; unlike TCP it is known after the end, too
        sockaddr_storage storage{};
        socklen_t bytes = sizeof storage;
        if (sys::peer_name(fd(), reinterpret_cast<sockaddr*>(&storage), &bytes) == 0)
            return endpoint::from_kernel(storage, bytes);
        break;
    }
    }
    return {};
}

} // namespace weir::inline WEIR_KERNEL
