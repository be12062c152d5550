// idle: connections that end while they are idle or before it, and the owners who are told.

#include "core/idle.hpp"

#include "support/idle_rig.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::send_all, over_records::shut_write;
using over_records::tcp_pair;

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

// --- the end of an idle connection

TEST_CASE("an idle connection whose server closes is gone in the same turn, and its owner is told") {
    listening_owner owner;
    idle_rig r;
    connection& conn = r.parked({.owner = &owner});
    const int fd = conn.fd();
    r.peer().close();
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK_FALSE(is_open(fd));
    CHECK(r.pool.idle_count() == 0);
    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    CHECK(owner.told_count == 1);
    CHECK(owner.cause == end_cause::idle_peer_closed);
    user next;
    CHECK(r.take(next) == nullptr);
}

TEST_CASE("an idle connection that the server resets is gone in the same turn") {
    listening_owner owner;
    idle_rig r;
    connection& conn = r.parked({.owner = &owner});
    const int fd = conn.fd();
    reset(r.peer());
    REQUIRE(wait_for(conn.fd(), POLLERR));

    r.turn();

    CHECK_FALSE(is_open(fd));
    CHECK(r.ended(end_cause::idle_peer_failed) == 1);
    CHECK(owner.told_count == 1);
    CHECK(owner.cause == end_cause::idle_peer_failed);
}

TEST_CASE("a family without drain reaps a FIN and a reset all the same") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        for (const bool is_reset : {false, true}) {
            CAPTURE(is_reset);
            idle_rig r({.on_bytes = policy});
            pair ends = tcp_pair();
            user who;
            connection& conn = r.serve(std::move(ends.b), who, drainless_tcp);
            r.pool.park(conn, r.key, rest);
            if (is_reset) reset(ends.a);
            else ends.a.close();
            REQUIRE(end_arrived(conn));

            r.turn();

            CHECK(r.conns.live_count() == 0);
            CHECK(r.ended(is_reset ? end_cause::idle_peer_failed : end_cause::idle_peer_closed) == 1);
        }
    }
}

TEST_CASE("an idle unix connection whose peer closes is gone in the same turn") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        idle_rig r({.on_bytes = policy});
        connection& conn = r.parked(r.key, {}, plain_family);
        const int fd = conn.fd();
        r.peer().close();

        r.turn();

        CHECK_FALSE(is_open(fd));
        CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    }
}

TEST_CASE("an idle connection ends by reset unless the server ended it first") {
    idle_rig r;
    connection& live = r.parked();
    r.parked();
    (void)live;
    shut_write(r.peer().get());
    REQUIRE(wait_for(r.conns.after(live)->fd(), POLLRDHUP));

    r.turn();
    r.pool.flush();

    CHECK(ending_of(r.peers[0].get()) == ending::reset);
    // The silent close says no end of a transport's: to one who had ended already, that is no truncation.
    CHECK(ending_of(r.peers[1].get()) == (suite_is_over_records() ? ending::cut : ending::fin));
}

TEST_CASE("an idle connection that died is not handed out in the turn of its death, wherever in the batch that stands") {
    for (const bool client_first : {false, true}) {
        CAPTURE(client_first);
        listening_owner owner;
        idle_rig r;
        connection& idle = r.parked({.owner = &owner});
        pair client = tcp_pair();
        user front, stream;
        connection& conn = r.serve(std::move(client.b), front);
        conn.want_recv();
        int asked = 0;
        front.on_recv = [&](connection& c) {
            front.read_all(c);
            asked++;
            CHECK(owner.told_count == 1); // idle connections run first
            CHECK(r.take(stream) == nullptr);
            return verdict::keep;
        };
        if (client_first) send_all(client.a.get(), "request");
        if (client_first) REQUIRE(arrived(conn));
        r.peer().close();
        REQUIRE(end_arrived(idle));
        if (!client_first) send_all(client.a.get(), "request");
        if (!client_first) REQUIRE(arrived(conn));

        r.turn();

        CHECK(asked == 1);
        CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    }
}

