#include "core/relay.hpp"

#include <utility>
#include <vector>

#include <sys/resource.h>

#include "support/record_xprt.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::recv_exactly, over_records::recv_to_end, over_records::send_all;
using over_records::shut_write, over_records::stream_pair, over_records::tcp_pair;

// Bytes without a pattern that a misplaced block could hide in.
std::string noise(std::size_t count, std::uint64_t seed) {
    std::string bytes(count, '\0');
    for (char& byte : bytes) {
        seed = seed * 6364136223846793005 + 1442695040888963407;
        byte = static_cast<char>(seed >> 56);
    }
    return bytes;
}

// A relay between two sockets of the test's: `client` and `server` are the far ends.
struct relay_rig : rig {
    explicit relay_rig(const relay_options& options = {}, const conntab_options& tab = {.connections_max = 32})
        : rig(tab), pool(conns, options) {}

    void join(support::pair first, support::pair second, std::string_view early = {}) {
        connection& a = serve(std::move(first.b), nobody);
        connection& b = serve(std::move(second.b), nobody);
        client = std::move(first.a);
        server = std::move(second.a);
        ends[0] = &a;
        ends[1] = &b;
        REQUIRE(pool.join(a, b, early).ok());
    }
    void join() { join(tcp_pair(), tcp_pair()); }

    // What `to` has received once the loop has carried it.
    std::string carried(descriptor& to, std::size_t count) {
        CHECK(until([&] { return ready(to.get(), POLLIN); }));
        return recv_exactly(to.get(), count);
    }
    bool is_over() { return pool.pair_count() == 0 && conns.live_count() == 0 && conns.blocks().used() == 0; }

    relay_pool pool;
    user nobody;
    connection* ends[2]{};
    descriptor client, server;
};

