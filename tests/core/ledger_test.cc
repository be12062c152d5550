#include "core/ledger.hpp"

#include <csignal>
#include <cstdlib>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "core/idle.hpp"
#include "core/listener.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using namespace std::chrono_literals;

struct lines {
    std::vector<std::string> all;

    line_sink sink() {
        return {.take = [](void* to, std::string_view line) noexcept { static_cast<lines*>(to)->all.emplace_back(line); },
                .to = this};
    }
    // The lines that begin with "fd N ".
    std::vector<std::string> of(int fd) const {
        std::vector<std::string> found;
        for (const std::string& line : all)
            if (line.starts_with("fd " + std::to_string(fd) + " ")) found.push_back(line);
        return found;
    }
};

bool holds(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

void nothing(fd_slot& slot) noexcept { slot.state = {}; }

// A rig whose loop remembers the last `entries` events.
struct noted {
    explicit noted(std::uint32_t entries) {
        REQUIRE(loop.open({.ledger_max = entries, .time_source = &clock}).ok());
        REQUIRE(conns.open({.connections_max = 8}).ok());
    }
    connection& serve(descriptor socket, user& who) {
        auto conn = conns.adopt(unique_fd{socket.release()}, tcp);
        REQUIRE(conn.ok());
        conn.value()->attach(user::table, &who);
        return *conn.value();
    }
    std::vector<std::string> told(int fd) {
        lines out;
        const std::uint32_t count = loop.ledger().tell(fd, loop.now(), out.sink());
        CHECK(count == out.all.size());
        return out.all;
    }
    void pass(duration time) {
        clock.advance(time);
        loop.turn(duration{0});
    }

    fake_clock clock;
    event_loop loop;
    conntab conns{loop};
};

constexpr idle_pool::at_rest at_rest{.messages_complete = true, .buffers_empty = true};

TEST_CASE("a connection's way through a pool is told newest first, with times and names") {
    noted r{64};
    idle_pool pool{r.conns, {}};
    const auto key = pool.key_of({.remote = endpoint::ipv4(1, 1), .family = &tcp});
    auto ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.a), who);
    const int fd = conn.fd();

    r.pass(1s);
    REQUIRE(pool.park(conn, key, at_rest) == verdict::keep);
    r.pass(1s);
    REQUIRE(pool.take(key, user::other_table, &who) == &conn);
    r.pass(250ms);
    conn.close(close_intent::silent, end_cause::timed_out);

    const std::string head = "fd " + std::to_string(fd) + " generation 0 ";
    CHECK(r.told(fd) == std::vector<std::string>{head + "closed timed_out 0.000 s ago", head + "taken other 0.250 s ago",
                                                 head + "parked user 1.250 s ago", head + "opened adopted 2.250 s ago"});
}

TEST_CASE("a lingering connection says since when and why") {
    noted r{64};
    auto ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.a), who);
    const int fd = conn.fd();

    conn.close(close_intent::graceful, end_cause::done);
    lines out;
    r.loop.list_descriptors(out.sink());

    REQUIRE(out.of(fd).size() == 1);
    CHECK(holds(out.of(fd)[0], " adopted linger "));
    CHECK(holds(out.of(fd)[0], "; lingering done 0.000 s ago"));
}

TEST_CASE("the earlier owners of a number are told, each with its generation") {
    noted r{64};
    user who;
    int fd = -1;
    for (int i = 0; i < 3; i++) {
        auto ends = tcp_pair();
        connection& conn = r.serve(std::move(ends.a), who);
        if (fd >= 0) REQUIRE(conn.fd() == fd);
        fd = conn.fd();
        conn.close(close_intent::silent, end_cause::done);
    }

    const auto told = r.told(fd);

    REQUIRE(told.size() == 6);
    CHECK(holds(told[0], "generation 2 closed done"));
    CHECK(holds(told[5], "generation 0 opened adopted"));
}

TEST_CASE("without a history descriptors are listed all the same, but not their past") {
    rig r;
    auto ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.a), who);
    r.pass(3s);
    conn.want_recv();

    lines out;
    const std::uint32_t count = r.loop.list_descriptors(out.sink());

    CHECK_FALSE(r.loop.ledger().has_history());
    CHECK(r.loop.ledger().newest(conn.fd()) == nullptr);
    CHECK(count == r.loop.fds().used_count());
    CHECK(out.all.size() == count);
    REQUIRE(out.of(conn.fd()).size() == 1);
    const std::string line = out.of(conn.fd())[0];
    CHECK(holds(line, " adopted user 127.0.0.1:"));
    CHECK(holds(line, " age 3.000 s owner 0x"));
    CHECK(holds(line, " recv_active"));
    CHECK_FALSE(holds(line, " ago"));
}

