#include "core/endpoint.hpp"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>
#include <string>

#include <doctest/doctest.h>

#include <arpa/inet.h>

#include "support/dies.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;

std::string text_of(const endpoint& e) {
    char room[endpoint::text_max];
    return std::string(e.text(room));
}

endpoint ipv6(const char* address, std::uint16_t port, std::uint32_t scope = 0) {
    std::array<std::uint8_t, 16> bytes;
    REQUIRE(inet_pton(AF_INET6, address, bytes.data()) == 1);
    return endpoint::ipv6(bytes, port, scope);
}

endpoint local(std::string_view path) {
    auto made = endpoint::unix_path(path);
    REQUIRE(made.ok());
    return made.value();
}

TEST_CASE("an IPv4 endpoint is printed in dotted decimals") {
    CHECK(text_of(endpoint::ipv4(0x7F000001, 80)) == "127.0.0.1:80");
    CHECK(text_of(endpoint::ipv4(0, 0)) == "0.0.0.0:0");
    CHECK(text_of(endpoint::ipv4(0xFFFFFFFF, 65535)) == "255.255.255.255:65535");
}

TEST_CASE("an IPv6 endpoint is printed as RFC 5952 says") {
    const struct {
        const char *address, *text;
    } rows[] = {
        {"::", "[::]:80"},
        {"::1", "[::1]:80"},
        {"1::", "[1::]:80"},
        {"2001:0db8:0000:0000:0000:0000:0002:0001", "[2001:db8::2:1]:80"}, // 4.1 leading zeroes, 4.3 lower case
        {"2001:DB8::ABCD", "[2001:db8::abcd]:80"},
        {"2001:db8:0:1:1:1:1:1", "[2001:db8:0:1:1:1:1:1]:80"}, // 4.2.2: not for one group
        {"2001:0:0:1:0:0:0:1", "[2001:0:0:1::1]:80"},          // 4.2.3: the longest run
        {"2001:db8:0:0:1:0:0:1", "[2001:db8::1:0:0:1]:80"},    // the first of equals
        {"0:0:1:0:0:0:0:0", "[0:0:1::]:80"},
        {"0:0:0:0:1:0:0:0", "[::1:0:0:0]:80"},
        {"1:2:3:4:5:6:7:8", "[1:2:3:4:5:6:7:8]:80"},
        {"0:2:3:4:5:6:7:8", "[0:2:3:4:5:6:7:8]:80"},
        {"1:2:3:4:5:6:7:0", "[1:2:3:4:5:6:7:0]:80"},
        {"1:2:3:4:5:6:0:0", "[1:2:3:4:5:6::]:80"},
        {"0:0:3:4:5:6:7:8", "[::3:4:5:6:7:8]:80"},
        {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:80"},
    };
    for (const auto& row : rows)
        CHECK(text_of(ipv6(row.address, 80)) == row.text);
}

TEST_CASE("a mapped address ends in dotted decimals, and in a log it is the IPv4 address") {
    const endpoint mapped = ipv6("::ffff:127.0.0.1", 80);
    char room[endpoint::log_text_max];

    CHECK(text_of(mapped) == "[::ffff:127.0.0.1]:80"); // RFC 5952 section 5
    CHECK(text_of(ipv6("::ffff:0.0.0.0", 80)) == "[::ffff:0.0.0.0]:80");
    CHECK(text_of(ipv6("::ffff:255.255.255.255", 65535)) == "[::ffff:255.255.255.255]:65535");
    CHECK(text_of(ipv6("::fffe:7f00:1", 80)) == "[::fffe:7f00:1]:80");
    CHECK(text_of(ipv6("1::ffff:7f00:1", 80)) == "[1::ffff:7f00:1]:80");
    CHECK(mapped.log_text(room) == "127.0.0.1:80");
    CHECK(ipv6("::1", 80).log_text(room) == "[::1]:80");
}

TEST_CASE("only a mapped address is unmapped") {
    CHECK(ipv6("::ffff:10.1.2.3", 80).is_mapped());
    CHECK(ipv6("::ffff:10.1.2.3", 80).unmapped() == endpoint::ipv4(0x0a010203, 80));
    for (const endpoint& other : {ipv6("::", 80), ipv6("::10.1.2.3", 80), ipv6("fe80::1", 80, 3),
                                  endpoint::ipv4(0x0a010203, 80), local("/run/x.sock"), endpoint{}}) {
        CHECK_FALSE(other.is_mapped());
        CHECK(other.unmapped() == other);
    }
}

TEST_CASE("the parts of an address are those it was made of") {
    const std::array<std::uint8_t, 16> bytes{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};

    CHECK(endpoint::ipv4(0x0a010203, 80).ipv4_address() == 0x0a010203);
    CHECK(endpoint::ipv6(bytes, 80, 3).ipv6_address() == bytes);
    CHECK(endpoint::ipv6(bytes, 80, 3).scope() == 3);
}

TEST_CASE("the longest IPv6 text fits, scope and all") {
    const auto e = ipv6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, 4294967295u);

    CHECK(text_of(e) == "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535");
}

