#pragma once
// escape: what strangers chose, as it may stand in a line of a log: printable ASCII as it is, but for '"' and '\'; those
// and every other byte as \xHH. So nothing is taken for another line, or for the end of its quotes.
//
// Thread: any.

#include <cstddef>
#include <string_view>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL {

inline constexpr std::size_t escaped_max = 4; // characters for one byte

// One byte; the view borrows `room`.
inline std::string_view escape(char byte, char (&room)[escaped_max]) noexcept {
    constexpr char digits[] = "0123456789abcdef";
    const auto b = static_cast<unsigned char>(byte);
    if (b >= ' ' && b < 0x7f && b != '"' && b != '\\') {
        room[0] = byte;
        return {room, 1};
    }
    room[0] = '\\';
    room[1] = 'x';
    room[2] = digits[b >> 4];
    room[3] = digits[b & 15];
    return {room, escaped_max};
}

} // namespace weir::inline WEIR_KERNEL
