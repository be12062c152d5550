#include "core/histogram.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "support/counting.hpp"
#include "support/dies.hpp"

namespace {

using namespace weir;
using support::dies;

constexpr auto largest = std::numeric_limits<std::uint64_t>::max();

std::unique_ptr<histogram> histogram_of(const std::vector<std::uint64_t>& values) {
    auto seen = std::make_unique<histogram>();
    for (std::uint64_t value : values)
        seen->record(value);
    return seen;
}

TEST_CASE("an empty histogram answers zero") {
    const histogram none;

    CHECK(none.count() == 0);
    CHECK(none.max() == 0);
    CHECK(none.quantile(0) == 0);
    CHECK(none.quantile(0.5) == 0);
    CHECK(none.quantile(1) == 0);
}

TEST_CASE("values below 64 are exact") {
    for (std::uint64_t value = 0; value < 64; value++) {
        const auto seen = histogram_of({value, 1000});
        CHECK(seen->quantile(0.5) == value);
    }
}

TEST_CASE("the value at every power of two and on both sides of it is at most 1/32 too high") {
    for (unsigned bit = 0; bit < 64; bit++)
        for (std::uint64_t off : {largest, std::uint64_t{0}, std::uint64_t{1}}) { // -1, 0, +1
            const std::uint64_t value = (std::uint64_t{1} << bit) + off;
            const auto seen = histogram_of({value, largest});

            const std::uint64_t median = seen->quantile(0.5);

            CAPTURE(value);
            CHECK(median >= value);
            CHECK(median - value <= value / 32);
        }
}

TEST_CASE("no quantile exceeds the maximum") {
    const auto seen = histogram_of({1'000'003});

    CHECK(seen->quantile(0) == 1'000'003);
    CHECK(seen->quantile(0.5) == 1'000'003);
    CHECK(seen->quantile(1) == 1'000'003);
}

TEST_CASE("the largest value has a bucket") {
    const auto seen = histogram_of({0, largest});

    CHECK(seen->quantile(0) == 0);
    CHECK(seen->quantile(1) == largest);
    CHECK(seen->max() == largest);
}

TEST_CASE("a quantile is the first value that at least this fraction does not exceed") {
    const auto seen = histogram_of({1, 2, 3, 4, 5, 6, 7, 8, 9, 10});

    CHECK(seen->quantile(0) == 1);
    CHECK(seen->quantile(0.05) == 1);
    CHECK(seen->quantile(0.11) == 2);
    CHECK(seen->quantile(0.5) == 5);
    CHECK(seen->quantile(0.51) == 6);
    CHECK(seen->quantile(0.91) == 10);
    CHECK(seen->quantile(1) == 10);
}

TEST_CASE("a value seen once in a thousand shows in the last quantile only") {
    std::vector<std::uint64_t> values(999, 10);
    values.push_back(5000);
    const auto seen = histogram_of(values);

    CHECK(seen->quantile(0.99) == 10);
    CHECK(seen->quantile(0.9991) == 5000);
    CHECK(seen->max() == 5000);
}

TEST_CASE("quantiles of random values agree with sorting them") {
    constexpr std::uint64_t seed = 20131209;
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    std::vector<std::uint64_t> values(10'000);
    for (std::uint64_t& value : values)
        value = random() >> (random() % 64);
    const auto seen = histogram_of(values);
    std::sort(values.begin(), values.end());

    for (double fraction : {0.001, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0}) {
        const double rank = std::ceil(fraction * static_cast<double>(values.size()));
        const std::uint64_t exact = values[static_cast<std::size_t>(rank) - 1];

        CAPTURE(fraction);
        CHECK(seen->quantile(fraction) >= exact);
        CHECK(seen->quantile(fraction) - exact <= exact / 32);
    }
}

TEST_CASE("adding one histogram to another is as if it had seen the values") {
    const auto all = histogram_of({1, 100, 10'000, 1'000'000});
    auto sum = histogram_of({1, 10'000});

    sum->add(*histogram_of({100, 1'000'000}));

    CHECK(sum->count() == 4);
    CHECK(sum->max() == 1'000'000);
    for (double fraction : {0.0, 0.25, 0.5, 0.75, 1.0})
        CHECK(sum->quantile(fraction) == all->quantile(fraction));
}

TEST_CASE("adding a smaller maximum keeps the larger one") {
    auto sum = histogram_of({1000});

    sum->add(*histogram_of({5}));

    CHECK(sum->max() == 1000);
}

TEST_CASE("a histogram never allocates") {
    const auto before = support::allocation_count();
    histogram seen;
    histogram more;
    for (std::uint64_t i = 0; i < 1000; i++)
        seen.record(i * i);
    more.add(seen);
    const auto median = more.quantile(0.5);
    const auto after = support::allocation_count();

    CHECK(after == before);
    CHECK(median >= 500 * 499);
}

TEST_CASE("a fraction outside of 0 to 1 is a broken contract") {
    const auto seen = histogram_of({1});

    CHECK(dies([&] { (void)seen->quantile(-0.1); }, "fraction >= 0"));
    CHECK(dies([&] { (void)seen->quantile(1.1); }, "fraction <= 1"));
    CHECK(dies([&] { (void)seen->quantile(std::nan("")); }, "fraction"));
}

} // namespace
