// http1_gateway: what it tells: the admin page and the access log.

#include "proto/http1_gateway.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

std::uint64_t value_in(const std::string& json, const std::string& name) {
    const std::size_t at = json.find("\"" + name + "\":");
    REQUIRE(at != json.npos);
    return std::stoull(json.substr(at + name.size() + 3));
}

// A flat object of numbers.
bool is_json(std::string_view text) {
    const auto take = [&](char c) {
        if (text.empty() || text[0] != c) return false;
        text.remove_prefix(1);
        return true;
    };
    const auto take_while = [&](auto is) {
        std::size_t n = 0;
        while (n < text.size() && is(text[n]))
            n++;
        text.remove_prefix(n);
        return n > 0;
    };
    if (!take('{')) return false;
    do {
        const bool name = take('"') && take_while([](char c) { return (c >= 'a' && c <= 'z') || c == '_'; }) && take('"');
        if (!name || !take(':') || !take_while([](char c) { return c >= '0' && c <= '9'; })) return false;
    } while (take(','));
    return take('}') && take('\n') && text.empty();
}

TEST_CASE("the admin page gives the counters as JSON, answers the rest with 404 and 405, and keeps its connection") {
    gateway_rig rig;
    REQUIRE(rig.gateway->listen_admin({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}).ok());
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say(ok());
    rig.expect(c, ok());
    s.pull().got.clear();

    peer admin{connect_small(rig.gateway->admin_port().local().port())};
    admin.say(get("/counters"));
    const message m = rig.expect_message(admin);
    CHECK(m.head.find("\r\nContent-Type: application/json\r\n") != m.head.npos);
    CHECK(is_json(m.body));
    CHECK(value_in(m.body, "requests") == 2); // this one, too
    CHECK(value_in(m.body, "responses") == 1);
    CHECK(value_in(m.body, "idle") == 1);
    CHECK(value_in(m.body, "clients") == 1);
    CHECK(value_in(m.body, "admin_clients") == 1);
    CHECK(value_in(m.body, "accepted") == 2);
    CHECK(value_in(m.body, "dialed") == 1);
    CHECK(value_in(m.body, "end_done") == 0);
    CHECK(m.body.size() < 1400); // 2 KB do, with larger numbers as well

    admin.say("HEAD /counters HTTP/1.1\r\nHost: h\r\n\r\n");
    const message head = rig.expect_message(admin, true);
    CHECK(head.head.starts_with("HTTP/1.1 200 OK\r\n"));
    rig.expect_silence(admin);
    admin.say(get("/other"));
    CHECK(rig.expect_message(admin).head.starts_with("HTTP/1.1 404 Not Found\r\n"));
    admin.say("DELETE /counters HTTP/1.1\r\nHost: h\r\n\r\n");
    CHECK(rig.expect_message(admin).head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
    rig.expect_silence(admin);
    CHECK(!rig.has_dialed());
    rig.expect_silence(s); // nothing of it reaches a server

    admin.say(post("/counters", "with a body"));
    const message last = rig.expect_message(admin);
    CHECK(last.head.starts_with("HTTP/1.1 405 "));
    CHECK(last.head.find(closes) != last.head.npos);
    rig.expect_end(admin, ending::fin);
}

TEST_CASE("counters that do not fit are not written") {
    gateway_rig rig;
    counter_table counters;
    rig.gateway->add_counters(counters);
    char room[2048];
    const std::size_t n = counters.write_json(room);
    REQUIRE(n > 0);
    CHECK(is_json({room, n}));
    CHECK(counters.write_json({room, n}) == n);
    CHECK(counters.write_json({room, n - 1}) == 0);
}

// What the access log gets from now on.
void keep_lines(gateway_rig& rig, std::vector<std::string>& lines) {
    rig.gateway->on_access(
        [](void* to, std::string_view line) noexcept {
            static_cast<std::vector<std::string>*>(to)->emplace_back(line);
        },
        &lines);
}

// Of a line: from the request on, without the time it took and the server.
std::string outline(const std::string& line) {
    const std::size_t from = line.find('"'), us = line.find(" bytes ") + 6, server = line.find(" upstream ") + 10;
    const std::size_t notes = std::min(line.find(' ', server), line.size());
    return line.substr(from, us - from) + line.substr(notes);
}

TEST_CASE("the access log has a line for each request that was answered") {
    std::vector<std::string> lines;
    acquainted rig;
    keep_lines(rig, lines);
    const std::string at = "127.0.0.1:" + std::to_string(port_of(rig, 0));
    char room[endpoint::text_max];
    const std::string client{local_endpoint(rig.c.fd.get()).value().text(room)};
    rig.c.say(get("/a?b"));
    rig.expect(rig.s, get("/a?b"));
    rig.clock.advance(milliseconds{3});
    rig.s.say(ok("hello"));
    rig.expect(rig.c, ok("hello"));
    meanwhile m{rig};
    m.next([&] { rig.s.close(); });
    const std::string target = "/" + std::string(200, 'x');
    rig.c.say(get(target));
    peer t = rig.server();
    t.say(ok("1"));
    rig.expect(rig.c, ok("1"));
    REQUIRE(lines.size() == 2);
    CHECK(lines[0] == client + " \"GET /a?b\" 200 5 bytes 3000 us upstream " + at + " reused");
    CHECK(lines[1] == client + " \"GET " + target.substr(0, 91) + "\" 200 1 bytes 0 us upstream " + at + " repeated");
}

TEST_CASE("a server that is down does not flood the log: a burst of lines, and then their number") {
    gateway_rig rig{{.http = {.trouble_rate = {.burst = 3, .per_second = 1}}}, {.origins = {origin_state::refusing}}};
    peer c = rig.client();
    for (int i = 0; i < 10; i++) {
        c.say(get("/x"));
        rig.expect(c, bad_gateway());
    }
    CHECK(rig.troubles.size() == 3);

    rig.pass(seconds{1} + milliseconds{1});

    REQUIRE(rig.troubles.size() == 4);
    CHECK(rig.troubles[3] == "502: 7 more lines like this were not written");
}

TEST_CASE("a client that resets is named in the access log, and one whose server fails in the line about that") {
    std::vector<std::string> lines;
    gateway_rig rig;
    keep_lines(rig, lines);
    char room[endpoint::text_max];
    peer c = rig.client();
    const std::string name{local_endpoint(c.fd.get()).value().text(room)};
    c.say(get("/attack"));
    peer s = rig.server();
    rig.expect_message(s);
    SUBCASE("it resets") {
        c.reset();
        REQUIRE(rig.until([&] { return lines.size() == 1; }));
        CHECK(lines[0].starts_with(name + " \"GET /attack\" 0 "));
    }
    SUBCASE("its server says what is no answer") {
        s.say("nonsense\r\n\r\n");
        REQUIRE(rig.until([&] { return rig.troubles.size() == 1; }));
        CHECK(rig.trouble_clients[0] == name);
    }
}

TEST_CASE("what a client says cannot break out of its quotes in the access log") {
    std::vector<std::string> lines;
    acquainted rig;
    keep_lines(rig, lines);
    rig.c.say(get("/\"_200\\"));
    rig.expect(rig.s, get("/\"_200\\"));
    rig.s.say(ok("1"));
    rig.expect(rig.c, ok("1"));
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].find(" \"GET /\\x22_200\\x5c\" 200 1 bytes ") != std::string::npos);
}

