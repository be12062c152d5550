// xprt: a transport's own end, ours and theirs, and how its context goes.

#include "core/xprt.hpp"

#include "support/record_xprt.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

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
        CHECK(record_layer::live_count == before + 2); // those that linger: what was refused, too
        ends[0].a.close();
        ends[4].a.close();
        CHECK(r.until([&] { return r.conns.live_count() == 0; }));
        CHECK(record_layer::live_count == before);
        greeted(r, std::move(ends[5].b), ends[5].a, who); // the conntab's destructor closes it
    }

    CHECK(record_layer::live_count == before);
}

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
    } while (wait_for(conn.fd(), POLLOUT, milliseconds{20})); // what the kernel moves on meanwhile
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
        r.pass(seconds{5} - milliseconds{1});
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
