// http1_upgrade: offers, answers, and the list that allows them.

#include "proto/http1_upgrade.hpp"

#include <algorithm>

namespace weir::inline WEIR_KERNEL {

namespace {

using namespace http1_text;

bool same_protocol(std::string_view a, std::string_view b) noexcept {
    const auto same_letter = [](char x, char y) { return fold(x) == fold(y); };
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_letter);
}

bool is_protocol(std::string_view text) noexcept {
    const std::size_t slash = std::min(text.find('/'), text.size());
    const std::string_view name = text.substr(0, slash);
    if (name.empty() || !all_are(is_token, name)) return false;
    if (slash == text.size()) return true;
    const std::string_view version = text.substr(slash + 1);
    return !version.empty() && all_are(is_token, version);
}

bool is_http(std::string_view protocol) noexcept {
    const std::string_view name = protocol.substr(0, protocol.find('/'));
    return equal(name, "http") || equal(name, "h2c") || equal(name, "h2");
}

} // namespace

http1_upgrades_error check_upgrades(std::string_view allowed) noexcept {
    if (allowed.empty()) return http1_upgrades_error::none;
    std::size_t count = 0;
    do {
        const std::string_view element = next_element(allowed);
        if (!is_protocol(element)) return http1_upgrades_error::not_a_protocol;
        if (is_http(element)) return http1_upgrades_error::http;
        if (++count > http1_upgrades_max) return http1_upgrades_error::too_many;
    } while (allowed.data() != nullptr);
    return http1_upgrades_error::none;
}

http1_upgrade_set upgrade_bit(std::string_view protocol, std::string_view allowed) noexcept {
    http1_upgrade_set bit = 1;
    while (allowed.data() != nullptr && bit != 0) {
        const std::string_view element = next_element(allowed);
        if (element.empty()) continue;
        if (same_protocol(element, protocol)) return bit;
        bit = static_cast<http1_upgrade_set>(bit << 1);
    }
    return 0;
}

http1_upgrade_set upgrades_asked(const http1_head& request, std::string_view allowed) noexcept {
    http1_upgrade_set asked = 0;
    if (!request.has_upgrade()) return asked;
    for_each_upgrade(request, [&](std::string_view protocol) {
        asked = static_cast<http1_upgrade_set>(asked | upgrade_bit(protocol, allowed));
    });
    return asked;
}

bool is_switch_to(const http1_head& response, std::string_view allowed, http1_upgrade_set asked) noexcept {
    bool names_one = false, names_other = false;
    for_each_upgrade(response, [&](std::string_view protocol) {
        const bool is_asked = (upgrade_bit(protocol, allowed) & asked) != 0;
        names_one |= is_asked;
        names_other |= !is_asked;
    });
    return names_one && !names_other;
}

} // namespace weir::inline WEIR_KERNEL
