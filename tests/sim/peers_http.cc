// peers_http: the text of requests, good and bad, and how it is taken apart.

#include "sim/peers_http.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "sim/peers.hpp"

namespace simtest {

bool errand::may_repeat() const noexcept {
    const std::string_view text = method;
    return text != "POST" && text != "PATCH" && text != "BREW";
}

std::string_view field_text(std::string_view head, std::string_view name) {
    const auto same = [](char a, char b) { return (a | 0x20) == (b | 0x20); };
    for (std::size_t at = head.find("\r\n"); at != head.npos && at + 2 < head.size(); at = head.find("\r\n", at + 2)) {
        const std::string_view line = head.substr(at + 2);
        if (line.size() <= name.size() || line[name.size()] != ':') continue;
        if (!std::equal(name.begin(), name.end(), line.begin(), same)) continue;
        const std::size_t from = line.find_first_not_of(' ', name.size() + 1);
        return line.substr(from, line.find("\r\n") - from);
    }
    return {};
}

std::uint32_t field_number(std::string_view head, std::string_view name, std::uint32_t otherwise) {
    const std::string_view text = field_text(head, name);
    if (text.data() == nullptr) return otherwise;
    return static_cast<std::uint32_t>(std::strtoul(std::string(text).c_str(), nullptr, 10));
}

std::size_t unchunk(std::string_view from, std::string& body) {
    std::size_t at = 0;
    for (;;) {
        const std::size_t line = from.find("\r\n", at);
        if (line == from.npos) return from.npos;
        const std::size_t size = std::strtoul(std::string(from.substr(at, line - at)).c_str(), nullptr, 16);
        at = line + 2;
        if (from.size() < at + size + 2) return from.npos;
        body.append(from.substr(at, size));
        at += size + 2;
        if (size == 0) return at;
    }
}

std::string in_chunks(std::string_view body, dice& chance) {
    std::string text;
    char size[32];
    const bool extends = chance.below(4) == 0;
    while (!body.empty()) {
        const std::size_t n = std::min<std::size_t>(chance.magnitude(1, 700), body.size());
        std::snprintf(size, sizeof size, "%zx%s\r\n", n, extends ? ";a=b" : "");
        text.append(size).append(body.substr(0, n)).append("\r\n");
        body.remove_prefix(n);
    }
    text += "0\r\n";
    if (chance.below(4) == 0) text += "X-Trailer: t\r\n"; // which is dropped
    return text += "\r\n";
}

std::string payload(std::uint64_t id, std::uint32_t bytes) {
    std::string text(bytes, '\0');
    for (std::uint32_t i = 0; i < bytes; i++)
        text[i] = payload_byte(id, i);
    return text;
}

bool is_payload(std::string_view bytes, std::uint64_t id, std::uint32_t from) {
    for (std::uint32_t i = 0; i < bytes.size(); i++)
        if (bytes[i] != payload_byte(id, from + i)) return false;
    return true;
}

std::uint64_t tunnel_id(const errand& e, bool is_server) { return e.id * 2 + (is_server ? 77 : 78); }

std::string head_of(const errand& e, const http1_limits& limits, bool pads, dice& chance) {
    std::string head = e.method;
    head += chance.below(16) == 0 && e.names_host ? " http://shop/" : " /";
    head += std::to_string(e.id) + (e.is_old ? " HTTP/1.0\r\n" : " HTTP/1.1\r\n");
    if (e.names_host) head += "Host: shop\r\n";
    head += "X-Keep: " + std::to_string(e.id) + "\r\n";
    if (e.form == body_form::length) head += "Content-Length: " + std::to_string(e.body_bytes) + "\r\n";
    if (e.form == body_form::chunked) head += "Transfer-Encoding: chunked\r\n";
    if (e.expects) head += "Expect: 100-continue\r\n";
    if (e.upgrades) head += "Connection: upgrade\r\nUpgrade: h2c, Weir-Test\r\nHTTP2-Settings: AAMAAABk\r\n";
    else if (!e.keeps && !e.is_old) head += "Connection: close\r\n";
    else if (e.keeps && e.is_old) head += "Connection: keep-alive\r\n";
    if (!e.upgrades && chance.below(16) == 0)
        head += "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    if (chance.below(4) == 0) head += "Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n";
    if (pads && chance.below(16) == 0) pad_fields(head, limits);
    if (pads && chance.below(16) == 0 && pad(head, limits)) saw(mark::head_of_the_largest_size);
    return head += "\r\n";
}

bool pad(std::string& head, const http1_limits& limits) {
    const auto fields = static_cast<std::size_t>(std::count(head.begin(), head.end(), '\n')) - 1;
    if (head.size() + 40 >= limits.head_bytes_max || fields >= limits.fields_max) return false;
    const std::size_t field = std::strlen("X-Pad: \r\n\r\n");
    head += "X-Pad: " + std::string(limits.head_bytes_max - head.size() - field, 'x') + "\r\n";
    return true;
}

// The most that pass, but for two.
void pad_fields(std::string& head, const http1_limits& limits) {
    const auto fields = static_cast<std::size_t>(std::count(head.begin(), head.end(), '\n')) - 1;
    const std::size_t room = limits.head_bytes_max - std::min<std::size_t>(limits.head_bytes_max, head.size() + 40);
    if (fields + 2 >= limits.fields_max) return;
    for (std::size_t left = std::min(limits.fields_max - fields - 2, room / 7); left > 0; left--)
        head += "P: p\r\n";
    saw(mark::head_of_the_most_fields);
}

std::string bad_head(const http1_limits& limits, dice& chance, int& status) {
    struct refusal {
        int status;
        std::string_view text;
    };
    static constexpr refusal refusals[] = {
        {400, "GET /0 HTTP/1.1\r\n\r\n"},
        {400, "GET /0 HTTP/1.1\r\nHost\r\n\r\n"},
        {400, "GET /0 HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"},
        {400, "GET /0 HTTP/1.1\r\nHost : a\r\n\r\n"},
        {400, "GET /0 HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n"},
        {400, "GET /0 HTTP/1.1\nHost: a\n\n"},
        {400, "GET  /0 HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, "POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"},
        {400, "POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n"},
        {400, "POST /0 HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, "\x16\x03\x01"},
        {400, "\r\n\r\n\r\n\r\n\r\n"},
        {405, "TRACE /0 HTTP/1.1\r\nHost: a\r\n\r\n"},
        {501, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"},
        {501, "POST /0 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"},
        {505, "GET /0 HTTP/2.0\r\nHost: a\r\n\r\n"},
    };
    constexpr auto count = static_cast<std::uint32_t>(std::size(refusals));
    const std::uint32_t which = chance.below(count + 4);
    if (which < count) {
        status = refusals[which].status;
        return std::string{refusals[which].text};
    }
    // One more than passes.
    saw(mark::head_too_large);
    status = which == count ? 414 : 431;
    if (which == count) return "GET /" + std::string(limits.start_line_bytes_max, '0') + " HTTP/1.1\r\n";
    std::string head = "GET /0 HTTP/1.1\r\nHost: a\r\n";
    if (which == count + 1) {
        for (std::uint32_t i = 1; i <= limits.fields_max; i++)
            head += "A:\r\n";
        return head + "\r\n";
    }
    head += "X-Pad: ";
    return head + std::string(limits.head_bytes_max - head.size() - 3, 'x') + "\r\n\r\n";
}

} // namespace simtest
