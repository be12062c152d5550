// xprt: a transport with a handshake, and with settings.

#include "core/xprt.hpp"

#include "core/dialer.hpp"
#include "core/listener.hpp"
#include "support/record_xprt.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("until the handshake is done the user hears nothing, then one wake") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, record_xprt);
    CHECK(conn.is(conn_flag::handshaking));
    CHECK_FALSE(conn.is(conn_flag::connected));
    r.turn(3);
    CHECK(who.calls.empty());
    CHECK(r.sleeps()); // waits for the other's hello without spinning
    CHECK(recv_exactly(ends.a.get(), 1) == "H");

    send_all(ends.a.get(), "H");
    REQUIRE(arrived(conn));
    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.is(conn_flag::connected));
    CHECK_FALSE(conn.is(conn_flag::handshaking));
    CHECK_FALSE(conn.slot().is(fd_state::recv_active | fd_state::send_active)); // wants were the handshake's
    CHECK(r.sleeps());
}

TEST_CASE("bytes that came with the handshake are read when the user wants them") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, record_xprt);
    who.on_wake = [](connection& c) {
        c.want_recv();
        return verdict::keep;
    };
    send_all(ends.a.get(), "H" + record("hello") + record(" world"));
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(who.calls.substr(0, 2) == "wr");
    CHECK(who.received == "hello world");
}

// Between epoll_wait and the handshake the peer's hello comes, and its first bytes behind it. The handshake reads both:
// the socket is empty then, and epoll has nothing to report.
TEST_CASE("bytes that the handshake reads, and that epoll never reported, are told") {
    rig r;
    pair ends = tcp_pair(), others = tcp_pair();
    user who, sooner;
    connection& first = r.serve(std::move(others.b), sooner);
    first.want_send();
    who.on_wake = [](connection& c) {
        c.want_recv();
        return verdict::keep;
    };
    const descriptor watched{dup(ends.b.get())}; // serve() takes the other
    connection& conn = r.serve(std::move(ends.b), who, tcp, record_xprt);
    sooner.on_send = [&](connection& c) {
        send_all(ends.a.get(), "H" + record("early"));
        CHECK(wait_for(watched.get(), POLLIN));
        c.stop_send();
        return verdict::keep;
    };

    r.turn(3);

    CHECK(conn.is(conn_flag::connected));
    CHECK(who.received == "early");
    CHECK(r.sleeps());
}

TEST_CASE("a dialed connection connects first, then shakes hands") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    auto dialed = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server.port), {.transport = &record_xprt}, user::table, &who);
    REQUIRE(dialed.ok());
    connection& conn = *dialed.value();
    descriptor peer = accept_tcp(server);
    CHECK(r.until([&] { return !conn.is(conn_flag::connecting); }));
    CHECK(conn.is(conn_flag::handshaking));
    CHECK(who.calls.empty());
    CHECK(recv_exactly(peer.get(), 1) == "H");
    CHECK(r.sleeps());

    send_all(peer.get(), "H");
    REQUIRE(arrived(conn));
    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.is(conn_flag::connected));
    r.pass(seconds{60}); // the connect timeout is over and done with
    CHECK_FALSE(conn.is(conn_flag::failed));
}

TEST_CASE("an accepted connection shakes hands, too") {
    rig r;
    static user who;
    who = {};
    listener front(r.conns);
    REQUIRE(front
                .open(tcp, endpoint::ipv4(0x7f000001, 0), {.transport = &record_xprt},
                      [](void*, connection& conn, const endpoint&) noexcept { conn.attach(user::table, &who); }, nullptr)
                .ok());
    descriptor peer = connect_tcp(front.local().port());
    send_all(peer.get(), "H");

    CHECK(r.until([] { return who.calls == "w"; }));

    CHECK(recv_exactly(peer.get(), 1) == "H");
    CHECK(r.conns.first()->is(conn_flag::connected));
    who = {};
}

TEST_CASE("the connect timeout covers the handshake") {
    rig r;
    const tcp_listener server = listen_tcp();
    user who;
    auto dialed = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server.port),
                       {.timeout = seconds{5}, .transport = &record_xprt}, user::table, &who);
    REQUIRE(dialed.ok());
    connection& conn = *dialed.value();
    CHECK(r.until([&] { return !conn.is(conn_flag::connecting); }));

    r.pass(seconds{6});
    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.is(conn_flag::failed));
    CHECK(conn.error() == ETIMEDOUT);
    CHECK(conn.failure() == end_cause::connect_timed_out);
}

TEST_CASE("a handshake that fails is told by one wake, with the reason") {
    for (const char what : {'g', 'f', 'r'}) { // garbage, FIN, reset
        CAPTURE(what);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who, tcp, record_xprt);
        r.turn();
        if (what == 'g') send_all(ends.a.get(), "?");
        if (what == 'f') shut_write(ends.a.get());
        if (what == 'r') reset(ends.a);
        REQUIRE(arrived(conn));

        r.turn();
        CHECK(r.sleeps());

        CHECK(who.calls == "w");
        CHECK(conn.is(conn_flag::failed));
        CHECK_FALSE(conn.is(conn_flag::connected));
        CHECK(conn.error() == (what == 'g' ? EPROTO : ECONNRESET));
        CHECK(conn.failure() == end_cause::connect_failed);
    }
}

