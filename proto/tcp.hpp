#pragma once
// tcp: the ctrl table of TCP sockets, and its addresses as text.

#include <span>
#include <string_view>

#include "core/ctrl.hpp"

namespace weir::inline WEIR_KERNEL {

// Listens, connects (non-blocking, no Nagle delay, keepalive) and drains with MSG_TRUNC, which throws bytes away
// without copying them, tcp(7).
extern const ctrl tcp;

// "127.0.0.1:8080", "[::1]:8080", "localhost:8080", ":8080" (every IPv4 address; "*:8080" is none). A name is looked
// up, which may block: never in a loop's thread once it turns. EINVAL: not such a text; ENOENT: no such host. Of a name
// the first address, in the order of getaddrinfo(3).
result<endpoint> parse_tcp(std::string_view text) noexcept;
// The same with all addresses of a name, in that order, as many as `to` has room for: how many. At least one.
result<std::size_t> parse_tcp(std::string_view text, std::span<endpoint> to) noexcept;

} // namespace weir::inline WEIR_KERNEL
