#include "core/dialer.hpp"

#include <sys/un.h>

#include "proto/unix.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

endpoint loopback(std::uint16_t port) { return endpoint::ipv4(0x7f000001, port); }

// A connection under way to somebody who listens but is not asked to accept yet.
connection& dialed(rig& r, std::uint16_t port, user& who, const dial_options& options = {}) {
    auto conn = dial(r.conns, tcp, loopback(port), options, user::table, &who);
    REQUIRE(conn.ok());
    return *conn.value();
}

// A listener whose backlog is full: what connects to it stays connecting.
struct deaf_server {
    tcp_listener listener = listen_tcp(blocking::no, 0);
    descriptor filler = connect_tcp(listener.port);
};

TEST_CASE("a dialed connection is connecting, then its user is woken once") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;

    connection& conn = dialed(r, server.port, who);
    CHECK(conn.is(conn_flag::connecting));
    CHECK_FALSE(conn.is(conn_flag::connected));
    CHECK(who.calls.empty()); // not from within dial()
    CHECK(r.until([&] { return !who.calls.empty(); }));

    CHECK(who.calls == "w");
    CHECK(conn.is(conn_flag::connected));
    CHECK_FALSE(conn.is(conn_flag::connecting));
    CHECK(r.sleeps());
    CHECK(who.calls == "w");
    descriptor peer = accept_tcp(server);
    CHECK(conn.send("hello").end == io::done);
    CHECK(recv_exactly(peer.get(), 5) == "hello");
    CHECK(r.conns.opened_count(conn_origin::dialed) == 1);
}

TEST_CASE("a dialed connection costs one epoll_ctl, its EAGAINs included") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    const std::uint64_t before = r.loop.polls().ctl_count();

    connection& conn = dialed(r, server.port, who);
    CHECK(r.until([&] { return conn.is(conn_flag::connected); }));
    const descriptor peer = accept_tcp(server);
    const std::string much(32 << 20, 'x');
    const io_result sent = conn.send(much);
    REQUIRE(sent.bytes < much.size());
    conn.want_send();
    who.calls.clear();
    CHECK(recv_exactly(peer.get(), sent.bytes).size() == sent.bytes);
    CHECK(r.until([&] { return who.calls == "s"; }));

    CHECK(r.loop.polls().ctl_count() == before + 1);
}

TEST_CASE("dialing allocates nothing") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    const std::uint64_t before = allocation_count();

    auto conn = dial(r.conns, tcp, loopback(server.port), {}, user::table, &who);

    CHECK(allocation_count() == before);
    CHECK(conn.ok());
}

TEST_CASE("a refused connection wakes its user with the reason") {
    rig r;
    user who;
    connection& conn = dialed(r, refused_port(), who);

    CHECK(r.until([&] { return !who.calls.empty(); }));

    CHECK(who.calls == "w");
    CHECK(conn.is(conn_flag::failed));
    CHECK_FALSE(conn.is(conn_flag::connected));
    CHECK(conn.error() == ECONNREFUSED);
    CHECK(conn.failure() == end_cause::connect_failed);
    CHECK(r.sleeps());
    conn.close(close_intent::silent, conn.failure());
    CHECK(r.ended(end_cause::connect_failed) == 1);
    CHECK(r.sums_hold());
}

TEST_CASE("a connect that takes too long fails with ETIMEDOUT, at its deadline and not before") {
    rig r;
    const deaf_server server;
    user who;
    connection& conn = dialed(r, server.listener.port, who, {.timeout = seconds{3}});
    r.turn(3);
    REQUIRE(conn.is(conn_flag::connecting));

    r.pass(milliseconds{2999});
    r.turn();
    CHECK(who.calls.empty());
    r.pass(milliseconds{1});
    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.error() == ETIMEDOUT);
    CHECK(conn.failure() == end_cause::connect_timed_out);
    CHECK(r.sleeps());
    CHECK(who.calls == "w");
}

TEST_CASE("a connect timeout of duration::max() is none") {
    rig r;
    const deaf_server server;
    user who;
    connection& conn = dialed(r, server.listener.port, who, {.timeout = duration::max()});
    r.pass(std::chrono::hours{24 * 365});
    r.turn();
    CHECK(conn.is(conn_flag::connecting));
}

