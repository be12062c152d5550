// connection: how the ends of both sides and errors are met and told, and what short reads and full sockets prove.

#include "core/connection.hpp"

#include <csignal>

#include "proto/unix.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

// Sends until the socket takes no more.
std::size_t fill(connection& conn) {
    const std::string chunk(64 * 1024, 'x');
    std::size_t sent = 0;
    for (int i = 0; i < 1000; i++) {
        const io_result r = conn.send(chunk);
        if (r.end != io::done) return sent;
        sent += r.bytes;
    }
    return sent;
}

// Counts what the transport is asked.
int recv_calls = 0;
const xprt counting_xprt{.name = "counting",
                         .recv = [](connection& conn, void* to, std::size_t bytes) noexcept {
                             recv_calls++;
                             return raw_xprt.recv(conn, to, bytes);
                         },
                         .send = raw_xprt.send,
                         .drain = nullptr,
                         .handshake = nullptr,
                         .close = nullptr};

TEST_CASE("a side that wants nothing hears of a reset") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    reset(ends.a);
    REQUIRE(wait_for(conn.fd(), POLLERR));

    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.slot().is(fd_state::err));
    CHECK(conn.ended());
    CHECK(conn.failure() == end_cause::peer_failed);
    CHECK(r.sleeps());
    CHECK(who.calls == "w");
}

TEST_CASE("a side that wants nothing hears of a FIN, and may still send") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.ended());
    CHECK_FALSE(conn.is(conn_flag::recv_ended)); // known, not received
    CHECK(conn.failure() == end_cause::peer_closed);
    CHECK(conn.send("late").end == io::done);
    CHECK(recv_exactly(ends.a.get(), 4) == "late");
    CHECK(r.sleeps());
}

TEST_CASE("bytes and FIN that came together both arrive when the first read is exactly full") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) { return read_once(c, who.received, 4); };
    send_all(ends.a.get(), "four");
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn();
    CHECK(who.received == "four");
    CHECK_FALSE(conn.is(conn_flag::recv_ended));
    r.turn();

    CHECK(conn.is(conn_flag::recv_ended));
    CHECK(who.calls == "rwrw"); // the FIN was known, then it was received
    CHECK(r.sleeps());
}

TEST_CASE("bytes and FIN that came together both arrive when the first read is short") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) { return read_once(c, who.received, 64); };
    send_all(ends.a.get(), "four");
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn(2);

    CHECK(who.received == "four");
    CHECK(conn.is(conn_flag::recv_ended));
}

TEST_CASE("after the peer's end was received recv is not called again, whatever else is reported") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();
    REQUIRE(who.calls == "rw");

    conn.shutdown_send(); // now both directions are over: HUP
    REQUIRE(wait_for(conn.fd(), POLLHUP));
    r.turn(2);

    CHECK(who.calls == "rww");
}

TEST_CASE("a FIN that follows an exactly full read is received") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) { return read_once(c, who.received, 4); };
    send_all(ends.a.get(), "four");
    REQUIRE(arrived(conn));
    r.turn();
    CHECK(who.received == "four");

    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();

    CHECK(conn.is(conn_flag::recv_ended));
}

TEST_CASE("bytes in front of a reset are delivered before the error") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    send_all(ends.a.get(), "last words");
    REQUIRE(arrived(conn));
    reset(ends.a);
    REQUIRE(wait_for(conn.fd(), POLLERR));

    r.turn();

    CHECK(who.received == "last words");
    CHECK(conn.is(conn_flag::failed));
    CHECK(conn.error() == ECONNRESET);
    CHECK(who.calls == "rw");
}

TEST_CASE("a short read saves the recv that would only say EAGAIN") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, counting_xprt);
    conn.want_recv();
    recv_calls = 0;
    send_all(ends.a.get(), "short");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(who.received == "short");
    CHECK(recv_calls == 1);
    CHECK_FALSE(conn.slot().is(fd_state::recv_ready));
    send_all(ends.a.get(), "next");
    REQUIRE(arrived(conn));
    r.turn();
    CHECK(who.received == "shortnext");
}

TEST_CASE("a short read proves nothing for a family that says so") {
    rig r;
    pair ends = tcp_pair();
    user who;
    ctrl family = plain_family;
    family.short_read_proves = false;
    connection& conn = r.serve(std::move(ends.b), who, family, counting_xprt);
    conn.want_recv();
    recv_calls = 0;
    send_all(ends.a.get(), "short");
    REQUIRE(arrived(conn));

    r.turn();

    CHECK(who.received == "short");
    CHECK(recv_calls == 2);
    CHECK_FALSE(conn.slot().is(fd_state::recv_ready));
}

TEST_CASE("what a unix peer sends behind a descriptor is received, though the read in front of it was short") {
    rig r;
    pair ends = stream_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, unix_stream);
    conn.want_recv();
    const int passed = ends.a.get();
    REQUIRE(sys::send_with(ends.a.get(), "abc", 3, &passed, 1) == 3);
    send_all(ends.a.get(), "def");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(who.received == "abcdef");
    CHECK(r.sleeps());
}

TEST_CASE("a short read of a unix socket ends the event, if no descriptor came with it") {
    rig r;
    pair ends = stream_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, unix_stream, counting_xprt);
    conn.want_recv();
    recv_calls = 0;
    send_all(ends.a.get(), "short");
    REQUIRE(arrived(conn));

    r.turn();

    CHECK(who.received == "short");
    CHECK(recv_calls == 1);
}

