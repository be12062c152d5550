#pragma once
// http1_text: bytes and words of HTTP/1.x: which byte may stand where, and how a line and a list are taken apart.
//
// For the parsers; nothing here is bounded by itself, the callers say where a line ends.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL::http1_text {

// What each byte may be. Bytes from 0x80 are obs-text: in no class, and only values may hold them.
inline constexpr unsigned is_token = 1;   // tchar, RFC 9110 section 5.6.2
inline constexpr unsigned is_control = 2; // CTL but HTAB: in no line
inline constexpr unsigned is_target = 4;  // printable ASCII but SP and "#", RFC 9112 section 3.2
inline constexpr unsigned is_host = 8;    // reg-name, RFC 3986 section 3.2.2
inline constexpr unsigned is_digit = 16;
inline constexpr unsigned is_colon = 32;

constexpr unsigned class_of(unsigned byte) noexcept {
    const auto in = [byte](std::string_view set) { return set.find(static_cast<char>(byte)) != set.npos; };
    const bool digit = byte >= '0' && byte <= '9';
    const bool alnum = digit || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
    const bool control = (byte < ' ' && byte != '\t') || byte == 0x7f;
    return (alnum || in("!#$%&'*+-.^_`|~") ? is_token : 0U) | (control ? is_control : 0U) |
           (byte > ' ' && byte < 0x7f && byte != '#' ? is_target : 0U) |
           (alnum || in("-._~!$&'()*+,;=") ? is_host : 0U) | (digit ? is_digit : 0U) | (byte == ':' ? is_colon : 0U);
}

inline constexpr auto classes = [] {
    std::array<std::uint8_t, 256> table{};
    for (unsigned byte = 0; byte < 256; ++byte)
        table[byte] = static_cast<std::uint8_t>(class_of(byte));
    return table;
}();

inline bool is(unsigned what, char byte) noexcept { return (classes[static_cast<unsigned char>(byte)] & what) != 0; }
inline bool is_blank(char byte) noexcept { return byte == ' ' || byte == '\t'; }

// The first byte of a class not in `what`. The caller knows that there is one: a line's end stops all
// classes.
inline const char* skip(unsigned what, const char* at) noexcept {
    while (is(what, *at))
        ++at;
    return at;
}

inline bool all_are(unsigned what, std::string_view text) noexcept {
    return std::all_of(text.begin(), text.end(), [what](char byte) { return is(what, byte); });
}

// The first control byte in [at, end), else end. One pass finds the line's end and refuses what no line may
// hold: the first control byte of a good line is its CR.
inline const char* find_control(const char* at, const char* end) noexcept {
#ifdef __SSE2__
    const __m128i highest = _mm_set1_epi8(0x1f);
    const __m128i tab = _mm_set1_epi8('\t');
    const __m128i del = _mm_set1_epi8(0x7f);
    for (; end - at >= 16; at += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
        const __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(bytes, highest), bytes);
        const __m128i bad = _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(bytes, tab), low), _mm_cmpeq_epi8(bytes, del));
        const int found = _mm_movemask_epi8(bad);
        if (found != 0) return at + __builtin_ctz(static_cast<unsigned>(found));
    }
#endif
    while (at < end && !is(is_control, *at))
        ++at;
    return at;
}

// `word` is of lower-case letters and bytes below "@"; `at` points to as many bytes, none of them a control
// byte. Then setting bit 5 makes equal only what is equal but for case.
template <std::size_t Size>
bool same(const char* at, const char (&word)[Size]) noexcept {
    unsigned difference = 0;
    for (std::size_t i = 0; i + 1 < Size; ++i) {
        difference |= (static_cast<unsigned char>(at[i]) | 0x20U) ^ static_cast<unsigned char>(word[i]);
    }
    return difference == 0;
}

template <std::size_t Size>
bool equal(std::string_view text, const char (&word)[Size]) noexcept {
    return text.size() == Size - 1 && same(text.data(), word);
}

inline char fold(char byte) noexcept { return byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte | 0x20) : byte; }

inline std::string_view trim(const char* at, const char* end) noexcept {
    while (at < end && is_blank(*at))
        ++at;
    while (at < end && is_blank(end[-1]))
        --end;
    return {at, static_cast<std::size_t>(end - at)};
}

// uri-host [ ":" port ], RFC 9110 section 7.2: no user information.
inline bool is_authority(std::string_view text) noexcept {
    std::size_t host_size = std::min(text.find(':'), text.size());
    bool good = host_size != 0 && all_are(is_host, text.substr(0, host_size));
    if (text.starts_with('[')) {
        host_size = std::min(text.find(']'), text.size() - 1) + 1;
        good =
            text[host_size - 1] == ']' && host_size > 2 && all_are(is_host | is_colon, text.substr(1, host_size - 2));
    }
    return good &&
           (host_size == text.size() || (text[host_size] == ':' && all_are(is_digit, text.substr(host_size + 1))));
}

// Takes the first element, trimmed, off a comma-separated list. The list is used up when its data() is null.
inline std::string_view next_element(std::string_view& list) noexcept {
    const std::size_t comma = std::min(list.find(','), list.size());
    const std::string_view element = trim(list.data(), list.data() + comma);
    list = comma < list.size() ? list.substr(comma + 1) : std::string_view{};
    return element;
}

} // namespace weir::inline WEIR_KERNEL::http1_text
