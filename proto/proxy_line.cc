// proxy_line: parsing. Text first (v1), then bytes (v2). Printing is in proxy_line_write.cc.

#include "proto/proxy_line.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "proto/proxy_line_wire.hpp"

namespace weir::inline WEIR_KERNEL {

using namespace proxy_wire;

// Field by field: to assign a new object costs 16 ns of the 45 that a v2 header took.
void proxy_line::start(const proxy_options& options) noexcept {
    options_ = options;
    error_ = proxy_error::none;
    command_ = proxy_command::proxy;
    seen_ = size_ = tlvs_at_ = 0;
    source_ = destination_ = {};
}

proxy_line::progress proxy_line::parse(std::string_view bytes) noexcept {
    EXPECT_SLOW(bytes.size() >= size_);
    base_ = bytes.data();
    if (error_ == proxy_error::none && size_ == 0 && !bytes.empty()) {
        version_ = bytes[0] == signature[0] ? 2 : 1;
        const bool refused = options_.accept == (version_ == 1 ? proxy_accept::v2 : proxy_accept::v1);
        error_ = refused ? proxy_error::not_proxy : version_ == 1 ? take_v1(bytes) : take_v2(bytes);
    }
    if (error_ != proxy_error::none) return progress::bad;
    return size_ > 0 ? progress::done : progress::more;
}

// ---- v1

namespace {

constexpr std::string_view v1_word = "PROXY ";
constexpr std::string_view tcp4 = "PROXY TCP4", tcp6 = "PROXY TCP6", unknown = "PROXY UNKNOWN";

// As far as either goes.
bool agree(std::string_view bytes, std::string_view word) noexcept {
    const std::size_t size = std::min(bytes.size(), word.size());
    return bytes.substr(0, size) == word.substr(0, size);
}

// Takes " word" off a line's rest, which is empty or begins with a space.
proxy_error take_word(std::string_view& rest, std::string_view& word) noexcept {
    if (rest.size() <= 1) return proxy_error::part_missing;
    rest.remove_prefix(1);
    word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(word.size());
    return word.empty() ? proxy_error::doubled_space : proxy_error::none;
}

// 1*DIGIT without leading zeroes, at most `max`. `bad`: what it is called when it is no number.
proxy_error take_number(std::string_view text, unsigned max, unsigned& value, proxy_error bad,
                        proxy_error too_large) noexcept {
    if (text.empty()) return bad;
    value = 0;
    for (const char byte : text) {
        if (byte < '0' || byte > '9') return bad;
        value =
            std::min(value * 10 + static_cast<unsigned>(byte - '0'), max + 1); // a line's worth of nines stays there
    }
    if (text[0] == '0' && text.size() > 1) return proxy_error::leading_zero;
    return value > max ? too_large : proxy_error::none;
}

proxy_error take_port(std::string_view& rest, std::uint16_t& port) noexcept {
    std::string_view word;
    if (const proxy_error e = take_word(rest, word); e != proxy_error::none) return e;
    unsigned value = 0;
    const proxy_error e = take_number(word, 65535, value, proxy_error::bad_port, proxy_error::port_too_large);
    port = static_cast<std::uint16_t>(value);
    return e;
}

// Exactly four numbers.
proxy_error parse_ipv4(std::string_view text, std::uint8_t* to) noexcept {
    for (int i = 0; i < 4; i++) {
        const std::string_view part = text.substr(0, i < 3 ? text.find('.') : text.npos);
        unsigned value = 0;
        const proxy_error e = take_number(part, 255, value, proxy_error::bad_address, proxy_error::bad_address);
        if (e != proxy_error::none) return e;
        if (i < 3 && part.size() == text.size()) return proxy_error::bad_address;
        to[i] = static_cast<std::uint8_t>(value);
        text.remove_prefix(std::min(part.size() + 1, text.size()));
    }
    return proxy_error::none;
}

bool parse_group(std::string_view text, std::uint8_t* to) noexcept {
    if (text.empty() || text.size() > 4) return false;
    unsigned value = 0;
    for (const char byte : text) {
        const int letter = byte | 0x20;
        const bool is_digit = byte >= '0' && byte <= '9';
        if (!is_digit && (letter < 'a' || letter > 'f')) return false;
        value = value << 4 | static_cast<unsigned>(is_digit ? byte - '0' : letter - 'a' + 10);
    }
    put_u16(to, value);
    return true;
}

// RFC 4291 section 2.2: eight groups; "::" once for at least one of them; an IPv4 address may be the last two.
proxy_error parse_ipv6(std::string_view text, std::array<std::uint8_t, 16>& to) noexcept {
    constexpr std::size_t no_gap = 17;
    std::size_t at = 0, gap = no_gap;
    if (text.starts_with("::")) {
        gap = 0;
        text.remove_prefix(2);
    }
    while (!text.empty()) {
        const std::string_view group = text.substr(0, text.find(':'));
        const bool is_last = group.size() == text.size();
        if (is_last && at <= 12 && group.find('.') != group.npos) {
            if (const proxy_error e = parse_ipv4(group, &to[at]); e != proxy_error::none) return e;
            at += 4;
            break;
        }
        if (at == 16 || !parse_group(group, &to[at])) return proxy_error::bad_address;
        at += 2;
        if (is_last) break;
        text.remove_prefix(group.size() + 1);
        if (text.empty()) return proxy_error::bad_address; // one colon at the end
        if (text[0] != ':') continue;
        if (gap != no_gap) return proxy_error::bad_address;
        gap = at;
        text.remove_prefix(1);
    }
    if ((gap == no_gap) != (at == 16)) return proxy_error::bad_address;
    if (gap != no_gap) {
        std::copy_backward(to.begin() + gap, to.begin() + at, to.end());
        std::fill_n(to.begin() + gap, 16 - at, std::uint8_t{0});
    }
    return proxy_error::none;
}

// The address of `family` that the next word is; its port is not known yet.
struct host {
    std::array<std::uint8_t, 16> bytes{};

