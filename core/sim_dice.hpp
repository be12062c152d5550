#pragma once
// sim_dice: the one source of chance in a simulated run. The same seed gives the same run, under every compiler.
//
// Draw once per statement: C++ leaves the order of arguments open, and two draws in one call would depend on it.

#include <cstdint>

#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL {

class dice {
  public:
    explicit dice(std::uint64_t seed) noexcept : state_(seed) {}

    // splitmix64: any seed will do, 0 too.
    std::uint64_t next() noexcept {
        state_ += 0x9e3779b97f4a7c15u;
        std::uint64_t z = state_;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }

    // 0 .. n-1; n > 0.
    std::uint32_t below(std::uint32_t n) noexcept { return static_cast<std::uint32_t>((next() >> 32) * n >> 32); }
    // first .. last, both included.
    std::uint32_t between(std::uint32_t first, std::uint32_t last) noexcept { return first + below(last - first + 1); }
    duration between(duration first, duration last) noexcept {
        const auto width = static_cast<std::uint64_t>((last - first).count()) + 1;
        return first + duration{static_cast<std::int64_t>(next() % width)};
    }
    // True `times` times in 10,000.
    bool chance(std::uint32_t times) noexcept { return below(10'000) < times; }
    bool coin() noexcept { return (next() >> 63) != 0; }

    // A size from first to last, small ones as likely as large ones: even on a logarithmic scale.
    std::uint32_t magnitude(std::uint32_t first, std::uint32_t last) noexcept {
        const auto octaves = static_cast<std::uint32_t>(32 - __builtin_clz(last / first));
        const std::uint64_t base = std::uint64_t{first} << below(octaves);
        const std::uint64_t value = base + below(static_cast<std::uint32_t>(base));
        return value < last ? static_cast<std::uint32_t>(value) : last;
    }

  private:
    std::uint64_t state_;
};

} // namespace weir::inline WEIR_KERNEL
