// proxy_line: whatever the bytes are, the verdict is that of a slow reader written from the format, however they are
// cut; what was read can be printed, and means the same when it is read again.
//
//     the first byte of an input says the options:  1 v1 only  2 v2 only  r TLVs refused  s skipped  l at most 64 bytes
//                                                   else: either version, TLVs kept; the rest is the connection's bytes

#include "fuzz/fuzz.hpp"

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>

#include "proto/proxy_line.hpp"

using namespace weir;
using namespace std::string_view_literals;

namespace {

using progress = proxy_line::progress;

struct outcome {
    progress end = progress::more;
    std::size_t size = 0;
    int version = 0;
    bool is_local = false;
    endpoint source{}, destination{};
    std::string tlvs{}; // those that can be walked, as they lie there
    bool operator==(const outcome&) const = default;
};

const outcome bad{.end = progress::bad};
const outcome more{};

// ---- the reference: it looks at the bytes as a whole, and leaves addresses to inet_pton()

bool may_become(std::string_view bytes, std::string_view word) {
    return bytes.substr(0, word.size()) == word.substr(0, bytes.size());
}

std::vector<std::string> words_of(std::string_view line) {
    std::vector<std::string> words(1);
    for (const char byte : line)
        if (byte == ' ') words.emplace_back();
        else words.back() += byte;
    return words;
}

std::optional<std::uint16_t> port_of(const std::string& word) {
    if (word.empty() || word.size() > 5 || word.find_first_not_of("0123456789") != word.npos) return {};
    const int value = std::stoi(word);
    if (value > 65535 || std::to_string(value) != word) return {};
    return static_cast<std::uint16_t>(value);
}

std::optional<endpoint> endpoint_of(int family, const std::string& host, const std::string& port) {
    const auto number = port_of(port);
    std::array<std::uint8_t, 16> bytes{};
    if (!number || inet_pton(family, host.c_str(), bytes.data()) != 1) return {};
    if (family == AF_INET6) return endpoint::ipv6(bytes, *number);
    std::uint32_t v4 = 0;
    for (int i = 0; i < 4; i++)
        v4 = v4 * 256 + bytes[static_cast<std::size_t>(i)];
    return endpoint::ipv4(v4, *number);
}

outcome read_line(std::string_view line) {
    outcome got{.end = progress::done, .size = line.size() + 2, .version = 1};
    const std::vector<std::string> words = words_of(line);
    if (words.size() >= 2 && words[1] == "UNKNOWN") return got;
    if (words.size() != 6 || (words[1] != "TCP4" && words[1] != "TCP6")) return bad;
    const int family = words[1] == "TCP4" ? AF_INET : AF_INET6;
    const auto source = endpoint_of(family, words[2], words[4]), destination = endpoint_of(family, words[3], words[5]);
    if (!source || !destination) return bad;
    got.source = *source;
    got.destination = *destination;
    return got;
}

outcome read_v1(std::string_view bytes) {
    if (!may_become(bytes, "PROXY TCP4") && !may_become(bytes, "PROXY TCP6") && !may_become(bytes, "PROXY UNKNOWN"))
        return bad;
    std::size_t at = 0;
    while (at < bytes.size() && static_cast<unsigned char>(bytes[at]) >= ' ' && bytes[at] != 0x7f)
        at++;
    if (at > proxy_v1_bytes_max - 2) return bad;
    if (at == bytes.size() || bytes.substr(at) == "\r") return more;
    return bytes.substr(at, 2) == "\r\n" ? read_line(bytes.substr(0, at)) : bad;
}

std::size_t number_at(std::string_view bytes, std::size_t at, std::size_t count) {
    std::size_t value = 0;
    for (std::size_t i = 0; i < count; i++)
        value = value * 256 + static_cast<unsigned char>(bytes[at + i]);
    return value;
}

// CRC32C a bit at a time.
std::uint32_t checksum_of(std::string_view bytes) {
    std::uint32_t crc = ~0U;
    for (const char byte : bytes) {
        crc ^= static_cast<unsigned char>(byte);
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) * 0x82f63b78);
    }
    return ~crc;
}

