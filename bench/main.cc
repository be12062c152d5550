// Every benchmark in one program: weir-bench --benchmark_filter=park

#include <benchmark/benchmark.h>

BENCHMARK_MAIN();