TEST_CASE("the connect timeout is over once connected") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    connection& conn = dialed(r, server.port, who, {.timeout = seconds{3}});
    CHECK(r.until([&] { return conn.is(conn_flag::connected); }));

    r.pass(seconds{60});
    r.turn();

    CHECK_FALSE(conn.is(conn_flag::failed));
    CHECK(who.calls == "w");
}

TEST_CASE("a connecting connection may be closed: neither timeout nor wake follow") {
    rig r;
    const deaf_server server;
    user who;
    connection& conn = dialed(r, server.listener.port, who);
    r.turn();

    conn.close(close_intent::graceful, end_cause::done); // there is nothing to linger for
    r.pass(seconds{60});

    CHECK(who.calls.empty());
    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::done) == 1);
}

TEST_CASE("wants while connecting are not kept, and nothing but wake is called for them") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    connection& conn = dialed(r, server.port, who);
    conn.want_recv();
    conn.want_send();
    descriptor peer = accept_tcp(server);
    send_all(peer.get(), "early");
    REQUIRE(arrived(conn));

    r.turn(3);
    CHECK(who.calls == "w");
    conn.want_recv();
    r.turn();

    CHECK(who.calls == "wr");
    CHECK(who.received == "early");
}

TEST_CASE("bytes that came with the connect are read without another edge") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    who.on_wake = [](connection& c) {
        c.want_recv();
        return verdict::keep;
    };
    connection& conn = dialed(r, server.port, who);
    descriptor peer = accept_tcp(server);
    send_all(peer.get(), "banner");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(who.calls == "wr");
    CHECK(who.received == "banner");
    CHECK(r.sleeps());
}

TEST_CASE("a server that accepts, speaks and closes before the first wait is heard to the end") {
    for (const std::size_t read_bytes : {std::size_t{4096}, std::size_t{12}, std::size_t{5}}) {
        CAPTURE(read_bytes);
        rig r;
        const tcp_listener server = listen_tcp();
        user who;
        bool is_over = false;
        who.on_wake = [](connection& c) {
            CHECK(c.is(conn_flag::connected));
            if (!c.is(conn_flag::recv_ended)) c.want_recv();
            return verdict::keep;
        };
        who.on_recv = [&](connection& c) { // one read for each call
            char room[4096];
            const io_result got = c.recv(room, read_bytes);
            if (got.end == io::done) who.received.append(room, got.bytes);
            if (got.end == io::closed) is_over = true;
            return verdict::keep;
        };
        connection& conn = dialed(r, server.port, who);
        descriptor peer = accept_tcp(server);
        send_all(peer.get(), "last banner!");
        peer.close();
        REQUIRE(end_arrived(conn));

        r.turn(10);

        CHECK(who.received == "last banner!");
        CHECK(is_over);
        CHECK_FALSE(conn.is(conn_flag::failed));
        CHECK(r.sleeps());
    }
}

TEST_CASE("a server that closes at once, without a word, is seen to have ended") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    who.on_wake = [](connection& c) {
        if (!c.is(conn_flag::recv_ended)) c.want_recv();
        return verdict::keep;
    };
    connection& conn = dialed(r, server.port, who);
    accept_tcp(server).close();
    REQUIRE(end_arrived(conn));

    r.turn(3);

    CHECK(conn.is(conn_flag::connected));
    CHECK(conn.is(conn_flag::recv_ended));
    CHECK(r.sleeps());
}

TEST_CASE("a server that accepts and resets before the first wait is a failure with a reason") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    connection& conn = dialed(r, server.port, who);
    descriptor peer = accept_tcp(server);
    reset(peer);
    REQUIRE(wait_for(conn.fd(), POLLERR));

    r.turn(2);

    CHECK(who.calls == "w");
    CHECK(conn.is(conn_flag::failed));
    CHECK(conn.error() == ECONNRESET);
    CHECK(r.sleeps());
}

TEST_CASE("a reset that follows the connect is told by a second wake") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    connection& conn = dialed(r, server.port, who);
    CHECK(r.until([&] { return conn.is(conn_flag::connected); }));
    descriptor peer = accept_tcp(server);
    reset(peer);
    REQUIRE(wait_for(conn.fd(), POLLERR));

    r.turn();

    CHECK(who.calls == "ww");
    CHECK(conn.failure() == end_cause::peer_failed);
}