// The TLVs from `at` to `end`, each (where, size); nothing if they do not add up.
using places = std::vector<std::pair<std::size_t, std::size_t>>;
std::optional<places> tlvs_of(std::string_view bytes, std::size_t at, std::size_t end) {
    places found;
    while (at < end) {
        if (end - at < 3 || end - at - 3 < number_at(bytes, at + 1, 2)) return {};
        found.emplace_back(at, 3 + number_at(bytes, at + 1, 2));
        at += found.back().second;
    }
    return found;
}

bool are_right(std::string_view header, std::size_t at, std::string& kept) {
    const auto all = tlvs_of(header, at, header.size());
    if (!all) return false;
    int checksums = 0;
    for (const auto& [where, size] : *all) {
        const std::size_t type = number_at(header, where, 1);
        if (type == 0x20 && (size < 8 || !tlvs_of(header, where + 8, where + size))) return false;
        if (type != 0x04) kept += header.substr(where, size);
        if (type != 0x03) continue;
        if (size != 7 || ++checksums > 1) return false;
        std::string zeroed{header};
        zeroed.replace(where + 3, 4, 4, '\0');
        if (checksum_of(zeroed) != number_at(header, where + 3, 4)) return false;
    }
    return true;
}

std::optional<endpoint> unix_at(std::string_view field) {
    sockaddr_un local{};
    local.sun_family = AF_UNIX;
    std::memcpy(local.sun_path, field.data(), sizeof local.sun_path);
    std::size_t used = sizeof local.sun_path;
    if (field[0] == '\0')
        while (used > 0 && field[used - 1] == '\0')
            used--;
    else if (used = strnlen(field.data(), used) + 1; used > sizeof local.sun_path) return {};
    sockaddr_storage storage{};
    std::memcpy(&storage, &local, offsetof(sockaddr_un, sun_path) + used);
    return endpoint::from_kernel(storage, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + used));
}

bool read_addresses(std::string_view block, std::size_t family, outcome& got) {
    if (family == 3) {
        const auto source = unix_at(block.substr(0, 108)), destination = unix_at(block.substr(108, 108));
        if (!source || !destination) return false;
        got.source = *source;
        got.destination = *destination;
        return true;
    }
    const std::size_t each = family == 1 ? 4 : 16;
    const auto at = [&](std::size_t which) {
        const auto port = static_cast<std::uint16_t>(number_at(block, 2 * each + 2 * which, 2));
        if (family == 1) return endpoint::ipv4(static_cast<std::uint32_t>(number_at(block, 4 * which, 4)), port);
        std::array<std::uint8_t, 16> bytes;
        std::memcpy(bytes.data(), block.data() + 16 * which, 16);
        return endpoint::ipv6(bytes, port);
    };
    got.source = at(0);
    got.destination = at(1);
    return true;
}

outcome read_v2(std::string_view bytes, const proxy_options& options) {
    static constexpr std::size_t lengths[] = {0, 12, 36, 216};
    if (!may_become(bytes, "\r\n\r\n\0\r\nQUIT\n"sv)) return bad;
    if (bytes.size() < 13) return more;
    const std::size_t first = number_at(bytes, 12, 1);
    if (first != 0x20 && first != 0x21) return bad;
    outcome got{.end = progress::done, .version = 2, .is_local = first == 0x20};
    if (bytes.size() < 14) return more;
    const std::size_t pair = number_at(bytes, 13, 1), family = pair / 16;
    const bool is_untold = pair <= 0x02;
    if (!got.is_local && !is_untold && pair != 0x11 && pair != 0x21 && pair != 0x31) return bad;
    if (bytes.size() < 16) return more;
    got.size = 16 + number_at(bytes, 14, 2);
    if (got.size > options.bytes_max) return bad;
    const bool has_addresses = !got.is_local && !is_untold;
    if (has_addresses && got.size < 16 + lengths[family]) return bad;
    if (bytes.size() < got.size) return more;
    if (!has_addresses) return got;
    const std::string_view header = bytes.substr(0, got.size);
    if (!read_addresses(header.substr(16), family, got)) return bad;
    if (options.tlvs == proxy_tlvs::refuse && got.size > 16 + lengths[family]) return bad;
    if (!are_right(header, 16 + lengths[family], got.tlvs)) return bad;
    if (options.tlvs != proxy_tlvs::keep) got.tlvs.clear();
    return got;
}

outcome reference(std::string_view bytes, const proxy_options& options) {
    if (bytes.empty()) return more;
    if (bytes[0] != '\r') return options.accept == proxy_accept::v2 ? bad : read_v1(bytes);
    return options.accept == proxy_accept::v1 ? bad : read_v2(bytes, options);
}

