#pragma once
// flags: a scoped enum whose values are bits, and the operators it may opt in to.
//
//     enum class door : std::uint8_t { open = 1, locked = 2 };
//     template <> inline constexpr bool enable_flags<door> = true;
//
// States that exclude each other are not flags but a plain enum.

#include <type_traits>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL {

template <class Enum>
inline constexpr bool enable_flags = false;

template <class Enum>
concept flag_enum = std::is_enum_v<Enum> && enable_flags<Enum>;

template <flag_enum Enum>
constexpr Enum operator|(Enum a, Enum b) noexcept {
    using bits = std::underlying_type_t<Enum>;
    return static_cast<Enum>(static_cast<bits>(a) | static_cast<bits>(b));
}

template <flag_enum Enum>
constexpr Enum operator&(Enum a, Enum b) noexcept {
    using bits = std::underlying_type_t<Enum>;
    return static_cast<Enum>(static_cast<bits>(a) & static_cast<bits>(b));
}

template <flag_enum Enum>
constexpr Enum operator^(Enum a, Enum b) noexcept {
    using bits = std::underlying_type_t<Enum>;
    return static_cast<Enum>(static_cast<bits>(a) ^ static_cast<bits>(b));
}

template <flag_enum Enum>
constexpr Enum operator~(Enum a) noexcept {
    using bits = std::underlying_type_t<Enum>;
    return static_cast<Enum>(static_cast<bits>(~static_cast<bits>(a)));
}

template <flag_enum Enum>
constexpr Enum& operator|=(Enum& a, Enum b) noexcept {
    return a = a | b;
}

template <flag_enum Enum>
constexpr Enum& operator&=(Enum& a, Enum b) noexcept {
    return a = a & b;
}

// True when at least one of `bits` is set in `value`.
template <flag_enum Enum>
constexpr bool any(Enum value, Enum bits) noexcept {
    return (value & bits) != Enum{};
}

// True when every one of `bits` is set in `value`.
template <flag_enum Enum>
constexpr bool all(Enum value, Enum bits) noexcept {
    return (value & bits) == bits;
}

} // namespace weir::inline WEIR_KERNEL
