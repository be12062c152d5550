#pragma once
// http1_upgrade: which protocols a client may ask for instead of HTTP/1.1, and what a 101 may answer. RFC 9110 section
// 7.8.
//
// Protocols are allowed by a list, which is written like the value of an Upgrade field: "websocket, foo/2". An element
// is a name, or a name and a version. An offer matches an element that is equal to it but for case.
//
//   - A request goes on with those of its offers that are allowed. A request of which no offer is allowed goes on
//     without Upgrade and without Connection: upgrade, as ordinary HTTP/1.1.
//   - A 101 must name, in Upgrade, protocols that were asked for and allowed, and no other (RFC 9110 section 15.2.2).
//   - HTTP is never allowed: h2c, h2, HTTP/2.0. Behind such a 101 a client can send any number of requests that no
//     limit, no rule and no log of the proxy sees. HTTP2-Settings is a hop-by-hop field for the same reason
//     (RFC 7540 section 3.2.1): the parser marks it, nominated by Connection or not.
//
// Sans-io. Thread: any. Allocation: none. Lists are borrowed.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "proto/http1_head.hpp"
#include "proto/http1_text.hpp"

namespace weir::inline WEIR_KERNEL {

// Elements of one list, a bit for each: the first element is bit 0.
using http1_upgrade_set = std::uint16_t;
inline constexpr std::size_t http1_upgrades_max = 16;

enum class http1_upgrades_error : std::uint8_t {
    none,
    not_a_protocol, // an element that is no token, nor two of them with "/" between
    http,           // h2, h2c, or any version of HTTP
    too_many,       // more than http1_upgrades_max elements
};

// Whether a list may be used. The empty list is good: it allows nothing.
http1_upgrades_error check_upgrades(std::string_view allowed) noexcept;

// The elements of `allowed` that the request asks for. 0: the request is ordinary HTTP/1.1. Also 0 for a request of
// HTTP/1.0, and for one whose Connection has no `upgrade`.
http1_upgrade_set upgrades_asked(const http1_head& request, std::string_view allowed) noexcept;

// Whether the 101 names protocols of `asked`, at least one, and no other. Its Connection need not have `upgrade`: some
// servers leave that out, and the status says as much.
bool is_switch_to(const http1_head& response, std::string_view allowed, http1_upgrade_set asked) noexcept;

// The bit of the first element of `allowed` that is equal to `protocol`. 0: there is none.
http1_upgrade_set upgrade_bit(std::string_view protocol, std::string_view allowed) noexcept;

// Calls `take(protocol)` for each element of all Upgrade fields, as it came and in that order.
template <class Take>
void for_each_upgrade(const http1_head& head, Take take) noexcept {
    for (std::size_t i = 0; i < head.field_count(); i++) {
        const http1_field f = head.field(i);
        if (f.id != http1_name::upgrade) continue;
        std::string_view protocols = f.value;
        do {
            const std::string_view protocol = http1_text::next_element(protocols);
            if (!protocol.empty()) take(protocol);
        } while (protocols.data() != nullptr);
    }
}

} // namespace weir::inline WEIR_KERNEL
