// connection: the table of them all, their deadlines, causes, costs and contract.

#include "core/connection.hpp"

#include <memory>
#include <vector>

#include "core/dialer.hpp"
#include "support/dies.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- deadlines

TEST_CASE("a connection's deadline fires once, and neither after disarm nor after close") {
    static int fired;
    fired = 0;
    rig r;
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair();
    user who;
    connection& a = r.serve(std::move(first.b), who);
    connection& b = r.serve(std::move(second.b), who);
    connection& c = r.serve(std::move(third.b), who);
    static connection* last;
    auto fire = [](timer& t, time_point) noexcept {
        fired++;
        last = &connection::of(t);
    };
    a.arm(r.loop.now() + seconds{1}, fire);
    b.arm(r.loop.now() + seconds{1}, fire);
    c.arm(r.loop.now() + seconds{1}, fire);

    b.disarm();
    c.close(close_intent::silent, end_cause::done);
    r.pass(milliseconds{999});
    CHECK(fired == 0);
    r.pass(seconds{5});

    CHECK(fired == 1);
    CHECK(last == &a);
}

// --- the table of them all

TEST_CASE("every end has one cause, and the causes add up") {
    rig r;
    const end_cause causes[] = {end_cause::done, end_cause::peer_closed, end_cause::protocol, end_cause::timed_out};
    std::vector<pair> ends;
    user who;
    for (int i = 0; i < 12; i++) {
        ends.push_back(tcp_pair());
        connection& conn = r.serve(std::move(ends.back().b), who);
        const auto intent = static_cast<close_intent>(i % 4);
        if (i % 3 != 2) conn.close(intent, causes[i % 4]);
        CHECK(r.sums_hold() == (r.ended_in_all() + r.conns.live_count() == static_cast<std::uint64_t>(i) + 1));
        CHECK(r.sums_hold());
    }

    ends.clear(); // the lingering ones end
    CHECK(r.until([&] { return r.conns.live_count() == 4; }));

    CHECK(r.ended_in_all() == 8);
    CHECK(r.sums_hold());
    for (const end_cause cause : causes)
        CHECK(r.ended(cause) == 2);
    CHECK(r.ended(end_cause::none) == 0);
}

TEST_CASE("a failure of our own doing is told from the peer's") {
    rig r;
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair();
    user who;
    connection& late = r.serve(std::move(first.b), who);
    connection& unacked = r.serve(std::move(second.b), who);
    connection& broken = r.serve(std::move(third.b), who);
    late.arm(r.loop.now() + seconds{1}, connection::timed_out);
    broken.arm(r.loop.now() + seconds{1}, connection::timed_out);

    unacked.fail(ETIMEDOUT); // as the socket says it: TCP_USER_TIMEOUT
    broken.fail(ECONNRESET); // before the deadline
    r.pass(seconds{2});

    CHECK(late.failure() == end_cause::timed_out);
    CHECK(unacked.failure() == end_cause::peer_failed);
    CHECK(broken.failure() == end_cause::peer_failed);
}

TEST_CASE("every cause has a name of its own") {
    std::vector<std::string> names;
    for (unsigned i = 0; i < static_cast<unsigned>(end_cause::count_); i++) {
        const std::string name = to_string(static_cast<end_cause>(i));
        CHECK_FALSE(name.empty());
        for (const std::string& other : names)
            CHECK(other != name);
        names.push_back(name);
    }
}

TEST_CASE("the live connections are listed in the order they were opened") {
    rig r;
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair();
    user who;
    connection& a = r.serve(std::move(first.b), who);
    connection& b = r.serve(std::move(second.b), who);
    connection& c = r.serve(std::move(third.b), who);

    b.close(close_intent::silent, end_cause::done);

    CHECK(r.conns.first() == &a);
    CHECK(r.conns.after(a) == &c);
    CHECK(r.conns.after(c) == nullptr);
}

