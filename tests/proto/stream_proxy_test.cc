// stream_proxy: who is dialed, what is told first, and how clients end that could not be served.

#include "proto/stream_proxy.hpp"

#include <memory>
#include <vector>

#include "support/gateway_rig.hpp"
#include "support/record_xprt.hpp"

namespace {

using namespace weir;
using namespace support;

struct stream_rig : rig {
    explicit stream_rig(const stream_proxy_options& options = {},
                        std::vector<origin_state> states = {origin_state::listening})
        : rig({.connections_max = 64}), proxy(std::make_unique<stream_proxy>(conns, options)) {
        for (const origin_state state : states) {
            origins.push_back(listen_tcp(blocking::no, state == origin_state::swallowing ? 0 : 128));
            const std::uint16_t port = origins.back().port;
            if (state == origin_state::refusing) origins.back().fd.close();
            if (state == origin_state::swallowing) fillers.push_back(connect_tcp(port));
            proxy->add_upstream({.family = &tcp, .at = endpoint::ipv4(0x7f000001, port)});
        }
        REQUIRE(proxy->listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {}).ok());
        proxy->on_trouble(
            [](void* at, std::string_view line) noexcept { static_cast<stream_rig*>(at)->troubles.emplace_back(line); },
            this);
    }
    ~stream_rig() {
        proxy.reset();
        CHECK(conns.blocks().used() == 0);
        CHECK(conns.live_count() == 0);
        CHECK(sums_hold());
    }

    // The proxy has accepted it.
    peer client() {
        const std::uint64_t before = proxy->counters().clients_total;
        peer p{connect_tcp(proxy->port().local().port())};
        REQUIRE(until([&] { return proxy->counters().clients_total > before; }));
        return p;
    }
    // The proxy's connection to that origin.
    peer server(std::size_t origin = 0) {
        REQUIRE(until([&] { return ready(origins[origin].fd.get(), POLLIN); }));
        peer p{accept_tcp(origins[origin])};
        turn();
        return p;
    }
    void expect(peer& p, std::string_view bytes) {
        (void)until([&] { return p.pull().got.size() >= bytes.size() || p.end != ending::none; });
        turn(3);
        p.pull();
        CHECK(shown(p.got) == shown(bytes));
        p.got.clear();
    }
    void expect_end(peer& p, ending how) {
        (void)until([&] { return p.ended(); });
        CHECK(shown(p.got) == "");
        CHECK(p.end == how);
    }

    std::vector<tcp_listener> origins;
    std::vector<descriptor> fillers;
    std::unique_ptr<stream_proxy> proxy;
    std::vector<std::string> troubles;
};

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

TEST_CASE("bytes go both ways, and each end is carried across") {
    stream_rig rig;
    peer c = rig.client();
    peer s = rig.server();

    c.say("question");
    rig.expect(s, "question");
    c.shut();
    rig.expect_end(s, ending::fin);
    s.say("answer");
    rig.expect(c, "answer");
    s.shut();
    rig.expect_end(c, ending::fin);

    CHECK(rig.until([&] { return rig.proxy->clients_count() == 0; }));
    CHECK(rig.proxy->counters().relayed == 1);
    CHECK(rig.conns.live_count() == 0);
    CHECK(rig.troubles.empty());
}

TEST_CASE("what a client said, and its end, before its server is connected are delivered") {
    // The first origin takes nobody in; while it is dialed the client says everything.
    stream_rig rig({.relay = {.connect_timeout = seconds{1}}}, {origin_state::swallowing, origin_state::listening});
    peer c = rig.client();
    c.say("early");
    c.shut();
    rig.turn(5);
    rig.pass(milliseconds{1001});

    peer s = rig.server(1);
    rig.expect(s, "early");
    rig.expect_end(s, ending::fin);
    s.say("late");
    rig.expect(c, "late");
    s.close();
    rig.expect_end(c, ending::fin);
    CHECK(rig.proxy->counters().connect_failed == 1);
}

TEST_CASE("a server that refuses is passed over at once, and rests") {
    stream_rig rig({}, {origin_state::refusing, origin_state::listening});

    for (int i = 0; i < 3; i++) {
        peer c = rig.client();
        peer s = rig.server(1);
        c.say("x");
        rig.expect(s, "x");
        c.reset();
        rig.expect_end(s, ending::reset);
    }

    CHECK(rig.proxy->counters().connect_failed == 1); // then it rested
    CHECK(rig.proxy->counters().refused == 0);
    CHECK(rig.troubles.empty());
}

TEST_CASE("when every server refuses, the client is aborted at once and the reason said") {
    stream_rig rig({}, {origin_state::refusing, origin_state::refusing});

    peer c = rig.client();
    c.say("x");

    rig.expect_end(c, ending::reset);
    CHECK(rig.proxy->counters().refused == 1);
    CHECK(rig.proxy->counters().connect_failed == 2);
    CHECK(rig.ended(end_cause::connect_failed) == 3); // both servers' connections, and the client's
    REQUIRE(rig.troubles.size() == 1);
    CHECK(rig.troubles[0].find(" refused: connect_failed: upstream 127.0.0.1:") != std::string::npos);
    CHECK(rig.troubles[0].ends_with(": Connection refused"));
    CHECK(rig.troubles[0].starts_with("client 127.0.0.1:"));
}

