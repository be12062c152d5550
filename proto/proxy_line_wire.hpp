#pragma once
// proxy_line_wire: where what lies in a v2 header, for the two sources of proxy_line. Not for others.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL::proxy_wire {

using namespace std::string_view_literals;

inline constexpr std::string_view signature = "\r\n\r\n\0\r\nQUIT\n"sv;
static_assert(signature.size() == 12);

inline constexpr std::size_t version_at = 12, family_at = 13, length_at = 14, head_bytes = 16;
inline constexpr unsigned family_unspec = 0, family_inet = 1, family_inet6 = 2, family_unix = 3; // the upper four bits
inline constexpr unsigned transport_stream = 1;                                                  // the lower four
inline constexpr std::size_t unix_path_bytes = 108;
inline constexpr std::array<std::size_t, 4> address_bytes{0, 12, 36, 2 * unix_path_bytes}; // of both, by family
inline constexpr std::size_t tlv_head_bytes = 3;                                           // type, length
inline constexpr std::size_t checksum_bytes = 4;

// Numbers lie highest byte first.
inline std::uint16_t u16_at(const std::uint8_t* at) noexcept { return static_cast<std::uint16_t>(at[0] << 8 | at[1]); }
inline std::uint32_t u32_at(const std::uint8_t* at) noexcept {
    return std::uint32_t{u16_at(at)} << 16 | u16_at(at + 2);
}
inline void put_u16(std::uint8_t* at, std::size_t value) noexcept {
    at[0] = static_cast<std::uint8_t>(value >> 8);
    at[1] = static_cast<std::uint8_t>(value);
}
inline void put_u32(std::uint8_t* at, std::uint32_t value) noexcept {
    put_u16(at, value >> 16);
    put_u16(at + 2, value & 0xffff);
}

// CRC32C, RFC 9260 appendix A: bits reversed, so the polynomial is, too. The result is the complement of the last.
inline constexpr std::uint32_t crc32c_begin = 0xffffffff;
inline constexpr auto crc32c_table = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
        table[byte] = crc;
    }
    return table;
}();

inline std::uint32_t crc32c_add(std::uint32_t crc, std::string_view bytes) noexcept {
    for (const char byte : bytes)
        crc = crc >> 8 ^ crc32c_table[(crc ^ static_cast<std::uint8_t>(byte)) & 0xff];
    return crc;
}

} // namespace weir::inline WEIR_KERNEL::proxy_wire
