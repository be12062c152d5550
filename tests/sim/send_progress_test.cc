#include <weir/sim.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

#include "core/relay.hpp"
#include "proto/http1_gateway.hpp"
#include "proto/tcp.hpp"
#include "proto/unix.hpp"

// Deadlines of sending, for each direction of each program: a peer that takes a little all the time is alive, one that
// pauses for 0.9 of the timeout is alive, one that pauses for 1.1 of it is ended, between the timeout and a look later.
// Virtual time, and the kernel's buffers hold so much that send() accepts nothing for several timeouts.

using namespace weir;

namespace {

constexpr duration timeout = seconds{8};
constexpr duration grain =
    milliseconds{4}; // a look and the deadline behind it: the wheel's grain and epoll_wait's, twice
constexpr std::size_t buffer_bytes = 32 * 1024, whole_bytes = 600 * 1024, behind_fin_bytes = 60'000;
const endpoint far_away = endpoint::ipv4(0x0a000002, 1);

// One end that the test plays: says what it is to say as fast as it can, and takes `bite` bytes at a time.
struct actor {
    remote* end = nullptr;
    std::string out;
    bool waits = false; // until something was heard
    bool ends = false;  // FIN behind `out`
    duration every{};   // between two bites; 0: takes all there is
    std::size_t bite = 1500;
    time_point next{};
    std::string heard;
    bool heard_end = false, heard_reset = false;

    bool is_over() const { return heard_end || heard_reset; }

    void hear(remote& r) {
        char bytes[16 * 1024];
        const bool sips = every > duration{};
        while (!is_over() && (!sips || r.now() >= next)) {
            const std::size_t most = sips ? std::min(bite, sizeof bytes) : sizeof bytes;
            const sys::count n = r.recv({bytes, most});
            if (n == -EAGAIN) break;
            heard_end = n == 0;
            heard_reset = n < 0;
            if (n > 0) heard.append(bytes, static_cast<std::size_t>(n));
            if (sips) next = r.now() + every;
        }
        if (sips && !is_over() && r.now() < next) r.wake_in(next - r.now());
    }
    void say(remote& r) {
        if (waits && heard.empty()) return;
        const sys::count n = out.empty() ? 0 : r.send(out);
        if (n > 0) out.erase(0, static_cast<std::size_t>(n));
        if (out.empty() && ends && !r.socket().send_shut) r.shutdown_send();
    }
    static void run(remote& r) noexcept {
        auto& me = *static_cast<actor*>(r.owner);
        me.end = &r;
        if (r.connecting()) return;
        me.hear(r);
        me.say(r);
    }
};
constexpr remote_cb actor_cb{.name = "actor", .run = actor::run};

enum class wait : std::uint8_t { steady, pauses_less, pauses_more };
duration interval_of(wait how) {
    switch (how) {
    case wait::steady: return timeout / 20;
    case wait::pauses_less: return timeout / 10 * 9;
    case wait::pauses_more: return timeout / 10 * 11;
    }
    return {};
}

struct scene {
    scene()
        : k({.call_max = duration{},
             .swarm = false,
             .network = {.buffer_bytes_min = buffer_bytes, .buffer_bytes_max = buffer_bytes}}) {
        REQUIRE(loop.open().ok());
        REQUIRE(conns.open({.connections_max = 16}).ok());
    }
    ~scene() {
        for (actor* a : {&client, &server})
            if (a->end) a->end->reset();
    }
    void serve(const address& where) { k.net.serve({.where = where.at, .table = &actor_cb, .owner = &server}); }
    void come(const endpoint& door) { client.end = &k.net.dial(far_away, door, actor_cb, &client); }

    // The library's socket at the other end of the one who takes. Null: it is gone.
    static const stream* socket_for(const actor& taker) { return taker.end ? taker.end->socket().peer : nullptr; }

    // Turns for so long, or until a connection has ended by a timeout; then, how long after the last movement towards
    // the taker.
    std::optional<duration> ended_after(const actor& taker, duration limit) {
        const time_point until = k.time.now + limit;
        time_point moved = k.time.now;
        while (k.time.now < until) {
            if (const stream* s = socket_for(taker)) moved = std::max(moved, s->sent_at);
            loop.turn(until - k.time.now);
            if (conns.ended_count(end_cause::timed_out) > 0) return loop.now() - moved;
        }
        return std::nullopt;
    }
    void judge(const actor& taker, wait how) {
        const auto after = ended_after(taker, 6 * timeout);
        if (how != wait::pauses_more) {
            CHECK_FALSE(after.has_value());
            CHECK(taker.heard.size() >= taker.bite);
            return;
        }
        REQUIRE(after.has_value());
        CHECK(*after >= timeout);
        CHECK(*after <= timeout + send_progress::wait_between_looks(timeout) + grain);
    }

    kernel k;
    actor client, server; // they act until the last call of the teardown
    event_loop loop;
    conntab conns{loop};
};

struct relay_scene : scene {
    explicit relay_scene(const relay_options& options, const address& upstream) : pool(conns, options), to(upstream) {
        serve(to);
        const auto accepted = [](void* self, connection& conn, const endpoint&) noexcept {
            auto& me = *static_cast<relay_scene*>(self);
            me.pool.dial(conn, *me.to.family, me.to.at);
        };
        REQUIRE(port.open(tcp, endpoint::ipv4(0x0a000001, 80), {}, accepted, this).ok());
    }
    relay_pool pool;
    address to;
    listener port{conns};
};

const address inet_server{.family = &tcp, .at = endpoint::ipv4(0x0a000101, 80)};
address unix_server() { return {.family = &unix_stream, .at = endpoint::unix_path("@server").value()}; }

struct gateway_scene : scene {
    explicit gateway_scene(const http1_gateway_options& options) : gateway(conns, options) {
        serve(inet_server);
        gateway.add_upstream(inet_server);
        REQUIRE(gateway.listen({.family = &tcp, .at = endpoint::ipv4(0x0a000001, 80)}, {}).ok());
    }
    http1_gateway gateway;
};

std::string post_of(std::size_t bytes) {
    return "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(bytes) + "\r\n\r\n" +
           std::string(bytes, 'x');
}

template <class Play>
void for_each_wait(Play play) {
    for (const wait how : {wait::steady, wait::pauses_less, wait::pauses_more}) {
        CAPTURE(static_cast<int>(how));
        play(how);
    }
}

} // namespace

