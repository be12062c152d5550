// http1_gateway: a server's 408 that crosses a request.

#include "proto/http1_gateway.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("a 408 after the server had the POST is its answer: it is not sent twice") {
    acquainted rig;
    rig.c.say(post("/2", "body"));
    rig.expect(rig.s, post("/2", "body"));
    rig.s.say("HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nlate");
    rig.expect(rig.c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nlate");
    CHECK(!rig.has_dialed());
    CHECK(rig.counters().repeated == 0);
}

TEST_CASE("a 408 that crossed the request on its way is not its answer: the request is repeated") {
    const std::string parting = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlate";
    for (const std::string& request : {get("/2"), post("/2", "body")}) {
        acquainted rig;
        meanwhile m{rig};
        m.next([&] {
            rig.s.say(parting);
            rig.s.close();
        });
        rig.c.say(request);
        peer t = rig.server();
        rig.expect(t, request);
        CHECK(rig.counters().repeated == 1);
        CHECK(rig.counters().repeated_by_proof == (request.starts_with("POST") ? 1 : 0));
        t.say(ok("2"));
        rig.expect(rig.c, ok("2"));
        CHECK(rig.at_rest());
    }
    gateway_rig rig; // of a fresh connection it is the answer
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say(parting);
    rig.expect(c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nlate");
    CHECK(!rig.has_dialed());
}

TEST_CASE("a 408 of a server that does not close may yet be followed by the POST's processing: it is not sent twice") {
    const std::string body = "Content-Length: 4\r\n\r\nlate";
    for (const std::string& ending : {""s, "Connection: close\r\n"s}) {
        acquainted rig;
        meanwhile m{rig};
        deafen(rig.s); // not a byte of the request is acknowledged
        m.next([&] { rig.s.say("HTTP/1.1 408 Request Timeout\r\n" + ending + body); });
        rig.c.say(post("/2", "body"));
        if (ending.empty()) {
            rig.expect(rig.c, "HTTP/1.1 408 Request Timeout\r\n" + body);
            CHECK(!rig.has_dialed());
            CHECK(rig.counters().repeated == 0);
        } else {
            peer t = rig.server();
            rig.expect(t, post("/2", "body"));
            CHECK(rig.counters().repeated_by_proof == 1);
        }
    }
}

} // namespace
