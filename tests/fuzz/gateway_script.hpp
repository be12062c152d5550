#pragma once
// gateway_script: an input as a play: what clients and servers say, in which pieces, and how they end.
//
// Bytes are said as they are. "@" and a letter directs:
//
//     @0 .. @3   what follows is client 0..3's, behind what it had before
//     @s         what follows answers one request: the next one that reaches a server, whichever server that is
//     @e         the same, but the answer begins when the request's head is there
//     @|         a piece ends here; the next one is sent 1 ms later      @@   an "@"
//     @p @P      nothing for 50 ms, for 5 s
//     @f @r @c   FIN; RST; close
//     @d @h      reads no more (deaf); reads again
//     @!         from the beginning on the network and the kernel have faults
//     @=x        the circumstances (buffers, delays, limits) are those of the seed x, a byte

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/time.hpp"

namespace fuzz {

struct step {
    enum class what : std::uint8_t { say, wait, fin, reset, close, deaf, hear };
    what is = what::say;
    std::string text{};
    weir::duration wait{};
};
using part = std::vector<step>;

struct answer {
    part steps{};
    bool is_early = false;
};

struct script {
    part clients[4];
    std::vector<answer> answers;
    std::uint64_t seed = 1;
    bool has_faults = false;
};

inline constexpr std::size_t answers_max = 16, steps_max = 200;

inline void say_byte(part& to, char byte) {
    if (to.empty() || to.back().is != step::what::say) to.push_back({});
    to.back().text.push_back(byte);
}

inline bool direct(part& to, char letter) {
    using enum step::what;
    switch (letter) {
    case '|': to.push_back({wait, {}, weir::milliseconds{1}}); return true;
    case 'p': to.push_back({wait, {}, weir::milliseconds{50}}); return true;
    case 'P': to.push_back({wait, {}, weir::seconds{5}}); return true;
    case 'f': to.push_back({fin}); return true;
    case 'r': to.push_back({reset}); return true;
    case 'c': to.push_back({close}); return true;
    case 'd': to.push_back({deaf}); return true;
    case 'h': to.push_back({hear}); return true;
    case '@': say_byte(to, letter); return true;
    default: return false;
    }
}

inline script parse_script(std::string_view text) {
    script play;
    part* now = &play.clients[0];
    std::size_t directions = 0;
    for (std::size_t at = 0; at < text.size(); at++) {
        if (text[at] != '@' || at + 1 == text.size()) {
            say_byte(*now, text[at]);
            continue;
        }
        const char letter = text[++at];
        if (++directions > steps_max) break;
        if (letter >= '0' && letter <= '3') {
            now = &play.clients[letter - '0'];
        } else if (letter == 's' || letter == 'e') {
            if (play.answers.size() == answers_max) break;
            play.answers.push_back({.is_early = letter == 'e'});
            now = &play.answers.back().steps;
        } else if (letter == '!') {
            play.has_faults = true;
        } else if (letter == '=' && at + 1 < text.size()) {
            play.seed = static_cast<unsigned char>(text[++at]);
        } else if (!direct(*now, letter)) {
            say_byte(*now, letter);
        }
    }
    return play;
}

} // namespace fuzz