TEST_CASE("a silent close after a failure of our own resets the peer, who has not ended") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.fail(ETIMEDOUT);

    conn.close(close_intent::silent, end_cause::timed_out);

    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("a conntab that dies closes what is left and calls nobody") {
    user who;
    pair live = tcp_pair(), lingering = tcp_pair(), dead = tcp_pair();
    {
        rig r;
        connection& a = r.serve(std::move(live.b), who);
        a.want_recv();
        r.serve(std::move(lingering.b), who).close(close_intent::graceful, end_cause::done);
        r.serve(std::move(dead.b), who).close(close_intent::silent, end_cause::done);
        send_all(live.a.get(), "x");
    }

    CHECK(who.calls.empty());
    CHECK(ending_of(live.a.get()) == ending::reset);
    CHECK(ending_of(lingering.a.get()) == ending::fin);
}

TEST_CASE("a conntab that dies before the end of the turn leaves nothing to free to its loop") {
    fake_clock clock;
    event_loop loop;
    REQUIRE(loop.open({.time_source = &clock}).ok());
    auto conns = std::make_unique<conntab>(loop);
    REQUIRE(conns->open({.connections_max = 2}).ok());
    pair ends = tcp_pair();
    auto conn = conns->adopt(unique_fd{ends.b.release()}, tcp);
    REQUIRE(conn.ok());

    conn.value()->close(close_intent::silent, end_cause::done);
    conns.reset();
    loop.turn(duration{0});

    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("a full conntab refuses with ENFILE, resets the socket and counts it") {
    rig r({.connections_max = 2});
    pair first = tcp_pair(), second = tcp_pair(), third = tcp_pair(), fourth = tcp_pair();
    user who;
    connection& a = r.serve(std::move(first.b), who);
    r.serve(std::move(second.b), who);
    CHECK(r.conns.full());

    const auto refused = r.conns.adopt(unique_fd{third.b.release()}, tcp);

    CHECK(refused.error() == ENFILE);
    CHECK(ending_of(third.a.get()) == ending::reset);
    CHECK(r.ended(end_cause::no_room) == 1);
    CHECK(r.sums_hold());
    a.close(close_intent::silent, end_cause::done);
    CHECK_FALSE(r.conns.full());
    r.serve(std::move(fourth.b), who);
    CHECK(r.conns.full());
}

TEST_CASE("a place is free as soon as its connection is closed, in the same turn") {
    rig r({.connections_max = 1});
    pair first = tcp_pair(), second = tcp_pair();
    user who, next;
    connection& a = r.serve(std::move(first.b), who);
    a.want_recv();
    connection* b = nullptr;
    who.on_recv = [&](connection& c) {
        c.close(close_intent::silent, end_cause::done);
        auto made = r.conns.adopt(unique_fd{second.b.release()}, tcp);
        CHECK(made.ok());
        if (!made) return verdict::gone;
        b = made.value();
        CHECK(b != &c); // the closed one is still untouched
        b->attach(user::table, &next);
        return verdict::gone;
    };
    send_all(first.a.get(), "x");
    REQUIRE(arrived(a));

    r.turn();

    CHECK(b != nullptr);
    CHECK(r.conns.live_count() == 1);
    CHECK(r.sums_hold());
}

TEST_CASE("a descriptor that epoll refuses is closed and costs nothing") {
    rig r({.connections_max = 2});
    char path[] = "/tmp/weir-regular-XXXXXX";
    user who;

    for (int i = 0; i < 5; i++) {
        const int file = mkstemp(path);
        REQUIRE(file >= 0);
        unlink(path);
        std::snprintf(path, sizeof path, "/tmp/weir-regular-XXXXXX");
        const auto refused = r.conns.adopt(unique_fd{file}, plain_family);
        CHECK(refused.error() == EPERM);
        CHECK(fcntl(file, F_GETFD) == -1);
    }

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::no_room) == 5);
    CHECK(r.sums_hold());
    pair first = tcp_pair(), second = tcp_pair();
    r.serve(std::move(first.b), who);
    r.serve(std::move(second.b), who);
}

