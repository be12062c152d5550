// http1_gateway: over a transport, whatever WEIR_TRANSPORT says.

#include "proto/http1_gateway.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("over a transport a response until close that anybody could have cut off is cut off, not delivered as whole") {
    for (const bool is_cut : {false, true}) {
        CAPTURE(is_cut);
        gateway_rig rig{{}, {.servers = &record_xprt}};
        peer c = rig.client();
        c.say(get());
        peer s = rig.server();
        rig.expect(s, get());
        s.say("HTTP/1.1 200 OK\r\n\r\nhello");
        rig.settle();
        if (is_cut) s.cut_off();
        else s.close();
        const std::string begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        rig.expect(c, is_cut ? begun : begun + "0\r\n\r\n");
        CHECK(c.ended() == is_cut);
        CHECK(rig.counters().truncated == (is_cut ? 1 : 0));
        CHECK(rig.ended(end_cause::peer_failed) == (is_cut ? 1 : 0)); // the client's is lingering yet
    }
}

// As a TLS library without partial writes: it has sent all, and says that it took nothing.
struct sly {
    static inline bool is_on = false;
    static io_result send(connection& conn, const iovec* parts, std::size_t parts_count, bool more) noexcept {
        const io_result sent = raw_xprt.send(conn, parts, parts_count, more);
        return is_on ? io_result{io::again, 0} : sent;
    }
    static drain_result drain(connection& conn) noexcept { return tcp.drain(conn.fd(), 1 << 20); }
};
constexpr xprt sly_xprt{
    .name = "sly", .recv = [](connection& conn, void* to, std::size_t bytes) noexcept { return raw_xprt.recv(conn, to, bytes); },
    .send = sly::send, .drain = sly::drain, .handshake = nullptr, .close = nullptr};

TEST_CASE("over a transport a POST of which send() took no byte is not repeated: the server may have read it") {
    gateway_rig rig{{}, {.servers = &sly_xprt}};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.expect(s, get());
    s.say(ok());
    rig.expect(c, ok());
    REQUIRE(rig.idle_count() == 1);

    sly::is_on = true;
    c.say(post("/2", "body"));
    CHECK(rig.until([&] { return s.pull().got.find("body") != std::string::npos; }));
    sly::is_on = false;
    s.reset();

    rig.expect(c, bad_gateway());
    CHECK(!rig.has_dialed());
    CHECK(rig.counters().repeated == 0);
}

TEST_CASE("a client that says nothing but talk of its transport's does not put its deadlines off") {
    for (const bool is_fresh : {true, false}) {
        CAPTURE(is_fresh);
        gateway_rig rig{{}, {.clients = &record_xprt}};
        peer c = rig.client();
        if (!is_fresh) {
            c.say(get());
            peer s = rig.server();
            rig.expect(s, get());
            s.say(ok());
            rig.expect(c, ok());
        }
        const duration limit = is_fresh ? seconds{10} : seconds{60};
        for (int i = 0; i < 4; i++) {
            rig.pass(limit / 5);
            send_all(c.fd.get(), ticket);
            rig.settle();
            CHECK(rig.gateway->active_count() == 0);
        }
        rig.pass(limit / 5 - milliseconds{1});
        rig.expect_silence(c);

        rig.pass(milliseconds{1});

        rig.expect_end(c, ending::fin);
    }
}

TEST_CASE("requests that came in one record are answered in order, and those that came with the handshake too") {
    gateway_rig rig{{}, {.clients = &record_xprt, .servers = &record_xprt}};
    peer c{connect_small(rig.gateway->local().port()), true};
    c.say(get("/1") + get("/2"));
    c.say(get("/3"));
    peer s = rig.server();
    for (const char* target : {"/1", "/2", "/3"}) {
        rig.expect(s, get(target));
        s.say(ok(target));
    }
    rig.expect(c, ok("/1") + ok("/2") + ok("/3"));
    CHECK(rig.at_rest());
    CHECK(rig.idle_count() == 1);
}

TEST_CASE("a handshake that a server fails is a connect that failed: the next one has the request") {
    gateway_rig rig{{}, {.origins = {origin_state::listening, origin_state::listening}, .servers = &record_xprt}};
    peer c = rig.client();
    c.say(post("/", "body"));
    REQUIRE(rig.until([&] { return ready(rig.origins[0].fd.get(), POLLIN); }));
    descriptor rude = accept_tcp(rig.origins[0]);
    send_all(rude.get(), "?");
    peer s = rig.server(1);
    rig.expect(s, post("/", "body"));
    s.say(ok());
    rig.expect(c, ok());
    CHECK(rig.conns.live_count() == 3); // the one that was refused lingers, so that it can read why
    rude.close();
    CHECK(rig.until([&] { return rig.ended(end_cause::connect_failed) == 1; }));
}

} // namespace
