// The tables that need no user: discard and echo.

#include "core/tables.hpp"

#include <string>

#include <doctest/doctest.h>

#include "support/net.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using support::rig;

// The rig's connection, with a table of the library.
connection& serve(rig& r, support::descriptor socket, const data_cb& table, void* owner) {
    auto conn = r.conns.adopt(unique_fd{socket.release()}, tcp);
    REQUIRE(conn.ok());
    conn.value()->attach(table, owner);
    conn.value()->want_recv();
    return *conn.value();
}

TEST_CASE("discard throws away what comes and closes at the peer's end") {
    rig r;
    support::pair ends = support::tcp_pair();
    support::descriptor &peer = ends.a, &ours = ends.b;
    serve(r, std::move(ours), discard_cb, nullptr);

    support::send_all(peer.get(), std::string(50'000, 'x'));
    r.turn(3);
    CHECK(r.conns.live_count() == 1);
    support::shut_write(peer.get());

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(r.conns.ended_count(end_cause::peer_closed) == 1);
}

TEST_CASE("discard hears of a reset") {
    rig r;
    support::pair ends = support::tcp_pair();
    support::descriptor &peer = ends.a, &ours = ends.b;
    serve(r, std::move(ours), discard_cb, nullptr);

    support::reset(peer);

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(r.conns.ended_count(end_cause::peer_failed) == 1);
}

TEST_CASE("echo sends back every byte in order, however slowly they are taken, and ends with the peer") {
    rig r;
    buffer pending;
    support::pair ends = support::tcp_pair();
    support::descriptor &peer = ends.a, &ours = ends.b;
    support::shrink_buffers(peer.get());
    support::shrink_buffers(ours.get());
    serve(r, std::move(ours), echo_cb, &pending);
    std::string said;
    for (int i = 0; said.size() < 60'000; i++)
        said += std::to_string(i) + ",";

    std::string heard;
    std::size_t sent = 0;
    bool was_pending = false;
    const bool all_came = r.until([&] {
        for (int i = 0; i < 64 && sent < said.size(); i++) { // nothing is taken before no more is accepted
            const ssize_t n = ::send(peer.get(), said.data() + sent, said.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n < 0) break;
            sent += static_cast<std::size_t>(n);
        }
        was_pending |= !pending.empty();
        char bytes[3000];
        const ssize_t n = ::recv(peer.get(), bytes, sizeof bytes, MSG_DONTWAIT);
        if (n > 0) heard.append(bytes, static_cast<std::size_t>(n));
        return heard.size() == said.size();
    });

    CHECK(all_came);
    const bool is_same = heard == said;
    CHECK(is_same);
    CHECK(was_pending);
    CHECK(r.conns.blocks().used() == 0);
    support::shut_write(peer.get());
    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(support::ended(peer.get()));
}

TEST_CASE("echo gives its block back when the peer resets") {
    rig r;
    buffer pending;
    support::pair ends = support::tcp_pair();
    support::descriptor &peer = ends.a, &ours = ends.b;
    support::shrink_buffers(peer.get());
    support::shrink_buffers(ours.get());
    serve(r, std::move(ours), echo_cb, &pending);
    const std::string much(64'000, 'x');
    CHECK(r.until([&] {
        [[maybe_unused]] const ssize_t n = ::send(peer.get(), much.data(), much.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        return !pending.empty();
    }));

    support::reset(peer);

    CHECK(r.until([&] { return r.conns.live_count() == 0; }));
    CHECK(r.conns.blocks().used() == 0);
}

} // namespace
