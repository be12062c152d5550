// peers_http: servers and clients that speak HTTP/1.1, as far as it takes to see whose bytes are whose.

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "sim/peers.hpp"

namespace simtest {

namespace {

// The value of a field in a head, as a number; `otherwise` if it is not there.
std::uint32_t field(std::string_view head, std::string_view name, std::uint32_t otherwise) {
    const std::string lower = [&] {
        std::string text(head);
        for (char& c : text)
            if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
        return text;
    }();
    const std::size_t at = lower.find(std::string("\r\n").append(name).append(":"));
    if (at == lower.npos) return otherwise;
    return static_cast<std::uint32_t>(std::strtoul(lower.c_str() + at + name.size() + 3, nullptr, 10));
}

bool has(std::string_view head, std::string_view text) { return head.find(text) != head.npos; }

bool is_payload(std::string_view bytes, std::uint64_t id) {
    for (std::uint32_t i = 0; i < bytes.size(); i++)
        if (bytes[i] != payload_byte(id, i)) return false;
    return true;
}

std::string payload(std::uint64_t id, std::uint32_t bytes) {
    std::string text(bytes, '\0');
    for (std::uint32_t i = 0; i < bytes; i++)
        text[i] = payload_byte(id, i);
    return text;
}

// The body of a chunked message at the front of `from`. npos: not complete yet. Otherwise where it ends.
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

} // namespace

void server::answer_http() noexcept {
    for (;;) {
        const std::size_t skipped = std::min(skips, in.size());
        in.erase(0, skipped);
        skips -= skipped;
        const std::size_t end_of_head = in.find("\r\n\r\n");
        if (end_of_head == in.npos) return;
        const std::string head = in.substr(0, end_of_head + 2);
        const std::uint32_t body = field(head, "content-length", 0);
        const std::size_t has_body = std::min<std::size_t>(in.size() - end_of_head - 4, body);
        // Now and then the answer comes before the request is complete: RFC 9112 section 9.5.
        const bool is_early = has_body < body && how != manner::well_behaved && home->k_.chance.below(4) == 0;
        if (has_body < body && !is_early) return;
        const std::size_t path = head.find(" /");
        char* at = nullptr;
        const std::uint64_t id = path == head.npos ? 0 : std::strtoull(head.c_str() + path + 2, &at, 10);
        const std::string_view said_body = std::string_view{in}.substr(end_of_head + 4, has_body);
        const bool fits = id != 0 && *at == '/' && is_payload(said_body, id);
        if (!fits) home->k_.violate("I6", "a server got a request that no client has sent");
        check_strays();
        if (head[0] == 'P' && home->posted_.contains(id))
            home->k_.violate("I17", "a POST that a server had seen came to a server again");
        // Who ended its own side first reads it, but cannot answer, and counts as one that has not seen it: its reset
        // looks the same to the gateway whether or not it read on.
        if (head[0] == 'P' && !said.ended) home->posted_.insert(id);
        in.erase(0, end_of_head + 4 + has_body);
        skips = body - has_body;
        speak_http(id, at ? static_cast<std::uint32_t>(std::strtoul(at + 1, nullptr, 10)) : 0);
        answered++;
        stray_on();
    }
}

void server::speak_http(std::uint64_t id, std::uint32_t bytes) noexcept {
    const std::string body = payload(id, bytes);
    const std::string head = "HTTP/1.1 200 OK\r\nX-Id: " + std::to_string(id) + "\r\n";
    const std::uint32_t form = home->calm_ ? 0 : home->k_.chance.below(8);
    if (form == 0 && !home->calm_) {
        out += head + "Connection: close\r\n\r\n" + body; // the end is the end of the body
        heard_all = true;
    } else if (form <= 2 && !home->calm_) {
        out += head + "Transfer-Encoding: chunked\r\n\r\n";
        char size[16];
        for (std::size_t at = 0; at < body.size(); at += 700) {
            const std::size_t n = std::min<std::size_t>(700, body.size() - at);
            std::snprintf(size, sizeof size, "%zx\r\n", n);
            out += size + body.substr(at, n) + "\r\n";
        }
        out += "0\r\n\r\n";
    } else {
        out += head + "Content-Length: " + std::to_string(bytes) + "\r\n\r\n" + body;
    }
}

void client::ask_http(std::uint32_t bytes, bool nonsense) noexcept {
    const std::uint64_t id = first_id + asked;
    if (nonsense) {
        out += "GET /nonsense HTTP/1.1\r\nHost\r\n\r\n";
        return;
    }
    const std::string path = std::string("/").append(std::to_string(id)).append("/").append(std::to_string(bytes));
    if (home->k_.chance.coin()) {
        out += "GET " + path + " HTTP/1.1\r\nHost: shop\r\n\r\n";
    } else {
        const std::uint32_t body = home->draw_bytes();
        out += "POST " + path + " HTTP/1.1\r\nHost: shop\r\nContent-Length: " + std::to_string(body) + "\r\n\r\n" +
               payload(id, body);
    }
}

bool client::digest_http(remote& r) noexcept {
    for (;;) {
        const std::size_t end_of_head = in.find("\r\n\r\n");
        if (end_of_head == in.npos) return true;
        const std::string head = in.substr(0, end_of_head + 2);
        const int status = head.size() > 12 ? std::atoi(head.c_str() + 9) : 0;
        kernel& k = home->k_;
        if (head.compare(0, 9, "HTTP/1.1 ") != 0 || status < 200)
            k.violate("I6", "a client got bytes that are no answer");
        std::string body;
        std::size_t end_of_all = end_of_head + 4;
        if (has(head, "chunked")) {
            const std::size_t end_of_body = unchunk(std::string_view{in}.substr(end_of_all), body);
            if (end_of_body == in.npos) return true;
            end_of_all += end_of_body;
        } else {
            const std::uint32_t bytes = field(head, "content-length", 0);
            if (in.size() < end_of_all + bytes) return true;
            body = in.substr(end_of_all, bytes);
            end_of_all += bytes;
        }
        if (status == 200) {
            if (field(head, "x-id", 0) != first_id + answered)
                k.violate("I15", "a client got the answer to another request");
            if (!is_payload(body, first_id + answered)) k.violate("I6", "a client got a byte that is not its own");
        } else if (must_succeed) {
            k.violate("I10", "a healthy client was told that it cannot be answered");
        }
        saw(status == 200 ? mark::answer_whole : mark::answer_error);
        in.erase(0, end_of_all);
        if (has(head, "onnection: close") && answered + 1 < asks) {
            answered++;
            leave(r);
            return false;
        }
        if (!answered_one(r)) return false;
    }
}

} // namespace simtest
