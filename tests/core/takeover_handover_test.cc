// takeover: listeners change hands between two that keep to the rules, processes that may die among them, and under
// load.

#include "core/takeover.hpp"

#include <atomic>
#include <thread>

#include <sys/wait.h>

#include "proto/unix.hpp"
#include "support/rig.hpp"
#include "support/takeover_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- it works

TEST_CASE("a listener changes hands with its queue, and both sides know") {
    const endpoint at = fresh_name();
    house old_one, new_one;
    old_one.open(at);
    const std::uint16_t port = old_one.door.local().port();
    const descriptor served = connect_tcp(port);
    REQUIRE(echoes(old_one, served.get()));

    REQUIRE(new_one.take(at).ok());
    REQUIRE(both_until(old_one, new_one, [&] { return new_one.received; }));
    REQUIRE(new_one.taken_over.size() == 2);
    CHECK(new_one.taken_over[0].tag == takeover_tag{0, 0});
    CHECK(new_one.taken_over[1].tag == takeover_tag{main_door, 0});
    CHECK(old_one.given == 0); // nothing has changed yet
    CHECK(old_one.giver.is_open());
    new_one.settle_in();
    new_one.taker.ready();
    REQUIRE(both_until(old_one, new_one, [&] { return old_one.given == 1 && new_one.end.has_value(); }));
    CHECK(*new_one.end == takeover_end::taken);
    CHECK_FALSE(old_one.giver.is_open());
    const descriptor queued = connect_tcp(port); // nobody has looked at it when the old one closes
    old_one.door.close();

    CHECK(new_one.door.local().port() == port);
    CHECK(echoes(new_one, queued.get()));
    CHECK(echoes(old_one, served.get())); // it drains
    CHECK(old_one.failures.empty());
}

TEST_CASE("a listener that was offered leaves epoll before it is closed, and reports no more") {
    const endpoint at = fresh_name();
    house old_one, new_one;
    old_one.open(at);
    REQUIRE(new_one.take(at).ok());
    REQUIRE(both_until(old_one, new_one, [&] { return new_one.received; }));
    new_one.settle_in();
    const std::uint64_t changes = old_one.r.loop.polls().ctl_count();

    old_one.door.close();
    const std::uint64_t events = old_one.r.loop.polls().event_count();
    const descriptor client = connect_tcp(new_one.door.local().port());
    old_one.r.turn(3);

    CHECK(old_one.r.loop.polls().ctl_count() == changes + 1);
    CHECK(old_one.r.loop.polls().event_count() == events);
    CHECK(echoes(new_one, client.get()));
}

TEST_CASE("a second taker waits, and is given everything by the first one") {
    const endpoint at = fresh_name();
    house first, second, third;
    first.open(at);
    REQUIRE(second.take(at).ok());
    REQUIRE(both_until(first, second, [&] { return second.received; }));

    REQUIRE(third.take(at).ok());
    first.r.turn(20);
    third.r.turn(20);
    CHECK_FALSE(third.received);
    second.settle_in();
    second.taker.ready();
    REQUIRE(both_until(first, second, [&] { return second.end.has_value(); }));
    second.give_on();
    REQUIRE(both_until(second, third, [&] { return third.received; }));
    third.settle_in();
    third.taker.ready();

    CHECK(both_until(second, third, [&] { return third.end == takeover_end::taken; }));
    CHECK(second.given == 1);
}

TEST_CASE("as many listeners as one message can have change hands, and one more is refused") {
    const endpoint at = fresh_name();
    house old_one, new_one;
    old_one.open(at);
    for (std::uint32_t i = 1; i < sys::pass_max - 1; i++)
        REQUIRE(old_one.giver.offer({main_door, i}, old_one.door.fd()).ok());

    CHECK(old_one.giver.offer({main_door, 0}, old_one.door.fd()).error() == E2BIG);
    REQUIRE(new_one.take(at).ok());
    REQUIRE(both_until(old_one, new_one, [&] { return new_one.received; }));

    REQUIRE(new_one.taken_over.size() == sys::pass_max);
    for (std::uint32_t i = 1; i < sys::pass_max; i++)
        CHECK(new_one.taken_over[i].tag == takeover_tag{main_door, i - 1});
    new_one.taken_over.clear();
}

