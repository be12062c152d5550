// stream_proxy: the PROXY line that is told first or taken off, and a handshake in front of it.

#include "proto/stream_proxy.hpp"

#include "support/record_xprt.hpp"
#include "support/stream_rig.hpp"

namespace {

using namespace weir;
using namespace support;

std::uint16_t port_of(int fd, int (*name)(int, sockaddr*, socklen_t*)) {
    sockaddr_in at{};
    socklen_t bytes = sizeof at;
    REQUIRE(name(fd, reinterpret_cast<sockaddr*>(&at), &bytes) == 0);
    return ntohs(at.sin_port);
}
// What v1 says of a client: as the proxy sees it, from the client's own socket.
std::string line_of(const peer& client) {
    std::string line = "PROXY TCP4 127.0.0.1 127.0.0.1 ";
    line += std::to_string(port_of(client.fd.get(), ::getsockname));
    line += ' ';
    line += std::to_string(port_of(client.fd.get(), ::getpeername));
    return line += "\r\n";
}

// ---- the PROXY line

TEST_CASE("send_proxy v1 tells the server who speaks, before the client's bytes") {
    stream_rig rig({.send = send_proxy::v1});
    peer c = rig.client();
    c.say("hello");
    peer s = rig.server();

    rig.expect(s, line_of(c) + "hello");
    s.say("and back");
    rig.expect(c, "and back");
}

TEST_CASE("send_proxy v2 says the same in bytes") {
    stream_rig rig({.send = send_proxy::v2});
    peer c = rig.client();
    c.say("hello");
    peer s = rig.server();
    CHECK(rig.until([&] { return s.pull().got.size() >= 28 + 5; }));

    proxy_line line;
    line.start();
    REQUIRE(line.parse(s.got) == proxy_line::progress::done);
    CHECK(line.version() == 2);
    CHECK(line.source() == endpoint::ipv4(0x7f000001, port_of(c.fd.get(), ::getsockname)));
    CHECK(line.destination() == endpoint::ipv4(0x7f000001, port_of(c.fd.get(), ::getpeername)));
    CHECK(s.got.substr(line.size()) == "hello");
}

TEST_CASE("an accepted PROXY line is taken off, in any pieces, and told to the server in the version it wants") {
    const std::string_view said = "PROXY TCP4 10.1.2.3 10.9.8.7 1111 2222\r\npayload";
    for (std::size_t cut = 1; cut < said.size(); cut++) {
        INFO(cut);
        stream_rig rig({.accept_proxy = true, .send = send_proxy::v1});
        peer c = rig.client();
        c.say(said.substr(0, cut));
        rig.turn(3);
        c.say(said.substr(cut));
        peer s = rig.server();
        rig.expect(s, said);
    }
}

TEST_CASE("without send_proxy an accepted line is not passed on") {
    stream_rig rig({.accept_proxy = true});
    peer c = rig.client();
    c.say("PROXY UNKNOWN\r\nonly this");
    peer s = rig.server();
    rig.expect(s, "only this");
    CHECK(rig.conns.blocks().used() == 0);
}

TEST_CASE("a line that says nothing about the client is replaced by what the proxy sees") {
    stream_rig rig({.accept_proxy = true, .send = send_proxy::v1});
    peer c = rig.client();
    c.say("PROXY UNKNOWN\r\nx");
    peer s = rig.server();
    rig.expect(s, line_of(c) + "x");
}

TEST_CASE("as many bytes behind the line as may be read with it are delivered, and all that follow") {
    stream_rig rig({.accept_proxy = true, .send = send_proxy::v2});
    std::string payload;
    for (int i = 0; i < 100'000; i++)
        payload += static_cast<char>('a' + i % 26);
    peer c = rig.client();
    c.say("PROXY TCP6 ::1 ::2 1 2\r\n");
    c.say(payload);
    peer s = rig.server();
    CHECK(rig.until([&] { return s.pull().got.size() >= 16 + 36 + payload.size(); }));
    CHECK(s.got.substr(16 + 36) == payload);
}

TEST_CASE("a wrong line, an end within it, or none in time close the client, each with its cause") {
    struct {
        const char* said;
        bool ends;
        end_cause cause;
        const char* words;
    } const cases[] = {
        {"GET / HTTP/1.1\r\n", false, end_cause::protocol, "not_proxy"},
        {"PROXY TCP4 1.2.3.4 1.2.3.4 1 x\r\n", false, end_cause::protocol, "bad_port"},
        {"PROXY TCP4 1.2.3", true, end_cause::peer_closed, "it ended within its PROXY line"},
        {"PROXY TCP4 1.2.3", false, end_cause::timed_out, "its PROXY line is not complete"},
        {"", false, end_cause::timed_out, "its PROXY line is not complete"},
    };
    for (const auto& each : cases) {
        INFO(each.said, to_string(each.cause));
        stream_rig rig({.accept_proxy = true, .proxy_timeout = seconds{3}});
        peer c = rig.client();
        c.say(each.said);
        if (each.ends) c.shut();
        rig.turn(3);
        if (each.cause == end_cause::timed_out) {
            rig.pass(seconds{3} - milliseconds{1});
            CHECK(rig.proxy->clients_count() == 1);
            rig.pass(milliseconds{2});
        }
        CHECK(rig.until([&] { return rig.proxy->clients_count() == 0; }));
        CHECK(rig.ended(each.cause) == 1);
        CHECK(rig.conns.opened_count(conn_origin::dialed) == 0);
        CHECK(rig.proxy->counters().bad_greetings == 1);
        REQUIRE(rig.troubles.size() == 1);
        CHECK(rig.troubles[0].find(each.words) != std::string::npos);
    }
}

TEST_CASE("a probe that connects and ends has no line, and is counted as silent") {
    stream_rig rig({.accept_proxy = true});
    peer probe = rig.client(), probe_that_resets = rig.client();
    probe.shut();
    probe_that_resets.reset();

    CHECK(rig.until([&] { return rig.proxy->clients_count() == 0; }));

    CHECK(rig.troubles.empty());
    CHECK(rig.proxy->counters().silent == 1);
    CHECK(rig.proxy->counters().abandoned == 1);
    CHECK(rig.proxy->counters().bad_greetings == 0);
    CHECK(rig.ended(end_cause::peer_closed) == 1);
}

TEST_CASE("strangers cannot flood the log: a burst of lines, and then their number") {
    stream_rig rig({.accept_proxy = true, .trouble_rate = {.burst = 3, .per_second = 1}});
    for (int i = 0; i < 10; i++) {
        peer c = rig.client();
        c.say("GET / HTTP/1.1\r\n");
        CHECK(rig.until([&] { return rig.proxy->clients_count() == 0; }));
    }
    CHECK(rig.troubles.size() == 3);

    rig.pass(seconds{1} + milliseconds{1});

    REQUIRE(rig.troubles.size() == 4);
    CHECK(rig.troubles[3] == "clients refused: protocol: 7 more lines like this were not written");
}

TEST_CASE("a header of as many bytes as are allowed passes, one more is refused") {
    for (const std::size_t more : {0u, 1u}) {
        stream_rig rig({.accept_proxy = true, .proxy = {.bytes_max = 100}});
        const std::size_t value = 100 - 16 - 12 - 3 + more;
        const std::string big(value, 'v');
        const proxy_tlv tlv{.type = 0x04 + 0xdc, .value = big};
        char room[200];
        const std::string_view header =
            write_proxy_v2(room, endpoint::ipv4(1, 1), endpoint::ipv4(2, 2), std::span(&tlv, 1));
        REQUIRE(header.size() == 100 + more);
        peer c = rig.client();
        c.say(header);
        if (more == 0) {
            peer s = rig.server();
            c.say("in");
            rig.expect(s, "in");
        } else {
            rig.expect_end(c, ending::reset);
        }
    }
}

TEST_CASE("a limit for headers does not shorten the lines of version 1") {
    stream_rig rig({.accept_proxy = true, .proxy = {.bytes_max = 20}});
    peer c = rig.client();
    c.say("PROXY TCP4 10.1.2.3 10.9.8.7 1111 2222\r\nin");
    peer s = rig.server();
    rig.expect(s, "in");
}

// ---- a transport with a handshake

// Clients speak records: a hello, 'H', and then a length before each piece.
struct over_records : stream_rig {
    explicit over_records(const stream_proxy_options& options) : stream_rig(options) {
        proxy->port().close();
        REQUIRE(proxy->listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {.transport = &record_xprt}).ok());
    }
};

TEST_CASE("a client's handshake has the connect timeout, then its PROXY line has its own") {
    const stream_proxy_options options{
        .relay = {.connect_timeout = seconds{1}}, .accept_proxy = true, .proxy_timeout = seconds{3}};
    over_records rig{options};
    peer silent = rig.client(), slow = rig.client();
    slow.say("H");
    rig.turn(5);
    rig.pass(milliseconds{1002});
    rig.turn(2);
    CHECK(rig.proxy->clients_count() == 1); // who said nothing is gone
    CHECK(rig.proxy->counters().abandoned == 1);

    rig.pass(milliseconds{1900});
    CHECK(rig.proxy->clients_count() == 1);
    rig.pass(milliseconds{200});
    CHECK(rig.proxy->clients_count() == 0);
    CHECK(rig.ended(end_cause::timed_out) == 1);
}

TEST_CASE("a client that never ends its handshake does not hold a server's connection") {
    over_records rig{{.relay = {.connect_timeout = seconds{1}}}};
    peer c = rig.client();
    peer s = rig.server();
    CHECK(rig.conns.live_count() == 2);
    rig.pass(milliseconds{1002});
    CHECK(rig.until([&] { return rig.conns.live_count() == 0; }));
}

TEST_CASE("a PROXY line in a record, and what came with it, are taken apart") {
    over_records rig{{.accept_proxy = true, .send = send_proxy::v1}};
    peer c = rig.client();
    const std::string line = "PROXY TCP4 10.1.2.3 10.9.8.7 1111 2222\r\nhello";
    std::string record = "H";
    record += static_cast<char>(line.size());
    record += line;
    c.say(record);
    peer s = rig.server();
    rig.expect(s, line);
}

} // namespace
