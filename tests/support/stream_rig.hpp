#pragma once
// stream_rig: a stream_proxy on a loop whose clock stands still; its clients and its servers are sockets of the test's.

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include <poll.h>

#include "proto/stream_proxy.hpp"
#include "support/peer.hpp"
#include "support/proxy_rig.hpp"

namespace support {

struct stream_rig : proxy_rig {
    explicit stream_rig(const stream_proxy_options& options = {},
                        std::vector<origin_state> states = {origin_state::listening})
        : proxy_rig({.connections_max = 64}), proxy(std::make_unique<stream_proxy>(conns, options)) {
        for (const origin_state state : states)
            proxy->add_upstream({.family = &tcp, .at = endpoint::ipv4(0x7f000001, add_origin(state))});
        REQUIRE(proxy->listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
        proxy->on_trouble(
            [](void* at, std::string_view line) noexcept { static_cast<stream_rig*>(at)->troubles.emplace_back(line); },
            this);
    }
    ~stream_rig() {
        proxy.reset();
        CHECK(conns.blocks().used() == 0);
        CHECK(conns.live_count() == 0);
        CHECK(sums_hold());
    }

    // The proxy has accepted it.
    peer client() {
        const std::uint64_t before = proxy->counters().clients_total;
        peer p{connect_tcp(proxy->port().local().port())};
        REQUIRE(until([&] { return proxy->counters().clients_total > before; }));
        return p;
    }
    // The proxy's connection to that origin.
    peer server(std::size_t origin = 0) {
        REQUIRE(until([&] { return ready(origins[origin].fd.get(), POLLIN); }));
        peer p{accept_tcp(origins[origin])};
        turn();
        return p;
    }
    void expect(peer& p, std::string_view bytes) {
        (void)until([&] { return p.pull().got.size() >= bytes.size() || p.end != ending::none; });
        turn(3);
        p.pull();
        CHECK(shown(p.got) == shown(bytes));
        p.got.clear();
    }

    std::unique_ptr<stream_proxy> proxy;
};

} // namespace support
