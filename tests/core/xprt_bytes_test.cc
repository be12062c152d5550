// xprt: raw bytes, and bytes that a transport hides or has in pieces.

#include "core/xprt.hpp"

#include "support/record_xprt.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

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

// --- records

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

} // namespace
