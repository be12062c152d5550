// http1_head: what is refused, and where the limits are.

#include "proto/http1_head.hpp"

#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "support/http1_heads.hpp"

namespace {

using namespace weir;
using namespace support;
using namespace std::string_literals;
using namespace std::string_view_literals;

using progress = http1_head::progress;
using enum http1_error;

http1_error error_of(http1_kind kind, std::string_view bytes, const http1_limits& limits = {}) {
    const std::string outcome = parse(kind, bytes, limits);
    http1_head head;
    head.start(kind, limits);
    const progress end = head.parse(bytes);
    REQUIRE_MESSAGE(end != progress::more, bytes);
    return head.error();
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
            {"49", "HTTP/1.1 600 No\r\n\r\n", none, 0},
            {"49", "HTTP/1.1 999 Request Denied\r\n\r\n", none, 0},
            {"49", "HTTP/1.1 000 No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1 :00 No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1 2000 No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1 20x No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1  200 No\r\n\r\n", bad_status, 502},
            {"49", "HTTP/1.1 200\r\n\r\n", none, 0},
            {"-", "\r\nHTTP/1.1 200 OK\r\n\r\n", none, 0}, // behind the answer before: RFC 9112 section 2.2
            {"-", "\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", none, 0},
            {"-", "\r\n\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", too_many_empty_lines, 502},
            {"-", "\r\rHTTP/1.1 200 OK\r\n\r\n", bare_cr, 502},
            {"-", "\nHTTP/1.1 200 OK\r\n\r\n", bare_lf, 502},
            {"49", "HTTP/1.1 200 \r\n\r\n", none, 0},
            {"49", "HTTP/1.1 20\r\n\r\n", bad_start_line, 502},
            {"49", "HTTP/1.1\t200 OK\r\n\r\n", bad_start_line, 502},
            {"49", "HTTP/2.0 200 OK\r\n\r\n", version_unsupported, 502},
            {"49", "ICY 200 OK\r\n\r\n", bad_start_line, 502},
            {"49", "<html>", bad_start_line, 502},
            {"49", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", transfer_encoding_in_1_0, 502},
            {"49", ok_with(" X: a\r\n"), leading_space, 502},
            {"49", ok_with("Host: a b\r\n"), none, 0},
        });
}

TEST_CASE("white space before a colon is dropped from a response, and the field means what its name says") {
    const auto with = [](std::string_view lines) { return parse(response, ok_with(lines)); };
    const auto tail = [](std::string outcome) { return outcome.substr(outcome.find("|200|")); };
    // Everything but the size, which is that of the bytes received.
    CHECK(tail(with("Content-Length : 5\r\nX \t : a\r\n")) == tail(with("Content-Length: 5\r\nX: a\r\n")));
    CHECK(tail(with("Transfer-Encoding\t: chunked\r\n")) == tail(with("Transfer-Encoding: chunked\r\n")));
    CHECK(tail(with("Connection : x, close\r\nX : a\r\n")) == tail(with("Connection: x, close\r\nX: a\r\n")));
    check_rows(response,
               {
                   {"14", ok_with("Content-Length : 5\r\nContent-Length: 6\r\n"), content_length_repeated, 502},
                   {"14", ok_with("Content-Length: 5\r\nContent-Length : 5\r\n"), content_length_repeated, 502},
                   {"14", ok_with("Content-Length: 5\r\nTransfer-Encoding : chunked\r\n"), length_and_chunked, 502},
                   {"14", ok_with("Transfer-Encoding : chunked\r\nContent-Length\t: 5\r\n"), length_and_chunked, 502},
                   {"14", ok_with("Transfer-Encoding : gzip\r\n"), unknown_transfer_coding, 502},
                   {"14", ok_with("Content-Length x: 5\r\n"), bad_name, 502},
                   {"14", ok_with("Content-Length \r\n"), colon_missing, 502},
                   {"14", ok_with("Content-Length \v: 5\r\n"), control_byte, 502},
                   {"14", ok_with("X: a\r\n : b\r\n"), obs_fold, 502},
                   {"14", ok_with(" : b\r\n"), leading_space, 502},
                   {"14", ok_with("\"X\" : b\r\n"), bad_name, 502},
                   {"14", ok_with(std::string(257, 'n') + " : b\r\n"), name_too_long, 502},
               });
}

TEST_CASE("with bare LF allowed a line ends with LF or CRLF, and still not with CR") {
    const http1_limits lenient{.allow_bare_lf = true};
    const auto tail = [](std::string outcome) { return outcome.substr(outcome.find("|200|")); };
    const std::string strict = tail(parse(response, ok_with("Content-Length: 5\r\nX: a\r\n")));
    CHECK(tail(parse(response, "HTTP/1.1 200 OK\nContent-Length: 5\nX: a\n\n", lenient)) == strict);
    CHECK(tail(parse(response, "HTTP/1.1 200 OK\r\nContent-Length: 5\nX: a\r\n\n", lenient)) == strict);
    CHECK(error_of(response, "HTTP/1.1 200 OK\rContent-Length: 5\n\n", lenient) == bare_cr);
    CHECK(error_of(response, "HTTP/1.1 200 OK\nContent-Length: 5\n\n") == bare_lf);
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

} // namespace
