#pragma once
// punctual: I8. Timers that nobody else knows of are set and moved about on a loop; each must fire within its tick, never
// before, and later only by what the kernel slept too long and by what a turn leaves to the next ones.

#include <array>
#include <cstdint>

#include <weir/sim.hpp>

namespace simtest {

using namespace weir;

class punctual {
  public:
    punctual(kernel& k, event_loop& loop) noexcept;
    punctual(const punctual&) = delete;
    punctual& operator=(const punctual&) = delete;
    ~punctual();

    void before_turn() noexcept;
    void after_turn() noexcept;

  private:
    struct probe {
        timer t;
        punctual* home = nullptr;
        time_point deadline{};
        std::uint32_t turns_late = 0;
    };
    static void fired(timer& t, time_point now) noexcept;
    void set(probe& p) noexcept;
    std::uint64_t oversleeps() const noexcept;

    kernel& kernel_;
    event_loop& loop_;
    dice chance_; // its own: a run goes the same way with and without
    bool is_on_ = false;
    std::array<probe, 4> probes_;
    std::uint64_t oversleeps_before_ = 0;
    time_point turn_began_{};
};

} // namespace simtest
