#pragma once
// address: an endpoint together with the family that opens it, as written on a command line.

#include <string_view>

#include "core/ctrl.hpp"

namespace weir::inline WEIR_KERNEL {

struct address {
    const ctrl* family = nullptr;
    endpoint at{};
};

// Everything parse_tcp() and parse_unix() understand, with their errors.
result<address> parse_address(std::string_view text) noexcept;

} // namespace weir::inline WEIR_KERNEL
