#pragma once
// strict_http1: reads what weir sends, and refuses whatever any two readers could take differently.
//
// Not a parser for the world: it knows only the forms that weir writes. It has nothing in common with proto/http1_*.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fuzz {

struct strict_message {
    const char* wrong = nullptr; // why it is refused
    bool has_head = false;       // the head is complete, and what is below is known
    bool is_complete = false;
    std::size_t size = 0;           // of a complete one
    std::string method{}, target{}; // of a request
    int status = 0;                 // of a response
    std::string host{}, echo{}, upgrade{}, connection{};
    bool has_length = false, is_chunked = false, ends_with_stream = false;
    std::uint64_t length = 0;
    std::string body{}; // as far as it is there
};

// The message at the front of `bytes`.
strict_message read_strict_request(std::string_view bytes);
strict_message read_strict_response(std::string_view bytes, bool is_to_head);

} // namespace fuzz
