// leak_script: the tables.

#include "tools/leak_script.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

constexpr leak_script own_scripts[leak_endings] = {
    {.door = leak_door::relay, .say = leak_text::byte, .byte = 'e', .first = leak_act::fin},
    {.door = leak_door::relay, .say = leak_text::byte, .byte = 's'},
    {.door = leak_door::relay, .say = leak_text::byte, .byte = 'b', .with_hello = leak_act::fin},
    {.door = leak_door::relay, .say = leak_text::byte, .byte = 'e', .first = leak_act::rst},
    {.door = leak_door::relay, .say = leak_text::byte, .byte = 'r', .first = leak_act::poke},
    {.door = leak_door::relay, .say = leak_text::byte, .byte = 'h', .first = leak_act::fin, .second = leak_act::rst},
    {.door = leak_door::refused, .is_answered = false},
    {.door = leak_door::hole, .is_answered = false},
    {.door = leak_door::lend, .say = leak_text::byte, .byte = 'e'},
    {.door = leak_door::lend, .say = leak_text::byte, .byte = 'd'},
    {.door = leak_door::gate, .is_answered = false},
    {.door = leak_door::victim, .say = leak_text::byte, .byte = 'x'},
};
// For a target there are no doors.
constexpr leak_script target_scripts[leak_endings] = {
    {.door{}, .say = leak_text::request, .first = leak_act::fin},
    {.door{}, .say = leak_text::close_request},
    {.door{}, .say = leak_text::close_request, .with_hello = leak_act::fin},
    {.door{}, .say = leak_text::request, .first = leak_act::rst},
    {},
    {.door{}, .say = leak_text::request, .with_hello = leak_act::fin, .first = leak_act::rst},
};

constexpr const char* names[leak_endings] = {"client FIN first",
                                             "server FIN first",
                                             "both FIN at once",
                                             "client RST",
                                             "server RST",
                                             "client half-close, then RST",
                                             "connect refused",
                                             "connect black-holed, timed out",
                                             "idle reap while active",
                                             "idle reap while draining",
                                             "reject at the limit",
                                             "upstream process killed"};

} // namespace

const char* to_string(leak_ending e) noexcept { return names[static_cast<std::size_t>(e)]; }

unsigned share_of(leak_ending e) noexcept {
    if (e == leak_ending::black_hole) return 1;
    return e == leak_ending::killed ? 2 : 8;
}

bool is_for_any_target(leak_ending e) noexcept {
    return target_scripts[static_cast<std::size_t>(e)].say != leak_text::none;
}

const leak_script& script_of(leak_ending e, leak_side side) noexcept {
    return (side == leak_side::own ? own_scripts : target_scripts)[static_cast<std::size_t>(e)];
}

} // namespace weir::inline WEIR_KERNEL::tools
