#include <weir/sim.hpp>

#include <string>
#include <string_view>

#include <doctest/doctest.h>

// What the simulated kernel promises beyond what weir-conform asks of both kernels.

using namespace weir;

namespace {

const endpoint door = endpoint::ipv4(0x7f000001, 80);
const endpoint far_away = endpoint::ipv4(0x0a000001, 80);

// Nothing goes wrong, and time stands still between sleeps.
struct quiet {
    explicit quiet(kernel_options o = {.call_max = duration{}, .swarm = false}) : k(o) {
        k.on_violation([](void* self, kernel&, const char* invariant,
                          const char*) noexcept { static_cast<quiet*>(self)->violated += invariant; },
                       this);
    }
    int listener(int backlog = 8) {
        const int fd = sys::socket(AF_INET, SOCK_STREAM);
        REQUIRE(sys::bind(fd, door.data(), door.size()) == 0);
        REQUIRE(sys::listen(fd, backlog) == 0);
        return fd;
    }
    // Two connected TCP sockets: [0] has connected.
    void tcp_pair(int (&ends)[2]) {
        const int fd = listener();
        ends[0] = sys::socket(AF_INET, SOCK_STREAM);
        REQUIRE(sys::connect(ends[0], door.data(), door.size()) == -EINPROGRESS);
        ends[1] = sys::accept(fd, nullptr, nullptr);
        REQUIRE(ends[1] >= 0);
        sys::close(fd);
    }
    std::string violated;
    kernel k;
};

sys::count say(int fd, std::string_view text) { return sys::send(fd, text.data(), text.size(), false); }
int events_of(int epoll, std::uint32_t& events) {
    epoll_event e{};
    const int n = sys::epoll_wait(epoll, &e, 1, 0);
    events = e.events;
    return n;
}
constexpr std::uint32_t edges = EPOLLIN | EPOLLRDHUP | EPOLLET;

} // namespace

TEST_CASE("a new descriptor has the lowest free number") {
    quiet q;
    const int a = sys::eventfd_open(), b = sys::eventfd_open(), c = sys::eventfd_open();
    CHECK(a == 3);
    CHECK(c == 5);

    sys::close(a);
    sys::close(b);

    CHECK(sys::eventfd_open() == a);
    CHECK(sys::eventfd_open() == b);
    CHECK(sys::eventfd_open() == 6);
}

TEST_CASE("there are as many descriptors as the limit says") {
    quiet q{{.descriptors_max = 5, .call_max = duration{}, .swarm = false}};

    CHECK(sys::eventfd_open() == 3);
    CHECK(sys::socket(AF_INET, SOCK_STREAM) == 4);
    CHECK(sys::socket(AF_INET, SOCK_STREAM) == -EMFILE);
    CHECK(sys::eventfd_open() == -EMFILE);
}

TEST_CASE("a watch outlives the close of its number while the description lives") {
    quiet q;
    int ends[2];
    REQUIRE(q.k.pair(AF_UNIX, ends) == 0);
    const int epoll = sys::epoll_open();
    REQUIRE(sys::epoll_add(epoll, ends[0], edges, 7) == 0);
    const int copy = q.k.dup(ends[0]);

    sys::close(ends[0]);
    say(ends[1], "x");

    CHECK(q.violated == "I3");
    std::uint32_t events;
    CHECK(events_of(epoll, events) == 1);
    CHECK(events == EPOLLIN);
    CHECK(sys::close(copy) == 0);
    say(ends[1], "x");
    CHECK(events_of(epoll, events) == 0);
}

TEST_CASE("new bytes are a new edge, though the old ones were not read") {
    quiet q;
    int ends[2];
    q.tcp_pair(ends);
    const int epoll = sys::epoll_open();
    REQUIRE(sys::epoll_add(epoll, ends[0], edges, 0) == 0);
    std::uint32_t events;

    say(ends[1], "a");
    CHECK(events_of(epoll, events) == 1);
    CHECK(events_of(epoll, events) == 0);
    say(ends[1], "b");
    CHECK(events_of(epoll, events) == 1);
    CHECK(sys::epoll_change(epoll, ends[0], edges, 0) == 0); // looks again
    CHECK(events_of(epoll, events) == 1);
}

