#include "core/xprt.hpp"

#include "core/dialer.hpp"
#include "core/idle.hpp"
#include "core/listener.hpp"
#include "support/record_xprt.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

constexpr idle_pool::at_rest rest{.messages_complete = true, .buffers_empty = true};

// --- raw

TEST_CASE("raw: recv answers done, again, closed or failed, and keeps the slot's READY true") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    char room[8];
    send_all(ends.a.get(), "0123456789");
    REQUIRE(arrived(conn));
    r.turn();
    REQUIRE(conn.slot().is(fd_state::recv_ready));

    io_result got = conn.recv(room, 8);
    CHECK(got.end == io::done);
    CHECK(got.bytes == 8);
    CHECK(conn.slot().is(fd_state::recv_ready));
    got = conn.recv(room, 8);
    CHECK(got.end == io::done);
    CHECK(got.bytes == 2);
    CHECK_FALSE(conn.slot().is(fd_state::recv_ready));
    got = conn.recv(room, 8);
    CHECK(got.end == io::again);
    CHECK(got.bytes == 0);
    CHECK_FALSE(conn.slot().is(fd_state::recv_ready));
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();
    got = conn.recv(room, 8);
    CHECK(got.end == io::closed);
    CHECK(conn.is(conn_flag::recv_ended));
    CHECK_FALSE(conn.is(conn_flag::failed));
}

TEST_CASE("raw: a reset answers failed, to recv and to send") {
    for (const bool by_send : {false, true}) {
        CAPTURE(by_send);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        reset(ends.a);
        REQUIRE(wait_for(conn.fd(), POLLERR));
        char room[8];

        const io_result got = by_send ? conn.send("x") : conn.recv(room, 8);

        CHECK(got.end == io::failed);
        CHECK(got.bytes == 0);
        CHECK(conn.error() == ECONNRESET);
    }
}

TEST_CASE("raw: parts are sent in order, as one") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    char head[] = "head ", body[] = "body", end[] = "!";
    const iovec parts[] = {{head, 5}, {body, 4}, {end, 1}};

    const io_result sent = conn.send_parts(parts, 3);

    CHECK(sent.end == io::done);
    CHECK(sent.bytes == 10);
    CHECK(recv_exactly(ends.a.get(), 10) == "head body!");
}

TEST_CASE("raw: `more` holds bytes back until the next send without it") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);

    CHECK(conn.send("held", true).end == io::done);
    CHECK_FALSE(ready(ends.a.get(), POLLIN));
    CHECK(conn.send(" back").end == io::done);

    CHECK(recv_exactly(ends.a.get(), 9) == "held back");
}

TEST_CASE("raw: a short send clears send ready and asks for OUT, an empty one does nothing") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    CHECK(conn.send("").end == io::done);
    CHECK(conn.slot().is(fd_state::send_ready));
    CHECK_FALSE(conn.slot().is(fd_state::awaits_send));
    const std::string much(32 << 20, 'x');

    const io_result sent = conn.send(much);

    CHECK(sent.end == io::done);
    CHECK(sent.bytes > 0);
    CHECK(sent.bytes < much.size());
    CHECK_FALSE(conn.slot().is(fd_state::send_ready));
    CHECK(conn.slot().is(fd_state::awaits_send));
    io_result more{};
    for (int i = 0; i < 100 && more.end == io::done; i++) // what the kernel moved on meanwhile
        more = conn.send(much);
    CHECK(more.end == io::again);
    CHECK(more.bytes == 0);
}

// --- a transport with a handshake and hidden bytes

// A connection over record_xprt, its handshake done.
connection& greeted(rig& r, descriptor socket, descriptor& peer, user& who) {
    connection& conn = r.serve(std::move(socket), who, tcp, record_xprt);
    send_all(peer.get(), "H");
    REQUIRE(r.until([&] { return conn.is(conn_flag::connected); }));
    CHECK(recv_exactly(peer.get(), 1) == "H");
    who.calls.clear();
    return conn;
}

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

