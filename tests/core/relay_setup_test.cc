// relay: joining and dialing: early bytes, refusals, and clients that do not wait.

#include "core/relay.hpp"

#include <optional>
#include <utility>

#include "core/idle.hpp"
#include "support/relay_rig.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::recv_exactly, over_records::recv_to_end, over_records::send_all;
using over_records::shut_write, over_records::tcp_pair;

TEST_CASE("early bytes come first, in both directions, and what was ready before the join is carried") {
    relay_rig r;
    support::pair first = tcp_pair(), second = tcp_pair();
    connection& a = r.serve(std::move(first.b), r.nobody);
    connection& b = r.serve(std::move(second.b), r.nobody);
    send_all(first.a.get(), " and late");
    send_all(second.a.get(), " und spaet");
    REQUIRE(arrived(a));
    REQUIRE(arrived(b));
    r.turn(2); // both edges are spent

    REQUIRE(r.pool.join(a, b, "early", "frueh").ok());
    r.turn(4);

    CHECK(recv_exactly(second.a.get(), 14) == "early and late");
    CHECK(recv_exactly(first.a.get(), 15) == "frueh und spaet");
    CHECK(r.conns.blocks().used() == 0);
}

TEST_CASE("early bytes of a whole block are taken, one more is refused and leaves the connections to the caller") {
    for (const std::size_t extra : {std::size_t{0}, std::size_t{1}}) {
        CAPTURE(extra);
        relay_rig r;
        support::pair first = tcp_pair(), second = tcp_pair();
        connection& a = r.serve(std::move(first.b), r.nobody);
        connection& b = r.serve(std::move(second.b), r.nobody);
        const std::string early = noise(block_bytes + extra, 5);

        const auto joined = r.pool.join(a, b, early, "back");

        if (extra) {
            CHECK(joined.error() == ENOBUFS);
            CHECK(r.pool.pair_count() == 0);
            CHECK(r.conns.blocks().used() == 0);
            CHECK(a.owner() == &r.nobody);
            CHECK(r.conns.live_count() == 2);
        } else {
            REQUIRE(joined.ok());
            r.turn(3);
            const bool same = recv_exactly(second.a.get(), early.size()) == early;
            CHECK(same);
        }
    }
}

TEST_CASE("a dial closes what it is short of: a free pipe is no place for a connection" *
          not_over_records{"records are not spliced"}) {
    for (const bool is_full : {true, false}) {
        CAPTURE(is_full);
        relay_rig r({.pipes = {.pipes_max = 1}}, {.connections_max = is_full ? 3u : 32u});
        r.join();
        const std::string large = noise(4 << 20, 8);
        std::string_view left = large;
        std::string got;
        CHECK(r.until([&] {
            push(r.client, left);
            r.turn();
            pull(r.server, got);
            return got.size() == large.size();
        }));
        REQUIRE(r.pool.pipes()->open_count() == 1);
        idle_pool idle(r.conns, {}); // asked second
        support::pair ends = tcp_pair();
        connection& conn = r.serve(std::move(ends.b), r.nobody);
        const idle_identity server{.remote = endpoint::ipv4(0x7f000001, 80), .family = &tcp};
        REQUIRE(idle.park(conn, idle.key_of(server), {.messages_complete = true, .buffers_empty = true}) ==
                verdict::keep);
        const tcp_listener shop = listen_tcp();
        user who;
        std::optional<short_of_descriptors> now;
        if (!is_full) now.emplace();

        auto dialed = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, shop.port), {}, user::table, &who);

        CHECK(dialed.ok());
        CHECK(idle.idle_count() == (is_full ? 0 : 1));
        CHECK(r.pool.pipes()->open_count() == (is_full ? 1 : 0));
        if (dialed.ok()) dialed.value()->close(close_intent::silent, end_cause::done);
    }
}

