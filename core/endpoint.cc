// endpoint: making, comparing and printing addresses.

#include "core/endpoint.hpp"

#include <cstdio>
#include <cstring>

namespace weir::inline WEIR_KERNEL {

namespace {

std::uint16_t swap16(std::uint16_t v) noexcept { return __builtin_bswap16(v); }
std::uint32_t swap32(std::uint32_t v) noexcept { return __builtin_bswap32(v); }
constexpr in6_addr ipv6_any = IN6ADDR_ANY_INIT, ipv6_loopback = IN6ADDR_LOOPBACK_INIT;
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "network byte order is a swap here");

// The longest run of two or more zero groups, which RFC 5952 section 4.2 writes as "::". Length 0: none.
struct zero_run {
    int first = 0, length = 0;
};
zero_run longest_zeroes(const std::array<unsigned, 8>& groups) noexcept {
    zero_run best, run;
    for (int i = 0; i < 8; i++) {
        if (groups[static_cast<std::size_t>(i)] != 0) {
            run.length = 0;
            continue;
        }
        if (run.length == 0) run.first = i;
        run.length++;
        if (run.length > best.length) best = run;
    }
    return best.length >= 2 ? best : zero_run{};
}

int print_ipv6(char* to, std::size_t room, const sockaddr_in6& v6) noexcept {
    std::array<unsigned, 8> groups;
    for (std::size_t i = 0; i < 8; i++)
        groups[i] = static_cast<unsigned>(v6.sin6_addr.s6_addr[2 * i] << 8 | v6.sin6_addr.s6_addr[2 * i + 1]);
    const zero_run skip = longest_zeroes(groups);
    const bool is_mapped = IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr);
    std::size_t at = 0;
    auto put = [&](const char* format, unsigned value) {
        at += static_cast<std::size_t>(std::snprintf(to + at, room - at, format, value));
    };
    put("[", 0);
    for (int i = 0; i < (is_mapped ? 6 : 8); i++) {
        if (skip.length && i == skip.first) {
            put("::", 0);
            i += skip.length - 1;
            continue;
        }
        if (i > 0 && i != skip.first + skip.length) put(":", 0);
        put("%x", groups[static_cast<std::size_t>(i)]);
    }
    for (std::size_t i = 12; is_mapped && i < 16; i++)
        put(i == 12 ? ":%u" : ".%u", v6.sin6_addr.s6_addr[i]);
    if (v6.sin6_scope_id) put("%%%u", v6.sin6_scope_id);
    put("]:%u", swap16(v6.sin6_port));
    return static_cast<int>(at);
}

} // namespace

endpoint endpoint::ipv4(std::uint32_t address, std::uint16_t port) noexcept {
    endpoint e;
    e.as_.v4.sin_family = AF_INET;
    e.as_.v4.sin_addr.s_addr = swap32(address);
    e.as_.v4.sin_port = swap16(port);
    e.bytes_ = sizeof e.as_.v4;
    return e;
}

endpoint endpoint::ipv6(const std::array<std::uint8_t, 16>& address, std::uint16_t port, std::uint32_t scope) noexcept {
    endpoint e;
    e.as_.v6.sin6_family = AF_INET6;
    std::memcpy(e.as_.v6.sin6_addr.s6_addr, address.data(), address.size());
    e.as_.v6.sin6_port = swap16(port);
    e.as_.v6.sin6_scope_id = scope;
    e.bytes_ = sizeof e.as_.v6;
    return e;
}

result<endpoint> endpoint::unix_path(std::string_view path) noexcept {
    if (path.empty() || path == "@" || path.find('\0') != path.npos) return failure{EINVAL};
    endpoint e;
    if (path.size() >= sizeof e.as_.local.sun_path) return failure{ENAMETOOLONG};
    e.as_.local.sun_family = AF_UNIX;
    std::memcpy(e.as_.local.sun_path, path.data(), path.size());
    e.bytes_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    if (path[0] == '@') e.as_.local.sun_path[0] = '\0'; // abstract: the length ends it, unix(7)
    else e.bytes_++;                                    // a path's NUL counts
    return e;
}

endpoint endpoint::from_kernel(const sockaddr_storage& storage, socklen_t bytes) noexcept {
    endpoint e;
    const socklen_t have = bytes < sizeof e.as_ ? bytes : static_cast<socklen_t>(sizeof e.as_);
    std::memcpy(&e.as_, &storage, have);
    e.bytes_ = have;
    return e;
}

std::uint16_t endpoint::port() const noexcept {
    if (family() == AF_INET) return swap16(as_.v4.sin_port);
    if (family() == AF_INET6) return swap16(as_.v6.sin6_port);
    return 0;
}