TEST_CASE("a unix endpoint is printed with its path, an abstract one with an @") {
    CHECK(text_of(local("/run/x.sock")) == "unix:/run/x.sock");
    CHECK(text_of(local("@name")) == "unix:@name");
    CHECK(text_of(local(std::string(107, 'p'))) == "unix:" + std::string(107, 'p'));
    CHECK(text_of(local("@" + std::string(106, 'p'))) == "unix:@" + std::string(106, 'p'));
}

// unix(7): other programs find an abstract name by exactly its bytes.
TEST_CASE("an abstract name ends with its length, a path with its NUL") {
    constexpr socklen_t head = offsetof(sockaddr_un, sun_path);

    CHECK(local("@name").size() == head + 5);
    CHECK(local("/name").size() == head + 6);
}

TEST_CASE("an unspecified endpoint says so") {
    const endpoint none;

    CHECK_FALSE(none.specified());
    CHECK(none.family() == AF_UNSPEC);
    CHECK(none.port() == 0);
    CHECK(text_of(none) == "(unspecified)");
}

TEST_CASE("a unix path has a limit, and one that is empty or only an @ is none") {
    CHECK(endpoint::unix_path(std::string(107, 'p')).ok());
    CHECK(endpoint::unix_path(std::string(108, 'p')).error() == ENAMETOOLONG);
    CHECK(endpoint::unix_path("@" + std::string(107, 'p')).error() == ENAMETOOLONG);
    CHECK(endpoint::unix_path(std::string(5000, 'p')).error() == ENAMETOOLONG);
    CHECK(endpoint::unix_path("").error() == EINVAL);
    CHECK(endpoint::unix_path("@").error() == EINVAL);
}

TEST_CASE("a unix path with a NUL in it is refused, since the file would be another one") {
    CHECK(endpoint::unix_path(std::string("/run/x\0.sock", 12)).error() == EINVAL);
    CHECK(endpoint::unix_path(std::string("@na\0me", 6)).error() == EINVAL);
    CHECK(endpoint::unix_path(std::string("\0name", 5)).error() == EINVAL);
    CHECK(endpoint::unix_path(std::string("/run/x\0", 7)).error() == EINVAL);
}

TEST_CASE("a path ends with its NUL, whatever lay in the memory before") {
    alignas(endpoint) unsigned char memory[sizeof(endpoint)];
    std::memset(memory, 'x', sizeof memory);

    const endpoint& e = *new (memory) endpoint(local("/a/path/of/more/than/fourteen/bytes"));
    struct garbage {
        static endpoint make() {
            volatile char stack[512];
            for (auto& byte : stack)
                byte = 'x';
            return local("/a/path/of/more/than/fourteen/bytes");
        }
    };
    const endpoint other = garbage::make();

    CHECK(std::string(e.path()) == "/a/path/of/more/than/fourteen/bytes");
    CHECK(std::string(other.path()) == "/a/path/of/more/than/fourteen/bytes");
    CHECK(e == other);
}