TEST_CASE("a number beyond the fdtab is refused with EMFILE") {
    fake_clock clock;
    event_loop loop;
    REQUIRE(loop.open({.fd_max = 64, .time_source = &clock}).ok());
    conntab conns(loop);
    REQUIRE(conns.open({.connections_max = 2}).ok());
    pair ends = tcp_pair();

    const auto refused = conns.adopt(unique_fd{moved_to(std::move(ends.b), 64).release()}, tcp);

    CHECK(refused.error() == EMFILE);
    CHECK(conns.ended_count(end_cause::no_room) == 1);
    CHECK(ending_of(ends.a.get()) == ending::reset);
}

TEST_CASE("attach, want, stop, recv and send allocate nothing and never call epoll_ctl") {
    rig r;
    pair ends = tcp_pair();
    user first, second;
    first.received.reserve(4096);
    second.received.reserve(4096);
    connection& conn = r.serve(std::move(ends.b), first);
    char echo[16];
    const std::uint64_t ctls = r.loop.polls().ctl_count();
    CHECK(ctls == 2); // the mailbox's and this one's
    std::uint64_t allocations = allocation_count();

    for (int i = 0; i < 100; i++) {
        if (i == 2) allocations = allocation_count(); // warm
        first.calls.clear();
        second.calls.clear();
        conn.attach(i % 2 ? user::table : user::other_table, i % 2 ? &first : &second);
        conn.want_recv();
        conn.want_send();
        [[maybe_unused]] const auto sent = ::send(ends.a.get(), "ping", 4, MSG_NOSIGNAL);
        r.turn();
        conn.stop_recv();
        const io_result answered = conn.send("pong");
        [[maybe_unused]] const auto got = ::recv(ends.a.get(), echo, sizeof echo, MSG_DONTWAIT);
        if (answered.end != io::done || got != 4) FAIL("the exchange broke off");
    }

    CHECK(allocation_count() == allocations);
    CHECK(r.loop.polls().ctl_count() == ctls);
    CHECK(first.received.size() + second.received.size() == 400);
}

TEST_CASE("opening and closing a connection allocates nothing and costs one epoll_ctl") {
    rig r;
    pair warm = tcp_pair(), ends = tcp_pair();
    user who;
    r.serve(std::move(warm.b), who).close(close_intent::silent, end_cause::done);
    r.turn();
    const std::uint64_t allocations = allocation_count();
    const std::uint64_t ctls = r.loop.polls().ctl_count();

    auto conn = r.conns.adopt(unique_fd{ends.b.release()}, tcp);
    conn.value()->attach(user::table, &who);
    conn.value()->close(close_intent::silent, end_cause::done);
    r.turn();

    CHECK(allocation_count() == allocations);
    CHECK(r.loop.polls().ctl_count() == ctls + 1);
}

TEST_CASE("the contract of a connection is checked") {
    CHECK(dies(
        [] {
            rig r;
            pair ends = tcp_pair();
            user who;
            r.serve(std::move(ends.b), who).close(close_intent::silent, end_cause::none);
        },
        "cause != end_cause::none"));
    CHECK(dies(
        [] {
            rig r;
            pair ends = tcp_pair();
            user who;
            connection& conn = r.serve(std::move(ends.b), who);
            conn.shutdown_send();
            conn.shutdown_send();
        },
        "send_ended"));
#ifndef NDEBUG
    CHECK(dies(
        [] {
            rig r;
            pair ends = tcp_pair();
            user who;
            char none[1];
            r.serve(std::move(ends.b), who).recv(none, 0);
        },
        "bytes > 0"));
#endif
}

TEST_CASE("a conntab that is not open takes nothing in") {
    CHECK(dies(
        [] {
            event_loop loop;
            static_cast<void>(loop.open());
            conntab conns(loop);
            static_cast<void>(conns.adopt(unique_fd{dup(0)}, tcp));
        },
        "is_open()"));
    CHECK(dies(
        [] {
            event_loop loop;
            static_cast<void>(loop.open());
            conntab conns(loop);
            user who;
            static_cast<void>(dial(conns, tcp, any_port, {}, user::table, &who));
        },
        "is_open()"));
}

} // namespace