TEST_CASE("a deadline of the user before does not fire in a pair, joined or dialed; a refused join leaves it") {
    for (const char how : {'j', 'd', 'r'}) {
        CAPTURE(how);
        relay_rig r;
        const tcp_listener shop = listen_tcp();
        support::pair first = tcp_pair(), second = tcp_pair();
        connection& a = r.serve(std::move(first.b), r.nobody);
        connection& b = r.serve(std::move(second.b), r.nobody);
        static int fired_count;
        fired_count = 0;
        for (connection* conn : {&a, &b})
            conn->arm(r.loop.now() + seconds{1}, [](timer&, time_point) noexcept { fired_count++; });

        if (how == 'd') CHECK(r.pool.dial(a, tcp, endpoint::ipv4(0x7f000001, shop.port)) == verdict::keep);
        else CHECK(r.pool.join(a, b, std::string(how == 'r' ? block_bytes + 1 : 0, 'x')).ok() == (how == 'j'));
        r.pass(seconds{2});

        CHECK(fired_count == (how == 'j' ? 0 : how == 'd' ? 1 : 2));
    }
}

TEST_CASE("without a free pair a join is refused, and a dial closes its client") {
    relay_rig r({.pairs_max = 1});
    r.join();
    const tcp_listener server = listen_tcp();
    support::pair first = tcp_pair(), second = tcp_pair();
    connection& a = r.serve(std::move(first.b), r.nobody);
    connection& b = r.serve(std::move(second.b), r.nobody);

    CHECK(r.pool.join(a, b).error() == ENFILE);
    CHECK(a.owner() == &r.nobody);
    CHECK(r.pool.dial(a, tcp, endpoint::ipv4(0x7f000001, server.port)) == verdict::gone);

    CHECK(r.ended(end_cause::no_room) == 1);
    CHECK(ending_of(first.a.get()) == ending::reset);
}

TEST_CASE("a dialed pair carries what the client said before the server was connected") {
    relay_rig r;
    const tcp_listener listener = listen_tcp();
    support::pair front = tcp_pair();
    connection& client = r.serve(std::move(front.b), r.nobody);
    client.want_recv();
    send_all(front.a.get(), "early request");
    REQUIRE(arrived(client));

    CHECK(r.pool.dial(client, tcp, endpoint::ipv4(0x7f000001, listener.port)) == verdict::keep);
    descriptor server = over_records::accept_tcp(listener);
    CHECK(r.carried(server, 13) == "early request");
    send_all(server.get(), "answer");

    CHECK(r.carried(front.a, 6) == "answer");
    CHECK(r.nobody.calls.empty());
}

TEST_CASE("a client that has sent its FIN before the server was connected gets its answer") {
    relay_rig r;
    const tcp_listener listener = listen_tcp();
    support::pair front = tcp_pair();
    connection& client = r.serve(std::move(front.b), r.nobody);
    send_all(front.a.get(), "request");
    shut_write(front.a.get());
    REQUIRE(end_arrived(client));
    r.turn();

    r.pool.dial(client, tcp, endpoint::ipv4(0x7f000001, listener.port));
    descriptor server = over_records::accept_tcp(listener);
    CHECK(r.carried(server, 7) == "request");
    CHECK(r.until([&] { return ready(server.get(), POLLRDHUP); }));
    send_all(server.get(), "answer");
    server.close();

    CHECK(r.until([&] { return r.is_over(); }));
    std::string seen;
    CHECK(ending_of(front.a.get(), &seen) == ending::fin);
    CHECK(seen == "answer");
}

TEST_CASE("a refused server resets the client") {
    relay_rig r;
    support::pair front = tcp_pair();
    connection& client = r.serve(std::move(front.b), r.nobody);

    r.pool.dial(client, tcp, endpoint::ipv4(0x7f000001, refused_port()));
    CHECK(r.until([&] { return r.is_over(); }));

    CHECK(ending_of(front.a.get()) == ending::reset);
    CHECK(r.ended(end_cause::connect_failed) == 1);
    CHECK(r.sums_hold());
}

