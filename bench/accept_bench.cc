// What it costs to learn that nobody is left to accept.
//
// Expected: a system call each, 0.3 us. So it is for the look; accept() makes a socket and a file before it looks, and
// takes them back.

#include <cstdlib>

#include <benchmark/benchmark.h>

#include "proto/tcp.hpp"

namespace {

using namespace weir;

unique_fd make_listener() {
    auto fd = tcp.listen(endpoint::ipv4(0x7f000001, 0), {});
    if (!fd) std::abort();
    return std::move(fd).value();
}

void accept_nobody(benchmark::State& state) {
    const unique_fd door = make_listener();
    for (auto _ : state)
        if (sys::accept(door.get(), nullptr, nullptr) != -EAGAIN) std::abort();
}
BENCHMARK(accept_nobody);

void accept_nobody_look(benchmark::State& state) {
    const unique_fd door = make_listener();
    for (auto _ : state)
        if (sys::is_readable(door.get())) std::abort();
}
BENCHMARK(accept_nobody_look);

} // namespace