TEST_CASE("a server that comes back is used at once when it is the only one") {
    stream_rig rig({}, {origin_state::refusing});
    peer c = rig.client();
    rig.expect_end(c, ending::reset);

    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    rig.origins[0].fd = descriptor(fd);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons(rig.origins[0].port);
    const int on = 1;
    REQUIRE(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
    REQUIRE(::listen(fd, 8) == 0);

    peer again = rig.client();
    peer s = rig.server();
    again.say("back");
    rig.expect(s, "back");
}

TEST_CASE("a client that aborts while its server is dialed takes the dial with it") {
    stream_rig rig({}, {origin_state::swallowing});
    peer c = rig.client();
    CHECK(rig.conns.live_count() == 2);

    c.reset();

    CHECK(rig.until([&] { return rig.conns.live_count() == 0; }));
    CHECK(rig.proxy->counters().abandoned == 1);
    CHECK(rig.proxy->clients_count() == 0);
}

TEST_CASE("least asks the server with the fewest clients, which are counted until they end") {
    stream_rig rig({.how = balance::least}, {origin_state::listening, origin_state::listening});
    peer a = rig.client(), sa = rig.server(0);
    peer b = rig.client(), sb = rig.server(1);
    peer c = rig.client(), sc = rig.server(0);
    sa.reset();
    sc.reset();
    CHECK(rig.until([&] { return rig.proxy->clients_count() == 1; }));

    peer d = rig.client(), sd = rig.server(0);
    peer e = rig.client();
    d.say("d");
    rig.expect(sd, "d");
    CHECK(rig.until([&] { return ready(rig.origins[0].fd.get(), POLLIN) || ready(rig.origins[1].fd.get(), POLLIN); }));
}

TEST_CASE("no more clients are accepted than there may be, and the next one when one has gone") {
    stream_rig rig({.relay = {.pairs_max = 2}});
    peer a = rig.client(), sa = rig.server();
    peer b = rig.client(), sb = rig.server();
    peer c{connect_tcp(rig.proxy->port().local().port())};
    rig.turn(5);
    CHECK(rig.proxy->clients_count() == 2);

    a.reset();

    CHECK(rig.until([&] { return rig.proxy->counters().clients_total == 3; }));
    peer sc = rig.server();
    c.say("c");
    rig.expect(sc, "c");
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
        {"", true, end_cause::peer_closed, "it ended within its PROXY line"},
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

// ---- the end of it all

TEST_CASE("a drain lets what runs end, and cuts off what does not") {
    stream_rig rig;
    peer a = rig.client(), sa = rig.server();
    peer b = rig.client(), sb = rig.server();
    bool is_over = false;
    rig.proxy->drain(drain_kind::end, seconds{2}, [](void* at) noexcept { *static_cast<bool*>(at) = true; }, &is_over);
    CHECK(!rig.proxy->port().is_open());

    a.say("still");
    rig.expect(sa, "still");
    a.close();
    sa.close();
    CHECK(rig.until([&] { return rig.proxy->clients_count() == 1; }));
    rig.pass(milliseconds{1900});
    CHECK(!is_over);
    rig.pass(milliseconds{110});

    CHECK(is_over);
    CHECK(rig.proxy->cut_count() == 1);
    rig.expect_end(b, ending::reset);
    rig.expect_end(sb, ending::reset);
}

TEST_CASE("a drain with nobody there is over in the next turns, and who was in the backlog is served") {
    stream_rig rig;
    peer waits{connect_tcp(rig.proxy->port().local().port())};
    bool is_over = false;
    rig.proxy->drain(drain_kind::end, seconds{2}, [](void* at) noexcept { *static_cast<bool*>(at) = true; }, &is_over);
    peer s = rig.server();
    waits.say("served");
    rig.expect(s, "served");
    waits.reset();
    CHECK(rig.until([&] {
        rig.clock.advance(milliseconds{5});
        return is_over;
    }));
    CHECK(rig.proxy->cut_count() == 0);
}

TEST_CASE("a drain takes no more from the backlog than there may be clients") {
    stream_rig rig({.relay = {.pairs_max = 1}, .accept_proxy = true});
    peer a = rig.client();
    peer waits{connect_tcp(rig.proxy->port().local().port())};
    rig.turn(3);
    bool is_over = false;
    rig.proxy->drain(drain_kind::end, seconds{2}, [](void* at) noexcept { *static_cast<bool*>(at) = true; }, &is_over);

    rig.expect_end(waits, ending::reset);
    CHECK(rig.proxy->clients_count() == 1);
    a.reset();
    CHECK(rig.until([&] {
        rig.clock.advance(milliseconds{5});
        return is_over;
    }));
}

TEST_CASE("a client that a drain cuts off before its server is connected counts as refused") {
    stream_rig rig({}, {origin_state::swallowing});
    peer a = rig.client();
    bool is_over = false;
    rig.proxy->drain(drain_kind::end, milliseconds{100}, [](void* at) noexcept { *static_cast<bool*>(at) = true; }, &is_over);
    rig.pass(milliseconds{120});

    CHECK(is_over);
    rig.expect_end(a, ending::reset);
    CHECK(rig.proxy->cut_count() == 1);
    CHECK(rig.proxy->counters().refused == 1);
    CHECK(rig.proxy->counters().clients_total == 1);
}

TEST_CASE("counters add up over proxies") {
    counter_table sum;
    stream_rig one, other;
    peer a = one.client(), sa = one.server();
    peer b = other.client(), sb = other.server();

    one.proxy->add_counters(sum);
    other.proxy->add_counters(sum);

    CHECK(sum.value("clients") == 2);
    CHECK(sum.value("relayed") == 2);
    CHECK(sum.value("dialed") == 2);
    CHECK(sum.value("end_done") == 0);
    char room[2048];
    const std::size_t bytes = sum.write_json(room);
    CHECK(std::string_view(room, bytes).starts_with("{\"clients\":2,\"clients_total\":2,\"relayed\":2,"));
    CHECK(sum.write_json({room, bytes - 1}) == 0);
}

} // namespace
