// failures_takeover: listeners that change hands, between a giver and a taker on one loop.

#include "core/takeover.hpp"

#include "proto/unix.hpp"
#include "sim/failures_door.hpp"

namespace failures {

namespace {

const endpoint socket_at = endpoint::unix_path("/run/weir.takeover").value();

// What one process holds.
struct household {
    explicit household(stage& s) : home(s), front(s, greeter), giver(*s.loop), taker(*s.loop) {}

    static void taken(void* self) noexcept {
        household& h = *static_cast<household*>(self);
        h.has_given = true;
        h.front.port.close();
    }
    static void failed(void* self, takeover_failure, int) noexcept { static_cast<household*>(self)->failures++; }
    static void received(void* self, std::span<taken_fd> fds) noexcept {
        household& h = *static_cast<household*>(self);
        h.takeover_socket = std::move(fds[0].fd);
        door& d = h.front;
        if (!d.port.adopt(std::move(fds[1].fd), tcp, d.options, door::accepted, &d)) return h.taker.close();
        h.taker.ready();
    }
    static void over(void* self, takeover_end how, int) noexcept { static_cast<household*>(self)->end = how; }

    void open() {
        front.open();
        home.start([&] {
            return giver.open(unix_stream, socket_at, {.timeout = seconds{1}}, {.taken = taken, .failed = failed}, this)
                .ok();
        });
        home.require(giver.offer({1, 0}, front.port).ok(), "a listener cannot be offered");
    }
    bool take() {
        end.reset();
        takeover_socket.reset();
        front.port.close();
        taker.close();
        return taker.open(unix_stream, socket_at, {.timeout = seconds{1}}, {.received = received, .over = over}, this)
            .ok();
    }
    // Until it has ended for the taker, or longer than both have patience. One that cannot hear the answer serves on.
    bool takes() {
        if (!take()) return false;
        for (int i = 0; i < 100 && taker.is_open(); i++)
            home.turns(milliseconds{30});
        home.turns(milliseconds{30});
        const bool serves = taker.is_open() || end == takeover_end::taken || end == takeover_end::taken_alone;
        return serves && front.port.is_open();
    }

    stage& home;
    door front;
    takeover_giver giver;
    takeover_taker taker;
    unique_fd takeover_socket;
    bool has_given = false;
    int failures = 0;
    std::optional<takeover_end> end;
};

// Whatever fails: as long as the new one does not serve, the old one does, and the next attempt works.
void takes_over(stage& s) {
    s.open_conns();
    household old_one{s}, new_one{s};
    old_one.open();
    s.come(door_at, greet);
    s.settle();
    s.start([&] {
        const bool did = new_one.takes();
        const bool old_serves = !old_one.has_given && old_one.front.port.is_open();
        s.require(did || old_serves, "nobody serves");
        return did;
    });
    s.require(s.harmed() || (old_one.has_given && new_one.end == takeover_end::taken), "both serve");
    s.come(door_at, greet);
    s.settle();
    if (old_one.giver.is_open()) old_one.giver.close();
    old_one.front.port.close();
    s.start([&] {
        if (!new_one.takeover_socket) // it was lost with an attempt to adopt it
            return new_one.giver
                .open(unix_stream, socket_at, {}, {.taken = household::taken, .failed = household::failed}, &new_one)
                .ok();
        return new_one.giver
            .adopt(std::move(new_one.takeover_socket), {}, {.taken = household::taken, .failed = household::failed},
                   &new_one)
            .ok();
    });
    s.recover(door_at, greet);
}

// A taker that does not come to be ready, and one that finds nobody.
void is_not_ready(stage& s) {
    s.open_conns();
    household old_one{s};
    old_one.open();
    takeover_taker late{*s.loop};
    std::optional<takeover_end> end;
    const takeover_taker::callbacks told{
        .received = [](void*, std::span<taken_fd>) noexcept {},
        .over = [](void* to, takeover_end how, int) noexcept { *static_cast<std::optional<takeover_end>*>(to) = how; }};
    s.start([&] { return late.open(unix_stream, socket_at, {.timeout = seconds{1}}, told, &end).ok(); });
    s.turns(seconds{3});
    s.require(s.harmed() || (!late.is_open() && end.has_value()), "a taker that is late was not told");
    s.require(s.harmed() || (end == takeover_end::refused && old_one.failures == 1), "it was told something else");
    s.require(!old_one.has_given && old_one.giver.is_open(), "the old one has given up");
    s.come(door_at, greet);
    s.settle();
    s.recover(door_at, greet);
}

} // namespace

const std::vector<scenario> takeover_scenarios{
    {"takes-over", takes_over, {.suffer_max = 2}},
    {"takes-over-in-small-pieces", takes_over, {.buffer_bytes = 8, .suffer_max = 2}},
    {"is-not-ready", is_not_ready},
};

} // namespace failures
