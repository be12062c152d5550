// http1_head: lines, their grammar, their meaning.

#include "proto/http1_head.hpp"

#include <algorithm>
#include <cstring>

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
    case 14: return when("content-length", content_length);
    case 16: return same(at, "proxy-connection") ? proxy_connection : when("www-authenticate", www_authenticate);
    case 17: return when("transfer-encoding", transfer_encoding);
    default: return other;
    }
}

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

// uri-host [ ":" port ], RFC 9110 section 7.2: no user information.
bool is_authority(std::string_view text) noexcept {
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

// "HTTP/1.x", where a digit above 1 means 1.1: RFC 9110 section 2.5.
http1_error take_version(std::string_view text, http1_version& version) noexcept {
    if (text.size() != 8 || std::memcmp(text.data(), "HTTP/", 5) != 0) return bad_version;
    if (!is(is_digit, text[5]) || text[6] != '.' || !is(is_digit, text[7])) return bad_version;
    if (text[5] == '0') return version_too_old;
    if (text[5] != '1') return version_unsupported;
    version = text[7] == '0' ? http1_version::v1_0 : http1_version::v1_1;
    return none;
}

template <class... Names>
constexpr std::uint32_t set_of(Names... names) noexcept {
    return ((1U << static_cast<unsigned>(names)) | ...);
}

// RFC 9110 section 7.6.1 and RFC 9112 appendix C.2.2.
constexpr auto always_hop = set_of(connection, keep_alive, proxy_connection, te, trailer, transfer_encoding, upgrade);
// What Connection cannot take away: without these the next hop would see another message.
constexpr auto never_nominated = set_of(host, content_length, transfer_encoding);

} // namespace

void http1_head::start(http1_kind kind, const http1_limits& limits) noexcept {
    EXPECT(limits.head_bytes_max <= 0xffff);
    EXPECT(limits.fields_max <= fields_capacity);
    base_ = nullptr;
    state_ = state{};
    state_.kind = kind;
    state_.hop_names = always_hop;
    limits_ = limits;
}

http1_head::progress http1_head::parse(std::string_view bytes) noexcept {
    EXPECT(bytes.size() >= state_.seen);
    base_ = bytes.data();
    while (state_.at == phase::start_line || state_.at == phase::fields) {
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

bool http1_head::may_begin(char byte) const noexcept {
    return state_.kind == http1_kind::response ? byte == 'H' : is(is_token, byte) || byte == '\r' || byte == '\n';
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
    if (!all_are(is_digit, line.substr(9, 3)) || line[9] < '1' || line[9] > '5') return bad_status;
    // Servers leave out the SP before an absent reason: RFC 9112 section 4 asks for it, nothing hangs on it.
    if (line.size() > 12 && line[12] != ' ') return bad_status;
    state_.status = static_cast<std::uint16_t>((line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0'));
    state_.reason = part(line.substr(std::min<std::size_t>(line.size(), 13)));
    return none;
}

http1_error http1_head::take_field(std::string_view line) noexcept {
    if (line.empty()) return finish();
    if (state_.field_count == limits_.fields_max) return too_many_fields;
    if (is_blank(line.front())) return state_.field_count == 0 ? leading_space : obs_fold;
    const char* const end = line.data() + line.size();
    const char* const colon = skip(is_token, line.data());
    if (colon == end) return colon_missing;
    if (is_blank(*colon)) return space_before_colon;
    if (*colon != ':') return bad_name;
    const std::string_view name{line.data(), static_cast<std::size_t>(colon - line.data())};
    if (name.empty()) return empty_name;
    if (name.size() > limits_.name_bytes_max) return name_too_long;

    const std::string_view value = trim(colon + 1, end);
    const http1_name id = name_id(name.data(), name.size());
    entry& field = fields_[state_.field_count++];
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
    do {
        const std::string_view option = next_element(value);
        if (option.empty()) continue;
        if (!all_are(is_token, option)) return bad_connection;
        // Each costs a walk over the fields.
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

void http1_head::mark_nominated() noexcept {
    const auto same_name = [](char a, char b) { return fold(a) == fold(b); };
    for (std::size_t i = 0; i < state_.field_count; ++i) {
        if (fields_[i].id != connection) continue;
        std::string_view options = view(fields_[i].value);
        do {
            const std::string_view option = next_element(options);
            for (std::size_t j = 0; j < state_.field_count; ++j) {
                entry& field = fields_[j];
                if (field.id != other || field.name.size != option.size()) continue;
                const std::string_view name = view(field.name);
                if (std::equal(name.begin(), name.end(), option.begin(), same_name)) field.nominated = true;
            }
        } while (options.data() != nullptr);
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
