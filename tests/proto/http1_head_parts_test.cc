// http1_head: what is told of a head that was read, and that nothing beyond it is.

#include "proto/http1_head.hpp"

#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <sys/mman.h>
#include <unistd.h>

#include "support/http1_heads.hpp"

namespace {

using namespace weir;
using namespace support;
using namespace std::string_literals;
using namespace std::string_view_literals;

using progress = http1_head::progress;

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

TEST_CASE("what a request asks for is told as it was written") {
    const parsed p(request,
                   "\r\npOST /a//b/%2f/../c?d=|{}&e HTTP/1.3\r\nHost: a.example:81\r\nX-Y_z:  v w \t\r\n"
                   "Content-Length: 0042\r\nExpect: 100-Continue\r\nOther: k\r\n\r\n");

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
    CHECK(p.head.has(http1_name::expect));
    CHECK(!p.head.has(http1_name::trailer));
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
    }
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

} // namespace
