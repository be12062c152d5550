#include <doctest/doctest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "proto/http1_body.hpp"

using namespace weir;
using namespace std::string_literals;
using namespace std::string_view_literals;

namespace {

using what = http1_body::what;
using finish_result = http1_body::finish_result;

struct outcome {
    what end = what::more; // more: the input ran out
    http1_body_error error = http1_body_error::none;
    std::string data;
    std::size_t used = 0;
    std::uint64_t received = 0;
    bool operator==(const outcome&) const = default;
};

struct task {
    http1_body_kind kind = http1_body_kind::chunked;
    std::uint64_t length = 0;
    http1_body_limits limits{};
};

// Feeds `bytes` in pieces that end at each of `cuts` and at the end. Each piece lies alone in a heap block.
outcome decode_cut(const task& job, std::string_view bytes, const std::vector<std::size_t>& cuts) {
    http1_body body;
    body.start(job.kind, job.length, job.limits);
    outcome result;
    const auto feed = [&](std::size_t to) {
        const std::vector<char> piece(bytes.begin() + std::ptrdiff_t(result.used),
                                      bytes.begin() + std::ptrdiff_t(to));
        std::string_view in(piece.data(), piece.size());
        while (true) {
            const http1_body::step step = body.next(in);
            REQUIRE(step.used <= in.size());
            REQUIRE(step.data.empty() == (step.is != what::data));
            if (step.is == what::data) REQUIRE(step.data.data() + step.data.size() == in.data() + step.used);
            if (step.is == what::more) REQUIRE(step.used == in.size());
            result.data += step.data;
            result.used += step.used;
            result.end = step.is;
            in.remove_prefix(step.used);
            if (step.is != what::data) return;
        }
    };
    for (const std::size_t cut : cuts) {
        feed(cut);
        if (result.end != what::more) break;
    }
    if (cuts.empty() || result.end == what::more) feed(bytes.size());
    result.error = body.error();
    result.received = body.received();
    CHECK(body.done() == (result.end == what::end));
    CHECK(result.received == result.data.size());
    return result;
}

// The outcome, which must not depend on how the bytes are cut.
outcome decode(std::string_view bytes, const task& job = {}) {
    const outcome whole = decode_cut(job, bytes, {});
    std::vector<std::size_t> each;
    for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
        each.push_back(cut);
        outcome cut_once = decode_cut(job, bytes, {cut});
        if (!(cut_once == whole)) FAIL("cut at " << cut << " of: " << bytes);
    }
    CHECK(decode_cut(job, bytes, each) == whole);
    return whole;
}

using enum http1_body_error;

} // namespace

TEST_CASE("a body ends where its framing says and not one byte later") {
    const struct {
        task job;
        std::string_view bytes, data, rest;
    } cases[] = {
        {{http1_body_kind::none}, "GET", "", "GET"},
        {{http1_body_kind::length, 0}, "GET", "", "GET"},
        {{http1_body_kind::length, 3}, "abcGET", "abc", "GET"},
        {{}, "0\r\n\r\nGET", "", "GET"},
        {{}, "000\r\n\r\n\r\n", "", "\r\n"},
        {{}, "3\r\nabc\r\n0\r\n\r\nGET", "abc", "GET"},
        {{}, "3\r\n\r\n0\r\n00002\r\nxy\r\n0\r\n\r\n", "\r\n0xy", ""},
        {{}, "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", ""},
        {{}, "1 \t;a\r\nx\r\n0;b=c\r\n\r\nG", "x", "G"},
        {{}, "1;a;b=c ; d = \"e;\\\"\\\\ \t\xff\";f\r\nx\r\n0\r\n\r\n", "x", ""},
        {{}, "1\r\nx\r\n0\r\nA: b\r\nContent-Length: 5\r\nC:\r\nD: \t \xff\r\n\r\nG", "x", "G"},
    };
    for (const auto& c : cases) {
        CAPTURE(c.bytes);
        const outcome result = decode(c.bytes, c.job);
        CHECK(result.end == what::end);
        CHECK(result.data == c.data);
        CHECK(c.bytes.substr(result.used) == c.rest);
        for (std::size_t size = 0; size + c.rest.size() < c.bytes.size(); ++size) {
            CHECK(decode_cut(c.job, c.bytes.substr(0, size), {}).end == what::more);
        }
    }
}

