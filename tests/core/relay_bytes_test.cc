// relay: bytes are carried, copied or spliced, none is lost and nobody waits for another.

#include "core/relay.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include <sys/resource.h>

#include "support/relay_rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::send_all;
using over_records::stream_pair, over_records::tcp_pair;

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

// The raw transport, and how much each of its reads has brought.
struct noted {
    static inline std::vector<std::size_t>* reads = nullptr;
    static io_result note(io_result r) noexcept {
        if (r.end == io::done) reads->push_back(r.bytes);
        return r;
    }
    static io_result recv(connection& conn, void* to, std::size_t bytes) noexcept {
        return note(raw_xprt.recv(conn, to, bytes));
    }
    static io_result splice_in(connection& conn, int fd, std::size_t bytes) noexcept {
        return note(raw_xprt.splice_in(conn, fd, bytes));
    }
};
const xprt noted_xprt = [] {
    xprt made = raw_xprt;
    made.recv = noted::recv;
    made.splice_in = noted::splice_in;
    return made;
}();

TEST_CASE("one greedy pair does not keep another waiting: a turn ends with the read that reaches the budget, copied or "
          "spliced" *
          not_over_records{"its transport is another one"}) {
    for (const std::uint32_t budget : {1u, 16u * 1024, 16u * 1024 + 1, 64u * 1024, 100'000u}) {
        for (const bool may_splice : {false, true}) {
            CAPTURE(budget);
            CAPTURE(may_splice);
            std::vector<std::size_t> reads;
            noted::reads = &reads;
            relay_rig r{{.recv_budget_bytes = budget, .pipes = {.pipes_max = may_splice ? 1u : 0u}}};
            support::pair first = tcp_pair(), second = tcp_pair();
            connection& a = r.serve(std::move(first.b), r.nobody, tcp, noted_xprt);
            connection& b = r.serve(std::move(second.b), r.nobody, tcp, noted_xprt);
            REQUIRE(r.pool.join(a, b).ok());
            const std::string bytes = noise(4 << 20, 3);
            std::string_view left = bytes;
            std::string got;
            std::size_t full_turns = 0;

            CHECK(r.until([&] {
                push(first.a, left);
                reads.clear();
                const std::uint64_t before = r.pool.bytes_count();
                r.turn();
                std::size_t sum = 0, cost = 0, cost_before = 0;
                for (const std::size_t n : reads) {
                    cost_before = cost;
                    cost += std::max<std::size_t>(n, 4096);
                    sum += n;
                }
                CHECK(sum == r.pool.bytes_count() - before);
                CHECK(cost_before < budget); // the last one was still allowed,
                if (cost >= budget) full_turns++;
                const bool may_go_on = a.slot().is(fd_state::recv_ready) && a.slot().is(fd_state::recv_active);
                if (may_go_on && !reads.empty()) CHECK(cost >= budget); // and no other
                pull(second.a, got);
                return got.size() == bytes.size();
            }));

            const bool same = got == bytes;
            CHECK(same);
            CHECK(full_turns > 0);
            CHECK((r.pool.spliced_count() > 0) == may_splice);
        }
    }
    noted::reads = nullptr;
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

TEST_CASE("a reader that stalls keeps its pipe: others copy meanwhile, and splice again when it has gone" *
          not_over_records{"records are not spliced"}) {
    relay_rig r{{.pipes = {.pipes_max = 1}}};
    support::pair slow = tcp_pair(), slow_server = tcp_pair();
    shrink_room(slow_server.b);
    connection& a = r.serve(std::move(slow.b), r.nobody);
    connection& b = r.serve(std::move(slow_server.b), r.nobody);
    REQUIRE(r.pool.join(a, b).ok());
    const std::string much = noise(32 << 20, 3), large = noise(4 << 20, 4);
    std::string_view left = much;
    CHECK(r.until([&] {
        push(slow.a, left);
        r.turn(4);
        return r.pool.spliced_count() > 0 && r.sleeps();
    }));
    CHECK(r.pool.pipes()->lent_count() == 1);
    r.join();
    const std::uint64_t spliced = r.pool.spliced_count(), copied_again = r.pool.unspliced_count();

    CHECK(through(r, large) == large);

    CHECK(r.pool.spliced_count() == spliced);
    CHECK(r.pool.unspliced_count() - copied_again <=
          large.size() / (4 * block_bytes)); // it asks once per four full reads
    CHECK(r.pool.pipes()->lent_count() == 1);
    reset(slow_server.a);
    CHECK(r.until([&] { return r.pool.pair_count() == 1; }));
    CHECK(r.pool.pipes()->open_count() == 0); // there were bytes in it
    CHECK(through(r, large) == large);
    CHECK(r.pool.spliced_count() > spliced);
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

TEST_CASE("urgent data that comes with an end while a turn is under way cuts nothing off" *
          not_over_records{"records are not spliced"}) {
    relay_rig r{{.pipes = {.pipes_max = 2}}};
    r.join();
    const std::string large = noise(4 << 20, 8), block = noise(50, 9);
    CHECK(through(r, large) == large);
    // Somebody who is served before the pair in the same turn, and says all of it then.
    support::pair bell = over_records::tcp_pair();
    user ringer;
    connection& ear = r.serve(std::move(bell.b), ringer);
    ringer.on_recv = [&](connection& conn) {
        send_all(r.client.get(), block);
        CHECK(::send(r.client.get(), "!", 1, MSG_OOB) == 1);
        send_all(r.client.get(), block);
        shut_write(r.client.get());
        CHECK(end_arrived(*r.ends[0]));
        return ringer.read_all(conn);
    };
    ear.want_recv();
    r.turn(2);
    send_all(bell.a.get(), "x");
    REQUIRE(arrived(ear));
    send_all(r.client.get(), block);
    REQUIRE(arrived(*r.ends[0]));

    std::string got;
    CHECK(r.until([&] {
        pull(r.server, got);
        return r.ends[1]->is(conn_flag::send_ended);
    }));
    pull(r.server, got);

    CHECK((got == block + block + block));
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
