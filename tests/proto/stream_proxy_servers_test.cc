// stream_proxy: who is dialed, how clients end that could not be served, and how all of them end.

#include "proto/stream_proxy.hpp"

#include "proto/unix.hpp"
#include "support/stream_rig.hpp"

namespace {

using namespace weir;
using namespace support;

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
    for (auto [client, server] : {std::pair{&a, &sa}, {&c, &sc}}) { // else it would rest
        server->say("bye");
        rig.expect(*client, "bye");
    }
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

TEST_CASE("a client that is bound to a name with a line end cannot write a line of its own into the log") {
    stream_rig rig({}, {origin_state::refusing});
    char name[64];
    std::snprintf(name, sizeof name, "@weir-stream-test-%d", static_cast<int>(getpid()));
    stream_proxy proxy(rig.conns, {});
    std::vector<std::string> lines;
    proxy.add_upstream({.family = &tcp, .at = endpoint::ipv4(0x7f000001, rig.origins[0].port)});
    REQUIRE(proxy.listen({.family = &unix_stream, .at = endpoint::unix_path(name).value()}, {}).ok());
    proxy.on_trouble(
        [](void* to, std::string_view line) noexcept { static_cast<std::vector<std::string>*>(to)->emplace_back(line); },
        &lines);

    const descriptor client(sys::socket(AF_UNIX, SOCK_STREAM));
    const endpoint at = proxy.port().local(), from = endpoint::unix_path(std::string(name) + "\nweir-relay: forged").value();
    REQUIRE(::bind(client.get(), from.data(), from.size()) == 0);
    REQUIRE(::connect(client.get(), at.data(), at.size()) == 0);
    REQUIRE(rig.until([&] { return !lines.empty(); }));

    CHECK(lines[0].starts_with("client unix:" + std::string(name) + "\\x0aweir-relay: forged refused: connect_failed: "));
    CHECK(lines[0].find('\n') == std::string::npos);
}

} // namespace
