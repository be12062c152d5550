// http1_head: finding lines; the start line. Field lines are in http1_head_fields.cc.

#include "proto/http1_head.hpp"

#include <algorithm>
#include <cstring>

#include "proto/http1_text.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

using namespace http1_text;
using enum http1_error;
using enum http1_name;

http1_method method_id(std::string_view text) noexcept {
    using enum http1_method;
    switch (text.size()) {
    case 3: return text == "GET" ? get : text == "PUT" ? put : other;
    case 4: return text == "POST" ? post : text == "HEAD" ? head : other;
    case 5: return text == "PATCH" ? patch : text == "TRACE" ? trace : other;
    case 6: return text == "DELETE" ? delete_ : other;
    case 7: return text == "OPTIONS" ? options : text == "CONNECT" ? connect : other;
    default: return other;
    }
}

// "HTTP/1.x", where a digit above 1 means 1.1: RFC 9110 section 2.5.
http1_error take_version(std::string_view text, http1_version& version) noexcept {
    if (text.size() != 8 || std::memcmp(text.data(), "HTTP/", 5) != 0) return bad_version;
    if (!is(is_digit, text[5]) || text[6] != '.' || !is(is_digit, text[7])) return bad_version;
    if (text[5] == '0') return version_too_old;
    if (text[5] != '1') return version_unsupported;
    version = text[7] == '0' ? http1_version::v1_0 : http1_version::v1_1;
    return none;
}

} // namespace

void http1_head::start(http1_kind kind, const http1_limits& limits) noexcept {
    EXPECT(limits.head_bytes_max <= 0xffff);
    EXPECT(limits.fields_max <= fields_capacity);
    // RFC 9110 section 7.6.1 and RFC 9112 appendix C.2.2.
    // HTTP2-Settings belongs to an Upgrade of this hop (RFC 7540 section 3.2.1); without its nomination it would pass.
    constexpr auto always_hop =
        bits(connection, http1_name::keep_alive, http1_name::proxy_connection, te, trailer, transfer_encoding, upgrade,
             http2_settings);
    base_ = nullptr;
    table_ = nullptr;
    state_ = state{};
    state_.kind = kind;
    state_.hop_names = always_hop;
    limits_ = limits;
}

http1_head::progress http1_head::parse(std::string_view bytes) noexcept {
    EXPECT(bytes.size() >= state_.seen);
    base_ = bytes.data();
    while (state_.at == phase::start_line || state_.at == phase::fields) {
        const bool is_full = state_.field_count == fields_inline && !table_;
        if (is_full && limits_.fields_max > fields_inline) return progress::needs_table;
        std::string_view line;
        http1_error error = find_line(bytes, line);
        if (error == none) {
            if (line.data() == nullptr) return progress::more;
            error = state_.at == phase::start_line ? take_start_line(line) : take_field(line);
        }
        if (error != none) {
            state_.error = error;
            state_.at = phase::bad;
        }
    }
    return state_.at == phase::done ? progress::done : progress::bad;
}

void http1_head::lend_table(std::span<char> memory) noexcept {
    EXPECT(!table_);
    EXPECT(memory.size() >= table_bytes);
    EXPECT(reinterpret_cast<std::uintptr_t>(memory.data()) % alignof(entry) == 0);
    table_ = reinterpret_cast<entry*>(memory.data());
}

bool http1_head::may_begin(char byte) const noexcept {
    if (byte == '\r' || byte == '\n') return true;
    return state_.kind == http1_kind::response ? byte == 'H' : is(is_token, byte);
}

// Leaves `line` null when its end has not come yet.
http1_error http1_head::find_line(std::string_view bytes, std::string_view& line) noexcept {
    std::size_t limit = limits_.head_bytes_max;
    if (state_.at == phase::start_line) {
        limit = std::min(limit, std::size_t{state_.line_at} + limits_.start_line_bytes_max + 2);
        // Said at the first byte: a peer that speaks TLS here may never send a line's end.
        if (state_.line_at < bytes.size() && !may_begin(bytes[state_.line_at])) return bad_start_line;
    }
    const char* const stop = base_ + std::min(bytes.size(), limit);
    const char* const found = find_control(base_ + state_.seen, stop);
    if (found == stop || (*found == '\r' && found + 1 == stop)) {
        state_.seen = static_cast<std::uint32_t>(found - base_);
        if (bytes.size() < limit) return none;
        return limit == limits_.head_bytes_max ? head_too_large : uri_too_long;
    }
    const char* next = found + 1;
    if (*found == '\r') {
        if (*next != '\n') return bare_cr;
        ++next;
    } else {
        if (*found != '\n') return control_byte;
        if (!limits_.allow_bare_lf) return bare_lf;
    }
    const char* const at = base_ + state_.line_at;
    line = {at, static_cast<std::size_t>(found - at)};
    state_.line_at = state_.seen = static_cast<std::uint32_t>(next - base_);
    return none;
}

