// http1_head: field lines and what they mean together.

#include <algorithm>
#include <array>

#include "proto/http1_head.hpp"
#include "proto/http1_text.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

using namespace http1_text;
using enum http1_error;
using enum http1_name;

http1_name name_id(const char* at, std::size_t size) noexcept {
    const auto when = [at](const auto& word, http1_name id) { return same(at, word) ? id : other; };
    switch (size) {
    case 2: return when("te", te);
    case 4: return when("host", host);
    case 6: return when("expect", expect);
    case 7: return same(at, "upgrade") ? upgrade : when("trailer", trailer);
    case 10: return same(at, "connection") ? connection : when("keep-alive", keep_alive);
    case 13: return when("authorization", authorization);
    case 14: return same(at, "content-length") ? content_length : when("http2-settings", http2_settings);
    case 16: return same(at, "proxy-connection") ? proxy_connection : when("www-authenticate", www_authenticate);
    case 17: return when("transfer-encoding", transfer_encoding);
    default: return other;
    }
}

// An order of field names: by length, then by their bytes in lower case.
bool name_before(std::string_view a, std::string_view b) noexcept {
    if (a.size() != b.size()) return a.size() < b.size();
    for (std::size_t i = 0; i < a.size(); ++i)
        if (const char x = fold(a[i]), y = fold(b[i]); x != y) return x < y;
    return false;
}

} // namespace

http1_error http1_head::take_field(std::string_view line) noexcept {
    if (line.empty()) return finish();
    if (state_.field_count == limits_.fields_max) return too_many_fields;
    if (is_blank(line.front())) return state_.field_count == 0 ? leading_space : obs_fold;
    const char* const end = line.data() + line.size();
    const char* const name_end = skip(is_token, line.data());
    const char* colon = name_end;
    if (colon != end && is_blank(*colon)) {
        if (state_.kind == http1_kind::request) return space_before_colon;
        while (colon != end && is_blank(*colon))
            ++colon;
    }
    if (colon == end) return colon_missing;
    if (*colon != ':') return bad_name;
    const std::string_view name{line.data(), static_cast<std::size_t>(name_end - line.data())};
    if (name.empty()) return empty_name;
    if (name.size() > limits_.name_bytes_max) return name_too_long;

    const std::string_view value = trim(colon + 1, end);
    const http1_name id = name_id(name.data(), name.size());
    entry& field = entry_at(state_.field_count++);
    field = {.name = part(name), .value = part(value), .id = id, .nominated = false};
    if (id == other) return none;
    const http1_error error = take_meaning(id, value);
    state_.names |= bit(id);
    return error;
}

// state_.names does not yet tell of this line.
http1_error http1_head::take_meaning(http1_name id, std::string_view value) noexcept {
    if (id == host) return take_host(value);
    if (id == http1_name::content_length) return take_content_length(value);
    if (id == transfer_encoding) return take_transfer_encoding(value);
    if (id == connection) return take_connection(value);
    if (id == http1_name::keep_alive) take_keep_alive(value);
    if (id == expect && equal(value, "100-continue")) add(fact::expect_continue);
    return none;
}

http1_error http1_head::take_host(std::string_view value) noexcept {
    if (state_.kind == http1_kind::response) return none;
    if (has(host)) return host_repeated;
    if (!value.empty() && !is_authority(value)) return bad_host;
    // RFC 9112 section 3.2.2: the authority of an absolute-form target replaces Host.
    if (state_.authority.size == 0) state_.authority = part(value);
    return none;
}

http1_error http1_head::take_content_length(std::string_view value) noexcept {
    if (has(http1_name::content_length)) return content_length_repeated;
    if (has(transfer_encoding)) return length_and_chunked;
    if (value.empty() || !all_are(is_digit, value)) return bad_content_length;
    for (const char byte : value) {
        const auto digit = static_cast<std::uint64_t>(byte - '0');
        if (state_.content_length > (INT64_MAX - digit) / 10) return bad_content_length;
        state_.content_length = state_.content_length * 10 + digit;
    }
    return none;
}