// What design rests on when a request is repeated. tests/kernel/ asks Linux the same.
TEST_CASE("the error and the acknowledged bytes tell whether a server can have seen the request") {
    quiet q;
    int ends[2];
    q.tcp_pair(ends);
    const std::int64_t before = sys::bytes_acked(ends[0]);
    char bytes[16];

    SUBCASE("closed before it received: EPIPE, nothing acknowledged") {
        sys::close(ends[1]);
        CHECK(say(ends[0], "request") == 7);
        CHECK(sys::socket_error(ends[0]) == EPIPE);
        CHECK(sys::bytes_acked(ends[0]) == before);
    }
    SUBCASE("read, then closed: no error, acknowledged") {
        say(ends[0], "request");
        CHECK(sys::recv(ends[1], bytes, sizeof bytes) == 7);
        sys::close(ends[1]);
        CHECK(sys::socket_error(ends[0]) == 0);
        CHECK(sys::bytes_acked(ends[0]) == before + 7);
    }
    SUBCASE("closed with the request unread: ECONNRESET, acknowledged") {
        say(ends[0], "request");
        sys::close(ends[1]);
        CHECK(sys::recv(ends[0], bytes, sizeof bytes) == -ECONNRESET);
        CHECK(sys::bytes_acked(ends[0]) == before + 7);
    }
    SUBCASE("aborted: ECONNRESET") {
        sys::set_abortive(ends[1]);
        sys::close(ends[1]);
        CHECK(say(ends[0], "request") == -ECONNRESET);
        CHECK(say(ends[0], "request") == -EPIPE);
    }
}

TEST_CASE("a send is short at the end of the room, and room is an edge") {
    kernel_options o{.call_max = duration{}, .swarm = false};
    o.network.buffer_bytes_min = o.network.buffer_bytes_max = 8;
    quiet q{o};
    int ends[2];
    q.tcp_pair(ends);
    const int epoll = sys::epoll_open();
    REQUIRE(sys::epoll_add(epoll, ends[0], edges | EPOLLOUT, 0) == 0);
    std::uint32_t events;
    CHECK(events_of(epoll, events) == 1);
    char bytes[16];

    CHECK(say(ends[0], "0123456789") == 8); // all of it goes to the other side
    CHECK(say(ends[0], "0123456789") == 8); // and this stays here
    CHECK(say(ends[0], "0123456789") == -EAGAIN);
    CHECK(events_of(epoll, events) == 0);

    CHECK(sys::recv(ends[1], bytes, sizeof bytes) == 8);
    CHECK(events_of(epoll, events) == 1);
    CHECK(events == EPOLLOUT);
    CHECK(sys::recv(ends[1], bytes, sizeof bytes) == 8);
}