TEST_CASE("a server that cannot even be dialed resets the client at once") {
    relay_rig r({}, {.connections_max = 1});
    const tcp_listener listener = listen_tcp();
    support::pair front = tcp_pair();
    connection& client = r.serve(std::move(front.b), r.nobody);

    CHECK(r.pool.dial(client, tcp, endpoint::ipv4(0x7f000001, listener.port)) == verdict::gone);

    CHECK(r.is_over());
    CHECK(ending_of(front.a.get()) == ending::reset);
    CHECK(r.sums_hold());
}

TEST_CASE("a server that does not answer the connect in time resets the client") {
    relay_rig r({.connect_timeout = seconds{2}});
    const tcp_listener deaf = listen_tcp(blocking::no, 0);
    const descriptor filler = connect_tcp(deaf.port);
    support::pair front = tcp_pair();
    connection& client = r.serve(std::move(front.b), r.nobody);
    r.pool.dial(client, tcp, endpoint::ipv4(0x7f000001, deaf.port));
    r.turn(3);

    r.pass(milliseconds{1999});
    r.turn(2);
    CHECK(r.pool.pair_count() == 1);
    r.pass(milliseconds{1});
    r.turn(2);

    CHECK(r.is_over());
    CHECK(ending_of(front.a.get()) == ending::reset);
    CHECK(r.ended(end_cause::connect_timed_out) == 1);
}

TEST_CASE("what the client says during the connect waits in its socket") {
    relay_rig r;
    const tcp_listener deaf = listen_tcp(blocking::no, 0);
    const descriptor filler = connect_tcp(deaf.port);
    support::pair front = tcp_pair();
    connection& client = r.serve(std::move(front.b), r.nobody);
    client.want_recv();
    r.pool.dial(client, tcp, endpoint::ipv4(0x7f000001, deaf.port));
    send_all(front.a.get(), "early");
    REQUIRE(arrived(client));

    CHECK(r.sleeps());

    CHECK(r.pool.bytes_count() == 0);
    CHECK(r.conns.blocks().used() == 0);
    CHECK(ready(client.fd(), POLLIN));
    CHECK(r.pool.pair_count() == 1);
}

TEST_CASE("a client that resets during the connect takes the server's connection with it") {
    relay_rig r;
    const tcp_listener deaf = listen_tcp(blocking::no, 0);
    const descriptor filler = connect_tcp(deaf.port);
    support::pair front = tcp_pair();
    connection& client = r.serve(std::move(front.b), r.nobody);
    r.pool.dial(client, tcp, endpoint::ipv4(0x7f000001, deaf.port));
    r.turn();

    reset(front.a);

    CHECK(r.until([&] { return r.is_over(); }));
    CHECK(r.ended(end_cause::peer_failed) == 1);
    CHECK(r.sums_hold());
}

TEST_CASE("a pool that dies aborts its pairs, whatever they are at") {
    support::pair first = tcp_pair(), second = tcp_pair(), front = tcp_pair();
    rig r;
    user nobody;
    const tcp_listener deaf = listen_tcp(blocking::no, 0);
    const descriptor filler = connect_tcp(deaf.port);
    {
        relay_pool pool(r.conns, {});
        connection& a = r.serve(std::move(first.b), nobody);
        connection& b = r.serve(std::move(second.b), nobody);
        REQUIRE(pool.join(a, b, "unsent").ok());
        pool.dial(r.serve(std::move(front.b), nobody), tcp, endpoint::ipv4(0x7f000001, deaf.port));
        CHECK(r.conns.live_count() == 4);
    }

    CHECK(r.conns.live_count() == 0);
    CHECK(r.conns.blocks().used() == 0);
    CHECK(r.ended(end_cause::shutdown) == 4);
    for (const support::pair* p : {&first, &second, &front})
        CHECK(ending_of(p->a.get()) == ending::reset);
}