TEST_CASE("what a unix peer sends behind an out-of-band byte is received, though the read in front of it was short") {
    rig r;
    pair ends = stream_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, unix_stream);
    conn.want_recv();
    send_all(ends.a.get(), "abc");
    if (::send(ends.a.get(), "!", 1, MSG_OOB | MSG_NOSIGNAL) < 0) return; // a kernel before 5.15, or built without
    send_all(ends.a.get(), "def");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(who.received == "abcdef");
    CHECK(r.sleeps());
}

TEST_CASE("a short read proves nothing while the slot is unsure, and EAGAIN ends that") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, tcp, counting_xprt);
    conn.want_recv();
    conn.slot().state |= fd_state::unsure;
    recv_calls = 0;
    send_all(ends.a.get(), "short");
    REQUIRE(arrived(conn));

    r.turn();

    CHECK(who.received == "short");
    CHECK(recv_calls == 2);
    CHECK_FALSE(conn.slot().is(fd_state::unsure));
    send_all(ends.a.get(), "next");
    REQUIRE(arrived(conn));
    r.turn();
    CHECK(recv_calls == 3);
}

TEST_CASE("a send that met EAGAIN goes on when there is room, though a FIN came between") {
    rig r;
    pair ends = stream_pair(); // its room is the peer's reading, and nothing else
    shrink_room(ends.b);
    user who;
    connection& conn = r.serve(std::move(ends.b), who, plain_family);
    conn.want_recv();
    const std::size_t sent = fill(conn);
    REQUIRE_FALSE(conn.slot().is(fd_state::send_ready));
    conn.want_send();
    CHECK(r.sleeps());
    CHECK(who.calls.empty());

    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();
    CHECK(who.calls == "rw");
    CHECK(conn.is(conn_flag::recv_ended));
    who.on_send = [](connection& c) {
        c.stop_send();
        CHECK(c.send("!").end == io::done);
        return verdict::keep;
    };
    CHECK(recv_exactly(ends.a.get(), sent).size() == sent);

    CHECK(r.until([&] { return who.calls.back() == 's'; }));
    CHECK(recv_exactly(ends.a.get(), 1) == "!");
}

TEST_CASE("EPOLLOUT is asked for once, by the first send that meets EAGAIN") {
    rig r;
    pair ends = stream_pair(); // its room is the peer's reading, and nothing else
    shrink_room(ends.b);
    user who;
    connection& conn = r.serve(std::move(ends.b), who, plain_family);
    const std::uint64_t before = r.loop.polls().ctl_count();

    for (int i = 0; i < 3; i++) {
        const std::size_t sent = fill(conn);
        who.calls.clear();
        conn.want_send();
        CHECK(recv_exactly(ends.a.get(), sent).size() == sent);
        CHECK(r.until([&] { return who.calls == "s"; }));
    }

    CHECK(r.loop.polls().ctl_count() == before + 1);
}

TEST_CASE("a send to a peer that is gone fails with EPIPE, not with a signal") {
    rig r;
    pair ends = stream_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, plain_family);
    conn.want_send();
    ends.a.close();
    who.on_send = [](connection& c) {
        CHECK(c.send("x").end == io::failed);
        return verdict::keep;
    };

    r.turn();

    CHECK(conn.error() == EPIPE);
    CHECK(conn.failure() == end_cause::peer_failed);
    struct sigaction action;
    sigaction(SIGPIPE, nullptr, &action);
    const bool is_default = action.sa_handler == SIG_DFL;
    CHECK(is_default);
}

TEST_CASE("a failure that a callback met itself is told by one wake") {
    rig r;
    pair ends = stream_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, plain_family);
    conn.want_send();
    r.turn(); // before the peer's end is reported
    who.calls.clear();
    conn.want_send();
    ends.a.close();
    who.on_send = [](connection& c) {
        CHECK(c.send("x").end == io::failed);
        return verdict::keep;
    };

    r.turn();
    CHECK(who.calls == "sw");
    CHECK(r.sleeps());

    CHECK(who.calls == "sw");
}

TEST_CASE("a failure met outside of any callback is told by a wake in the next turn") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    r.turn();

    conn.fail(EPROTO);
    CHECK(who.calls.empty());
    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.error() == EPROTO);
    conn.fail(EIO);
    CHECK(conn.error() == EPROTO); // the first one counts
}

TEST_CASE("a half-close of ours ends our side only") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    conn.want_send();
    CHECK(conn.send("all of it").end == io::done);

    conn.shutdown_send();
    r.turn();
    std::string seen;
    CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
    send_all(ends.a.get(), "the answer");
    REQUIRE(arrived(conn));
    r.turn();

    CHECK(seen == "all of it");
    CHECK(who.calls == "r"); // and no send
    CHECK(who.received == "the answer");
    CHECK_FALSE(conn.ended());
}

TEST_CASE("a half-close of the peer ends its side only") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn();
    CHECK(conn.is(conn_flag::recv_ended));
    CHECK(conn.send("still here").end == io::done);

    CHECK(recv_exactly(ends.a.get(), 10) == "still here");
    CHECK(r.conns.live_count() == 1);
}

} // namespace