TEST_CASE("bytes that were not sent on are not counted in the access log") {
    std::vector<std::string> lines;
    acquainted rig;
    keep_lines(rig, lines);
    rig.c.say(get());
    rig.expect(rig.s, get());
    rig.s.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz");
    rig.expect(rig.c, bad_gateway());
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].find(" 502 0 bytes ") != std::string::npos);
}

TEST_CASE("what ended in any other way than with a whole answer had no line in the access log") {
    std::vector<std::string> lines;
    gateway_rig rig{{.http = {.first_byte_timeout = seconds{5}}}, choking};
    keep_lines(rig, lines);
    const auto begin = [&](std::string_view target, peer& c, peer& s, std::string_view more = "") {
        c = rig.client();
        c.say(get(target, more));
        s = rig.server();
        rig.expect_message(s);
    };
    peer c, s;
    SUBCASE("the client left before there was an answer") {
        begin("/left", c, s);
        c.reset();
        rig.settle();
        CHECK(outline(lines.at(0)) == "\"GET /left\" 0 0 bytes cut off");
    }
    SUBCASE("the client left in the middle of its answer") {
        begin("/half", c, s);
        s.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
        REQUIRE(rig.until([&] { return c.pull().got.ends_with("123"); }));
        c.reset();
        rig.settle();
        CHECK(outline(lines.at(0)) == "\"GET /half\" 200 3 bytes cut off");
    }
    SUBCASE("the client took nothing of its answer") {
        begin("/deaf", c, s);
        rig.choke_clients();
        s.say(ok("never taken"));
        rig.settle();
        rig.pass(seconds{30});
        CHECK(outline(lines.at(0)) == "\"GET /deaf\" 200 11 bytes cut off");
    }
    SUBCASE("the server broke off") {
        begin("/short", c, s);
        s.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
        s.close();
        rig.expect(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
        CHECK(outline(lines.at(0)) == "\"GET /short\" 200 3 bytes cut off");
    }
    SUBCASE("a drain has cut it off") {
        begin("/drained", c, s);
        rig.gateway->drain(
            drain_kind::end, seconds{1}, [](void*) noexcept {}, nullptr);
        rig.pass(seconds{1});
        CHECK(outline(lines.at(0)) == "\"GET /drained\" 0 0 bytes cut off");
    }
    SUBCASE("a tunnel: when it begins") {
        begin("/tunnel", c, s, "Connection: upgrade\r\nUpgrade: websocket\r\n");
        s.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        rig.expect_message(c, true);
        CHECK(outline(lines.at(0)) == "\"GET /tunnel\" 101 0 bytes");
        s.say("more");
        rig.expect(c, "more");
        c.reset();
        rig.settle();
    }
    SUBCASE("an answer of our own that the client did not take") {
        c = rig.client();
        rig.choke_clients();
        c.say("TRACE /own HTTP/1.1\r\nHost: h\r\n\r\n");
        rig.settle();
        rig.pass(seconds{30});
        CHECK(outline(lines.at(0)) == "\"TRACE /own\" 405 0 bytes cut off");
    }
    CHECK(lines.size() == 1);
}

TEST_CASE("what is no request has no line in the access log") {
    std::vector<std::string> lines;
    gateway_rig rig;
    keep_lines(rig, lines);
    peer silent = rig.client(), half = rig.client();
    half.say("GET / HT");
    rig.settle();
    half.reset();
    silent.say("\r\n");
    rig.settle();
    silent.close();
    rig.settle();
    CHECK(lines.empty());

    peer bad = rig.client();
    bad.say("GET\r\n\r\n");
    CHECK(rig.expect_message(bad).head.starts_with("HTTP/1.1 400 "));
    REQUIRE(lines.size() == 1);
    CHECK(outline(lines[0]) == "\"\" 400 0 bytes");
}

} // namespace
