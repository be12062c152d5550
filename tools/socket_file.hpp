#pragma once
// socket_file: who may connect to a unix listener, as written behind its path: "mode=660,user=www-data,group=33".

#include <span>
#include <string_view>

#include "core/socket.hpp"

namespace weir::inline WEIR_KERNEL::tools {

// Changes what is named. False: `problem` says why, NUL-terminated; users and groups are looked up, which may block: at
// the start only.
bool parse_socket_file(std::string_view parts, socket_file& to, std::span<char> problem) noexcept;

} // namespace weir::inline WEIR_KERNEL::tools
