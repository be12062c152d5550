// relay: over records on one side or both, whatever WEIR_TRANSPORT says.

#include "core/relay.hpp"

#include <utility>

#include "support/record_xprt.hpp"
#include "support/relay_rig.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::recv_exactly, over_records::send_all;
using over_records::shut_write;

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

    r.pass(seconds{5} - milliseconds{1});
    r.turn(2);
    CHECK(r.pool.pair_count() == 1);
    r.pass(milliseconds{1});
    r.turn();

    CHECK(r.is_over());
    CHECK(r.ended(end_cause::connect_timed_out) == 1);
    CHECK(ending_of(server.get()) == ending::reset);
}

} // namespace