TEST_CASE("hidden bytes keep recv ready though the socket is empty") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    conn.want_recv();
    who.on_recv = [&](connection& c) {
        char room[3];
        const io_result got = c.recv(room, 3);
        if (got.end == io::done) who.received.append(room, got.bytes);
        return verdict::keep;
    };
    send_all(ends.a.get(), record("abc") + record("def") + record("ghi"));
    REQUIRE(arrived(conn));

    r.turn();
    CHECK(who.received == "abc");
    CHECK_FALSE(ready(conn.fd(), POLLIN)); // all of it is in the layer
    r.turn();
    CHECK(who.received == "abcdef");
    r.turn();

    CHECK(who.received == "abcdefghi");
    CHECK(r.sleeps());
}

TEST_CASE("hidden bytes that the first user left are the second's") {
    rig r;
    pair ends = tcp_pair();
    user first, second;
    connection& conn = greeted(r, std::move(ends.b), ends.a, first);
    conn.want_recv();
    first.on_recv = [&](connection& c) {
        char room[3];
        CHECK(c.recv(room, 3).bytes == 3);
        c.attach(user::table, &second);
        return verdict::keep;
    };
    send_all(ends.a.get(), record("abcdef"));
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(second.received == "def");
}

TEST_CASE("an end behind records is received after them, one within a record is a failure") {
    for (const bool is_cut : {false, true}) {
        CAPTURE(is_cut);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = greeted(r, std::move(ends.b), ends.a, who);
        conn.want_recv();
        send_all(ends.a.get(), record("whole") + (is_cut ? "\5cut" : std::string{record_end}));
        shut_write(ends.a.get());
        REQUIRE(end_arrived(conn));

        r.turn(2);

        CHECK(who.received == "whole");
        CHECK(conn.is(conn_flag::failed) == is_cut);
        CHECK(conn.is(conn_flag::recv_ended) == !is_cut);
    }
}