// The only coding weir knows is chunked. RFC 9112 sections 6.1 and 7: it comes last, once.
http1_error http1_head::take_transfer_encoding(std::string_view value) noexcept {
    if (state_.version == http1_version::v1_0) return transfer_encoding_in_1_0;
    if (has(http1_name::content_length)) return length_and_chunked;
    do {
        const std::string_view coding = next_element(value);
        const bool is_chunked = equal(coding, "chunked");
        if (has(fact::chunked)) return is_chunked ? chunked_twice : chunked_not_last;
        if (coding.empty() || !all_are(is_token, coding)) return bad_transfer_encoding;
        if (!is_chunked) return unknown_transfer_coding;
        add(fact::chunked);
    } while (value.data() != nullptr);
    return none;
}

// RFC 9110 section 7.6.1.
http1_error http1_head::take_connection(std::string_view value) noexcept {
    // What Connection cannot take away: without these the next hop would see another message.
    constexpr auto never_nominated = bits(host, http1_name::content_length, transfer_encoding);
    do {
        const std::string_view option = next_element(value);
        if (option.empty()) continue;
        if (!all_are(is_token, option)) return bad_connection;
        // Each is compared with the fields' names: mark_nominated().
        if (++state_.connection_options > connection_options_max) return too_many_connection_options;
        if (equal(option, "close")) add(fact::close);
        else if (equal(option, "keep-alive")) add(fact::keep_alive);
        else if (equal(option, "upgrade")) add(fact::upgrade);
        else if (const http1_name id = name_id(option.data(), option.size()); id != other) {
            state_.hop_names |= bit(id) & ~never_nominated;
        } else add(fact::nominates_other);
    } while (value.data() != nullptr);
    return none;
}

// A hint: what cannot be read is no error.
void http1_head::take_keep_alive(std::string_view value) noexcept {
    constexpr std::uint32_t highest = 1'000'000'000;
    do {
        const std::string_view parameter = next_element(value);
        if (parameter.size() <= 8 || !same(parameter.data(), "timeout=")) continue;
        const std::string_view digits = parameter.substr(8);
        if (!all_are(is_digit, digits)) continue;
        std::uint64_t seconds = 0;
        for (const char byte : digits)
            seconds = std::min<std::uint64_t>(seconds * 10 + static_cast<unsigned>(byte - '0'), highest);
        state_.keep_alive_timeout_s = static_cast<std::uint32_t>(seconds);
        if (seconds == 0 && !digits.empty()) add(fact::keep_alive_refused);
    } while (value.data() != nullptr);
}

http1_error http1_head::finish() noexcept {
    const bool host_needed = state_.kind == http1_kind::request && state_.version == http1_version::v1_1;
    if (host_needed && !has(host)) return host_missing;
    if (has(fact::nominates_other)) mark_nominated();
    state_.at = phase::done;
    return none;
}

// Linear in the head: the options, of which there are at most connection_options_max, are sorted once, and each field
// is looked up among them.
void http1_head::mark_nominated() noexcept {
    std::array<std::string_view, connection_options_max> names;
    std::size_t count = 0;
    for (std::size_t i = 0; i < state_.field_count; ++i) {
        if (entry_at(i).id != connection) continue;
        std::string_view options = view(entry_at(i).value);
        do {
            const std::string_view option = next_element(options);
            if (!option.empty()) names[count++] = option; // take_connection() has counted them
        } while (options.data() != nullptr);
    }
    const auto last = names.begin() + static_cast<std::ptrdiff_t>(count);
    std::sort(names.begin(), last, name_before);
    for (std::size_t i = 0; i < state_.field_count; ++i) {
        entry& field = entry_at(i);
        if (field.id == other) field.nominated = std::binary_search(names.begin(), last, view(field.name), name_before);
    }
}

bool http1_head::binds_user() const noexcept {
    if (!has(http1_name::authorization) && !has(http1_name::www_authenticate)) return false;
    for (std::size_t i = 0; i < field_count(); ++i) {
        const http1_field f = field(i);
        if (f.id != http1_name::authorization && f.id != http1_name::www_authenticate) continue;
        const std::string_view scheme = f.value.substr(0, std::min(f.value.find(' '), f.value.size()));
        if (equal(scheme, "ntlm") || equal(scheme, "negotiate")) return true;
    }
    return false;
}

} // namespace weir::inline WEIR_KERNEL
