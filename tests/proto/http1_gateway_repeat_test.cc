// http1_gateway: the race between a request and a close: what is repeated, and what never is.

#include "proto/http1_gateway.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("a request and the server's FIN in one batch: the close is seen first, in both orders") {
    for (const std::string& request : {get("/2"), post("/2", "body")}) {
        for (const bool fin_first : {true, false}) {
            acquainted rig;
            if (fin_first) rig.s.close();
            rig.c.say(request);
            if (!fin_first) rig.s.close();
            peer t = rig.server();
            rig.expect(t, request);
            t.say(ok("2"));
            rig.expect(rig.c, ok("2"));
            CHECK(rig.counters().repeated == 0);
            CHECK(rig.ended(end_cause::idle_peer_closed) == 1);
            CHECK(rig.troubles.empty());
        }
    }
}

TEST_CASE("an idempotent request that met a close under way is repeated once, on a fresh connection") {
    for (const char* method : {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}) {
        for (const bool is_reset : {false, true}) {
            INFO(method);
            acquainted rig;
            const std::string request = std::string(method) + " /2 HTTP/1.1\r\nHost: h\r\n" +
                                        (method == "PUT"sv ? "Content-Length: 4\r\n\r\nbody" : "\r\n");
            meanwhile m{rig};
            m.next([&] {
                if (is_reset) rig.s.reset();
                else rig.s.close();
            });
            rig.c.say(request);
            peer t = rig.server();
            rig.expect(t, request);
            t.say(method == "HEAD"sv ? "HTTP/1.1 204 No Content\r\n\r\n" : ok("2"));
            rig.expect(rig.c, method == "HEAD"sv ? "HTTP/1.1 204 No Content\r\n\r\n" : ok("2"));
            CHECK(rig.counters().repeated == 1);
            CHECK(rig.counters().repeated_by_proof == 0);
            CHECK(rig.troubles.empty());
            CHECK(rig.idle_count() == 1);
        }
    }
}

TEST_CASE("half an empty line in front of a close is no part of the answer to the repeated request") {
    acquainted rig;
    meanwhile m{rig};
    m.next([&] {
        rig.s.say("\r");
        rig.s.close();
    });
    rig.c.say(get("/2"));
    peer t = rig.server();
    rig.expect(t, get("/2"));
    t.say(ok("2"));
    rig.expect(rig.c, ok("2"));
    CHECK(rig.counters().repeated == 1);
    CHECK(rig.troubles.empty());
}

TEST_CASE("a POST that met a close under way is repeated, since the kernel proves that nobody had a byte of it") {
    const auto run = [](const std::string& request, bool dribbled) {
        acquainted rig;
        meanwhile m{rig};
        m.next([&] { rig.s.close(); });
        if (dribbled) {
            rig.c.say(std::string_view(request).substr(0, request.size() - 3));
            rig.settle();
            rig.c.say(std::string_view(request).substr(request.size() - 3));
        } else {
            rig.c.say(request);
        }
        peer t = rig.server();
        rig.expect(t, request);
        t.say(ok("2"));
        rig.expect(rig.c, ok("2"));
        CHECK(rig.counters().repeated == 1);
        CHECK(rig.counters().repeated_by_proof == 1);
        CHECK(rig.troubles.empty());
        CHECK(rig.at_rest());
        CHECK(rig.idle_count() == 1);
        CHECK(m.done_count == 1);
    };
    run(post("/2", "body"), false);
    run(post("/2", "body"), true);
    run(post("/2", ""), false);
    run("PATCH /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody", false);
    run("STRANGE /2 HTTP/1.1\r\nHost: h\r\n\r\n", false);
    run(post("/2", pattern(7000)), false);
}

