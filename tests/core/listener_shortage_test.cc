// What a listener does when descriptors, memory or connections are short.

#include "core/listener.hpp"

#include <thread>

#include "core/idle.hpp"
#include "support/forbidden.hpp"
#include "support/front.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("without descriptors accepting pauses, does not spin, and goes on once there is one") {
    rig r;
    front f(r);
    f.open({.pause = milliseconds{100}});
    f.call(2);
    {
        const short_of_descriptors now;
        r.turn();
        CHECK(f.door.failed_count() == 1);
        CHECK(f.door.paused_count() == 1);
        CHECK(r.sleeps());
        CHECK(f.door.failed_count() == 1);

        for (int i = 0; i < 1000; i++) // a second
            r.pass(milliseconds{1});

        CHECK(f.door.failed_count() <= 20);
        CHECK(f.door.failed_count() >= 5); // it was tried
        CHECK(f.conns.empty());
    }
    const std::uint64_t failed = f.door.failed_count();

    for (int i = 0; i < 102; i++)
        r.pass(milliseconds{1});

    CHECK(f.conns.size() == 2);
    CHECK(f.door.failed_count() == failed);
}

TEST_CASE("without descriptors accepting pauses and leaves idle connections to those who are served already") {
    rig r;
    idle_pool pool(r.conns, {});
    const auto key = pool.key_of({.remote = endpoint::ipv4(0x7f000001, 80), .family = &tcp});
    user nobody;
    std::vector<pair> ends;
    for (int i = 0; i < 5; i++) {
        ends.push_back(tcp_pair());
        pool.park(r.serve(std::move(ends.back().b), nobody), key, {.messages_complete = true, .buffers_empty = true});
    }
    front f(r);
    f.open();
    f.call(2);
    const short_of_descriptors now;

    r.turn();

    CHECK(f.conns.empty());
    CHECK(f.door.paused_count() == 1);
    CHECK(pool.idle_count() == 5);
}

TEST_CASE("into a full conntab nobody is accepted; the client waits until there is a place") {
    rig r({.connections_max = 2});
    front f(r);
    f.open({.pause = milliseconds{100}});
    f.call(3);
    r.turn();
    CHECK(f.conns.size() == 2);
    CHECK(f.door.paused_count() == 1);
    CHECK(f.door.failed_count() == 0);
    CHECK(r.sleeps());
    CHECK(f.door.paused_count() == 1);
    for (int i = 0; i < 1000; i++)
        r.pass(milliseconds{1});
    CHECK(f.door.paused_count() <= 20);

    f.conns[0]->close(close_intent::silent, end_cause::done);
    for (int i = 0; i < 102; i++)
        r.pass(milliseconds{1});

    CHECK(f.conns.size() == 3);
    CHECK(f.conns[2]->send("your turn").end == io::done);
    CHECK(recv_exactly(f.clients[2].get(), 9) == "your turn");
    CHECK(r.ended(end_cause::no_room) == 0);
}

TEST_CASE("a pause for want of room and one by the user do not end each other") {
    rig r({.connections_max = 1});
    front f(r);
    f.open({.pause = milliseconds{100}});
    f.call(2);
    r.turn();
    REQUIRE(f.door.paused_count() == 1);
    f.door.pause();
    f.door.resume();
    r.turn(2);
    CHECK(f.door.paused_count() == 1); // not tried again before its time
    f.conns[0]->close(close_intent::silent, end_cause::done);

    f.door.pause();
    r.pass(milliseconds{150});
    r.turn(2);
    CHECK(f.conns.size() == 1); // the timer is over, the user's pause is not
    f.door.resume();
    r.turn();

    CHECK(f.conns.size() == 2);
}

TEST_CASE("a listener that another holder of its descriptor shuts down pauses, and goes on when it listens again") {
    rig r;
    front f(r);
    auto inherited = support::listen_tcp();
    descriptor other{::dup(inherited.fd.get())};
    REQUIRE(f.door.adopt(unique_fd{inherited.fd.release()}, tcp, {.pause = milliseconds{100}}, front::accepted, &f).ok());

    ::shutdown(other.get(), SHUT_RD);
    CHECK(r.until([&] { return f.door.paused_count() == 1; }));
    CHECK(r.sleeps());
    REQUIRE(::listen(other.get(), 16) == 0);
    f.clients.push_back(support::connect_tcp(local_endpoint(other.get()).value().port())); // a new one perhaps
    for (int i = 0; i < 102; i++)
        r.pass(milliseconds{1});

    CHECK(f.conns.size() == 1);
}

TEST_CASE("a listener that its user paused does not accept because another holder shuts it down") {
    rig r;
    front f(r);
    auto inherited = support::listen_tcp();
    descriptor other{::dup(inherited.fd.get())};
    REQUIRE(f.door.adopt(unique_fd{inherited.fd.release()}, tcp, {}, front::accepted, &f).ok());
    f.door.pause();

    ::shutdown(other.get(), SHUT_RD);
    r.turn(3);
    CHECK(r.sleeps());
    CHECK(f.door.failed_count() == 0);
    CHECK(f.door.paused_count() == 0);
    f.door.resume();
    r.turn();

    CHECK(f.door.paused_count() == 1);
}

TEST_CASE("a listener that is closed during a pause wakes up no more") {
    rig r({.connections_max = 1});
    front f(r);
    f.open({.pause = milliseconds{100}});
    f.call(2);
    r.turn();
    REQUIRE(f.door.paused_count() == 1);

    f.door.close();
    r.pass(seconds{1});

    CHECK(f.conns.size() == 1);
}

TEST_CASE("an accept that is forbidden, with the client left in the queue, does not keep the loop awake") {
    bool is_forbidden = false, sleeps = false;
    std::uint64_t failed = 0, paused = 0;
    std::thread filtered([&] {
        rig r;
        front f(r);
        f.open();
        f.call(1);
        is_forbidden = forbid_accept();
        for (int i = 0; i < 10; i++)
            r.turn();
        sleeps = r.sleeps();
        failed = f.door.failed_count();
        paused = f.door.paused_count();
    });
    filtered.join();

    REQUIRE(is_forbidden);
    CHECK(failed == 64);
    CHECK(paused == 1);
    CHECK(sleeps);
}

} // namespace
