// relay: a broken end: what had arrived from it reaches the other one before the reset does.

#include "core/relay.hpp"

#include <utility>

#include <sys/ioctl.h>
#include <sys/socket.h>

#include "support/relay_rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::send_all;
using over_records::stream_pair, over_records::tcp_pair;

int unread_bytes(const connection& conn) {
    int bytes = 0;
    REQUIRE(ioctl(conn.fd(), FIONREAD, &bytes) == 0);
    return bytes;
}

// A reader that takes nothing, and a client that has said so much more that it waits in the relay's receive queue.
struct stalled_rig : relay_rig {
    explicit stalled_rig(const relay_options& options = {}) : relay_rig(options) {
        support::pair first = tcp_pair(), second = tcp_pair();
        shrink_room(second.b);
        const int wide = 1 << 20;
        REQUIRE(setsockopt(first.b.get(), SOL_SOCKET, SO_RCVBUF, &wide, sizeof wide) == 0);
        join(std::move(first), std::move(second));
        REQUIRE(until([&] {
            const bool is_sent = push(client, left);
            turn(5);
            return is_sent || (!ends[0]->slot().is(fd_state::recv_active) && unread_bytes(*ends[0]) > 300'000);
        }));
        arrived_bytes = pool.bytes_count() + static_cast<std::uint64_t>(unread_bytes(*ends[0]));
    }
    // Until the pair is over. The reader was reset then?
    bool read_on(std::string& got) {
        bool was_reset = false;
        CHECK(until([&] {
            was_reset = was_reset || pull(server, got);
            pass(milliseconds{1});
            return is_over();
        }));
        return was_reset || ending_of(server.get(), &got) == ending::reset;
    }

    const std::string bytes = noise(16 << 20, 11);
    std::string_view left = bytes;
    std::uint64_t arrived_bytes = 0;
};

TEST_CASE("all that had arrived in front of a reset reaches a reader that had stalled, and then the reset does" *
          not_over_records{"what has arrived is counted in bytes of the socket"}) {
    for (const std::uint32_t pipes_max : {0u, 1u}) {
        CAPTURE(pipes_max);
        stalled_rig r({.pipes = {.pipes_max = pipes_max}});
        const std::uint64_t arrived_bytes = r.arrived_bytes;
        reset(r.client);
        REQUIRE(wait_for(r.ends[0]->fd(), POLLERR));
        r.turn(3);
        CHECK(r.pool.pair_count() == 1);

        std::string got;
        CHECK(r.read_on(got));
        CHECK(got.size() >= arrived_bytes); // more may have come before the reset did
        const bool same = got == r.bytes.substr(0, got.size());
        CHECK(same);
        CHECK(r.ended(end_cause::peer_failed) == 1);
        CHECK(r.ended(end_cause::done) == 1);
    }
}

TEST_CASE("a reader that takes nothing of what came before a reset is reset at the fin timeout" *
          not_over_records{"what has arrived is counted in bytes of the socket"}) {
    constexpr duration limit = seconds{5};
    stalled_rig r({.fin_timeout = limit, .idle_timeout = seconds{100}});
    reset(r.client);
    REQUIRE(wait_for(r.ends[0]->fd(), POLLERR));
    r.turn(3);

    r.pass(limit - milliseconds{1});
    CHECK(r.pool.pair_count() == 1);
    r.pass(r.lateness_max(limit) + limit / 16);

    CHECK(r.is_over());
    CHECK(ending_of(r.server.get()) == ending::reset);
}

TEST_CASE("a reader that breaks, too, while it is to take what came before a reset ends the pair at once") {
    stalled_rig r;
    reset(r.client);
    REQUIRE(wait_for(r.ends[0]->fd(), POLLERR));
    r.turn(3);

    reset(r.server);

    CHECK(r.until([&] { return r.is_over(); }));
    CHECK(r.sums_hold());
}

TEST_CASE("last words in front of a reset are carried before it, to a TCP and to a unix peer") {
    for (const bool is_unix : {false, true}) {
        CAPTURE(is_unix);
        relay_rig r;
        r.join(tcp_pair(), is_unix ? stream_pair() : tcp_pair());
        send_all(r.client.get(), "last words");
        REQUIRE(arrived(*r.ends[0]));
        reset(r.client);
        REQUIRE(wait_for(r.ends[0]->fd(), POLLERR));

        std::string seen;
        CHECK(r.until([&] {
            pull(r.server, seen);
            r.pass(milliseconds{1});
            return r.is_over();
        }));
        CHECK(seen == "last words");
    }
}

TEST_CASE("what is on its way to an end that was reset is dropped, and a quiet pair ends in the turn of the reset") {
    for (const bool has_bytes : {false, true}) {
        CAPTURE(has_bytes);
        relay_rig r;
        support::pair first = tcp_pair(), second = tcp_pair();
        shrink_room(first.b);
        r.join(std::move(first), std::move(second));
        const std::string bytes = noise(16 << 20, 12);
        std::string_view left = bytes;
        CHECK(r.until([&] {
            if (has_bytes) push(r.server, left);
            r.turn(5);
            return !has_bytes || r.conns.blocks().used() == 1;
        }));
        reset(r.client);
        REQUIRE(wait_for(r.ends[0]->fd(), POLLERR));

        r.turn(3);

        CHECK(r.is_over());
        CHECK(ending_of(r.server.get()) == ending::reset);
    }
}

} // namespace
