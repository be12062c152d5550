// http1_exchange, through a gateway: heads above 15,871 bytes, which need large blocks.

#include "proto/http1_exchange.hpp"

#include "support/dies.hpp"
#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

constexpr http1_gateway_options large{
    .http = {.head = {.start_line_bytes_max = 60'000, .head_bytes_max = 65'535, .fields_max = 1000}}};
const gateway_rig::setup with_large_blocks{.tab = {.connections_max = 64, .large_blocks_max = 8}};

std::string filler(std::size_t size) { return "X: " + std::string(size - 5, 'x') + "\r\n"; }
std::string get_of(std::size_t size) { return get("/", filler(size - get().size())); }
std::string ok_of(std::size_t size, std::string_view body = "") {
    return ok(body, filler(size - (ok(body).size() - body.size())));
}

// Says all of it, and sees all of `heard` at the other side.
void carry(gateway_rig& rig, peer& from, std::string_view said, peer& to, std::string_view heard) {
    REQUIRE(rig.say_all(from, said));
    rig.expect(to, heard);
}

TEST_CASE("heads up to 65,535 bytes pass both ways, cut anywhere; one byte more does not") {
    const std::size_t most = http1_exchange::large_head_bytes_max;
    for (const std::size_t size : {std::size_t{15'872}, block_bytes, block_bytes + 1, 2 * block_bytes, most, most + 1}) {
        for (const std::size_t at : {std::size_t{1}, std::size_t{15'872}, size / 2, size - 1}) {
            INFO(size);
            INFO(at);
            gateway_rig rig{large, with_large_blocks};
            peer c = rig.client();
            const std::string request = get_of(size);
            REQUIRE(request.size() == size);
            REQUIRE(rig.say_all(c, std::string_view{request}.substr(0, at)));
            rig.settle();
            REQUIRE((rig.say_all(c, std::string_view{request}.substr(at)) || size > most));
            if (size > most) {
                CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 431 "));
                continue;
            }
            peer s = rig.server();
            rig.expect(s, request);
            const std::string response = ok_of(size, "body");
            REQUIRE(rig.say_all(s, std::string_view{response}.substr(0, at)));
            rig.settle();
            REQUIRE(rig.say_all(s, std::string_view{response}.substr(at)));
            rig.expect(c, response);
            CHECK(rig.idle_count() == 1);
            CHECK(rig.at_rest());
            carry(rig, c, get(), s, get());
            (void)rig.say_all(s, ok_of(most + 1));
            rig.expect(c, bad_gateway());
        }
    }
}

TEST_CASE("a large request line and a thousand fields that each grow by a byte are written in a large block") {
    gateway_rig rig{large, with_large_blocks};
    peer c = rig.client();
    const std::string line = "GET /" + std::string(50'000, 't') + " HTTP/1.1\r\nHost: h\r\n";
    std::string dense, spaced;
    for (int i = 0; i < 999; i++) {
        dense += "abcde:v\r\n";
        spaced += "abcde: v\r\n";
    }
    REQUIRE(rig.say_all(c, line + dense + "\r\n"));
    peer s = rig.server();
    rig.expect(s, line + spaced + "\r\n");
    carry(rig, s, ok("ok", dense), c, ok("ok", spaced));
    // Below the size of a block as received, above it as written.
    const std::string start = get("/", "").substr(0, get().size() - 2);
    const std::string more = dense + "Y: " + std::string(block_bytes - start.size() - dense.size() - 600, 'y') + "\r\n";
    const std::string written = spaced + more.substr(dense.size());
    carry(rig, c, start + more.substr(9) + "\r\n", s, start + written.substr(10) + "\r\n");
    carry(rig, s, ok("ok"), c, ok("ok"));
}

TEST_CASE("large requests with large bodies pass behind each other, whatever their version") {
    for (const bool is_old : {false, true}) {
        INFO(is_old);
        gateway_rig rig{large, with_large_blocks};
        peer c = rig.client(), s;
        const std::string body = pattern(100'000);
        std::string said;
        for (int i = 0; i < 3; i++) {
            const std::string more = (is_old ? "Connection: keep-alive\r\n" : "") + filler(40'000 + 1000u * unsigned(i));
            said += "POST /" + std::to_string(i) + (is_old ? " HTTP/1.0\r\n" : " HTTP/1.1\r\n") + "Host: h\r\n" + more +
                    "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
        }
        std::string_view left = said;
        for (int i = 0; i < 3; i++) {
            std::optional<message> m;
            REQUIRE(rig.until([&] {
                if (!left.empty()) left.remove_prefix(c.say_some(left));
                if (!s.open() && ready(rig.origins[0].fd.get(), POLLIN)) s = rig.server();
                return s.open() && (m = take_message(s.pull().got)).has_value();
            }));
            CHECK(m->head.starts_with("POST /" + std::to_string(i) + " HTTP/1.1\r\n"));
            CHECK(m->head.find(filler(40'000 + 1000u * unsigned(i))) != std::string::npos);
            CHECK(m->body == body);
            const std::string_view kept = is_old ? "Connection: keep-alive\r\n" : "";
            REQUIRE(rig.say_all(s, ok(body, filler(50'000))));
            REQUIRE(rig.until([&] {
                if (!left.empty()) left.remove_prefix(c.say_some(left));
                return (m = take_message(c.pull().got)).has_value();
            }));
            CHECK(m->head == "HTTP/1.1 200 OK\r\n" + filler(50'000) + "Content-Length: 100000\r\n" + std::string(kept) + "\r\n");
            CHECK(m->body == body);
        }
        CHECK(rig.at_rest());
        CHECK(rig.counters().fresh == 1);
    }
}

TEST_CASE("a client that takes nothing for a while gets a large answer whole" * raw_only(side::clients, "sockets without room")) {
    gateway_rig::setup how = with_large_blocks;
    how.clients = &choked_xprt;
    for (const char* framing : {"Content-Length: 9000\r\n", "Transfer-Encoding: chunked\r\n"}) {
        INFO(framing);
        gateway_rig rig{large, how};
        peer c = rig.client();
        c.say(get());
        peer s = rig.server();
        rig.expect(s, get());
        rig.choke_clients();
        const std::string head = "HTTP/1.1 200 OK\r\n" + filler(60'000) + framing + "\r\n";
        const bool chunked = std::string_view{framing}.starts_with("T");
        const std::string body(9000, 'b'), sent = chunked ? "2328\r\n" + body + "\r\n0\r\n\r\n" : body;
        REQUIRE(rig.say_all(s, head + sent));
        rig.settle();
        CHECK(rig.conns.blocks().large_used() == 1);
        rig.let_clients_take(30'000);
        rig.let_clients_take();
        std::optional<message> m;
        REQUIRE(rig.until([&] { return (m = take_message(c.pull().got)).has_value(); }));
        CHECK(m->head == head);
        CHECK(m->body == body);
        CHECK(rig.at_rest());
    }
}

TEST_CASE("a large request whose idle connection is closed is repeated whole") {
    gateway_rig rig{large, with_large_blocks};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.expect(s, get());
    carry(rig, s, ok("1"), c, ok("1"));
    CHECK(rig.idle_count() == 1);
    const std::string request = get_of(60'000);
    carry(rig, c, request, s, request);
    s.close();
    peer other = rig.server();
    rig.expect(other, request);
    carry(rig, other, ok("2"), c, ok("2"));
    CHECK(rig.counters().repeated == 1);
    CHECK(rig.at_rest());
}

TEST_CASE("without a large block it is a 503, wherever that is noticed, and small heads go on") {
    const std::string lines = filler(40'000);
    // What a request and its answer take one after the other.
    for (std::size_t spare = 0; spare < 2; spare++) {
        for (const bool of_request : {true, false}) {
            INFO(spare);
            INFO(of_request);
            gateway_rig rig{large, with_large_blocks};
            held_blocks held{rig.conns.blocks()};
            peer c = rig.client(), s;
            if (of_request) {
                held.all_large_but(spare);
                (void)rig.say_all(c, get("/", lines));
            } else {
                c.say(get());
                s = rig.server();
                rig.expect(s, get());
                held.all_large_but(spare);
                (void)rig.say_all(s, ok("ok", lines));
            }
            CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 503 "));
            CHECK(rig.counters().shed == 1);
            CHECK(rig.troubles.size() == 1);
            if (of_request) rig.expect_end(c, ending::fin);
            held.all_large_but(0);
            peer next = rig.client();
            next.say(get());
            s = rig.server();
            rig.expect(s, get());
            carry(rig, s, ok("ok"), next, ok("ok"));
            held.release();
            CHECK(rig.at_rest());
        }
    }
}

TEST_CASE("large interim answers go on, and the final one behind them") {
    gateway_rig rig{large, with_large_blocks};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.expect(s, get());
    const std::string hints = "HTTP/1.1 103 Early Hints\r\n" + filler(30'000) + "\r\n";
    const std::string all = hints + hints + ok_of(30'000, "ok");
    carry(rig, s, all, c, all);
    CHECK(rig.at_rest());
}

TEST_CASE("heads that need large blocks without any are a mistake, and so are heads above 65,535 bytes") {
    gateway_rig rig;
    const auto listens_with = [&](const http1_limits& limits) {
        http1_gateway g(rig.conns, {.http = {.head = limits}});
        g.add_upstream({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 1)});
        return g.listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok();
    };
    CHECK(listens_with({.head_bytes_max = http1_exchange::head_bytes_max}));
    CHECK(dies([&] { (void)listens_with({.head_bytes_max = http1_exchange::head_bytes_max + 1}); }, "has_blocks_for_heads"));
    CHECK(dies([&] { (void)listens_with({.fields_max = 1000}); }, "has_blocks_for_heads"));
    CHECK(dies([&] { (void)listens_with({.head_bytes_max = 65'536}); }, "large_head_bytes_max"));
}

} // namespace
