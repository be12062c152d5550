#include "proto/http1_body.hpp"

#include <algorithm>
#include <iterator>

#include "proto/http1_text.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

using http1_text::is;
using http1_text::is_blank;
using http1_text::is_control;
using http1_text::is_token;

// 0..15, or -1.
int digit_of(char byte) noexcept {
    if (byte >= '0' && byte <= '9') return byte - '0';
    const int letter = byte | 0x20;
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

} // namespace

void http1_body::start(http1_body_kind kind, std::uint64_t length, const http1_body_limits& limits) noexcept {
    limits_ = limits;
    error_ = http1_body_error::none;
    digits_ = 0;
    extension_bytes_ = extensions_bytes_ = trailer_bytes_ = 0;
    remaining_ = received_ = 0;
    switch (kind) {
    case http1_body_kind::none: at_ = state::complete; break;
    case http1_body_kind::length:
        remaining_ = length;
        at_ = length == 0 ? state::complete : state::length;
        if (length > limits_.body_bytes_max) fail(http1_body_error::body_too_large);
        break;
    case http1_body_kind::chunked: at_ = state::size_first; break;
    case http1_body_kind::until_close: at_ = state::until_close; break;
    }
}

http1_body::step http1_body::next(std::string_view in) noexcept {
    EXPECT(at_ != state::ended);
    std::size_t used = 0;
    while (true) {
        if (at_ == state::broken) return {what::bad, used, {}};
        if (at_ == state::complete) {
            at_ = state::ended;
            return {what::end, used, {}};
        }
        if (used == in.size()) return {what::more, used, {}};
        if (at_ == state::length || at_ == state::data || at_ == state::until_close) return take_data(in, used);
        take_framing(in[used]);
        // The byte that breaks the message is not consumed.
        if (at_ != state::broken) ++used;
    }
}

http1_body::finish_result http1_body::finish() noexcept {
    if (at_ == state::until_close) at_ = state::ended;
    return done() ? finish_result::complete : finish_result::truncated;
}

// in[at] is body. The rest of `in` is, up to the end of this chunk or length.
http1_body::step http1_body::take_data(std::string_view in, std::size_t at) noexcept {
    std::string_view data = in.substr(at);
    if (at_ == state::until_close) {
        if (data.size() > limits_.body_bytes_max - received_) {
            fail(http1_body_error::body_too_large);
            return {what::bad, at, {}};
        }
    } else {
        data = data.substr(0, std::min<std::uint64_t>(data.size(), remaining_));
        remaining_ -= data.size();
        if (remaining_ == 0) at_ = at_ == state::length ? state::complete : state::data_cr;
    }
    received_ += data.size();
    return {what::data, at + data.size(), data};
}

void http1_body::take_framing(char byte) noexcept {
    using enum state;
    switch (at_) {
    case size_first:
    case size: return take_size(byte);
    case ext_bws:
    case ext_name_first:
    case ext_name:
    case ext_equals:
    case ext_value_first:
    case ext_value:
    case ext_quoted:
    case ext_escaped:
    case ext_after: return take_extension(byte);
    case size_lf: return byte == '\n' ? end_size_line() : fail(http1_body_error::bare_cr);
    case data_cr:
        if (byte == '\r') at_ = data_lf;
        else fail(byte == '\n' ? http1_body_error::bare_lf : http1_body_error::chunk_end_missing);
        return;
    case data_lf:
        if (byte == '\n') at_ = size_first;
        else fail(http1_body_error::bare_cr);
        return;
    case line_first:
    case trailer_name:
    case trailer_value:
    case trailer_lf: return take_trailer(byte);
    case end_lf:
        if (byte == '\n') at_ = complete;
        else fail(http1_body_error::bare_cr);
        return;
    case length:
    case until_close:
    case data:
    case complete:
    case ended:
    case broken: return; // not framing: next() keeps these to itself
    }
}

void http1_body::take_size(char byte) noexcept {
    if (const int digit = digit_of(byte); digit >= 0) {
        if (++digits_ > chunk_digits_max) return fail(http1_body_error::chunk_size_too_long);
        // Sixteen digits are 64 bits, so nothing is shifted out.
        remaining_ = remaining_ << 4 | static_cast<unsigned>(digit);
        at_ = state::size;
        if (remaining_ > limits_.chunk_bytes_max) fail(http1_body_error::chunk_too_large);
        return;
    }
    if (byte == '\n') return fail(http1_body_error::bare_lf);
    if (at_ == state::size_first) return fail(http1_body_error::chunk_size_missing);
    extension_bytes_ = 0;
    if (byte == '\r') at_ = state::size_lf;
    else if (is_blank(byte) || byte == ';') {
        at_ = state::ext_bws;
        take_extension(byte);
    } else fail(http1_body_error::bad_chunk_size);
}

