#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "proto/proxy_line.hpp"

using namespace weir;
using namespace std::string_literals;
using namespace std::string_view_literals;

namespace {

using progress = proxy_line::progress;
using enum proxy_error;

std::string text_of(const endpoint& at) {
    std::array<char, endpoint::text_max> room;
    return at.specified() ? std::string(at.text(room)) : "-";
}

std::string hex(std::string_view bytes) {
    std::string text;
    for (const char byte : bytes)
        for (const int shift : {4, 0})
            text += "0123456789abcdef"[static_cast<unsigned char>(byte) >> shift & 15];
    return text;
}

// All that a caller can learn, as text: two outcomes are the same when this is.
std::string describe(progress end, const proxy_line& line, std::string_view bytes) {
    if (end == progress::more) return "more";
    if (end == progress::bad) return "bad "s + to_string(line.error());
    REQUIRE(line.error() == none);
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
std::string parse_cut(std::string_view bytes, const std::vector<std::size_t>& cuts, const proxy_options& options) {
    proxy_line line;
    line.start(options);
    std::vector<char> copy;
    for (const std::size_t cut : cuts) {
        copy = std::vector<char>(bytes.begin(), bytes.begin() + std::ptrdiff_t(cut));
        const std::string_view part{copy.data(), copy.size()};
        const progress so_far = line.parse(part);
        if (so_far != progress::more) {
            const std::string outcome = describe(so_far, line, part);
            CHECK(describe(line.parse(bytes), line, bytes) == outcome); // said again
            return outcome;
        }
    }
    return describe(line.parse(bytes), line, bytes);
}

// The outcome, which must not depend on how the bytes are cut.
std::string parse(std::string_view bytes, const proxy_options& options = {}) {
    const std::string whole = parse_cut(bytes, {}, options);
    std::vector<std::size_t> each;
    for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
        each.push_back(cut);
        if (parse_cut(bytes, {cut}, options) != whole) FAIL("cut at " << cut << " of: " << hex(bytes));
    }
    CHECK(parse_cut(bytes, each, options) == whole);
    return whole;
}

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

constexpr std::string_view signature = "\r\n\r\n\0\r\nQUIT\n"sv;

std::string number16(std::size_t value) {
    return {static_cast<char>(value >> 8), static_cast<char>(value)};
}

// A v2 header by hand: version and command, family and transport, and what follows its length.
std::string v2(int first, int second, std::string_view block) {
    return std::string(signature) + static_cast<char>(first) + static_cast<char>(second) + number16(block.size()) +
           std::string(block);
}

std::string tlv(int type, std::string_view value) {
    return static_cast<char>(type) + number16(value.size()) + std::string(value);
}

const std::string inet_block = "\x0a\x01\x02\x03\xc0\xa8\x00\x01\x11\xd7\x01\xbb"s; // 10.1.2.3:4567, 192.168.0.1:443
constexpr const char* inet_pair = "10.1.2.3:4567 192.168.0.1:443";
std::string inet_with(std::string_view tlvs) {
    return v2(0x21, 0x11, inet_block + std::string(tlvs));
}

std::string padded(std::string_view path) {
    return std::string(path) + std::string(108 - path.size(), '\0');
}

constexpr proxy_options keep{.tlvs = proxy_tlvs::keep};

} // namespace

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
         "v1 53 proxy [::ffff:a01:203]:1 [1:2:3:4:5:6:708:90a]:2"},
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

namespace {

std::string printed_v1(const endpoint& source, const endpoint& destination) {
    std::array<char, proxy_v1_bytes_max> room;
    return std::string(write_proxy_v1(room, source, destination));
}

std::string printed_v2(const endpoint& source, const endpoint& destination, std::span<const proxy_tlv> tlvs = {},
                       proxy_checksum checksum = proxy_checksum::none) {
    std::array<char, proxy_v2_bytes_max + 100> room;
    return std::string(write_proxy_v2(room, source, destination, tlvs, checksum));
}

endpoint ipv6(int first, int last, std::uint16_t port, std::uint32_t scope = 0) {
    std::array<std::uint8_t, 16> bytes{};
    bytes[0] = static_cast<std::uint8_t>(first);
    bytes[15] = static_cast<std::uint8_t>(last);
    return endpoint::ipv6(bytes, port, scope);
}

endpoint unnamed() {
    sockaddr_storage storage{};
    storage.ss_family = AF_UNIX;
    return endpoint::from_kernel(storage, sizeof storage.ss_family);
}

} // namespace

