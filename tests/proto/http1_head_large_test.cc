// http1_head: heads beyond the default limits: up to a thousand fields, and up to 65,535 bytes.

#include "proto/http1_head.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "support/dies.hpp"
#include "support/http1_heads.hpp"

namespace {

using namespace weir;
using namespace support;

using progress = http1_head::progress;

// Lines, each with another name, that Connection names or not.
std::string many_fields(std::size_t count) {
    std::string lines;
    for (std::size_t i = 0; i < count; i++)
        lines += "N" + std::to_string(i) + ": " + std::to_string(i * 7) + "\r\n";
    return lines;
}

TEST_CASE("a head may have a thousand fields where the limit says so, however it is cut, and not one more") {
    const http1_limits large{.head_bytes_max = 65535, .fields_max = 1000};
    for (const std::size_t count : {99u, 100u, 101u, 102u, 999u, 1000u, 1001u}) {
        CAPTURE(count);
        const std::string bytes = get_with("Connection: n0, N98, n99, n100, n997\r\n" + many_fields(count - 2));
        const std::string whole = parse_cut(request, bytes, {}, large);
        if (count > 1000) {
            CHECK(whole == "bad: too_many_fields");
            continue;
        }
        CHECK(whole.starts_with("done"));
        std::vector<std::size_t> each;
        for (std::size_t cut = 0; cut < bytes.size(); cut += 1 + bytes.size() / 500)
            each.push_back(cut);
        CHECK(parse_cut(request, bytes, each, large) == whole);
        static http1_head head;
        head.start(request, large);
        REQUIRE(parse_on(head, bytes) == progress::done);
        REQUIRE(head.field_count() == count);
        for (std::size_t i = 2; i < count; i++) {
            CAPTURE(i);
            const http1_field field = head.field(i);
            CHECK(field.name == "N" + std::to_string(i - 2));
            CHECK(field.value == std::to_string((i - 2) * 7));
            const std::size_t named[] = {0, 98, 99, 100, 997};
            CHECK(field.hop == (std::find(std::begin(named), std::end(named), i - 2) != std::end(named)));
        }
    }
}

TEST_CASE("a table is asked for when the inline fields are full and the limit allows more, and else never") {
    static http1_head head;
    const auto asks = [](std::size_t count, std::uint16_t fields_max) {
        head.start(request, {.fields_max = fields_max});
        return head.parse("GET / HTTP/1.1\r\nHost: a\r\n" + many_fields(count - 1)) == progress::needs_table;
    };
    CHECK_FALSE(asks(99, 1000));
    CHECK(asks(100, 101));
    CHECK_FALSE(asks(100, 100));
    CHECK_FALSE(asks(150, 100));
    alignas(2) static char table[http1_head::table_bytes + 1];
    CHECK(dies([] { head.lend_table({table, http1_head::table_bytes - 1}); }, "memory.size() >= table_bytes"));
    CHECK(dies([] { head.lend_table({table + 1, http1_head::table_bytes}); }, "alignof"));
    CHECK(dies([] { head.start(request, {.fields_max = 1001}); }, "fields_max <= fields_capacity"));
    CHECK(dies([] { head.start(request, {.head_bytes_max = 65536}); }, "head_bytes_max <= 0xffff"));
}

TEST_CASE("a head of 65,535 bytes passes where the limit says so, one byte more does not") {
    const http1_limits large{.start_line_bytes_max = 65000, .head_bytes_max = 65535};
    const auto outcome = [&](const std::string& bytes) { return parse_cut(request, bytes, {1, bytes.size() - 1}, large); };
    const auto value = [](std::size_t size) { return get_with("A:" + std::string(size - get_with("A:\r\n").size(), 'x') + "\r\n"); };
    CHECK(outcome(value(65535)).ends_with(std::string(1000, 'x') + "/0\n"));
    CHECK(outcome(value(65536)) == "bad: head_too_large");
    const auto line = [](std::size_t size) { return "GET /" + std::string(size - 14, 'x') + " HTTP/1.1\r\nHost: a\r\n\r\n"; };
    CHECK(outcome(line(65000)).starts_with("done 65013 "));
    CHECK(outcome(line(65001)) == "bad: uri_too_long");
}

} // namespace
