#pragma once
// sim_twists: how often each twist of the library is to happen in a run, and how often it did.
//
// As with the faults, a run draws a ratio for each: 0 with probability 1/2, else something between rare and frequent.

#include <array>
#include <cstdint>

#include "core/buggify.hpp"
#include "core/sim_dice.hpp"

namespace weir::inline WEIR_KERNEL {

class twist_plan {
  public:
    static constexpr std::size_t kinds = static_cast<std::size_t>(twist::count_);

    // Ratios for a run.
    void draw(dice& chance) noexcept;
    // One kind, `ratio` times in 10,000.
    void set(twist kind, std::uint32_t ratio) noexcept { ratios_[static_cast<std::size_t>(kind)] = ratio; }
    void heal() noexcept { ratios_ = {}; }

    bool strike(twist kind, dice& chance) noexcept {
        const auto at = static_cast<std::size_t>(kind);
        if (ratios_[at] == 0 || !chance.chance(ratios_[at])) return false;
        marks_[at]++;
        return true;
    }

    std::uint64_t marks(twist kind) const noexcept { return marks_[static_cast<std::size_t>(kind)]; }

  private:
    std::array<std::uint32_t, kinds> ratios_{};
    std::array<std::uint64_t, kinds> marks_{};
};

} // namespace weir::inline WEIR_KERNEL