    proxy_error take(int family, std::string_view& rest) noexcept {
        std::string_view word;
        if (const proxy_error e = take_word(rest, word); e != proxy_error::none) return e;
        const bool has_colon = word.find(':') != word.npos, has_dot = word.find('.') != word.npos;
        if (family == AF_INET ? has_colon : has_dot && !has_colon) return proxy_error::wrong_family;
        return family == AF_INET ? parse_ipv4(word, bytes.data()) : parse_ipv6(word, bytes);
    }
    endpoint at(int family, std::uint16_t port) const noexcept {
        return family == AF_INET ? endpoint::ipv4(u32_at(bytes.data()), port) : endpoint::ipv6(bytes, port);
    }
};

} // namespace

proxy_error proxy_line::take_v1(std::string_view bytes) noexcept {
    if (!agree(bytes, tcp4) && !agree(bytes, tcp6) && !agree(bytes, unknown))
        return bytes.starts_with(v1_word) ? proxy_error::bad_protocol : proxy_error::not_proxy;
    if (const proxy_error e = find_line(bytes); e != proxy_error::none || size_ == 0) return e;
    return take_line(bytes.substr(0, size_ - 2));
}

// Sets size_ if the line is complete.
proxy_error proxy_line::find_line(std::string_view bytes) noexcept {
    constexpr std::size_t line_max = proxy_v1_bytes_max - 2;
    for (const std::size_t size = std::min(bytes.size(), line_max + 1); seen_ < size; seen_++) {
        const char byte = bytes[seen_];
        if (byte == '\r') {
            if (seen_ + 1 == bytes.size()) return proxy_error::none;
            if (bytes[seen_ + 1] != '\n') return proxy_error::bare_cr;
            size_ = seen_ + 2;
            return proxy_error::none;
        }
        if (byte == '\n') return proxy_error::bare_lf;
        if (static_cast<unsigned char>(byte) < ' ' || byte == 0x7f) return proxy_error::control_byte;
    }
    return seen_ > line_max ? proxy_error::line_too_long : proxy_error::none;
}

proxy_error proxy_line::take_line(std::string_view line) noexcept {
    const bool is_unknown = line.starts_with(unknown);
    std::string_view rest = line.substr(is_unknown ? unknown.size() : tcp4.size());
    if (!rest.empty() && rest[0] != ' ') return proxy_error::bad_protocol;
    if (is_unknown) return proxy_error::none;

    const int family = line.starts_with(tcp4) ? AF_INET : AF_INET6;
    host from, to;
    std::uint16_t from_port = 0, to_port = 0;
    if (const proxy_error e = from.take(family, rest); e != proxy_error::none) return e;
    if (const proxy_error e = to.take(family, rest); e != proxy_error::none) return e;
    if (const proxy_error e = take_port(rest, from_port); e != proxy_error::none) return e;
    if (const proxy_error e = take_port(rest, to_port); e != proxy_error::none) return e;
    if (!rest.empty()) return proxy_error::trailing_bytes;
    source_ = from.at(family, from_port);
    destination_ = to.at(family, to_port);
    return proxy_error::none;
}

// ---- v2

namespace {

const std::uint8_t* data_of(std::string_view bytes) noexcept {
    return reinterpret_cast<const std::uint8_t*>(bytes.data());
}

endpoint inet_at(const std::uint8_t* address, const std::uint8_t* port) noexcept {
    return endpoint::ipv4(u32_at(address), u16_at(port));
}

endpoint inet6_at(const std::uint8_t* address, const std::uint8_t* port) noexcept {
    std::array<std::uint8_t, 16> bytes;
    std::memcpy(bytes.data(), address, bytes.size());
    return endpoint::ipv6(bytes, u16_at(port));
}

// A path ends with its first NUL, and what follows that is nobody's. An abstract name begins with one, and may hold
// more: it ends with its last other byte, because the padding is not told from it. All NUL: without a name.
proxy_error take_unix(const std::uint8_t* field, endpoint& to) noexcept {
    const std::string_view bytes{reinterpret_cast<const char*>(field), unix_path_bytes};
    std::size_t used = 0;
    if (bytes[0] == '\0') {
        used = bytes.find_last_not_of('\0') + 1; // npos + 1 is 0
    } else {
        used = bytes.find('\0') + 1;
        if (used == 0) return proxy_error::bad_unix_path;
    }
    sockaddr_storage storage{};
    storage.ss_family = AF_UNIX;
    constexpr std::size_t head = offsetof(sockaddr_un, sun_path);
    static_assert(sizeof(sockaddr_un) == head + unix_path_bytes, "the header's field is what the kernel takes");
    std::memcpy(reinterpret_cast<char*>(&storage) + head, bytes.data(), used);
    to = endpoint::from_kernel(storage, static_cast<socklen_t>(head + used));
    return proxy_error::none;
}

// Takes one TLV off; false if there is not all of it.
bool take_tlv(std::string_view& rest, proxy_tlv& tlv) noexcept {
    if (rest.size() < tlv_head_bytes) return false;
    const std::size_t length = u16_at(data_of(rest) + 1);
    if (length > rest.size() - tlv_head_bytes) return false;
    tlv = {.type = *data_of(rest), .value = rest.substr(tlv_head_bytes, length)};
    rest.remove_prefix(tlv_head_bytes + length);
    return true;
}

// What the client did (1 byte), how it was verified (4), TLVs.
bool is_whole_ssl(std::string_view value) noexcept {
    constexpr std::size_t head = 5;
    if (value.size() < head) return false;
    value.remove_prefix(head);
    proxy_tlv part;
    while (!value.empty())
        if (!take_tlv(value, part)) return false;
    return true;
}

// Computed with the four bytes of the value itself as zeroes.
bool is_right(std::string_view header, std::string_view checksum) noexcept {
    const std::size_t at = static_cast<std::size_t>(checksum.data() - header.data());
    std::uint32_t crc = crc32c_add(crc32c_begin, header.substr(0, at));
    crc = crc32c_add(crc, "\0\0\0\0"sv);
    crc = crc32c_add(crc, header.substr(at + checksum_bytes));
    return ~crc == u32_at(data_of(checksum));
}

} // namespace

bool next_tlv(std::string_view& rest, proxy_tlv& tlv) noexcept {
    while (take_tlv(rest, tlv))
        if (tlv.type != proxy_tlv_type::noop) return true;
    return false;
}

proxy_error proxy_line::take_v2(std::string_view bytes) noexcept {
    using enum proxy_error;
    const std::uint8_t* const head = data_of(bytes);
    if (!agree(bytes, signature)) return not_proxy;
    if (bytes.size() > version_at) {
        if (head[version_at] >> 4 != 2) return bad_version;
        if ((head[version_at] & 15) > 1) return bad_command;
        command_ = (head[version_at] & 15) == 0 ? proxy_command::local : proxy_command::proxy;
    }
    // Of a LOCAL the rest means nothing, the family included.
    const bool is_local = command_ == proxy_command::local;
    if (bytes.size() > family_at && !is_local) {
        const unsigned family = head[family_at] >> 4, transport = head[family_at] & 15;
        if (family >= address_bytes.size()) return bad_family;
        if (transport > 2) return bad_transport;
        if (family != 0 && transport != transport_stream) return not_a_stream;
    }
    if (bytes.size() < head_bytes) return none;
    const std::size_t size = head_bytes + u16_at(head + length_at);
    if (size > options_.bytes_max) return header_too_large;
    if (!is_local && size < head_bytes + address_bytes[head[family_at] >> 4]) return addresses_cut;
    if (bytes.size() < size) return none;
    size_ = static_cast<std::uint32_t>(size);
    return is_local ? none : take_block(bytes.substr(0, size));
}

proxy_error proxy_line::take_block(std::string_view header) noexcept {
    const std::uint8_t* const block = data_of(header) + head_bytes;
    const unsigned family = data_of(header)[family_at] >> 4;
    switch (family) {
    case family_inet:
        source_ = inet_at(block, block + 8);
        destination_ = inet_at(block + 4, block + 10);
        break;
    case family_inet6:
        source_ = inet6_at(block, block + 32);
        destination_ = inet6_at(block + 16, block + 34);
        break;
    case family_unix:
        if (const proxy_error e = take_unix(block, source_); e != proxy_error::none) return e;
        if (const proxy_error e = take_unix(block + unix_path_bytes, destination_); e != proxy_error::none) return e;
        break;
    default:
        return proxy_error::none; // UNSPEC: how long its addresses are, nobody said; so no TLVs can be found either
    }
    return take_tlvs(header, head_bytes + address_bytes[family]);
}

proxy_error proxy_line::take_tlvs(std::string_view header, std::size_t at) noexcept {
    std::string_view rest = header.substr(at), checksum;
    if (rest.empty()) return proxy_error::none;
    if (options_.tlvs == proxy_tlvs::refuse) return proxy_error::tlvs_refused;
    while (!rest.empty()) {
        proxy_tlv tlv;
        if (!take_tlv(rest, tlv)) return proxy_error::tlv_cut;
        if (tlv.type == proxy_tlv_type::ssl && !is_whole_ssl(tlv.value)) return proxy_error::tlv_cut;
        if (tlv.type != proxy_tlv_type::crc32c) continue;
        if (tlv.value.size() != checksum_bytes) return proxy_error::bad_checksum;
        if (!checksum.empty()) return proxy_error::checksum_repeated;
        checksum = tlv.value;
    }
    if (!checksum.empty() && !is_right(header, checksum)) return proxy_error::checksum_mismatch;
    if (options_.tlvs == proxy_tlvs::keep) tlvs_at_ = static_cast<std::uint32_t>(at);
    return proxy_error::none;
}

const char* to_string(proxy_error error) noexcept {
    // clang-format off
    static constexpr const char* names[] = {
        "none", "not_proxy",
        "bare_lf", "bare_cr", "control_byte", "line_too_long", "bad_protocol", "part_missing", "doubled_space",
        "wrong_family", "bad_address", "leading_zero", "bad_port", "port_too_large", "trailing_bytes",
        "bad_version", "bad_command", "bad_family", "bad_transport", "not_a_stream", "header_too_large",
        "addresses_cut", "bad_unix_path", "tlvs_refused", "tlv_cut", "bad_checksum", "checksum_repeated",
        "checksum_mismatch",
    };
    // clang-format on
    static_assert(std::size(names) == static_cast<std::size_t>(proxy_error::checksum_mismatch) + 1);
    return names[static_cast<std::size_t>(error)];
}

} // namespace weir::inline WEIR_KERNEL