TEST_CASE("a dead connection's number, reused in the same batch, does not inherit its event" *
          not_over_records{"its descriptors are moved to numbers of their own; the engine's numbers know no transport"}) {
    listening_owner owner;
    idle_rig r;
    connection& first = r.parked({.owner = &owner});
    connection& second = r.parked();
    user one, two;
    pair new_first = tcp_pair(), new_second = tcp_pair();
    connection *a = nullptr, *b = nullptr;
    const int first_number = first.fd(), second_number = second.fd();
    owner.then = [&] {
        r.pool.flush(); // the second one dies before its own event is looked at
        a = &r.serve(moved_to(std::move(new_first.b), first_number), one);
        b = &r.serve(moved_to(std::move(new_second.b), second_number), two);
        a->want_recv();
        b->want_recv();
    };
    r.peers[0].close();
    REQUIRE(end_arrived(first));
    r.peers[1].close();
    REQUIRE(end_arrived(second));

    r.turn(3);

    REQUIRE(a != nullptr);
    REQUIRE(b != nullptr);
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    CHECK(r.ended(end_cause::idle_flushed) == 1);
    CHECK(one.calls.empty());
    CHECK(two.calls.empty());
    CHECK_FALSE(a->ended());
    CHECK_FALSE(b->ended());
    CHECK(r.conns.live_count() == 2);
}

// --- what the kernel has not told yet

TEST_CASE("without `probe` an end that the kernel has not told is the taker's to find" *
          not_over_records{"a transport is asked after each park, and finds it"}) {
    idle_rig r;
    connection& conn = r.parked();
    r.peer().close();
    REQUIRE(end_arrived(conn));
    user next;

    connection* taken = r.take(next);
    r.turn();

    CHECK(taken == &conn);
    CHECK(next.calls == "rw");
    CHECK(conn.is(conn_flag::recv_ended));
}

TEST_CASE("with `probe` an end, a reset or bytes that the kernel has not told are found by take") {
    for (const char what : {'f', 'r', 'b'}) {
        CAPTURE(what);
        listening_owner owner;
        idle_rig r({.probe = true});
        connection& good = r.parked();
        connection& bad = r.parked({.owner = &owner});
        if (what == 'f') r.peer().close();
        if (what == 'r') reset(r.peer());
        if (what == 'b') send_all(r.peer().get(), "stray");
        REQUIRE(arrived(bad));
        user next;

        CHECK(r.take(next) == &good);

        const end_cause cause = what == 'f'   ? end_cause::idle_peer_closed
                                : what == 'r' ? end_cause::idle_peer_failed
                                              : end_cause::idle_unsolicited;
        CHECK(owner.told_count == 1);
        CHECK(owner.cause == cause);
        CHECK(r.ended(cause) == 1);
        CHECK(r.pool.idle_count() == 0);
        CHECK(r.pool.taken_count() == 1);
    }
}

TEST_CASE("with `probe` and `drain` bytes that the kernel has not told are thrown away by take") {
    idle_rig r({.on_bytes = unsolicited::drain, .probe = true});
    connection& conn = r.parked();
    send_all(r.peer().get(), "stray");
    REQUIRE(arrived(conn));
    user next;

    CHECK(r.take(next) == &conn);

    r.turn(2);
    CHECK(next.received.empty());
}

TEST_CASE("parking a connection that has ended closes it, with the cause of its end") {
    for (const char what : {'k', 'f', 'r', 'e'}) { // known, received, reset, failed
        CAPTURE(what);
        listening_owner owner;
        idle_rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        if (what == 'f') conn.want_recv();
        if (what == 'k' || what == 'f') shut_write(ends.a.get());
        if (what == 'r') reset(ends.a);
        if (what == 'e') conn.fail(EPIPE);
        else REQUIRE(end_arrived(conn));
        r.turn();

        CHECK(r.pool.park(conn, r.key, rest, {.owner = &owner}) == verdict::gone);

        CHECK(r.conns.live_count() == 0);
        CHECK(r.pool.idle_count() == 0);
        CHECK(r.pool.parked_count() == 0);
        CHECK(r.ended(what == 'k' || what == 'f' ? end_cause::idle_peer_closed : end_cause::idle_peer_failed) == 1);
        CHECK(owner.told_count == 0); // the answer has told it
    }
}

TEST_CASE("an answer and its FIN in one event: the park inside recv answers gone") {
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    conn.want_send();
    who.on_recv = [&](connection& c) {
        char six[6];
        CHECK(c.recv(six, 6).bytes == 6);
        const verdict v = r.pool.park(c, r.key, rest);
        CHECK(v == verdict::gone);
        return v;
    };
    send_all(ends.a.get(), "answer");
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(who.calls == "r");
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
}

