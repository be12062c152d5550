// A closed connection is inert: what its user still calls reaches nobody. Built twice: with the checks, which stop at
// such a call, and as with NDEBUG, where it has no effect.

#include <array>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include "core/connection.hpp"
#include "core/idle.hpp"
#include "core/relay.hpp"
#include "core/still_there.hpp"
#include "support/dies.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

// A connection that was closed, and another one on the number that it had.
struct successor {
    explicit successor(close_intent intent = close_intent::silent) {
        connection& conn = r.serve(std::move(first.b), who);
        const int number = conn.fd();
        conn.close(intent, end_cause::done);
        closed = &conn;
        if (intent == close_intent::silent) other = &r.serve(moved_to(std::move(second.b), number), other_who);
    }

    rig r;
    pair first = tcp_pair(), second = tcp_pair();
    user who, other_who;
    connection* closed = nullptr;
    connection* other = nullptr;
};

TEST_CASE("a callback that closed its connection in passing is told that it is gone, lingering or not") {
    for (const close_intent intent : {close_intent::graceful, close_intent::silent}) {
        rig r;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        const still_there is{conn};
        CHECK(is.answer() == verdict::keep);

        conn.close(intent, end_cause::done);

        CHECK(is.answer() == verdict::gone);
        CHECK(still_there{conn}.answer() == verdict::gone);
        CHECK(conn.was_closed());
    }
}

TEST_CASE("a closed connection has no descriptor, and a parked or joined one is refused") {
    successor s;
    idle_pool idle(s.r.conns, {});
    relay_pool relay(s.r.conns, {.pairs_max = 1});

    CHECK(s.closed->fd() == -1);
    CHECK((s.closed->slot().handler == nullptr));
    CHECK(relay.join(*s.closed, *s.other).error() == EBADF);
    CHECK(relay.pair_count() == 0);
#ifdef NDEBUG
    CHECK(idle.park(*s.closed, {}, {.messages_complete = true, .buffers_empty = true}) == verdict::gone);
    CHECK(relay.dial(*s.closed, tcp, any_port) == verdict::gone);
    CHECK(relay.pair_count() == 0);
#endif
}

#ifdef NDEBUG

TEST_CASE("bytes for a closed connection reach nobody, and none come from one") {
    successor s;
    send_all(s.second.a.get(), "for the other");
    REQUIRE(arrived(*s.other));
    std::array<int, 2> ends{};
    REQUIRE(pipe2(ends.data(), O_NONBLOCK) == 0);
    const descriptor reads{ends[0]}, writes{ends[1]};
    REQUIRE(write(writes.get(), "secret", 6) == 6);

    char room[64];
    CHECK(s.closed->send("secret").end == io::failed);
    CHECK(s.closed->splice_out(reads.get(), 6).end == io::failed);
    CHECK(s.closed->recv(room, sizeof room).end == io::failed);
    CHECK(s.closed->splice_in(writes.get(), 1).end == io::failed);
    CHECK(s.closed->error() == EBADF);

    s.other->want_recv();
    s.r.turn();
    CHECK(s.other_who.received == "for the other");
    CHECK(ending_of(s.second.a.get(), nullptr, std::chrono::milliseconds{0}) == ending::none); // not one byte
    CHECK(s.r.sums_hold());
}

TEST_CASE("nothing that a closed connection is told has an effect on its successor") {
    successor s;
    s.other->want_recv();
    s.other->arm(s.r.clock.now(s.r.clock) + seconds{1}, connection::timed_out);

    s.closed->stop_recv();
    s.closed->want_send();
    s.closed->stop_send();
    s.closed->want_recv();
    s.closed->disarm();
    s.closed->attach(user::other_table, &s.who);
    s.closed->shutdown_send();
    s.closed->arm(s.r.clock.now(s.r.clock), [](timer&, time_point) noexcept { FAIL("armed after the end"); });
    CHECK(s.closed->close(close_intent::abort, end_cause::protocol) == verdict::gone);

    send_all(s.second.a.get(), "on it goes");
    REQUIRE(s.r.until([&] { return s.other_who.received == "on it goes"; }));
    CHECK_FALSE(s.other->is(conn_flag::send_ended));
    s.r.pass(seconds{2});
    CHECK(s.other->error() == ETIMEDOUT); // its deadline is its own
    CHECK(s.who.calls.empty());
    CHECK(s.r.ended(end_cause::done) == 1);
    CHECK(s.r.ended(end_cause::protocol) == 0);
}

