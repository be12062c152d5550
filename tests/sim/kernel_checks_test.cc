#include <weir/sim.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <doctest/doctest.h>

// What the simulated kernel calls a violation, and what not.

using namespace weir;

namespace {

// Nothing goes wrong, and time stands still between sleeps.
struct judged {
    explicit judged(kernel_options o = {.call_max = duration{}, .swarm = false}) : k(o) {
        k.on_violation([](void* self, kernel&, const char* invariant,
                          const char* text) noexcept {
            static_cast<judged*>(self)->violated += invariant;
            static_cast<judged*>(self)->texts += text;
        },
                       this);
    }
    std::string violated, texts;
    kernel k;
};

} // namespace

TEST_CASE("turns without progress are a violation, and a close that answers EINTR is progress") {
    judged j;
    const int epoll = sys::epoll_open();
    int fds[4];
    for (int& fd : fds)
        fd = sys::eventfd_open();
    j.k.faults.set(fault::close_eintr, 10'000);
    epoll_event event;

    for (const int fd : fds) {
        for (int looks = 0; looks < 3; looks++)
            CHECK(sys::epoll_wait(epoll, &event, 1, 0) == 0);
        CHECK(sys::close(fd) == -EINTR);
    }
    CHECK(j.violated.empty());
    for (int looks = 0; looks < 5; looks++)
        CHECK(sys::epoll_wait(epoll, &event, 1, 0) == 0);

    CHECK(j.violated == "I11");
}

TEST_CASE("a violation of a loop names the descriptor, its role and its table") {
    judged j;
    event_loop loop;
    conntab conns{loop};
    REQUIRE(loop.open().ok());
    REQUIRE(conns.open({.connections_max = 2}).ok());
    loop_check check{loop};
    static constexpr data_cb deaf{.name = "deaf", .recv = keep_on, .send = keep_on, .wake = keep_on};
    int ends[2];
    REQUIRE(j.k.pair(AF_UNIX, ends) == 0);
    auto conn = conns.adopt(unique_fd{ends[0]}, unix_stream, raw_xprt, {});
    REQUIRE(conn.ok());
    conn.value()->attach(deaf, nullptr);
    conn.value()->want_recv();
    const std::string name = "fd " + std::to_string(ends[0]) + " adopted deaf";

    SUBCASE("a lost wake-up") {
        REQUIRE(sys::send(ends[1], "x", 1, false) == 1);
        loop.turn(milliseconds{1}); // it is told
        fdtab::cant_recv(conn.value()->slot());
        loop.turn(milliseconds{1}); // it stands on the run list still
        loop.turn(milliseconds{1});
        CHECK(j.violated == "I4");
        CHECK(j.texts.find("asleep, and something could be received: " + name + " (recv_active") != j.texts.npos);
    }
    SUBCASE("a spin") {
        REQUIRE(sys::send(ends[1], "x", 1, false) == 1);
        for (int turns = 0; turns < 8; turns++)
            loop.turn(milliseconds{1});
        CHECK(j.violated == "I11");
        CHECK(j.texts.find("the loop turns, and nothing changes: " + name + " (recv_active+recv_ready") != j.texts.npos);
    }

    conn.value()->close(close_intent::silent, end_cause::done);
    loop.turn(milliseconds{1});
    sys::close(ends[1]);
}

TEST_CASE("the text of a violation is formatted") {
    judged j;

    j.k.violate("I6", "the answer to %s is %d", "GET", 7);

    CHECK(j.violated == "I6");
    CHECK(j.texts == "the answer to GET is 7");
}

TEST_CASE("the last calls leave out a remote's looks in vain") {
    judged j;
    j.k.log.add({j.k.time.now, call::close, 7, 0, 0, nullptr});
    for (int looks = 0; looks < 100; looks++)
        j.k.log.add({j.k.time.now, call::remote_recv, 1, 50, -EAGAIN, nullptr});
    j.k.log.add({j.k.time.now, call::remote_recv, 1, 50, 3, nullptr});
    char* text = nullptr;
    std::size_t bytes = 0;

    std::FILE* to = open_memstream(&text, &bytes);
    j.k.log.print(to, 2);
    std::fclose(to);

    const std::string_view lines{text, bytes};
    CHECK(lines.find("close") != lines.npos);
    CHECK(lines.find("* recv") != lines.npos);
    CHECK(lines.find("EAGAIN") == lines.npos);
    std::free(text);
}
