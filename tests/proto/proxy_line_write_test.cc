// proxy_line: what is written, and that it is read as the same.

#include "proto/proxy_line.hpp"

#include <array>
#include <cstdlib>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "support/proxy_lines.hpp"

namespace {

using namespace weir;
using namespace support;
using namespace std::string_literals;
using namespace std::string_view_literals;

using progress = proxy_line::progress;

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

TEST_CASE("what is printed is what it says") {
    const endpoint a = endpoint::ipv4(0x0a010203, 4567), b = endpoint::ipv4(0xc0a80001, 443), c = ipv6(0x20, 1, 80);
    CHECK(printed_v1(a, b) == "PROXY TCP4 10.1.2.3 192.168.0.1 4567 443\r\n");
    CHECK(printed_v1(c, ipv6(0, 0, 65535)) == "PROXY TCP6 2000::1 :: 80 65535\r\n");
    CHECK(printed_v1(ipv6(0xfe, 1, 1, 7), c) == "PROXY TCP6 fe00::1 2000::1 1 80\r\n");
    CHECK(printed_v1(a, c) == "PROXY TCP6 ::ffff:10.1.2.3 2000::1 4567 80\r\n");
    CHECK(printed_v1(c, a) == "PROXY TCP6 2000::1 ::ffff:10.1.2.3 80 4567\r\n");
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

TEST_CASE("a mapped address is told as IPv4, unless the other one is IPv6's own") {
    const auto mapped = [](const endpoint& at) {
        std::array<std::uint8_t, 16> bytes{};
        bytes[10] = bytes[11] = 0xff;
        for (std::size_t i = 0; i < 4; i++)
            bytes[12 + i] = static_cast<std::uint8_t>(at.ipv4_address() >> (24 - 8 * i));
        return endpoint::ipv6(bytes, at.port());
    };
    const endpoint a = endpoint::ipv4(0x0a010203, 4567), b = endpoint::ipv4(0xc0a80001, 443), c = ipv6(0x20, 1, 80);

    for (const auto& [from, to] : {std::pair{mapped(a), mapped(b)}, {a, mapped(b)}, {mapped(a), b}}) {
        CHECK(printed_v1(from, to) == printed_v1(a, b));
        CHECK(printed_v2(from, to) == printed_v2(a, b));
    }
    CHECK(printed_v1(mapped(a), c) == printed_v1(a, c));
    CHECK(printed_v2(c, mapped(a)) == printed_v2(c, a));
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

} // namespace
