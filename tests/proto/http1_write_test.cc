// http1_write: what is forwarded of a head and what is not, and how answers look.

#include "proto/http1_write.hpp"

#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

namespace {

using namespace weir;
using namespace std::string_literals;

using enum http1_persistence;

// `text` lives as long as what is asked of the head.
http1_head parsed(http1_kind kind, std::string_view text) {
    http1_head head;
    head.start(kind);
    REQUIRE(head.parse(text) == http1_head::progress::done);
    return head;
}

http1_framing framing_of(const http1_head& head) {
    return {.kind = head.body_kind(), .length = head.content_length()};
}

// What goes to the server of a request with these lines between its start line and the empty line.
std::string request(std::string_view fields, http1_persistence how = unsaid, std::string_view start = "GET / HTTP/1.1",
                    const http1_forwarding& more = {}) {
    const std::string text = std::string(start) + "\r\n" + std::string(fields) + "\r\n";
    const http1_head head = parsed(http1_kind::request, text);
    char room[4096];
    return {room, write_request_head(room, sizeof room, head, framing_of(head), how, more)};
}
std::string response(std::string_view fields, http1_persistence how = unsaid, std::string_view start = "HTTP/1.1 200 OK") {
    const std::string text = std::string(start) + "\r\n" + std::string(fields) + "\r\n";
    const http1_head head = parsed(http1_kind::response, text);
    http1_framing framing = framing_of(head);
    char room[4096];
    return {room, write_response_head(room, sizeof room, head, framing, how)};
}

const std::string get = "GET / HTTP/1.1\r\nHost: h\r\n";
const std::string ok = "HTTP/1.1 200 OK\r\n";

// --- fields

TEST_CASE("fields go on in their order, names in their case, values byte for byte") {
    CHECK(request("X-b: 1\r\nHost: h\r\nx_A:  two  words \r\nX-B: \xc3\xa9\"\r\nEmpty:\r\n") ==
          get + "X-b: 1\r\nx_A: two  words\r\nX-B: \xc3\xa9\"\r\nEmpty: \r\n\r\n");
    CHECK(response("X-b: 1\r\nServer: s\r\nDate: d\r\nx_A:  2 \r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n") ==
          ok + "X-b: 1\r\nServer: s\r\nDate: d\r\nx_A: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n");
}

TEST_CASE("hop-by-hop fields stay behind, in both directions and in any case") {
    for (const char* field : {"Connection: x-none", "connection: close", "Keep-Alive: timeout=5", "KEEP-ALIVE: max=1",
                              "Proxy-Connection: keep-alive", "TE: trailers", "te: gzip", "Trailer: X-T", "Upgrade: h2c",
                              "upgrade: websocket"}) {
        INFO(field);
        CHECK(request("Host: h\r\n" + std::string(field) + "\r\nX: y\r\n") == get + "X: y\r\n\r\n");
        CHECK(response(std::string(field) + "\r\nX: y\r\nContent-Length: 0\r\n") == ok + "X: y\r\nContent-Length: 0\r\n\r\n");
    }
}

TEST_CASE("what Connection nominates stays behind, wherever it stands and however it is spelled") {
    CHECK(request("Host: h\r\nx-one: 1\r\nConnection: X-One, x-two ,close\r\nX-TWO: 2\r\nX-Three: 3\r\nX-Two: again\r\n") ==
          get + "X-Three: 3\r\n\r\n");
    CHECK(response("X-One: 1\r\nConnection: x-one\r\nConnection: Date\r\nDate: d\r\nX: y\r\nContent-Length: 0\r\n") ==
          ok + "X: y\r\nContent-Length: 0\r\n\r\n");
    CHECK(request("Host: h\r\nConnection: x-forwarded-for, via\r\nX-Forwarded-For: a\r\nVia: b\r\n") == get + "\r\n");
}

TEST_CASE("Connection cannot take away Host or the framing") {
    CHECK(request("Host: h\r\nConnection: host, content-length\r\nContent-Length: 3\r\n") == get + "Content-Length: 3\r\n\r\n");
    CHECK(request("Host: h\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n") ==
          get + "Transfer-Encoding: chunked\r\n\r\n");
    CHECK(response("Connection: content-length\r\nContent-Length: 3\r\n") == ok + "Content-Length: 3\r\n\r\n");
}

TEST_CASE("a name that only begins like a nominated one goes on") {
    CHECK(request("Host: h\r\nConnection: x-a\r\nX-Ab: 1\r\nX-: 2\r\n") == get + "X-Ab: 1\r\nX-: 2\r\n\r\n");
}

TEST_CASE("Expect goes on, but not from HTTP/1.0, where it means nothing") {
    CHECK(request("Host: h\r\nExpect: 100-continue\r\n") == get + "Expect: 100-continue\r\n\r\n");
    CHECK(request("Host: h\r\nExpect: something\r\n") == get + "Expect: something\r\n\r\n");
    CHECK(request("Host: h\r\nExpect: 100-continue\r\n", unsaid, "GET / HTTP/1.0") == get + "\r\n");
}

// --- the start line and Host

TEST_CASE("the request goes on as HTTP/1.1, whatever its version") {
    CHECK(request("Host: h\r\n", unsaid, "GET / HTTP/1.0") == get + "\r\n");
    CHECK(request("Host: h\r\n", unsaid, "GET / HTTP/1.9") == get + "\r\n");
    CHECK(request("Host: h\r\n", unsaid, "brew /pot HTTP/1.1") == "brew /pot HTTP/1.1\r\nHost: h\r\n\r\n");
}

TEST_CASE("what is escaped stays on its line and within its quotes") {
    char room[64];
    http1_writer out{room, sizeof room};
    out.put_escaped({"GET /a?b~\"\\\r\n\t\x7f\xc3\x00", 17}).put_escaped("");
    CHECK(std::string(room, out.size()) == "GET /a?b~\\x22\\x5c\\x0d\\x0a\\x09\\x7f\\xc3\\x00");
    http1_writer small{room, 3};
    CHECK(small.put_escaped("\n").size() == 0);
}

TEST_CASE("the target goes on byte for byte") {
    for (const char* target : {"/", "/a//b/../c?d=%2F&e=?", "/%41|{}\"", "/a;b=c", "/?", "*"}) {
        const std::string method = target == "*"s ? "OPTIONS " : "GET ";
        const std::string start = method + target + " HTTP/1.1";
        CHECK(request("Host: h\r\n", unsaid, start) == start + "\r\nHost: h\r\n\r\n");
    }
}

TEST_CASE("the authority of an absolute target replaces Host") {
    CHECK(request("Host: other\r\nX: y\r\n", unsaid, "GET http://there:81/a?b HTTP/1.1") ==
          "GET /a?b HTTP/1.1\r\nHost: there:81\r\nX: y\r\n\r\n");
    CHECK(request("", unsaid, "GET http://there/ HTTP/1.0") == "GET / HTTP/1.1\r\nHost: there\r\n\r\n");
}

TEST_CASE("an absolute target without a path gets a slash; OPTIONS gets an asterisk") {
    CHECK(request("Host: h\r\n", unsaid, "GET http://h HTTP/1.1") == get + "\r\n");
    CHECK(request("Host: h\r\n", unsaid, "GET http://h?q=1 HTTP/1.1") == "GET /?q=1 HTTP/1.1\r\nHost: h\r\n\r\n");
    CHECK(request("Host: h\r\n", unsaid, "OPTIONS http://h HTTP/1.1") == "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n");
}

TEST_CASE("without a Host, and with an empty one, an empty one is sent") {
    CHECK(request("", unsaid, "GET / HTTP/1.0") == "GET / HTTP/1.1\r\nHost: \r\n\r\n");
    CHECK(request("Host:\r\n") == "GET / HTTP/1.1\r\nHost: \r\n\r\n");
}

TEST_CASE("the status goes on as HTTP/1.1, with its reason or without") {
    CHECK(response("Content-Length: 0\r\n", unsaid, "HTTP/1.0 404 Not here, sorry") ==
          "HTTP/1.1 404 Not here, sorry\r\nContent-Length: 0\r\n\r\n");
    CHECK(response("Content-Length: 0\r\n", unsaid, "HTTP/1.1 299 ") == "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n");
    CHECK(response("Content-Length: 0\r\n", unsaid, "HTTP/1.1 299") == "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n");
}

// --- framing

TEST_CASE("framing is written anew, behind the other fields") {
    CHECK(request("Content-Length:   007\r\nHost: h\r\nX: y\r\n") == get + "X: y\r\nContent-Length: 7\r\n\r\n");
    CHECK(request("Transfer-Encoding:  Chunked\r\nHost: h\r\nX: y\r\n") == get + "X: y\r\nTransfer-Encoding: chunked\r\n\r\n");
    CHECK(request("Content-Length: 9223372036854775807\r\nHost: h\r\n") == get + "Content-Length: 9223372036854775807\r\n\r\n");
}

TEST_CASE("the framing asked for is written, not the one that came") {
    const http1_head head = parsed(http1_kind::response, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    const auto written = [&](const http1_framing& framing) {
        char room[256];
        return std::string{room, write_response_head(room, sizeof room, head, framing, unsaid)};
    };
    CHECK(written({.kind = http1_body_kind::none}) == ok + "\r\n");
    CHECK(written({.kind = http1_body_kind::none, .length = 5, .says_length = true}) == ok + "Content-Length: 5\r\n\r\n");
    CHECK(written({.kind = http1_body_kind::length, .length = 0}) == ok + "Content-Length: 0\r\n\r\n");
    CHECK(written({.kind = http1_body_kind::chunked}) == ok + "Transfer-Encoding: chunked\r\n\r\n");
    CHECK(written({.kind = http1_body_kind::until_close}) == ok + "\r\n");
}

// --- persistence

TEST_CASE("Connection is written anew: close, keep-alive, or nothing") {
    CHECK(response("Connection: keep-alive\r\nContent-Length: 0\r\n", close) == ok + "Content-Length: 0\r\nConnection: close\r\n\r\n");
    CHECK(response("Connection: close\r\nContent-Length: 0\r\n", keep_alive) ==
          ok + "Content-Length: 0\r\nConnection: keep-alive\r\n\r\n");
    CHECK(request("Host: h\r\nConnection: close\r\n", close) == get + "Connection: close\r\n\r\n");
}

TEST_CASE("an upgrade goes on with the offers that are allowed, and with Connection naming nothing else") {
    const std::string_view start = "GET / HTTP/1.1";
    const std::string fields = "Host: h\r\nUpgrade: a, c\r\nConnection: X-H, Upgrade\r\nX-H: 1\r\nupgrade: B/2\r\n";
    CHECK(request(fields, upgrade, start, {.upgrades = "b/2, a"}) == get + "Connection: upgrade\r\nUpgrade: a, B/2\r\n\r\n");
    CHECK(request(fields, upgrade, start, {.upgrades = "c"}) == get + "Connection: upgrade\r\nUpgrade: c\r\n\r\n");
    CHECK(request(fields, upgrade, start, {.upgrades = "d"}) == get + "\r\n");
    CHECK(request(fields, upgrade) == get + "\r\n");
    CHECK(response("Upgrade: a\r\nConnection: upgrade\r\nX: y\r\n", upgrade, "HTTP/1.1 101 Switching Protocols") ==
          "HTTP/1.1 101 Switching Protocols\r\nX: y\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n");
}

TEST_CASE("HTTP2-Settings stays behind, whether Connection names it or not") {
    for (const char* names : {"Upgrade, HTTP2-Settings", "Upgrade", "close"})
        CHECK(request("Host: h\r\nConnection: "s + names + "\r\nUpgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n") == get + "\r\n");
    CHECK(request("Host: h\r\nHTTP2-Setting: x\r\n") == get + "HTTP2-Setting: x\r\n\r\n");
}

TEST_CASE("a request without Host gets the one that the proxy names, and no other does") {
    const http1_forwarding own{.own_host = "server:81"};
    CHECK(request("A: b\r\n", unsaid, "GET / HTTP/1.0", own) == "GET / HTTP/1.1\r\nHost: server:81\r\nA: b\r\n\r\n");
    CHECK(request("Host: h\r\n", unsaid, "GET / HTTP/1.0", own) == get + "\r\n");
    CHECK(request("Host:\r\n", unsaid, "GET / HTTP/1.0", own) == "GET / HTTP/1.1\r\nHost: \r\n\r\n"); // empty, and said so
    CHECK(request("", unsaid, "GET http://h/ HTTP/1.0", own) == get + "\r\n");
}

// --- room

TEST_CASE("a head that fits exactly is written, in one byte less nothing is") {
    const http1_head from_client = parsed(http1_kind::request, "POST /p HTTP/1.1\r\nHost: h\r\nX: y\r\nContent-Length: 12\r\n\r\n");
    const http1_head from_server = parsed(http1_kind::response, "HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n");
    char room[256];
    const std::size_t request_bytes = write_request_head(room, sizeof room, from_client, framing_of(from_client), close);
    const std::size_t response_bytes = write_response_head(room, sizeof room, from_server, framing_of(from_server), close);
    const std::size_t answer_bytes = write_answer(room, sizeof room, {.status = 503, .body = "x"}, false, close);
    REQUIRE(request_bytes > 0);
    REQUIRE(response_bytes > 0);
    REQUIRE(answer_bytes > 0);
    for (std::size_t less = 0; less < 256; less++) {
        // Memory of just that size, for AddressSanitizer to watch.
        const auto fits = [&](std::size_t whole, auto write) {
            if (less > whole) return;
            std::vector<char> just(whole - less);
            CHECK(write(just.data(), just.size()) == (less == 0 ? whole : 0));
        };
        fits(request_bytes, [&](char* to, std::size_t n) { return write_request_head(to, n, from_client, framing_of(from_client), close); });
        fits(response_bytes, [&](char* to, std::size_t n) { return write_response_head(to, n, from_server, framing_of(from_server), close); });
        fits(answer_bytes, [&](char* to, std::size_t n) { return write_answer(to, n, {.status = 503, .body = "x"}, false, close); });
    }
}

TEST_CASE("a writer that once ran out of room stays out of it") {
    char room[4];
    http1_writer out{room, sizeof room};
    out.put("abc").put("de");
    CHECK(out.size() == 0);
    CHECK(out.room() == 0);
    out.put("f").put_number(1);
    CHECK(out.size() == 0);
    out.take(3);
    CHECK(out.size() == 0);
}

TEST_CASE("what others wrote at next() is taken in") {
    char room[16];
    http1_writer out{room, sizeof room};
    out.put("ab");
    CHECK(out.room() == 14);
    out.next()[0] = 'c';
    out.take(1);
    out.put("d");
    CHECK(std::string(room, out.size()) == "abcd");
    out.take(0); // it did not fit
    CHECK(out.size() == 0);
}

TEST_CASE("numbers are written in full") {
    char room[32];
    for (const auto& [value, text] : {std::pair{std::uint64_t{0}, "0"}, std::pair{UINT64_MAX, "18446744073709551615"}}) {
        http1_writer out{room, sizeof room};
        CHECK(std::string(room, out.put_number(value).size()) == text);
    }
}

// --- answers

TEST_CASE("an answer is a whole message, for each status that weir sends") {
    const std::pair<int, const char*> reasons[] = {
        {200, "OK"}, {400, "Bad Request"}, {404, "Not Found"}, {408, "Request Timeout"}, {413, "Content Too Large"},
        {414, "URI Too Long"}, {431, "Request Header Fields Too Large"},
        {501, "Not Implemented"}, {502, "Bad Gateway"}, {504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"}, {299, "Unknown"},
    };
    for (const auto& [status, reason] : reasons) {
        char room[256];
        const std::size_t n = write_answer(room, sizeof room, {.status = status, .body = "why\n"}, false, unsaid);
        CHECK(std::string(room, n) == "HTTP/1.1 " + std::to_string(status) + " " + reason +
                                          "\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nwhy\n");
    }
}

TEST_CASE("405 says what is allowed, 503 when to come again") {
    char room[512];
    const auto written = [&](int status) { return std::string{room, write_answer(room, sizeof room, {.status = status, .allow = "GET"}, false, unsaid)}; };
    CHECK(written(405) == "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n"
                          "Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n");
    CHECK(written(503) == "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n");
}

TEST_CASE("the answer to a HEAD announces its body and does not send it") {
    char room[256];
    const std::size_t n = write_answer(room, sizeof room, {.content_type = "a/b", .body = "12345"}, true, keep_alive);
    CHECK(std::string(room, n) == ok + "Content-Type: a/b\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n");
    const std::size_t m = write_answer(room, sizeof room, {.content_type = "a/b", .body = "12345"}, false, close);
    CHECK(std::string(room, m) == ok + "Content-Type: a/b\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345");
}

} // namespace