// ---- the parser

std::string walked(std::string_view rest) {
    std::string all;
    for (proxy_tlv tlv; next_tlv(rest, tlv);) {
        EXPECT(tlv.value.data() + tlv.value.size() == rest.data());
        all.append(tlv.value.data() - 3, tlv.value.size() + 3);
        EXPECT(static_cast<std::uint8_t>(tlv.value.data()[-3]) == tlv.type);
    }
    return all;
}

outcome outcome_of(const proxy_line& line, progress end) {
    EXPECT((line.error() == proxy_error::none) == (end != progress::bad));
    if (end != progress::done) return {.end = end};
    EXPECT(line.source().specified() == line.destination().specified());
    return {.end = end,
            .size = line.size(),
            .version = line.version(),
            .is_local = line.command() == proxy_command::local,
            .source = line.source(),
            .destination = line.destination(),
            .tlvs = walked(line.tlvs())};
}

outcome parse_cut(std::string_view bytes, std::size_t cut, std::size_t step, const proxy_options& options) {
    proxy_line line;
    line.start(options);
    for (; cut < bytes.size(); cut += step) {
        const fuzz::alone part{bytes.substr(0, cut)};
        const progress so_far = line.parse(part.view());
        if (so_far != progress::more) return outcome_of(line, so_far);
    }
    const fuzz::alone all{bytes};
    const progress end = line.parse(all.view());
    EXPECT(line.parse(all.view()) == end);
    return outcome_of(line, end);
}

// What was read, printed and read again. Two mapped addresses are told as IPv4.
void expect_prints(const endpoint& read_source, const endpoint& read_destination) {
    const bool are_ipv4 = read_source.is_mapped() && read_destination.is_mapped();
    const endpoint source = are_ipv4 ? read_source.unmapped() : read_source;
    const endpoint destination = are_ipv4 ? read_destination.unmapped() : read_destination;
    std::array<char, proxy_v2_bytes_max + 7> room;
    const std::string_view v2 = write_proxy_v2(room, read_source, read_destination, {}, proxy_checksum::crc32c);
    proxy_line line;
    line.start();
    EXPECT(line.parse(v2) == progress::done);
    EXPECT(line.size() == v2.size());
    EXPECT(line.source() == source);
    EXPECT(line.destination() == destination);

    std::array<char, proxy_v1_bytes_max> line_room;
    const std::string_view v1 = write_proxy_v1(line_room, read_source, read_destination);
    const bool is_told = source.family() == AF_INET || source.family() == AF_INET6;
    line.start();
    EXPECT(line.parse(v1) == progress::done);
    EXPECT(line.size() == v1.size());
    EXPECT(line.source() == (is_told ? source : endpoint{}));
    EXPECT(line.destination() == (is_told ? destination : endpoint{}));
}

proxy_options options_of(char first) {
    if (first == '1') return {.accept = proxy_accept::v1, .tlvs = proxy_tlvs::keep};
    if (first == '2') return {.accept = proxy_accept::v2, .tlvs = proxy_tlvs::keep};
    if (first == 'r') return {.tlvs = proxy_tlvs::refuse};
    if (first == 's') return {.tlvs = proxy_tlvs::skip};
    if (first == 'l') return {.tlvs = proxy_tlvs::keep, .bytes_max = 64};
    return {.tlvs = proxy_tlvs::keep};
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view bytes = fuzz::text_of(data, size).substr(1);
    const proxy_options options = options_of(static_cast<char>(data[0]));

    const outcome expected = reference(bytes, options);
    EXPECT(parse_cut(bytes, bytes.size(), 1, options) == expected);
    if (bytes.size() <= 512) EXPECT(parse_cut(bytes, 0, 1, options) == expected);
    fuzz::for_each_cut(bytes.size(), [&](std::size_t cut) {
        EXPECT(parse_cut(bytes, cut, bytes.size(), options) == expected);
    });
    if (expected.end != progress::done) return 0;
    // Not a byte less would do, nor is one more looked at.
    EXPECT(parse_cut(bytes.substr(0, expected.size), expected.size, 1, options) == expected);
    EXPECT(parse_cut(bytes.substr(0, expected.size - 1), expected.size, 1, options) == more);
    expect_prints(expected.source, expected.destination);
    return 0;
}
