// connection: what each intent of a close does to the peer, and how long one lingers.

#include "core/connection.hpp"

#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("what graceful is for: a close with unread input resets the peer") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    send_all(ends.a.get(), std::string(10'000, 'q'));
    REQUIRE(arrived(conn));

    conn.close(close_intent::after_fin, end_cause::done);

    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("a graceful close delivers the answer though input was unread") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    send_all(ends.a.get(), std::string(10'000, 'q'));
    REQUIRE(arrived(conn));
    CHECK(conn.send("answer").end == io::done);

    conn.close(close_intent::graceful, end_cause::done);
    r.turn();
    send_all(ends.a.get(), std::string(10'000, 'q'));
    r.turn();

    std::string seen;
    CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
    CHECK(seen == "answer");
    CHECK(r.conns.live_count() == 1); // until the peer has ended, too
    ends.a.close();
    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(r.ended(end_cause::done) == 1);
    CHECK(r.sums_hold());
    CHECK(who.calls.empty());
}

TEST_CASE("a graceful close does not reset a peer whose FIN stands behind unread input") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    send_all(ends.a.get(), std::string(10'000, 'q'));
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();
    REQUIRE(conn.ended());
    CHECK(conn.send("answer").end == io::done);

    conn.close(close_intent::graceful, end_cause::done);
    CHECK(r.until([&] { return r.conns.live_count() == 0; }));

    std::string seen;
    CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
    CHECK(seen == "answer");
}

TEST_CASE("a graceful close after the peer's end was received is done at once") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));
    r.turn();

    conn.close(close_intent::graceful, end_cause::done);

    CHECK(r.conns.live_count() == 0);
    CHECK(ending_of(ends.a.get()) == ending::fin);
}

TEST_CASE("a peer that goes on sending is listened to, however much it sends, until the deadline of lingering") {
    rig r({.connections_max = 4, .linger = seconds{30}, .linger_silence = seconds{5}});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    CHECK(conn.send("no, thanks").end == io::done);
    conn.close(close_intent::graceful, end_cause::protocol);

    for (int seconds_left = 28; seconds_left > 0; seconds_left -= 4) {
        for (int pieces = 0; pieces < 10; pieces++) { // 2.8 MB in all
            send_all(ends.a.get(), std::string(40'000, 'q'));
            r.turn(2);
        }
        r.pass(seconds{4});
        REQUIRE(r.conns.live_count() == 1);
    }
    send_all(ends.a.get(), "q");
    r.turn(2);
    r.pass(milliseconds{1999});
    CHECK(r.conns.live_count() == 1);
    std::string seen(10, ' ');
    CHECK(::recv(ends.a.get(), seen.data(), seen.size(), MSG_PEEK | MSG_DONTWAIT) == 10);
    r.pass(milliseconds{2});

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::protocol) == 1);
    CHECK(who.calls.empty());
    CHECK(ending_of(ends.a.get(), &seen) == ending::fin);
}

TEST_CASE("lingering ends after a silence") {
    rig r({.connections_max = 4, .linger = seconds{30}, .linger_silence = seconds{5}});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.close(close_intent::graceful, end_cause::done);
    r.pass(milliseconds{4999});
    CHECK(r.conns.live_count() == 1);
    send_all(ends.a.get(), "q");
    r.turn(2);
    r.pass(milliseconds{4999});
    CHECK(r.conns.live_count() == 1);

    r.pass(milliseconds{2});

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::done) == 1);
    CHECK(who.calls.empty());
}

TEST_CASE("what one that lingers gets in a turn is bounded") {
    static std::size_t asked;
    static const ctrl flooded{.name = "flooded",
                              .listen = nullptr,
                              .connect = nullptr,
                              .drain = [](int, std::size_t bytes_max) noexcept {
                                  asked += bytes_max;
                                  return drain_result{drained::more, bytes_max};
                              },
                              .short_read_proves = true,
                              .carries_fds = false,
                              .counts_acked = false};
    asked = 0;
    rig r;
    pair ends = tcp_pair();
    user who;
    r.serve(std::move(ends.b), who, flooded).close(close_intent::graceful, end_cause::done);
    send_all(ends.a.get(), "q");
    REQUIRE(r.until([&] { return asked > 0; }));
    const std::size_t before = asked;

    r.turn();

    CHECK(asked == before + (1 << 20));
    CHECK(r.conns.live_count() == 1);
}

