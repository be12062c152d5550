#pragma once
// http1_heads: heads built by hand, and all that is read from one as text.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "proto/http1_head.hpp"

namespace support {

using namespace weir;
using namespace std::string_literals;

inline constexpr auto request = http1_kind::request;
inline constexpr auto response = http1_kind::response;

// All that a caller can learn from a head, as text: two heads are the same when this is.
inline std::string describe(http1_head::progress end, const http1_head& head, std::string_view bytes) {
    if (end == http1_head::progress::more) return "more";
    if (end == http1_head::progress::bad) return "bad: "s + to_string(head.error());
    const auto flag = [](bool value) { return value ? "1" : "0"; };
    std::string text = "done " + std::to_string(head.size()) + " " + to_string(head.method()) + " ";
    text += std::string(head.method_text()) + "|" + std::string(head.target()) + "|" + std::string(head.authority());
    text += "|" + std::string(head.path()) + "|" + std::to_string(head.status()) + "|" + std::string(head.reason());
    text += "|" + std::to_string(head.content_length()) + "|" + std::to_string(int(head.body_kind())) + "|";
    text += flag(head.keep_alive()) + "|"s + flag(head.has_upgrade()) + flag(head.expect_continue());
    text += "|" + std::to_string(head.keep_alive_timeout_s()) + flag(head.version() == http1_version::v1_1) + "\n";
    REQUIRE(head.size() <= bytes.size());
    for (std::size_t i = 0; i < head.field_count(); ++i) {
        const http1_field field = head.field(i);
        REQUIRE(field.name.data() > bytes.data());
        REQUIRE(field.value.data() + field.value.size() < bytes.data() + head.size());
        text += std::string(field.name) + "=" + std::string(field.value) + "/" + flag(field.hop) + "\n";
    }
    return text;
}

// As parse(), with a table lent to it when it asks for one.
inline http1_head::progress parse_on(http1_head& head, std::string_view bytes) {
    alignas(std::uint16_t) static char table[http1_head::table_bytes];
    const http1_head::progress end = head.parse(bytes);
    if (end != http1_head::progress::needs_table) return end;
    head.lend_table(table);
    return head.parse(bytes);
}

// Parses bytes[0, cut) for each cut, each time at a new address whose end is a heap block's end, and then
// all.
inline std::string parse_cut(http1_kind kind, std::string_view bytes, const std::vector<std::size_t>& cuts,
                             const http1_limits& limits) {
    static http1_head head;
    head.start(kind, limits);
    std::vector<char> copy;
    for (const std::size_t cut : cuts) {
        copy = std::vector<char>(bytes.begin(), bytes.begin() + std::ptrdiff_t(cut));
        const http1_head::progress so_far = parse_on(head, {copy.data(), copy.size()});
        if (so_far == http1_head::progress::bad) return describe(so_far, head, {});
        if (so_far == http1_head::progress::done) return describe(so_far, head, {copy.data(), copy.size()});
    }
    const http1_head::progress end = parse_on(head, bytes);
    return describe(end, head, bytes);
}

// The outcome, which must not depend on how the bytes are cut.
inline std::string parse(http1_kind kind, std::string_view bytes, const http1_limits& limits = {}) {
    const std::string whole = parse_cut(kind, bytes, {}, limits);
    std::vector<std::size_t> each;
    for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
        each.push_back(cut);
        if (parse_cut(kind, bytes, {cut}, limits) != whole) FAIL("cut at " << cut << " of: " << bytes);
    }
    CHECK(parse_cut(kind, bytes, each, limits) == whole);
    return whole;
}

inline std::string get_with(std::string_view lines) {
    return "GET / HTTP/1.1\r\nHost: a\r\n" + std::string(lines) + "\r\n";
}
inline std::string ok_with(std::string_view lines) { return "HTTP/1.1 200 OK\r\n" + std::string(lines) + "\r\n"; }

} // namespace support