TEST_CASE("a send larger than the socket's room goes on record by record") {
    rig r;
    pair ends = tcp_pair();
    shrink_room(ends.b);
    user who;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    std::string bytes;
    for (int i = 0; i < 200'000; i++)
        bytes += static_cast<char>('a' + i % 26);
    std::size_t sent = 0;
    who.on_send = [&](connection& c) {
        const io_result n = c.send(std::string_view{bytes}.substr(sent));
        sent += n.bytes;
        if (sent == bytes.size()) c.stop_send();
        return verdict::keep;
    };
    conn.want_send();

    std::string encoded;
    CHECK(r.until([&] {
        char room[8192];
        const ssize_t n = ::recv(ends.a.get(), room, sizeof room, MSG_DONTWAIT);
        if (n > 0) encoded.append(room, static_cast<std::size_t>(n));
        return sent == bytes.size();
    }));
    conn.close(close_intent::graceful, end_cause::done);
    CHECK(ending_of(ends.a.get(), &encoded) == ending::fin);

    const bool same = unrecord(encoded) == bytes;
    CHECK(same);
}

TEST_CASE("however a connection ends, its transport's context is freed once") {
    const int before = record_layer::live_count;
    {
        rig r;
        user who;
        pair ends[6];
        for (pair& p : ends)
            p = tcp_pair();
        for (const auto intent : {close_intent::graceful, close_intent::after_fin, close_intent::silent, close_intent::abort})
            greeted(r, std::move(ends[static_cast<int>(intent)].b), ends[static_cast<int>(intent)].a, who)
                .close(intent, end_cause::done);
        connection& broken = r.serve(std::move(ends[4].b), who, tcp, record_xprt);
        send_all(ends[4].a.get(), "?");
        CHECK(r.until([&] { return broken.is(conn_flag::failed); }));
        broken.close(close_intent::silent, broken.failure());
        CHECK(record_layer::live_count == before + 1); // the lingering one
        ends[0].a.close();
        CHECK(r.until([&] { return r.conns.live_count() == 0; }));
        CHECK(record_layer::live_count == before);
        greeted(r, std::move(ends[5].b), ends[5].a, who); // the conntab's destructor closes it
    }

    CHECK(record_layer::live_count == before);
}

// --- our end, and theirs

TEST_CASE("the transport's own end goes out in front of the FIN, by shutdown_send and by both polite closes") {
    for (const char how : {'s', 'g', 'f', 'p'}) { // shutdown_send; graceful; after_fin, unread and once the peer has ended
        CAPTURE(how);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = greeted(r, std::move(ends.b), ends.a, who);
        CHECK(conn.send("answer").end == io::done);
        if (how == 'p') {
            send_all(ends.a.get(), record_end);
            conn.want_recv();
            CHECK(r.until([&] { return conn.is(conn_flag::recv_ended); }));
        }

        if (how == 's') conn.shutdown_send();
        else conn.close(how == 'g' ? close_intent::graceful : close_intent::after_fin, end_cause::done);

        std::string seen;
        CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
        CHECK(seen == record("answer") + std::string{record_end});
        if (how != 's') ends.a.close();
        if (how != 's') CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    }
}

TEST_CASE("an abort and a silent close say no end of the transport's: a reset does") {
    for (const auto intent : {close_intent::abort, close_intent::silent}) {
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = greeted(r, std::move(ends.b), ends.a, who);

        conn.close(intent, end_cause::done);

        std::string seen;
        CHECK(ending_of(ends.a.get(), &seen) == ending::reset);
        CHECK(seen == "");
    }
}

// Fills the way to the peer, up to a record that was not sent to its end.
std::size_t fill(connection& conn) {
    const std::string much(1 << 20, 'x');
    std::size_t sent = 0;
    do {
        for (io_result r{io::done, 0}; r.end == io::done; sent += r.bytes)
            r = conn.send(much);
    } while (ready(conn.fd(), POLLOUT)); // what the kernel moved on meanwhile
    return sent;
}

TEST_CASE("an end that has to wait for room keeps its FIN back, and goes out without its user") {
    for (const char how : {'s', 'g', 'f'}) {
        CAPTURE(how);
        rig r;
        pair ends = tcp_pair();
        shrink_room(ends.b);
        user who;
        connection& conn = greeted(r, std::move(ends.b), ends.a, who);
        const std::size_t sent = fill(conn);
        const std::uint64_t before = record_layer::pending_ends;

        const std::uint64_t allocations = allocation_count();
        if (how == 's') conn.shutdown_send();
        else conn.close(how == 'g' ? close_intent::graceful : close_intent::after_fin, end_cause::done);
        const std::uint64_t allocated = allocation_count() - allocations;
        CHECK(allocated == 0);
        CHECK(record_layer::pending_ends == before + 1);
        CHECK(r.conns.live_count() == 1);
        CHECK(r.sleeps()); // waits for the poller
        if (how == 's') CHECK(conn.is(conn_flag::ending));

        std::string encoded, bytes;
        bool is_end = false;
        for (int i = 0; i < 100'000 && !is_end; i++) {
            r.turn();
            char room[8192];
            const ssize_t n = ::recv(ends.a.get(), room, sizeof room, MSG_DONTWAIT);
            CHECK(n != 0); // no FIN in front of the end
            if (n > 0) encoded.append(room, static_cast<std::size_t>(n));
            is_end = n > 0 && encoded.ends_with(record_end);
        }
        CHECK(r.until([&] { return ready(ends.a.get(), POLLRDHUP); }));
        CHECK(ending_of(ends.a.get(), &encoded) == ending::fin);
        bytes = unrecord(std::string_view{encoded});
        // What was begun is sent to its end, though its user never heard that it was taken.
        CHECK(bytes.size() >= sent);
        CHECK(bytes.size() <= sent + 255);
        CHECK(bytes.find_first_not_of('x') == bytes.npos);
        CHECK(who.calls == "");
        if (how == 's') {
            CHECK_FALSE(conn.is(conn_flag::ending));
            CHECK_FALSE(conn.slot().is(fd_state::send_active));
            CHECK(r.sleeps());
        }
    }
}

TEST_CASE("a close while the end still waits for room waits for it, too, whoever ended first") {
    for (const bool peer_ended : {false, true}) {
        CAPTURE(peer_ended);
        rig r;
        pair ends = tcp_pair();
        shrink_room(ends.b);
        user who;
        connection& conn = greeted(r, std::move(ends.b), ends.a, who);
        if (peer_ended) send_all(ends.a.get(), record_end);
        conn.want_recv();
        if (peer_ended) CHECK(r.until([&] { return conn.is(conn_flag::recv_ended); }));
        fill(conn);
        conn.shutdown_send();

        conn.close(close_intent::after_fin, end_cause::peer_closed);
        r.turn(3);
        CHECK(r.conns.live_count() == 1);

        std::string encoded;
        CHECK(r.until([&] {
            char room[8192];
            for (ssize_t n; (n = ::recv(ends.a.get(), room, sizeof room, MSG_DONTWAIT)) > 0;)
                encoded.append(room, static_cast<std::size_t>(n));
            return encoded.ends_with(record_end);
        }));
        if (!peer_ended) shut_write(ends.a.get());
        CHECK(r.until([&] { return r.conns.live_count() == 0; }));
        CHECK(r.ended(end_cause::peer_closed) == 1);
        CHECK(ending_of(ends.a.get(), &encoded) == ending::fin);
    }
}

TEST_CASE("an end that finds no room until the deadline is replaced by a reset, not by a FIN") {
    for (const bool peer_ended : {false, true}) {
        CAPTURE(peer_ended);
        rig r;
        pair ends = tcp_pair();
        shrink_room(ends.b);
        user who;
        connection& conn = greeted(r, std::move(ends.b), ends.a, who);
        if (peer_ended) {
            send_all(ends.a.get(), record_end);
            conn.want_recv();
            CHECK(r.until([&] { return conn.is(conn_flag::recv_ended); }));
        }
        fill(conn);
        conn.close(close_intent::graceful, end_cause::done);
        r.pass(seconds{2} - milliseconds{1});
        CHECK(r.conns.live_count() == 1);

        r.pass(milliseconds{2});

        CHECK(r.conns.live_count() == 0);
        CHECK(ending_of(ends.a.get()) == ending::reset);
    }
}

TEST_CASE("an end that cannot be said is a failure that its user hears of, and a reset") {
    for (const bool is_closed : {false, true}) {
        CAPTURE(is_closed);
        rig r;
        xprt speechless = record_xprt;
        speechless.shutdown = [](connection&) noexcept { return io::failed; };
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who, tcp, speechless);
        send_all(ends.a.get(), "H");
        REQUIRE(r.until([&] { return conn.is(conn_flag::connected); }));
        who.calls.clear();

        if (is_closed) {
            conn.close(close_intent::graceful, end_cause::done);
        } else {
            conn.shutdown_send();
            r.turn();
            CHECK(who.calls == "w");
            CHECK(conn.error() == EPROTO);
            conn.close(close_intent::after_fin, conn.failure());
        }
        r.turn(2);

        CHECK(r.conns.live_count() == 0);
        CHECK(ending_of(ends.a.get()) == ending::reset);
    }
}

