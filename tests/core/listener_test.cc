#include "core/listener.hpp"

#include "proto/unix.hpp"
#include "support/dies.hpp"
#include "support/front.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("a listener on port 0 tells the real port, and accepts there") {
    rig r;
    front f(r);
    f.open();
    CHECK(f.door.is_open());
    REQUIRE(f.door.local().port() != 0);
    f.call(1);

    r.turn();

    REQUIRE(f.conns.size() == 1);
    CHECK(f.conns[0]->is(conn_flag::connected));
    CHECK(f.door.accepted_count() == 1);
    CHECK(r.conns.opened_count(conn_origin::accepted) == 1);
    f.conns[0]->want_recv();
    send_all(f.clients[0].get(), "hello");
    REQUIRE(arrived(*f.conns[0]));
    r.turn();
    CHECK(f.who.received == "hello");
}

TEST_CASE("the callback is told who connected") {
    rig r;
    front f(r);
    f.open();
    f.call(1);
    auto peer = local_endpoint(f.clients[0].get());
    REQUIRE(peer.ok());

    r.turn();

    REQUIRE(f.peers.size() == 1);
    CHECK(f.peers[0] == peer.value());
}

TEST_CASE("an accepted connection costs one epoll_ctl") {
    rig r;
    front f(r);
    f.open();
    f.call(10);
    const std::uint64_t before = r.loop.polls().ctl_count();

    r.turn(2);

    CHECK(f.conns.size() == 10);
    CHECK(r.loop.polls().ctl_count() == before + 10);
    CHECK(r.sleeps());
}

TEST_CASE("no more than the budget is accepted in a turn, and the rest in the next ones without an edge") {
    rig r({.connections_max = 200});
    front f(r);
    SUBCASE("of the default") {
        f.open({});
        f.call(70);
        r.turn();
        CHECK(f.conns.size() == 64);
        r.turn();
        CHECK(f.conns.size() == 70);
    }
    SUBCASE("of the user's") {
        f.open({.accept_budget = 4});
        f.call(10);
        r.turn();
        CHECK(f.conns.size() == 4);
        r.turn();
        CHECK(f.conns.size() == 8);
        r.turn();
        CHECK(f.conns.size() == 10);
    }
    CHECK(r.sleeps());
}

TEST_CASE("a client that another holder of the listener was quicker to accept is no failure") {
    rig r;
    front f(r);
    f.open({.accept_budget = 1});
    f.call(2);
    r.turn();
    REQUIRE(f.conns.size() == 1);
    const unique_fd other{sys::accept(f.door.fd(), nullptr, nullptr)};
    REQUIRE(other);

    r.turn();

    CHECK(f.door.accepted_count() == 1);
    CHECK(f.door.failed_count() == 0);
    CHECK(r.sleeps());
}

TEST_CASE("a client that resets before it is accepted is one dead connection, no more") {
    rig r;
    front f(r);
    f.open();
    f.call(2);
    reset(f.clients[0]);
    f.then = [](connection& conn) { conn.want_recv(); };
    f.who.on_wake = [](connection& conn) {
        return conn.is(conn_flag::failed) ? conn.close(close_intent::silent, conn.failure()) : verdict::keep;
    };

    CHECK(r.until([&] { return r.ended(end_cause::peer_failed) == 1; }));

    CHECK(f.conns.size() == 2);
    CHECK(f.door.failed_count() == 0);
    CHECK(r.conns.live_count() == 1);
    f.call(1);
    CHECK(r.until([&] { return f.conns.size() == 3; }));
}

TEST_CASE("the callback may close the connection it is given") {
    rig r;
    front f(r);
    f.open();
    f.then = [](connection& conn) { conn.close(close_intent::abort, end_cause::no_room); };
    f.call(3);

    r.turn();

    CHECK(f.door.accepted_count() == 3);
    CHECK(r.conns.live_count() == 0);
    CHECK(ending_of(f.clients[2].get()) == ending::reset);
    CHECK(r.sums_hold());
}

TEST_CASE("the callback may close the listener: nothing is accepted after it") {
    rig r;
    front f(r);
    f.open();
    const std::uint16_t port = f.door.local().port();
    f.then = [&](connection&) { f.door.close(); };
    f.call(3);

    r.turn(3);

    CHECK(f.conns.size() == 1);
    CHECK_FALSE(f.door.is_open());
    CHECK(r.conns.live_count() == 1);
    CHECK(ending_of(f.clients[1].get()) == ending::reset);
    descriptor late(::socket(AF_INET, SOCK_STREAM, 0));
    const endpoint at = endpoint::ipv4(0x7f000001, port);
    CHECK(::connect(late.get(), at.data(), at.size()) == -1);
}

TEST_CASE("the callback may pause the listener: the rest waits until it is resumed") {
    rig r;
    front f(r);
    f.open();
    f.then = [&](connection&) { f.door.pause(); };
    f.call(3);

    CHECK(r.sleeps());
    CHECK(f.conns.size() == 1);
    f.then = nullptr;
    f.call(1); // an edge does not resume it
    CHECK(r.sleeps());
    CHECK(f.conns.size() == 1);
    f.door.resume();
    r.turn();

    CHECK(f.conns.size() == 4);
    CHECK(f.door.paused_count() == 0);
}

