#pragma once
// address: an endpoint together with the family that opens it, as written on a command line.

#include <span>
#include <string_view>

#include "core/ctrl.hpp"

namespace weir::inline WEIR_KERNEL {

struct address {
    const ctrl* family = nullptr;
    endpoint at{};
};

// Everything parse_tcp() and parse_unix() understand, with their errors.
result<address> parse_address(std::string_view text) noexcept;
// The same with all addresses of a name, as many as `to` has room for: how many. At least one.
result<std::size_t> parse_addresses(std::string_view text, std::span<address> to) noexcept;
// Whether parsing `text` asks a resolver: it has a host that is neither a number nor in brackets. Says nothing of
// whether the text is right.
bool names_host(std::string_view text) noexcept;

} // namespace weir::inline WEIR_KERNEL
