// http1_exchange, through a gateway: without a block, and without room to send.

#include "proto/http1_exchange.hpp"

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- shortage

TEST_CASE("without a block for the request's head: 503, and the connection closes") {
    gateway_rig rig;
    held_blocks held{rig.conns.blocks()};
    held.all_but(0);
    for (const std::string& said : {get(), "GET / HT"s, get() + get()}) {
        INFO(said);
        peer c = rig.client();
        c.say(said);
        CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"));
        rig.expect_end(c, ending::fin);
        CHECK(!rig.has_dialed());
    }
    CHECK(rig.counters().shed == 3);
}

TEST_CASE("whenever the blocks run out, the request fails or is cut off, and nothing is left behind") {
    // All but `spare` blocks are gone from the start, or from when the request is under way.
    for (const bool later : {false, true}) {
        for (std::size_t spare = 0; spare < 4; spare++) {
            INFO(spare);
            INFO(later);
            gateway_rig rig;
            held_blocks held{rig.conns.blocks()};
            if (!later) held.all_but(spare);
            peer c = rig.client(), s;
            c.narrow();
            c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n");
            rig.settle();
            if (later) {
                s = rig.server();
                rig.settle();
                rig.narrow_all();
                held.all_but(spare);
            }
            const std::string body = pattern(400'000);
            std::string_view to_server = body, to_client = body;
            s.narrow();
            bool is_answering = false;
            for (int i = 0; i < 400 && rig.gateway->active_count() > 0; i++) {
                rig.settle();
                if (!s.open() && ready(rig.origins[0].fd.get(), POLLIN)) s = rig.server();
                to_server.remove_prefix(c.say_some(to_server));
                if (i < 100) continue; // the server does not read at first
                if (s.open()) s.pull(10'000);
                if (s.got.size() >= body.size() && !is_answering) {
                    is_answering = true;
                    (void)s.say_some("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n");
                }
                if (is_answering) to_client.remove_prefix(s.say_some(to_client));
                if (i > 250) c.pull(20'000);
            }
            c.close();
            s.close();
            CHECK(rig.until([&] { return rig.gateway->active_count() == 0; }));
            CHECK(rig.conns.blocks().used() == held.blocks.size());
        }
    }
}

TEST_CASE("without a block for what a slow client leaves, its answer is cut off for want of room") {
    gateway_rig rig;
    peer c = rig.client();
    c.narrow();
    c.say(get());
    peer s = rig.server();
    rig.settle();
    rig.narrow_all();
    held_blocks held{rig.conns.blocks()};
    held.all_but(0);
    // the request's own block is given back when the response begins: take that as well
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n");
    rig.settle();
    held.all_but(0);
    const std::string body = pattern(400'000);
    std::string_view rest = body;
    CHECK(rig.until([&] {
        rest.remove_prefix(s.say_some(rest));
        return rig.gateway->active_count() == 0;
    }));
    (void)rig.until([&] { return c.ended(); });
    CHECK(c.end == ending::reset);
    CHECK(rig.ended(end_cause::no_room) == 1);
}

TEST_CASE("without a block for what a slow server leaves: 503") {
    gateway_rig rig;
    peer c = rig.client();
    c.narrow();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n");
    peer s = rig.server();
    s.narrow();
    rig.settle();
    rig.narrow_all();
    held_blocks held{rig.conns.blocks()};
    held.all_but(0);
    const std::string body = pattern(400'000);
    std::string_view rest = body;
    (void)rig.until([&] {
        rest.remove_prefix(c.say_some(rest));
        return rig.gateway->active_count() == 0;
    });
    CHECK(rig.gateway->active_count() == 0);
    c.pull();
    CHECK(c.got.starts_with("HTTP/1.1 503 "));
    CHECK(rig.counters().shed == 1);
}

TEST_CASE("a body that was refused is not refused a second time, because there is no block for what stands behind it") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    peer s = rig.server();
    rig.settle();
    rig.choke_clients();
    held_blocks held{rig.conns.blocks()};
    held.all_but(1); // for the refusal
    c.say("5\r\nhello\r\nnonsense");
    rig.settle();

    rig.let_clients_take();

    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 400 "));
    rig.expect_end(c, ending::fin); // and nothing before it
    CHECK(rig.counters().shed == 0);
}

TEST_CASE("pipelined bytes that found no block are not taken for another request") {
    // The answer to the first one must end the connection: what was lost may have begun anywhere.
    gateway_rig rig;
    held_blocks held{rig.conns.blocks()};
    held.all_but(1);
    peer c = rig.client();
    c.say(get("/1") + "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\n"); // one block for /1, none for /2
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 503 "));
    rig.expect_end(c, ending::fin);
    CHECK(rig.counters().requests == 1);
}

// --- no room

TEST_CASE("a refusal that cannot be sent at once does not go on to ask a server") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    rig.choke_clients();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    rig.settle();
    CHECK(rig.counters().refused == 1);
    CHECK(rig.gateway->active_count() == 1);
    CHECK(!rig.has_dialed());
    CHECK(rig.counters().fresh == 0);
    rig.let_clients_take();
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    rig.expect_end(c, ending::fin);
    CHECK(rig.at_rest());
}

TEST_CASE("a refusal in the middle of a body that cannot be sent at once is sent later") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    peer s = rig.server();
    rig.settle();
    rig.choke_clients();
    c.say("zz\r\n" + get());
    rig.settle();
    CHECK(s.ended());
    rig.let_clients_take();
    CHECK(rig.expect_message(c).head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    rig.expect_end(c, ending::fin);
    CHECK(rig.at_rest());
    CHECK(rig.counters().fresh == 1);
}

TEST_CASE("after an interim response that had to wait, the body has its deadline again") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
    peer s = rig.server();
    rig.choke_clients();
    s.say("HTTP/1.1 103 Early Hints\r\n\r\n");
    rig.settle();
    rig.pass(seconds{25});
    rig.let_clients_take();
    rig.expect(c, "HTTP/1.1 103 Early Hints\r\n\r\n");
    rig.pass(seconds{30} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(milliseconds{1});
    rig.expect(c, own_answer(408, "Request Timeout", "408 Request Timeout: the request's body stalled\n", closes));
}

TEST_CASE("a client that takes a little of its answer has its whole time again") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.choke_clients();
    s.say(ok("hello"));
    rig.settle();
    rig.pass(seconds{29});
    rig.let_clients_take(4);
    rig.expect(c, "HTTP");
    rig.pass(seconds{30} - milliseconds{1});
    rig.expect_silence(c);
    rig.pass(rig.lateness_max(seconds{30}));
    rig.expect_end(c, ending::reset);
}

TEST_CASE("an early answer that a client does not take has its deadline when the request's body ends, too") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
    peer s = rig.server();
    rig.choke_clients();
    s.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst");
    rig.settle();
    c.say("4567890");
    rig.settle();
    rig.pass(seconds{30} - milliseconds{1});
    CHECK(rig.gateway->active_count() == 1);
    rig.pass(milliseconds{1});
    CHECK(rig.gateway->active_count() == 0);
    CHECK(rig.ended(end_cause::timed_out) == 1);
}

TEST_CASE("interim responses that a client does not take wait in their server's socket") {
    gateway_rig rig{{}, choking};
    peer c = rig.client();
    c.say(get());
    peer s = rig.server();
    rig.choke_clients();
    const std::string hint = "HTTP/1.1 103 Early Hints\r\nLink: " + pattern(5000) + "\r\n\r\n";
    std::string all;
    for (int i = 0; i < 10; i++) {
        s.say(hint);
        rig.settle();
        all += hint;
    }
    CHECK(rig.conns.blocks().used() <= 2);
    s.say(ok("done"));
    rig.let_clients_take();
    rig.expect(c, all + ok("done"));
    CHECK(rig.at_rest());
}

} // namespace