TEST_CASE("a FIN after EAGAIN is reported although one was seen while connecting") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    connection& conn = dialed(r, server.port, who);
    CHECK(r.until([&] { return conn.is(conn_flag::connected); }));
    descriptor peer = accept_tcp(server);
    who.calls.clear();
    shut_write(peer.get());
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.ended());
}

TEST_CASE("a unix connection is connected at once, and its wake comes in the next turn") {
    rig r;
    char name[64];
    const int length = std::snprintf(name, sizeof name, "@weir-dialer-test-%d", static_cast<int>(getpid()));
    const auto at = endpoint::unix_path({name, static_cast<std::size_t>(length)});
    REQUIRE(at.ok());
    descriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(listener.get(), at.value().data(), at.value().size()) == 0);
    REQUIRE(::listen(listener.get(), 0) == 0);
    user who;

    auto conn = dial(r.conns, unix_stream, at.value(), {}, user::table, &who);
    REQUIRE(conn.ok());
    CHECK(who.calls.empty());
    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.value()->is(conn_flag::connected));
    CHECK(r.sleeps());
    descriptor peer(::accept(listener.get(), nullptr, nullptr));
    CHECK(conn.value()->send("hello").end == io::done);
    CHECK(recv_exactly(peer.get(), 5) == "hello");

    CHECK(r.conns.redials().waiting_count() == 0);
}

TEST_CASE("what connect refuses at once is answered at once, and nothing stays open") {
    rig r;
    user who;
    const auto nowhere = endpoint::unix_path("/nonexistent/weir.sock");
    REQUIRE(nowhere.ok());

    CHECK(dial(r.conns, unix_stream, nowhere.value(), {}, user::table, &who).error() == ENOENT);
    CHECK(dial(r.conns, tcp, loopback(1), {.source = endpoint::ipv4(0xc0000201, 0)}, user::table, &who).error() ==
          EADDRNOTAVAIL); // 192.0.2.1 is nobody's, RFC 5737

    CHECK(r.conns.live_count() == 0);
    CHECK(r.opened_in_all() == 0);
    r.turn();
    CHECK(who.calls.empty());
}

TEST_CASE("a source address is bound") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;

    connection& conn = dialed(r, server.port, who, {.source = endpoint::ipv4(0x7f000002, 0)});
    CHECK(r.until([&] { return conn.is(conn_flag::connected); }));

    auto bound = local_endpoint(conn.fd());
    REQUIRE(bound.ok());
    char room[endpoint::text_max];
    const std::string text{bound.value().text(room)};
    CHECK(text.substr(0, 10) == "127.0.0.2:");
}

TEST_CASE("a full conntab without an idle connection refuses before anything is opened") {
    rig r({.connections_max = 1});
    const tcp_listener server = listen_tcp();
    user who;
    dialed(r, server.port, who);

    auto refused = dial(r.conns, tcp, loopback(server.port), {}, user::table, &who);

    CHECK(refused.error() == ENFILE);
    CHECK(r.conns.live_count() == 1);
    CHECK(r.sums_hold());
}

TEST_CASE("a connecting connection that looks hung up is asked, not believed") {
    // Kernels 5.4 and 5.15 showed HUP during a connect that went on to succeed; the report is played by hand.
    rig r;
    const deaf_server server;
    user who;
    connection& conn = dialed(r, server.listener.port, who);
    r.turn();
    REQUIRE(conn.is(conn_flag::connecting));

    r.loop.fds().report(r.loop.fds().data_of(conn.slot()), EPOLLOUT | EPOLLHUP | EPOLLRDHUP);
    r.turn();
    CHECK(conn.is(conn_flag::connecting));
    CHECK_FALSE(conn.ended());
    CHECK(who.calls.empty());
    CHECK(r.sleeps());

    // Room in the backlog: the kernel's next SYN comes through.
    accept_tcp(server.listener).close();
    CHECK(r.until([&] { return conn.is(conn_flag::connected); }));
    CHECK(who.calls == "w");
}

} // namespace