TEST_CASE("news of the socket do not make a handshake spin that waits for something else") {
    rig r;
    static int asked;
    asked = 0;
    static const xprt waiting{.name = "waiting",
                              .recv = raw_xprt.recv,
                              .send = raw_xprt.send,
                              .drain = nullptr,
                              .handshake = [](connection& conn) noexcept {
                                  asked++;
                                  conn.stop_recv();
                                  conn.stop_send();
                                  return io::again;
                              },
                              .close = nullptr};
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, waiting);
    r.turn();
    asked = 0;
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn(10);

    CHECK(asked == 1);
    CHECK(r.sleeps());
    CHECK(conn.ended()); // not forgotten
}

TEST_CASE("a failure that a handshake or an end met while it waits for room is told by one wake") {
    static bool in_handshake; // epoll has no memory for the interest in room, say: cant_send() fails the connection
    static const xprt unlucky{.name = "unlucky",
                              .recv = raw_xprt.recv,
                              .send = raw_xprt.send,
                              .drain = nullptr,
                              .handshake = [](connection& conn) noexcept {
                                  if (!in_handshake) return io::done;
                                  conn.fail(ENOMEM);
                                  return io::again;
                              },
                              .close = nullptr,
                              .shutdown = [](connection& conn) noexcept {
                                  conn.fail(ENOMEM);
                                  return io::again;
                              }};
    for (const bool handshake : {true, false}) {
        CAPTURE(handshake);
        in_handshake = handshake;
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who, tcp, unlucky);
        r.turn();
        if (!handshake) {
            who.calls.clear();
            conn.shutdown_send();
            r.turn();
        }

        CHECK(who.calls == "w");
        CHECK(conn.error() == ENOMEM);
        CHECK(r.sleeps());
    }
}

TEST_CASE("a handshake that has much to say goes on while its user wants nothing") {
    rig r;
    record_layer::hello_bytes = 4 << 20;
    pair ends = tcp_pair();
    shrink_room(ends.b);
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, record_xprt);
    send_all(ends.a.get(), "H"); // said early: only our own words are missing
    CHECK(r.until([&] { return r.sleeps(); }));
    CHECK(conn.is(conn_flag::handshaking));

    std::size_t heard = 0;
    CHECK(r.until([&] {
        char room[64 * 1024];
        for (ssize_t n; (n = ::recv(ends.a.get(), room, sizeof room, MSG_DONTWAIT)) > 0;)
            heard += static_cast<std::size_t>(n);
        return heard == record_layer::hello_bytes;
    }));
    CHECK(r.until([&] { return conn.is(conn_flag::connected); }));

    CHECK(who.calls == "w");
    record_layer::hello_bytes = 1;
}

TEST_CASE("a transport with settings finds them by the connection") {
    struct named_xprt : xprt {
        const char* wanted;
    };
    static const named_xprt named{{.name = "named",
                                   .recv = raw_xprt.recv,
                                   .send = raw_xprt.send,
                                   .drain = nullptr,
                                   .handshake = [](connection& conn) noexcept {
                                       const auto& mine = static_cast<const named_xprt&>(conn.transport());
                                       return mine.wanted == std::string_view{"example.org"} ? io::done : io::failed;
                                   },
                                   .close = nullptr},
                                  "example.org"};
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, named);

    r.turn();

    CHECK(conn.is(conn_flag::connected));
}

// What the layer said last, an alert, must not be overtaken by a reset.
TEST_CASE("a transport that refuses its peer is closed with FIN, whatever the intent, and what comes is thrown away") {
    for (const close_intent intent :
         {close_intent::graceful, close_intent::after_fin, close_intent::silent, close_intent::abort}) {
        rig r;
        pair ends = tcp_pair();
        user who;
        who.on_wake = [&](connection& c) { return c.close(intent, c.failure()); };
        connection& conn = r.serve(std::move(ends.b), who, tcp, record_xprt);
        send_all(ends.a.get(), "no hello, and more of it");

        REQUIRE(r.until([&] { return conn.was_closed(); }));
        std::string seen;
        CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
        CHECK(seen == "H");
        send_all(ends.a.get(), "and on it goes");
        r.turn(2);
        CHECK(r.conns.live_count() == 1);
        shut_write(ends.a.get());

        CHECK(r.until([&] { return r.conns.live_count() == 0; }));
        CHECK(ending_of(ends.a.get()) == ending::fin);
        CHECK(r.ended(end_cause::connect_failed) == 1);
    }
}

TEST_CASE("a transport may have words for a failure, and say which connection can be spliced") {
    static const xprt worded = [] {
        xprt x = raw_xprt;
        x.can_splice = [](const connection& c) noexcept { return c.uses() > 0; };
        x.reason = [](const connection& c) noexcept { return c.error() == EPROTO ? "certificate has expired" : "none"; };
        return x;
    }();
    rig r;
    pair ends = tcp_pair(), others = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, worded);
    connection& plain = r.serve(std::move(others.b), who);

    CHECK_FALSE(conn.can_splice());
    conn.count_use();
    CHECK(conn.can_splice());
    CHECK(plain.can_splice());
    conn.fail(EPROTO);
    plain.fail(EPROTO);
    CHECK(std::string{conn.reason()} == "certificate has expired");
    CHECK(std::string{plain.reason()} == "Protocol error");
}

} // namespace
