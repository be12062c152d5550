// http1_exchange, through a gateway: the client goes, in every phase of its request.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- the client goes

TEST_CASE("a client that aborts takes its server connection with it, in every phase") {
    const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n";
    struct {
        const char* phase;
        std::string said, answered;
    } const phases[] = {
        {"the head", "GET / HT", ""},
        {"the body", head + "12345", ""},
        {"a chunked body", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", ""},
        {"waiting", get(), ""},
        {"waiting, body sent", head + "1234567890", ""},
        {"after an interim response", get(), "HTTP/1.1 103 Early Hints\r\n\r\n"},
        {"the response's head", get(), "HTTP/1.1 200"},
        {"the response", get(), "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"},
        {"a chunked response", get(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12"},
        {"a response until close", get(), "HTTP/1.1 200 OK\r\n\r\n12345"},
        {"both ways", head + "12", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"},
    };
    for (const auto& each : phases) {
        INFO(each.phase);
        const auto& [phase, said, answered] = each;
        for (const bool reused : {false, true}) {
            gateway_rig rig;
            peer c = rig.client(), s;
            if (reused) {
                c.say(get());
                s = rig.server();
                s.say(ok());
                rig.expect(c, ok());
            }
            c.say(said);
            if (said.size() > 10 && !s.open()) s = rig.server();
            rig.settle();
            if (!answered.empty()) s.say(answered);
            rig.settle();
            c.reset();
            rig.settle();
            if (said.size() > 10) CHECK(s.ended());
            CHECK(rig.idle_count() == (said.size() > 10 || !reused ? 0 : 1));
            CHECK(rig.gateway->clients_count() == 0);
            CHECK(rig.at_rest());
            CHECK(rig.ended(end_cause::peer_failed) == 1);
        }
    }
}

TEST_CASE("a client that goes while its server is being dialed ends the dial") {
    gateway_rig rig{{}, {.origins = {origin_state::swallowing}}};
    peer c = rig.client();
    c.say(get());
    rig.settle();
    CHECK(rig.conns.live_count() == 2);
    c.reset();
    rig.settle();
    CHECK(rig.conns.live_count() == 0);
    CHECK(rig.at_rest());
}

TEST_CASE("a client that ends its side in the middle of a body is gone, and so is its server connection") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345");
    peer s = rig.server();
    rig.settle();
    c.shut();
    rig.settle();
    CHECK(s.ended());
    CHECK(s.end == ending::reset); // it must not take what it has for the whole
    CHECK(rig.idle_count() == 0);
    CHECK(rig.counters().abandoned == 1);
}

TEST_CASE("a client that aborts while its answer waits to be sent takes all with it") {
    gateway_rig rig;
    peer c = rig.client();
    c.narrow();
    c.say(get());
    peer s = rig.server();
    rig.settle();
    rig.narrow_all();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n");
    for (int i = 0; i < 40; i++) {
        s.say_some(pattern(5000));
        rig.settle();
    }
    CHECK(rig.conns.blocks().used() == 1);
    c.reset();
    rig.settle();
    CHECK(s.ended());
    CHECK(rig.conns.live_count() == 0);
    CHECK(rig.at_rest());
}

} // namespace
