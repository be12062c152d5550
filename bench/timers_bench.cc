// What a timer costs, with 10,000 others armed.
//
// Expected: start and cancel < 12 ns for both, restart to a later deadline (one store) < 2 ns, start and expire < 50
// ns.

#include <benchmark/benchmark.h>

#include <memory>

#include "core/timers.hpp"

namespace {

using namespace weir;

constexpr std::size_t others_count = 10'000;

struct rig {
    rig() {
        for (std::size_t i = 0; i < others_count; i++) {
            others[i].fire = [](timer&, time_point) noexcept {};
            wheel.arm(others[i], now + milliseconds{60'000 + i * 7});
        }
        one.fire = [](timer&, time_point) noexcept {};
    }
    ~rig() {
        one.cancel();
        for (std::size_t i = 0; i < others_count; i++)
            others[i].cancel();
    }

    time_point now{};
    timers wheel{now};
    timer one;
    std::unique_ptr<timer[]> others = std::make_unique<timer[]>(others_count);
};

void start_and_cancel(benchmark::State& state) {
    rig r;
    for (auto _ : state) {
        r.wheel.arm(r.one, r.now + seconds{30});
        benchmark::ClobberMemory();
        r.one.cancel();
    }
}
BENCHMARK(start_and_cancel);

void restart_later(benchmark::State& state) {
    rig r;
    duration wait = seconds{30};
    for (auto _ : state) {
        r.wheel.arm(r.one, r.now + wait);
        wait += duration{10};
        benchmark::ClobberMemory();
    }
}
BENCHMARK(restart_later);

void start_and_expire(benchmark::State& state) {
    rig r;
    for (auto _ : state) {
        r.wheel.arm(r.one, r.now + milliseconds{1});
        r.now += milliseconds{1};
        benchmark::DoNotOptimize(r.wheel.run(r.now, 1));
    }
}
BENCHMARK(start_and_expire)->Iterations(10'000'000 / 1000); // before the others expire

} // namespace