TEST_CASE("what is printed is what it says") {
    const endpoint a = endpoint::ipv4(0x0a010203, 4567), b = endpoint::ipv4(0xc0a80001, 443), c = ipv6(0x20, 1, 80);
    CHECK(printed_v1(a, b) == "PROXY TCP4 10.1.2.3 192.168.0.1 4567 443\r\n");
    CHECK(printed_v1(c, ipv6(0, 0, 65535)) == "PROXY TCP6 2000::1 :: 80 65535\r\n");
    CHECK(printed_v1(ipv6(0xfe, 1, 1, 7), c) == "PROXY TCP6 fe00::1 2000::1 1 80\r\n");
    CHECK(printed_v1(a, c) == "PROXY TCP6 ::ffff:a01:203 2000::1 4567 80\r\n");
    CHECK(printed_v1(c, a) == "PROXY TCP6 2000::1 ::ffff:a01:203 80 4567\r\n");
    const endpoint path = endpoint::unix_path("/run/a").value();
    for (const auto& [from, to] :
         {std::pair{endpoint{}, endpoint{}}, {a, endpoint{}}, {endpoint{}, a}, {path, path}, {path, a}})
        CHECK(printed_v1(from, to) == "PROXY UNKNOWN\r\n");

    CHECK(printed_v2(a, b) == inet_with(""));
    CHECK(printed_v2(a, c).substr(12, 4) == "\x21\x21\x00\x24"s);
    CHECK(printed_v2(path, unnamed()) == v2(0x21, 0x31, padded("/run/a") + padded("")));
    CHECK(printed_v2(endpoint::unix_path("@n").value(), path) == v2(0x21, 0x31, padded("\0n"sv) + padded("/run/a")));
    for (const auto& [from, to] :
         {std::pair{endpoint{}, endpoint{}}, {a, endpoint{}}, {endpoint{}, c}, {path, a}, {c, path}})
        CHECK(printed_v2(from, to) == v2(0x20, 0x00, ""));
    CHECK(printed_v2(a, b, std::array{proxy_tlv{1, "h2"}}, proxy_checksum::crc32c) ==
          inet_with(tlv(1, "h2") + tlv(3, "\x5e\x54\xb2\x72")));
}

TEST_CASE("what is printed can be read, in every family") {
    const endpoint full = endpoint::unix_path(std::string(107, 'p')).value();
    const endpoint name = endpoint::unix_path("@" + std::string(106, 'n')).value();
    const std::pair<endpoint, endpoint> pairs[] = {
        {endpoint::ipv4(0, 0), endpoint::ipv4(0xffffffff, 65535)},
        {endpoint::ipv4(0x7f000001, 1), endpoint::ipv4(0x7f000001, 1)},
        {ipv6(0, 0, 0), ipv6(0xff, 0xff, 65535)},
        {full, name},
        {name, full},
        {unnamed(), full},
        {endpoint{}, endpoint{}},
    };
    const proxy_tlv extras[] = {{1, "h2"}, {0xe0, "\0\xff\r\n"sv}, {4, ""}};
    for (const auto& pair : pairs) {
        const endpoint &source = pair.first, &destination = pair.second;
        CAPTURE(text_of(source));
        const bool is_unix = source.family() == AF_UNIX;
        for (const std::string& bytes :
             {printed_v1(source, destination), printed_v2(source, destination), printed_v2(source, destination, extras),
              printed_v2(source, destination, extras, proxy_checksum::crc32c)}) {
            proxy_line line;
            line.start(keep);
            REQUIRE(line.parse(bytes) == progress::done);
            CHECK(line.size() == bytes.size());
            const bool tells = source.specified() && !(is_unix && line.version() == 1);
            CHECK(line.source() == (tells ? source : endpoint{}));
            CHECK(line.destination() == (tells ? destination : endpoint{}));
            parse(bytes, keep);
        }
    }
}

TEST_CASE("any address printed is read as the same") {
    std::mt19937 random(1);
    for (int round = 0; round < 5000; ++round) {
        std::array<std::uint8_t, 16> from{}, to{};
        for (std::size_t i = 0; i < 16; ++i) { // zeroes in runs, as addresses have them
            from[i] = random() % 3 == 0 ? static_cast<std::uint8_t>(random()) : std::uint8_t{0};
            to[i] = random() % 3 != 0 ? static_cast<std::uint8_t>(random()) : std::uint8_t{0};
        }
        const endpoint source = endpoint::ipv6(from, static_cast<std::uint16_t>(random()));
        const endpoint destination = endpoint::ipv6(to, static_cast<std::uint16_t>(random()));
        for (const std::string& bytes : {printed_v1(source, destination), printed_v2(source, destination)}) {
            proxy_line line;
            line.start();
            REQUIRE(line.parse(bytes) == progress::done);
            CHECK(line.source() == source);
            CHECK(line.destination() == destination);
        }
    }
}