TEST_CASE("what a taker does not move out is closed") {
    const endpoint at = fresh_name();
    house old_one;
    old_one.open(at);
    rig r;
    takeover_taker taker(r.loop);
    int seen = -1;
    static constexpr takeover_taker::callbacks told{
        .received = [](void* to, std::span<taken_fd> fds) noexcept { *static_cast<int*>(to) = fds[1].fd.get(); },
        .over = [](void*, takeover_end, int) noexcept {}};
    REQUIRE(taker.open(unix_stream, at, {}, told, &seen).ok());

    for (int i = 0; i < 1000 && seen < 0; i++) {
        old_one.r.turn();
        r.turn();
    }

    REQUIRE(seen >= 0);
    CHECK(::fcntl(seen, F_GETFD) == -1);
    CHECK(taker.is_open());
}

// --- who is there

TEST_CASE("where nobody listens a taker is told so at once") {
    house h;
    const descriptor bound(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));

    CHECK(h.take(endpoint::unix_path("/tmp/weir-no-such-socket").value()).error() == ENOENT);
    CHECK(h.take(fresh_name()).error() == ECONNREFUSED);
    CHECK(endpoint::unix_path(std::string(108, 'x')).error() == ENAMETOOLONG);
    CHECK_FALSE(h.taker.is_open());
}

TEST_CASE("an abandoned socket file is replaced, one that is served is not") {
    char name[64];
    std::snprintf(name, sizeof name, "/tmp/weir-takeover-test-%d", static_cast<int>(getpid()));
    const endpoint at = endpoint::unix_path(name).value();
    house gone, second, third;
    gone.open(at);
    gone.giver.close();
    CHECK(second.take(at).error() == ECONNREFUSED);

    second.open(at);
    const auto refused = third.giver.open(unix_stream, at, {}, house::giver_told, &third);
    CHECK(refused.error() == EADDRINUSE);
    CHECK(third.take(at).ok());
    CHECK(both_until(second, third, [&] { return third.received; }));
    unlink(name);
}