// The same over records: a record is begun when there is room, and then sent to its end.
bool push_records(descriptor& from, std::string_view& left) {
    while (!left.empty() && ready(from.get(), POLLOUT)) {
        const std::string_view part = left.substr(0, 255);
        char record[256] = {static_cast<char>(part.size())};
        std::copy(part.begin(), part.end(), record + 1);
        const ssize_t n = ::send(from.get(), record, part.size() + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n <= 0) return false;
        support::send_all(from.get(), {record + n, part.size() + 1 - static_cast<std::size_t>(n)});
        left.remove_prefix(part.size());
    }
    return left.empty();
}
// Sends what `from` has left as far as there is room.
bool push(descriptor& from, std::string_view& left) {
    if (is_over_records(from.get())) return push_records(from, left);
    while (!left.empty()) {
        const ssize_t n = ::send(from.get(), left.data(), std::min<std::size_t>(left.size(), 64 * 1024), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n <= 0) return false;
        left.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
}
void pull(descriptor& to, std::string& got) {
    char room[64 * 1024];
    for (ssize_t n; (n = over_records::recv_some(to.get(), room, sizeof room)) > 0;)
        got.append(room, static_cast<std::size_t>(n));
}

TEST_CASE("bytes are carried both ways, and nobody else is asked") {
    relay_rig r;
    r.join();

    send_all(r.client.get(), "request");
    CHECK(r.carried(r.server, 7) == "request");
    send_all(r.server.get(), "answer");
    CHECK(r.carried(r.client, 6) == "answer");

    CHECK(r.pool.bytes_count() == 13);
    CHECK(r.pool.pair_count() == 1);
    CHECK(r.nobody.calls.empty());
}

TEST_CASE("a quiet pair owns no block, and carrying allocates nothing" *
          not_over_records{"its peers allocate nothing either; the gateway's suite counts over records"}) {
    relay_rig r;
    r.join();
    const std::uint64_t allocations = allocation_count();
    const std::uint64_t ctls = r.loop.polls().ctl_count();

    for (int i = 0; i < 10; i++) {
        char room[8];
        [[maybe_unused]] ssize_t n = ::send(r.client.get(), "x", 1, 0);
        r.turn(2);
        n = ::recv(r.server.get(), room, sizeof room, 0);
        n = ::send(r.server.get(), "y", 1, 0);
        r.turn(2);
        n = ::recv(r.client.get(), room, sizeof room, 0);
        CHECK(r.conns.blocks().used() == 0);
    }

    CHECK(allocation_count() == allocations);
    CHECK(r.loop.polls().ctl_count() == ctls);
    CHECK(r.pool.bytes_count() == 20);
}

TEST_CASE("megabytes go both ways at once, through small sockets, bit for bit") {
    for (const int how : {0, 1, 2, 3}) {
        const bool is_unix = (how & 1) != 0, may_splice = (how & 2) != 0;
        CAPTURE(is_unix);
        CAPTURE(may_splice);
        relay_rig r{{.pipes = {.pipes_max = may_splice ? 4u : 0u}}};
        support::pair first = is_unix ? stream_pair() : tcp_pair(), second = is_unix ? stream_pair() : tcp_pair();
        shrink_room(first.b); // the relay's side: its sends are short all the time
        shrink_room(second.b);
        r.join(std::move(first), std::move(second));
        const std::string up = noise(3 << 20, 1), down = noise((3 << 20) + 12345, 2);
        std::string_view up_left = up, down_left = down;
        std::string at_server, at_client;
        std::size_t blocks_max = 0;

        CHECK(r.until([&] {
            for (int i = 0; i < 50; i++) {
                push(r.client, up_left);
                push(r.server, down_left);
                r.turn();
                blocks_max = std::max(blocks_max, r.conns.blocks().used());
                pull(r.server, at_server);
                pull(r.client, at_client);
            }
            return at_server.size() == up.size() && at_client.size() == down.size();
        }));

        const bool up_same = at_server == up, down_same = at_client == down;
        CHECK(up_same);
        CHECK(down_same);
        if (!may_splice) CHECK(blocks_max >= 1); // there was something to wait for
        CHECK(blocks_max <= 2);
        CHECK((r.pool.spliced_count() > 0) == (may_splice && !suite_is_over_records()));
        r.turn(2);
        CHECK(r.conns.blocks().used() == 0);
        CHECK(r.pool.bytes_count() == up.size() + down.size());
    }
}

TEST_CASE("a reader that stalls stops the producer at one block, and gets everything when it goes on") {
    relay_rig r;
    support::pair first = tcp_pair(), second = tcp_pair();
    shrink_room(second.b);
    r.join(std::move(first), std::move(second));
    const std::string bytes = noise(16 << 20, 3);
    std::string_view left = bytes;

    for (int i = 0; i < 200; i++) {
        push(r.client, left);
        r.turn();
        CHECK(r.conns.blocks().used() <= 1);
    }
    CHECK_FALSE(left.empty()); // the producer was stopped
    CHECK(r.conns.blocks().used() == 1);
    CHECK(r.sleeps());
    CHECK_FALSE(r.ends[0]->slot().is(fd_state::recv_active));
    send_all(r.server.get(), "the other way is free");
    CHECK(r.carried(r.client, 21) == "the other way is free");

    std::string got;
    CHECK(r.until([&] {
        for (int i = 0; i < 50; i++) {
            push(r.client, left);
            r.turn();
            pull(r.server, got);
        }
        return got.size() == bytes.size();
    }));
    const bool same = got == bytes;
    CHECK(same);
    CHECK(r.conns.blocks().used() == 0);
}

TEST_CASE("one greedy pair does not keep another waiting: a turn carries at most four blocks of a direction") {
    relay_rig r;
    r.join();
    std::string_view left = "";
    const std::string bytes(4 << 20, 'x');
    left = bytes;
    push(r.client, left);
    REQUIRE(arrived(*r.ends[0]));

    r.turn();

    CHECK(r.pool.bytes_count() <= 4 * block_bytes);
    CHECK(r.pool.bytes_count() > 0);
}

// --- ends

TEST_CASE("a half-close is carried across, either way, and the other direction goes on") {
    for (const bool by_client : {true, false}) {
        CAPTURE(by_client);
        relay_rig r;
        r.join();
        descriptor& first = by_client ? r.client : r.server;
        descriptor& second = by_client ? r.server : r.client;
        send_all(first.get(), "all I have");
        shut_write(first.get());

        CHECK(r.until([&] { return r.pool.bytes_count() == 10 && r.ends[by_client ? 1 : 0]->is(conn_flag::send_ended); }));
        std::string seen;
        CHECK(ending_of(second.get(), &seen) == ending::fin);
        CHECK(seen == "all I have");
        CHECK(r.pool.pair_count() == 1);
        send_all(second.get(), "the answer");
        CHECK(r.carried(first, 10) == "the answer");
        shut_write(second.get());

        CHECK(r.until([&] { return r.is_over(); }));
        CHECK(ending_of(first.get()) == ending::fin);
        CHECK(r.ended(end_cause::peer_closed) == 2);
        CHECK(r.sums_hold());
    }
}

TEST_CASE("a FIN waits for the bytes in front of it") {
    relay_rig r;
    support::pair first = tcp_pair(), second = tcp_pair();
    shrink_room(second.b);
    r.join(std::move(first), std::move(second));
    const std::string bytes = noise(4 << 20, 4);
    std::string_view left = bytes;
    CHECK(r.until([&] {
        const bool is_sent = push(r.client, left);
        r.turn();
        return is_sent || r.conns.blocks().used() == 1;
    }));

    std::string got;
    bool is_shut = false;
    CHECK(r.until([&] {
        for (int i = 0; i < 50; i++) {
            if (push(r.client, left) && !is_shut) {
                shut_write(r.client.get());
                is_shut = true;
            }
            r.turn();
            if (is_shut) pull(r.server, got);
            else if (r.sleeps()) pull(r.server, got);
        }
        return r.ends[1]->is(conn_flag::send_ended);
    }));

    CHECK(ending_of(r.server.get(), &got) == ending::fin);
    const bool same = got == bytes;
    CHECK(same);
}

TEST_CASE("both sides end at once: the pair is over, both see a FIN") {
    relay_rig r;
    r.join();
    shut_write(r.client.get());
    shut_write(r.server.get());
    REQUIRE(end_arrived(*r.ends[0]));
    REQUIRE(end_arrived(*r.ends[1]));

    r.turn(2);

    CHECK(r.is_over());
    CHECK(ending_of(r.client.get()) == ending::fin);
    CHECK(ending_of(r.server.get()) == ending::fin);
}

TEST_CASE("an abort is carried across as an abort, either way") {
    for (const bool by_client : {true, false}) {
        CAPTURE(by_client);
        relay_rig r;
        r.join();
        reset(by_client ? r.client : r.server);

        CHECK(r.until([&] { return r.is_over(); }));

        CHECK(ending_of((by_client ? r.server : r.client).get()) == ending::reset);
        CHECK(r.ended(end_cause::peer_failed) == 1);
        CHECK(r.ended(end_cause::done) == 1);
        CHECK(r.sums_hold());
    }
}

TEST_CASE("an abort of the stalled side is seen though nothing of it is wanted") {
    for (const bool by_producer : {true, false}) {
        CAPTURE(by_producer);
        relay_rig r;
        support::pair first = tcp_pair(), second = tcp_pair();
        shrink_room(second.b);
        r.join(std::move(first), std::move(second));
        const std::string bytes(32 << 20, 'x');
        std::string_view left = bytes;
        CHECK(r.until([&] {
            push(r.client, left);
            r.turn(5);
            return r.conns.blocks().used() == 1;
        }));
        CHECK_FALSE(r.ends[0]->slot().is(fd_state::recv_active));

        reset(by_producer ? r.client : r.server);

        CHECK(r.until([&] { return r.is_over(); }));
        CHECK(ending_of((by_producer ? r.server : r.client).get()) == ending::reset);
    }
}

TEST_CASE("both sides reset in one batch: the pair is over once") {
    relay_rig r;
    r.join();
    const int fds[] = {r.ends[0]->fd(), r.ends[1]->fd()};
    reset(r.client);
    reset(r.server);
    REQUIRE(wait_for(fds[0], POLLERR));
    REQUIRE(wait_for(fds[1], POLLERR));

    r.turn(2);

    CHECK(r.is_over());
    CHECK(r.sums_hold());
}

TEST_CASE("bytes in front of a reset are carried before it, as far as one turn goes") {
    relay_rig r;
    support::pair second = stream_pair(); // a reset throws away what TCP has not delivered; a unix peer keeps it
    r.join(tcp_pair(), std::move(second));
    send_all(r.client.get(), "last words");
    REQUIRE(arrived(*r.ends[0]));
    reset(r.client);
    REQUIRE(wait_for(r.ends[0]->fd(), POLLERR));

    r.turn(2);

    CHECK(r.is_over());
    std::string seen;
    ending_of(r.server.get(), &seen);
    CHECK(seen == "last words");
}

// --- deadlines

TEST_CASE("a pair without a byte either way is aborted at the idle timeout, and each byte begins it anew") {
    relay_rig r({.idle_timeout = seconds{10}});
    r.join();
    r.pass(seconds{9});
    send_all(r.server.get(), "x");
    CHECK(r.carried(r.client, 1) == "x");

    r.pass(seconds{9});
    CHECK(r.pool.pair_count() == 1);
    r.pass(milliseconds{1001});

    CHECK(r.is_over());
    CHECK(r.ended(end_cause::timed_out) == 2);
    CHECK(ending_of(r.client.get()) == ending::reset);
    CHECK(ending_of(r.server.get()) == ending::reset);
}

TEST_CASE("after a half-close the fin timeout counts, and each byte begins it anew") {
    relay_rig r({.fin_timeout = seconds{5}, .idle_timeout = seconds{100}});
    r.join();
    r.pass(seconds{50});
    shut_write(r.client.get());
    CHECK(r.until([&] { return r.ends[1]->is(conn_flag::send_ended); }));

    r.pass(seconds{4});
    CHECK(r.pool.pair_count() == 1);
    send_all(r.server.get(), "x");
    CHECK(r.carried(r.client, 1) == "x");
    r.pass(seconds{4});
    CHECK(r.pool.pair_count() == 1);
    r.pass(milliseconds{1001});

    CHECK(r.is_over());
    CHECK(r.ended(end_cause::timed_out) == 2);
}

TEST_CASE("a reader that takes its bytes slowly is not idle") {
    relay_rig r({.idle_timeout = seconds{10}});
    support::pair first = tcp_pair(), second = stream_pair();
    shrink_room(second.b);
    r.join(std::move(first), std::move(second));
    const std::string bytes(1 << 20, 'x');
    std::string_view left = bytes;
    CHECK(r.until([&] {
        push(r.client, left);
        r.turn(5);
        return r.conns.blocks().used() == 1;
    }));
    const std::uint64_t received = r.pool.bytes_count();

    r.pass(seconds{6});
    char room[1024];
    while (::recv(r.server.get(), room, sizeof room, MSG_DONTWAIT) > 0) {
    }
    r.turn(2);
    REQUIRE(r.pool.bytes_count() == received); // part of the block is gone, and nothing new was received meanwhile
    REQUIRE(r.conns.blocks().used() == 1);
    r.pass(seconds{6});

    CHECK(r.pool.pair_count() == 1);
    r.pass(milliseconds{4001});
    CHECK(r.is_over());
}

// --- setting up

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
    CHECK(r.pool.pair_count() == 1);

    r.pass(milliseconds{2001});
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

// --- over records

// The far end of a connection that may be over records: says and hears what a user would.
struct far_end {
    descriptor fd;
    bool layered = false, heard_end = false;
    std::string wire{}, heard{};

    void hear() {
        std::string& to = layered ? wire : heard;
        pull(fd, to);
        if (layered && !heard_end) heard_end = unrecord(wire, heard);
    }
    void say(std::string_view bytes) { support::send_all(fd.get(), layered ? record(bytes) : std::string{bytes}); }
    void end() {
        if (layered) support::send_all(fd.get(), record_end);
        support::shut_write(fd.get());
    }
};

// A pair of which the client's side, the server's, or both are over records.
struct record_rig : relay_rig {
    record_rig(bool client_layered, bool server_layered, const relay_options& options = {}) : relay_rig(options) {
        support::pair first = over_records::raw_pair(), second = over_records::raw_pair();
        shrink_room(first.b);
        shrink_room(second.b);
        connection& a = serve(std::move(first.b), nobody, tcp, client_layered ? record_xprt : raw_xprt);
        connection& b = serve(std::move(second.b), nobody, tcp, server_layered ? record_xprt : raw_xprt);
        far[0] = {.fd = std::move(first.a), .layered = client_layered};
        far[1] = {.fd = std::move(second.a), .layered = server_layered};
        for (far_end& end : far)
            if (end.layered) support::send_all(end.fd.get(), "H");
        REQUIRE(until([&] { return a.is(conn_flag::connected) && b.is(conn_flag::connected); }));
        for (far_end& end : far)
            if (end.layered) CHECK(support::recv_exactly(end.fd.get(), 1) == "H");
        REQUIRE(pool.join(a, b).ok());
    }
    ~record_rig() { record_layer::read_max = 4096; }
    bool both_ways(const std::string& up, const std::string& down) {
        const std::string said[2] = {far[0].layered ? record(up) : up, far[1].layered ? record(down) : down};
        std::string_view left[2] = {said[0], said[1]};
        const bool came = until([&] {
            for (int i = 0; i < 2; i++) {
                push(far[i].fd, left[i]);
                turn(5);
                far[i].hear();
            }
            return far[1].heard.size() >= up.size() && far[0].heard.size() >= down.size();
        });
        return came && far[1].heard == up && far[0].heard == down;
    }
    far_end far[2];
};

constexpr struct {
    bool client, server;
} layerings[] = {{true, false}, {false, true}, {true, true}};

TEST_CASE("over records on either side or both, bytes are carried bit for bit, also when they come one by one") {
    for (const auto& at : layerings) {
        const bool client = at.client, server = at.server;
        for (const std::size_t read_max : {std::size_t{4096}, std::size_t{1}}) {
            for (const std::uint32_t pipes_max : {0u, 2u}) { // there is nothing to splice, and nobody tries
                CAPTURE(client);
                CAPTURE(server);
                CAPTURE(read_max);
                record_rig r{client, server, {.pipes = {.pipes_max = pipes_max}}};
                record_layer::read_max = read_max;
                const std::size_t bytes = read_max == 1 ? 20'000 : 200'000;

                CHECK(r.both_ways(noise(bytes, 6), noise(bytes, 7)));

                CHECK(r.pool.spliced_count() == 0);
                CHECK(r.pool.bytes_count() == 2 * bytes);
                CHECK(r.until([&] { return r.conns.blocks().used() == 0; }));
            }
        }
    }
}

TEST_CASE("over records a half-close is carried across with the transport's own end, either way") {
    for (const auto& at : layerings) {
        const bool client = at.client, server = at.server;
        for (const int first : {0, 1}) {
            CAPTURE(client);
            CAPTURE(server);
            CAPTURE(first);
            record_rig r{client, server};
            far_end &from = r.far[first], &to = r.far[1 - first];
            from.say("last words");
            from.end();
            CHECK(r.until([&] { return to.hear(), to.heard == "last words" && ready(to.fd.get(), POLLRDHUP); }));
            to.hear();
            CHECK(to.heard_end == to.layered);
            CHECK(r.pool.pair_count() == 1);

            to.say("answer");
            to.end();

            CHECK(r.until([&] { return from.hear(), from.heard == "answer" && r.is_over(); }));
            from.hear();
            CHECK(from.heard_end == from.layered);
            CHECK(ending_of(from.fd.get()) == ending::fin);
        }
    }
}

TEST_CASE("over records an end behind a stalled reader waits for its bytes, and then for room of its own") {
    record_rig r{false, true};
    const std::string much = noise(6 << 20, 8);
    std::string_view left = much;
    bool is_shut = false;
    // The server's end reads nothing until nothing moves any more.
    for (int i = 0; i < 3000; i++) {
        push(r.far[0].fd, left);
        r.turn();
    }
    CHECK(left.size() > 0);
    CHECK(r.until([&] {
        if (!left.empty()) push(r.far[0].fd, left);
        else if (!std::exchange(is_shut, true)) r.far[0].end();
        r.turn(5);
        r.far[1].hear();
        return r.far[1].heard_end;
    }));
    const bool same = r.far[1].heard == much;
    CHECK(same);
    CHECK(r.until([&] { return ready(r.far[1].fd.get(), POLLRDHUP); }));
}

TEST_CASE("over records both ends that end leave no byte and no end behind, though the last waits for room") {
    record_rig r{true, true};
    r.far[1].end(); // the server says nothing more
    CHECK(r.until([&] { return r.far[0].hear(), r.far[0].heard_end; }));
    const std::string much = noise(1 << 20, 9), encoded = record(much);
    std::string_view left = encoded;
    CHECK(r.until([&] {
        push(r.far[0].fd, left);
        r.turn(5);
        r.far[1].hear();
        return left.empty();
    }));
    r.far[0].end();
    // The pair may be over while the end still waits in a connection that nobody owns any more.
    CHECK(r.until([&] { return r.far[1].hear(), r.far[1].heard_end; }));
    const bool same = r.far[1].heard == much;
    CHECK(same);
    CHECK(r.until([&] { return r.is_over(); }));
    CHECK(ending_of(r.far[1].fd.get()) == ending::fin);
}

TEST_CASE("over records an abort is carried across as an abort, and so are a truncation and a broken record") {
    for (const auto& at : layerings) {
        const bool client = at.client, server = at.server;
        for (const int from : {0, 1}) {
            for (const char how : {'r', 't', 'b'}) {
                CAPTURE(client);
                CAPTURE(server);
                CAPTURE(from);
                CAPTURE(how);
                record_rig r{client, server};
                far_end &breaks = r.far[from], &hears = r.far[1 - from];
                if (how != 'r' && !breaks.layered) continue;
                breaks.say("bytes");
                CHECK(r.until([&] { return hears.hear(), hears.heard == "bytes"; }));
                if (how == 'r') reset(breaks.fd);
                if (how == 't') support::shut_write(breaks.fd.get());
                if (how == 'b') support::send_all(breaks.fd.get(), {"\0?", 2});

                CHECK(r.until([&] { return r.is_over(); }));

                CHECK(r.ended(end_cause::peer_failed) == 1);
                CHECK(ending_of(hears.fd.get()) == ending::reset);
                hears.hear();
                CHECK_FALSE(hears.heard_end);
            }
        }
    }
}

TEST_CASE("a relay dials its servers over the transport it was told, with the handshake under the connect timeout") {
    for (const bool answers : {true, false}) {
        CAPTURE(answers);
        relay_rig r{{.connect_timeout = seconds{5}, .transport = &record_xprt}};
        const tcp_listener shop = listen_tcp();
        support::pair front = over_records::raw_pair();
        connection& client = r.serve(std::move(front.b), r.nobody);
        REQUIRE(r.pool.dial(client, tcp, endpoint::ipv4(0x7f000001, shop.port)) == verdict::keep);
        support::send_all(front.a.get(), "early");
        far_end server{.fd = over_records::accept_tcp(shop), .layered = true};
        CHECK(r.until([&] { return ready(server.fd.get(), POLLIN); }));
        CHECK(support::recv_exactly(server.fd.get(), 1) == "H");
        if (answers) {
            support::send_all(server.fd.get(), "H");
            CHECK(r.until([&] { return server.hear(), server.heard == "early"; }));
            continue;
        }
        r.turn(3);
        CHECK(r.pool.pair_count() == 1);

        r.pass(seconds{5});
        r.turn();

        CHECK(r.is_over());
        CHECK(r.ended(end_cause::connect_timed_out) == 1);
        CHECK(ending_of(front.a.get()) == ending::reset);
    }
}

TEST_CASE("a client that never ends its handshake does not hold a dialed pair for ever") {
    relay_rig r{{.connect_timeout = seconds{5}}};
    const tcp_listener shop = listen_tcp();
    support::pair front = over_records::raw_pair();
    connection& client = r.serve(std::move(front.b), r.nobody, tcp, record_xprt);
    REQUIRE(r.pool.dial(client, tcp, endpoint::ipv4(0x7f000001, shop.port)) == verdict::keep);
    descriptor server = over_records::accept_tcp(shop);
    r.turn(3);
    CHECK(r.pool.pair_count() == 1);

    r.pass(seconds{5});
    r.turn();

    CHECK(r.is_over());
    CHECK(r.ended(end_cause::connect_timed_out) == 1);
    CHECK(ending_of(server.get()) == ending::reset);
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

TEST_CASE("urgent data does not hold up what follows it") {
    relay_rig r;
    r.join();
    send_all(r.client.get(), "abc");
    REQUIRE(::send(r.client.get(), "!", 1, MSG_OOB) == 1);
    send_all(r.client.get(), "def");

    std::string got;
    CHECK(r.until([&] {
        pull(r.server, got);
        return got.size() == 6;
    }));

    CHECK(got == "abcdef");
    CHECK(r.sleeps());
}

TEST_CASE("the end of a pair is told once, with both connections closed") {
    int told = 0;
    relay_options options;
    options.ended = [](void* at, void*) noexcept { ++*static_cast<int*>(at); };
    options.owner = &told;
    relay_rig r(options);
    r.join();
    CHECK(told == 0);

    reset(r.client);

    CHECK(r.until([&] { return r.is_over(); }));
    CHECK(told == 1);
}

// Sends `bytes` from the client and answers what the server has got of them.
std::string through(relay_rig& r, std::string_view bytes) {
    std::string got;
    const std::size_t all = bytes.size();
    CHECK(r.until([&] {
        push(r.client, bytes);
        r.turn();
        pull(r.server, got);
        return got.size() == all;
    }));
    return got;
}

TEST_CASE("a large flow is spliced, and copied again when little comes at a time" * not_over_records{"records are not spliced"}) {
    relay_rig r{{.pipes = {.pipes_max = 2}}};
    r.join();
    const std::string large = noise(4 << 20, 3);

    CHECK(through(r, large) == large);
    CHECK(r.pool.spliced_count() > large.size() / 2);
    for (int i = 0; i < 8; i++)
        CHECK(through(r, "little") == "little");
    const std::uint64_t after = r.pool.spliced_count();
    CHECK(through(r, "copied") == "copied");

    CHECK(r.pool.spliced_count() == after);
    CHECK(r.pool.bytes_count() == large.size() + 9 * 6);
}

TEST_CASE("urgent data in a flow that is spliced does not hold up what follows it" * not_over_records{"records are not spliced"}) {
    relay_rig r{{.pipes = {.pipes_max = 2}}};
    r.join();
    const std::string large = noise(4 << 20, 6);
    CHECK(through(r, large) == large);
    const std::uint64_t before = r.pool.spliced_count();
    CHECK(before > 0);
    const std::string block = noise(64 * 1024, 7);

    send_all(r.client.get(), block);
    REQUIRE(::send(r.client.get(), "!", 1, MSG_OOB) == 1);
    send_all(r.client.get(), block);

    std::string got;
    CHECK(r.until([&] {
        pull(r.server, got);
        return got.size() >= 2 * block.size();
    }));
    CHECK((got == block + block));
    CHECK(through(r, large) == large);
    CHECK(r.pool.spliced_count() > before);
    CHECK(r.sleeps());
}

TEST_CASE("without descriptors for a pipe bytes are copied, and nobody asks again for a second" * not_over_records{"records are not spliced"}) {
    relay_rig r{{.pipes = {.pipes_max = 2}}};
    r.join();
    const std::string large = noise(4 << 20, 4);
    rlimit was;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &was) == 0);
    rlimit none = was;
    none.rlim_cur = 3;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);

    const std::string got = through(r, large);

    REQUIRE(setrlimit(RLIMIT_NOFILE, &was) == 0);
    CHECK(got == large);
    CHECK(r.pool.spliced_count() == 0);
    REQUIRE(r.pool.pipes() != nullptr);
    CHECK(r.pool.pipes()->failed_count() >= 1);
    CHECK(r.pool.pipes()->failed_count() <= 2);
}

TEST_CASE("a reset while bytes are in a pipe aborts the pair, and the pipe is not lent again with them" * not_over_records{"records are not spliced"}) {
    relay_rig r{{.pipes = {.pipes_max = 1}}};
    support::pair second = tcp_pair();
    shrink_room(second.b);
    r.join(tcp_pair(), std::move(second));
    const std::string large = noise(8 << 20, 5);
    std::string_view left = large;
    CHECK(r.until([&] {
        push(r.client, left);
        r.turn(4);
        return r.pool.spliced_count() > 0;
    }));
    for (int i = 0; i < 20; i++) {
        push(r.client, left);
        r.turn(4);
    }

    reset(r.server);

    CHECK(r.until([&] { return r.is_over(); }));
    CHECK(r.pool.pipes()->open_count() == 0);
}

} // namespace
