#include "proto/address.hpp"

#include <string>

#include <doctest/doctest.h>

#include "proto/tcp.hpp"
#include "proto/unix.hpp"
#include "support/counting.hpp"

namespace {

using namespace weir;

TEST_CASE("an address knows the family that opens it") {
    const support::forgiven these;
    const auto local = parse_address("unix:/run/x.sock"), abstract = parse_address("unix:@x");
    const auto four = parse_address("127.0.0.1:80"), six = parse_address("[::1]:80"), any = parse_address(":80");

    REQUIRE(local.ok());
    CHECK(local.value().family == &unix_stream);
    CHECK(local.value().at.family() == AF_UNIX);
    REQUIRE(abstract.ok());
    CHECK(abstract.value().family == &unix_stream);
    REQUIRE(four.ok());
    CHECK(four.value().family == &tcp);
    CHECK(four.value().at == endpoint::ipv4(0x7f000001, 80));
    REQUIRE(six.ok());
    CHECK(six.value().family == &tcp);
    CHECK(six.value().at.family() == AF_INET6);
    REQUIRE(any.ok());
    CHECK(any.value().at == endpoint::ipv4(0, 80));
}

TEST_CASE("an error is the family's") {
    const support::forgiven these;

    CHECK(parse_address("").error() == EINVAL);
    CHECK(parse_address("unix:").error() == EINVAL);
    CHECK(parse_address("unix:" + std::string(108, 'x')).error() == ENAMETOOLONG);
    CHECK(parse_address("127.0.0.1:99999").error() == EINVAL);
    CHECK(parse_address("unix").error() == EINVAL);
    CHECK(parse_address("no-such-host.invalid:80").error() == ENOENT);
}

} // namespace