TEST_CASE("a giver adopts a socket that blocks, and does not wait in it") {
    const endpoint at = fresh_name();
    house h;
    unique_fd door{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const int fd = door.get();
    REQUIRE(::bind(fd, at.data(), at.size()) == 0);
    REQUIRE(::listen(fd, 4) == 0);

    REQUIRE(h.giver.adopt(std::move(door), {}, house::giver_told, &h).ok());

    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
}

TEST_CASE("a giver does not adopt what does not listen") {
    house h;
    auto [a, b] = tcp_pair();

    CHECK(h.giver.adopt(unique_fd{a.release()}, {}, house::giver_told, &h).error() == EINVAL);
    CHECK(support::ended(b.get()));
}

// --- real processes

enum class death : std::uint8_t { before_connect, after_connect, with_everything, after_ready, none };

// A new process, until it dies.
[[noreturn]] void live_until(death when, const endpoint& at) {
    struct child {
        event_loop loop;
        takeover_taker taker{loop};
        death when;
        bool is_asked = false;
        static void received(void* self, std::span<taken_fd>) noexcept {
            child& c = *static_cast<child*>(self);
            if (c.when == death::with_everything) _exit(0);
            c.taker.ready();
            c.is_asked = true;
        }
        static void over(void* self, takeover_end end, int) noexcept {
            child& c = *static_cast<child*>(self);
            _exit(c.when == death::none && end == takeover_end::taken ? 0 : 1);
        }
    };
    auto* c = new child; // _exit() frees it
    c->when = when;
    if (!c->loop.open()) _exit(2);
    if (when == death::before_connect) _exit(0);
    if (!c->taker.open(unix_stream, at, {}, {.received = child::received, .over = child::over}, c)) _exit(2);
    if (when == death::after_connect) _exit(0);
    for (int turns = 0; turns < 1000; turns++) {
        const bool was_asked = c->is_asked;
        c->loop.turn(seconds{5});
        if (when == death::after_ready && was_asked) _exit(0); // it has said so in this turn
    }
    _exit(3);
}

TEST_CASE("a new process may die at any step until the old one has answered: the old one serves on") {
    for (const death when :
         {death::before_connect, death::after_connect, death::with_everything, death::after_ready, death::none}) {
        CAPTURE(static_cast<int>(when));
        const endpoint at = fresh_name();
        house h, next;
        h.open(at);
        const pid_t child = fork();
        if (child == 0) live_until(when, at);
        if (when != death::before_connect)
            CHECK(h.r.until([&] { return h.given + static_cast<int>(h.failures.size()) == 1; }));
        int status = -1;
        waitpid(child, &status, 0);

        CHECK(status == 0);
        // One that dies behind its word may have had the answer, or not.
        const bool takes = h.given == 1;
        if (when != death::after_ready) CHECK(takes == (when == death::none));
        CHECK(h.giver.is_open() == !takes);
        for (const takeover_failure why : h.failures)
            CHECK(why == takeover_failure::ended);
        const descriptor client = connect_tcp(h.door.local().port());
        CHECK(echoes(h, client.get()));
        if (takes) continue;
        REQUIRE(next.take(at).ok());
        CHECK(both_until(h, next, [&] { return next.received; }));
    }
}

// --- under load

// Connects, says a word, hears it, again and again.
struct customer {
    void run() {
        while (!is_enough.load()) {
            descriptor conn(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
            const timeval limit{.tv_sec = 5, .tv_usec = 0};
            setsockopt(conn.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
            const endpoint at = endpoint::ipv4(0x7f000001, port);
            char heard[8];
            const bool served = ::connect(conn.get(), at.data(), at.size()) == 0 &&
                                ::send(conn.get(), "hello", 5, MSG_NOSIGNAL) == 5 &&
                                ::recv(conn.get(), heard, 5, MSG_WAITALL) == 5;
            (served ? served_count : failed_count)++;
        }
        gone_count++;
    }
    std::uint16_t port;
    std::atomic<bool> is_enough{false};
    std::atomic<int> gone_count{0};
    std::atomic<std::uint64_t> served_count{0}, failed_count{0};
};

TEST_CASE("ten takeovers in a row while clients come: none is refused or reset") {
    const endpoint at = fresh_name();
    auto now = std::make_unique<house>();
    now->open(at);
    customer people{.port = now->door.local().port()};
    std::thread threads[2];
    for (std::thread& t : threads)
        t = std::thread([&] { people.run(); });

    for (int generation = 1; generation <= 10; generation++) {
        auto next = std::make_unique<house>();
        REQUIRE(next->take(at).ok());
        REQUIRE(both_until(*now, *next, [&] { return next->received; }));
        next->settle_in();
        next->taker.ready();
        REQUIRE(both_until(*now, *next, [&] { return now->given == 1 && next->end == takeover_end::taken; }));
        now->door.close();
        next->give_on();
        CHECK(both_until(*now, *next, [&] { return now->r.conns.live_count() == 0; })); // drained
        const std::uint64_t before = people.served_count;
        CHECK(next->r.until([&] { return people.served_count > before + 20; }));
        now = std::move(next);
    }
    people.is_enough = true;
    CHECK(now->r.until([&] { return people.gone_count == 2; }));
    for (std::thread& t : threads)
        t.join();

    CHECK(people.failed_count == 0);
    CHECK(people.served_count > 200);
}

} // namespace