TEST_CASE("a splice that a signal cuts short leaves room, and no edge follows") {
    quiet q;
    q.k.faults.set(fault::splice_cut, 10'000);
    int ends[2], pipe[2];
    q.tcp_pair(ends);
    REQUIRE(sys::pipe_open(pipe) == 0);
    const int epoll = sys::epoll_open();
    REQUIRE(sys::epoll_add(epoll, ends[1], EPOLLOUT | EPOLLET, 1) == 0);
    std::uint32_t events = 0;
    CHECK(events_of(epoll, events) == 1);
    for (const char* piece : {"x", "yz"})
        REQUIRE((say(ends[0], piece) > 0 && sys::splice(ends[1], pipe[1], 8) > 0));
    CHECK((sys::splice(pipe[0], ends[1], 3) == 1 && events_of(epoll, events) == 0));
    CHECK(sys::splice(pipe[0], ends[1], 2) == 2);
}

TEST_CASE("a full pipe answers EAGAIN though the socket holds bytes, or its end") {
    quiet q;
    int ends[2], pipe[2], more[2];
    q.tcp_pair(ends);
    REQUIRE(sys::pipe_open(pipe) == 0);
    CHECK(sys::set_pipe_room(pipe[0], 1) == 4096);
    CHECK(say(ends[0], "xy") == 2);
    CHECK(sys::splice(ends[1], pipe[1], 1) == 1);

    CHECK(sys::splice(ends[1], pipe[1], 1) == -EAGAIN); // one slot, and a byte is in it
    CHECK(sys::splice(pipe[0], ends[0], 8) == 1);
    CHECK(sys::splice(pipe[0], ends[0], 8) == -EAGAIN); // nothing in it
    CHECK(sys::splice(ends[1], pipe[1], 8) == 2); // and what was just sent to it
    sys::shutdown_send(ends[0]);
    CHECK(sys::splice(ends[1], pipe[1], 8) == -EAGAIN);
    CHECK(sys::splice(pipe[0], ends[1], 8) == 2);
    CHECK(sys::splice(ends[1], pipe[1], 8) == 0);

    for (const int fd : {ends[0], ends[1], pipe[0], pipe[1]})
        sys::close(fd);
    CHECK(q.k.open_count() == 0);
    kernel_options few{.descriptors_max = 5, .swarm = false};
    quiet full{few};
    const int last_but_one = sys::eventfd_open();
    CHECK(sys::pipe_open(more) == -EMFILE); // both or neither
    CHECK(full.k.open_count() == 1);
    sys::close(last_but_one);
}

TEST_CASE("what a loop has open can be listed here, too") {
    quiet q;
    event_loop loop;
    REQUIRE(loop.open({.ledger_max = 64}).ok());
    static int lines = 0;
    lines = 0;

    loop.list_descriptors({.take = [](void*, std::string_view) noexcept { lines++; }});

    CHECK(lines > 0);
    CHECK(q.violated.empty()); // an eventfd was asked for its name
}

TEST_CASE("ports run out, and come back after TIME_WAIT") {
    kernel_options o{.call_max = duration{}, .swarm = false};
    o.network.port_last = static_cast<std::uint16_t>(o.network.port_first + 1);
    quiet q{o};
    const int listener = q.listener();
    int fds[3];
    for (int& fd : fds)
        fd = sys::socket(AF_INET, SOCK_STREAM);
    CHECK(sys::connect(fds[0], door.data(), door.size()) == -EINPROGRESS);
    CHECK(sys::connect(fds[1], door.data(), door.size()) == -EINPROGRESS);
    CHECK(sys::connect(fds[2], door.data(), door.size()) == -EADDRNOTAVAIL);

    const int accepted = sys::accept(listener, nullptr, nullptr);
    sys::close(fds[0]); // the first FIN: its port rests
    sys::close(accepted);
    CHECK(sys::connect(fds[2], door.data(), door.size()) == -EADDRNOTAVAIL);

    q.k.time.now += o.network.time_wait;
    CHECK(sys::connect(fds[2], door.data(), door.size()) == -EINPROGRESS);
}

TEST_CASE("a remote hears, answers and resets") {
    quiet q;
    static constexpr remote_cb echo{.name = "echo", .run = [](remote& r) noexcept {
                                        char bytes[16];
                                        const sys::count n = r.recv(bytes);
                                        if (n > 0 && bytes[0] == 'q') r.reset();
                                        else if (n > 0) r.send({bytes, static_cast<std::size_t>(n)});
                                    }};
    q.k.net.serve({.where = far_away, .table = &echo});
    const int fd = sys::socket(AF_INET, SOCK_STREAM);
    CHECK(sys::connect(fd, far_away.data(), far_away.size()) == -EINPROGRESS);
    const int epoll = sys::epoll_open();
    REQUIRE(sys::epoll_add(epoll, fd, edges, 0) == 0);
    epoll_event e;
    const time_point began = sys::now();

    say(fd, "hello");
    CHECK(sys::epoll_wait(epoll, &e, 1, 1000) == 1);
    CHECK(sys::now() > began); // it took its time, and nobody has slept
    char bytes[16];
    CHECK(sys::recv(fd, bytes, sizeof bytes) == 5);

    say(fd, "q");
    CHECK(sys::epoll_wait(epoll, &e, 1, 1000) == 1);
    CHECK((e.events & EPOLLERR) != 0);
    CHECK(sys::recv(fd, bytes, sizeof bytes) == -ECONNRESET);
}

TEST_CASE("what must not happen is a violation") {
    quiet q;
    const int epoll = sys::epoll_open(), fd = sys::eventfd_open();

    SUBCASE("a call on a number that is closed") {
        sys::close(fd);
        CHECK(sys::close(fd) == -EBADF);
        CHECK(q.violated == "I2");
    }
    SUBCASE("watching what is watched") {
        CHECK(sys::epoll_add(epoll, fd, EPOLLIN | EPOLLET, 0) == 0);
        CHECK(sys::epoll_add(epoll, fd, EPOLLIN | EPOLLET, 0) == -EEXIST);
        CHECK(q.violated == "I2");
    }
    SUBCASE("turning without end") {
        epoll_event e;
        for (int i = 0; i < 4; i++)
            CHECK(sys::epoll_wait(epoll, &e, 1, 0) == 0);
        CHECK(q.violated == "I11");
    }
    SUBCASE("sleeping for ever") {
        epoll_event e;
        CHECK(sys::epoll_wait(epoll, &e, 1, -1) == 0);
        CHECK(q.violated == "I4");
    }
}

TEST_CASE("the same seed goes the same way, another one does not") {
    const auto hash_of = [](std::uint64_t seed) {
        kernel k{{.seed = seed}};
        int ends[2];
        k.pair(AF_INET, ends);
        for (int i = 0; i < 100; i++)
            say(ends[i % 2], "some bytes");
        return k.log.hash();
    };

    CHECK(hash_of(1) == hash_of(1));
    CHECK(hash_of(1) != hash_of(2));
}

TEST_CASE("after heal() nothing goes wrong any more") {
    kernel k{{.seed = 3}};
    for (unsigned kind = 0; kind < fault_plan::kinds; kind++)
        k.faults.set(static_cast<fault>(kind), 10'000);
    CHECK(sys::socket(AF_INET, SOCK_STREAM) == -EMFILE);
    CHECK(k.faults.marks(fault::socket_emfile) == 1);

    k.heal();

    for (int i = 0; i < 100; i++)
        CHECK(sys::socket(AF_INET, SOCK_STREAM) >= 0);
}

TEST_CASE("the planned crossing fails as planned, once") {
    quiet q;
    q.k.faults.plan.set(2, 3, planned_failure::extent::once);

    CHECK(sys::socket(AF_INET, SOCK_STREAM) == 3);
    CHECK(sys::socket(AF_INET, SOCK_STREAM) == -ENFILE); // the 4th that is documented
    CHECK(sys::socket(AF_INET, SOCK_STREAM) == 4);

    CHECK(q.k.faults.plan.struck());
    CHECK(q.k.faults.plan.what() == call::socket);
    CHECK(q.k.faults.plan.crossings_count() == 3);
}

TEST_CASE("a failure from then on is that of every later call of its kind") {
    quiet q;
    int ends[2];
    q.tcp_pair(ends);
    q.k.faults.plan.set(q.k.faults.plan.crossings_count() + 1, 0, planned_failure::extent::from_then_on);

    CHECK(sys::socket(AF_INET, SOCK_STREAM) == -EACCES);
    CHECK(say(ends[0], "x") == 1);
    CHECK(sys::socket(AF_INET, SOCK_STREAM) == -EACCES);

    q.k.faults.plan.pause();
    CHECK(sys::socket(AF_INET, SOCK_STREAM) >= 0);
}

TEST_CASE("a receive that fails for good leaves a dead socket behind") {
    quiet q;
    int ends[2];
    q.tcp_pair(ends);
    q.k.faults.plan.set(q.k.faults.plan.crossings_count() + 1, 1, planned_failure::extent::once);
    char byte;

    CHECK(sys::recv(ends[0], &byte, 1) == -ETIMEDOUT);

    CHECK(sys::recv(ends[0], &byte, 1) == 0);
    CHECK(say(ends[0], "x") == -EPIPE);
    CHECK(say(ends[1], "x") == -ECONNRESET);
}

TEST_CASE("what accept loses is reset, what it is short of stays in the queue") {
    quiet q;
    const int door_fd = q.listener();
    const int client = sys::socket(AF_INET, SOCK_STREAM);
    REQUIRE(sys::connect(client, door.data(), door.size()) == -EINPROGRESS);
    const std::uint64_t before = q.k.faults.plan.crossings_count();
    q.k.faults.plan.set(before + 1, 0, planned_failure::extent::once);

    CHECK(sys::accept(door_fd, nullptr, nullptr) == -EMFILE);
    q.k.faults.plan.set(before + 2, 5, planned_failure::extent::once);
    CHECK(sys::accept(door_fd, nullptr, nullptr) == -ECONNABORTED);
    CHECK(sys::accept(door_fd, nullptr, nullptr) == -EAGAIN);
    CHECK(say(client, "x") == -ECONNRESET);
}

TEST_CASE("the path of a unix listener outlives it, until it is unlinked") {
    quiet q;
    const endpoint path = endpoint::unix_path("/run/x.sock").value();
    for (const int expected : {0, -EADDRINUSE}) {
        const int fd = sys::socket(AF_UNIX, SOCK_STREAM);
        CHECK(sys::bind(fd, path.data(), path.size()) == expected);
        sys::close(fd);
    }

    CHECK(sys::unlink_socket("/run/x.sock") == 0);
    CHECK(sys::unlink_socket("/run/x.sock") == -ENOENT);
}
