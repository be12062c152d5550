// relay: how ends, aborts and deadlines are carried across.

#include "core/relay.hpp"

#include <utility>

#include "support/relay_rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::send_all;
using over_records::shut_write, over_records::stream_pair, over_records::tcp_pair;

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

        std::string got;
        descriptor& other = by_producer ? r.server : r.client;
        bool was_reset = false;
        CHECK(r.until([&] {
            was_reset = was_reset || (by_producer && pull(r.server, got)); // what came before the reset goes first
            r.pass(milliseconds{1});
            return r.is_over();
        }));
        CHECK((was_reset || ending_of(other.get()) == ending::reset));
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

// --- deadlines

TEST_CASE("a pair without a byte either way is aborted at the idle timeout, and each byte begins it anew") {
    relay_rig r({.idle_timeout = seconds{10}});
    r.join();
    r.pass(seconds{9});
    send_all(r.server.get(), "x");
    CHECK(r.carried(r.client, 1) == "x");

    r.pass(seconds{10} - milliseconds{1});
    CHECK(r.pool.pair_count() == 1);
    r.pass(r.lateness_max(seconds{10}));

    CHECK(r.is_over());
    CHECK(r.ended(end_cause::timed_out) == 2);
    CHECK(ending_of(r.client.get()) == ending::reset);
    CHECK(ending_of(r.server.get()) == ending::reset);
}

TEST_CASE("after the server's end the fin timeout counts, and each byte begins it anew") {
    relay_rig r({.fin_timeout = seconds{5}, .idle_timeout = seconds{100}});
    r.join();
    r.pass(seconds{50});
    shut_write(r.server.get());
    CHECK(r.until([&] { return r.ends[0]->is(conn_flag::send_ended); }));

    r.pass(seconds{4});
    CHECK(r.pool.pair_count() == 1);
    send_all(r.client.get(), "x");
    CHECK(r.carried(r.server, 1) == "x");
    r.pass(seconds{5} - milliseconds{1});
    CHECK(r.pool.pair_count() == 1);
    r.pass(r.lateness_max(seconds{5}));

    CHECK(r.is_over());
    CHECK(r.ended(end_cause::timed_out) == 2);
    CHECK(ending_of(r.client.get()) == ending::fin); // it has all that the server said
    CHECK(ending_of(r.server.get()) == ending::reset);
}

TEST_CASE("after the client's end its server has the idle timeout for the answer") {
    relay_rig r({.fin_timeout = seconds{5}, .idle_timeout = seconds{100}});
    r.join();
    shut_write(r.client.get());
    CHECK(r.until([&] { return r.ends[1]->is(conn_flag::send_ended); }));

    r.pass(seconds{99});
    CHECK(r.pool.pair_count() == 1);
    send_all(r.server.get(), "the answer");
    CHECK(r.carried(r.client, 10) == "the answer");
    r.pass(seconds{99});
    CHECK(r.pool.pair_count() == 1);
    r.pass(seconds{1} + r.lateness_max(seconds{100}));

    CHECK(r.is_over());
    CHECK(r.ended(end_cause::timed_out) == 2);
    CHECK(ending_of(r.server.get()) == ending::fin); // it has all that the client said
    CHECK(ending_of(r.client.get()) == ending::reset);
}

