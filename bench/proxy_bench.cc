// What the PROXY protocol costs a connection, once in its life.
//
// Expected: v1 of IPv4 read in < 150 ns (its bytes are looked at three times), v2 in < 30 ns, with a checksum (35
// bytes) in < 120 ns; v2 printed in < 30 ns, v1 in < 1 us: that is snprintf(), beside a connection's 60 us.

#include <array>
#include <cstdlib>

#include <benchmark/benchmark.h>

#include "proto/proxy_line.hpp"

namespace {

using namespace weir;

const endpoint client = endpoint::ipv4(0x0a010203, 4567), server = endpoint::ipv4(0xc0a80001, 443);
constexpr std::string_view v6_line = "PROXY TCP6 2001:db8:85a3::8a2e:370:7334 2001:db8::1 56324 443\r\n";
using proxy_room = std::array<char, proxy_v2_bytes_max>;

void parse_proxy(benchmark::State& state, std::string_view bytes) {
    proxy_line line;
    for (auto _ : state) {
        line.start();
        if (line.parse(bytes) != proxy_line::progress::done) std::abort();
        benchmark::DoNotOptimize(line);
    }
}

void parse_proxy_v1(benchmark::State& state) {
    std::array<char, proxy_v1_bytes_max> room;
    parse_proxy(state, write_proxy_v1(room, client, server));
}
BENCHMARK(parse_proxy_v1);

void parse_proxy_v1_ipv6(benchmark::State& state) { parse_proxy(state, v6_line); }
BENCHMARK(parse_proxy_v1_ipv6);

void parse_proxy_v2(benchmark::State& state, proxy_checksum checksum) {
    proxy_room room;
    parse_proxy(state, write_proxy_v2(room, client, server, {}, checksum));
}
BENCHMARK_CAPTURE(parse_proxy_v2, plain, proxy_checksum::none);
BENCHMARK_CAPTURE(parse_proxy_v2, crc32c, proxy_checksum::crc32c);

void write_proxy_v1_line(benchmark::State& state) {
    std::array<char, proxy_v1_bytes_max> room;
    for (auto _ : state)
        benchmark::DoNotOptimize(write_proxy_v1(room, client, server));
}
BENCHMARK(write_proxy_v1_line);

void write_proxy_v2_header(benchmark::State& state) {
    proxy_room room;
    for (auto _ : state)
        benchmark::DoNotOptimize(write_proxy_v2(room, client, server));
}
BENCHMARK(write_proxy_v2_header);

} // namespace
