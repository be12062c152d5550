#pragma once
// http1_head: the head of one HTTP/1.x message, parsed in place, strictly, a piece at a time.
//
//     start(kind)  parse(bytes)... -> more | done | bad     then the accessors, then start() again
//
//     [empty lines] -> start line -> field lines -> the empty line: done
//          |               |             |
//          +---------------+-------------+--> bad, with one http1_error; parse() says so again until start()
//
// What is kept is offsets and facts, never bytes. parse() gets everything from the message's first byte on,
// again and longer each time, at any address. The work is linear in the bytes of the head, however they are cut: each
// byte is looked at once for the line's end, once for the line's grammar, and a bounded number of times for what the
// line means. The verdict does not depend on how the bytes were cut. A line's errors come in this order: a byte that
// no line may contain (found before the line ends), a limit, its grammar, its meaning together with earlier lines.
//
// The first fields_inline fields are held in the object. A head with more of them needs a table, which the caller
// lends while the head is read: parse() says so (needs_table), and only if the limits allow more than fields_inline.
//
// Where RFC 9112 lets a recipient choose, the message is refused: each lenient reading is some smuggler's
// difference. The exceptions: HTTP/1.2..1.9 are read as 1.1, an empty Host is accepted, a status line may end
// after the status, a status may be any from 100 to 999 (RFC 9110 section 15), and a target may hold any printable
// ASCII byte but "#" (clients do send "|" and "{"; it is passed on untouched). White space between a field's name and
// its colon is refused in a request and dropped from a response, whose field means what its name says without it
// (RFC 9112 section 5.1). Refused although the RFC allows them: "%" in a host, empty elements in Transfer-Encoding,
// transfer codings other than chunked (in a response, too).
//
// Thread: any, one at a time. Allocation: none.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/contract.hpp"
#include "core/flags.hpp"

namespace weir::inline WEIR_KERNEL {

enum class http1_kind : std::uint8_t { request, response };
enum class http1_version : std::uint8_t { v1_0, v1_1 };
enum class http1_body_kind : std::uint8_t { none, length, chunked, until_close };

// Methods are case-sensitive (RFC 9110 section 9.1): "get" is `other`.
enum class http1_method : std::uint8_t { get, head, post, put, delete_, options, trace, connect, patch, other };

// The fields that mean something to a proxy; recognised once, while parsing.
enum class http1_name : std::uint8_t {
    other,
    host,
    connection,
    keep_alive,
    proxy_connection,
    te,
    trailer,
    transfer_encoding,
    upgrade,
    content_length,
    expect,
    authorization,
    www_authenticate,
    http2_settings
};

// One name for each way to be refused. to_string() is for logs, status_of() for the client.
enum class http1_error : std::uint8_t {
    none,
    // any line
    bare_lf,
    bare_cr,
    control_byte,
    too_many_empty_lines,
    head_too_large,
    // start line; uri_too_long is a status line's, too
    bad_start_line,
    uri_too_long,
    bad_method,
    method_too_long,
    bad_target,
    version_missing,
    bad_version,
    version_too_old,
    version_unsupported,
    bad_status,
    // field line
    too_many_fields,
    leading_space,
    obs_fold,
    empty_name,
    bad_name,
    name_too_long,
    space_before_colon, // a request's
    colon_missing,
    // meaning
    host_missing,
    host_repeated,
    bad_host,
    content_length_repeated,
    bad_content_length,
    length_and_chunked,
    transfer_encoding_in_1_0,
    bad_transfer_encoding,
    unknown_transfer_coding,
    chunked_not_last,
    chunked_twice,
    bad_connection,
    too_many_connection_options
};

const char* to_string(http1_error error) noexcept;
const char* to_string(http1_method method) noexcept;

// What a proxy answers a client whose request had this error: 400, 414, 431, 501 or 505. A response with any
// error is answered with 502, whichever it is. 0 for none.
int status_of(http1_error error) noexcept;

// RFC 9110 section 9.2.2. Of the methods known here; `other` is not.
constexpr bool is_idempotent(http1_method method) noexcept {
    return method != http1_method::post && method != http1_method::patch && method != http1_method::connect &&
           method != http1_method::other;
}

// Each limit is the largest that passes.
struct http1_limits {
    std::uint32_t start_line_bytes_max = 8 * 1024; // without its CRLF
    std::uint32_t head_bytes_max = 15 * 1024;      // of size(), so with all empty lines; <= 65535
    std::uint16_t fields_max = 100;                // <= http1_head::fields_capacity; above fields_inline: needs_table
    std::uint16_t name_bytes_max = 256;
    std::uint8_t leading_crlf_max = 4; // empty lines before the start line: RFC 9112 section 2.2
    bool allow_bare_lf = false;        // RFC 9112 section 2.2 MAY
};

// A field line; views into the message's bytes, the value without the white space around it.
struct http1_field {
    std::string_view name;
    std::string_view value;
    http1_name id;
    bool hop; // not to be forwarded: RFC 9110 section 7.6.1

