#pragma once
// takeover_rig: proxies that take over from each other, each on a loop of its own, in the test's one thread.

#include <array>
#include <cstdio>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <poll.h>
#include <unistd.h>

#include "core/listener.hpp"
#include "core/tables.hpp"
#include "core/takeover.hpp"
#include "proto/unix.hpp"
#include "support/rig.hpp"

namespace support {

using namespace weir;

inline constexpr std::uint32_t main_door = 1;

// A name of this process's own; each is used once.
inline endpoint fresh_name() {
    static int used = 0;
    char name[64];
    const int length =
        std::snprintf(name, sizeof name, "@weir-takeover-test-%d-%d", static_cast<int>(getpid()), used++);
    return endpoint::unix_path({name, static_cast<std::size_t>(length)}).value();
}

// A proxy: a listener that echoes, a giver, a taker. What they are told is written down.
struct house {
    house() : door(r.conns), giver(r.loop), taker(r.loop) {}
    house(const house&) = delete;
    house& operator=(const house&) = delete;
    ~house() {
        taken_over.clear();
        door.close();
    }

    static void accepted(void* self, connection& conn, const endpoint&) noexcept {
        house& h = *static_cast<house*>(self);
        conn.attach(echo_cb, &h.buffers[h.served++ % h.buffers.size()]);
        conn.want_recv();
    }
    static void on_taken(void* self) noexcept { static_cast<house*>(self)->given++; }
    static void on_failed(void* self, takeover_failure why, int error) noexcept {
        house& h = *static_cast<house*>(self);
        h.failures.push_back(why);
        h.error = error;
    }
    static void on_received(void* self, std::span<taken_fd> fds) noexcept {
        house& h = *static_cast<house*>(self);
        h.received = true;
        for (taken_fd& t : fds)
            h.taken_over.push_back(std::move(t));
    }
    static void on_over(void* self, takeover_end end, int error) noexcept {
        house& h = *static_cast<house*>(self);
        h.end = end;
        h.error = error;
    }
    static constexpr takeover_giver::callbacks giver_told{.taken = on_taken, .failed = on_failed};
    static constexpr takeover_taker::callbacks taker_told{.received = on_received, .over = on_over};

    // As the first of its line.
    void open(const endpoint& at, const giver_options& options = {}) {
        REQUIRE(door.open(tcp, any_port, {}, accepted, this).ok());
        give_at(at, options);
    }
    void give_at(const endpoint& at, const giver_options& options = {}) {
        REQUIRE(giver.open(unix_stream, at, options, giver_told, this).ok());
        REQUIRE(giver.offer({main_door, 0}, door).ok());
    }
    result<void> take(const endpoint& at, const taker_options& options = {}) {
        return taker.open(unix_stream, at, options, taker_told, this);
    }
    // Serves what it has received, and offers it in its turn.
    void settle_in() {
        REQUIRE(taken_over.size() == 2);
        REQUIRE(door.adopt(std::move(taken_over[1].fd), tcp, {}, accepted, this).ok());
    }
    void give_on() {
        REQUIRE(giver.adopt(std::move(taken_over[0].fd), {}, giver_told, this).ok());
        REQUIRE(giver.offer({main_door, 0}, door).ok());
    }

    rig r;
    listener door;
    takeover_giver giver;
    takeover_taker taker;
    std::array<buffer, 64> buffers;
    std::size_t served = 0;
    int given = 0, error = 0;
    std::vector<takeover_failure> failures;
    std::vector<taken_fd> taken_over;
    bool received = false;
    std::optional<takeover_end> end;
};

template <class Condition>
bool both_until(house& a, house& b, Condition holds) {
    for (int i = 0; i < patience.count(); i++) {
        a.r.turn();
        b.r.turn();
        if (holds()) return true;
        poll(nullptr, 0, i < 20 ? 0 : 1);
    }
    return false;
}

inline bool echoes(house& h, int client) {
    send_all(client, "hello");
    if (!h.r.until([&] { return ready(client, POLLIN); })) return false;
    return recv_exactly(client, 5) == "hello";
}

} // namespace support
