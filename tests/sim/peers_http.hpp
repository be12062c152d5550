#pragma once
// peers_http: requests in every form that HTTP/1.x has: what each asks for, and what became of it at the servers.
//
// An errand is one request. Its client writes down what it says, its servers what they had and what they answered; so
// each of them sees at once what is not as the other said it. Its number stands in the path and in each answer.
// Owner: the town. Thread: the harness's.

#include <cstdint>
#include <string>
#include <string_view>

#include "proto/http1_exchange.hpp"
#include "sim/world.hpp"

namespace simtest {

enum class body_form : std::uint8_t { none, length, chunked, until_end };

struct errand {
    std::uint64_t id = 0;

    // --- as its client asks for it
    const char* method = "GET";
    body_form form = body_form::none;
    std::uint32_t body_bytes = 0;
    std::uint32_t answer_bytes = 0;
    std::uint32_t head_bytes = 0;
    bool is_old = false;    // HTTP/1.0
    bool names_host = true; // else it gets its server's own name
    bool keeps = true;      // its client's connection may stay
    bool expects = false;   // 100-continue
    bool upgrades = false;  // 101, and then a tunnel
    bool is_broken = false; // its body is not framed as it says: 400
    int refusal = 0;        // what the gateway must answer itself; 0: nothing
    bool may_repeat() const noexcept;
    time_point asked_at{};

    // --- as servers had it
    std::uint8_t arrivals = 0;
    bool came_on_used = false; // the last time, on a connection that had carried another
    endpoint came_to{};        // the last time, that address
    bool came_unseen = false;  // the last time, to a server that had ended its own side: counts as not seen
    bool was_answered = false; // a byte of an answer was delivered

    // --- as the last of them answered
    int status = 0; // 0: it did not, or nonsense
    bool is_whole = false;
    bool is_early = false;        // before the request was all heard
    bool by_end = false;          // the end of the connection is that of the body
    std::uint32_t ended_with = 0; // by_end: bytes of the body before it
    std::uint32_t hints_said = 0; // 1xx responses
    // --- in its tunnel
    std::uint32_t client_said = 0, server_said = 0;
    bool client_ended = false, server_ended = false;
};

// What a run's gateway is like, as far as its peers judge it.
struct http_rules {
    http1_options options{};
    endpoint admin{};             // unspecified: none
    bool drains_unasked = false;  // bytes that nobody asked for do not end an idle server connection
    bool keeps_servers = true;    // else each request says close to its server
    bool may_leave_early = false; // it is drained, or was full: a client that waits may be closed before its time
};

// What a server knows of the request that it is at.
struct http_ear {
    errand* now = nullptr;         // its head has come
    errand* speaking = nullptr;    // its answer is being said
    errand* tunnel = nullptr;      // 101 was said
    std::uint64_t said_before = 0; // bytes of this connection, before the request
    std::uint64_t said_at_end = 0; // ... with the answer
    std::uint32_t heads_count = 0;
    std::uint32_t heard = 0; // bytes in the tunnel
    bool said_close = false;
    bool was_told_close = false;
    time_point rests_until{}; // the gateway sends no request on it before
    errand* answered_early = nullptr; // the rest of its body is still to come
};

// How a client speaks, where that is HTTP.
struct http_voice {
    errand* tunnel = nullptr;
    std::string held;        // a body that waits for 100
    time_point held_until{}; // but no longer
    std::uint32_t hints = 0; // 1xx responses to the present errand
    std::uint32_t heard = 0; // bytes in the tunnel
    std::uint32_t answers_count = 0;
    bool is_admin = false;   // it asks the gateway itself
    bool drips = false;      // a byte now and then
    bool lingers = false;    // stays when all is answered
    bool said_lines = false; // empty ones behind a request
    bool hears_no_more = false; // what still comes is of no request of its own
    bool told_close = false; // the last answer said so
};

// ---- text

// The value of a field in a head (which ends with its last field's CRLF); npos: where it is not.
std::string_view field_text(std::string_view head, std::string_view name);
std::uint32_t field_number(std::string_view head, std::string_view name, std::uint32_t otherwise);
// Where a chunked body at the front of `from` ends. npos: not within it.
std::size_t unchunk(std::string_view from, std::string& body);
std::string in_chunks(std::string_view body, dice& chance);
std::string payload(std::uint64_t id, std::uint32_t bytes);
bool is_payload(std::string_view bytes, std::uint64_t id, std::uint32_t from = 0);
std::uint64_t tunnel_id(const errand& e, bool is_server);
// The head of that errand, at times with all that is not to be passed on. `pads`: at times as large as `limits` allow.
std::string head_of(const errand& e, const http1_limits& limits, bool pads, dice& chance);
// One more field in a head without its last empty line, so that it is as large as may be. False: it was too large.
bool pad(std::string& head, const http1_limits& limits);
void pad_fields(std::string& head, const http1_limits& limits);
// A head that is refused, and with what.
std::string bad_head(const http1_limits& limits, dice& chance, int& status);

} // namespace simtest