// *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] ), RFC 9112 section 7.1.1. Known to the
// letter, because an extension is where a CR or LF hides from a parser that skips to the line's end.
void http1_body::take_extension(char byte) noexcept {
    using enum state;
    const bool quoted = at_ == ext_quoted || at_ == ext_escaped;
    const bool may_end = at_ == ext_name || at_ == ext_value || at_ == ext_after;
    if (byte == '\r' && may_end) {
        at_ = size_lf;
        return;
    }
    if (byte == '\n') return fail(http1_body_error::bare_lf);
    if (is(is_control, byte)) return fail(http1_body_error::bad_extension);
    if (++extension_bytes_ > limits_.extension_bytes_max) return fail(http1_body_error::extension_too_long);
    if (++extensions_bytes_ > limits_.extensions_bytes_max) return fail(http1_body_error::extensions_too_long);

    if (quoted) {
        if (at_ == ext_escaped) at_ = ext_quoted;
        else if (byte == '\\') at_ = ext_escaped;
        else if (byte == '"') at_ = ext_after;
        return;
    }
    const bool may_name = at_ == ext_name_first || at_ == ext_name;
    const bool may_value = at_ == ext_value_first || at_ == ext_value;
    const bool first = at_ == ext_name_first || at_ == ext_value_first;
    if (may_name && is(is_token, byte)) at_ = ext_name;
    else if (may_value && is(is_token, byte)) at_ = ext_value;
    else if (at_ == ext_value_first && byte == '"') at_ = ext_quoted;
    else if (byte == ';' && !first) at_ = ext_name_first;
    else if (byte == '=' && (at_ == ext_name || at_ == ext_equals)) at_ = ext_value_first;
    else if (!is_blank(byte)) fail(http1_body_error::bad_extension);
    else if (at_ == ext_name) at_ = ext_equals;
    else if (at_ == ext_value || at_ == ext_after) at_ = ext_bws;
}

void http1_body::end_size_line() noexcept {
    digits_ = 0;
    if (remaining_ > limits_.body_bytes_max - received_) return fail(http1_body_error::body_too_large);
    at_ = remaining_ == 0 ? state::line_first : state::data;
}

// RFC 9112 section 7.1.2. Trailers are dropped: merged, they could bring in a Content-Length (RFC 9110
// section 6.5.1).
void http1_body::take_trailer(char byte) noexcept {
    using enum state;
    if (at_ == line_first && byte == '\r') {
        at_ = end_lf;
        return;
    }
    if (++trailer_bytes_ > limits_.trailer_bytes_max) return fail(http1_body_error::trailers_too_large);
    if (at_ == trailer_lf) {
        if (byte != '\n') return fail(http1_body_error::bare_cr);
        at_ = line_first;
        return;
    }
    if (byte == '\n') return fail(http1_body_error::bare_lf);
    if (at_ == trailer_value) {
        if (byte == '\r') at_ = trailer_lf;
        else if (is(is_control, byte)) fail(http1_body_error::bad_trailer);
        return;
    }
    if (at_ == line_first && is_blank(byte)) return fail(http1_body_error::trailer_obs_fold);
    if (is(is_token, byte)) at_ = trailer_name;
    else if (at_ == trailer_name && byte == ':') at_ = trailer_value;
    else fail(http1_body_error::bad_trailer);
}

void http1_body::fail(http1_body_error error) noexcept {
    error_ = error;
    at_ = state::broken;
}

std::size_t write_chunk_head(http1_chunk_head& out, std::size_t size) noexcept {
    EXPECT(size > 0);
    const unsigned digits = (67U - static_cast<unsigned>(__builtin_clzll(size))) / 4;
    for (unsigned i = 0; i < digits; ++i) {
        out[digits - 1 - i] = "0123456789abcdef"[size >> (4 * i) & 15];
    }
    out[digits] = '\r';
    out[digits + 1] = '\n';
    return digits + 2;
}

const char* to_string(http1_body_error error) noexcept {
    // clang-format off
    static constexpr const char* names[] = {
        "none", "chunk_size_missing", "bad_chunk_size", "chunk_size_too_long", "chunk_too_large",
        "bad_extension", "extension_too_long", "extensions_too_long", "bare_lf", "bare_cr", "chunk_end_missing",
        "bad_trailer", "trailer_obs_fold", "trailers_too_large", "body_too_large",
    };
    // clang-format on
    static_assert(std::size(names) == static_cast<std::size_t>(http1_body_error::body_too_large) + 1);
    return names[static_cast<std::size_t>(error)];
}

int status_of(http1_body_error error) noexcept {
    if (error == http1_body_error::none) return 0;
    if (error == http1_body_error::body_too_large) return 413;     // RFC 9110 section 15.5.14
    if (error == http1_body_error::trailers_too_large) return 431; // RFC 6585 section 5
    return 400;
}

} // namespace weir::inline WEIR_KERNEL