    // Written anew by whoever forwards, from body_kind() and content_length(), never copied.
    bool is_framing() const noexcept { return id == http1_name::content_length || id == http1_name::transfer_encoding; }
};

class http1_head {
  public:
    enum class progress : std::uint8_t {
        more, // the head goes on
        done,
        bad,
        needs_table, // the inline fields are full and more are allowed: lend_table(), then parse() once more
    };
    static constexpr std::size_t fields_inline = 100;    // held in the object
    static constexpr std::size_t fields_capacity = 1000; // with a table
    static constexpr std::size_t table_bytes = (fields_capacity - fields_inline) * 10;
    static constexpr std::size_t method_bytes_max = 32; // a longer one is 501: RFC 9112 section 3
    static constexpr std::size_t connection_options_max = 32;

    http1_head() noexcept {} // not defaulted: `http1_head head{}` would clear the fields' kilobyte

    // Begins a new message. Touches two cache lines.
    void start(http1_kind kind, const http1_limits& limits = {}) noexcept;

    // `bytes`: all that was received from the message's first byte on; at least as many as the call before
    // was given. done: the head ends within them, at size(); what follows was not looked at. Views are into
    // the latest `bytes`.
    [[nodiscard]] progress parse(std::string_view bytes) noexcept;
    // Once, after needs_table: memory for the fields beyond fields_inline, at least table_bytes, aligned for a uint16_t:
    // EXPECTed. It is borrowed until start(), or until no field is asked for any more.
    void lend_table(std::span<char> memory) noexcept;

    // none unless bad.
    http1_error error() const noexcept { return state_.error; }
    http1_kind kind() const noexcept { return state_.kind; }
    // No byte of the start line has come. Of what parse() was given, consumed() are empty lines; what is behind them
    // can only be a CR.
    bool has_not_begun() const noexcept { return state_.at == phase::start_line && state_.line_at == state_.seen; }
    std::size_t consumed() const noexcept { return state_.seen; }

    // ---- All below: only after done. ----

    // Bytes of the whole head, with the empty lines before and after it.
    std::size_t size() const noexcept { return state_.seen; }
    http1_version version() const noexcept { return state_.version; }

    // Of a request.
    http1_method method() const noexcept { return state_.method; }
    std::string_view method_text() const noexcept { return view(state_.method_text); }
    // As received, byte for byte.
    std::string_view target() const noexcept { return view(state_.target); }
    // Of an absolute-form target or CONNECT, else the value of Host (RFC 9112 section 3.2.2); "" when there
    // is none. What is sent upstream as Host.
    std::string_view authority() const noexcept { return view(state_.authority); }
    // The request names its host, in an absolute-form target or in Host, where it may be empty. Always so in HTTP/1.1.
    bool names_host() const noexcept { return has(http1_name::host) || state_.authority.size != 0; }
    // What is sent upstream as target: origin-form, or "*"; static storage when the target had no path. For
    // "http://a?b" it begins with "?", and the writer puts "/" before it: path_needs_slash(). For CONNECT:
    // "".
    std::string_view path() const noexcept {
        if (state_.path.size != 0) return view(state_.path);
        if (state_.method == http1_method::connect) return {};
        // RFC 9112 section 3.2.4, of an absolute-form target that is only an authority.
        return state_.method == http1_method::options ? "*" : "/";
    }
    bool path_needs_slash() const noexcept { return has(fact::slash_missing); }