TEST_CASE("a closed listener may be opened again") {
    rig r;
    front f(r);
    f.open();
    f.door.close();
    f.door.close();

    f.open();
    f.call(1);
    r.turn();

    CHECK(f.conns.size() == 1);
}

TEST_CASE("a port that is taken is refused, and nothing stays open") {
    rig r;
    const tcp_listener taken = listen_tcp();
    front f(r);

    const auto refused = f.door.open(tcp, endpoint::ipv4(0x7f000001, taken.port), {}, front::accepted, &f);

    CHECK(refused.error() == EADDRINUSE);
    CHECK_FALSE(f.door.is_open());
}

TEST_CASE("with reuse_port two listeners share a port") {
    rig r;
    front one(r), two(r);
    one.open({.socket = {.reuse_port = true}});

    CHECK(two.door.open(tcp, one.door.local(), {.socket = {.reuse_port = true}}, front::accepted, &two).ok());
}

TEST_CASE("an inherited descriptor is taken over, blocking or not") {
    for (const blocking mode : {blocking::yes, blocking::no}) {
        rig r;
        tcp_listener inherited = listen_tcp(mode);
        front f(r);

        REQUIRE(f.door.adopt(unique_fd{inherited.fd.release()}, tcp, {}, front::accepted, &f).ok());
        CHECK(f.door.local().port() == inherited.port);
        f.call(1);
        r.turn(2); // the second accept must not block

        CHECK(f.conns.size() == 1);
    }
}

TEST_CASE("an inherited socket that does not listen is refused and closed") {
    rig r;
    front f(r);
    auto [a, b] = tcp_pair();

    auto opened = f.door.adopt(unique_fd{a.release()}, tcp, {}, front::accepted, &f);

    CHECK(opened.error() == EINVAL);
    CHECK(support::ended(b.get()));
}

TEST_CASE("an inherited descriptor that is no socket is refused and closed") {
    rig r;
    pair ends = pipe_pair();
    front f(r);

    const auto refused = f.door.adopt(unique_fd{ends.a.release()}, tcp, {}, front::accepted, &f);

    CHECK(refused.error() == ENOTSOCK);
    CHECK_FALSE(f.door.is_open());
}

TEST_CASE("a unix listener accepts") {
    rig r;
    front f(r);
    char name[64];
    const int length = std::snprintf(name, sizeof name, "@weir-listener-test-%d", static_cast<int>(getpid()));
    const auto at = endpoint::unix_path({name, static_cast<std::size_t>(length)});
    REQUIRE(at.ok());
    REQUIRE(f.door.open(unix_stream, at.value(), {}, front::accepted, &f).ok());
    CHECK(f.door.local() == at.value());
    descriptor client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(client.get(), at.value().data(), at.value().size()) == 0);

    r.turn();

    REQUIRE(f.conns.size() == 1);
    CHECK(&f.conns[0]->family() == &unix_stream);
    CHECK(f.conns[0]->send("welcome").end == io::done);
    CHECK(recv_exactly(client.get(), 7) == "welcome");
}

// --- held

TEST_CASE("a held listener is bound, and lets nobody in before it begins") {
    rig r;
    front f(r);
    f.open({.socket = {.held = true}});
    const std::uint16_t port = f.door.local().port();
    descriptor early(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const endpoint at = endpoint::ipv4(0x7f000001, port);

    const int refused = ::connect(early.get(), at.data(), at.size());
    const int why = errno;
    r.turn(3);

    CHECK(refused == -1);
    CHECK(why == ECONNREFUSED);
    CHECK(r.sleeps()); // though epoll says that a socket that does not listen is hung up
    CHECK(f.door.failed_count() == 0);

    REQUIRE(f.door.begin().ok());
    f.call(2);
    CHECK(r.until([&] { return f.conns.size() == 2; }));
    CHECK(f.door.failed_count() == 0);
    CHECK(r.sleeps());
}

TEST_CASE("who waits in the queue of a held listener that listens already is accepted when it begins") {
    rig r;
    const tcp_listener inherited = listen_tcp();
    front f(r);
    REQUIRE(f.door.adopt(unique_fd{::dup(inherited.fd.get())}, tcp, {.socket = {.held = true}}, front::accepted, &f).ok());
    f.call(2);

    r.turn(3);
    f.door.accept_rest(10);
    CHECK(f.conns.empty());
    f.door.pause();
    f.door.resume(); // a limit of its owner's changes nothing about that
    r.turn(3);
    CHECK(f.conns.empty());

    REQUIRE(f.door.begin().ok());
    CHECK(r.until([&] { return f.conns.size() == 2; }));
}

TEST_CASE("a held listener that was paused accepts when it has begun and is resumed") {
    rig r;
    front f(r);
    f.open({.socket = {.held = true}});
    f.door.pause();
    REQUIRE(f.door.begin().ok());
    f.call(1);
    r.turn(3);
    CHECK(f.conns.empty());

    f.door.resume();

    CHECK(r.until([&] { return f.conns.size() == 1; }));
}

TEST_CASE("a listener begins once, and only if it was held") {
    rig r;
    front f(r);
    f.open();
    CHECK(dies([&] { static_cast<void>(f.door.begin()); }, "slot_ && held_"));
}

} // namespace