TEST_CASE("without a byte a pair lives until its timeout: idle, half-closed, and where the idle one is shorter") {
    enum class ended : std::uint8_t { none, client, server };
    const struct {
        ended who;
        duration fin, idle, limit;
    } cases[] = {{ended::none, seconds{5}, seconds{8}, seconds{8}},
                 {ended::client, seconds{5}, seconds{8}, seconds{8}},
                 {ended::server, seconds{5}, seconds{8}, seconds{5}},
                 {ended::server, seconds{8}, seconds{3}, seconds{3}}};
    for (const auto& c : cases) {
        CAPTURE(static_cast<int>(c.who));
        CAPTURE(c.limit.count());
        relay_rig r({.fin_timeout = c.fin, .idle_timeout = c.idle});
        r.join();
        if (c.who != ended::none) {
            const bool by_client = c.who == ended::client;
            r.pass(seconds{2});
            shut_write((by_client ? r.client : r.server).get());
            const connection& other = *r.ends[by_client ? 1 : 0];
            CHECK(r.until([&] { return other.is(conn_flag::send_ended); }));
            // The acknowledgement of the FIN is progress, and comes in real time.
            CHECK(r.until([&] { return sys::send_queue(other.fd()) == 0; }));
        }

        r.pass(c.limit - milliseconds{1});
        r.turn(2);
        CHECK(r.pool.pair_count() == 1);
        r.pass(r.lateness_max(c.limit));

        CHECK(r.pool.pair_count() == 0);
        CHECK(r.ended(end_cause::timed_out) == 2);
    }
}

TEST_CASE("timeouts of duration::max() are no timeouts: the pair lives on, half-closed too") {
    relay_rig r({.connect_timeout = duration::max(), .fin_timeout = duration::max(), .idle_timeout = duration::max()});
    r.join();
    r.pass(std::chrono::hours{24 * 365});
    CHECK(r.pool.pair_count() == 1);

    shut_write(r.client.get());
    CHECK(r.until([&] { return r.ends[1]->is(conn_flag::send_ended); }));
    r.pass(std::chrono::hours{24 * 365});

    CHECK(r.pool.pair_count() == 1);
    send_all(r.server.get(), "x");
    CHECK(r.carried(r.client, 1) == "x");
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
    r.pass(milliseconds{3999});
    CHECK(r.pool.pair_count() == 1);
    r.pass(r.lateness_max(seconds{10}));
    CHECK(r.is_over());
}

TEST_CASE("the end of a pair is told once, with both connections closed") {
    int told = 0;
    relay_options options;
    options.ended = [](void* at, void*, relay_end) noexcept { ++*static_cast<int*>(at); };
    options.owner = &told;
    relay_rig r(options);
    r.join();
    CHECK(told == 0);

    reset(r.client);

    CHECK(r.until([&] { return r.is_over(); }));
    CHECK(told == 1);
}

// What was told of pairs: 'a' for the first byte of a server, 'u' for one that ended unheard, 'e' for any other end.
struct witness {
    static void answered(void* at, void*) noexcept { static_cast<witness*>(at)->told += 'a'; }
    static void ended(void* at, void*, relay_end how) noexcept {
        static_cast<witness*>(at)->told += how == relay_end::unheard ? 'u' : 'e';
    }
    relay_options options(std::uint32_t pipes_max) {
        relay_options o{.pipes = {.pipes_max = pipes_max}};
        o.answered = answered;
        o.ended = ended;
        o.owner = this;
        return o;
    }
    std::string told;
};

TEST_CASE("a server's first byte is told once, and a server that ended first without one is told as unheard") {
    struct {
        const char* name;
        void (*play)(relay_rig& r);
        const char* told;
    } const cases[] = {
        {"the server speaks", [](relay_rig& r) { send_all(r.server.get(), "1"); r.turn(3); send_all(r.server.get(), "2"); r.turn(3); reset(r.server); }, "ae"},
        {"the server closes", [](relay_rig& r) { r.server.close(); r.turn(3); r.client.close(); }, "u"},
        {"the server resets", [](relay_rig& r) { reset(r.server); }, "u"},
        {"the client speaks, the server resets", [](relay_rig& r) { send_all(r.client.get(), "x"); r.turn(3); reset(r.server); }, "u"},
        {"the client closes first", [](relay_rig& r) { r.client.close(); r.turn(3); r.server.close(); }, "e"},
        {"the client resets", [](relay_rig& r) { reset(r.client); }, "e"},
    };
    for (const auto& each : cases) {
        CAPTURE(each.name);
        witness w;
        relay_rig r(w.options(0));
        r.join();
        each.play(r);
        CHECK(r.until([&] { return r.is_over(); }));
        CHECK(w.told == each.told);
    }
}

} // namespace
