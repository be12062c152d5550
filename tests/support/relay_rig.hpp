#pragma once
// relay_rig: a relay between two sockets of a test's, and what goes through it.

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <sys/socket.h>

#include "core/relay.hpp"
#include "support/rig.hpp"

namespace support {

using namespace weir;

// Bytes without a pattern that a misplaced block could hide in.
inline std::string noise(std::size_t count, std::uint64_t seed) {
    std::string bytes(count, '\0');
    for (char& byte : bytes) {
        seed = seed * 6364136223846793005 + 1442695040888963407;
        byte = static_cast<char>(seed >> 56);
    }
    return bytes;
}

// A relay between two sockets of the test's: `client` and `server` are the far ends.
struct relay_rig : rig {
    explicit relay_rig(const relay_options& options = {}, const conntab_options& tab = {.connections_max = 32})
        : rig(tab), pool(conns, options) {}

    void join(support::pair first, support::pair second, std::string_view early = {}) {
        connection& a = serve(std::move(first.b), nobody);
        connection& b = serve(std::move(second.b), nobody);
        client = std::move(first.a);
        server = std::move(second.a);
        ends[0] = &a;
        ends[1] = &b;
        REQUIRE(pool.join(a, b, early).ok());
    }
    void join() { join(over_records::tcp_pair(), over_records::tcp_pair()); }

    // What `to` has received once the loop has carried it.
    std::string carried(descriptor& to, std::size_t count) {
        CHECK(until([&] { return ready(to.get(), POLLIN); }));
        return over_records::recv_exactly(to.get(), count);
    }
    bool is_over() { return pool.pair_count() == 0 && conns.live_count() == 0 && conns.blocks().used() == 0; }

    relay_pool pool;
    user nobody;
    connection* ends[2]{};
    descriptor client, server;
};

// The same over records: a record is begun when there is room, and then sent to its end.
inline bool push_records(descriptor& from, std::string_view& left) {
    while (!left.empty() && ready(from.get(), POLLOUT)) {
        const std::string_view part = left.substr(0, 255);
        char record[256] = {static_cast<char>(part.size())};
        std::copy(part.begin(), part.end(), record + 1);
        const ssize_t n = ::send(from.get(), record, part.size() + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n <= 0) return false;
        support::send_all(from.get(), {record + n, part.size() + 1 - static_cast<std::size_t>(n)});
        left.remove_prefix(part.size());
    }
    return left.empty();
}
// Sends what `from` has left as far as there is room.
inline bool push(descriptor& from, std::string_view& left) {
    if (is_over_records(from.get())) return push_records(from, left);
    while (!left.empty()) {
        const ssize_t n = ::send(from.get(), left.data(), std::min<std::size_t>(left.size(), 64 * 1024), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n <= 0) return false;
        left.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
}
// Receives what there is. True: behind it stood a reset, which recv(2) tells once.
inline bool pull(descriptor& to, std::string& got) {
    char room[64 * 1024];
    ssize_t n;
    while ((n = over_records::recv_some(to.get(), room, sizeof room)) > 0)
        got.append(room, static_cast<std::size_t>(n));
    return n < 0 && errno == ECONNRESET;
}

} // namespace support