TEST_CASE("a POST in chunks is repeated with what came of it meanwhile") {
    acquainted rig;
    meanwhile m{rig};
    m.next([&] { rig.s.close(); });
    rig.c.say("POST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
    peer t = rig.server();
    rig.expect(t, "POST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
    rig.c.say("3\r\ncde\r\n0\r\n\r\n");
    rig.expect(t, "3\r\ncde\r\n0\r\n\r\n");
    t.say(ok("2"));
    rig.expect(rig.c, ok("2"));
    CHECK(rig.counters().repeated_by_proof == 1);
}

TEST_CASE("a POST of which send() took no byte is repeated" *
          raw_only(side::servers, "over a transport send() does not tell what is on the wire")) {
    acquainted rig;
    meanwhile m{rig};
    m.next([&] { rig.s.reset(); });
    rig.c.say(post("/2", "body"));
    peer t = rig.server();
    rig.expect(t, post("/2", "body"));
    t.say(ok("2"));
    rig.expect(rig.c, ok("2"));
    CHECK(rig.counters().repeated == 1);
    CHECK(rig.counters().repeated_by_proof == 0);
}

TEST_CASE("after a FIN alone a POST waits for the proof, and is repeated when it comes") {
    acquainted rig;
    meanwhile m{rig};
    deafen(rig.s);
    m.next([&] { rig.s.shut(); });
    rig.c.say(post("/2", "body"));
    rig.settle();
    CHECK(!rig.has_dialed());
    rig.expect_silence(rig.c);
    CHECK(rig.gateway->active_count() == 1);

    const int none = 0;
    setsockopt(rig.s.fd.get(), SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none);
    rig.s.close(); // what is retransmitted now meets nobody: a reset
    peer t = rig.server();
    rig.expect(t, post("/2", "body"));
    t.say(ok("2"));
    rig.expect(rig.c, ok("2"));
    CHECK(rig.counters().repeated_by_proof == 1);
}

TEST_CASE("a proof that does not come within a second is none: 502") {
    acquainted rig;
    meanwhile m{rig};
    deafen(rig.s);
    m.next([&] { rig.s.shut(); });
    rig.c.say(post("/2", "body"));
    rig.settle();
    rig.pass(seconds{1} - milliseconds{1});
    rig.expect_silence(rig.c);
    rig.pass(milliseconds{1});
    rig.expect(rig.c, bad_gateway());
    CHECK(!rig.has_dialed());
    CHECK(rig.counters().repeated == 0);
    CHECK(rig.troubles.size() == 1);
}

TEST_CASE("a POST that waits for its proof goes with its client") {
    acquainted rig;
    meanwhile m{rig};
    deafen(rig.s);
    m.next([&] { rig.s.shut(); });
    rig.c.say(post("/2", "body"));
    rig.settle();
    rig.c.reset();
    rig.settle();
    CHECK(rig.at_rest());
    CHECK(rig.idle_count() == 0);
}

TEST_CASE("a POST that the server read is never sent twice: 502") {
    for (const char* how : {"close", "half-close", "reset", "unread", "unread reset"}) {
        INFO(how);
        acquainted rig;
        rig.c.say(post("/2", "body"));
        if (how[0] == 'u') rig.settle();
        else rig.expect(rig.s, post("/2", "body"));
        if (how == "close"sv || how == "unread"sv) rig.s.close(); // unread: ECONNRESET, and the kernel had acknowledged it
        else if (how == "half-close"sv) rig.s.shut();
        else rig.s.reset();
        rig.settle();
        rig.pass(seconds{1});
        rig.expect(rig.c, bad_gateway());
        CHECK(!rig.has_dialed());
        CHECK(rig.counters().repeated == 0);
        CHECK(rig.troubles.size() == 1);
        CHECK(!rig.c.ended());
    }
}

TEST_CASE("a POST that the server's kernel acknowledged is never sent twice, though nobody read it") {
    acquainted rig;
    meanwhile m{rig};
    m.next([&] { rig.s.shut(); });
    const int fd = rig.conn_of("idle").fd();
    const std::int64_t before = sys::bytes_acked(fd);
    rig.c.say(post("/2", "body"));
    REQUIRE(rig.until([&] { return sys::bytes_acked(fd) > before; })); // its ACK may be delayed
    rig.s.close(); // EPIPE, for its FIN came first; but what it acknowledged it might have read
    rig.expect(rig.c, bad_gateway());
    CHECK(!rig.has_dialed());
    CHECK(rig.counters().repeated == 0);
}

TEST_CASE("a GET that the server read without answering is repeated once") {
    acquainted rig;
    rig.c.say(get("/2"));
    rig.expect(rig.s, get("/2"));
    rig.s.close();
    peer t = rig.server();
    rig.expect(t, get("/2"));
    CHECK(rig.counters().repeated == 1);
    t.say(ok("2"));
    rig.expect(rig.c, ok("2"));
}

TEST_CASE("after one byte of a response nothing is repeated") {
    acquainted rig;
    rig.c.say(get("/2"));
    rig.expect(rig.s, get("/2"));
    rig.s.say("H");
    rig.settle();
    rig.s.close();
    rig.expect(rig.c, bad_gateway());
    CHECK(!rig.has_dialed());
}

TEST_CASE("a second failure is a 502, not a third try") {
    for (const std::string& request : {get("/2"), post("/2", "body")}) {
        acquainted rig;
        meanwhile m{rig};
        m.next([&] { rig.s.close(); });
        rig.c.say(request);
        peer t = rig.server();
        rig.expect(t, request);
        t.close();
        rig.expect(rig.c, bad_gateway());
        CHECK(!rig.has_dialed());
        CHECK(rig.counters().repeated == 1);
    }
}

TEST_CASE("what is asked for and cannot be connected to counts as neither fresh nor repeated") {
    for (const std::string& request : {get("/2"), post("/2", "body")}) {
        acquainted rig;
        CHECK(rig.counters().fresh == 1);
        meanwhile m{rig};
        m.next([&] {
            rig.origins[0].fd.close(); // refuses from now on
            rig.s.close();
        });
        rig.c.say(request);
        rig.expect(rig.c, bad_gateway());
        CHECK(rig.counters().fresh == 1);
        CHECK(rig.counters().repeated == 0);
        CHECK(rig.counters().repeated_by_proof == 0);
    }
}

TEST_CASE("a repeated request takes no other idle connection") {
    acquainted rig;
    peer d = rig.client(); // a second idle connection
    rig.c.say(get("/c"));
    rig.expect(rig.s, get("/c"));
    d.say(get("/d"));
    peer s2 = rig.server();
    rig.expect(s2, get("/d"));
    rig.s.say(ok());
    rig.expect(rig.c, ok());
    s2.say(ok());
    rig.expect(d, ok());
    REQUIRE(rig.idle_count() == 2);
    meanwhile m{rig};
    m.next([&] { s2.close(); }); // parked last, so taken first
    rig.c.say(get("/3"));
    peer t = rig.server();
    rig.expect(t, get("/3"));
    rig.expect_silence(rig.s); // it may be just as dead
    t.say(ok("3"));
    rig.expect(rig.c, ok("3"));
    CHECK(rig.counters().repeated == 1);
    CHECK(rig.idle_count() == 2);
}

TEST_CASE("with repeating off, a request that met a close is a 502") {
    for (const std::string& request : {get("/2"), post("/2", "body")}) {
        acquainted rig{{.http = {.repeats = repeat::off}}};
        meanwhile m{rig};
        m.next([&] { rig.s.close(); });
        rig.c.say(request);
        rig.expect(rig.c, bad_gateway());
        CHECK(!rig.has_dialed());
    }
}

TEST_CASE("a body larger than what is kept is not repeated") {
    acquainted rig;
    const std::string body = pattern(100'000);
    rig.c.say("PUT /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    rig.settle();
    std::string_view rest = body;
    REQUIRE(rig.until([&] {
        rest.remove_prefix(rig.c.say_some(rest));
        rig.s.pull();
        return rest.empty();
    }));
    rig.settle();
    rig.s.pull(); // records need more room than their bytes
    rig.settle();
    rig.s.close();
    rig.expect(rig.c, bad_gateway());
    CHECK(!rig.has_dialed());
}

TEST_CASE("what could not be repeated gets no connection older than the server keeps them") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say(ok());
    rig.expect(c, ok());
    rig.pass(seconds{10});
    s.close(); // idle for 10 s: learned
    rig.settle();
    for (const bool is_old : {false, true}) {
        c.say(get());
        peer t = rig.server();
        rig.expect(t, get());
        t.say(ok());
        rig.expect(c, ok());
        rig.pass(is_old ? seconds{9} : seconds{7});
        c.say(post("/p", "x"));
        rig.settle();
        CHECK(rig.has_dialed() == is_old);
        t.pull();
        CHECK(t.got.empty() == is_old);
        peer& at = t;
        peer fresh;
        if (is_old) fresh = rig.server();
        (is_old ? fresh : at).say(ok("p"));
        rig.expect(c, ok("p"));
        rig.settle();
        at.close();
        fresh.close();
        rig.settle();
    }
}

TEST_CASE("a request is kept for repeating only until its response begins") {
    acquainted rig;
    rig.c.say(get("/2"));
    rig.expect(rig.s, get("/2"));
    CHECK(rig.conns.blocks().used() == 1);
    rig.s.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1");
    rig.settle();
    CHECK(rig.conns.blocks().used() == 0);
    rig.s.say("2");
    rig.expect(rig.c, ok("12"));
}

} // namespace
