// xprt: bytes that stay in the kernel: what a splice proves of the socket, and what it does not.

#include "core/xprt.hpp"

#include <csignal>
#include <thread>

#include <unistd.h>

#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

// A connection of the raw transport, its far end, and a pipe.
struct splice_rig : rig {
    splice_rig() : conn(serve(std::move(ends.b), who)) {}

    void fill(std::string_view bytes) {
        REQUIRE(::write(pipe.b.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    }

    pair ends = tcp_pair();
    pair pipe = pipe_pair();
    user who;
    connection& conn;
};

TEST_CASE("raw: a short splice is not taken for a socket without room, which only EAGAIN says") {
    splice_rig r;
    r.fill("cut");

    // What a signal does between two pieces: less than was asked for, and nothing that the socket was told of.
    const io_result cut = r.conn.splice_out(r.pipe.a.get(), 1000);

    CHECK(cut.end == io::done);
    CHECK(cut.bytes == 3);
    CHECK(r.conn.slot().is(fd_state::send_ready));
    CHECK_FALSE(r.conn.slot().is(fd_state::awaits_send));
    const std::string much(64 * 1024, 'x');
    io_result sent{};
    for (int i = 0; i < 10'000 && r.conn.slot().is(fd_state::send_ready); i++) {
        const ssize_t held = ::write(r.pipe.b.get(), much.data(), much.size());
        sent = r.conn.splice_out(r.pipe.a.get(), held > 0 ? static_cast<std::size_t>(held) : 1);
    }
    CHECK(sent.end == io::again);
    CHECK(r.conn.slot().is(fd_state::awaits_send));
}

TEST_CASE("raw: an end behind urgent data does not cut off what stands between the two") {
    splice_rig r;
    send_all(r.ends.a.get(), "abc");
    REQUIRE(::send(r.ends.a.get(), "!", 1, MSG_OOB) == 1);
    send_all(r.ends.a.get(), "def");
    shut_write(r.ends.a.get());
    REQUIRE(end_arrived(r.conn));
    REQUIRE(r.conn.splice_in(r.pipe.b.get(), 100).bytes == 3);
    r.loop.fds().may_recv(r.conn.slot()); // but not unsure: as in the turn in which it comes, not yet reported

    const io_result at_mark = r.conn.splice_in(r.pipe.b.get(), 100);

    CHECK(at_mark.end == io::again);
    CHECK_FALSE(r.conn.is(conn_flag::recv_ended));
    CHECK(r.conn.slot().is(fd_state::recv_ready));
    CHECK(r.conn.slot().is(fd_state::unsure));
    char rest[8];
    CHECK(r.conn.recv(rest, sizeof rest).bytes == 3);
    CHECK(r.conn.recv(rest, sizeof rest).end == io::closed);
}

TEST_CASE("raw: a splice finds an end that has no bytes in front of it, urgent ones or not") {
    for (const bool is_urgent : {false, true}) {
        CAPTURE(is_urgent);
        splice_rig r;
        if (is_urgent) REQUIRE(::send(r.ends.a.get(), "!", 1, MSG_OOB) == 1);
        shut_write(r.ends.a.get());
        REQUIRE(end_arrived(r.conn));

        CHECK(r.conn.splice_in(r.pipe.b.get(), 100).end == io::closed);
        CHECK(r.conn.is(conn_flag::recv_ended));
    }
}

TEST_CASE("raw: a splice to a socket that is gone raises no SIGPIPE, whichever thread the loop has come to") {
    splice_rig r;
    r.fill("nobody's");
    reset(r.ends.a);
    REQUIRE(wait_for(r.conn.fd(), POLLERR));
    io_result first{}, second{};
    bool is_blocked = false, is_pending = false;

    std::thread([&] {
        sigset_t pipe_signal, now;
        sigemptyset(&pipe_signal);
        sigaddset(&pipe_signal, SIGPIPE);
        pthread_sigmask(SIG_UNBLOCK, &pipe_signal, nullptr);
        r.loop.claim();
        first = r.conn.splice_out(r.pipe.a.get(), 4);  // ECONNRESET
        second = r.conn.splice_out(r.pipe.a.get(), 4); // EPIPE, and the signal
        pthread_sigmask(SIG_BLOCK, nullptr, &now);
        is_blocked = sigismember(&now, SIGPIPE) == 1;
        sigpending(&now);
        is_pending = sigismember(&now, SIGPIPE) == 1;
    }).join();
    r.loop.claim();

    CHECK(first.end == io::failed);
    CHECK(second.end == io::failed);
    CHECK(is_blocked);
    CHECK(is_pending);
}

TEST_CASE("raw: a splice that meets a reset fails") {
    splice_rig r;
    reset(r.ends.a);
    REQUIRE(wait_for(r.conn.fd(), POLLERR));

    CHECK(r.conn.splice_in(r.pipe.b.get(), 100).end == io::failed);
    CHECK(r.conn.error() == ECONNRESET);
}

} // namespace
