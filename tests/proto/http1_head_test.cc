#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "proto/http1_head.hpp"

using namespace weir;
using namespace std::string_literals;
using namespace std::string_view_literals;

namespace {

using progress = http1_head::progress;
constexpr auto request = http1_kind::request;
constexpr auto response = http1_kind::response;

// All that a caller can learn from a head, as text: two heads are the same when this is.
std::string describe(progress end, const http1_head& head, std::string_view bytes) {
    if (end == progress::more) return "more";
    if (end == progress::bad) return "bad: "s + to_string(head.error());
    const auto flag = [](bool value) { return value ? "1" : "0"; };
    std::string text = "done " + std::to_string(head.size()) + " " + to_string(head.method()) + " ";
    text += std::string(head.method_text()) + "|" + std::string(head.target()) + "|" +
            std::string(head.authority());
    text += "|" + std::string(head.path()) + "|" + std::to_string(head.status()) + "|" +
            std::string(head.reason());
    text += "|" + std::to_string(head.content_length()) + "|" + std::to_string(int(head.body_kind())) + "|";
    text += flag(head.keep_alive()) + "|"s + flag(head.has_upgrade()) + flag(head.expect_continue());
    text += "|" + std::to_string(head.keep_alive_timeout_s()) + flag(head.version() == http1_version::v1_1) +
            "\n";
    REQUIRE(head.size() <= bytes.size());
    for (std::size_t i = 0; i < head.field_count(); ++i) {
        const http1_field field = head.field(i);
        REQUIRE(field.name.data() > bytes.data());
        REQUIRE(field.value.data() + field.value.size() < bytes.data() + head.size());
        text += std::string(field.name) + "=" + std::string(field.value) + "/" + flag(field.hop) + "\n";
    }
    return text;
}

// Parses bytes[0, cut) for each cut, each time at a new address whose end is a heap block's end, and then
// all.
std::string parse_cut(http1_kind kind, std::string_view bytes, const std::vector<std::size_t>& cuts,
                      const http1_limits& limits) {
    static http1_head head;
    head.start(kind, limits);
    std::vector<char> copy;
    for (const std::size_t cut : cuts) {
        copy = std::vector<char>(bytes.begin(), bytes.begin() + std::ptrdiff_t(cut));
        const progress so_far = head.parse({copy.data(), copy.size()});
        if (so_far == progress::bad) return describe(so_far, head, {});
        if (so_far == progress::done) {
            head.rebase(bytes.data());
            return describe(so_far, head, bytes);
        }
    }
    const progress end = head.parse(bytes);
    return describe(end, head, bytes);
}

// The outcome, which must not depend on how the bytes are cut.
std::string parse(http1_kind kind, std::string_view bytes, const http1_limits& limits = {}) {
    const std::string whole = parse_cut(kind, bytes, {}, limits);
    std::vector<std::size_t> each;
    for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
        each.push_back(cut);
        if (parse_cut(kind, bytes, {cut}, limits) != whole) FAIL("cut at " << cut << " of: " << bytes);
    }
    CHECK(parse_cut(kind, bytes, each, limits) == whole);
    return whole;
}

http1_error error_of(http1_kind kind, std::string_view bytes, const http1_limits& limits = {}) {
    const std::string outcome = parse(kind, bytes, limits);
    http1_head head;
    head.start(kind, limits);
    const progress end = head.parse(bytes);
    REQUIRE_MESSAGE(end != progress::more, bytes);
    return head.error();
}

// A parsed head with the bytes it points into.
struct parsed {
    parsed(http1_kind kind, std::string text) : bytes(std::move(text)) {
        parse(kind, bytes);
        head.start(kind);
        INFO(bytes);
        REQUIRE(head.parse(bytes) == progress::done);
        CHECK(head.size() == bytes.size());
    }
    std::string bytes;
    http1_head head;
};

std::string get_with(std::string_view lines) {
    return "GET / HTTP/1.1\r\nHost: a\r\n" + std::string(lines) + "\r\n";
}
std::string ok_with(std::string_view lines) {
    return "HTTP/1.1 200 OK\r\n" + std::string(lines) + "\r\n";
}

