#pragma once
// proxy_line: what a proxy says first on a connection, of whom it speaks for: the PROXY protocol, versions 1 and 2.
//
//     start(options)  parse(bytes)... -> more | done | bad     then the accessors; the payload begins at size()
//
//     v1: "PROXY" family source destination ports CRLF, text, at most 107 bytes
//     v2: signature(12) version|command(1) family|transport(1) length(2) addresses(0, 12, 36, 216) TLVs
//
// parse() gets everything from the connection's first byte on, again and longer each time, at any address. The verdict
// does not depend on how the bytes were cut, and what can be refused by its first bytes is refused by them: a client
// that speaks HTTP is told apart at its fourth byte at the latest (PROPFIND). A line's control bytes come before its
// limit, that before its grammar; a v2 header's first 16 bytes before the rest.
//
// Where the specification lets a receiver choose:
//  - addresses that say nothing about this connection (v1 UNKNOWN; v2 LOCAL, or family UNSPEC) are not used, and bytes
//    without a known layout are skipped, but for control bytes of a line;
//  - an INET, INET6 or UNIX pair that is not of a stream is refused: a datagram's sender is not who speaks here, and to
//    go on with the connection's own addresses would say that the proxy is the client;
//  - numbers have no leading zeroes (an octal reader differs); an IPv6 group may have them, in either case.
//
// The caller says which peers may speak so: a client that is believed can claim any address. Thread: any, one at a
// time. Allocation: none.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/contract.hpp"
#include "core/endpoint.hpp"

namespace weir::inline WEIR_KERNEL {

// With CRLF: "PROXY UNKNOWN", two IPv6 addresses and two ports, each as long as it can be.
inline constexpr std::size_t proxy_v1_bytes_max = 107;
// The head of 16, and two unix paths of 108; TLVs come on top.
inline constexpr std::size_t proxy_v2_bytes_max = 16 + 2 * 108;

enum class proxy_command : std::uint8_t {
    local, // the proxy speaks for itself (a health check): the connection's own addresses stand
    proxy, // it speaks for source(), if that is known
};

// One name for each way to be refused.
enum class proxy_error : std::uint8_t {
    none,
    not_proxy, // neither version begins so, or not one that is accepted
    // v1
    bare_lf,
    bare_cr,
    control_byte,
    line_too_long,
    bad_protocol, // not TCP4, TCP6 or UNKNOWN
    part_missing,
    doubled_space,
    wrong_family, // TCP4 with an IPv6 address, TCP6 with an IPv4 one
    bad_address,
    leading_zero,
    bad_port,
    port_too_large,
    trailing_bytes, // between the last port and CRLF
    // v2
    bad_version,
    bad_command,
    bad_family,
    bad_transport,
    not_a_stream,
    header_too_large,
    addresses_cut, // the length has no room for them
    bad_unix_path, // 108 bytes without a NUL
    tlvs_refused,
    tlv_cut, // it reaches beyond the header, or a part of one beyond the whole
    bad_checksum,
    checksum_repeated,
    checksum_mismatch
};

const char* to_string(proxy_error error) noexcept;

enum class proxy_accept : std::uint8_t { either, v1, v2 };

// What may stand behind the addresses of v2. Whatever is accepted is checked: no TLV, nor one inside PP2_TYPE_SSL,
// reaches beyond its end, and a PP2_TYPE_CRC32C is right.
enum class proxy_tlvs : std::uint8_t { refuse, skip, keep };

struct proxy_options {
    proxy_accept accept = proxy_accept::either;
    proxy_tlvs tlvs = proxy_tlvs::skip;
    std::uint16_t bytes_max = 4096; // of a whole v2 header: the largest that passes. All must lie in one buffer.
};

// PP2_TYPE_... of those that mean something here.
namespace proxy_tlv_type {
inline constexpr std::uint8_t crc32c = 0x03, noop = 0x04, ssl = 0x20;
}

struct proxy_tlv {
    std::uint8_t type = 0;
    std::string_view value{};
};

// Takes the first TLV that is no NOOP off `rest`, which is tlvs(), or from the sixth byte on the value of PP2_TYPE_SSL.
// False when there is none.
bool next_tlv(std::string_view& rest, proxy_tlv& tlv) noexcept;

class proxy_line {
  public:
    enum class progress : std::uint8_t { more, done, bad };

    // Begins a new connection.
    void start(const proxy_options& options = {}) noexcept;

    // `bytes`: all that was received from the connection's first byte on; at least as many as the call before was
    // given. done: the line or header ends within them, at size(); said again by each later call, and so is bad.
    [[nodiscard]] progress parse(std::string_view bytes) noexcept;

    // none unless bad.
    proxy_error error() const noexcept { return error_; }

    // ---- All below: only after done. ----

    // What is to be taken off the connection's bytes; the rest is payload.
    std::size_t size() const noexcept { return size_; }
    int version() const noexcept { return version_; } // 1 or 2
    proxy_command command() const noexcept { return command_; }

    // Who connected, and to what: both specified(), or neither, and then the connection's own addresses stand. A unix
    // endpoint may have no name.
    const endpoint& source() const noexcept { return source_; }
    const endpoint& destination() const noexcept { return destination_; }

    // For next_tlv(): a view into the latest `bytes`; "" unless the options say keep.
    std::string_view tlvs() const noexcept { return {base_ + tlvs_at_, tlvs_at_ == 0 ? 0 : size_ - tlvs_at_}; }

  private:
    proxy_error take_v1(std::string_view bytes) noexcept;
    proxy_error find_line(std::string_view bytes) noexcept;
    proxy_error take_line(std::string_view line) noexcept;
    proxy_error take_v2(std::string_view bytes) noexcept;
    proxy_error take_block(std::string_view header) noexcept;
    proxy_error take_tlvs(std::string_view header, std::size_t at) noexcept;

    const char* base_ = nullptr;
    proxy_options options_;
    proxy_error error_ = proxy_error::none;
    proxy_command command_ = proxy_command::proxy;
    std::uint8_t version_ = 0;
    std::uint32_t seen_ = 0;    // v1: the search for the line's end goes on here
    std::uint32_t size_ = 0;    // 0 until done
    std::uint32_t tlvs_at_ = 0; // 0: none were kept
    endpoint source_;
    endpoint destination_;
};

// ---- Printing. A mapped address (::ffff:a.b.c.d) is IPv4: two of them, as an IPv4 client of an IPv6 listener has, are
// told as TCP4 and INET, by whose rules receivers compare. An IPv4 address, mapped or not, beside an IPv6 one is told as
// IPv6. Any other pair of two families, or with an unspecified one, is told as nothing: UNKNOWN and LOCAL, which every
// receiver must accept. A scope is this machine's own matter, and left out.

// v1; it has no unix addresses: UNKNOWN. The view is into `room`.
std::string_view write_proxy_v1(std::span<char, proxy_v1_bytes_max> room, const endpoint& source,
                                const endpoint& destination) noexcept;

enum class proxy_checksum : std::uint8_t { none, crc32c };

// v2, with `tlvs` behind the addresses and the checksum behind those. "" if they do not fit in `room`, or in a header.
// Two unix endpoints are told as such, and some receivers refuse that (HAProxy 2.6 takes INET and INET6 only): for
// those pass unspecified ones.
std::string_view write_proxy_v2(std::span<char> room, const endpoint& source, const endpoint& destination,
                                std::span<const proxy_tlv> tlvs = {},
                                proxy_checksum checksum = proxy_checksum::none) noexcept;

} // namespace weir::inline WEIR_KERNEL