std::uint32_t endpoint::ipv4_address() const noexcept {
    EXPECT(family() == AF_INET);
    return swap32(as_.v4.sin_addr.s_addr);
}

std::array<std::uint8_t, 16> endpoint::ipv6_address() const noexcept {
    EXPECT(family() == AF_INET6);
    std::array<std::uint8_t, 16> bytes;
    std::memcpy(bytes.data(), as_.v6.sin6_addr.s6_addr, bytes.size());
    return bytes;
}

std::uint32_t endpoint::scope() const noexcept {
    EXPECT(family() == AF_INET6);
    return as_.v6.sin6_scope_id;
}

endpoint endpoint::with_port(std::uint16_t port) const noexcept {
    endpoint e = *this;
    if (family() == AF_INET) e.as_.v4.sin_port = swap16(port);
    if (family() == AF_INET6) e.as_.v6.sin6_port = swap16(port);
    return e;
}

bool endpoint::is_any() const noexcept {
    if (family() == AF_INET) return as_.v4.sin_addr.s_addr == 0;
    return family() == AF_INET6 && std::memcmp(&as_.v6.sin6_addr, &ipv6_any, sizeof ipv6_any) == 0;
}

bool endpoint::is_loopback() const noexcept {
    if (family() == AF_INET) return swap32(as_.v4.sin_addr.s_addr) >> 24 == 127;
    return family() == AF_INET6 && std::memcmp(&as_.v6.sin6_addr, &ipv6_loopback, sizeof ipv6_loopback) == 0;
}

bool endpoint::same_address(const endpoint& other) const noexcept {
    if (family() != other.family()) return false;
    if (family() == AF_INET) return as_.v4.sin_addr.s_addr == other.as_.v4.sin_addr.s_addr;
    return family() == AF_INET6 &&
           std::memcmp(&as_.v6.sin6_addr, &other.as_.v6.sin6_addr, sizeof as_.v6.sin6_addr) == 0;
}

const char* endpoint::path() const noexcept {
    EXPECT(family() == AF_UNIX);
    return bytes_ > offsetof(sockaddr_un, sun_path) ? as_.local.sun_path : "";
}

bool endpoint::is_mapped() const noexcept {
    return family() == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&as_.v6.sin6_addr);
}

endpoint endpoint::unmapped() const noexcept {
    if (!is_mapped()) return *this;
    std::uint32_t address;
    std::memcpy(&address, &as_.v6.sin6_addr.s6_addr[12], sizeof address);
    return ipv4(swap32(address), port());
}

std::string_view endpoint::text(std::span<char, text_max> room) const noexcept {
    int length = 0;
    if (family() == AF_INET) {
        const std::uint32_t a = swap32(as_.v4.sin_addr.s_addr);
        length = std::snprintf(room.data(), room.size(), "%u.%u.%u.%u:%u", a >> 24, a >> 16 & 255, a >> 8 & 255,
                               a & 255, port());
    } else if (family() == AF_INET6) {
        length = print_ipv6(room.data(), room.size(), as_.v6);
    } else if (family() == AF_UNIX) {
        const std::size_t named = bytes_ - offsetof(sockaddr_un, sun_path);
        const bool is_abstract = named > 0 && as_.local.sun_path[0] == '\0';
        length = std::snprintf(room.data(), room.size(), "unix:%s%.*s", is_abstract ? "@" : "",
                               static_cast<int>(named - is_abstract), as_.local.sun_path + is_abstract);
    } else {
        length = std::snprintf(room.data(), room.size(), "(unspecified)");
    }
    return {room.data(), static_cast<std::size_t>(length)};
}

std::string_view endpoint::log_text(std::span<char, log_text_max> room) const noexcept {
    char plain[text_max], escaped[escaped_max];
    std::size_t size = 0;
    for (const char byte : unmapped().text(plain))
        for (const char c : escape(byte, escaped))
            room[size++] = c;
    return {room.data(), size};
}

bool operator==(const endpoint& a, const endpoint& b) noexcept {
    return a.bytes_ == b.bytes_ && std::memcmp(&a.as_, &b.as_, a.bytes_) == 0;
}

result<endpoint> local_endpoint(int fd) noexcept {
    sockaddr_storage storage{};
    socklen_t bytes = sizeof storage;
    if (const int r = sys::local_name(fd, reinterpret_cast<sockaddr*>(&storage), &bytes); r < 0) return failure{-r};
    return endpoint::from_kernel(storage, bytes);
}

} // namespace weir::inline WEIR_KERNEL