TEST_CASE("chunked framing that two readers could read differently is refused") {
    const struct {
        std::string_view bytes;
        http1_body_error error;
    } cases[] = {
        {"\r\n", chunk_size_missing},
        {";a\r\n", chunk_size_missing},
        {" 1\r\n", chunk_size_missing},
        {"-1\r\n", chunk_size_missing},
        {"0x1\r\n", bad_chunk_size},
        {"1g\r\n", bad_chunk_size},
        {"1_0\r\n", bad_chunk_size},
        {"1\n", bare_lf},
        {"\n", bare_lf},
        {"1\rx", bare_cr},
        {"1 \r\n", bad_extension},
        {"1 a\r\n", bad_extension},
        {"1;\r\n", bad_extension},
        {"1;;a\r\n", bad_extension},
        {"1;a=\r\n", bad_extension},
        {"1;a=;b\r\n", bad_extension},
        {"1;a b\r\n", bad_extension},
        {"1;a \r\n", bad_extension},
        {"1;a=b=c\r\n", bad_extension},
        {"1;a=b c\r\n", bad_extension},
        {"1;a=b \r\n", bad_extension},
        {"1;a=\"b\" c\r\n", bad_extension},
        {"1;a= \"b\" \r\n", bad_extension},
        {"1;a=\"b\"c\r\n", bad_extension},
        {"1;a=\"b\r\n\"", bad_extension},
        {"1;a=\"b\\\r\n\"", bad_extension},
        {"1;a=\"b\n\"", bare_lf},
        {"1;a=\"\0\"\r\n"sv, bad_extension},
        {"1;a\x7f\r\n", bad_extension},
        {"1;\xc3\xa4\r\n", bad_extension},
        {"1;a\n", bare_lf},
        {"1;a\rb", bare_cr},
        {"1\r\nx0\r\n\r\n", chunk_end_missing},
        {"1\r\nxy\r\n", chunk_end_missing},
        {"1\r\nx\n0\r\n\r\n", bare_lf},
        {"1\r\nx\r0\r\n\r\n", bare_cr},
        {"2\r\nx\r\n0\r\n\r\n", bare_lf},
        {"0\r\n\n", bare_lf},
        {"0\r\n\rG", bare_cr},
        {"0\r\nGET / HTTP/1.1\r\n", bad_trailer},
        {"0\r\n: b\r\n\r\n", bad_trailer},
        {"0\r\nA : b\r\n\r\n", bad_trailer},
        {"0\r\nA\r\n\r\n", bad_trailer},
        {"0\r\nA: \0\r\n\r\n"sv, bad_trailer},
        {"0\r\nA: \x7f\r\n\r\n", bad_trailer},
        {"0\r\nA: b\n\r\n", bare_lf},
        {"0\r\nA: b\rc\r\n", bare_cr},
        {"0\r\nA: b\r\n c\r\n\r\n", trailer_obs_fold},
        {"0\r\n\tA: b\r\n\r\n", trailer_obs_fold},
    };
    for (const auto& c : cases) {
        CAPTURE(c.bytes);
        const outcome result = decode(c.bytes);
        CHECK(result.end == what::bad);
        CHECK(to_string(result.error) == std::string_view(to_string(c.error)));
        CHECK(status_of(result.error) == 400);
    }
}

TEST_CASE("a chunk's size has at most 16 digits and is at most 2^62") {
    CHECK(decode("0000000000000001\r\nx").end == what::more);
    CHECK(decode("00000000000000001\r\nx").error == chunk_size_too_long);
    CHECK(decode("0000000000000000\r\n\r\n").end == what::end);
    CHECK(decode("4000000000000000\r\nx").end == what::more);
    CHECK(decode("4000000000000001\r\nx").error == chunk_too_large);
    CHECK(decode("ffffffffffffffff\r\nx").error == chunk_too_large);
    CHECK(decode("10000000000000001\r\nx").error == chunk_size_too_long);
}

TEST_CASE("extensions, trailers and bodies pass at their limit and fail one byte above") {
    const auto chunk = [](std::size_t extension) {
        return "1;" + std::string(extension - 1, 'a') + "\r\nx\r\n";
    };
    CHECK(decode(chunk(256)).end == what::more);
    CHECK(decode(chunk(257)).error == extension_too_long);
    CHECK(decode("1;" + std::string(300, 'a')).error == extension_too_long);

    std::string many;
    for (int i = 0; i < 64; ++i)
        many += chunk(256);
    CHECK(decode_cut({}, many + "0\r\n\r\n", {}).end == what::end);
    CHECK(decode_cut({}, many + "0;a\r\n\r\n", {}).error == extensions_too_long);

    const task small{.limits = {.body_bytes_max = 5, .trailer_bytes_max = 10}};
    CHECK(decode("0\r\nA: b\r\nC:\r\n\r\n", small).end == what::end);
    CHECK(decode("0\r\nA: b\r\nC:d\r\n\r\n", small).error == trailers_too_large);
    CHECK(decode("0\r\nA: 34567890", small).error == trailers_too_large);
    CHECK(status_of(trailers_too_large) == 431);

    CHECK(decode("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", small).end == what::end);
    CHECK(decode("3\r\nabc\r\n3\r\n", small).error == body_too_large);
    CHECK(decode("abcde", {http1_body_kind::length, 5, small.limits}).end == what::end);
    CHECK(decode("", {http1_body_kind::length, 6, small.limits}).error == body_too_large);
    CHECK(status_of(body_too_large) == 413);

    http1_body body;
    body.start(http1_body_kind::until_close, 0, small.limits);
    CHECK(body.next("abcde").is == what::data);
    CHECK(body.next("f").is == what::bad);
    CHECK(body.next("g").is == what::bad);
}

