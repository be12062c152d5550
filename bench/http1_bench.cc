// What the parsers and writers cost per request.
//
// Expected: a bare GET parsed in < 60 ns, a browser's in < 350 ns, written anew in about half of that.

#include <benchmark/benchmark.h>

#include "proto/http1_write.hpp"

namespace {

using namespace weir;

constexpr std::string_view bare = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
constexpr std::string_view browser =
    "GET /assets/app.js?v=20240131 HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; "
    "rv:122.0) Gecko/20100101 Firefox/122.0\r\nAccept: */*\r\nAccept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
    "Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nReferer: https://www.example.org/start\r\n"
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nSec-Fetch-Dest: script\r\n"
    "If-None-Match: \"65ba1c2f-1f40\"\r\n\r\n";

void parse(benchmark::State& state, std::string_view text) {
    http1_head head;
    for (auto _ : state) {
        head.start(http1_kind::request);
        benchmark::DoNotOptimize(head.parse(text));
    }
}
BENCHMARK_CAPTURE(parse, bare, bare);
BENCHMARK_CAPTURE(parse, browser, browser);

void write(benchmark::State& state, std::string_view text) {
    http1_head head;
    head.start(http1_kind::request);
    if (head.parse(text) != http1_head::progress::done) std::abort();
    char room[4096];
    for (auto _ : state)
        benchmark::DoNotOptimize(write_request_head(room, sizeof room, head, {}, http1_persistence::unsaid));
}
BENCHMARK_CAPTURE(write, bare, bare);
BENCHMARK_CAPTURE(write, browser, browser);

} // namespace