TEST_CASE("a v2 header that does not fit is not printed") {
    const endpoint a = endpoint::ipv4(1, 1);
    std::vector<char> room(70000);
    const auto fits = [&](std::size_t size, std::span<const proxy_tlv> tlvs, proxy_checksum checksum) {
        std::fill(room.begin(), room.end(), '#');
        const std::size_t written = write_proxy_v2(std::span{room}.first(size), a, a, tlvs, checksum).size();
        CHECK(room[written] == '#');
        return written;
    };
    using enum proxy_checksum;
    CHECK(fits(28, {}, proxy_checksum::none) == 28);
    CHECK(fits(27, {}, proxy_checksum::none) == 0);
    CHECK(fits(35, {}, crc32c) == 35);
    CHECK(fits(34, {}, crc32c) == 0);
    const std::string most(65535 - 12 - 3, 'x');
    const proxy_tlv longest{4, most};
    CHECK(fits(70000, {&longest, 1}, proxy_checksum::none) == 16 + 65535);
    CHECK(fits(70000, {&longest, 1}, crc32c) == 0);
}

TEST_CASE("a mutated header has one verdict however it is cut, and what is read can be printed") {
    const char* const given = std::getenv("WEIR_SEED");
    const unsigned seed = given != nullptr ? static_cast<unsigned>(std::atoi(given)) : 1;
    MESSAGE("WEIR_SEED=" << seed);
    std::mt19937 random(seed);
    const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    const std::string seeds[] = {"PROXY TCP4 10.1.2.3 192.168.0.1 4567 443\r\nGET",
                                 "PROXY TCP6 2001:db8::1 ::ffff:1.2.3.4 65535 0\r\n",
                                 "PROXY UNKNOWN 1 2 3\r\n",
                                 inet_with(tlv(1, "h2") + tlv(0x20, "\1\0\0\0\0"s + tlv(0x21, "x")) + tlv(4, "")),
                                 inet_with(tlv(1, "h2") + tlv(3, "\x5e\x54\xb2\x72")),
                                 v2(0x21, 0x21, std::string(36, '\x07')),
                                 v2(0x21, 0x31, padded("/run/a") + padded("\0n"sv)),
                                 v2(0x20, 0x00, "")};
    const std::string spice[] = {"\r\n", "\n",    "\r",  " ",    ":",    "::",   ".",   "0",
                                 "1",    "65536", "\0"s, "\x7f", "\xff", "\x21", "\x11"};
    int done = 0;
    for (int round = 0; round < 20000; ++round) {
        std::string bytes = seeds[below(std::size(seeds))];
        for (std::size_t edits = below(3); edits > 0; --edits) {
            const std::size_t at = below(bytes.size() + 1);
            const std::string& grain = spice[below(std::size(spice))];
            switch (below(3)) {
            case 0: bytes.insert(at, grain); break;
            case 1: bytes.erase(at, below(4)); break;
            case 2: bytes.replace(at, grain.size(), grain); break;
            }
        }
        const proxy_options options{.tlvs = below(4) == 0 ? proxy_tlvs::refuse : proxy_tlvs::keep, .bytes_max = 240};
        const std::string whole = parse_cut(bytes, {}, options);
        std::vector<std::size_t> each;
        for (std::size_t cut = 0; cut < bytes.size(); ++cut)
            each.push_back(cut);
        CHECK_MESSAGE(parse_cut(bytes, each, options) == whole, hex(bytes));
        for (int cuts = 0; cuts < 3; ++cuts)
            CHECK_MESSAGE(parse_cut(bytes, {below(bytes.size() + 1)}, options) == whole, hex(bytes));

        proxy_line line, again;
        line.start(options);
        if (line.parse(bytes) != progress::done) continue;
        ++done;
        const std::string copy = printed_v2(line.source(), line.destination());
        again.start();
        REQUIRE(again.parse(copy) == progress::done);
        CHECK(again.source() == line.source());
        CHECK(again.destination() == line.destination());
    }
    CHECK(done > 5000);
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
