// http1_exchange, through a gateway: answers that come early or are cut off, and servers that go.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- the final response comes early, or the server goes

TEST_CASE("a final response while the body is being sent is delivered; both connections end") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nfirst");
    peer s = rig.server();
    rig.expect(s, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nfirst");
    s.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!");
    rig.expect_end(s, ending::reset);
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!");
    CHECK(c.end == ending::fin);
    c.say("more of the body that nobody wants"); // lingering: no reset comes of it
    rig.settle();
    c.got.clear();
    CHECK(c.pull().got == "");
    CHECK(c.end == ending::fin);
    CHECK(rig.idle_count() == 0);
    CHECK(rig.conns.live_count() == 1);
    c.close();
    CHECK(rig.until([&] { return rig.conns.live_count() == 0; }));
}

TEST_CASE("an early answer that is all there says that the connection closes; one that goes on does not") {
    const std::string head = "HTTP/1.1 413 Content Too Large\r\n", length = "Content-Length: ",
                      chunked = "Transfer-Encoding: chunked\r\n";
    const auto got = [](std::string_view answer) {
        gateway_rig rig;
        peer c = rig.client();
        c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nfirst");
        peer s = rig.server();
        s.say(answer);
        rig.settle();
        return c.pull().got;
    };
    const std::string end = "Connection: close\r\n\r\n";
    CHECK(got(head + length + "0\r\n\r\n") == head + length + "0\r\n" + end);
    CHECK(got(head + length + "3\r\n\r\nno!") == head + length + "3\r\n" + end + "no!");
    CHECK(got(head + length + "4\r\n\r\nno!") == head + length + "4\r\n\r\nno!");
    CHECK(got(head + chunked + "\r\n2\r\nno\r\n1\r\n!\r\n0\r\n\r\n") == head + chunked + end + "3\r\nno!\r\n0\r\n\r\n");
    CHECK(got(head + chunked + "\r\n3\r\nno!\r\n") == head + chunked + "\r\n3\r\nno!\r\n");
    CHECK(got("HTTP/1.1 304 Not Modified\r\n\r\n") == "HTTP/1.1 304 Not Modified\r\n" + end);
}

TEST_CASE("a lingering client is let go after its time") {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nfirst");
    peer s = rig.server();
    s.say(ok("x"));
    rig.settle();
    rig.pass(seconds{5} - milliseconds{1});
    CHECK(rig.conns.live_count() == 1);
    rig.pass(milliseconds{1});
    CHECK(rig.conns.live_count() == 0);
}