TEST_CASE("slots that are no connections are named by their role, and aged by the history") {
    noted r{64};
    listener door{r.conns};
    const auto take = [](void*, connection& conn, const endpoint&) noexcept {
        conn.close(close_intent::abort, end_cause::done);
    };
    REQUIRE(door.open(tcp, endpoint::ipv4(0x7f000001, 0), {}, take, nullptr).ok());
    REQUIRE(r.loop.on_signal(SIGUSR2, [](void*, int) noexcept {}, nullptr).ok());
    auto ends = stream_pair();
    auto slot = r.loop.watch(ends.a.get(), interest::recv, nothing, nullptr);
    REQUIRE(slot.ok());
    r.pass(2s);

    lines out;
    CHECK(r.loop.list_descriptors(out.sink()) == 4);

    std::string all;
    for (const std::string& line : out.all)
        all += line + '\n';
    char room[endpoint::text_max];
    CHECK(holds(all, " listener " + std::string(door.local().text(room)) + " age 2.000 s "));
    CHECK(holds(all, " mailbox age 2.000 s "));
    CHECK(holds(all, " signals age 2.000 s "));
    REQUIRE(out.of(ends.a.get()).size() == 1);
    CHECK(holds(out.of(ends.a.get())[0], " other unix: - unix: age 2.000 s "));

    r.loop.close(*slot.value());
    [[maybe_unused]] const int closed = ends.a.release();
}

TEST_CASE("a user's handler is named by its teller") {
    rig r;
    auto ends = stream_pair();
    int mine = 0;
    r.loop.ledger().introduce(nothing, [](const fd_slot&, fd_facts& to) noexcept {
        to.role = "camera";
        to.table = "front";
    });
    auto slot = r.loop.watch(ends.a.get(), interest::recv, nothing, &mine);
    REQUIRE(slot.ok());

    const fd_facts facts = r.loop.ledger().facts(*slot.value());

    CHECK(facts.role == std::string{"camera"});
    CHECK(facts.table == std::string{"front"});
    CHECK(facts.owner == &mine);
    CHECK(facts.since == never);
    r.loop.close(*slot.value());
    [[maybe_unused]] const int closed = ends.a.release();
}

TEST_CASE("nothing is allocated after open, neither to note nor to print") {
    noted r{16};
    const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    REQUIRE(null >= 0);
    auto ends = tcp_pair();
    auto slot = r.loop.watch(ends.a.get(), interest::recv, nothing, nullptr);
    REQUIRE(slot.ok());

    const auto before = allocation_count();
    for (int i = 0; i < 100; i++)
        r.loop.note(*slot.value(), fd_event::parked, "test");
    CHECK(r.loop.list_descriptors(lines_to(null)) == 2);
    CHECK(r.loop.ledger().tell(ends.a.get(), r.loop.now(), lines_to(null)) == 16);
    CHECK(allocation_count() == before);

    r.loop.close(*slot.value());
    [[maybe_unused]] const int closed = ends.a.release();
    ::close(null);
}

TEST_CASE("lines go to a descriptor whole, one by one") {
    auto pipe = pipe_pair();
    const line_sink out = lines_to(pipe.b.get());

    out.take(out.to, "one");
    out.take(out.to, "");
    out.take(out.to, std::string(2000, 'x'));
    pipe.b.close();

    std::string seen;
    char room[4096];
    for (ssize_t n; (n = ::read(pipe.a.get(), room, sizeof room)) > 0;)
        seen.append(room, static_cast<std::size_t>(n));
    CHECK(seen.starts_with("one\n\nxxx"));
    CHECK(seen.ends_with("x\n"));
    CHECK(seen.size() < 1000); // cut off, and still one line
}

TEST_CASE("what the ring tells is the newest that happened to a number, and no more than it holds") {
    const std::uint64_t seed = std::getenv("WEIR_SEED") ? std::stoull(std::getenv("WEIR_SEED")) : std::random_device{}();
    INFO("WEIR_SEED=", seed);
    std::mt19937_64 random{seed};
    constexpr std::uint32_t entries = 32, numbers = 7;
    fd_ledger ledger;
    REQUIRE(ledger.open(entries, numbers).ok());
    struct event {
        int fd;
        std::uint32_t generation;
        fd_event what;
        time_point at;
    };
    std::deque<event> model; // newest first

    for (int step = 0; step < 5000; step++) {
        const event e{.fd = static_cast<int>(random() % numbers),
                      .generation = static_cast<std::uint32_t>(random()),
                      .what = static_cast<fd_event>(random() % 5),
                      .at = time_point{milliseconds{step}}};
        const fd_slot slot{.handler = nothing, .owner = nullptr, .generation = e.generation, .state = {}, .next = -1, .fd = e.fd};
        ledger.note(slot, e.what, "x", e.at);
        model.push_front(e);
        if (model.size() > entries) model.pop_back();

        for (int fd = 0; fd < static_cast<int>(numbers); fd++) {
            const fd_ledger::entry* at = ledger.newest(fd);
            for (const event& wanted : model) {
                if (wanted.fd != fd) continue;
                REQUIRE(at);
                REQUIRE(at->fd == fd);
                REQUIRE(at->generation == wanted.generation);
                REQUIRE(at->what == wanted.what);
                REQUIRE(at->at == wanted.at);
                at = ledger.before(*at);
            }
            REQUIRE(at == nullptr);
        }
    }
    CHECK(ledger.recorded_count() == 5000);
    CHECK(ledger.newest(-1) == nullptr);
    CHECK(ledger.newest(numbers) == nullptr);
}

} // namespace
