// socket_file: parsing, and looking up users and groups.

#include "tools/socket_file.hpp"

#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>

namespace weir::inline WEIR_KERNEL::tools {

namespace {

// All of `text` is a number in that base, at most `most`. -1: it is not.
std::int64_t number_in(std::string_view text, int base, std::uint32_t most) noexcept {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.begin(), text.end(), value, base);
    return error == std::errc{} && end == text.end() && value <= most ? std::int64_t{value} : -1;
}

// By name, or by number. The largest number stands for "leave it", chown(2).
std::int64_t user_of(const char* name) noexcept {
    const passwd* known = ::getpwnam(name);
    return known ? std::int64_t{known->pw_uid} : number_in(name, 10, UINT32_MAX - 1);
}

std::int64_t group_of(const char* name) noexcept {
    const group* known = ::getgrnam(name);
    return known ? std::int64_t{known->gr_gid} : number_in(name, 10, UINT32_MAX - 1);
}

} // namespace

bool parse_socket_file(std::string_view parts, socket_file& to, std::span<char> problem) noexcept {
    do {
        const std::string_view part = parts.substr(0, parts.find(','));
        parts.remove_prefix(std::min(parts.size(), part.size() + 1));
        const std::string_view name = part.substr(0, part.find('='));
        char value[64];
        const std::size_t value_bytes = part.copy(value, sizeof value - 1, std::min(part.size(), name.size() + 1));
        value[value_bytes] = '\0';
        const char* wrong = nullptr;
        if (name == "mode") {
            const std::int64_t mode = number_in(value, 8, 0777);
            if (mode < 0) wrong = "is no mode; right would be 660";
            to.mode = static_cast<std::int32_t>(mode);
        } else if (name == "user") {
            to.user = user_of(value);
            if (to.user < 0) wrong = "is no user";
        } else if (name == "group") {
            to.group = group_of(value);
            if (to.group < 0) wrong = "is no group";
        } else {
            wrong = "is none of mode=660, user=NAME, group=NAME";
            value[part.copy(value, sizeof value - 1)] = '\0';
        }
        if (!wrong) continue;
        std::snprintf(problem.data(), problem.size(), "\"%s\" %s", value, wrong);
        return false;
    } while (!parts.empty());
    return true;
}

} // namespace weir::inline WEIR_KERNEL::tools
