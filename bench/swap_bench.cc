// What it costs to change what a connection does.
//
// Expected: attach() is two stores, < 3 ns for there and back. park() and take() also keep the pool's books (two lists,
// a timer, counters): < 60 ns for both. Neither makes a system call.

#include <benchmark/benchmark.h>

#include "core/idle.hpp"
#include "proto/tcp.hpp"

namespace {

using namespace weir;

const data_cb busy_cb{.name = "busy", .recv = keep_on, .send = keep_on, .wake = keep_on};
const data_cb other_cb{.name = "other", .recv = keep_on, .send = keep_on, .wake = keep_on};

struct rig {
    rig() {
        if (!loop.open() || !conns.open({.connections_max = 16})) std::abort();
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0) std::abort();
        peer.reset(ends[1]);
        conn = conns.adopt(unique_fd{ends[0]}, tcp).value();
        conn->attach(busy_cb, this);
        conn->want_recv();
    }

    event_loop loop;
    conntab conns{loop};
    unique_fd peer;
    connection* conn = nullptr;
};

void attach_there_and_back(benchmark::State& state) {
    rig r;
    for (auto _ : state) {
        r.conn->attach(other_cb, &r);
        benchmark::ClobberMemory();
        r.conn->attach(busy_cb, &r);
        benchmark::ClobberMemory();
    }
}
BENCHMARK(attach_there_and_back);

void park_and_take(benchmark::State& state) {
    rig r;
    idle_pool pool{r.conns, {}};
    const idle_pool::key key = pool.key_of({.remote = endpoint::ipv4(0x7f000001, 80), .family = &tcp});
    for (auto _ : state) {
        pool.park(*r.conn, key, {.messages_complete = true, .buffers_empty = true});
        benchmark::DoNotOptimize(pool.take(key, busy_cb, &r));
    }
    r.conn->close(close_intent::silent, end_cause::done);
}
BENCHMARK(park_and_take);

} // namespace