struct row {
    const char* number; // of http.md section 3
    std::string bytes;
    http1_error error;
    int status;
};

void check_rows(http1_kind kind, const std::vector<row>& rows) {
    for (const row& r : rows) {
        CAPTURE(r.number);
        CAPTURE(r.bytes);
        const http1_error error = error_of(kind, r.bytes);
        CHECK(to_string(error) == std::string_view(to_string(r.error)));
        if (kind == request) CHECK(status_of(error) == r.status);
    }
}

using enum http1_error;

} // namespace

TEST_CASE("a request's framing is refused wherever two readers could differ") {
    check_rows(
        request,
        {
            {"4", get_with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), length_and_chunked, 400},
            {"4", get_with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), length_and_chunked, 400},
            {"5", get_with("Content-Length: 5\r\nContent-Length: 6\r\n"), content_length_repeated, 400},
            {"5", get_with("Content-Length: 5\r\nContent-Length: 5\r\n"), content_length_repeated, 400},
            {"5", get_with("Content-Length: 5, 5\r\n"), bad_content_length, 400},
            {"6", get_with("Content-Length: +5\r\n"), bad_content_length, 400},
            {"6", get_with("Content-Length: -1\r\n"), bad_content_length, 400},
            {"6", get_with("Content-Length: 0x5\r\n"), bad_content_length, 400},
            {"6", get_with("Content-Length:\r\n"), bad_content_length, 400},
            {"6", get_with("Content-Length: 5 5\r\n"), bad_content_length, 400},
            {"6", get_with("Content-Length: 9223372036854775807\r\n"), none, 0},
            {"6", get_with("Content-Length: 9223372036854775808\r\n"), bad_content_length, 400},
            {"6", get_with("Content-Length: 18446744073709551616\r\n"), bad_content_length, 400},
            {"6", get_with("Content-Length: 18446744073709551621\r\n"), bad_content_length, 400},
            {"7", get_with("Transfer-Encoding: chunked\r\n"), none, 0},
            {"7", get_with("Transfer-Encoding: \tCHUNKED \r\n"), none, 0},
            {"7", get_with("Transfer-Encoding: identity\r\n"), unknown_transfer_coding, 501},
            {"7", get_with("Transfer-Encoding: gzip, chunked\r\n"), unknown_transfer_coding, 501},
            {"7", get_with("Transfer-Encoding: xchunked\r\n"), unknown_transfer_coding, 501},
            {"7", get_with("Transfer-Encoding: chunked, gzip\r\n"), chunked_not_last, 400},
            {"7", get_with("Transfer-Encoding: chunked,\r\n"), chunked_not_last, 400},
            {"7", get_with("Transfer-Encoding: chunked, chunked\r\n"), chunked_twice, 400},
            {"7", get_with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), chunked_twice,
             400},
            {"7", get_with("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"), chunked_not_last, 400},
            {"7", get_with("Transfer-Encoding:\r\n"), bad_transfer_encoding, 400},
            {"7", get_with("Transfer-Encoding: ,chunked\r\n"), bad_transfer_encoding, 400},
            {"7", get_with("Transfer-Encoding: \"chunked\"\r\n"), bad_transfer_encoding, 400},
            {"7", get_with("Transfer-Encoding: chunked;a=b\r\n"), bad_transfer_encoding, 400},
            {"8", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", transfer_encoding_in_1_0, 400},
            {"-", get_with("Transfer-Encoding : chunked\r\n"), space_before_colon, 400},
            {"-", get_with("Transfer-Encoding\t: chunked\r\n"), space_before_colon, 400},
            {"-", get_with("X: y\r\n Transfer-Encoding: chunked\r\n"), obs_fold, 400},
            {"-", get_with("Transfer-Encoding:\r\n chunked\r\n"), bad_transfer_encoding, 400},
            {"-",
             get_with("Transfer-Encoding: \x0b"
                      "chunked\r\n"),
             control_byte, 400},
            {"-", get_with("Transfer-Encoding: chunked\r\r\n"), bare_cr, 400},
            {"-", get_with("X: y\nTransfer-Encoding: chunked\r\n"), bare_lf, 400},
            {"-", get_with("X: y\rTransfer-Encoding: chunked\r\n"), bare_cr, 400},
            {"-", get_with("Content-Length: 5\r\nContent-Length : 6\r\n"), space_before_colon, 400},
            {"-", get_with("Content-Length: 5\r\ncOnTeNt-lEnGtH: 6\r\n"), content_length_repeated, 400},
            {"-", get_with("Connection: \"close\"\r\n"), bad_connection, 400},
        });
}

