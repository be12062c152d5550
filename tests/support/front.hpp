#pragma once
// front: a listener of a rig, and what it accepted.

#include <functional>
#include <vector>

#include "core/listener.hpp"
#include "support/rig.hpp"

namespace support {

using namespace weir;

struct front {
    explicit front(rig& r) : door(r.conns) {}

    static void accepted(void* self, connection& conn, const endpoint& peer) noexcept {
        auto& me = *static_cast<front*>(self);
        conn.attach(user::table, &me.who);
        me.conns.push_back(&conn);
        me.peers.push_back(peer);
        if (me.then) me.then(conn);
    }
    void open(const listener_options& options = {}) { REQUIRE(door.open(tcp, any_port, options, accepted, this).ok()); }
    void call(int count) { // so many clients connect
        for (int i = 0; i < count; i++)
            clients.push_back(connect_tcp(door.local().port()));
    }

    user who;
    listener door;
    std::vector<connection*> conns;
    std::vector<endpoint> peers;
    std::vector<descriptor> clients;
    std::function<void(connection&)> then;
};

} // namespace support
