#pragma once
// http1_messages: what is said in HTTP/1.1 by tests: whole messages as bytes, and messages taken off bytes.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace support {

using namespace std::string_literals;
using namespace std::string_view_literals;

// An HTTP message without its framing, to compare what was framed in different ways.
struct message {
    std::string head; // with the empty line
    std::string body;
    bool is_chunked = false;
};

// Takes the first whole message off `bytes`. Knows only what the gateway writes. Nothing: it is not complete.
inline std::optional<message> take_message(std::string& bytes, bool is_bodiless = false) {
    const std::size_t head_end = bytes.find("\r\n\r\n");
    if (head_end == bytes.npos) return {};
    message m{.head = bytes.substr(0, head_end + 4), .body = {}};
    std::size_t at = m.head.size();
    const auto value_of = [&](const char* name) {
        const std::size_t found = m.head.find(name);
        return found == m.head.npos ? ""s : m.head.substr(found + std::string_view(name).size());
    };
    m.is_chunked = m.head.find("\r\nTransfer-Encoding: chunked\r\n") != m.head.npos;
    if (is_bodiless) {
    } else if (m.is_chunked) {
        for (std::size_t size = 1; size > 0;) {
            const std::size_t line_end = bytes.find("\r\n", at);
            if (line_end == bytes.npos) return {};
            size = std::stoul(bytes.substr(at, line_end - at), nullptr, 16);
            if (bytes.size() < line_end + 2 + size + 2) return {};
            m.body += bytes.substr(line_end + 2, size);
            at = line_end + 2 + size + 2;
        }
    } else if (const std::string length = value_of("\r\nContent-Length: "); !length.empty()) {
        const std::size_t size = std::stoul(length);
        if (bytes.size() - at < size) return {};
        m.body = bytes.substr(at, size);
        at += size;
    }
    bytes.erase(0, at);
    return m;
}

inline std::string get(std::string_view target = "/", std::string_view more = "") {
    return "GET " + std::string(target) + " HTTP/1.1\r\nHost: h\r\n" + std::string(more) + "\r\n";
}
inline std::string post(std::string_view target, std::string_view body) {
    return "POST " + std::string(target) + " HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n\r\n" + std::string(body);
}
inline std::string ok(std::string_view body = "", std::string_view more = "") {
    return "HTTP/1.1 200 OK\r\n" + std::string(more) + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
           std::string(body);
}
// "answer of our own": head and body of what the gateway itself answers.
inline std::string own_answer(int status, std::string_view reason, std::string_view body, std::string_view connection,
                              std::string_view more = "") {
    return "HTTP/1.1 " + std::to_string(status) + " " + std::string(reason) + "\r\n" + std::string(more) +
           "Content-Type: text/plain\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + std::string(connection) +
           "\r\n" + std::string(body);
}
inline std::string bad_gateway(std::string_view connection = "") {
    return own_answer(502, "Bad Gateway", "502 Bad Gateway\n", connection);
}
inline std::string gateway_timeout(std::string_view connection = "") {
    return own_answer(504, "Gateway Timeout", "504 Gateway Timeout\n", connection);
}
inline constexpr std::string_view closes = "Connection: close\r\n";

// Bytes that tell where they stood.
inline std::string pattern(std::size_t size, unsigned seed = 1) {
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < size; i++)
        bytes[i] = static_cast<char>('a' + (i / 7 + i * seed) % 26);
    return bytes;
}

} // namespace support
