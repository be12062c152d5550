// sim_twists: names, and the draw of a run's ratios.

#include "core/sim_twists.hpp"

namespace weir::inline WEIR_KERNEL {

const char* to_string(twist kind) noexcept {
    static constexpr const char* names[] = {
        "one_event",  "one_accept",    "accept_unsure", "one_timer",  "timers_later",
        "timer_last", "splice_soon",   "slot_later",    "recv_one",   "recv_unsure",
        "send_one",   "send_buffered", "take_probes",   "stay_awake", "ring_anyway",
    };
    static_assert(sizeof names / sizeof *names == twist_plan::kinds, "every kind has a name");
    EXPECT(kind < twist::count_);
    return names[static_cast<std::size_t>(kind)];
}

void twist_plan::draw(dice& chance) noexcept {
    static constexpr std::uint32_t strengths[] = {50, 500, 2500};
    for (std::uint32_t& ratio : ratios_) {
        const bool silent = chance.coin();
        const std::uint32_t strength = strengths[chance.below(3)];
        ratio = silent ? 0 : strength;
    }
}

} // namespace weir::inline WEIR_KERNEL
