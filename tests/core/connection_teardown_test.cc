// A program may end with connections open: what is destroyed in reverse order of its making ends in silence, and the
// peers hear of it. Each case ends in the middle of something.

#include <optional>
#include <string>

#include <doctest/doctest.h>

#include "core/connection.hpp"
#include "core/idle.hpp"
#include "core/listener.hpp"
#include "core/relay.hpp"
#include "core/tables.hpp"
#include "proto/tcp.hpp"
#include "support/net.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

// What a program keeps for each of its connections, and does not free by itself.
struct session {
    explicit session(connection& c) noexcept : conn(&c) {}

    connection* conn;
    buffer pending;
    timer deadline{[](timer&, time_point) noexcept {}};
    list_hook hook;
};

struct program {
    program() {
        REQUIRE(loop.open().ok());
        REQUIRE(conns.open({.connections_max = 8}).ok());
        REQUIRE(port.open(tcp, any_port, {}, accepted, this).ok());
    }
    static void accepted(void* self, connection& conn, const endpoint&) noexcept {
        program& p = *static_cast<program*>(self);
        session* s = p.sessions.make(conn);
        p.all.push_back(*s);
        p.loop.arm_in(s->deadline, seconds{60});
        CHECK(s->pending.append("bytes on their way", p.conns.blocks()) == buffer::append_result::done);
        conn.attach(discard_cb, s);
        conn.arm(p.loop.now() + seconds{60}, connection::timed_out);
        conn.want_recv();
    }
    void serve_one() {
        client = connect_tcp(port.local().port());
        while (sessions.used() == 0)
            loop.turn(milliseconds{100});
    }

    event_loop loop;
    conntab conns{loop};
    fixed_pool<session> sessions{8};
    list<&session::hook> all;
    listener port{conns};
    descriptor client;
};

TEST_CASE("a program ends with a client connected, its timers armed and bytes pending") {
    std::optional<program> p(std::in_place);
    p->serve_one();
    descriptor client = std::move(p->client);

    p.reset();

    CHECK(ending_of(client.get()) == ending::reset); // the answer was cut off, which shows
}

TEST_CASE("a program's list may go before or after the pool of its elements") {
    for (const bool list_first : {true, false}) {
        CAPTURE(list_first);
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        std::optional<fixed_pool<session>> sessions(std::in_place, 4);
        std::optional<list<&session::hook>> all(std::in_place);
        for (int i = 0; i < 3; i++) {
            session* s = sessions->make(conn);
            all->push_back(*s);
            r.loop.arm_in(s->deadline, seconds{1});
        }

        if (list_first) all.reset();
        sessions.reset();
        all.reset();

        r.pass(seconds{2}); // none of the timers is there any more
    }
}

TEST_CASE("a timer may outlive its loop") {
    timer late{[](timer&, time_point) noexcept {}};
    {
        event_loop loop;
        REQUIRE(loop.open().ok());
        loop.arm_in(late, seconds{1});
    }
    CHECK_FALSE(late.armed());
}

TEST_CASE("a program ends with a connection parked, one lingering and two tied together") {
    pair parked = tcp_pair(), lingering = tcp_pair(), a = tcp_pair(), b = tcp_pair();
    user who;
    {
        rig r;
        idle_pool idle(r.conns, {});
        relay_pool relay(r.conns, {.pairs_max = 2});
        const auto key = idle.key_of({.remote = endpoint::ipv4(1, 1), .family = &tcp});
        CHECK(idle.park(r.serve(std::move(parked.b), who), key, {.messages_complete = true, .buffers_empty = true}) == verdict::keep);
        r.serve(std::move(lingering.b), who).close(close_intent::graceful, end_cause::done);
        connection& one = r.serve(std::move(a.b), who);
        CHECK(relay.join(one, r.serve(std::move(b.b), who), "early").ok());
        r.turn();
    }
    CHECK(ending_of(parked.a.get()) == ending::reset);
    CHECK(ending_of(lingering.a.get()) == ending::fin);
    CHECK(ending_of(a.a.get()) == ending::reset);
    CHECK(ending_of(b.a.get()) == ending::reset);
}

TEST_CASE("a program ends in the turn in which it closed a connection") {
    pair ends = tcp_pair();
    user who;
    rig r;
    r.serve(std::move(ends.b), who).close(close_intent::silent, end_cause::done); // freed by nobody but the conntab
}

TEST_CASE("a program ends while it connects") {
    const tcp_listener server = listen_tcp();
    user who;
    rig r;
    auto dialed = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server.port), {}, user::table, &who);
    CHECK(dialed.ok());
}

} // namespace
