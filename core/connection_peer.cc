// connection: whose socket is at the other end.

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

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
