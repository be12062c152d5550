#include "core/flags.hpp"

#include <cstdint>

#include <doctest/doctest.h>

namespace {

enum class door : std::uint8_t { open = 1, locked = 2, painted = 4 };
enum class plain : std::uint8_t { one = 1 };
enum class topmost : std::uint32_t { low = 1, high = 0x8000'0000 };

} // namespace

template <>
inline constexpr bool weir::enable_flags<door> = true;
template <>
inline constexpr bool weir::enable_flags<topmost> = true;

namespace {

using namespace weir;

template <class Enum>
concept can_or = requires(Enum a) { a | a; };

TEST_CASE("only an enum that opted in has the operators") {
    CHECK(can_or<door>);
    CHECK_FALSE(can_or<plain>);
    CHECK(flag_enum<door>);
    CHECK_FALSE(flag_enum<plain>);
    CHECK_FALSE(flag_enum<int>);
}

TEST_CASE("any is true when one of the bits is set, all when every one is") {
    constexpr auto both = door::open | door::locked;

    CHECK(any(both, door::open));
    CHECK(any(both, door::open | door::painted));
    CHECK_FALSE(any(both, door::painted));
    CHECK(all(both, door::open));
    CHECK(all(both, both));
    CHECK_FALSE(all(both, door::open | door::painted));
}

TEST_CASE("of no bits none is set, and all are") {
    CHECK_FALSE(any(door::open, door{}));
    CHECK_FALSE(any(door{}, door::open));
    CHECK(all(door::open, door{}));
    CHECK(all(door{}, door{}));
}

TEST_CASE("bits are set, cleared and flipped without touching the others") {
    door state = door::painted;

    state |= door::open;
    CHECK(state == (door::painted | door::open));
    state &= ~door::painted;
    CHECK(state == door::open);
    state = state ^ (door::open | door::locked);
    CHECK(state == door::locked);
}

TEST_CASE("the complement stays within the underlying type") {
    CHECK(static_cast<unsigned>(~door::open) == 0xFE);
    CHECK(~~door::open == door::open);
    CHECK(~topmost::high == static_cast<topmost>(0x7FFF'FFFF));
    CHECK(any(topmost::high | topmost::low, topmost::high));
}

TEST_CASE("flags are computed at compile time") {
    static_assert(all(door::open | door::locked, door::locked));
    static_assert((door::open & door::locked) == door{});
    static_assert(noexcept(door::open | door::locked));
}

} // namespace