TEST_CASE("a FIN without the transport's own end is a truncation: recv answers failed, not closed") {
    for (const bool is_truncated : {false, true}) {
        for (const bool is_idle_socket : {false, true}) { // nothing in front of the end
            CAPTURE(is_truncated);
            rig r;
            pair ends = tcp_pair();
            user who;
            connection& conn = greeted(r, std::move(ends.b), ends.a, who);
            send_all(ends.a.get(), (is_idle_socket ? "" : record("bytes")) + (is_truncated ? "" : std::string{record_end}));
            shut_write(ends.a.get());
            REQUIRE(end_arrived(conn));
            r.turn();
            char room[8];
            if (!is_idle_socket) CHECK(conn.recv(room, 8).bytes == 5);

            const io_result got = conn.recv(room, 8);

            CHECK(got.end == (is_truncated ? io::failed : io::closed));
            CHECK(conn.is(conn_flag::recv_ended) == !is_truncated);
            CHECK(conn.error() == (is_truncated ? EPROTO : 0));
            CHECK(conn.failure() == (is_truncated ? end_cause::peer_failed : end_cause::peer_closed));
        }
    }
}

TEST_CASE("the transport's own end is an end before its FIN has come, and what follows it is nobody's") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    conn.want_recv();
    send_all(ends.a.get(), record("last") + std::string{record_end} + record("never"));
    REQUIRE(arrived(conn));

    r.turn(3);

    CHECK(who.received == "last");
    CHECK(conn.is(conn_flag::recv_ended));
    CHECK_FALSE(conn.slot().ended());
    CHECK(r.sleeps());
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