    // Of a response: 100..999. One above 599 has no class; its body is framed as that of any final response.
    int status() const noexcept { return state_.status; }
    std::string_view reason() const noexcept { return view(state_.reason); }

    std::size_t field_count() const noexcept { return state_.field_count; }
    http1_field field(std::size_t i) const noexcept {
        EXPECT_SLOW(i < state_.field_count);
        const entry& line = entry_at(i);
        const bool hop = line.nominated || (state_.hop_names & bit(line.id)) != 0;
        return {.name = view(line.name), .value = view(line.value), .id = line.id, .hop = hop};
    }
    bool has(http1_name name) const noexcept { return (state_.names & bit(name)) != 0; }

    // RFC 9112 section 6.3. A request: none, length or chunked. A response: response_body_kind(false).
    http1_body_kind body_kind() const noexcept {
        if (state_.kind == http1_kind::response) return response_body_kind(false);
        return has(fact::chunked) || has(http1_name::content_length) ? given_framing() : http1_body_kind::none;
    }
    // none for HEAD, 1xx, 204 and 304 whatever the fields say.
    http1_body_kind response_body_kind(bool request_was_head) const noexcept {
        const bool bodiless = state_.status < 200 || state_.status == 204 || state_.status == 304;
        return request_was_head || bodiless ? http1_body_kind::none : given_framing();
    }
    // Content-Length as given; 0 when it was not. At most 2^63-1. It says how long a body is only if
    // body_kind() is length.
    std::uint64_t content_length() const noexcept { return state_.content_length; }
    bool is_chunked() const noexcept { return has(fact::chunked); }

    // RFC 9112 section 9.3: the sender lets the connection stay, as far as version and Connection tell.
    bool keep_alive() const noexcept {
        return !close_requested() && (state_.version == http1_version::v1_1 || keep_alive_requested());
    }
    bool close_requested() const noexcept { return has(fact::close); }
    // An Authorization or WWW-Authenticate of a scheme that authenticates the connection instead of the request (NTLM,
    // Negotiate): it belongs to one user from then on.
    bool binds_user() const noexcept;
    bool keep_alive_requested() const noexcept { return has(fact::keep_alive); }
    // Seconds in "Keep-Alive: timeout=N"; 0 = not given, or given as 0. At most 10^9.
    std::uint32_t keep_alive_timeout_s() const noexcept { return state_.keep_alive_timeout_s; }
    // "Keep-Alive: timeout=0": the sender keeps no idle connection.
    bool keep_alive_refused() const noexcept { return has(fact::keep_alive_refused); }

    // Expect: 100-continue, but not in HTTP/1.0, where it is to be ignored: RFC 9110 section 10.1.1.
    bool expect_continue() const noexcept {
        return has(fact::expect_continue) && state_.version == http1_version::v1_1;
    }
    // An Upgrade field, and `upgrade` in Connection; not in HTTP/1.0: RFC 9110 section 7.8.
    bool has_upgrade() const noexcept {
        return has(fact::upgrade) && has(http1_name::upgrade) && state_.version == http1_version::v1_1;
    }