http1_error http1_head::take_start_line(std::string_view line) noexcept {
    if (line.empty()) return ++state_.empty_lines > limits_.leading_crlf_max ? too_many_empty_lines : none;
    if (line.size() > limits_.start_line_bytes_max) return uri_too_long;
    state_.at = phase::fields;
    return state_.kind == http1_kind::request ? take_request_line(line) : take_status_line(line);
}

http1_error http1_head::take_request_line(std::string_view line) noexcept {
    const char* const end = line.data() + line.size();
    const char* const method_end = skip(is_token, line.data());
    const std::string_view method{line.data(), static_cast<std::size_t>(method_end - line.data())};
    if (method.size() > method_bytes_max) return method_too_long;
    if (method_end == end) return bad_start_line;
    if (*method_end != ' ') return bad_method;
    const char* const target_at = method_end + 1;
    const char* const target_end = skip(is_target, target_at);
    const std::string_view target{target_at, static_cast<std::size_t>(target_end - target_at)};
    if (target_end == end) return target.empty() ? bad_start_line : version_missing;
    if (*target_end != ' ') return bad_target;
    if (target.empty()) return bad_start_line;
    const std::string_view version{target_end + 1, static_cast<std::size_t>(end - target_end - 1)};
    if (const auto error = take_version(version, state_.version); error != none) return error;
    state_.method_text = part(method);
    state_.method = method_id(method);
    return take_target(target);
}

// The four forms of RFC 9112 section 3.2.
http1_error http1_head::take_target(std::string_view target) noexcept {
    state_.target = part(target);
    if (state_.method == http1_method::connect) {
        state_.authority = state_.target;
        return target.find(':') != std::string_view::npos && is(is_digit, target.back()) && is_authority(target)
                   ? none
                   : bad_target;
    }
    if (target.front() == '/' || (target == "*" && state_.method == http1_method::options)) {
        state_.path = state_.target;
        return none;
    }
    const bool is_https = equal(target.substr(0, 8), "https://");
    if (!is_https && !equal(target.substr(0, 7), "http://")) return bad_target;
    const std::size_t scheme = is_https ? 8 : 7;
    const std::size_t path_at = std::min(target.find_first_of("/?", scheme), target.size());
    const std::string_view authority = target.substr(scheme, path_at - scheme);
    if (authority.empty() || !is_authority(authority)) return bad_target;
    state_.authority = part(authority);
    state_.path = part(target.substr(path_at));
    if (path_at < target.size() && target[path_at] == '?') add(fact::slash_missing);
    return none;
}

http1_error http1_head::take_status_line(std::string_view line) noexcept {
    if (line.size() < 12 || line[8] != ' ') return bad_start_line;
    if (const auto error = take_version(line.substr(0, 8), state_.version); error != none) return error;
    if (!all_are(is_digit, line.substr(9, 3)) || line[9] == '0') return bad_status;
    // Servers leave out the SP before an absent reason: RFC 9112 section 4 asks for it, nothing hangs on it.
    if (line.size() > 12 && line[12] != ' ') return bad_status;
    state_.status = static_cast<std::uint16_t>((line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0'));
    state_.reason = part(line.substr(std::min<std::size_t>(line.size(), 13)));
    return none;
}

const char* to_string(http1_error error) noexcept {
    // In rows, as the enum is.
    // clang-format off
    static constexpr const char* names[] = {
        "none", "bare_lf", "bare_cr", "control_byte", "too_many_empty_lines", "head_too_large",
        "bad_start_line", "uri_too_long", "bad_method", "method_too_long", "bad_target", "version_missing",
        "bad_version", "version_too_old", "version_unsupported", "bad_status", "too_many_fields",
        "leading_space", "obs_fold", "empty_name", "bad_name", "name_too_long", "space_before_colon",
        "colon_missing", "host_missing", "host_repeated", "bad_host", "content_length_repeated",
        "bad_content_length", "length_and_chunked", "transfer_encoding_in_1_0", "bad_transfer_encoding",
        "unknown_transfer_coding", "chunked_not_last", "chunked_twice", "bad_connection",
        "too_many_connection_options",
    };
    // clang-format on
    static_assert(std::size(names) == static_cast<std::size_t>(too_many_connection_options) + 1);
    return names[static_cast<std::size_t>(error)];
}

int status_of(http1_error error) noexcept {
    if (error == none) return 0;
    if (error == uri_too_long) return 414;                               // RFC 9110 section 15.5.15
    if (error == head_too_large || error == too_many_fields) return 431; // RFC 6585 section 5
    if (error == method_too_long) return 501;                            // RFC 9112 section 3
    if (error == unknown_transfer_coding) return 501;                    // RFC 9112 section 6.1
    return error == version_unsupported ? 505 : 400;                     // RFC 9110 section 15.6.6
}

const char* to_string(http1_method method) noexcept {
    static constexpr const char* names[] = {"GET",     "HEAD",  "POST",    "PUT",   "DELETE",
                                            "OPTIONS", "TRACE", "CONNECT", "PATCH", "other"};
    return names[static_cast<std::size_t>(method)];
}

} // namespace weir::inline WEIR_KERNEL
