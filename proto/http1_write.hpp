#pragma once
// http1_write: writes the heads that a proxy sends: what it forwards of a head it received, and answers of its own.
//
// Framing is written anew from what the parser understood, never copied; hop-by-hop fields stay behind (RFC 9110
// section 7.6.1). Everything else goes on byte for byte, in order, names in the case they came in.
// Sans-io: into memory the caller owns. Every function returns the bytes written, 0 if they do not fit.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "proto/http1_head.hpp"

namespace weir::inline WEIR_KERNEL {

// Appends to memory it does not own. Once something did not fit nothing is written any more, and size() is 0.
class http1_writer {
  public:
    http1_writer(char* to, std::size_t room) noexcept : begin_(to), at_(to), end_(to + room) {}

    http1_writer& put(std::string_view text) noexcept;
    http1_writer& put_number(std::uint64_t value) noexcept;
    // For logs: what is not printable ASCII, '"' and '\' as \xHH. At most four bytes for one.
    http1_writer& put_escaped(std::string_view text) noexcept;
    http1_writer& put_field(std::string_view name, std::string_view value) noexcept {
        return put(name).put(": ").put(value).put("\r\n");
    }

    std::size_t size() const noexcept { return at_ ? static_cast<std::size_t>(at_ - begin_) : 0; }

    // For writers that do not know this one: where to write, how much fits, and what was written there (0: it did not
    // fit).
    char* next() noexcept { return at_ ? at_ : end_; }
    std::size_t room() const noexcept { return at_ ? static_cast<std::size_t>(end_ - at_) : 0; }
    void take(std::size_t bytes) noexcept { at_ = bytes > 0 && at_ ? at_ + bytes : nullptr; }

  private:
    char* begin_;
    char* at_; // null: something did not fit
    char* end_;
};

// How a message's body is framed on its way out.
struct http1_framing {
    http1_body_kind kind = http1_body_kind::none;
    std::uint64_t length = 0; // kind length
    bool says_length = false; // kind none: Content-Length is told all the same (HEAD, 304)
};

enum class http1_persistence : std::uint8_t {
    unsaid,     // 1.1 stays open by itself
    close,      // Connection: close
    keep_alive, // Connection: keep-alive, for a 1.0 client that asked
    upgrade,    // Connection: upgrade, with the Upgrade field; of a request, with those of its offers that are allowed
};

// What the proxy decides about a request that it forwards. Borrowed.
struct http1_forwarding {
    std::string_view upgrades{};  // of persistence `upgrade`: the protocols that are allowed, http1_upgrade.hpp
    std::string_view own_host{};  // the Host of a request that has none, which HTTP/1.0 allows
};

// The request that goes to the server: HTTP/1.1, Host from the target if that has one (RFC 9112 section 3.2.2).
std::size_t write_request_head(char* to, std::size_t room, const http1_head& head, const http1_framing& framing,
                               http1_persistence persistence, const http1_forwarding& how = {}) noexcept;

// The response, or a 1xx, that goes to the client.
std::size_t write_response_head(char* to, std::size_t room, const http1_head& head, const http1_framing& framing,
                                http1_persistence persistence) noexcept;

// A whole answer of our own. `is_head`: the request was HEAD, so the body is only announced.
struct http1_answer {
    int status = 200;
    std::string_view content_type = "text/plain";
    std::string_view body{};
    std::string_view allow{}; // of a 405: RFC 9110 section 15.5.6
};
std::size_t write_answer(char* to, std::size_t room, const http1_answer& answer, bool is_head,
                         http1_persistence persistence) noexcept;

// "Bad Gateway" for 502; "Unknown" for a status that weir never sends.
std::string_view reason_of(int status) noexcept;

} // namespace weir::inline WEIR_KERNEL