TEST_CASE("records without payload are no bytes, wherever they stand and however they are cut") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    conn.want_recv();
    const std::string t{ticket}, all = t + record("a") + t + t + record("b") + t + std::string{record_end};
    for (const char byte : all) {
        send_all(ends.a.get(), {&byte, 1});
        REQUIRE(arrived(conn));
        r.turn(2);
        CHECK(r.sleeps());
    }

    CHECK(who.received == "ab");
    CHECK(conn.is(conn_flag::recv_ended));
    CHECK_FALSE(conn.is(conn_flag::failed));
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

// --- parked

struct idle_rig : rig {
    explicit idle_rig(const idle_options& options)
        : pool(conns, options), key(pool.key_of({.remote = endpoint::ipv4(0x7f000001, 80), .family = &tcp, .transport = &record_xprt})) {}
    idle_pool pool;
    idle_pool::key key;
};

TEST_CASE("a parked connection's hidden bytes are found though the socket is silent") {
    idle_rig r({});
    pair ends = tcp_pair();
    user who;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    conn.want_recv();
    who.on_recv = [&](connection& c) {
        char six[6];
        CHECK(c.recv(six, 6).bytes == 6);
        return r.pool.park(c, r.key, rest);
    };
    send_all(ends.a.get(), record("answer") + record("stray"));
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(r.ended(end_cause::idle_unsolicited) == 1);
    CHECK(r.conns.live_count() == 0);
}

TEST_CASE("a parked connection is drained through its transport, so that its records stay in step") {
    idle_rig r({.on_bytes = unsolicited::drain});
    pair ends = tcp_pair();
    user who, next;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    r.pool.park(conn, r.key, rest);
    const std::string stray = record("stray");
    send_all(ends.a.get(), stray.substr(0, 3));
    REQUIRE(arrived(conn));
    CHECK(r.sleeps());
    CHECK(r.pool.idle_count() == 1);

    CHECK(r.pool.take(r.key, user::table, &next) == &conn);
    send_all(ends.a.get(), stray.substr(3) + record("answer"));
    REQUIRE(arrived(conn));
    r.turn(2);

    CHECK(next.received == "strayanswer"); // half a record cannot be drained: what counts is that nothing is garbled
}

TEST_CASE("a transport's own talk is not unsolicited: a ticket does not kill a parked connection") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        for (const bool probe : {false, true}) {
            CAPTURE(probe);
            idle_rig r({.on_bytes = policy, .probe = probe});
            pair ends = tcp_pair();
            user who, next;
            connection& conn = greeted(r, std::move(ends.b), ends.a, who);
            r.pool.park(conn, r.key, rest);
            send_all(ends.a.get(), ticket);
            REQUIRE(arrived(conn));
            if (!probe) CHECK(r.sleeps()); // else take() is the first to see it

            CHECK(r.pool.take(r.key, user::table, &next) == &conn);
            send_all(ends.a.get(), record("answer"));
            REQUIRE(arrived(conn));
            r.turn(2);

            CHECK(next.received == "answer");
        }
    }
}

