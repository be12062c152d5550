#include "core/takeover.hpp"

#include <atomic>
#include <cstring>
#include <optional>
#include <thread>

#include <sys/un.h>
#include <sys/wait.h>

#include "core/tables.hpp"
#include "proto/unix.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

const endpoint any_port = endpoint::ipv4(0x7f000001, 0);
constexpr std::uint32_t main_door = 1;

// A name of this process's own; each is used once.
endpoint fresh_name() {
    static int used = 0;
    char name[64];
    const int length =
        std::snprintf(name, sizeof name, "@weir-takeover-test-%d-%d", static_cast<int>(getpid()), used++);
    return endpoint::unix_path({name, static_cast<std::size_t>(length)}).value();
}

descriptor connect_raw(const endpoint& at) {
    descriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    REQUIRE(::connect(fd.get(), at.data(), at.size()) == 0);
    return fd;
}

// A proxy: a listener that echoes, a giver, a taker. What they are told is written down.
struct house {
    house() : door(r.conns), giver(r.loop), taker(r.loop) {}
    house(const house&) = delete;
    house& operator=(const house&) = delete;
    ~house() {
        taken_over.clear();
        door.close();
    }

    static void accepted(void* self, connection& conn, const endpoint&) noexcept {
        house& h = *static_cast<house*>(self);
        conn.attach(echo_cb, &h.buffers[h.served++ % h.buffers.size()]);
        conn.want_recv();
    }
    static void on_taken(void* self) noexcept { static_cast<house*>(self)->given++; }
    static void on_failed(void* self, takeover_failure why, int error) noexcept {
        house& h = *static_cast<house*>(self);
        h.failures.push_back(why);
        h.error = error;
    }
    static void on_received(void* self, std::span<taken_fd> fds) noexcept {
        house& h = *static_cast<house*>(self);
        h.received = true;
        for (taken_fd& t : fds)
            h.taken_over.push_back(std::move(t));
    }
    static void on_over(void* self, takeover_end end, int error) noexcept {
        house& h = *static_cast<house*>(self);
        h.end = end;
        h.error = error;
    }
    static constexpr takeover_giver::callbacks giver_told{.taken = on_taken, .failed = on_failed};
    static constexpr takeover_taker::callbacks taker_told{.received = on_received, .over = on_over};

    // As the first of its line.
    void open(const endpoint& at, const giver_options& options = {}) {
        REQUIRE(door.open(tcp, any_port, {}, accepted, this).ok());
        give_at(at, options);
    }
    void give_at(const endpoint& at, const giver_options& options = {}) {
        REQUIRE(giver.open(unix_stream, at, options, giver_told, this).ok());
        REQUIRE(giver.offer({main_door, 0}, door).ok());
    }
    result<void> take(const endpoint& at, const taker_options& options = {}) {
        return taker.open(unix_stream, at, options, taker_told, this);
    }
    // Serves what it has received, and offers it in its turn.
    void settle_in() {
        REQUIRE(taken_over.size() == 2);
        REQUIRE(door.adopt(std::move(taken_over[1].fd), tcp, {}, accepted, this).ok());
    }
    void give_on() {
        REQUIRE(giver.adopt(std::move(taken_over[0].fd), {}, giver_told, this).ok());
        REQUIRE(giver.offer({main_door, 0}, door).ok());
    }

    rig r;
    listener door;
    takeover_giver giver;
    takeover_taker taker;
    std::array<buffer, 64> buffers;
    std::size_t served = 0;
    int given = 0, error = 0;
    std::vector<takeover_failure> failures;
    std::vector<taken_fd> taken_over;
    bool received = false;
    std::optional<takeover_end> end;
};

template <class Condition>
bool both_until(house& a, house& b, Condition holds) {
    for (int i = 0; i < patience.count(); i++) {
        a.r.turn();
        b.r.turn();
        if (holds()) return true;
        poll(nullptr, 0, i < 20 ? 0 : 1);
    }
    return false;
}

bool echoes(house& h, int client) {
    send_all(client, "hello");
    if (!h.r.until([&] { return ready(client, POLLIN); })) return false;
    return recv_exactly(client, 5) == "hello";
}

