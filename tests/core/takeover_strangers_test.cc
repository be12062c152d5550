// takeover: takers and givers that are none.

#include "core/takeover.hpp"

#include <cstring>
#include <thread>

#include <sys/wait.h>

#include "proto/unix.hpp"
#include "support/forbidden.hpp"
#include "support/rig.hpp"
#include "support/takeover_rig.hpp"

namespace {

using namespace weir;
using namespace support;

descriptor connect_raw(const endpoint& at) {
    descriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    REQUIRE(::connect(fd.get(), at.data(), at.size()) == 0);
    return fd;
}

TEST_CASE("another user's process is sent away, and the giver listens on") {
    if (getuid() != 0) {
        MESSAGE("only root can play another user");
        return;
    }
    const endpoint at = fresh_name();
    house h, next;
    h.open(at);
    const pid_t child = fork();
    if (child == 0) {
        char word[8];
        const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
        const bool did = setuid(65534) == 0 && ::connect(fd, at.data(), at.size()) == 0 &&
                         ::recv(fd, word, 6, MSG_WAITALL) == 6 && std::memcmp(word, "stays\n", 6) == 0;
        _exit(did ? 0 : 1);
    }

    CHECK(h.r.until([&] { return h.failures.size() == 1; }));
    int status = -1;
    waitpid(child, &status, 0);

    CHECK(status == 0);
    REQUIRE(h.failures.size() == 1);
    CHECK(h.failures[0] == takeover_failure::untrusted);
    REQUIRE(next.take(at).ok());
    CHECK(both_until(h, next, [&] { return next.received; }));
}

// --- a taker that is none

struct bad_taker {
    const char* what;
    const char* says;
    bool leaves;
    bool waits_for_all; // before it says anything
    takeover_failure why;
    const char* hears_last;
};
const bad_taker bad_takers[] = {
    {"one that leaves at once", "", true, false, takeover_failure::ended, nullptr},
    {"one that leaves with everything", "", true, true, takeover_failure::ended, nullptr},
    {"one that leaves in the middle of a word", "rea", true, true, takeover_failure::ended, nullptr},
    {"one that says it is ready and is gone", "ready\n", true, true, takeover_failure::ended, nullptr},
    {"one that says another word", "hello\n", false, true, takeover_failure::wrong_words, "stays\n"},
    {"one that begins well", "reads", false, true, takeover_failure::wrong_words, "stays\n"},
};

TEST_CASE("a taker that goes wrong changes nothing: the giver serves and listens on") {
    for (const bad_taker& bad : bad_takers) {
        CAPTURE(bad.what);
        const endpoint at = fresh_name();
        house h, next;
        h.open(at);
        descriptor conn = connect_raw(at);
        std::string heard;
        if (bad.waits_for_all) {
            REQUIRE(h.r.until([&] { return ready(conn.get(), POLLIN); }));
            heard = recv_exactly(conn.get(), 20 + 16); // without a place for descriptors: the kernel closes those
            h.r.turn(2);
        }
        send_all(conn.get(), bad.says);
        if (bad.leaves) conn.close();

        REQUIRE(h.r.until([&] { return h.failures.size() == 1; }));

        CHECK(h.failures[0] == bad.why);
        CHECK(h.given == 0);
        CHECK(h.giver.is_open());
        if (bad.hears_last) CHECK(recv_to_end(conn.get()) == bad.hears_last);
        const descriptor client = connect_tcp(h.door.local().port());
        CHECK(echoes(h, client.get()));
        REQUIRE(next.take(at).ok());
        CHECK(both_until(h, next, [&] { return next.received; }));
    }
}

TEST_CASE("a taker that speaks before it was given everything is no taker") {
    const endpoint at = fresh_name();
    house h;
    h.open(at);
    descriptor conn = connect_raw(at);
    send_all(conn.get(), "ready\n"); // before the giver has looked

    REQUIRE(h.r.until([&] { return h.failures.size() == 1; }));

    CHECK(h.failures[0] == takeover_failure::wrong_words);
    CHECK(h.given == 0);
}

TEST_CASE("a taker that is not ready in time is told that the old one stays") {
    const endpoint at = fresh_name();
    house h, late;
    h.open(at, {.timeout = seconds{3}});
    REQUIRE(late.take(at).ok());
    REQUIRE(both_until(h, late, [&] { return late.received; }));

    h.r.pass(milliseconds{2999});
    CHECK(h.failures.empty());
    h.r.pass(milliseconds{2});
    late.settle_in();
    late.taker.ready(); // too late

    REQUIRE(both_until(h, late, [&] { return late.end.has_value(); }));
    CHECK(*late.end == takeover_end::refused);
    REQUIRE(h.failures.size() == 1);
    CHECK(h.failures[0] == takeover_failure::too_late);
    CHECK(h.given == 0);
    late.door.close(); // it withdraws
    const descriptor client = connect_tcp(h.door.local().port());
    CHECK(echoes(h, client.get()));
}

TEST_CASE("a takeover socket that another holder shuts down takes no time from the taker that is served") {
    const endpoint at = fresh_name();
    house h, next;
    h.open(at, {.timeout = seconds{3}});
    REQUIRE(next.take(at).ok());
    REQUIRE(both_until(h, next, [&] { return next.received; }));

    REQUIRE(::shutdown(next.taken_over[0].fd.get(), SHUT_RDWR) == 0);
    CHECK(h.r.sleeps());
    h.r.pass(seconds{2});
    CHECK(h.failures.empty());
    next.settle_in();
    next.taker.ready();

    CHECK(both_until(h, next, [&] { return next.end.has_value(); }));
    CHECK(next.end == takeover_end::taken);
    CHECK(h.given == 1);
}

TEST_CASE("a giver without descriptors pauses, does not spin, and serves the taker afterwards") {
    const endpoint at = fresh_name();
    house h;
    h.open(at);
    const descriptor conn = connect_raw(at);
    {
        const short_of_descriptors now;
        h.r.turn(2);
        CHECK(h.r.sleeps());
    }
    CHECK_FALSE(ready(conn.get(), POLLIN));

    h.r.pass(milliseconds{102});

    CHECK(h.r.until([&] { return ready(conn.get(), POLLIN); }));
}

TEST_CASE("a giver that is forbidden to accept pauses with the taker left in the queue") {
    bool is_forbidden = false, sleeps = false, tries_again = false, sleeps_again = false;
    std::thread filtered([&] {
        const endpoint at = fresh_name();
        house h;
        h.open(at);
        const descriptor conn = connect_raw(at);
        is_forbidden = forbid_accept();
        for (int i = 0; i < 10; i++)
            h.r.turn();
        sleeps = h.r.sleeps();
        h.r.clock.advance(milliseconds{102});
        const std::uint32_t ran = h.r.loop.turn(duration{0}) + h.r.loop.turn(duration{0});
        tries_again = ran == 2; // the pause is over, and the door is looked at
        for (int i = 0; i < 10; i++)
            h.r.turn();
        sleeps_again = h.r.sleeps();
    });
    filtered.join();

    REQUIRE(is_forbidden);
    CHECK(sleeps);
    CHECK(tries_again);
    CHECK(sleeps_again);
}

TEST_CASE("a callback may close the giver") {
    struct closer {
        static void failed(void* self, takeover_failure, int) noexcept { static_cast<house*>(self)->giver.close(); }
    };
    const endpoint at = fresh_name();
    house h;
    REQUIRE(h.giver.open(unix_stream, at, {}, {.taken = house::on_taken, .failed = closer::failed}, &h).ok());
    descriptor conn = connect_raw(at);
    conn.close();

    CHECK(h.r.until([&] { return !h.giver.is_open(); }));
}

} // namespace