TEST_CASE("the beginning of a record may be anything: nobody is given its connection until it is known") {
    for (const bool is_ticket : {false, true}) {
        for (const char when : {'b', 's', 'a'}) { // before the park, in the turn of the take, and in one before
            CAPTURE(is_ticket);
            CAPTURE(when);
            idle_rig r({});
            pair ends = tcp_pair();
            user who, next;
            connection& conn = greeted(r, std::move(ends.b), ends.a, who);
            const std::string stray = is_ticket ? std::string{ticket} : record("stray");
            const auto begin = [&] {
                send_all(ends.a.get(), stray.substr(0, 1));
                REQUIRE(arrived(conn));
                r.turn(when == 's' ? 0 : 2);
            };
            if (when == 'b') conn.want_recv();
            if (when == 'b') begin(); // and the user met EAGAIN
            r.pool.park(conn, r.key, rest);
            if (when != 'b') begin();
            if (when == 's') r.loop.fds().may_recv(conn.slot()); // the report of this turn
            if (is_ticket) {
                CHECK(r.sleeps());
                CHECK(r.pool.idle_count() == 1);
                send_all(ends.a.get(), stray.substr(1));
                REQUIRE(arrived(conn));
                CHECK(r.sleeps());
                CHECK(r.pool.take(r.key, user::table, &next) == &conn);
                continue;
            }

            CHECK(r.pool.take(r.key, user::table, &next) == nullptr);
            CHECK(r.ended(end_cause::idle_unsolicited) == 1);
        }
    }
}

TEST_CASE("a parked connection ends by its transport's own end, by a FIN with it and by one without, and is closed then") {
    for (const char how : {'e', 'f', 't'}) {
        for (const bool probe : {false, true}) {
            CAPTURE(how);
            CAPTURE(probe);
            idle_rig r({.probe = probe});
            pair ends = tcp_pair();
            user who, next;
            connection& conn = greeted(r, std::move(ends.b), ends.a, who);
            r.pool.park(conn, r.key, rest);
            r.turn(2);
            r.clock.advance(seconds{5});
            if (how != 't') send_all(ends.a.get(), record_end);
            if (how != 'e') shut_write(ends.a.get());
            REQUIRE(arrived(conn));

            if (!probe) r.turn();
            CHECK(r.pool.take(r.key, user::table, &next) == nullptr);

            CHECK(r.ended(end_cause::idle_peer_closed) == 1);
            CHECK(r.pool.safe_age(r.key) < seconds{5}); // it taught its age
        }
    }
}

TEST_CASE("a connection over a transport that was read to the last byte may be taken in the turn it was parked") {
    idle_rig r({});
    pair ends = tcp_pair();
    user who, next;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    conn.want_recv();
    connection* taken = nullptr;
    who.on_recv = [&](connection& c) {
        char six[6];
        CHECK(c.recv(six, 6).bytes == 6);
        r.pool.park(c, r.key, rest);
        taken = r.pool.take(r.key, user::table, &next);
        return verdict::keep;
    };
    send_all(ends.a.get(), record("answer"));
    REQUIRE(arrived(conn));

    r.turn();

    CHECK(taken == &conn);
}

TEST_CASE("with `probe` hidden bytes and an end are found by take, through the transport") {
    for (const bool is_end : {false, true}) {
        CAPTURE(is_end);
        idle_rig r({.probe = true});
        pair ends = tcp_pair();
        user who, next;
        connection& conn = greeted(r, std::move(ends.b), ends.a, who);
        r.pool.park(conn, r.key, rest);
        if (is_end) ends.a.close();
        else send_all(ends.a.get(), record("stray"));
        REQUIRE(arrived(conn));

        CHECK(r.pool.take(r.key, user::table, &next) == nullptr);

        CHECK(r.ended(is_end ? end_cause::idle_peer_closed : end_cause::idle_unsolicited) == 1);
    }
}

TEST_CASE("a parked connection over a transport is gone in the turn of its server's close") {
    idle_rig r({});
    pair ends = tcp_pair();
    user who;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    r.pool.park(conn, r.key, rest);
    ends.a.close();
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
}

TEST_CASE("lingering reads through the transport") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    send_all(ends.a.get(), record("unread"));
    REQUIRE(arrived(conn));
    CHECK(conn.send("answer").end == io::done);

    conn.close(close_intent::graceful, end_cause::done);
    r.turn(2);
    std::string seen;
    CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
    ends.a.close();

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(unrecord(seen) == "answer");
}

} // namespace
