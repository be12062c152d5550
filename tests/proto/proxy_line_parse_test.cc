// proxy_line: what is read, refused, or waited for.

#include "proto/proxy_line.hpp"

#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "support/proxy_lines.hpp"

namespace {

using namespace weir;
using namespace support;
using namespace std::string_literals;
using namespace std::string_view_literals;

using progress = proxy_line::progress;
using enum proxy_error;

std::string bad(proxy_error error) {
    return "bad "s + to_string(error);
}

struct row {
    std::string bytes;
    std::string outcome;
};

void check_rows(const std::vector<row>& rows, const proxy_options& options = {}) {
    for (const row& r : rows) {
        CAPTURE(r.bytes);
        CAPTURE(hex(r.bytes));
        CHECK(parse(r.bytes, options) == r.outcome);
    }
}

TEST_CASE("a v1 line is read") {
    check_rows({
        {"PROXY TCP4 10.1.2.3 192.168.0.1 4567 443\r\n", "v1 42 proxy 10.1.2.3:4567 192.168.0.1:443"},
        {"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", "v1 44 proxy 0.0.0.0:0 255.255.255.255:65535"},
        {"PROXY TCP6 ::1 2001:db8::a 1 2\r\n", "v1 32 proxy [::1]:1 [2001:db8::a]:2"},
        {"PROXY TCP6 :: 1:: 1 2\r\n", "v1 23 proxy [::]:1 [1::]:2"},
        {"PROXY TCP6 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8 1 2\r\n",
         "v1 48 proxy [1:2:3:4:5:6:7:0]:1 [0:2:3:4:5:6:7:8]:2"},
        {"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:000A 1::0:8 1 2\r\n",
         "v1 63 proxy [2001:db8::a]:1 [1::8]:2"},
        {"PROXY TCP6 ::ffff:10.1.2.3 1:2:3:4:5:6:7.8.9.10 1 2\r\n",
         "v1 53 proxy [::ffff:10.1.2.3]:1 [1:2:3:4:5:6:708:90a]:2"},
        {"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
         "v1 104 proxy [ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535 "
         "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
        {"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n\r\n\0\xff payload"s, "v1 32 proxy 1.2.3.4:1 5.6.7.8:2"},
        {"PROXY UNKNOWN\r\n", "v1 15 proxy - -"},
        {"PROXY UNKNOWN \r\nGET", "v1 16 proxy - -"},
        {"PROXY UNKNOWN  ::1 what you like 99999\xff\r\n", "v1 41 proxy - -"},
        {"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 "
         "65535\r\n",
         "v1 107 proxy - -"},
    });
}

TEST_CASE("a v1 line that two readers could read differently is refused") {
    check_rows({
        {"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", bad(bare_lf)},
        {"PROXY UNKNOWN\n", bad(bare_lf)},
        {"PROXY UNKNOWN x\ny\r\n", bad(bare_lf)},
        {"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n", bad(bare_cr)},
        {"PROXY UNKNOWN x\ry\r\n", bad(bare_cr)},
        {"PROXY TCP4 1.2.3.4\0 5.6.7.8 1 2\r\n"s, bad(control_byte)},
        {"PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n", bad(control_byte)},
        {"PROXY UNKNOWN \x1f\r\n", bad(control_byte)},
        {"PROXY UNKNOWN \x7f\r\n", bad(control_byte)},
        {"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n", bad(bad_protocol)},
        {"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", bad(bad_protocol)},
        {"PROXY TCP5", bad(bad_protocol)},
        {"PROXY TCP46 1.2.3.4 5.6.7.8 1 2\r\n", bad(bad_protocol)},
        {"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n", bad(bad_protocol)},
        {"PROXY unknown\r\n", bad(bad_protocol)},
        {"PROXY UNKNOWNS\r\n", bad(bad_protocol)},
        {"PROXY \r\n", bad(bad_protocol)},
        {"PROXY TCP4\r\n", bad(part_missing)},
        {"PROXY TCP4 \r\n", bad(part_missing)},
        {"PROXY TCP4 1.2.3.4\r\n", bad(part_missing)},
        {"PROXY TCP4 1.2.3.4 5.6.7.8 \r\n", bad(part_missing)},
        {"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", bad(part_missing)},
        {"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", bad(doubled_space)},
        {"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n", bad(doubled_space)},
        {"PROXY TCP4 1.2.3.4 5.6.7.8  1 2\r\n", bad(doubled_space)},
        {"PROXY TCP4 1.2.3.4 5.6.7.8 1  2\r\n", bad(doubled_space)},
        {"PROXY TCP4 ::1 ::2 1 2\r\n", bad(wrong_family)},
        {"PROXY TCP4 1.2.3.4 ::ffff:1.2.3.4 1 2\r\n", bad(wrong_family)},
        {"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", bad(wrong_family)},
        {"PROXY TCP6 ::1 5.6.7.8 1 2\r\n", bad(wrong_family)},
        {"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", bad(trailing_bytes)},
        {"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", bad(trailing_bytes)},
    });
}

TEST_CASE("addresses and ports of v1 are numbers as they are printed") {
    const auto v4 = [](const char* address) { return "PROXY TCP4 "s + address + " 5.6.7.8 1 2\r\n"; };
    for (const char* address : {"1.2.3", "1.2.3.", "1.2.3.4.5", "1.2.3.4.", ".1.2.3", "1..2.3", "256.1.1.1",
                                "1.1.1.256", "1.2.3.x", "0x1.2.3.4", "1.2.3.-4", "1.2.3.+4", "16909060", "localhost",
                                "\xff", "1.2.3.4294967297", "1.2.3.4/8", "99999999999999999999999999999999999.1.1.1"})
        CHECK_MESSAGE(parse(v4(address)) == bad(bad_address), address);
    for (const char* address : {"01.2.3.4", "1.2.3.04", "00.2.3.4", "1.2.3.001"})
        CHECK_MESSAGE(parse(v4(address)) == bad(leading_zero), address);

    const auto v6 = [](const char* address) { return "PROXY TCP6 "s + address + " ::1 1 2\r\n"; };
    for (const char* address :
         {":", ":::", ":1", "1:", "::1:", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::",
          "::1:2:3:4:5:6:7:8", "1:2:3:4::5:6:7:8", "12345::", "g::", "::1%1", "[::1]", "::1.2.3", "::1.2.3.4:5",
          "1:2:3:4:5:6:7:1.2.3.4", "1:2:3:4:5:1.2.3.4", "::1:2:3:4:5:6:1.2.3.4", "localhost", "::1.2.3.256"})
        CHECK_MESSAGE(parse(v6(address)) == bad(bad_address), address);
    CHECK(parse(v6("::1.2.3.04")) == bad(leading_zero));

    const auto ports = [](const char* both) { return "PROXY TCP4 1.2.3.4 5.6.7.8 "s + both + "\r\n"; };
    CHECK(parse(ports("65535 0")) == "v1 36 proxy 1.2.3.4:65535 5.6.7.8:0");
    for (const char* both : {"x 1", "1 x", "1x 2", "1 2x", "-1 2", "+1 2", "0x1 2", "1. 2"})
        CHECK_MESSAGE(parse(ports(both)) == bad(bad_port), both);
    for (const char* both : {"65536 1", "1 65536", "1 4294967297", "99999999999999999999999999999999999999999 1"})
        CHECK_MESSAGE(parse(ports(both)) == bad(port_too_large), both);
    for (const char* both : {"01 2", "1 00", "1 065535"})
        CHECK_MESSAGE(parse(ports(both)) == bad(leading_zero), both);
}

TEST_CASE("a line has at most 107 bytes, and one more is not waited for") {
    const auto of = [](std::size_t size) { return "PROXY UNKNOWN " + std::string(size - 16, 'x') + "\r\n"; };
    CHECK(parse(of(proxy_v1_bytes_max)) == "v1 107 proxy - -");
    CHECK(parse(of(proxy_v1_bytes_max + 1)) == bad(line_too_long));
    CHECK(parse(of(proxy_v1_bytes_max).substr(0, 106)) == "more");
    CHECK(parse(of(proxy_v1_bytes_max + 1).substr(0, 105)) == "more");
    CHECK(parse(of(proxy_v1_bytes_max + 1).substr(0, 106)) == bad(line_too_long));
    CHECK(parse(of(proxy_v1_bytes_max).substr(0, 106) + "x") == bad(bare_cr));
    CHECK(parse(of(4000)) == bad(line_too_long));
}

TEST_CASE("start() forgets the connection before") {
    const std::string all[] = {"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "PROXY UNKNOWN\r\n", "PROXY UNKNOWN some more\r\n",
                               "PROXY TCP4", "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", "GET", inet_with(""),
                               inet_with(tlv(1, "h2")), v2(0x20, 0, ""), v2(0x20, 0x11, "whatever"), v2(0x21, 0, "")};
    for (const std::string& before : all)
        for (const std::string& after : all) {
            CAPTURE(hex(before));
            CAPTURE(hex(after));
            proxy_line line;
            line.start(keep);
            (void)line.parse(before);
            line.start(keep);
            CHECK(describe(line.parse(after), line, after) == parse_cut(after, {}, keep));
        }
}

TEST_CASE("what is no proxy's is refused at its first byte that differs") {
    CHECK(parse("") == "more");
    for (const std::string_view text :
         {"GET / HTTP/1.1\r\n"sv, "proxy TCP4"sv, "\0"sv, "\x16\x03\x01"sv, " PROXY"sv, "\nPROXY"sv})
        CHECK(parse(text.substr(0, 1)) == bad(not_proxy));
    for (const std::string_view text :
         {"POST / HTTP/1.1\r\n"sv, "PRI * HTTP/2.0\r\n"sv, "PROXy"sv, "PROXY\tTCP4"sv, "PROXYTCP4"sv}) {
        std::size_t same = 0;
        while (text[same] == "PROXY "[same])
            ++same;
        CHECK(parse(text.substr(0, same)) == "more");
        CHECK(parse(text.substr(0, same + 1)) == bad(not_proxy));
    }
    for (std::size_t at = 0; at < signature.size(); ++at) {
        std::string bytes{signature};
        CHECK(parse(bytes.substr(0, at + 1)) == "more");
        bytes[at] = static_cast<char>(bytes[at] + 1);
        CHECK(parse(bytes.substr(0, at + 1)) == bad(not_proxy));
        CHECK(parse(bytes + std::string(300, '\r')) == bad(not_proxy));
    }
}

TEST_CASE("a version that is not accepted is not waited for") {
    const std::string one = "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", two = inet_with("");
    const proxy_options only_v1{.accept = proxy_accept::v1}, only_v2{.accept = proxy_accept::v2};

    CHECK(parse(one, only_v1) == parse(one));
    CHECK(parse(two, only_v2) == parse(two));
    CHECK(parse(one.substr(0, 1), only_v2) == bad(not_proxy));
    CHECK(parse(two.substr(0, 1), only_v1) == bad(not_proxy));
    CHECK(parse("G", only_v1) == bad(not_proxy));
    CHECK(parse("G", only_v2) == bad(not_proxy));
}

TEST_CASE("a v2 header is read") {
    const std::string six = "\x20\x01\x0d\xb8"s + std::string(11, '\0') + "\x01"s;
    check_rows({
        {inet_with(""), "v2 28 proxy "s + inet_pair},
        {inet_with("") + "GET\0\r\n"s, "v2 28 proxy "s + inet_pair},
        {v2(0x21, 0x21, six + std::string(15, '\0') + "\x02\x00\x50\xff\xff"s),
         "v2 52 proxy [2001:db8::1]:80 [::2]:65535"},
        {v2(0x21, 0x31, padded("/run/a") + padded("/run/b")), "v2 232 proxy unix:/run/a unix:/run/b"},
        {v2(0x21, 0x31, padded("@a") + padded("\0name"sv)), "v2 232 proxy unix:@a unix:@name"},
        {v2(0x21, 0x31, padded("") + padded(std::string(107, 'x'))),
         "v2 232 proxy unix: unix:" + std::string(107, 'x')},
        {v2(0x21, 0x31, padded("/run/a\0what was there"sv) + "\0"s + std::string(107, 'y')),
         "v2 232 proxy unix:/run/a unix:@" + std::string(107, 'y')},
        {v2(0x20, 0x00, ""), "v2 16 local - -"},
        {v2(0x20, 0x11, inet_block), "v2 28 local - -"},
        {v2(0x20, 0xff, "\x01\xff\xff nonsense"), "v2 28 local - -"},
        {v2(0x21, 0x00, ""), "v2 16 proxy - -"},
        {v2(0x21, 0x00, "\x01\xff\xff of no known layout"), "v2 38 proxy - -"},
        {v2(0x21, 0x01, ""), "v2 16 proxy - -"},
        {v2(0x21, 0x02, ""), "v2 16 proxy - -"},
    });
}

TEST_CASE("an abstract name and a path that begins with @ are not the same endpoint") {
    const std::string bytes = v2(0x21, 0x31, padded("@a") + padded("\0a"sv));
    proxy_line line;
    line.start();

    REQUIRE(line.parse(bytes) == progress::done);

    CHECK(line.destination() == endpoint::unix_path("@a").value());
    CHECK(line.source() != line.destination());
    CHECK(line.source().path() == "@a"sv);
}

TEST_CASE("the first bytes of a v2 header are refused as soon as they are there") {
    const auto first = [](std::size_t size, const std::string& bytes) { return parse(bytes.substr(0, size)); };
    for (const int version : {0x01, 0x11, 0x31, 0xf1})
        CHECK(first(13, v2(version, 0x11, inet_block)) == bad(bad_version));
    for (const int command : {0x22, 0x23, 0x2f})
        CHECK(first(13, v2(command, 0x11, inet_block)) == bad(bad_command));
    for (const int family : {0x41, 0x51, 0xf1, 0x40})
        CHECK(first(14, v2(0x21, family, inet_block)) == bad(bad_family));
    for (const int transport : {0x13, 0x1f, 0x23, 0x33, 0x03})
        CHECK(first(14, v2(0x21, transport, inet_block)) == bad(bad_transport));
    for (const int transport : {0x10, 0x12, 0x20, 0x22, 0x30, 0x32})
        CHECK(first(14, v2(0x21, transport, inet_block)) == bad(not_a_stream));
    CHECK(first(13, v2(0x21, 0x11, inet_block)) == "more");
    CHECK(first(14, v2(0x21, 0x11, inet_block)) == "more");
    CHECK(first(15, v2(0x21, 0x11, "")) == "more");
    CHECK(first(16, v2(0x21, 0x11, "")) == bad(addresses_cut));
}

TEST_CASE("a v2 header's length has room for its addresses") {
    const std::size_t lengths[] = {12, 36, 216};
    for (int family = 1; family <= 3; ++family) {
        const std::size_t enough = lengths[family - 1];
        CHECK(parse(v2(0x21, family << 4 | 1, std::string(enough - 1, '\0'))) == bad(addresses_cut));
        CHECK(parse(v2(0x21, family << 4 | 1, std::string(enough, '\0'))).starts_with("v2 "));
        CHECK(parse(v2(0x21, family << 4 | 1, std::string(enough, '\0')).substr(0, enough + 15)) == "more");
    }
    CHECK(parse(v2(0x21, 0x31, padded("/a") + std::string(108, 'x'))) == bad(bad_unix_path));
    CHECK(parse(v2(0x21, 0x31, std::string(108, 'x') + padded("/a"))) == bad(bad_unix_path));
}

TEST_CASE("a v2 header is as long as the options say, and a longer one is refused by its length") {
    const auto of = [](std::size_t size) { return inet_with(tlv(4, std::string(size - 28 - 3, '\0'))); };
    CHECK(parse(of(100), {.bytes_max = 100}) == "v2 100 proxy "s + inet_pair);
    CHECK(parse(of(101).substr(0, 16), {.bytes_max = 100}) == bad(header_too_large));
    CHECK(parse_cut(of(4096), {}, {}) == "v2 4096 proxy "s + inet_pair);
    CHECK(parse_cut(of(4097), {}, {}) == bad(header_too_large));
    CHECK(parse_cut(of(65535), {}, {.bytes_max = 65535}) == "v2 65535 proxy "s + inet_pair);
    CHECK(parse(v2(0x20, 0, std::string(85, 'x')), {.bytes_max = 100}) == bad(header_too_large));
    CHECK(parse(v2(0x20, 0, std::string(84, 'x')), {.bytes_max = 100}) == "v2 100 local - -");
}

TEST_CASE("TLVs are refused, skipped or kept, and whole whenever they are let in") {
    const std::string alpn = tlv(1, "h2"), empty = tlv(2, ""), noop = tlv(4, "padding");
    const std::string three = inet_with(alpn + noop + empty);

    CHECK(parse(three, {.tlvs = proxy_tlvs::refuse}) == bad(tlvs_refused));
    CHECK(parse(inet_with(noop), {.tlvs = proxy_tlvs::refuse}) == bad(tlvs_refused));
    CHECK(parse(inet_with(""), {.tlvs = proxy_tlvs::refuse}) == "v2 28 proxy "s + inet_pair);
    CHECK(parse(three) == "v2 46 proxy "s + inet_pair);
    CHECK(parse(three, keep) == "v2 46 proxy "s + inet_pair + " 1=6832 2=");
    CHECK(parse(inet_with(noop), keep) == "v2 38 proxy "s + inet_pair);
    CHECK(parse(inet_with(""), keep) == "v2 28 proxy "s + inet_pair);

    for (const proxy_options& options : {proxy_options{}, keep}) {
        CHECK(parse(inet_with("\x01"), options) == bad(tlv_cut));
        CHECK(parse(inet_with("\x01\x00"s), options) == bad(tlv_cut));
        CHECK(parse(inet_with(alpn + "\x01\x00\x01"s), options) == bad(tlv_cut));
        CHECK(parse(inet_with("\x01\xff\xff"s + alpn), options) == bad(tlv_cut));
        CHECK(parse(inet_with("\x04\x00\x01"s), options) == bad(tlv_cut));
        CHECK(parse(inet_with("\x01\x00\x02h"s) + "2", options) == bad(tlv_cut)); // the payload does not complete it
    }
}

TEST_CASE("what PP2_TYPE_SSL holds can be walked, too") {
    const std::string head = "\x01\0\0\0\0"s, version = tlv(0x21, "TLSv1.3");
    const std::string bytes = inet_with(tlv(0x20, head + version + tlv(0x22, "cn")));
    proxy_line line;
    line.start(keep);

    REQUIRE(line.parse(bytes) == progress::done);
    std::string_view rest = line.tlvs();
    proxy_tlv ssl, part;
    REQUIRE(next_tlv(rest, ssl));
    CHECK(ssl.type == proxy_tlv_type::ssl);
    CHECK(rest.empty());
    std::string_view parts = ssl.value.substr(5);
    REQUIRE(next_tlv(parts, part));
    CHECK(part.type == 0x21);
    CHECK(part.value == "TLSv1.3");
    REQUIRE(next_tlv(parts, part));
    CHECK(part.value == "cn");
    CHECK_FALSE(next_tlv(parts, part));

    CHECK(parse(inet_with(tlv(0x20, head))).starts_with("v2"));
    CHECK(parse(inet_with(tlv(0x20, head.substr(1)))) == bad(tlv_cut));
    CHECK(parse(inet_with(tlv(0x20, head + "\x21"))) == bad(tlv_cut));
    CHECK(parse(inet_with(tlv(0x20, head + version.substr(0, version.size() - 1)) + tlv(1, "h2"))) == bad(tlv_cut));
}

TEST_CASE("a checksum is verified") {
    // Computed apart from this library, bit by bit.
    const std::string value = "\x5e\x54\xb2\x72"s;
    const std::string right = inet_with(tlv(1, "h2") + tlv(3, value));
    CHECK(parse(right, keep) == "v2 40 proxy "s + inet_pair + " 1=6832 3=5e54b272");
    CHECK(parse(right) == "v2 40 proxy "s + inet_pair);
    CHECK(parse(right + "payload") == "v2 40 proxy "s + inet_pair);

    for (std::size_t bit = 16 * 8; bit < right.size() * 8; ++bit) {
        std::string bytes = right;
        bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
        const bool is_framing = (bit / 8 >= 28 && bit / 8 < 31) || (bit / 8 >= 33 && bit / 8 < 36);
        if (!is_framing) CHECK_MESSAGE(parse(bytes) == bad(checksum_mismatch), bit);
    }
    CHECK(parse(inet_with(tlv(3, ""))) == bad(bad_checksum));
    CHECK(parse(inet_with(tlv(3, value.substr(1)))) == bad(bad_checksum));
    CHECK(parse(inet_with(tlv(3, value + "x"))) == bad(bad_checksum));
    CHECK(parse(inet_with(tlv(3, value) + tlv(3, value))) == bad(checksum_repeated));
}

TEST_CASE("every error has its own name") {
    std::vector<std::string_view> names;
    for (int i = 0; i <= static_cast<int>(checksum_mismatch); ++i) {
        const std::string_view name = to_string(static_cast<proxy_error>(i));
        for (const std::string_view other : names)
            CHECK(name != other);
        names.push_back(name);
    }
    CHECK(names.front() == "none");
    CHECK(names.back() == "checksum_mismatch");
}

} // namespace
