// http1_gateway: what a server sends behind an answer never becomes the next client's answer, where that can be told.

#include "proto/http1_gateway.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

std::string head_request(std::string_view target) { return "HEAD " + std::string(target) + " HTTP/1.1\r\nHost: h\r\n\r\n"; }

// Answers without a body whose heads announce one.
struct {
    const char* method;
    std::string answer, delivered;
} const announcing[] = {
    {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"},
    {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"},
    {"GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n"},
    {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"},
    {"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
};

TEST_CASE("a server connection rests after an answer whose head announced a body that it does not have") {
    for (const auto& each : announcing) {
        INFO(each.answer);
        gateway_rig rig;
        peer c = rig.client();
        c.say(std::string(each.method) + " /1 HTTP/1.1\r\nHost: h\r\n\r\n");
        peer s = rig.server();
        s.say(each.answer);
        rig.expect(c, each.delivered);
        CHECK(rig.idle_count() == 1);

        rig.pass(http1_options{}.rest - milliseconds{1});
        c.say(get("/2")); // goes to another connection meanwhile
        peer t = rig.server();
        rig.expect(t, get("/2"));
        s.say("0\r\n\r\n"); // late
        rig.settle();
        CHECK(rig.ended(end_cause::idle_unsolicited) == 1);
        t.say(ok("good"));
        rig.expect(c, ok("good"));
    }
}

TEST_CASE("a server connection that has rested is used again") {
    for (const auto& each : announcing) {
        INFO(each.answer);
        gateway_rig rig;
        peer c = rig.client();
        c.say(std::string(each.method) + " /1 HTTP/1.1\r\nHost: h\r\n\r\n");
        peer s = rig.server();
        s.say(each.answer);
        rig.expect(c, each.delivered);
        s.pull().got.clear();
        rig.pass(http1_options{}.rest);
        c.say(get("/2"));
        rig.expect(s, get("/2"));
        s.say(ok("good"));
        rig.expect(c, ok("good"));
        CHECK(rig.conns.opened_count(conn_origin::dialed) == 1);
    }
}

TEST_CASE("answers behind which no body can be expected need no rest") {
    struct {
        std::string request, answer;
    } const plain[] = {
        {get("/1"), ok("x")},
        {head_request("/1"), "HTTP/1.1 200 OK\r\n\r\n"},
        {head_request("/1"), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
        {get("/1"), "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"},
        {get("/1"), "HTTP/1.1 204 No Content\r\n\r\n"},
    };
    for (const auto& each : plain) {
        INFO(each.answer);
        gateway_rig rig;
        peer c = rig.client();
        c.say(each.request);
        peer s = rig.server();
        s.say(each.answer);
        rig.expect(c, each.answer);
        s.pull().got.clear();
        c.say(get("/2"));
        rig.expect(s, get("/2"));
        CHECK(rig.conns.opened_count(conn_origin::dialed) == 1);
    }
}

TEST_CASE("without a rest a connection is used again at once") {
    gateway_rig rig{{.http = {.rest = duration{0}}}};
    peer c = rig.client();
    c.say(head_request("/1"));
    peer s = rig.server();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
    rig.expect(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
    s.pull().got.clear();
    c.say(get("/2"));
    rig.expect(s, get("/2"));
}

TEST_CASE("an empty line that a server sends behind its answer, late, is skipped") {
    for (const char* lines : {"\r\n", "\r\n\r\n", "\r"}) {
        INFO(lines);
        acquainted rig;
        rig.c.say(get("/2"));
        rig.expect(rig.s, get("/2"));
        rig.s.say(lines); // crosses the request
        rig.settle();
        rig.s.say((lines[1] ? "" : "\n") + ok("second"));
        rig.expect(rig.c, ok("second"));
        CHECK(rig.idle_count() == 1);
        CHECK(rig.at_rest());
    }
}

TEST_CASE("empty lines are no answer: a request may be repeated behind them") {
    acquainted rig;
    meanwhile m{rig};
    m.next([&] {
        rig.s.say("\r\n");
        rig.s.close();
    });
    rig.c.say(get("/2"));
    peer t = rig.server();
    rig.expect(t, get("/2"));
    t.say(ok("second"));
    rig.expect(rig.c, ok("second"));
    CHECK(rig.counters().repeated == 1);
}

TEST_CASE("more empty lines than may stand before an answer are a 502") {
    acquainted rig;
    rig.c.say(get("/2"));
    rig.expect(rig.s, get("/2"));
    rig.s.say("\r\n\r\n\r\n\r\n\r\n" + ok("second"));
    rig.expect(rig.c, bad_gateway());
}

} // namespace