TEST_CASE("endpoints are equal when everything about them is") {
    CHECK(endpoint::ipv4(0x7F000001, 80) == endpoint::ipv4(0x7F000001, 80));
    CHECK_FALSE(endpoint::ipv4(0x7F000001, 80) == endpoint::ipv4(0x7F000001, 81));
    CHECK_FALSE(endpoint::ipv4(0x7F000001, 80) == endpoint::ipv4(0x7F000002, 80));
    CHECK(ipv6("fe80::1", 80, 3) == ipv6("fe80::1", 80, 3));
    CHECK_FALSE(ipv6("fe80::1", 80, 3) == ipv6("fe80::1", 80, 4));
    CHECK_FALSE(ipv6("::ffff:127.0.0.1", 80) == endpoint::ipv4(0x7F000001, 80));
    CHECK(local("/x") == local("/x"));
    CHECK_FALSE(local("/x") == local("/xy"));
    CHECK_FALSE(local("@x") == local("x"));
    CHECK_FALSE(local("@x") == local("@xy"));
    CHECK(endpoint() == endpoint());
    CHECK_FALSE(endpoint() == endpoint::ipv4(0, 0));
}

TEST_CASE("port and path are told apart by the family") {
    CHECK(endpoint::ipv4(1, 8080).port() == 8080);
    CHECK(ipv6("::1", 8080).port() == 8080);
    CHECK(local("/x").port() == 0);
    CHECK(std::string(local("/x").path()) == "/x");
    CHECK(std::string(local("@x").path()).empty());
    CHECK(support::dies([] { static_cast<void>(endpoint::ipv4(1, 2).path()); }, "family() == AF_UNIX"));
}

TEST_CASE("what the kernel says of a bound socket equals what it was bound to") {
    char name[64];
    std::snprintf(name, sizeof name, "@weir-endpoint-test-%d", static_cast<int>(getpid()));
    for (const endpoint& at : {endpoint::ipv4(0x7F000001, 0), local(name)}) {
        const support::descriptor fd(sys::socket(at.family(), SOCK_STREAM));
        REQUIRE(sys::bind(fd.get(), at.data(), at.size()) == 0);

        auto bound = local_endpoint(fd.get());

        REQUIRE(bound.ok());
        if (at.family() == AF_UNIX) CHECK(bound.value() == at);
        else CHECK(bound.value() == endpoint::ipv4(0x7F000001, bound.value().port()));
    }
}

TEST_CASE("an unnamed unix socket has an empty path") {
    const auto ends = support::stream_pair();

    auto name = local_endpoint(ends.a.get());

    REQUIRE(name.ok());
    CHECK(name.value().family() == AF_UNIX);
    CHECK(std::string(name.value().path()).empty());
    CHECK(text_of(name.value()) == "unix:");
}

TEST_CASE("what is no socket has no endpoint") {
    const auto ends = support::pipe_pair();

    CHECK(local_endpoint(ends.a.get()).error() == ENOTSOCK);
    CHECK(local_endpoint(-1).error() == EBADF);
}

TEST_CASE("a name that a log could take for the end of its line, or of its quotes, is escaped there") {
    const auto log_text_of = [](const endpoint& e) {
        char room[endpoint::log_text_max];
        return std::string(e.log_text(room));
    };

    CHECK(log_text_of(local("@a\nb\r\x1b[0m\"\\\x7f\xc3\xa4 ~")) ==
          "unix:@a\\x0ab\\x0d\\x1b[0m\\x22\\x5c\\x7f\\xc3\\xa4 ~");
    CHECK(log_text_of(endpoint::ipv4(0x7F000001, 80)) == "127.0.0.1:80");
    CHECK(log_text_of(local("@" + std::string(106, '\n'))).size() == 6 + 4 * 106);
    CHECK(text_of(local("@a\nb")) == "unix:@a\nb"); // which can be read back
}

// unix(7): a path may fill sun_path to the last byte, without a NUL.
TEST_CASE("a name that fills its address is printed to its end and not beyond") {
    sockaddr_storage storage{};
    auto& full = reinterpret_cast<sockaddr_un&>(storage);
    full.sun_family = AF_UNIX;
    std::memset(full.sun_path, 'p', sizeof full.sun_path);

    const auto e = endpoint::from_kernel(storage, sizeof full);

    CHECK(text_of(e) == "unix:" + std::string(108, 'p'));
}

} // namespace