TEST_CASE("one that lingers reads on behind an end of both ways, for unread bytes would make the close a reset") {
    static int left;
    static const ctrl flooded{.name = "flooded",
                              .listen = nullptr,
                              .connect = nullptr,
                              .drain = [](int, std::size_t bytes_max) noexcept {
                                  return left-- > 0 ? drain_result{drained::more, bytes_max}
                                                    : drain_result{drained::closed, 0};
                              },
                              .short_read_proves = true,
                              .carries_fds = false,
                              .counts_acked = false};
    left = 5;
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, flooded);
    shut_write(ends.a.get());
    conn.close(close_intent::graceful, end_cause::done);

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(left < 0);
}

TEST_CASE("when connections are short the one that lingers for the longest gives its place up") {
    rig r({.connections_max = 2});
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair();
    user who;
    r.serve(std::move(first.b), who).close(close_intent::graceful, end_cause::done);
    r.serve(std::move(second.b), who).close(close_intent::graceful, end_cause::protocol);
    CHECK(r.conns.full());

    CHECK(r.conns.relieve(shortage::connections));

    CHECK(r.ended(end_cause::done) == 1);
    CHECK(r.ended(end_cause::protocol) == 0);
    CHECK(r.conns.adopt(unique_fd{third.b.release()}, tcp).ok());
    CHECK(r.conns.relieve(shortage::connections));
    CHECK_FALSE(r.conns.relieve(shortage::connections));
}

TEST_CASE("who is closed in vain is not: the places of the dead are free at the end of the turn") {
    rig r({.connections_max = 1});
    user who;
    pair first = tcp_pair(), second = tcp_pair();
    r.serve(std::move(first.b), who).close(close_intent::silent, end_cause::done);
    r.serve(std::move(second.b), who).close(close_intent::graceful, end_cause::done); // it lingers
    CHECK(r.conns.full());

    CHECK_FALSE(r.conns.relieve(shortage::connections));

    CHECK(r.conns.live_count() == 1);
    r.turn();
    CHECK(r.conns.relieve(shortage::connections));
    CHECK(r.conns.live_count() == 0);
}

TEST_CASE("lingering ends at a reset") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.close(close_intent::graceful, end_cause::done);
    r.turn();

    reset(ends.a);

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(r.ended(end_cause::done) == 1);
}

TEST_CASE("a graceful close after our own half-close sends no second FIN and still lingers") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.shutdown_send();

    conn.close(close_intent::graceful, end_cause::done);
    r.turn();
    CHECK(r.conns.live_count() == 1);
    shut_write(ends.a.get());

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
}

TEST_CASE("a silent close resets a peer that has not ended") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);

    conn.close(close_intent::silent, end_cause::done);

    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("a silent close answers a peer's FIN with a FIN, received or only known") {
    for (const bool is_received : {false, true}) {
        CAPTURE(is_received);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        if (is_received) conn.want_recv();
        shut_write(ends.a.get());
        REQUIRE(end_arrived(conn));
        r.turn();

        conn.close(close_intent::silent, end_cause::peer_closed);

        CHECK(ending_of(ends.a.get()) == ending::fin);
    }
}

TEST_CASE("after_fin sends a FIN") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);

    conn.close(close_intent::after_fin, end_cause::done);

    CHECK(ending_of(ends.a.get()) == ending::fin);
    CHECK(r.conns.live_count() == 0);
}

TEST_CASE("an abort resets the peer even after its FIN") {
    for (const bool is_ended : {false, true}) {
        CAPTURE(is_ended);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        conn.want_recv();
        if (is_ended) {
            shut_write(ends.a.get());
            REQUIRE(end_arrived(conn));
        }
        r.turn();
        REQUIRE(conn.ended() == is_ended);

        conn.close(close_intent::abort, end_cause::done);

        CHECK(ending_of(ends.a.get()) == ending::reset);
    }
}

} // namespace