TEST_CASE("what was said early goes before what is received at the same time, and before the end") {
    relay_rig r;
    support::pair first = tcp_pair(), second = tcp_pair();
    send_all(first.a.get(), " and late");
    shut_write(first.a.get());
    connection& a = r.serve(std::move(first.b), r.nobody);
    connection& b = r.serve(std::move(second.b), r.nobody);
    r.nobody.on_recv = [](connection&) { return verdict::keep; };
    a.want_recv(); // as an exchange leaves it: ready, and wanted
    CHECK(r.until([&] { return a.slot().is(fd_state::rdhup); }));

    REQUIRE(r.pool.join(a, b, "early").ok());

    CHECK(r.until([&] { return ready(second.a.get(), POLLRDHUP); }));
    CHECK(recv_to_end(second.a.get()) == "early and late");
}

// A connection whose end its user has received, and its peer.
connection& ended(relay_rig& r, descriptor& peer) {
    support::pair ends = tcp_pair();
    peer = std::move(ends.a);
    shut_write(peer.get());
    user& who = r.nobody;
    who.on_recv = [](connection& conn) {
        char room[8];
        (void)conn.recv(room, sizeof room);
        return verdict::keep;
    };
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    REQUIRE(r.until([&] { return conn.is(conn_flag::recv_ended); }));
    who.on_recv = nullptr;
    return conn;
}

TEST_CASE(
    "an end that was received before the join is carried across, behind what was said early, and the answer comes") {
    for (const std::string_view early : {"", "early"}) {
        for (const bool is_second : {false, true}) {
            CAPTURE(early);
            CAPTURE(is_second);
            relay_rig r;
            descriptor asker;
            connection& a = ended(r, asker);
            support::pair second = tcp_pair();
            connection& b = r.serve(std::move(second.b), r.nobody);

            if (is_second) REQUIRE(r.pool.join(b, a, "", early).ok());
            else REQUIRE(r.pool.join(a, b, early).ok());
            CHECK(r.pool.pair_count() == 1); // whatever becomes of it, not from within join()

            CHECK(r.until([&] { return ready(second.a.get(), POLLRDHUP); }));
            CHECK(recv_to_end(second.a.get()) == early);
            send_all(second.a.get(), "answer");
            CHECK(r.carried(asker, 6) == "answer");
            shut_write(second.a.get());
            CHECK(r.until([&] { return r.is_over(); }));
            CHECK(ending_of(asker.get()) == ending::fin);
            CHECK(r.ended(end_cause::peer_closed) == 2);
        }
    }
}

TEST_CASE("two that have both ended before the join get what was said early, and the ends behind it") {
    for (const std::string_view early : {"", "early"}) {
        CAPTURE(early);
        relay_rig r;
        descriptor first, second;
        connection &a = ended(r, first), &b = ended(r, second);

        REQUIRE(r.pool.join(a, b, early, early).ok());
        CHECK(r.pool.pair_count() == 1);

        CHECK(r.until([&] { return r.is_over(); }));
        for (descriptor* peer : {&first, &second}) {
            std::string seen;
            CHECK(ending_of(peer->get(), &seen) == ending::fin);
            CHECK(seen == early);
        }
    }
}

TEST_CASE("a server's end that was received before the join has the fin timeout, not the idle one") {
    relay_rig r({.fin_timeout = seconds{5}, .idle_timeout = seconds{100}});
    descriptor asker;
    connection& a = ended(r, asker);
    support::pair second = tcp_pair();
    connection& b = r.serve(std::move(second.b), r.nobody);
    REQUIRE(r.pool.join(b, a).ok());
    r.turn(2);
    CHECK(r.until([&] { return sys::send_queue(b.fd()) == 0; })); // the FIN is acknowledged, in real time

    r.pass(milliseconds{4999});
    CHECK(r.pool.pair_count() == 1);
    r.pass(r.lateness_max(seconds{5}));

    CHECK(r.is_over());
}

} // namespace
