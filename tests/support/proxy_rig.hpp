#pragma once
// proxy_rig: what the rigs of both proxies have: servers that listen or do not, and ends that are waited for.

#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/peer.hpp"
#include "support/rig.hpp"

namespace support {

enum class origin_state : std::uint8_t {
    listening,
    refusing,
    swallowing, // its backlog is full: whoever connects waits for ever
};

struct proxy_rig : rig {
    using rig::rig;

    // Another server of that kind; its port.
    std::uint16_t add_origin(origin_state state) {
        origins.push_back(listen_tcp(blocking::no, state == origin_state::swallowing ? 0 : 128));
        const std::uint16_t port = origins.back().port;
        if (state == origin_state::refusing) origins.back().fd.close();
        if (state == origin_state::swallowing) fillers.push_back(connect_tcp(port));
        return port;
    }

    void expect_end(peer& p, ending how) {
        (void)until([&] { return p.ended(); });
        CHECK(shown(p.got) == "");
        CHECK(p.end == how);
    }

    std::vector<tcp_listener> origins;
    std::vector<descriptor> fillers;
    std::vector<std::string> troubles;
};

} // namespace support