// What a giver says, as bytes.
std::string message(std::uint32_t count, const std::vector<takeover_tag>& tags,
                    const char* line = "weir-takeover 1\n") {
    std::string bytes(line, 16);
    bytes.append(reinterpret_cast<const char*>(&count), sizeof count);
    for (const takeover_tag& tag : tags)
        bytes.append(reinterpret_cast<const char*>(&tag), sizeof tag);
    return bytes;
}
const std::vector<takeover_tag> two_tags{{0, 0}, {main_door, 0}};

// A giver that says what the test wants, to a taker on a loop.
struct false_giver {
    false_giver() : at(fresh_name()), door(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        REQUIRE(::bind(door.get(), at.data(), at.size()) == 0);
        REQUIRE(::listen(door.get(), 4) == 0);
        REQUIRE(h.take(at).ok());
        conn = descriptor(::accept4(door.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        REQUIRE(conn.get() >= 0);
    }
    void say(std::string_view bytes, const std::vector<int>& fds = {}) {
        REQUIRE(sys::send_with(conn.get(), bytes.data(), bytes.size(), fds.data(), fds.size()) ==
                static_cast<sys::count>(bytes.size()));
    }
    bool over() {
        return h.r.until([&] { return h.end.has_value(); });
    }

    endpoint at;
    descriptor door, conn;
    tcp_listener gift = listen_tcp();
    house h;
};

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

TEST_CASE("a giver does not adopt what does not listen") {
    house h;
    auto [a, b] = tcp_pair();

    CHECK(h.giver.adopt(unique_fd{a.release()}, {}, house::giver_told, &h).error() == EINVAL);
    CHECK(support::ended(b.get()));
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

// --- a giver that is none

TEST_CASE("a message that comes in two pieces, cut anywhere, is a message") {
    const std::string whole = message(2, two_tags);
    for (std::size_t cut = 1; cut < whole.size(); cut++) {
        CAPTURE(cut);
        false_giver g;
        g.say(whole.substr(0, cut), {g.door.get(), g.gift.fd.get()});
        g.h.r.turn(3);
        CHECK_FALSE(g.h.received);
        g.say(whole.substr(cut));

        CHECK(g.h.r.until([&] { return g.h.received; }));
        CHECK(g.h.taken_over.size() == 2);
    }
}

TEST_CASE("a message that ends before its end gives nothing") {
    const std::string whole = message(2, two_tags);
    for (std::size_t cut = 0; cut < whole.size(); cut++) {
        CAPTURE(cut);
        false_giver g;
        if (cut > 0) g.say(whole.substr(0, cut), {g.door.get(), g.gift.fd.get()});
        g.conn.close();

        REQUIRE(g.over());
        CHECK(*g.h.end == takeover_end::died);
        CHECK_FALSE(g.h.received);
    }
}

TEST_CASE("a message that is not all there in time gives nothing") {
    false_giver g;
    g.say(message(2, two_tags).substr(0, 30), {g.door.get(), g.gift.fd.get()});
    g.h.r.turn(2);
    CHECK_FALSE(g.h.end.has_value());

    g.h.r.pass(seconds{10} + milliseconds{1});

    REQUIRE(g.h.end.has_value());
    CHECK(*g.h.end == takeover_end::timed_out);
}

TEST_CASE("whatever is not a message of this version is refused, and its descriptors are closed") {
    false_giver g;
    auto [a, b] = tcp_pair();
    pair pipe = pipe_pair();
    const int door = g.door.get(), gift = g.gift.fd.get();
    SUBCASE("another protocol") { g.say("HTTP/1.1 400 Bad Request\r\n\r\n", {door, gift}); }
    SUBCASE("another version") { g.say(message(2, two_tags, "weir-takeover 2\n"), {door, gift}); }
    SUBCASE("a single byte too many in the line") { g.say("weir-takeover 1 ", {door, gift}); }
    SUBCASE("no descriptors") { g.say(message(2, two_tags)); }
    SUBCASE("one descriptor less than it says") { g.say(message(2, two_tags), {door}); }
    SUBCASE("one more") { g.say(message(2, two_tags), {door, gift, gift}); }
    SUBCASE("a count of none") { g.say(message(0, {})); }
    SUBCASE("a count beyond all limits") { g.say(message(0xffffffff, two_tags), {door, gift}); }
    SUBCASE("the takeover socket is not the first") { g.say(message(2, {{main_door, 0}, {0, 0}}), {gift, door}); }
    SUBCASE("two takeover sockets") { g.say(message(2, {{0, 0}, {0, 1}}), {door, door}); }
    SUBCASE("a socket that does not listen") { g.say(message(2, two_tags), {door, a.get()}); }
    SUBCASE("no socket at all") { g.say(message(2, two_tags), {door, pipe.a.get()}); }
    SUBCASE("descriptors in two messages") {
        g.say(message(2, two_tags).substr(0, 10), {door});
        g.h.r.turn();
        g.say(message(2, two_tags).substr(10), {gift});
    }

    REQUIRE(g.over());
    CHECK(*g.h.end == takeover_end::mismatch);
    CHECK_FALSE(g.h.received);
}

TEST_CASE("a taker that has no room for the descriptors closes those that came, and says so") {
    for (const bool has_one_place : {false, true}) {
        false_giver g;
        descriptor place(dup(0));
        {
            const short_of_descriptors now;
            if (has_one_place) place.close();
            g.say(message(2, two_tags), {g.door.get(), g.gift.fd.get()});
            REQUIRE(g.over());
        }
        CHECK(*g.h.end == takeover_end::system);
        CHECK(g.h.error == EMFILE);
        CHECK_FALSE(g.h.received);
    }
}

TEST_CASE("an answer is heard for what it is") {
    false_giver g;
    g.say(message(2, two_tags), {g.door.get(), g.gift.fd.get()});
    REQUIRE(g.h.r.until([&] { return g.h.received; }));
    takeover_end expected{};
    SUBCASE("the old one dies before we are ready") {
        g.conn.close();
        expected = takeover_end::died;
    }
    SUBCASE("the old one stays") {
        g.say("stays\n");
        expected = takeover_end::refused;
    }
    SUBCASE("an answer to what was not said") {
        g.say("taken\n");
        expected = takeover_end::mismatch;
    }
    SUBCASE("after ready") {
        g.h.taker.ready();
        g.h.r.turn(2);
        SUBCASE("taken, in pieces") {
            REQUIRE(recv_exactly(g.conn.get(), 6) == "ready\n");
            g.say("tak");
            g.h.r.turn(2);
            CHECK_FALSE(g.h.end.has_value());
            g.say("en\n");
            expected = takeover_end::taken;
        }
        SUBCASE("the old one stays") {
            g.say("stays\n");
            expected = takeover_end::refused;
        }
        SUBCASE("the old one stays, and did not read our word") {
            g.say("stays\n");
            g.conn.close(); // a reset, behind the word
            expected = takeover_end::refused;
        }
        SUBCASE("the old one is gone without a word, and did not read ours") {
            g.conn.close();
            expected = takeover_end::taken_alone;
        }
        SUBCASE("the old one is gone without a word") {
            REQUIRE(recv_exactly(g.conn.get(), 6) == "ready\n");
            g.conn.close();
            expected = takeover_end::taken_alone;
        }
        SUBCASE("neither of the words") {
            g.say("token\n");
            expected = takeover_end::mismatch;
        }
    }

    REQUIRE(g.over());
    CHECK(*g.h.end == expected);
    CHECK_FALSE(g.h.taker.is_open());
}

TEST_CASE("ready to an old one that is gone already is a taking over, too") {
    false_giver g;
    g.say(message(2, two_tags), {g.door.get(), g.gift.fd.get()});
    REQUIRE(g.h.r.until([&] { return g.h.received; }));
    g.conn.close();

    g.h.taker.ready(); // before its loop has heard of the end

    REQUIRE(g.over());
    CHECK(*g.h.end == takeover_end::taken_alone);
}

TEST_CASE("a taker that is ready waits for its answer without end") {
    false_giver g;
    g.say(message(2, two_tags), {g.door.get(), g.gift.fd.get()});
    REQUIRE(g.h.r.until([&] { return g.h.received; }));
    g.h.taker.ready();
    g.h.r.turn(2);

    g.h.r.pass(std::chrono::hours{1});
    CHECK_FALSE(g.h.end.has_value());
    g.say("taken\n");

    REQUIRE(g.over());
    CHECK(*g.h.end == takeover_end::taken);
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