TEST_CASE("a request's lines are refused at the byte that no line may hold") {
    check_rows(request,
               {
                   {"11", "GET / HTTP/1.1\nHost: a\n\n", bare_lf, 400},
                   {"11", "GET / HTTP/1.1\r\nHost: a\r\n\n", bare_lf, 400},
                   {"11", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", bare_lf, 400},
                   {"12", get_with("X: a\rb\r\n"), bare_cr, 400},
                   {"12", get_with("X: a\0b\r\n"sv), control_byte, 400},
                   {"12",
                    get_with("X: a\x01"
                             "b\r\n"),
                    control_byte, 400},
                   {"12", get_with("X: a\x1f\r\n"), control_byte, 400},
                   {"12", get_with("X: a\x7f\r\n"), control_byte, 400},
                   {"12", get_with("X: a\tb\r\n"), none, 0},
                   {"12", get_with("X: \x80\xff\r\n"), none, 0},
                   {"13", get_with("X: a\r\n b\r\n"), obs_fold, 400},
                   {"13", get_with("X: a\r\n\tb\r\n"), obs_fold, 400},
                   {"13", get_with("X: a\r\n \r\n"), obs_fold, 400},
                   {"14", get_with("X : a\r\n"), space_before_colon, 400},
                   {"14", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", leading_space, 400},
                   {"14", get_with(": a\r\n"), empty_name, 400},
                   {"14", get_with("X\r\n"), colon_missing, 400},
                   {"14", get_with("X(y): a\r\n"), bad_name, 400},
                   {"14", get_with("X\xc3\xa4: a\r\n"), bad_name, 400},
                   {"14", get_with("X@: a\r\n"), bad_name, 400},
                   {"15", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", none, 0},
                   {"15", "\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", none, 0},
                   {"15", "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", too_many_empty_lines, 400},
               });
}

TEST_CASE("a request's start line and host are read by the letter") {
    const auto line = [](std::string_view text) { return std::string(text) + "\r\nHost: a\r\n\r\n"; };
    check_rows(request, {
                            {"16", "GET / HTTP/1.1\r\n\r\n", host_missing, 400},
                            {"16", "GET http://a/ HTTP/1.1\r\n\r\n", host_missing, 400},
                            {"16", "GET / HTTP/1.0\r\n\r\n", none, 0},
                            {"16", get_with("Host: a\r\n"), host_repeated, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", bad_host, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: a/b@c\r\n\r\n", bad_host, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: a@c\r\n\r\n", bad_host, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: a,b:x\r\n\r\n", bad_host, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", bad_host, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", bad_host, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: [\r\n\r\n", bad_host, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: []\r\n\r\n", bad_host, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", bad_host, 400},
                            {"16", "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", none, 0},
                            {"16", "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", none, 0},
                            {"16", "GET / HTTP/1.1\r\nHost: a_b.example:8080\r\n\r\n", none, 0},
                            {"17", "GET / HTTP/1.1\r\nHost:\r\n\r\n", none, 0},
                            {"19", line("OPTIONS * HTTP/1.1"), none, 0},
                            {"19", line("GET * HTTP/1.1"), bad_target, 400},
                            {"20", line("CONNECT a:443 HTTP/1.1"), none, 0},
                            {"20", line("CONNECT a HTTP/1.1"), bad_target, 400},
                            {"20", line("CONNECT a: HTTP/1.1"), bad_target, 400},
                            {"20", line("CONNECT u@a:1 HTTP/1.1"), bad_target, 400},
                            {"20", line("CONNECT / HTTP/1.1"), bad_target, 400},
                            {"20", line("GET a:443 HTTP/1.1"), bad_target, 400},
                            {"21", line("GET /"), version_missing, 400},
                            {"21", line("GET / HTTP/0.9"), version_too_old, 400},
                            {"21", line("GET / HTTP/1.2"), none, 0},
                            {"21", line("GET / HTTP/2.0"), version_unsupported, 505},
                            {"21", line("PRI * HTTP/2.0"), version_unsupported, 505},
                            {"21", line("GET / http/1.1"), bad_version, 400},
                            {"21", line("GET / HTTP/1.10"), bad_version, 400},
                            {"21", line("GET / HTTP/x.1"), bad_version, 400},
                            {"21", line("GET / HTTP/1,1"), bad_version, 400},
                            {"21", line("GET / HTTP/1.x"), bad_version, 400},
                            {"21", line("GET / HTTP/1"), bad_version, 400},
                            {"21", line("GET / HTTP/1.1 "), bad_version, 400},
                            {"22", line("GET\t/ HTTP/1.1"), bad_method, 400},
                            {"22", line("GET /\tHTTP/1.1"), bad_target, 400},
                            {"22", line("GET  / HTTP/1.1"), bad_start_line, 400},
                            {"22", line("GET /  HTTP/1.1"), bad_version, 400},
                            {"22", line("GET /a b HTTP/1.1"), bad_version, 400},
                            {"22", line("GET"), bad_start_line, 400},
                            {"22", line("GET "), bad_start_line, 400},
                            {"22", line(" GET / HTTP/1.1"), bad_start_line, 400},
                            {"22", line("G(T / HTTP/1.1"), bad_method, 400},
                            {"22", "\x16\x03\x01\x02", bad_start_line, 400},
                            {"23", line("GET /#a HTTP/1.1"), bad_target, 400},
                            {"23", line("GET /\xc3\xa4 HTTP/1.1"), bad_target, 400},
                            {"23", line("GET ftp://a/ HTTP/1.1"), bad_target, 400},
                            {"23", line("GET http:///x HTTP/1.1"), bad_target, 400},
                            {"23", line("GET http://u@a/ HTTP/1.1"), bad_target, 400},
                            {"23", line("GET a/b HTTP/1.1"), bad_target, 400},
                            {"-", line(std::string(32, 'M') + " / HTTP/1.1"), none, 0},
                            {"-", line(std::string(33, 'M') + " / HTTP/1.1"), method_too_long, 501},
                            {"41", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", none, 0},
                            {"41", get_with("Content-Length: 3\r\n"), none, 0},
                        });
}

TEST_CASE("a response is refused where its end or its meaning is in doubt") {
    check_rows(
        response,
        {
            {"49", ok_with("Content-Length: 2\r\nContent-Length: 2\r\n"), content_length_repeated, 502},
            {"49", ok_with("Content-Length: 2x\r\n"), bad_content_length, 502},
            {"49", ok_with("X: \0\r\n"sv), control_byte, 502},
            {"49", ok_with("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"), length_and_chunked, 502},
            {"49", "HTTP/1.1 99 No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1 099 No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1 100 Go\r\n\r\n", none, 0},
            {"49", "HTTP/1.1 599 No\r\n\r\n", none, 0},
            {"49", "HTTP/1.1 600 No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1 2000 No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1 20x No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1  200 No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1 200\r\n\r\n", none, 0},
            {"49", "HTTP/1.1 200 \r\n\r\n", none, 0},
            {"49", "HTTP/1.1 20\r\n\r\n", bad_start_line, 502},
            {"49", "HTTP/1.1\t200 OK\r\n\r\n", bad_start_line, 502},
            {"49", "HTTP/2.0 200 OK\r\n\r\n", version_unsupported, 502},
            {"49", "ICY 200 OK\r\n\r\n", bad_start_line, 502},
            {"49", "<html>", bad_start_line, 502},
            {"49", "\r\nHTTP/1.1 200 OK\r\n\r\n", bad_start_line, 502},
            {"49", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", transfer_encoding_in_1_0, 502},
            {"49", ok_with(" X: a\r\n"), leading_space, 502},
            {"49", ok_with("Host: a b\r\n"), none, 0},
        });
}

TEST_CASE("what a request asks for is told as it was written") {
    const parsed p(request,
                   "\r\npOST /a//b/%2f/../c?d=|{}&e HTTP/1.3\r\nHost: a.example:81\r\nX-Y_z:  v w \t\r\n"
                   "Content-Length: 0042\r\nExpect: 100-Continue\r\nIdempotency-Key: k\r\n\r\n");

    CHECK(p.head.method() == http1_method::other);
    CHECK(p.head.method_text() == "pOST");
    CHECK(p.head.target() == "/a//b/%2f/../c?d=|{}&e");
    CHECK(p.head.path() == p.head.target());
    CHECK(p.head.authority() == "a.example:81");
    CHECK(p.head.version() == http1_version::v1_1);
    CHECK(p.head.field(1).name == "X-Y_z");
    CHECK(p.head.field(1).value == "v w");
    CHECK(p.head.field(1).id == http1_name::other);
    CHECK(p.head.field(2).is_framing());
    CHECK(!p.head.field(2).hop);
    CHECK(p.head.body_kind() == http1_body_kind::length);
    CHECK(p.head.content_length() == 42);
    CHECK(p.head.expect_continue());
    CHECK(
        !parsed(request, get_with("Expect: 100-continued\r\nVia: 100-continue\r\n")).head.expect_continue());
    CHECK(!parsed(request, "GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").head.expect_continue());
    CHECK(p.head.keep_alive());
    CHECK(p.head.has(http1_name::idempotency_key));
    CHECK(p.head.value_of(http1_name::idempotency_key) == "k");
    CHECK(!p.head.has(http1_name::via));
    CHECK(p.head.value_of(http1_name::via).empty());
}

TEST_CASE("every method of the enum is recognised and named") {
    for (const char* name : {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"}) {
        const parsed p(request, name + " / HTTP/1.1\r\nHost: a\r\n\r\n"s);
        CHECK(p.head.method() != http1_method::other);
        CHECK(to_string(p.head.method()) == std::string_view(name));
        CHECK(is_idempotent(p.head.method()) == (name != "POST"sv && name != "PATCH"sv));
    }
    const parsed p(request, "CONNECT a:1 HTTP/1.1\r\nHost: b\r\n\r\n");
    CHECK(p.head.method() == http1_method::connect);
    CHECK(p.head.authority() == "a:1");
    CHECK(p.head.path().empty());
}

TEST_CASE("every known field name is recognised in any case, and nothing that only resembles one") {
    const char* const names[] = {"Host",
                                 "Connection",
                                 "Keep-Alive",
                                 "Proxy-Connection",
                                 "TE",
                                 "Trailer",
                                 "Transfer-Encoding",
                                 "Upgrade",
                                 "Content-Length",
                                 "Expect",
                                 "Date",
                                 "Via",
                                 "Server",
                                 "Forwarded",
                                 "X-Forwarded-For",
                                 "X-Forwarded-Host",
                                 "X-Forwarded-Proto",
                                 "Max-Forwards",
                                 "Retry-After",
                                 "Idempotency-Key",
                                 "Authorization",
                                 "WWW-Authenticate"};
    int expected = 0;
    for (std::string name : names) {
        const http1_name id = static_cast<http1_name>(++expected);
        const std::string value = id == http1_name::transfer_encoding ? "chunked" : "1";
        for (int style = 0; style < 3; ++style) {
            for (char& c : name)
                c = static_cast<char>(style == 0 ? c : style == 1 ? std::toupper(c) : std::tolower(c));
            CAPTURE(name);
            std::string lines = name + ": " + value + "\r\n" + name + "x: 1\r\n" + name.substr(1) + ": 1\r\n";
            for (std::size_t i = 0; i < name.size(); ++i)
                lines += std::string(name).replace(i, 1, "~") + ": 1\r\n";
            const parsed p(response, ok_with(lines));
            CHECK(p.head.field(0).id == id);
            for (std::size_t i = 1; i < p.head.field_count(); ++i)
                CHECK(p.head.field(i).id == http1_name::other);
        }
    }
}

TEST_CASE("the authority of an absolute-form target replaces Host, and its path is what is sent on") {
    const struct {
        const char *line, *authority, *path;
        bool slash;
    } cases[] = {{"GET http://b:8/x?y", "b:8", "/x?y", false},
                 {"GET HTTP://b/", "b", "/", false},
                 {"GET https://b", "b", "/", false},
                 {"GET http://b?y/z", "b", "?y/z", true},
                 {"OPTIONS http://b", "b", "*", false},
                 {"OPTIONS http://b/", "b", "/", false},
                 {"OPTIONS http://b?q", "b", "?q", true},
                 {"OPTIONS *", "a", "*", false},
                 {"GET http://[::1]:8/", "[::1]:8", "/", false}};
    for (const auto& c : cases) {
        CAPTURE(c.line);
        const parsed p(request, c.line + " HTTP/1.1\r\nHost: a\r\n\r\n"s);
        CHECK(p.head.authority() == c.authority);
        CHECK(p.head.path() == c.path);
        CHECK(p.head.path_needs_slash() == c.slash);
        CHECK(p.head.is_absolute_form() == (c.authority != "a"sv));
    }
}

TEST_CASE("each limit passes what is exactly as long and refuses one more") {
    const http1_limits small{
        .start_line_bytes_max = 20, .head_bytes_max = 60, .fields_max = 2, .name_bytes_max = 6};
    CHECK(error_of(request, "GET /234567 HTTP/1.1\r\nHost: a\r\n\r\n", small) == none);
    CHECK(error_of(request, "GET /2345678 HTTP/1.1\r\nHost: a\r\n\r\n", small) == uri_too_long);
    CHECK(error_of(request, "GET /2345678901234567890", small) == uri_too_long);
    CHECK(error_of(response, "HTTP/1.1 200 8901234\r\n\r\n", small) == none);
    CHECK(error_of(response, "HTTP/1.1 200 89012345\r\n\r\n", small) == uri_too_long);
    CHECK(error_of(request, get_with("A23456: a\r\n"), small) == none);
    CHECK(error_of(request, get_with("A234567: a\r\n"), small) == name_too_long);
    CHECK(error_of(request, get_with("A:b\r\n"), small) == none);
    CHECK(error_of(request, get_with("A:b\r\nC:d\r\n"), small) == too_many_fields);
    const std::string full = get_with("A:" + std::string(60 - get_with("A:\r\n").size(), 'x') + "\r\n");
    CHECK(full.size() == 60);
    CHECK(error_of(request, full, small) == none);
    CHECK(error_of(request, std::string(full).insert(30, "x"), small) == head_too_large);
    CHECK(error_of(request, "GET / HTTP/1.1\r\n" + std::string(44, 'x'), small) == head_too_large);
    const http1_limits lenient{.start_line_bytes_max = 14, .leading_crlf_max = 1, .allow_bare_lf = true};
    CHECK(error_of(request, "\nGET / HTTP/1.1\nHost: a\r\n\n", lenient) == none);
    CHECK(error_of(request, "\n\nGET / HTTP/1.1\nHost: a\r\n\n", lenient) == too_many_empty_lines);
    CHECK(error_of(request, "GET /x HTTP/1.1\nHost: a\n\n", lenient) == uri_too_long);
}

TEST_CASE("the default limits are those of http.md section 5") {
    static http1_head head;
    const auto outcome = [](const std::string& bytes) {
        head.start(request);
        (void)head.parse(bytes);
        return head.error();
    };
    const auto line = [](std::size_t size) {
        return "GET /" + std::string(size - 14, 'x') + " HTTP/1.1\r\nHost: a\r\n\r\n";
    };
    CHECK(outcome(line(8192)) == none);
    CHECK(outcome(line(8193)) == uri_too_long);
    const auto sized = [](std::size_t size) {
        return get_with("A:" + std::string(size - get_with("A:\r\n").size(), 'x') + "\r\n");
    };
    CHECK(outcome(sized(15 * 1024)) == none);
    CHECK(outcome(sized(15 * 1024 + 1)) == head_too_large);
    const auto fields = [](int count) {
        std::string lines;
        for (int i = 1; i < count; ++i)
            lines += "a: b\r\n";
        return get_with(lines);
    };
    CHECK(outcome(fields(100)) == none);
    CHECK(head.field_count() == 100);
    CHECK(outcome(fields(101)) == too_many_fields);
    CHECK(outcome(get_with(std::string(256, 'n') + ": b\r\n")) == none);
    CHECK(outcome(get_with(std::string(257, 'n') + ": b\r\n")) == name_too_long);
    const auto options = [](int count) {
        std::string list = "a";
        while (--count > 0)
            list += ",a";
        return get_with("Connection: " + list + "\r\n");
    };
    CHECK(outcome(options(32)) == none);
    CHECK(outcome(options(33)) == too_many_connection_options);
    CHECK(status_of(uri_too_long) == 414);
    CHECK(status_of(head_too_large) == 431);
    CHECK(status_of(too_many_fields) == 431);
}

TEST_CASE("no byte after those given is read") {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* const map = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(map != MAP_FAILED);
    char* const guard = static_cast<char*>(map) + page;
    REQUIRE(mprotect(guard, page, PROT_NONE) == 0);
    static http1_head head;

    for (const std::string& text :
         {get_with("Connection: close, x\r\nX: " + std::string(70, 'v') + "\r\n"),
          get_with("Transfer-Encoding: chunked\r\n"), "OPTIONS http://a HTTP/1.1\r\nHost:\r\n\r\n"s}) {
        for (std::size_t size = 0; size <= text.size(); ++size) {
            std::memcpy(guard - size, text.data(), size);
            head.start(request);
            const progress end = head.parse({guard - size, size});
            CHECK(end == (size == text.size() ? progress::done : progress::more));
        }
    }
    munmap(map, 2 * page);
}

TEST_CASE("bytes after the head are left alone") {
    static http1_head head;
    const std::string bytes = get_with("") + "\0\n\r junk"s;
    head.start(request);
    CHECK(head.parse(bytes) == progress::done);
    CHECK(head.size() == get_with("").size());
    CHECK(head.parse(bytes) == progress::done);
}

TEST_CASE("a mutated head has one verdict however it is cut") {
    const char* const given = std::getenv("WEIR_SEED");
    const unsigned seed = given != nullptr ? static_cast<unsigned>(std::atoi(given)) : 1;
    MESSAGE("WEIR_SEED=" << seed);
    std::mt19937 random(seed);
    const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    const std::string seeds[] = {
        get_with("Connection: close, x-a, upgrade\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: ws\r\n"),
        get_with("Content-Length: 10\r\nExpect: 100-continue\r\n"),
        get_with("Transfer-Encoding: chunked\r\n"),
        "\r\nOPTIONS http://[::1]:80?a HTTP/1.0\r\nHost: b:1\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        ok_with("Content-Length: 3\r\nConnection: keep-alive\r\n"),
        "HTTP/1.0 204\r\nTrailer: a\r\n\r\n"};
    const std::string spice[] = {"\r\n",
                                 "\n",
                                 "\r",
                                 " ",
                                 "\t",
                                 ":",
                                 ",",
                                 "\0"s,
                                 "\x7f",
                                 "\xff",
                                 "#",
                                 "0",
                                 "HTTP/1.1",
                                 "Content-Length: 1\r\n",
                                 "Transfer-Encoding: chunked\r\n",
                                 "Host: c\r\n",
                                 "close",
                                 "@"};
    int done = 0;
    for (int round = 0; round < 20000; ++round) {
        std::string bytes = seeds[below(std::size(seeds))];
        for (std::size_t edits = below(4); edits > 0; --edits) {
            const std::size_t at = below(bytes.size() + 1);
            if (below(2) == 0)
                bytes.insert(at, spice[below(std::size(spice))]);
            else
                bytes.erase(at, below(6));
        }
        const http1_kind kind = below(2) == 0 ? request : response;
        const http1_limits limits{.fields_max = 6, .name_bytes_max = 18, .allow_bare_lf = below(4) == 0};
        const std::string whole = parse_cut(kind, bytes, {}, limits);
        std::vector<std::size_t> each;
        for (std::size_t cut = 0; cut < bytes.size(); ++cut)
            each.push_back(cut);
        CHECK(parse_cut(kind, bytes, each, limits) == whole);
        for (int cuts = 0; cuts < 3; ++cuts)
            CHECK(parse_cut(kind, bytes, {below(bytes.size() + 1)}, limits) == whole);
        done += whole.starts_with("done");
    }
    CHECK(done > 1000);
}