TEST_CASE("a connection that lingers ends as if its old user were not there") {
    successor s{close_intent::graceful};
    s.closed->stop_recv();
    s.closed->disarm();
    s.closed->attach(user::other_table, &s.who);
    s.closed->arm(never, connection::timed_out);
    CHECK(s.closed->send("late").end == io::failed);
    char room[64];
    CHECK(s.closed->recv(room, sizeof room).end == io::failed);
    CHECK(s.closed->close(close_intent::abort, end_cause::protocol) == verdict::gone);

    std::string heard;
    CHECK(ending_of(s.first.a.get(), &heard) == ending::fin);
    CHECK(heard.empty());
    shut_write(s.first.a.get());
    REQUIRE(s.r.until([&] { return s.r.conns.live_count() == 0; }));
    CHECK(s.r.ended(end_cause::done) == 1);
    CHECK(s.who.calls.empty());
}

TEST_CASE("the deadline of a connection that lingers cannot be taken away") {
    successor s{close_intent::graceful};
    s.closed->disarm();
    s.closed->arm(never, connection::timed_out);

    s.r.pass(std::chrono::hours{1});

    CHECK(s.r.conns.live_count() == 0);
}

TEST_CASE("a transport is not called for a closed connection") {
    rig r;
    pair ends = tcp_pair();
    user who;
    const int before = record_layer::live_count;
    connection& conn = greeted(r, std::move(ends.b), ends.a, who);
    CHECK(record_layer::live_count == before + 1);
    conn.close(close_intent::silent, end_cause::done);
    CHECK(record_layer::live_count == before);

    char room[64];
    CHECK(conn.recv(room, sizeof room).end == io::failed);
    CHECK(conn.send("late").end == io::failed);

    CHECK(record_layer::live_count == before); // no new context was made
}

#else

// Each call after close() is a contract broken, and says which.
template <class Call>
bool dies_closed(close_intent intent, Call call, std::string_view words = "used after it was closed") {
    return dies(
        [&] {
            rig r;
            pair ends = tcp_pair();
            user who;
            connection& conn = r.serve(std::move(ends.b), who);
            conn.close(intent, end_cause::done);
            call(conn);
        },
        words);
}

TEST_CASE("the use of a closed connection is a broken contract, and says so") {
    static char room[8];
    for (const close_intent how : {close_intent::silent, close_intent::graceful}) {
        CHECK(dies_closed(how, [](connection& c) { c.recv(room, sizeof room); }));
        CHECK(dies_closed(how, [](connection& c) { c.send("late"); }));
        CHECK(dies_closed(how, [](connection& c) { c.splice_in(0, 1); }));
        CHECK(dies_closed(how, [](connection& c) { c.splice_out(0, 1); }));
        CHECK(dies_closed(how, [](connection& c) { c.shutdown_send(); }));
        CHECK(dies_closed(how, [](connection& c) { c.want_recv(); }));
        CHECK(dies_closed(how, [](connection& c) { c.stop_recv(); }));
        CHECK(dies_closed(how, [](connection& c) { c.want_send(); }));
        CHECK(dies_closed(how, [](connection& c) { c.stop_send(); }));
        CHECK(dies_closed(how, [](connection& c) { c.attach(user::table, nullptr); }));
        CHECK(dies_closed(how, [](connection& c) { c.arm(never, connection::timed_out); }));
        CHECK(dies_closed(how, [](connection& c) { c.disarm(); }));
        CHECK(dies_closed(how, [](connection& c) { c.close(close_intent::silent, end_cause::done); }, "closed a second time"));
    }
}

#endif

} // namespace