TEST_CASE("a server that answers and closes with the body unread: the answer is delivered") {
    // Scenario 33: its close resets the connection under what the gateway still sends.
    for (const std::size_t body_bytes : {100'000u, 1'000'000u}) {
        gateway_rig rig;
        peer c = rig.client();
        const std::string body = pattern(body_bytes);
        const std::string request = post("/", body);
        std::string_view rest = request;
        rest.remove_prefix(c.say_some(rest.substr(0, 60'000)));
        peer s = rig.server();
        rig.settle();
        s.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope");
        s.close();
        (void)rig.until([&] {
            if (c.end == ending::none) rest.remove_prefix(c.say_some(rest.substr(0, 4000)));
            return c.ended();
        });
        CHECK(c.got == "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope");
        CHECK(rig.idle_count() == 0);
        CHECK(rig.gateway->active_count() == 0);
    }
}

TEST_CASE("a server that answers and closes while a send is under way: the answer is delivered") {
    // The reset is met by a send, before any report: what the server said before is still in the socket.
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nfirst");
    peer s = rig.server();
    rig.expect(s, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nfirst");
    c.say("second");
    rig.settle();
    c.say("third");
    s.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope");
    s.close(); // "second" is unread: a reset
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope");
    CHECK(c.end == ending::fin);
}

TEST_CASE("bytes behind the response keep its connection out of the pool") {
    for (const std::string& response :
         {ok("x") + "y", "HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\ny"s, "HTTP/1.1 304 Not Modified\r\n\r\ny"s,
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\ny"s, ok("x") + ok("y")}) {
        INFO(response);
        gateway_rig rig;
        peer c = rig.client();
        c.say(get());
        peer s = rig.server();
        s.say(response);
        rig.settle();
        CHECK(s.ended());
        CHECK(rig.idle_count() == 0);
        CHECK(rig.ended(end_cause::protocol) == 1);
        CHECK(!c.ended());
        c.got.clear();
        c.say(get("/2"));
        peer t = rig.server();
        rig.expect(t, get("/2"));
        t.say(ok("right"));
        rig.expect(c, ok("right"));
    }
}

TEST_CASE("bytes behind the response that come right after it was parked kill the connection") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say(ok("x"));
    rig.expect(c, ok("x"));
    CHECK(rig.idle_count() == 1);
    s.say("y");
    rig.settle();
    CHECK(rig.idle_count() == 0);
    CHECK(rig.ended(end_cause::idle_unsolicited) == 1);
}

TEST_CASE("a response that breaks the rules is a 502, and its connection is closed") {
    for (const char* response : {
             "nonsense\r\n\r\n",
             "HTTP/1.1 99 Low\r\n\r\n",
             "HTTP/1.1 000 None\r\n\r\n",
             "HTTP/2.0 200 OK\r\n\r\n",
             "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
             "HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nok",
             "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
             "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
             "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
             "HTTP/1.1 200 OK\nX: a\n\n",
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
         }) {
        INFO(response);
        gateway_rig rig;
        peer c = rig.client();
        c.say(get("/what"));
        peer s = rig.server();
        s.say(response);
        rig.expect(c, bad_gateway());
        rig.settle();
        CHECK(s.ended());
        CHECK(rig.idle_count() == 0);
        CHECK(rig.counters().failed == 1);
        CHECK(rig.ended(end_cause::protocol) == 1);
        REQUIRE(rig.troubles.size() == 1);
        CHECK(rig.troubles[0].starts_with("502 \"GET /what\" upstream 127.0.0.1:"));
        CHECK(!c.ended()); // it stays, and is served again
        CHECK(rig.at_rest());
    }
}

TEST_CASE("a response that is cut off is cut off for the client too") {
    struct {
        const char* request;
        const char* response;
        const char* delivered;
        ending how;
    } const cases[] = {
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
         "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", ending::fin},
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", ending::fin},
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", ending::fin},
        {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n",
         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", ending::fin},
        // Nothing in the message would tell where its end is: the connection must.
        {"GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
         "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhel", ending::reset},
    };
    for (const auto& each : cases) {
        INFO(each.response);
        const auto& [request, response, delivered, how] = each;
        gateway_rig rig;
        peer c = rig.client();
        c.say(request);
        peer s = rig.server();
        s.say(response);
        rig.settle();
        c.pull();
        CHECK(shown(c.got) == shown(delivered));
        CHECK(c.end == ending::none);
        s.shut();
        (void)rig.until([&] { return c.ended(); });
        CHECK(shown(c.got) == shown(delivered));
        CHECK(c.end == how);
        CHECK(rig.counters().truncated == 1);
        CHECK(rig.counters().responses == 0);
        CHECK(rig.troubles.size() == 1);
        CHECK(rig.gateway->active_count() == 0);
    }
}

TEST_CASE("a reset is no end of a response until close") {
    for (const bool is_old : {false, true}) {
        gateway_rig rig;
        peer c = rig.client();
        c.say(is_old ? "GET / HTTP/1.0\r\n\r\n" : get());
        peer s = rig.server();
        rig.settle();
        s.pull();
        s.say("HTTP/1.1 200 OK\r\n\r\nhel");
        rig.settle();
        s.reset();
        (void)rig.until([&] { return c.ended(); });
        CHECK(c.end == (is_old ? ending::reset : ending::fin));
        CHECK(c.got.find("0\r\n\r\n") == c.got.npos);
        CHECK(rig.counters().truncated == 1);
    }
}

TEST_CASE("a chunk that breaks the rules in the middle cuts the response off") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n");
    rig.settle();
    s.say("zz\r\n");
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.got == "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n");
    CHECK(c.end == ending::fin);
    CHECK(rig.ended(end_cause::protocol) == 1);
}

TEST_CASE("a head that is cut off is a 502") {
    gateway_rig rig;
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    s.say("HTTP/1.1 200 OK\r\nContent-");
    rig.settle();
    s.shut();
    rig.expect(c, bad_gateway());
    CHECK(rig.troubles.at(0).ends_with("the response's head was cut off"));
}

TEST_CASE("a fresh connection that closes without a byte is a 502, and nothing is sent twice") {
    for (const std::string& request : {get(), post("/", "x")}) {
        gateway_rig rig;
        peer c = rig.client();
        c.say(request);
        peer s = rig.server();
        rig.expect(s, request);
        s.close();
        rig.expect(c, bad_gateway());
        CHECK(!rig.has_dialed());
        CHECK(rig.counters().repeated == 0);
    }
}

TEST_CASE("a send to the server that fails for a reason that recv never shows ends the request") {
    // ENOMEM, say: nothing comes after it, neither bytes nor an end.
    for (const bool is_answering : {false, true}) {
        gateway_rig rig;
        peer c = rig.client();
        c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
        peer s = rig.server();
        if (is_answering) s.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123");
        rig.settle();
        c.pull().got.clear();
        rig.conn_of("http1-server").fail(ENOMEM);
        rig.settle();
        CHECK(rig.gateway->active_count() == 0);
        CHECK(s.ended());
        c.pull();
        CHECK(c.got == (is_answering ? "" : bad_gateway(closes)));
    }
}

TEST_CASE("a server to which a send has failed, and which stops in the middle of its last words, is a 504" *
          raw_only(side::servers, "what the test shuts is under the transport")) {
    gateway_rig rig;
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
    peer s = rig.server();
    rig.settle();
    connection& server = rig.conn_of("http1-server");
    REQUIRE(::shutdown(server.fd(), SHUT_WR) == 0);
    c.say("456");
    REQUIRE(rig.until([&] { return server.is(conn_flag::failed); }));
    rig.turn();
    s.say("HTTP/1.1 200 O"); // after it was decided to listen on, before that was done
    rig.settle();

    rig.pass(seconds{59});
    CHECK(rig.gateway->active_count() == 1);
    rig.pass(seconds{1} + rig.lateness_max(seconds{60}));

    CHECK(rig.gateway->active_count() == 0);
    c.pull();
    CHECK(c.got.starts_with("HTTP/1.1 504 "));
}

} // namespace
