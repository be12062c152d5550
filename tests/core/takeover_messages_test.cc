// takeover: what a taker makes of a giver's words, whole, in pieces, or none.

#include "core/takeover.hpp"

#include <cstring>

#include <sys/wait.h>

#include "proto/unix.hpp"
#include "support/rig.hpp"
#include "support/takeover_rig.hpp"

namespace {

using namespace weir;
using namespace support;

// --- a giver that is none

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

} // namespace
