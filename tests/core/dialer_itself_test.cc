// dialer: connects whose two ends would be one socket.

#include <sys/socket.h>

#include "core/dialer.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("a connect that meets itself is refused, and the port is free at once") {
    // The kernel chooses the wanted port as the local one now and then; here the source says so.
    for (const std::uint32_t host : {0x7f000001u, 0x7f000002u}) {
        rig r;
        user who;
        const endpoint at = endpoint::ipv4(host, refused_port());

        auto conn = dial(r.conns, tcp, at, {.source = at}, user::table, &who);

        CHECK(conn.error() == ECONNREFUSED);
        CHECK(r.conns.live_count() == 0);
        CHECK(r.opened_in_all() == 0);
        descriptor server(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        CHECK(::bind(server.get(), at.data(), at.size()) == 0); // without SO_REUSEADDR: nothing is in TIME_WAIT
    }
}

TEST_CASE("a source with the port of another host's server does not meet itself") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    auto conn = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server.port), {.source = endpoint::ipv4(0x7f000002, server.port)},
                     user::table, &who);
    REQUIRE(conn.ok());
    CHECK(r.until([&] { return conn.value()->is(conn_flag::connected); }));
}

} // namespace
