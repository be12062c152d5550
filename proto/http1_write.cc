// http1_write: start lines, fields, framing.

#include "proto/http1_write.hpp"

#include <charconv>
#include <cstring>

#include "core/escape.hpp"
#include "proto/http1_upgrade.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

void put_framing(http1_writer& out, const http1_framing& framing) noexcept {
    const bool is_length = framing.kind == http1_body_kind::length || framing.says_length;
    if (is_length) out.put("Content-Length: ").put_number(framing.length).put("\r\n");
    else if (framing.kind == http1_body_kind::chunked) out.put("Transfer-Encoding: chunked\r\n");
}

void put_all_of(http1_writer& out, const http1_head& head, http1_name id, std::string_view name) noexcept {
    for (std::size_t i = 0; i < head.field_count(); i++)
        if (const http1_field f = head.field(i); f.id == id) out.put_field(name, f.value);
}

// The allowed offers of a request, in its order and spelling, in one field.
void put_upgrades(http1_writer& out, const http1_head& request, std::string_view allowed) noexcept {
    std::string_view before = "Upgrade: ";
    for_each_upgrade(request, [&](std::string_view protocol) {
        if (upgrade_bit(protocol, allowed) == 0) return;
        out.put(before).put(protocol);
        before = ", ";
    });
    out.put("\r\n");
}

void put_persistence(http1_writer& out, const http1_head& head, http1_persistence persistence,
                     std::string_view allowed) noexcept {
    switch (persistence) {
    case http1_persistence::unsaid: break;
    case http1_persistence::close: out.put("Connection: close\r\n"); break;
    case http1_persistence::keep_alive: out.put("Connection: keep-alive\r\n"); break;
    case http1_persistence::upgrade:
        if (head.kind() == http1_kind::request && upgrades_asked(head, allowed) == 0) break;
        out.put("Connection: upgrade\r\n");
        if (head.kind() == http1_kind::request) put_upgrades(out, head, allowed);
        else put_all_of(out, head, http1_name::upgrade, "Upgrade");
        break;
    }
}

} // namespace

http1_writer& http1_writer::put(std::string_view text) noexcept {
    if (!at_ || static_cast<std::size_t>(end_ - at_) < text.size()) {
        at_ = nullptr;
        return *this;
    }
    if (text.empty()) return *this; // its data() may be null
    std::memcpy(at_, text.data(), text.size());
    at_ += text.size();
    return *this;
}

http1_writer& http1_writer::put_number(std::uint64_t value) noexcept {
    char digits[20];
    const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    return put({digits, static_cast<std::size_t>(end - digits)});
}

http1_writer& http1_writer::put_escaped(std::string_view text) noexcept {
    char escaped[escaped_max];
    for (const char byte : text)
        put(escape(byte, escaped));
    return *this;
}

std::size_t write_request_head(char* to, std::size_t room, const http1_head& head, const http1_framing& framing,
                               http1_persistence persistence, const http1_forwarding& how) noexcept {
    http1_writer out{to, room};
    out.put(head.method_text()).put(" ");
    if (head.path_needs_slash()) out.put("/");
    out.put(head.path()).put(" HTTP/1.1\r\n");
    out.put_field("Host", head.names_host() ? head.authority() : how.own_host);
    // An Expect of HTTP/1.0 means nothing and is not to be passed on. RFC 9110 section 10.1.1.
    const bool drops_expect = head.version() == http1_version::v1_0;
    for (std::size_t i = 0; i < head.field_count(); i++) {
        const http1_field f = head.field(i);
        if (f.hop || f.is_framing() || f.id == http1_name::host) continue;
        if (drops_expect && f.id == http1_name::expect) continue;
        out.put_field(f.name, f.value);
    }
    put_framing(out, framing);
    put_persistence(out, head, persistence, how.upgrades);
    return out.put("\r\n").size();
}

std::size_t write_response_head(char* to, std::size_t room, const http1_head& head, const http1_framing& framing,
                                http1_persistence persistence) noexcept {
    http1_writer out{to, room};
    out.put("HTTP/1.1 ").put_number(static_cast<std::uint64_t>(head.status())).put(" ").put(head.reason()).put("\r\n");
    for (std::size_t i = 0; i < head.field_count(); i++) {
        const http1_field f = head.field(i);
        if (!f.hop && !f.is_framing()) out.put_field(f.name, f.value);
    }
    put_framing(out, framing);
    put_persistence(out, head, persistence, {});
    return out.put("\r\n").size();
}

std::size_t write_answer(char* to, std::size_t room, const http1_answer& answer, bool is_head,
                         http1_persistence persistence) noexcept {
    http1_writer out{to, room};
    out.put("HTTP/1.1 ").put_number(static_cast<std::uint64_t>(answer.status)).put(" ");
    out.put(reason_of(answer.status)).put("\r\n");
    if (answer.status == 405) out.put_field("Allow", answer.allow);
    if (answer.status == 503) out.put("Retry-After: 1\r\n");
    out.put_field("Content-Type", answer.content_type);
    out.put("Content-Length: ").put_number(answer.body.size()).put("\r\n");
    if (persistence == http1_persistence::close) out.put("Connection: close\r\n");
    if (persistence == http1_persistence::keep_alive) out.put("Connection: keep-alive\r\n");
    out.put("\r\n");
    if (!is_head) out.put(answer.body);
    return out.size();
}

std::string_view reason_of(int status) noexcept {
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 431: return "Request Header Fields Too Large";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
    }
}

} // namespace weir::inline WEIR_KERNEL
