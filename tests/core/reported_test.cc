#include "core/reported.hpp"

#include <doctest/doctest.h>

namespace {

using namespace weir;
using namespace std::chrono_literals;

constexpr time_point at(int s) { return time_point{} + std::chrono::seconds{s}; }

TEST_CASE("a batch with room to spare proves everything up to the reading before it") {
    reported r{at(1)};

    r.all(at(5));

    CHECK(r.until() == at(5));
    CHECK_FALSE(r.in_round());
}

TEST_CASE("full batches prove nothing until each watched descriptor could have been reported") {
    reported r{at(1)};

    for (int report = 1; report <= 9; report++) {
        r.some(at(10 + report), 1, 10);
        CHECK(r.until() == at(1));
        CHECK(r.in_round());
    }
    r.some(at(20), 1, 10);

    CHECK(r.until() == at(11)); // the reading before the first of them, not before the last
    CHECK_FALSE(r.in_round());
}

TEST_CASE("a round is as long as it was when it began, whoever comes meanwhile") {
    reported r{at(1)};

    r.some(at(10), 4, 10);
    r.some(at(11), 4, 1'000'000);
    r.some(at(12), 4, 1'000'000);

    CHECK(r.until() == at(10));
}

TEST_CASE("a batch with room to spare ends a round at once") {
    reported r{at(1)};

    r.some(at(10), 4, 1000);
    r.all(at(12));

    CHECK(r.until() == at(12));
    CHECK_FALSE(r.in_round());
}

TEST_CASE("after a round another begins, and it proves the reading before its own first batch") {
    reported r{at(1)};

    r.some(at(10), 4, 4);
    CHECK(r.until() == at(10));
    r.some(at(20), 2, 4);
    CHECK(r.until() == at(10));
    r.some(at(30), 2, 4);

    CHECK(r.until() == at(20));
}

TEST_CASE("a round of nothing but stale reports ends, too") {
    reported r{at(1)};

    for (int batch = 0; batch < 3; batch++)
        r.some(at(10), 0, 3);

    CHECK(r.until() == at(10));
}

TEST_CASE("a full batch of a loop that watches nothing is a round by itself") {
    reported r{at(1)};

    r.some(at(10), 0, 0);

    CHECK(r.until() == at(10));
}

} // namespace
