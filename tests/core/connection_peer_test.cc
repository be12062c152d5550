#include "core/connection.hpp"

#include <cstdio>

#include <unistd.h>

#include "core/dialer.hpp"
#include "core/listener.hpp"
#include "proto/unix.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

const endpoint loopback_v6 = endpoint::ipv6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 0);
const endpoint every_v6 = endpoint::ipv6({}, 0);

// A listener, and what it accepted.
struct door {
    explicit door(rig& r) : port(r.conns) {}

    void open(const ctrl& family, const endpoint& at) { REQUIRE(port.open(family, at, {}, accepted, this).ok()); }
    static void accepted(void* self, connection& conn, const endpoint& peer) noexcept {
        door& me = *static_cast<door*>(self);
        conn.attach(user::table, &me.who);
        me.conns.push_back(&conn);
        me.told.push_back(peer);
    }

    user who;
    listener port;
    std::vector<connection*> conns;
    std::vector<endpoint> told;
};

// A socket that is connected to `to`, perhaps from a path of its own.
descriptor caller(const endpoint& to, const endpoint& from = {}) {
    descriptor fd(socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (from.specified()) REQUIRE(bind(fd.get(), from.data(), from.size()) == 0);
    REQUIRE(connect(fd.get(), to.data(), to.size()) == 0);
    return fd;
}

endpoint at_port(const endpoint& host, std::uint16_t port) {
    return host.family() == AF_INET ? endpoint::ipv4(host.ipv4_address(), port)
                                    : endpoint::ipv6(host.ipv6_address(), port);
}

endpoint name_of(const descriptor& fd) {
    const auto name = local_endpoint(fd.get());
    REQUIRE(name.ok());
    return name.value();
}

TEST_CASE("a connection knows its client, IPv4 and IPv6, also when the client has reset it") {
    for (const endpoint& host : {any_port, loopback_v6}) {
        rig r;
        door d(r);
        d.open(tcp, host);
        descriptor client = caller(at_port(host, d.port.local().port()));
        const endpoint expected = name_of(client);
        REQUIRE(r.until([&] { return d.conns.size() == 1; }));
        connection& conn = *d.conns[0];

        CHECK(conn.peer() == expected);
        CHECK(d.told[0] == expected);
        reset(client);
        REQUIRE(r.until([&] { return conn.is_broken(); }));
        CHECK(conn.peer() == expected);
        conn.close(close_intent::silent, end_cause::peer_failed);
    }
}

TEST_CASE("a client that is reset before it is accepted is known, too") {
    rig r;
    door d(r);
    d.open(tcp, any_port);
    descriptor client = caller(at_port(any_port, d.port.local().port()));
    const endpoint expected = name_of(client);
    reset(client);

    REQUIRE(r.until([&] { return d.conns.size() == 1; })); // Linux hands it out all the same

    CHECK(d.conns[0]->peer() == expected);
}

TEST_CASE("an IPv4 client of an IPv6 listener is an IPv4 client") {
    rig r;
    door d(r);
    d.open(tcp, every_v6);
    const descriptor client = caller(at_port(any_port, d.port.local().port()));

    REQUIRE(r.until([&] { return d.conns.size() == 1; }));

    CHECK(d.told[0].is_mapped()); // what accept(2) says
    CHECK(d.conns[0]->peer() == name_of(client));
    CHECK(d.conns[0]->peer().family() == AF_INET);
}

TEST_CASE("each of many IPv6 clients is told as itself, and a place that is used again forgets") {
    rig r({.connections_max = 8});
    door d(r);
    d.open(tcp, loopback_v6);
    for (int round = 0; round < 3; round++) {
        std::vector<descriptor> clients;
        for (int i = 0; i < 8; i++)
            clients.push_back(caller(at_port(loopback_v6, d.port.local().port())));
        REQUIRE(r.until([&] { return d.conns.size() == 8; }));
        for (std::size_t i = 0; i < 8; i++)
            CHECK(d.conns[i]->peer() == name_of(clients[i]));
        for (connection* conn : d.conns)
            conn->close(close_intent::silent, end_cause::done);
        d.conns.clear();
    }
}

TEST_CASE("a unix client is told by the name that it has bound, or by none") {
    char path[64], own[80];
    std::snprintf(path, sizeof path, "/tmp/weir-peer-test-%d.sock", static_cast<int>(getpid()));
    std::snprintf(own, sizeof own, "%s.client", path);
    rig r;
    door d(r);
    const endpoint at = endpoint::unix_path(path).value(), named = endpoint::unix_path(own).value();
    d.open(unix_stream, at);
    descriptor bound = caller(at, named);
    const descriptor nameless = caller(at);

    REQUIRE(r.until([&] { return d.conns.size() == 2; }));

    CHECK(d.conns[0]->peer() == named);
    CHECK(d.conns[1]->peer().family() == AF_UNIX);
    CHECK(d.conns[1]->peer().path() == std::string());
    bound.close();
    CHECK(d.conns[0]->peer() == named);
    unlink(own);
    unlink(path);
}

TEST_CASE("a dialed connection knows where it was dialed to, also when that failed") {
    rig r;
    user who;
    const endpoint to = endpoint::ipv4(0x7f000001, refused_port());
    auto conn = dial(r.conns, tcp, to, {}, user::table, &who);
    REQUIRE(conn.ok());

    REQUIRE(r.until([&] { return conn.value()->is_broken(); }));

    CHECK(conn.value()->peer() == to);
    conn.value()->close(close_intent::silent, conn.value()->failure());
}

TEST_CASE("of a socket that was adopted without a word no peer is known") {
    rig r;
    pair ends = tcp_pair();
    user who;

    const connection& conn = r.serve(std::move(ends.b), who);

    CHECK_FALSE(conn.peer().specified());
}

} // namespace
