// strict_http1: lines, fields, framing; each refusal has its words.

#include "fuzz/strict_http1.hpp"

#include <algorithm>

namespace fuzz {

namespace {

constexpr std::string_view crlf = "\r\n";

bool is_tchar(char c) {
    const bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return alnum || std::string_view{"!#$%&'*+-.^_`|~"}.find(c) != std::string_view::npos;
}
bool is_token(std::string_view text) { return !text.empty() && std::all_of(text.begin(), text.end(), is_tchar); }
bool is_digits(std::string_view text) {
    return !text.empty() && text.size() < 20 && text.find_first_not_of("0123456789") == text.npos;
}
bool is_target(std::string_view text) {
    return !text.empty() &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f && c != '#'; });
}
bool is_control(char c) { return (c >= 0 && c < ' ' && c != '\t') || c == 0x7f; }

std::string lower(std::string_view text) {
    std::string out{text};
    for (char& c : out)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
    return out;
}

std::string_view take_until(std::string_view& from, std::string_view end) {
    const std::size_t at = std::min(from.find(end), from.size());
    const std::string_view taken = from.substr(0, at);
    from.remove_prefix(std::min(at + end.size(), from.size()));
    return taken;
}

const char* take_request_line(std::string_view line, strict_message& m) {
    m.method = take_until(line, " ");
    m.target = take_until(line, " ");
    if (!is_token(m.method)) return "a method that is no token";
    if (!is_target(m.target)) return "a target with bytes that no target has";
    return line == "HTTP/1.1" ? nullptr : "a request line that does not end with HTTP/1.1";
}

const char* take_status_line(std::string_view line, strict_message& m) {
    if (take_until(line, " ") != "HTTP/1.1") return "a status line that does not begin with HTTP/1.1";
    const std::string_view digits = take_until(line, " ");
    if (digits.size() != 3 || !is_digits(digits)) return "a status that is not three digits";
    m.status = (digits[0] - '0') * 100 + (digits[1] - '0') * 10 + (digits[2] - '0');
    return m.status >= 100 && m.status <= 999 ? nullptr : "a status that does not exist";
}

const char* take_once(std::string& slot, std::string_view value, const char* twice) {
    if (!slot.empty()) return twice;
    slot = value;
    return nullptr;
}

const char* take_field(std::string_view line, strict_message& m, unsigned& hosts) {
    const std::string name = lower(take_until(line, ": "));
    const std::string_view value = line;
    if (!is_token(name)) return "a field name that is no token";
    if (!value.empty() && (value.front() <= ' ' || value.back() <= ' ') && value.front() > 0 && value.back() > 0)
        return "a value with white space around it";
    if (name == "host") {
        m.host = value;
        return ++hosts > 1 ? "two Host fields" : nullptr;
    }
    if (name == "content-length") {
        if (m.has_length) return "two Content-Length fields";
        if (!is_digits(value)) return "a Content-Length that is no number";
        m.has_length = true;
        m.length = std::stoull(std::string{value});
        return nullptr;
    }
    if (name == "transfer-encoding") {
        if (m.is_chunked) return "two Transfer-Encoding fields";
        m.is_chunked = true;
        return value == "chunked" ? nullptr : "a Transfer-Encoding other than chunked";
    }
    if (name == "connection") return take_once(m.connection, value, "two Connection fields");
    if (name == "upgrade") m.upgrade = value;
    if (name == "x-echo") m.echo = value;
    if (name == "keep-alive" || name == "proxy-connection" || name == "te" || name == "trailer")
        return "a field that is not to be forwarded";
    return nullptr;
}

// `head`: the lines with their ends, without the empty one.
const char* take_head(std::string_view head, strict_message& m, bool is_request) {
    unsigned hosts = 0;
    for (bool first = true; !head.empty(); first = false) {
        const std::string_view line = take_until(head, crlf);
        if (std::any_of(line.begin(), line.end(), is_control))
            return "a control byte, a bare CR or a bare LF in a head";
        const char* wrong = !first       ? take_field(line, m, hosts)
                            : is_request ? take_request_line(line, m)
                                         : take_status_line(line, m);
        if (wrong) return wrong;
    }
    if (m.has_length && m.is_chunked) return "Content-Length and Transfer-Encoding";
    if (is_request && hosts != 1) return "a request without Host";
    const bool is_known = m.connection.empty() || m.connection == "close" || m.connection == "keep-alive";
    if (!is_known && m.connection != "upgrade") return "a Connection that weir does not say";
    if (!m.upgrade.empty() && m.connection != "upgrade") return "an Upgrade that Connection does not name";
    return nullptr;
}

// Chunks as weir writes them: no extension, no trailer. Answers how many bytes they are, npos: more is to come.
std::size_t take_chunks(std::string_view bytes, strict_message& m) {
    for (std::size_t at = 0;;) {
        const std::size_t end = bytes.find(crlf, at);
        const std::string_view digits = bytes.substr(at, end == bytes.npos ? end : end - at);
        if (digits.find_first_not_of(end == bytes.npos ? "0123456789abcdef\r" : "0123456789abcdef") != digits.npos ||
            digits.size() > 16 || (end != bytes.npos && digits.empty()))
            m.wrong = "a chunk size that is not plain hexadecimal";
        if (m.wrong || end == bytes.npos) return bytes.npos;
        const std::uint64_t size = std::stoull(std::string{digits}, nullptr, 16);
        at = end + crlf.size();
        const std::string_view rest = bytes.substr(at);
        m.body.append(rest.substr(0, std::min<std::uint64_t>(size, rest.size())));
        if (rest.size() < size) return bytes.npos;
        const std::string_view ending = rest.substr(size, crlf.size());
        if (ending != crlf.substr(0, ending.size())) m.wrong = "a chunk that does not end with its size";
        if (m.wrong || ending.size() < crlf.size()) return bytes.npos;
        at += size + crlf.size();
        if (size == 0) return at;
    }
}

strict_message read(std::string_view bytes, bool is_request, bool is_to_head) {
    strict_message m;
    const std::size_t end = bytes.find("\r\n\r\n");
    if (end == bytes.npos) return m;
    m.wrong = take_head(bytes.substr(0, end + crlf.size()), m, is_request);
    m.has_head = true;
    const std::size_t head_size = end + 2 * crlf.size();
    const std::string_view rest = bytes.substr(head_size);
    const bool is_bodiless = !is_request && (is_to_head || m.status < 200 || m.status == 204 || m.status == 304);
    if (m.wrong) return m;
    if (!is_bodiless && m.is_chunked) {
        const std::size_t size = take_chunks(rest, m);
        m.is_complete = size != rest.npos;
        m.size = head_size + (m.is_complete ? size : 0);
        return m;
    }
    m.ends_with_stream = !is_request && !is_bodiless && !m.has_length;
    const std::uint64_t size = is_bodiless ? 0 : m.ends_with_stream ? rest.size() : m.has_length ? m.length : 0;
    m.body = rest.substr(0, std::min<std::uint64_t>(size, rest.size()));
    m.is_complete = rest.size() >= size;
    m.size = head_size + m.body.size();
    return m;
}

} // namespace

strict_message read_strict_request(std::string_view bytes) { return read(bytes, true, false); }
strict_message read_strict_response(std::string_view bytes, bool is_to_head) { return read(bytes, false, is_to_head); }

} // namespace fuzz
