#pragma once
// idle_rig: a pool of idle connections, those that were parked in it, and the far ends of them all.

#include <functional>
#include <vector>

#include "core/idle.hpp"
#include "support/rig.hpp"

namespace support {

using namespace weir;

inline constexpr idle_pool::at_rest rest{.messages_complete = true, .buffers_empty = true};

inline idle_identity server(std::uint16_t port = 80) {
    return {.remote = endpoint::ipv4(0x7f000001, port), .family = &tcp};
}

// A stream that wants to hear of its parked connection.
struct listening_owner : idle_owner {
    listening_owner() {
        lost = [](idle_owner& self, const connection& conn, end_cause why) noexcept {
            auto& me = static_cast<listening_owner&>(self);
            me.told_count++;
            me.cause = why;
            CHECK(conn.cause() == why);
            if (me.then) me.then();
        };
    }

    int told_count = 0;
    end_cause cause = end_cause::none;
    std::function<void()> then;
};

struct idle_rig : rig {
    explicit idle_rig(const idle_options& options = {}, const conntab_options& tab = {.connections_max = 32})
        : rig(tab), pool(conns, options), key(pool.key_of(server())) {}

    // A connection that was used once and is parked. Its server's end is `peers.back()`.
    connection& parked(const idle_pool::park_options& how = {}) { return parked(key, how); }
    connection& parked(idle_pool::key k, const idle_pool::park_options& how = {}, const ctrl& family = tcp,
                       const xprt& transport = raw_xprt) {
        pair ends = &family == &tcp ? over_records::tcp_pair() : over_records::stream_pair();
        connection& conn = serve(std::move(ends.b), nobody, family, transport);
        peers.push_back(std::move(ends.a));
        REQUIRE(pool.park(conn, k, rest, how) == verdict::keep);
        return conn;
    }
    connection* take(user& who) { return pool.take(key, user::table, &who); }
    descriptor& peer() { return peers.back(); }

    idle_pool pool;
    idle_pool::key key;
    user nobody; // must never be called
    std::vector<descriptor> peers;
};

// The families and transports that count.
inline int drains = 0;
inline ctrl counting_family() {
    ctrl family = tcp;
    family.drain = [](int fd, std::size_t bytes_max) noexcept {
        drains++;
        return tcp.drain(fd, bytes_max);
    };
    return family;
}
inline const ctrl drainless_tcp = [] {
    ctrl family = tcp;
    family.drain = nullptr;
    return family;
}();

} // namespace support