// --- owners

TEST_CASE("an owner is not told of a connection that was taken") {
    listening_owner owner;
    idle_rig r;
    connection& conn = r.parked({.owner = &owner});
    user who;
    REQUIRE(r.take(who) == &conn);

    r.peer().close();
    CHECK(r.until([&] { return conn.ended(); }));
    conn.close(close_intent::silent, end_cause::peer_closed);

    CHECK(owner.told_count == 0);
}

TEST_CASE("an owner may dial, park and flush while it is told") {
    listening_owner owner;
    idle_rig r;
    connection& conn = r.parked({.owner = &owner});
    pair ends = tcp_pair();
    connection& spare = r.serve(std::move(ends.b), r.nobody);
    owner.then = [&] {
        CHECK(r.pool.idle_count() == 0);
        CHECK(r.pool.park(spare, r.key, rest) == verdict::keep);
    };
    r.peer().close();
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(owner.told_count == 1);
    CHECK(r.pool.idle_count() == 1);
    CHECK(r.sleeps());
}

TEST_CASE("an owner that parks while it is told of an eviction does not overfill the key or the pool") {
    for (const std::uint32_t others_max : {0u, 5u}) {
        CAPTURE(others_max);
        listening_owner owner;
        idle_rig r({.idle_max = 2 + others_max, .idle_per_key_max = 2});
        r.parked({.owner = &owner});
        r.parked();
        pair ends = tcp_pair();
        connection& spare = r.serve(std::move(ends.b), r.nobody);
        owner.then = [&] { r.pool.park(spare, r.key, rest); };

        r.parked();

        CHECK(r.pool.idle_count() == 2);
        CHECK(r.ended(end_cause::idle_evicted) == 2);
    }
}

TEST_CASE("an owner that is told of an eviction may close, or park, the connection that it is evicted for") {
    for (const char what : {'c', 'g', 'p'}) { // closed, gracefully, parked
        CAPTURE(what);
        listening_owner owner;
        idle_rig r({.idle_max = 1});
        r.parked({.owner = &owner});
        pair ends = tcp_pair();
        connection& spare = r.serve(std::move(ends.b), r.nobody);
        owner.then = [&] {
            if (what == 'p') CHECK(r.pool.park(spare, r.key, rest) == verdict::keep);
            else spare.close(what == 'c' ? close_intent::silent : close_intent::graceful, end_cause::done);
        };

        const verdict v = r.pool.park(spare, r.key, rest);

        CHECK(v == (what == 'p' ? verdict::keep : verdict::gone));
        CHECK(r.pool.idle_count() == (what == 'p' ? 1 : 0));
        CHECK(owner.told_count == 1);
        r.turn();
        CHECK(r.sums_hold());
    }
}

TEST_CASE("take_back gives a connection to the one who parked it") {
    listening_owner owner;
    idle_rig r;
    connection& other = r.parked();
    connection& conn = r.parked({.owner = &owner});
    r.parked();
    user who;

    CHECK(r.pool.take_back(conn, user::other_table, &who));

    CHECK(conn.owner() == &who);
    CHECK_FALSE(conn.is(conn_flag::idle));
    CHECK(other.is(conn_flag::idle));
    CHECK(r.pool.idle_count() == 2);
    CHECK(r.pool.taken_count() == 1);
    CHECK(owner.told_count == 0);
}

TEST_CASE("take_back answers false for a connection that has just ended, and tells in no other way") {
    for (const char what : {'f', 'r', 'b'}) {
        CAPTURE(what);
        listening_owner owner;
        idle_rig r({.probe = true});
        connection& conn = r.parked({.owner = &owner});
        if (what == 'f') r.peer().close();
        if (what == 'r') reset(r.peer());
        if (what == 'b') send_all(r.peer().get(), "stray");
        REQUIRE(arrived(conn));
        user who;

        CHECK_FALSE(r.pool.take_back(conn, user::table, &who));

        CHECK(owner.told_count == 0);
        CHECK(r.conns.live_count() == 0);
        CHECK(r.ended(what == 'f'   ? end_cause::idle_peer_closed
                      : what == 'r' ? end_cause::idle_peer_failed
                                    : end_cause::idle_unsolicited) == 1);
    }
}

} // namespace
