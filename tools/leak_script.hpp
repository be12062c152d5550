#pragma once
// leak_script: the twelve endings, and what a client does to bring each about.
//
// There is a script of each for the proxy of leak_proxy.hpp, and of some for any HTTP server.

#include "tools/leak_proxy.hpp"

namespace weir::inline WEIR_KERNEL::tools {

enum class leak_ending : std::uint8_t {
    client_fin,
    server_fin,
    both_fin,
    client_rst,
    server_rst,
    half_close_rst,
    refused,
    black_hole,
    idle_active,
    idle_draining,
    rejected,
    killed,
    count_
};
inline constexpr std::size_t leak_endings = static_cast<std::size_t>(leak_ending::count_);
const char* to_string(leak_ending e) noexcept;
// Of all cycles, in eighths of a usual ending's: those that wait for a timeout or a process are rarer.
unsigned share_of(leak_ending e) noexcept;
// An outside client can bring it about by itself.
bool is_for_any_target(leak_ending e) noexcept;

enum class leak_act : std::uint8_t { nothing, fin, poke, rst };
enum class leak_text : std::uint8_t { none, byte, request, close_request };

struct leak_script {
    leak_door door;
    leak_text say = leak_text::none; // when connected,
    char byte = 0;
    leak_act with_hello = leak_act::nothing; // and then
    leak_act first = leak_act::nothing;      // on the first answer
    leak_act second = leak_act::nothing;     // on the next one
    bool is_answered = true;                 // an end without an answer fails the cycle; false: an answer does
};

enum class leak_side : std::uint8_t { own, target };
const leak_script& script_of(leak_ending e, leak_side side) noexcept;
// Who fills the gate.
inline constexpr leak_script leak_holder{.door = leak_door::gate};

} // namespace weir::inline WEIR_KERNEL::tools
