#include "core/spin.hpp"

#include <doctest/doctest.h>

namespace {

using namespace weir;
using namespace std::chrono_literals;

constexpr std::uint32_t per_try = spin_limit::sleeps_per_try;

// Sleeps until it is told to spin first; how many it took.
std::uint32_t sleeps_until_try(spin_limit& limit) {
    for (std::uint32_t n = 1; n <= 1000; n++)
        if (limit.ahead() > 0ns) return n;
    return 0;
}

TEST_CASE("without a maximum it never spins") {
    spin_limit none;

    CHECK(sleeps_until_try(none) == 0);
}

TEST_CASE("it begins with the maximum, and spins in vain bring it down to none at the cost of two maxima") {
    spin_limit limit{50us};
    duration burnt{};
    std::uint32_t spins = 0;

    for (duration d; (d = limit.ahead()) > 0ns && spins < 100; spins++) {
        burnt += d;
        limit.in_vain();
    }

    CHECK(spins == 6);
    CHECK(burnt > 50us);
    CHECK(burnt <= 100us);
    CHECK(limit.present() == 0ns);
}

TEST_CASE("what was found doubles it, up to the maximum") {
    spin_limit limit{50us};
    limit.in_vain();
    limit.in_vain();
    const duration low = limit.present();
    limit.found();
    const duration once = limit.present();
    for (int i = 0; i < 5; i++)
        limit.found();

    CHECK(once == 2 * low);
    CHECK(limit.present() == 50us);
}

TEST_CASE("from none it tries the maximum at every 16th sleep, and a try that finds brings it back at once") {
    spin_limit limit{50us};
    while (limit.present() > 0ns)
        limit.in_vain();

    const auto first = sleeps_until_try(limit);
    limit.in_vain();
    const bool stayed_off = limit.present() == 0ns;
    const auto second = sleeps_until_try(limit);
    limit.found();

    CHECK(first == per_try);
    CHECK(stayed_off);
    CHECK(second == per_try);
    CHECK(limit.ahead() == 50us);
}

TEST_CASE("a maximum below the least is spun once, and then tried") {
    spin_limit limit{500ns};
    const duration first = limit.ahead();
    limit.in_vain();

    CHECK(first == 500ns);
    CHECK(sleeps_until_try(limit) == per_try);
}

} // namespace
