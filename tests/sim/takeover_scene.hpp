#pragma once
// takeover_scene: processes that take over from each other in one simulated kernel, and the clients who come meanwhile.
//
// A process is a loop with what stands on it. Killed it is by its destructors: its loop is turned no more, and all of
// its descriptors are closed between two calls of the others. Every client is known by its address, so it is known who
// accepted it: in runs without faults that harm a client by themselves, only what a killed process held may be lost.
// Owner: a scene owns its processes and customers; its world outlives it. Thread: the harness's.

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/takeover.hpp"
#include "sim/world.hpp"

namespace simtest {

inline const endpoint door = endpoint::ipv4(0x0a000001, 8080);
inline const endpoint path = endpoint::unix_path("/run/weir.takeover").value();
inline constexpr std::uint32_t main_door = 1;
inline constexpr duration giver_patience = milliseconds{800}, taker_patience = milliseconds{900};

struct scene;

// One that connects, says a word, hears it and leaves.
struct customer {
    scene* home;
    endpoint from;
    remote* end = nullptr;
    std::size_t said = 0, heard = 0;
    bool over = false, served = false;
    int accepted_by = -1; // number of a process
    void run(remote& r) noexcept;
    void leave(remote& r, bool was_served) noexcept;
    static const remote_cb table;
};

struct process {
    process(scene& s, int n) : home(s), number(n), conns(loop), port(conns), giver(loop), taker(loop) {}
    process(const process&) = delete;
    process& operator=(const process&) = delete;
    ~process() {
        port.close(); // before the connections, which it might still accept
        while (connection* conn = conns.first())
            conn->close(close_intent::after_fin, end_cause::shutdown);
        for (buffer& b : buffers)
            if (!b.empty()) b.clear(conns.blocks());
    }

    bool open();       // the loop and what needs no socket
    void open_fresh(); // as the first of its line; faults are silent
    void turn(duration sleep_max);
    void serve(unique_fd fd);
    void give_on();
    bool is_serving() const { return port.is_open(); }

    static void accepted(void* self, connection& conn, const endpoint& peer) noexcept;
    static void on_taken(void* self) noexcept;
    static void on_failed(void* self, takeover_failure why, int error) noexcept;
    static void on_received(void* self, std::span<taken_fd> fds) noexcept;
    static void on_over(void* self, takeover_end how, int error) noexcept;
    static constexpr takeover_giver::callbacks giver_told{.taken = on_taken, .failed = on_failed};
    static constexpr takeover_taker::callbacks taker_told{.received = on_received, .over = on_over};

    scene& home;
    const int number;
    event_loop loop;
    conntab conns;
    listener port;
    takeover_giver giver;
    takeover_taker taker;
    std::optional<loop_check> check;
    std::array<buffer, 256> buffers; // by descriptor
    unique_fd takeover_socket;
    bool has_given = false;
    std::optional<takeover_end> end;
    bool gives_up = false; // it could not serve what it received
    duration needs{};      // from everything received until it is ready
    time_point ready_at = never;
    time_point stopped_until{}; // not turned before
};

struct scene {
    explicit scene(world& world_of_it) : w(world_of_it), k(world_of_it.k) {}

    process* start_one();
    void run();
    void attempt();
    void settle(process& next);
    void start_fresh();
    void kill(std::unique_ptr<process>& who);
    void let_drain(std::unique_ptr<process>& who);
    void let_go(const process& who);
    void turn_all(duration sleep_max);
    void turn_until(time_point end);
    void come();
    void send_stranger();
    void check_descriptors();
    void lost(const customer& c) noexcept;
    customer* at(const endpoint& from) noexcept;

    world& w;
    kernel& k;
    bool harms_nobody = false; // no fault harms a client by itself
    std::vector<std::unique_ptr<customer>> customers;
    std::unique_ptr<process> now, next, drains;
    std::vector<bool> is_killed; // by number
    bool queue_was_lost = false; // the last holder of the sockets died, and whoever waited in their queues with it
    time_point come_until{};
};

} // namespace simtest