TEST_CASE("the end of the stream completes a body until close and truncates any other") {
    http1_body body;

    body.start(http1_body_kind::until_close, 0);
    CHECK(body.next("").is == what::more);
    CHECK(body.next("abc").data == "abc");
    CHECK(!body.done());
    CHECK(body.finish() == finish_result::complete);
    CHECK(body.done());

    body.start(http1_body_kind::length, 3);
    CHECK(body.next("ab").is == what::data);
    CHECK(body.finish() == finish_result::truncated);
    CHECK(body.next("cd").used == 1);
    CHECK(body.done());
    CHECK(body.finish() == finish_result::complete);
    CHECK(body.next("d").is == what::end);
    CHECK(body.done());

    body.start(http1_body_kind::chunked, 0);
    CHECK(body.finish() == finish_result::truncated);
    CHECK(body.next("5\r\nabc").data == "abc");
    CHECK(body.next("de\r\n0\r\n").is == what::data);
    CHECK(body.next("\r\n0\r\n").is == what::more);
    CHECK(body.finish() == finish_result::truncated);
    CHECK(body.next("\r\n").is == what::end);
    CHECK(body.finish() == finish_result::complete);
    CHECK(body.received() == 5);
}

TEST_CASE("a chunk head is what printf would write, and the decoder reads it back") {
    http1_chunk_head head;
    for (unsigned shift = 0; shift < 63; ++shift) {
        for (const std::size_t size : {std::size_t{1} << shift, (std::size_t{1} << shift) + 1}) {
            char expected[32];
            std::snprintf(expected, sizeof expected, "%zx\r\n", size);
            const std::string_view written(head.data(), write_chunk_head(head, size));
            CHECK(written == expected);
            if (size > std::size_t{1} << 62) continue;
            http1_body body;
            body.start(http1_body_kind::chunked, 0);
            CHECK(body.next(written).is == what::more);
        }
    }
    CHECK(std::string_view(head.data(), write_chunk_head(head, SIZE_MAX)) == "ffffffffffffffff\r\n");
}

TEST_CASE("no byte after those given is decoded") {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* const map = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(map != MAP_FAILED);
    char* const guard = static_cast<char*>(map) + page;
    REQUIRE(mprotect(guard, page, PROT_NONE) == 0);
    const std::string_view text = "3;a=\"b\"\r\nabc\r\n0\r\nA: b\r\n\r\n";

    for (std::size_t size = 0; size <= text.size(); ++size) {
        std::memcpy(guard - size, text.data(), size);
        http1_body body;
        body.start(http1_body_kind::chunked, 0);
        std::string_view in(guard - size, size);
        http1_body::step step = body.next(in);
        while (step.is == what::data) {
            in.remove_prefix(step.used);
            step = body.next(in);
        }
        CHECK(step.is == (size == text.size() ? what::end : what::more));
    }
    munmap(map, 2 * page);
}

TEST_CASE("a mutated chunked body has one outcome however it is cut") {
    const char* const given = std::getenv("WEIR_SEED");
    const unsigned seed = given != nullptr ? static_cast<unsigned>(std::atoi(given)) : 1;
    MESSAGE("WEIR_SEED=" << seed);
    std::mt19937 random(seed);
    const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    const std::string seeds[] = {"3\r\nabc\r\n10;x=\"y\\\"\"\r\n0123456789abcdef\r\n0\r\n\r\nGET",
                                 "1 ;a = b\r\nx\r\n0\r\nA: b\r\n\r\n", "0\r\n\r\n0\r\n\r\n"};
    const std::string spice[] = {"\r\n", "\n", "\r", " ", ";", "=",   "\"",  "\\",
                                 "0",    "1",  "f",  "a", ":", "\0"s, "\xff"};
    int ended = 0;
    for (int round = 0; round < 20000; ++round) {
        std::string bytes = seeds[below(std::size(seeds))];
        for (std::size_t edits = below(4); edits > 0; --edits) {
            const std::size_t at = below(bytes.size() + 1);
            if (below(2) == 0)
                bytes.insert(at, spice[below(std::size(spice))]);
            else
                bytes.erase(at, below(3));
        }
        const task job{.limits = {.body_bytes_max = 100, .extension_bytes_max = 9, .trailer_bytes_max = 8}};
        const outcome whole = decode_cut(job, bytes, {});
        std::vector<std::size_t> each;
        for (std::size_t cut = 0; cut < bytes.size(); ++cut)
            each.push_back(cut);
        CHECK(decode_cut(job, bytes, each) == whole);
        for (int cuts = 0; cuts < 3; ++cuts)
            CHECK(decode_cut(job, bytes, {below(bytes.size() + 1)}) == whole);
        ended += whole.end == what::end;
    }
    CHECK(ended > 1000);
}
