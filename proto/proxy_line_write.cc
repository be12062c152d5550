// proxy_line: printing. A connection has one such line in its life, so a plain snprintf() does for v1.

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "proto/proxy_line.hpp"
#include "proto/proxy_line_wire.hpp"

namespace weir::inline WEIR_KERNEL {

using namespace proxy_wire;

namespace {

// In which both can be told.
unsigned family_of(const endpoint& source, const endpoint& destination) noexcept {
    const auto is_ip = [](const endpoint& at) { return at.family() == AF_INET || at.family() == AF_INET6; };
    if (source.family() == AF_UNIX && destination.family() == AF_UNIX) return family_unix;
    if (!is_ip(source) || !is_ip(destination)) return family_unspec;
    return source.family() == AF_INET && destination.family() == AF_INET ? family_inet : family_inet6;
}

const in_addr& ipv4_of(const endpoint& at) noexcept {
    return reinterpret_cast<const sockaddr_in*>(at.data())->sin_addr;
}

// Of an IPv4 address its place in IPv6: RFC 4291 section 2.5.5.2.
std::array<std::uint8_t, 16> ipv6_of(const endpoint& at) noexcept {
    std::array<std::uint8_t, 16> bytes{};
    if (at.family() == AF_INET) {
        bytes[10] = bytes[11] = 0xff;
        std::memcpy(&bytes[12], &ipv4_of(at), 4);
    } else {
        std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in6*>(at.data())->sin6_addr, bytes.size());
    }
    return bytes;
}

using address_room = std::array<char, endpoint::text_max>;

// endpoint::text() without port, brackets and scope.
std::string_view host_text(unsigned family, const endpoint& at, address_room& room) noexcept {
    if (family == family_inet) {
        const std::string_view text = at.text(room);
        return text.substr(0, text.rfind(':'));
    }
    const std::string_view text = endpoint::ipv6(ipv6_of(at), 0).text(room);
    return text.substr(1, text.rfind(']') - 1);
}

// Writes one part behind the other into room that is known to suffice.
class packer {
  public:
    explicit packer(std::span<char> room) noexcept : at_(reinterpret_cast<std::uint8_t*>(room.data())) {}

    void put(const void* bytes, std::size_t size) noexcept {
        if (size > 0) std::memcpy(at_, bytes, size);
        at_ += size;
    }
    void put(std::string_view bytes) noexcept { put(bytes.data(), bytes.size()); }
    void put_byte(unsigned value) noexcept { *at_++ = static_cast<std::uint8_t>(value); }
    void put_number(std::size_t value) noexcept {
        put_u16(at_, value);
        at_ += 2;
    }
    void put_tlv(const proxy_tlv& tlv) noexcept {
        put_byte(tlv.type);
        put_number(tlv.value.size());
        put(tlv.value);
    }
    void put_path(const endpoint& at) noexcept {
        constexpr std::size_t head = offsetof(sockaddr_un, sun_path);
        const std::size_t named = at.size() > head ? std::min(at.size() - head, unix_path_bytes) : 0;
        std::memset(at_, 0, unix_path_bytes);
        std::memcpy(at_, reinterpret_cast<const char*>(at.data()) + head, named);
        at_ += unix_path_bytes;
    }
    void put_addresses(unsigned family, const endpoint& source, const endpoint& destination) noexcept {
        if (family == family_unspec) return;
        for (const endpoint* at : {&source, &destination}) {
            if (family == family_inet) put(&ipv4_of(*at), 4);
            else if (family == family_inet6) put(ipv6_of(*at).data(), 16);
            else put_path(*at);
        }
        if (family == family_unix) return;
        put_number(source.port());
        put_number(destination.port());
    }

  private:
    std::uint8_t* at_;
};

// Both as they are told. A mapped address is IPv4's, unless the other one is IPv6's own.
struct told {
    told(const endpoint& s, const endpoint& d) noexcept
        : source(s.unmapped()), destination(d.unmapped()), family(family_of(source, destination)) {}
    endpoint source, destination;
    unsigned family;
};

} // namespace

std::string_view write_proxy_v1(std::span<char, proxy_v1_bytes_max> room, const endpoint& from,
                                const endpoint& to) noexcept {
    const auto [source, destination, family] = told{from, to};
    int size = 0;
    if (family == family_unspec || family == family_unix) {
        size = std::snprintf(room.data(), room.size(), "PROXY UNKNOWN\r\n");
    } else {
        address_room from_room, to_room;
        const std::string_view host = host_text(family, source, from_room),
                               to_host = host_text(family, destination, to_room);
        size = std::snprintf(room.data(), room.size(), "PROXY TCP%c %.*s %.*s %u %u\r\n",
                             family == family_inet ? '4' : '6', static_cast<int>(host.size()), host.data(),
                             static_cast<int>(to_host.size()), to_host.data(), unsigned{source.port()},
                             unsigned{destination.port()});
    }
    return {room.data(), static_cast<std::size_t>(size)};
}

std::string_view write_proxy_v2(std::span<char> room, const endpoint& from, const endpoint& to,
                                std::span<const proxy_tlv> tlvs, proxy_checksum checksum) noexcept {
    const auto [source, destination, family] = told{from, to};
    std::size_t size = head_bytes + address_bytes[family];
    if (checksum == proxy_checksum::crc32c) size += tlv_head_bytes + checksum_bytes;
    for (const proxy_tlv& tlv : tlvs)
        size += tlv_head_bytes + tlv.value.size();
    if (size > room.size() || size - head_bytes > UINT16_MAX) return {};

    packer out{room};
    out.put(signature);
    out.put_byte(family == family_unspec ? 0x20 : 0x21); // version 2; LOCAL, PROXY
    out.put_byte(family == family_unspec ? 0 : family << 4 | transport_stream);
    out.put_number(size - head_bytes);
    out.put_addresses(family, source, destination);
    for (const proxy_tlv& tlv : tlvs)
        out.put_tlv(tlv);
    const std::string_view header{room.data(), size};
    if (checksum == proxy_checksum::crc32c) {
        out.put_tlv({.type = proxy_tlv_type::crc32c, .value = "\0\0\0\0"sv});
        std::uint8_t* const value = reinterpret_cast<std::uint8_t*>(room.data()) + size - checksum_bytes;
        put_u32(value, ~crc32c_add(crc32c_begin, header));
    }
    return header;
}

} // namespace weir::inline WEIR_KERNEL
