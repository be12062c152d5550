#include "core/redial.hpp"

#include <memory>
#include <vector>

#include <sys/socket.h>
#include <sys/un.h>

#include "core/dialer.hpp"
#include "proto/unix.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

// A unix listener with a backlog of 0, which holds one connection, and is full.
struct busy_server {
    explicit busy_server(const char* name) {
        char text[64];
        std::snprintf(text, sizeof text, "@weir-redial-%s-%d", name, static_cast<int>(getpid()));
        at = endpoint::unix_path(text).value();
        listener = descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        REQUIRE(::bind(listener.get(), at.data(), at.size()) == 0);
        REQUIRE(::listen(listener.get(), 0) == 0);
        filler = descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(::connect(filler.get(), at.data(), at.size()) == 0);
    }
    // Takes one in, and has room for another.
    descriptor& accept() {
        taken.emplace_back(::accept(listener.get(), nullptr, nullptr));
        REQUIRE(taken.back().get() >= 0);
        return taken.back();
    }

    endpoint at;
    descriptor listener, filler;
    std::vector<descriptor> taken;
};

connection& dialed(rig& r, const busy_server& to, user& who, const dial_options& options = {}) {
    auto conn = dial(r.conns, unix_stream, to.at, options, user::table, &who);
    REQUIRE(conn.ok());
    return *conn.value();
}

TEST_CASE("a full unix backlog is waited for, and the connection is connected when there is room") {
    rig r;
    busy_server server("room");
    user who;
    connection& conn = dialed(r, server, who);
    CHECK(r.conns.redials().waiting_count() == 1);
    for (int i = 0; i < 50; i++)
        r.pass(milliseconds{10});
    CHECK(who.calls.empty());
    CHECK(conn.is(conn_flag::connecting));

    server.accept();
    r.pass(redial_pool::pause_max);
    r.turn();

    CHECK(who.calls == "w");
    CHECK(conn.is(conn_flag::connected));
    CHECK(r.conns.redials().waiting_count() == 0);
    descriptor& peer = server.accept();
    CHECK(conn.send("hello").end == io::done);
    CHECK(recv_exactly(peer.get(), 5) == "hello");
    send_all(peer.get(), "answer");
    conn.want_recv();
    CHECK(r.until([&] { return who.received == "answer"; }));
    CHECK(r.sleeps());
}

TEST_CASE("the first try comes after 1 ms, and no two are more than 16 ms apart") {
    rig r;
    busy_server server("pause");
    user who;
    dialed(r, server, who);
    server.accept(); // there is room from now on
    r.turn();
    CHECK(who.calls.empty());
    r.pass(milliseconds{1});
    r.turn();
    CHECK(who.calls == "w");

    connection& late = dialed(r, server, who);
    r.pass(seconds{3});
    server.accept();
    who.calls.clear();
    r.pass(milliseconds{16});
    r.turn();
    CHECK(who.calls == "w");
    CHECK(late.is(conn_flag::connected));
}

TEST_CASE("those who wait for one server are served in the order in which they came") {
    rig r;
    busy_server server("line");
    user users[5];
    for (user& who : users)
        dialed(r, server, who);
    for (std::size_t next = 0; next < 5; next++) {
        server.accept();
        r.pass(redial_pool::pause_max);
        r.turn();
        for (std::size_t i = 0; i < 5; i++)
            CHECK(users[i].calls == (i <= next ? "w" : ""));
    }
    CHECK(r.conns.redials().waiting_count() == 0);
}

TEST_CASE("a full server holds up nobody who wants another one") {
    rig r;
    busy_server full("full"), other("other");
    user first, second;
    dialed(r, full, first);
    dialed(r, other, second);
    other.accept();
    r.pass(redial_pool::pause_max);
    r.turn();
    CHECK(first.calls.empty());
    CHECK(second.calls == "w");
}

TEST_CASE("a backlog that stays full ends at the deadline with ETIMEDOUT") {
    rig r;
    busy_server server("late");
    user who, other;
    connection& conn = dialed(r, server, who, {.timeout = seconds{3}});
    dialed(r, server, other, {.timeout = seconds{6}});
    r.pass(milliseconds{2999});
    r.turn();
    CHECK(who.calls.empty());
    r.pass(milliseconds{1});
    r.turn();
    CHECK(who.calls == "w");
    CHECK(conn.error() == ETIMEDOUT);
    CHECK(conn.failure() == end_cause::connect_timed_out);

    server.accept();
    r.pass(redial_pool::pause_max); // the one that failed is not closed yet, and holds up nobody
    r.turn();
    CHECK(other.calls == "w");
    CHECK(r.conns.redials().waiting_count() == 0);
    conn.close(close_intent::silent, conn.failure());
    CHECK(r.ended(end_cause::connect_timed_out) == 1);
}

TEST_CASE("a server that goes while its backlog is full refuses those who wait") {
    rig r;
    busy_server server("gone");
    user users[3];
    for (user& who : users)
        dialed(r, server, who);
    server.listener.close();
    r.pass(redial_pool::pause_max);
    r.turn(2);
    for (user& who : users)
        CHECK(who.calls == "w");
    CHECK(r.conns.redials().waiting_count() == 0);
    for (connection* conn = r.conns.first(); conn; conn = r.conns.after(*conn))
        CHECK(conn->error() == ECONNREFUSED);
}

TEST_CASE("closing one that waits lets the next one go on, whichever it was") {
    for (const std::size_t closed : {0u, 1u, 2u}) {
        CAPTURE(closed);
        rig r;
        busy_server server("close");
        user users[3];
        connection* conns[3];
        for (std::size_t i = 0; i < 3; i++)
            conns[i] = &dialed(r, server, users[i]);
        conns[closed]->close(close_intent::silent, end_cause::done);
        CHECK(r.conns.redials().waiting_count() == 2);
        for (int i = 0; i < 2; i++) {
            server.accept();
            r.pass(redial_pool::pause_max);
            r.turn();
        }
        for (std::size_t i = 0; i < 3; i++)
            CHECK(users[i].calls == (i == closed ? "" : "w"));
        CHECK(r.sums_hold());
    }
}

TEST_CASE("connections that wait may be left to the conntab's end") {
    user who;
    busy_server server("end");
    {
        rig r;
        for (int i = 0; i < 3; i++)
            dialed(r, server, who);
    }
    CHECK(who.calls.empty());
}

TEST_CASE("waiting allocates nothing, and one who waits asks at most once a millisecond however many there are") {
    rig r;
    busy_server server("many");
    user who;
    const std::uint64_t before = allocation_count();
    for (int i = 0; i < 20; i++)
        dialed(r, server, who);
    r.pass(seconds{1});
    CHECK(allocation_count() == before);
    CHECK(r.conns.redials().waiting_count() == 20);
}

} // namespace
