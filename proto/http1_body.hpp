#pragma once
// http1_body: takes the framing off a message body as its bytes come.
//
//     start(kind, length)  next(in)... -> data* (more data*)* -> end | bad          finish() when the peer's
//     stream ends
//
//     chunked, RFC 9112 section 7.1:
//     size -> [extensions] -> CRLF -> data -> CRLF -> size ... 0 -> CRLF -> [trailer lines] -> CRLF: end
//
// Nothing is buffered: `data` is a view into the bytes given, framing is consumed as it comes, one byte at a
// time if need be. Extensions and trailers are checked, bounded and dropped. What follows the message is
// never consumed. Bare LF and bare CR are refused wherever they stand in the framing: a peer that reads them
// differently is how requests are smuggled. Thread: any, one at a time. Allocation: none.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/contract.hpp"
#include "proto/http1_head.hpp"

namespace weir::inline WEIR_KERNEL {

enum class http1_body_error : std::uint8_t {
    none,
    chunk_size_missing,
    bad_chunk_size, // a byte that is no hexadecimal digit
    chunk_size_too_long,
    chunk_too_large,
    bad_extension,
    extension_too_long,
    extensions_too_long, // of the whole message
    bare_lf,
    bare_cr,
    chunk_end_missing, // no CRLF where the chunk's data end
    bad_trailer,
    trailer_obs_fold,
    trailers_too_large,
    body_too_large,
};

const char* to_string(http1_body_error error) noexcept;

// What a proxy answers a client whose request body had this error: 400, 413 or 431. 0 for none. For a
// response: 502.
int status_of(http1_body_error error) noexcept;

// Each limit is the largest that passes.
struct http1_body_limits {
    std::uint64_t body_bytes_max = UINT64_MAX; // decoded; -> 413
    std::uint64_t chunk_bytes_max = std::uint64_t{1} << 62;
    std::uint32_t extension_bytes_max = 256;        // per chunk: from after the size to before its CRLF
    std::uint32_t extensions_bytes_max = 16 * 1024; // per message
    std::uint32_t trailer_bytes_max = 4 * 1024;     // the lines with their CRLFs, without the last empty one
};

class http1_body {
  public:
    enum class what : std::uint8_t {
        more, // all of `in` is consumed and the message goes on
        data, // `data` has at least one byte; call again with what is left of `in`, even if that is nothing
        end,  // once per message, when its last byte has been consumed
        bad,  // the message is broken: error(); said again by each later call
    };
    struct step {
        what is;
        std::size_t used;      // bytes of `in` that are done with, framing and data; never beyond the message's end
        std::string_view data; // into `in`
    };
    enum class finish_result : std::uint8_t { complete, truncated };

    static constexpr std::uint32_t chunk_digits_max = 16;

    // `length`: of a body of that kind, else ignored.
    void start(http1_body_kind kind, std::uint64_t length, const http1_body_limits& limits = {}) noexcept;

    // Not after `end`. An empty `in` is fine: it gives `end` when nothing is outstanding, else more.
    [[nodiscard]] step next(std::string_view in) noexcept;

    // The peer's stream ended after what was given to next(): the end of a body until_close, the truncation
    // of any other.
    [[nodiscard]] finish_result finish() noexcept;

    // The last byte has been consumed (true from then on, whether or not `end` was asked for), or finish()
    // completed it.
    bool done() const noexcept { return at_ == state::complete || at_ == state::ended; }
    http1_body_error error() const noexcept { return error_; }

    // Body bytes handed out so far, without framing.
    std::uint64_t received() const noexcept { return received_; }

  private:
    enum class state : std::uint8_t {
        length,      // remaining_ > 0 bytes of data
        until_close, // data without end
        size_first,  // the first digit of a chunk's size
        size,        // more digits, or what ends them
        ext_bws,     // white space before ";"
        ext_name_first,
        ext_name,
        ext_equals, // white space after a name: before "=" or ";"
        ext_value_first,
        ext_value,
        ext_quoted,
        ext_escaped, // after a backslash in quotes
        ext_after,   // after the closing quote
        size_lf,
        data, // remaining_ > 0 bytes of chunk data
        data_cr,
        data_lf,
        line_first, // the first byte of a trailer line, or of the last empty line
        trailer_name,
        trailer_value,
        trailer_lf,
        end_lf,
        complete, // all consumed, `end` not yet said
        ended,
        broken,
    };

    void take_framing(char byte) noexcept;
    void take_size(char byte) noexcept;
    void take_extension(char byte) noexcept;
    void take_trailer(char byte) noexcept;
    void end_size_line() noexcept;
    step take_data(std::string_view in, std::size_t at) noexcept;
    void fail(http1_body_error error) noexcept;

    state at_ = state::ended;
    http1_body_error error_ = http1_body_error::none;
    std::uint8_t digits_ = 0;           // of this chunk's size
    std::uint32_t extension_bytes_ = 0; // of this chunk
    std::uint32_t extensions_bytes_ = 0;
    std::uint32_t trailer_bytes_ = 0;
    std::uint64_t remaining_ = 0; // data bytes of this length or chunk that are still to come
    std::uint64_t received_ = 0;
    http1_body_limits limits_;
};

// Room for the longest chunk head: 16 digits and CRLF.
using http1_chunk_head = std::array<char, 18>;

// Writes what goes before `size` bytes of chunk data; returns how many bytes that is. After the data goes
// "\r\n". size > 0: a chunk of nothing would end the message.
std::size_t write_chunk_head(http1_chunk_head& out, std::size_t size) noexcept;

inline constexpr std::string_view http1_chunk_end = "\r\n";
// What goes after the CRLF of the last data.
inline constexpr std::string_view http1_last_chunk = "0\r\n\r\n";

} // namespace weir::inline WEIR_KERNEL