  private:
    enum class phase : std::uint8_t { start_line, fields, done, bad };
    enum class fact : std::uint16_t {
        close = 1,      // Connection: close
        keep_alive = 2, // Connection: keep-alive
        upgrade = 4,    // Connection: upgrade
        chunked = 8,    // Transfer-Encoding ends with it
        expect_continue = 16,
        slash_missing = 32,   // of an absolute-form target: its path is empty and its query is not
        nominates_other = 64, // Connection names a field that is not a http1_name
        keep_alive_refused = 128,
    };
    // 16 bits do: head_bytes_max is at most 65535. No initialisers: the inline entries are never cleared.
    struct span {
        std::uint16_t at;
        std::uint16_t size;
    };
    struct entry {
        span name;
        span value;
        http1_name id;
        bool nominated; // by Connection; only ever set for id `other`
    };
    static_assert(sizeof(entry) == 10, "a hundred fields in a kilobyte");
    static_assert(table_bytes == (fields_capacity - fields_inline) * sizeof(entry));

    // All that start() resets.
    struct state {
        http1_kind kind = http1_kind::request;
        phase at = phase::start_line;
        http1_error error = http1_error::none;
        http1_version version = http1_version::v1_1;
        http1_method method = http1_method::other;
        std::uint8_t empty_lines = 0;
        std::uint8_t connection_options = 0;
        std::uint16_t facts = 0;
        std::uint16_t field_count = 0;
        std::uint16_t status = 0;
        span method_text{}, target{}, authority{}, path{}, reason{};
        std::uint32_t line_at = 0;   // where the line being received begins
        std::uint32_t seen = 0;      // the search for its end goes on here; line_at <= seen
        std::uint32_t names = 0;     // which http1_names there are
        std::uint32_t hop_names = 0; // which http1_names are not to be forwarded
        std::uint32_t keep_alive_timeout_s = 0;
        std::uint64_t content_length = 0;
    };

    static_assert(static_cast<unsigned>(http1_name::http2_settings) < 32, "a bit for each name");

    static constexpr std::uint32_t bit(http1_name name) noexcept { return 1U << static_cast<unsigned>(name); }
    template <class... Names>
    static constexpr std::uint32_t bits(Names... names) noexcept {
        return (bit(names) | ...);
    }
    entry& entry_at(std::size_t i) noexcept { return i < fields_inline ? fields_[i] : table_[i - fields_inline]; }
    const entry& entry_at(std::size_t i) const noexcept {
        return i < fields_inline ? fields_[i] : table_[i - fields_inline];
    }
    std::string_view view(span part) const noexcept { return {base_ + part.at, part.size}; }
    bool has(fact which) const noexcept { return (state_.facts & static_cast<unsigned>(which)) != 0; }
    void add(fact which) noexcept {
        state_.facts = static_cast<std::uint16_t>(state_.facts | static_cast<unsigned>(which));
    }
    span part(std::string_view text) const noexcept {
        return {static_cast<std::uint16_t>(text.data() - base_), static_cast<std::uint16_t>(text.size())};
    }

    http1_body_kind given_framing() const noexcept {
        if (has(fact::chunked)) return http1_body_kind::chunked;
        return has(http1_name::content_length) ? http1_body_kind::length : http1_body_kind::until_close;
    }

    bool may_begin(char byte) const noexcept;
    http1_error find_line(std::string_view bytes, std::string_view& line) noexcept;
    http1_error take_start_line(std::string_view line) noexcept;
    http1_error take_request_line(std::string_view line) noexcept;
    http1_error take_target(std::string_view target) noexcept;
    http1_error take_status_line(std::string_view line) noexcept;
    http1_error take_field(std::string_view line) noexcept;
    http1_error take_meaning(http1_name id, std::string_view value) noexcept;
    http1_error take_host(std::string_view value) noexcept;
    http1_error take_content_length(std::string_view value) noexcept;
    http1_error take_transfer_encoding(std::string_view value) noexcept;
    http1_error take_connection(std::string_view value) noexcept;
    void take_keep_alive(std::string_view value) noexcept;
    http1_error finish() noexcept;
    void mark_nominated() noexcept;

    const char* base_ = nullptr;
    state state_;
    http1_limits limits_;
    entry* table_ = nullptr; // lent: the fields from fields_inline on
    std::array<entry, fields_inline> fields_;
};

} // namespace weir::inline WEIR_KERNEL
