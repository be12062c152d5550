#include "core/contract.hpp"

#include <string>

#include <doctest/doctest.h>

#include "support/dies.hpp"

namespace {

using support::dies;

TEST_CASE("a false fact ends the program, and is printed with its place") {
    int apples = 3;

    CHECK(dies([&] { EXPECT(apples == 4); }, "apples == 4"));
    CHECK(dies([&] { EXPECT(apples == 4); }, "contract_test.cc:" + std::to_string(__LINE__)));
}

TEST_CASE("a fact may come with words, which are asked for only if it is false") {
    int asked = 0;
    const auto words = [&] {
        asked++;
        return "one apple is missing";
    };

    EXPECT(asked == 0, words());

    CHECK(asked == 0);
    CHECK(dies([&] { EXPECT(asked == 1, words()); }, "asked == 1: one apple is missing"));
}

TEST_CASE("a true fact costs nothing and is evaluated once") {
    int looked = 0;

    EXPECT(++looked == 1);

    CHECK(looked == 1);
    CHECK_FALSE(dies([&] { EXPECT(looked == 1); }, ""));
}

TEST_CASE("a slow fact is checked unless NDEBUG says otherwise, and never evaluated then") {
    int looked = 0;

    EXPECT_SLOW(++looked == 1);

#ifdef NDEBUG
    CHECK(looked == 0);
    CHECK_FALSE(dies([] { EXPECT_SLOW(1 == 2); }, ""));
#else
    CHECK(looked == 1);
    CHECK(dies([] { EXPECT_SLOW(1 == 2); }, "1 == 2"));
#endif
}

TEST_CASE("a fact is an expression, so it may stand where one may") {
    const int value = (EXPECT(true), 7);

    CHECK(value == 7);
}

} // namespace