TEST_CASE("relay, to the client: idle_timeout counts from the last byte that the client took") {
    for_each_wait([](wait how) {
        relay_scene s({.idle_timeout = timeout}, inet_server);
        s.server.out = std::string(whole_bytes, 'x');
        s.client.every = interval_of(how);
        s.come(s.port.local());
        s.judge(s.client, how);
    });
}

TEST_CASE("relay, to the client, behind the server's end: the same of fin_timeout, and nothing is lost") {
    for_each_wait([](wait how) {
        relay_scene s({.fin_timeout = timeout, .idle_timeout = 10 * timeout}, inet_server);
        s.server.out = std::string(behind_fin_bytes, 'x'); // the client's kernel and the relay's hold it
        s.server.ends = true;
        s.client.every = interval_of(how);
        if (how == wait::steady) s.client.bite = 200;
        s.come(s.port.local());
        s.judge(s.client, how);
        if (how == wait::pauses_more) {
            CHECK(s.client.end->socket().error == ECONNRESET); // it must not take that for the end
            return;
        }
        s.client.every = duration{};
        s.client.end->wake_in(milliseconds{1});
        for (int i = 0; i < 1000 && !s.client.is_over(); i++)
            s.loop.turn(milliseconds{10});
        CHECK(s.client.heard_end);
        CHECK(s.client.heard.size() == behind_fin_bytes);
    });
}

TEST_CASE(
    "relay, to the server: idle_timeout counts from the last byte that the server took, also after a client's end") {
    for (const bool client_ends : {false, true}) {
        CAPTURE(client_ends);
        for_each_wait([&](wait how) {
            relay_scene s({.fin_timeout = timeout / 4, .idle_timeout = timeout}, inet_server);
            s.client.out = std::string(client_ends ? behind_fin_bytes : whole_bytes, 'x');
            s.client.ends = client_ends;
            s.server.every = interval_of(how);
            if (how == wait::steady) s.server.bite = client_ends ? 200 : 1500;
            s.come(s.port.local());
            s.judge(s.server, how);
        });
    }
}

TEST_CASE("relay, to a unix server: the same, by whole sends") {
    for_each_wait([&](wait how) {
        relay_scene s({.idle_timeout = timeout}, unix_server());
        s.client.out = std::string(whole_bytes, 'x');
        s.server.every = interval_of(how);
        s.server.bite = how == wait::steady ? 1500 : block_bytes;
        s.come(s.port.local());
        s.judge(s.server, how);
    });
}

TEST_CASE("gateway, to the client: write_timeout counts from the last byte that the client took") {
    for_each_wait([](wait how) {
        gateway_scene s({.http = {.write_timeout = timeout}});
        s.client.out = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        s.client.every = interval_of(how);
        s.server.waits = true;
        s.server.out = "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(whole_bytes) + "\r\n\r\n" +
                       std::string(whole_bytes, 'x');
        s.come(s.gateway.local());
        s.judge(s.client, how);
    });
}

TEST_CASE("gateway, to the server: first_byte_timeout counts from the last byte of a request that the server took") {
    // Of one that the gateway still sends, and of one that the kernels hold to its end.
    for (const std::size_t bytes : {whole_bytes, behind_fin_bytes}) {
        CAPTURE(bytes);
        for_each_wait([&](wait how) {
            gateway_scene s({.http = {.first_byte_timeout = timeout}});
            s.client.out = post_of(bytes);
            s.server.every = interval_of(how);
            if (how == wait::steady) s.server.bite = 200;
            s.come(s.gateway.local());
            s.judge(s.server, how);
        });
    }
}

TEST_CASE("gateway: the time for a server's first byte begins when it has taken the request") {
    gateway_scene s({.http = {.first_byte_timeout = timeout}});
    s.client.out = post_of(behind_fin_bytes);
    s.server.every = timeout / 2;
    s.server.bite = 4096;
    s.come(s.gateway.local());
    const auto after = s.ended_after(s.server, 20 * timeout);

    REQUIRE(after.has_value());
    CHECK(s.server.heard.size() > behind_fin_bytes - buffer_bytes); // its own kernel has the rest
    CHECK(*after >= timeout);
    CHECK(*after <= timeout + send_progress::wait_between_looks(timeout) + grain);
}

TEST_CASE("tunnel, both ways: tunnel_idle_timeout counts from the last byte that the end took") {
    for (const bool to_client : {true, false}) {
        CAPTURE(to_client);
        for_each_wait([&](wait how) {
            gateway_scene s({.tunnel_idle_timeout = timeout});
            s.client.out = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            s.server.out = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            s.server.waits = true;
            actor& taker = to_client ? s.client : s.server;
            (to_client ? s.server : s.client).out += std::string(whole_bytes, 'x');
            taker.every = interval_of(how);
            s.come(s.gateway.local());
            s.judge(taker, how);
        });
    }
}
