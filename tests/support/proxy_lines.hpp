#pragma once
// proxy_lines: PROXY lines built by hand, and all that is read from one as text.

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "proto/proxy_line.hpp"

namespace support {

using namespace weir;
using namespace std::string_literals;
using namespace std::string_view_literals;

inline std::string text_of(const endpoint& at) {
    std::array<char, endpoint::text_max> room;
    return at.specified() ? std::string(at.text(room)) : "-";
}

inline std::string hex(std::string_view bytes) {
    std::string text;
    for (const char byte : bytes)
        for (const int shift : {4, 0})
            text += "0123456789abcdef"[static_cast<unsigned char>(byte) >> shift & 15];
    return text;
}

// All that a caller can learn, as text: two outcomes are the same when this is.
inline std::string describe(proxy_line::progress end, const proxy_line& line, std::string_view bytes) {
    if (end == proxy_line::progress::more) return "more";
    if (end == proxy_line::progress::bad) return "bad "s + to_string(line.error());
    REQUIRE(line.error() == proxy_error::none);
    REQUIRE(line.size() <= bytes.size());
    REQUIRE(line.source().specified() == line.destination().specified());
    std::string text = "v" + std::to_string(line.version()) + " " + std::to_string(line.size());
    text += line.command() == proxy_command::local ? " local " : " proxy ";
    text += text_of(line.source()) + " " + text_of(line.destination());
    std::string_view rest = line.tlvs();
    REQUIRE((rest.empty() || rest.data() + rest.size() == bytes.data() + line.size()));
    for (proxy_tlv tlv; next_tlv(rest, tlv);)
        text += " " + std::to_string(tlv.type) + "=" + hex(tlv.value);
    return text;
}

// Parses bytes[0, cut) for each cut, each time at a new address whose end is a heap block's end, and then all.
inline std::string parse_cut(std::string_view bytes, const std::vector<std::size_t>& cuts,
                             const proxy_options& options) {
    proxy_line line;
    line.start(options);
    std::vector<char> copy;
    for (const std::size_t cut : cuts) {
        copy = std::vector<char>(bytes.begin(), bytes.begin() + std::ptrdiff_t(cut));
        const std::string_view part{copy.data(), copy.size()};
        const proxy_line::progress so_far = line.parse(part);
        if (so_far != proxy_line::progress::more) {
            const std::string outcome = describe(so_far, line, part);
            CHECK(describe(line.parse(bytes), line, bytes) == outcome); // said again
            return outcome;
        }
    }
    return describe(line.parse(bytes), line, bytes);
}

// The outcome, which must not depend on how the bytes are cut.
inline std::string parse(std::string_view bytes, const proxy_options& options = {}) {
    const std::string whole = parse_cut(bytes, {}, options);
    std::vector<std::size_t> each;
    for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
        each.push_back(cut);
        if (parse_cut(bytes, {cut}, options) != whole) FAIL("cut at " << cut << " of: " << hex(bytes));
    }
    CHECK(parse_cut(bytes, each, options) == whole);
    return whole;
}

inline constexpr std::string_view signature = "\r\n\r\n\0\r\nQUIT\n"sv;

inline std::string number16(std::size_t value) { return {static_cast<char>(value >> 8), static_cast<char>(value)}; }

// A v2 header by hand: version and command, family and transport, and what follows its length.
inline std::string v2(int first, int second, std::string_view block) {
    return std::string(signature) + static_cast<char>(first) + static_cast<char>(second) + number16(block.size()) +
           std::string(block);
}

inline std::string tlv(int type, std::string_view value) {
    return static_cast<char>(type) + number16(value.size()) + std::string(value);
}

inline const std::string inet_block =
    "\x0a\x01\x02\x03\xc0\xa8\x00\x01\x11\xd7\x01\xbb"s; // 10.1.2.3:4567, 192.168.0.1:443
inline constexpr const char* inet_pair = "10.1.2.3:4567 192.168.0.1:443";
inline std::string inet_with(std::string_view tlvs) { return v2(0x21, 0x11, inet_block + std::string(tlvs)); }

inline std::string padded(std::string_view path) { return std::string(path) + std::string(108 - path.size(), '\0'); }

inline constexpr proxy_options keep{.tlvs = proxy_tlvs::keep};

} // namespace support
