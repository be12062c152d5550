// http1_upgrade: offers, answers, and the list that allows them.

#include "proto/http1_upgrade.hpp"

#include <algorithm>

#include "proto/http1_text.hpp"
#include "proto/http1_write.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

using namespace http1_text;

bool same_protocol(std::string_view a, std::string_view b) noexcept {
    const auto same_letter = [](char x, char y) { return fold(x) == fold(y); };
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_letter);
}

// The bit of the first element that is equal to `protocol`. 0: there is none.
http1_upgrade_set bit_of(std::string_view protocol, std::string_view allowed) noexcept {
    http1_upgrade_set bit = 1;
    while (allowed.data() != nullptr && bit != 0) {
        const std::string_view element = next_element(allowed);
        if (element.empty()) continue;
        if (same_protocol(element, protocol)) return bit;
        bit = static_cast<http1_upgrade_set>(bit << 1);
    }
    return 0;
}

// Calls `take(protocol)` for each element of all Upgrade fields.
template <class Take>
void for_each_protocol(const http1_head& head, Take take) noexcept {
    for (std::size_t i = 0; i < head.field_count(); i++) {
        const http1_field f = head.field(i);
        if (f.id != http1_name::upgrade) continue;
        std::string_view protocols = f.value;
        do {
            if (const std::string_view protocol = next_element(protocols); !protocol.empty()) take(protocol);
        } while (protocols.data() != nullptr);
    }
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

http1_upgrade_set upgrades_asked(const http1_head& request, std::string_view allowed) noexcept {
    http1_upgrade_set asked = 0;
    if (!request.has_upgrade()) return asked;
    for_each_protocol(request, [&](std::string_view protocol) {
        asked = static_cast<http1_upgrade_set>(asked | bit_of(protocol, allowed));
    });
    return asked;
}

bool is_switch_to(const http1_head& response, std::string_view allowed, http1_upgrade_set asked) noexcept {
    bool names_one = false, names_other = false;
    for_each_protocol(response, [&](std::string_view protocol) {
        const bool is_asked = (bit_of(protocol, allowed) & asked) != 0;
        names_one |= is_asked;
        names_other |= !is_asked;
    });
    return names_one && !names_other;
}

void put_upgrades(http1_writer& out, const http1_head& request, std::string_view allowed) noexcept {
    std::string_view before = "Upgrade: ";
    for_each_protocol(request, [&](std::string_view protocol) {
        if (bit_of(protocol, allowed) == 0) return;
        out.put(before).put(protocol);
        before = ", ";
    });
    out.put("\r\n");
}

} // namespace weir::inline WEIR_KERNEL
