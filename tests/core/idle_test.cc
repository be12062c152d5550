#include "core/idle.hpp"

#include <vector>

#include "core/dialer.hpp"
#include "support/dies.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::recv_exactly, over_records::send_all, over_records::shut_write;
using over_records::stream_pair, over_records::tcp_pair;

constexpr idle_pool::at_rest rest{.messages_complete = true, .buffers_empty = true};

idle_identity server(std::uint16_t port = 80) {
    return {.remote = endpoint::ipv4(0x7f000001, port), .family = &tcp};
}

// A stream that wants to hear of its parked connection.
struct listening_owner : idle_owner {
    listening_owner() {
        lost = [](idle_owner& self, const connection& conn, end_cause why) noexcept {
            auto& me = static_cast<listening_owner&>(self);
            me.told_count++;
            me.cause = why;
            CHECK(conn.cause() == why);
            if (me.then) me.then();
        };
    }

    int told_count = 0;
    end_cause cause = end_cause::none;
    std::function<void()> then;
};

struct idle_rig : rig {
    explicit idle_rig(const idle_options& options = {}, const conntab_options& tab = {.connections_max = 32})
        : rig(tab), pool(conns, options), key(pool.key_of(server())) {}

    // A connection that was used once and is parked. Its server's end is `peers.back()`.
    connection& parked(const idle_pool::park_options& how = {}) { return parked(key, how); }
    connection& parked(idle_pool::key k, const idle_pool::park_options& how = {}, const ctrl& family = tcp,
                       const xprt& transport = raw_xprt) {
        pair ends = &family == &tcp ? tcp_pair() : stream_pair();
        connection& conn = serve(std::move(ends.b), nobody, family, transport);
        peers.push_back(std::move(ends.a));
        REQUIRE(pool.park(conn, k, rest, how) == verdict::keep);
        return conn;
    }
    connection* take(user& who) { return pool.take(key, user::table, &who); }
    descriptor& peer() { return peers.back(); }

    idle_pool pool;
    idle_pool::key key;
    user nobody; // must never be called
    std::vector<descriptor> peers;
};

// The families and transports that count.
int drains = 0;
ctrl counting_family() {
    ctrl family = tcp;
    family.drain = [](int fd) noexcept {
        drains++;
        return tcp.drain(fd);
    };
    return family;
}
const ctrl drainless_tcp = [] {
    ctrl family = tcp;
    family.drain = nullptr;
    return family;
}();

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

// --- parking and taking

TEST_CASE("a parked connection is handed out again, to whoever asks for its key") {
    idle_rig r;
    connection& conn = r.parked();
    CHECK(r.pool.idle_count() == 1);
    CHECK(r.pool.idle_count(r.key) == 1);
    CHECK(conn.is(conn_flag::idle));
    CHECK(&conn.cb() == &idle_pool::table());
    user next;

    connection* taken = r.take(next);

    REQUIRE(taken == &conn);
    CHECK_FALSE(conn.is(conn_flag::idle));
    CHECK_FALSE(conn.slot().is(fd_state::idle));
    CHECK(conn.owner() == &next);
    CHECK(&conn.cb() == &user::table);
    CHECK(r.pool.idle_count() == 0);
    CHECK(r.pool.idle_count(r.key) == 0);
    CHECK(r.pool.parked_count() == 1);
    CHECK(r.pool.taken_count() == 1);
    CHECK(r.take(next) == nullptr);
    send_all(r.peer().get(), "answer");
    REQUIRE(arrived(conn));
    r.turn();
    CHECK(next.received == "answer"); // receiving stayed wanted
    CHECK(r.nobody.calls.empty());
}

TEST_CASE("park and take cost no epoll_ctl, no drain, no recv and no allocation") {
    drains = 0;
    static int recvs;
    recvs = 0;
    static const xprt counting{.name = "counting",
                               .recv = [](connection& conn, void* to, std::size_t bytes) noexcept {
                                   recvs++;
                                   return raw_xprt.recv(conn, to, bytes);
                               },
                               .send = raw_xprt.send,
                               .drain = nullptr,
                               .handshake = nullptr,
                               .close = nullptr};
    const ctrl family = counting_family();
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, family, counting);
    r.turn();
    const std::uint64_t ctls = r.loop.polls().ctl_count();
    const std::uint64_t allocations = allocation_count();

    bool same = true;
    for (int i = 0; i < 1000; i++) {
        r.pool.park(conn, r.key, rest);
        if (i % 10 == 0) r.loop.turn(duration{0});
        same &= r.take(who) == &conn;
    }

    CHECK(same);
    CHECK(allocation_count() == allocations);
    CHECK(r.loop.polls().ctl_count() == ctls);
    CHECK(drains == 0);
    CHECK(recvs == 0);
    CHECK(r.pool.taken_count() == 1000);
}

TEST_CASE("a park inside recv sends the rest of the event to the idle table, which has nothing to do") {
    drains = 0;
    const ctrl family = counting_family();
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, family);
    conn.want_recv();
    conn.want_send();
    who.on_recv = [&](connection& c) {
        who.read_all(c);
        const std::uint64_t allocations = allocation_count();
        const std::uint64_t ctls = r.loop.polls().ctl_count();
        const verdict v = r.pool.park(c, r.key, rest);
        CHECK(allocation_count() == allocations);
        CHECK(r.loop.polls().ctl_count() == ctls);
        return v;
    };
    send_all(ends.a.get(), "answer");
    REQUIRE(arrived(conn));

    r.turn(3);

    CHECK(who.calls == "r"); // neither send nor wake
    CHECK(r.pool.idle_count() == 1);
    CHECK(r.sleeps());
    CHECK(drains == 0);
}

TEST_CASE("a parked connection may be taken from inside another connection's callback, and used there") {
    idle_rig r;
    connection& idle = r.parked();
    pair client = tcp_pair();
    user front, stream;
    connection& conn = r.serve(std::move(client.b), front);
    conn.want_recv();
    front.on_recv = [&](connection& c) {
        front.read_all(c);
        connection* taken = r.take(stream);
        CHECK(taken == &idle);
        if (taken) CHECK(taken->send("request").end == io::done);
        return verdict::keep;
    };
    send_all(client.a.get(), "request");
    REQUIRE(arrived(conn));

    r.turn();
    CHECK(recv_exactly(r.peer().get(), 7) == "request");
    send_all(r.peer().get(), "answer");
    REQUIRE(arrived(idle));
    r.turn();

    CHECK(stream.received == "answer");
}

TEST_CASE("parking twice is parking once") {
    idle_rig r;
    listening_owner owner;
    connection& conn = r.parked({.owner = &owner});

    CHECK(r.pool.park(conn, r.key, rest) == verdict::keep);

    CHECK(r.pool.idle_count() == 1);
    CHECK(r.pool.parked_count() == 1);
    r.pool.flush();
    CHECK(owner.told_count == 1);
    CHECK(r.conns.live_count() == 0);
    CHECK(r.sums_hold());
}

TEST_CASE("a connection parked and taken within one callback goes on as if nothing had been") {
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) {
        who.read_all(c);
        r.pool.park(c, r.key, rest);
        CHECK(r.take(who) == &c);
        return verdict::keep;
    };

    for (const char* bytes : {"one", "two"}) {
        send_all(ends.a.get(), bytes);
        REQUIRE(arrived(conn));
        r.turn();
    }

    CHECK(who.received == "onetwo");
    CHECK(r.sleeps());
}

// The reader took exactly what there was and never met EAGAIN: the socket is ready, and empty.
TEST_CASE("a readiness that holds no bytes is no reason to refuse or kill a connection") {
    for (const bool can_drain : {true, false}) {
        for (const bool at_once : {true, false}) {
            CAPTURE(can_drain);
            CAPTURE(at_once);
            idle_rig r;
            pair ends = tcp_pair();
            user who, next;
            connection* taken = nullptr;
            connection& conn = r.serve(std::move(ends.b), who, can_drain ? tcp : drainless_tcp);
            conn.want_recv();
            who.on_recv = [&](connection& c) {
                char six[6];
                CHECK(c.recv(six, 6).bytes == 6);
                CHECK(c.slot().is(fd_state::recv_ready));
                const verdict v = r.pool.park(c, r.key, rest);
                if (at_once) taken = r.take(next);
                return v;
            };
            send_all(ends.a.get(), "answer");
            REQUIRE(arrived(conn));

            r.turn(3);
            if (!at_once) taken = r.take(next);

            CHECK(taken == &conn);
            CHECK(r.conns.live_count() == 1);
            CHECK(r.sleeps());
        }
    }
}

// --- the end of an idle connection

TEST_CASE("an idle connection whose server closes is gone in the same turn, and its owner is told") {
    idle_rig r;
    listening_owner owner;
    connection& conn = r.parked({.owner = &owner});
    const int fd = conn.fd();
    r.peer().close();
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK_FALSE(is_open(fd));
    CHECK(r.pool.idle_count() == 0);
    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    CHECK(owner.told_count == 1);
    CHECK(owner.cause == end_cause::idle_peer_closed);
    user next;
    CHECK(r.take(next) == nullptr);
}

TEST_CASE("an idle connection that the server resets is gone in the same turn") {
    idle_rig r;
    listening_owner owner;
    connection& conn = r.parked({.owner = &owner});
    const int fd = conn.fd();
    reset(r.peer());
    REQUIRE(wait_for(conn.fd(), POLLERR));

    r.turn();

    CHECK_FALSE(is_open(fd));
    CHECK(r.ended(end_cause::idle_peer_failed) == 1);
    CHECK(owner.told_count == 1);
    CHECK(owner.cause == end_cause::idle_peer_failed);
}

TEST_CASE("a family without drain reaps a FIN and a reset all the same") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        for (const bool is_reset : {false, true}) {
            CAPTURE(is_reset);
            idle_rig r({.on_bytes = policy});
            pair ends = tcp_pair();
            user who;
            connection& conn = r.serve(std::move(ends.b), who, drainless_tcp);
            r.pool.park(conn, r.key, rest);
            if (is_reset) reset(ends.a);
            else ends.a.close();
            REQUIRE(end_arrived(conn));

            r.turn();

            CHECK(r.conns.live_count() == 0);
            CHECK(r.ended(is_reset ? end_cause::idle_peer_failed : end_cause::idle_peer_closed) == 1);
        }
    }
}

TEST_CASE("an idle unix connection whose peer closes is gone in the same turn") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        idle_rig r({.on_bytes = policy});
        connection& conn = r.parked(r.key, {}, plain_family);
        const int fd = conn.fd();
        r.peer().close();

        r.turn();

        CHECK_FALSE(is_open(fd));
        CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    }
}

TEST_CASE("an idle connection ends by reset unless the server ended it first") {
    idle_rig r;
    connection& live = r.parked();
    r.parked();
    (void)live;
    shut_write(r.peer().get());
    REQUIRE(wait_for(r.conns.after(live)->fd(), POLLRDHUP));

    r.turn();
    r.pool.flush();

    CHECK(ending_of(r.peers[0].get()) == ending::reset);
    // The silent close says no end of a transport's: to one who had ended already, that is no truncation.
    CHECK(ending_of(r.peers[1].get()) == (suite_is_over_records() ? ending::cut : ending::fin));
}

TEST_CASE("an idle connection that died is not handed out in the turn of its death, wherever in the batch that stands") {
    for (const bool client_first : {false, true}) {
        CAPTURE(client_first);
        idle_rig r;
        listening_owner owner;
        connection& idle = r.parked({.owner = &owner});
        pair client = tcp_pair();
        user front, stream;
        connection& conn = r.serve(std::move(client.b), front);
        conn.want_recv();
        int asked = 0;
        front.on_recv = [&](connection& c) {
            front.read_all(c);
            asked++;
            CHECK(owner.told_count == 1); // idle connections run first
            CHECK(r.take(stream) == nullptr);
            return verdict::keep;
        };
        if (client_first) send_all(client.a.get(), "request");
        if (client_first) REQUIRE(arrived(conn));
        r.peer().close();
        REQUIRE(end_arrived(idle));
        if (!client_first) send_all(client.a.get(), "request");
        if (!client_first) REQUIRE(arrived(conn));

        r.turn();

        CHECK(asked == 1);
        CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    }
}

TEST_CASE("a dead connection's number, reused in the same batch, does not inherit its event" *
          not_over_records{"its descriptors are moved to numbers of their own; the engine's numbers know no transport"}) {
    idle_rig r;
    listening_owner owner;
    connection& first = r.parked({.owner = &owner});
    connection& second = r.parked();
    user one, two;
    pair new_first = tcp_pair(), new_second = tcp_pair();
    connection *a = nullptr, *b = nullptr;
    const int first_number = first.fd(), second_number = second.fd();
    owner.then = [&] {
        r.pool.flush(); // the second one dies before its own event is looked at
        a = &r.serve(moved_to(std::move(new_first.b), first_number), one);
        b = &r.serve(moved_to(std::move(new_second.b), second_number), two);
        a->want_recv();
        b->want_recv();
    };
    r.peers[0].close();
    REQUIRE(end_arrived(first));
    r.peers[1].close();
    REQUIRE(end_arrived(second));

    r.turn(3);

    REQUIRE(a != nullptr);
    REQUIRE(b != nullptr);
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    CHECK(r.ended(end_cause::idle_flushed) == 1);
    CHECK(one.calls.empty());
    CHECK(two.calls.empty());
    CHECK_FALSE(a->ended());
    CHECK_FALSE(b->ended());
    CHECK(r.conns.live_count() == 2);
}

// --- unsolicited bytes

TEST_CASE("bytes on an idle connection kill it, and nobody ever reads them") {
    idle_rig r;
    listening_owner owner;
    connection& conn = r.parked({.owner = &owner});
    send_all(r.peer().get(), "HTTP/1.1 408 Request Timeout\r\n\r\n");
    REQUIRE(arrived(conn));

    r.turn();

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::idle_unsolicited) == 1);
    CHECK(owner.told_count == 1);
    CHECK(owner.cause == end_cause::idle_unsolicited);
    CHECK(ending_of(r.peer().get()) == ending::reset);
    user next;
    CHECK(r.take(next) == nullptr);
    CHECK(r.nobody.received.empty());
}

TEST_CASE("bytes that came between the last EAGAIN and the park kill the connection") {
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) {
        who.read_all(c);
        CHECK_FALSE(c.slot().is(fd_state::recv_ready));
        send_all(ends.a.get(), "stray");
        return r.pool.park(c, r.key, rest);
    };
    send_all(ends.a.get(), "answer");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(who.received == "answer");
    CHECK(r.ended(end_cause::idle_unsolicited) == 1);
}

TEST_CASE("bytes that the reader left in the socket kill the connection though no edge follows") {
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    who.on_recv = [&](connection& c) {
        char six[6];
        CHECK(c.recv(six, 6).bytes == 6);
        return r.pool.park(c, r.key, rest);
    };
    send_all(ends.a.get(), "answerstray");
    REQUIRE(arrived(conn));

    r.turn(2);

    CHECK(r.ended(end_cause::idle_unsolicited) == 1);
}

TEST_CASE("bytes that the reader left in the socket are found by a take in the same turn") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        idle_rig r({.on_bytes = policy});
        pair ends = tcp_pair();
        user who, next;
        connection& conn = r.serve(std::move(ends.b), who);
        conn.want_recv();
        connection* taken = nullptr;
        who.on_recv = [&](connection& c) {
            char six[6];
            CHECK(c.recv(six, 6).bytes == 6);
            r.pool.park(c, r.key, rest);
            taken = r.take(next);
            return verdict::keep;
        };
        send_all(ends.a.get(), "answerstray");
        REQUIRE(arrived(conn));

        r.turn(2);

        CHECK(next.received.empty());
        if (policy == unsolicited::kill) {
            CHECK(taken == nullptr);
            CHECK(r.ended(end_cause::idle_unsolicited) == 1);
        } else {
            CHECK(taken == &conn);
            CHECK(r.conns.live_count() == 1);
        }
    }
}

TEST_CASE("with `drain` unsolicited bytes are thrown away, the loop sleeps, and the next answer is clean" *
          not_over_records{"it counts the family's drains"}) {
    for (const bool is_unix : {false, true}) {
        CAPTURE(is_unix);
        drains = 0;
        ctrl family = counting_family();
        if (is_unix)
            family.drain = [](int fd) noexcept {
                drains++;
                char bytes[1024];
                const sys::count n = sys::recv(fd, bytes, sizeof bytes);
                return drain_result{.end = drained::again, .bytes = n > 0 ? static_cast<std::size_t>(n) : 0};
            };
        idle_rig r({.on_bytes = unsolicited::drain});
        pair ends = is_unix ? stream_pair() : tcp_pair();
        user who, next;
        connection& conn = r.serve(std::move(ends.b), who, family);
        r.pool.park(conn, r.key, rest);
        send_all(ends.a.get(), "stray");
        REQUIRE(arrived(conn));

        r.turn();
        CHECK(drains == 1);
        CHECK(r.sleeps());
        CHECK(drains == 1);
        CHECK(r.pool.idle_count() == 1);
        CHECK(r.take(next) == &conn);
        send_all(ends.a.get(), "answer");
        REQUIRE(arrived(conn));
        r.turn();

        CHECK(next.received == "answer");
    }
}

TEST_CASE("with `drain` a FIN after drained bytes is found, in the same event or a later one") {
    for (const bool is_together : {true, false}) {
        CAPTURE(is_together);
        idle_rig r({.on_bytes = unsolicited::drain});
        connection& conn = r.parked();
        send_all(r.peer().get(), std::string(50'000, 'x'));
        REQUIRE(arrived(conn));
        if (!is_together) r.turn();
        shut_write(r.peer().get());
        REQUIRE(end_arrived(conn));

        r.turn();

        CHECK(r.conns.live_count() == 0);
        CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    }
}

TEST_CASE("a drain that finds the end closes the connection even if the poller has not told of it" *
          not_over_records{"the family drains"}) {
    idle_rig r({.on_bytes = unsolicited::drain});
    static bool is_over;
    is_over = false;
    ctrl family = tcp;
    family.drain = [](int) noexcept { return drain_result{.end = is_over ? drained::closed : drained::again, .bytes = 0}; };
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, family);
    r.pool.park(conn, r.key, rest);
    send_all(ends.a.get(), "x");
    REQUIRE(arrived(conn));
    is_over = true;

    r.turn();

    CHECK(r.conns.live_count() == 0);
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
}

TEST_CASE("a family without drain never spins, and its bytes never reach a user" *
          not_over_records{"its transport drains"}) {
    for (const bool is_unix : {false, true}) {
        for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
            CAPTURE(is_unix);
            idle_rig r({.on_bytes = policy});
            pair ends = is_unix ? stream_pair() : tcp_pair();
            user who, next;
            connection& conn = r.serve(std::move(ends.b), who, is_unix ? plain_family : drainless_tcp);
            r.pool.park(conn, r.key, rest);
            send_all(ends.a.get(), "stray");
            REQUIRE(arrived(conn));

            CHECK(r.sleeps());
            CHECK(r.pool.idle_count() == (policy == unsolicited::kill ? 0 : 1));
            send_all(ends.a.get(), policy == unsolicited::kill ? "" : "more");
            CHECK(r.sleeps());
            CHECK(r.take(next) == nullptr);

            CHECK(next.received.empty());
            CHECK(r.ended(end_cause::idle_unsolicited) == 1);
            CHECK(r.conns.live_count() == 0);
        }
    }
}

TEST_CASE("a family without drain still hears of the end after bytes it had to leave") {
    idle_rig r({.on_bytes = unsolicited::drain});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who, drainless_tcp);
    r.pool.park(conn, r.key, rest);
    send_all(ends.a.get(), "stray");
    REQUIRE(arrived(conn));
    r.turn(2);
    CHECK(r.pool.idle_count() == 1);

    ends.a.close();
    REQUIRE(end_arrived(conn));
    r.turn();

    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
}

TEST_CASE("a family without drain believes an end that it finds itself") {
    for (const unsolicited policy : {unsolicited::kill, unsolicited::drain}) {
        idle_rig r({.on_bytes = policy});
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who, drainless_tcp);
        r.pool.park(conn, r.key, rest);
        ends.a.close();
        REQUIRE(end_arrived(conn));

        conn.slot().state |= fd_state::recv_ready; // as if bytes had been reported, and the end not yet
        CHECK(idle_pool::table().recv(conn) == verdict::gone);

        CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    }
}

TEST_CASE("an end that brings a farewell along is an end, and teaches its age") {
    idle_rig r({.age_max = seconds{100}});
    connection& conn = r.parked();
    r.pass(seconds{5});
    send_all(r.peer().get(), "HTTP/1.1 408 Request Timeout\r\n\r\n");
    r.peer().close();
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
    CHECK(r.pool.safe_age(r.key) == seconds{4});
}

// --- what the kernel has not told yet

TEST_CASE("without `probe` an end that the kernel has not told is the taker's to find" *
          not_over_records{"a transport is asked after each park, and finds it"}) {
    idle_rig r;
    connection& conn = r.parked();
    r.peer().close();
    REQUIRE(end_arrived(conn));
    user next;

    connection* taken = r.take(next);
    r.turn();

    CHECK(taken == &conn);
    CHECK(next.calls == "rw");
    CHECK(conn.is(conn_flag::recv_ended));
}

TEST_CASE("with `probe` an end, a reset or bytes that the kernel has not told are found by take") {
    for (const char what : {'f', 'r', 'b'}) {
        CAPTURE(what);
        idle_rig r({.probe = true});
        listening_owner owner;
        connection& good = r.parked();
        connection& bad = r.parked({.owner = &owner});
        if (what == 'f') r.peer().close();
        if (what == 'r') reset(r.peer());
        if (what == 'b') send_all(r.peer().get(), "stray");
        REQUIRE(arrived(bad));
        user next;

        CHECK(r.take(next) == &good);

        const end_cause cause = what == 'f'   ? end_cause::idle_peer_closed
                                : what == 'r' ? end_cause::idle_peer_failed
                                              : end_cause::idle_unsolicited;
        CHECK(owner.told_count == 1);
        CHECK(owner.cause == cause);
        CHECK(r.ended(cause) == 1);
        CHECK(r.pool.idle_count() == 0);
        CHECK(r.pool.taken_count() == 1);
    }
}

TEST_CASE("with `probe` and `drain` bytes that the kernel has not told are thrown away by take") {
    idle_rig r({.on_bytes = unsolicited::drain, .probe = true});
    connection& conn = r.parked();
    send_all(r.peer().get(), "stray");
    REQUIRE(arrived(conn));
    user next;

    CHECK(r.take(next) == &conn);

    r.turn(2);
    CHECK(next.received.empty());
}

TEST_CASE("parking a connection that has ended closes it, with the cause of its end") {
    for (const char what : {'k', 'f', 'r', 'e'}) { // known, received, reset, failed
        CAPTURE(what);
        idle_rig r;
        listening_owner owner;
        pair ends = tcp_pair();
        user who;
        connection& conn = r.serve(std::move(ends.b), who);
        if (what == 'f') conn.want_recv();
        if (what == 'k' || what == 'f') shut_write(ends.a.get());
        if (what == 'r') reset(ends.a);
        if (what == 'e') conn.fail(EPIPE);
        else REQUIRE(end_arrived(conn));
        r.turn();

        CHECK(r.pool.park(conn, r.key, rest, {.owner = &owner}) == verdict::gone);

        CHECK(r.conns.live_count() == 0);
        CHECK(r.pool.idle_count() == 0);
        CHECK(r.pool.parked_count() == 0);
        CHECK(r.ended(what == 'k' || what == 'f' ? end_cause::idle_peer_closed : end_cause::idle_peer_failed) == 1);
        CHECK(owner.told_count == 0); // the answer has told it
    }
}

TEST_CASE("an answer and its FIN in one event: the park inside recv answers gone") {
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.want_recv();
    conn.want_send();
    who.on_recv = [&](connection& c) {
        char six[6];
        CHECK(c.recv(six, 6).bytes == 6);
        const verdict v = r.pool.park(c, r.key, rest);
        CHECK(v == verdict::gone);
        return v;
    };
    send_all(ends.a.get(), "answer");
    shut_write(ends.a.get());
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(who.calls == "r");
    CHECK(r.ended(end_cause::idle_peer_closed) == 1);
}

// --- order and caps

TEST_CASE("the connection parked last is taken first") {
    idle_rig r;
    connection& a = r.parked();
    connection& b = r.parked();
    connection& c = r.parked();
    user who;

    CHECK(r.take(who) == &c);
    CHECK(r.take(who) == &b);
    CHECK(r.take(who) == &a);
    CHECK(r.take(who) == nullptr);
}

TEST_CASE("a full pool evicts the one idle for the longest, of whatever key") {
    idle_rig r({.idle_max = 2});
    const auto other = r.pool.key_of(server(81));
    listening_owner oldest, newer;
    r.parked(other, {.owner = &oldest});
    r.parked(r.key, {.owner = &newer});

    r.parked();

    CHECK(r.pool.idle_count() == 2);
    CHECK(r.pool.idle_count(other) == 0);
    CHECK(r.pool.idle_count(r.key) == 2);
    CHECK(oldest.told_count == 1);
    CHECK(oldest.cause == end_cause::idle_evicted);
    CHECK(newer.told_count == 0);
    CHECK(r.ended(end_cause::idle_evicted) == 1);
    CHECK(ending_of(r.peers[0].get()) == ending::reset);
    CHECK(r.sums_hold());
}

TEST_CASE("a full key evicts its own oldest one and leaves the others alone") {
    idle_rig r({.idle_max = 10, .idle_per_key_max = 2});
    const auto other = r.pool.key_of(server(81));
    listening_owner stranger, oldest, newer;
    r.parked(other, {.owner = &stranger});
    r.parked(r.key, {.owner = &oldest});
    r.parked(r.key, {.owner = &newer});

    r.parked();

    CHECK(oldest.cause == end_cause::idle_evicted);
    CHECK(stranger.told_count == 0);
    CHECK(newer.told_count == 0);
    CHECK(r.pool.idle_count(r.key) == 2);
    CHECK(r.pool.idle_count() == 3);
}

TEST_CASE("a pool exactly full evicts nobody") {
    idle_rig r({.idle_max = 3, .idle_per_key_max = 3});

    for (int i = 0; i < 3; i++)
        r.parked();

    CHECK(r.pool.idle_count() == 3);
    CHECK(r.ended(end_cause::idle_evicted) == 0);
}

// --- ages

TEST_CASE("an idle connection is closed at its age, give or take a tenth, and not all at once") {
    idle_rig r({.age_max = seconds{10}}, {.connections_max = 64});
    for (int i = 0; i < 64; i++)
        r.parked(r.key, {}, plain_family);
    r.turn();

    r.pass(milliseconds{8999});
    CHECK(r.pool.idle_count() == 64);
    std::uint32_t gone_early = 0, gone_at_once_max = 0, left = 64;
    for (int ms = 8999; ms < 11001; ms++) {
        r.pass(milliseconds{1});
        gone_at_once_max = std::max(gone_at_once_max, left - r.pool.idle_count());
        left = r.pool.idle_count();
        if (ms < 10000) gone_early = 64 - left;
    }

    CHECK(left == 0);
    CHECK(r.ended(end_cause::idle_age) == 64);
    CHECK(gone_early >= 20); // about half before the age, half after it
    CHECK(gone_early <= 44);
    CHECK(gone_at_once_max <= 6);
    CHECK(ending_of(r.peers[0].get(), nullptr) != ending::none);
}

TEST_CASE("a server's shorter age is kept to, a longer one is not") {
    idle_rig r({.age_max = seconds{10}});
    listening_owner shorter, longer;
    r.parked({.age_max = seconds{1}, .owner = &shorter});
    r.parked({.age_max = seconds{100}, .owner = &longer});

    r.pass(milliseconds{899});
    CHECK(shorter.told_count == 0);
    r.pass(milliseconds{202});
    CHECK(shorter.cause == end_cause::idle_age);
    CHECK(longer.told_count == 0);
    r.pass(seconds{10});

    CHECK(longer.cause == end_cause::idle_age);
}

TEST_CASE("a taken connection has no age, and one parked again a new one") {
    idle_rig r({.age_max = seconds{10}});
    connection& conn = r.parked();
    user who;
    r.pass(seconds{8});
    REQUIRE(r.take(who) == &conn);

    r.pass(seconds{60});
    CHECK(r.conns.live_count() == 1);
    r.pool.park(conn, r.key, rest);
    r.pass(seconds{8});
    CHECK(r.pool.idle_count() == 1);
    r.pass(seconds{4});

    CHECK(r.ended(end_cause::idle_age) == 1);
}

TEST_CASE("parking cancels the deadline of the user before") {
    static int fired;
    fired = 0;
    idle_rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.arm(r.loop.now() + seconds{1}, [](timer&, time_point) noexcept { fired++; });

    r.pool.park(conn, r.key, rest);
    r.pass(seconds{5});

    CHECK(fired == 0);
    CHECK(r.pool.idle_count() == 1);
}

TEST_CASE("a connection that was opened too long ago is not parked") {
    idle_rig r({.lifetime_max = seconds{60}});
    pair first = tcp_pair(), second = tcp_pair();
    user who;
    connection& a = r.serve(std::move(first.b), who);
    connection& b = r.serve(std::move(second.b), who);

    r.pass(seconds{60} - milliseconds{1});
    CHECK(r.pool.park(a, r.key, rest) == verdict::keep);
    r.pass(milliseconds{1});
    CHECK(r.pool.park(b, r.key, rest) == verdict::gone);

    CHECK(r.ended(end_cause::idle_worn) == 1);
    CHECK(r.conns.live_count() == 1);
}

TEST_CASE("a connection that was used too often is not parked") {
    idle_rig r({.uses_max = 2});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    conn.count_use();
    CHECK(r.pool.park(conn, r.key, rest) == verdict::keep);
    REQUIRE(r.take(who) == &conn);

    conn.count_use();
    CHECK(r.pool.park(conn, r.key, rest) == verdict::gone);

    CHECK(r.ended(end_cause::idle_worn) == 1);
}

// --- keys

TEST_CASE("every field of an identity tells connections apart") {
    idle_rig r({.keys_max = 16});
    int token = 0;
    const idle_identity one = server();
    std::vector<idle_identity> others(8, one);
    others[0].remote = endpoint::ipv4(0x7f000001, 81);
    others[1].remote = endpoint::ipv4(0x7f000002, 80);
    others[2].remote = endpoint::ipv6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1}, 80);
    others[3].source = endpoint::ipv4(0x7f000003, 0);
    others[4].family = &plain_family;
    const xprt other_transport = raw_xprt;
    others[5].transport = &other_transport;
    others[6].tag = 1;
    others[7].private_to = &token;
    r.parked();
    user who;

    for (const idle_identity& other : others) {
        const auto k = r.pool.key_of(other);
        REQUIRE(k);
        CHECK(r.pool.idle_count(k) == 0);
        CHECK(r.pool.take(k, user::table, &who) == nullptr);
    }

    CHECK(r.pool.take(r.pool.key_of(server()), user::table, &who) != nullptr);
}

TEST_CASE("equal identities have one key") {
    idle_rig r({.keys_max = 1});
    r.parked(r.pool.key_of(server()));

    CHECK(r.pool.idle_count(r.pool.key_of(server())) == 1);
    CHECK(r.pool.key_of(server()));
}

TEST_CASE("beyond keys_max the key is null: parking closes, taking finds nothing") {
    idle_rig r({.keys_max = 1});
    const auto none = r.pool.key_of(server(81));
    CHECK_FALSE(none);
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);

    CHECK(r.pool.take(none, user::table, &who) == nullptr);
    CHECK(r.pool.idle_count(none) == 0);
    CHECK(r.pool.safe_age(none) == duration::max());
    r.pool.flush(none);
    CHECK(r.pool.park(conn, none, rest) == verdict::gone);

    CHECK(r.ended(end_cause::idle_evicted) == 1);
    CHECK(r.sums_hold());
}

// --- owners

TEST_CASE("an owner is not told of a connection that was taken") {
    idle_rig r;
    listening_owner owner;
    connection& conn = r.parked({.owner = &owner});
    user who;
    REQUIRE(r.take(who) == &conn);

    r.peer().close();
    CHECK(r.until([&] { return conn.ended(); }));
    conn.close(close_intent::silent, end_cause::peer_closed);

    CHECK(owner.told_count == 0);
}

TEST_CASE("an owner may dial, park and flush while it is told") {
    idle_rig r;
    listening_owner owner;
    connection& conn = r.parked({.owner = &owner});
    pair ends = tcp_pair();
    connection& spare = r.serve(std::move(ends.b), r.nobody);
    owner.then = [&] {
        CHECK(r.pool.idle_count() == 0);
        CHECK(r.pool.park(spare, r.key, rest) == verdict::keep);
    };
    r.peer().close();
    REQUIRE(end_arrived(conn));

    r.turn();

    CHECK(owner.told_count == 1);
    CHECK(r.pool.idle_count() == 1);
    CHECK(r.sleeps());
}

TEST_CASE("an owner that parks while it is told of an eviction does not overfill the key or the pool") {
    for (const std::uint32_t others_max : {0u, 5u}) {
        CAPTURE(others_max);
        idle_rig r({.idle_max = 2 + others_max, .idle_per_key_max = 2});
        listening_owner owner;
        r.parked({.owner = &owner});
        r.parked();
        pair ends = tcp_pair();
        connection& spare = r.serve(std::move(ends.b), r.nobody);
        owner.then = [&] { r.pool.park(spare, r.key, rest); };

        r.parked();

        CHECK(r.pool.idle_count() == 2);
        CHECK(r.ended(end_cause::idle_evicted) == 2);
    }
}

TEST_CASE("take_back gives a connection to the one who parked it") {
    idle_rig r;
    listening_owner owner;
    connection& other = r.parked();
    connection& conn = r.parked({.owner = &owner});
    r.parked();
    user who;

    CHECK(r.pool.take_back(conn, user::other_table, &who));

    CHECK(conn.owner() == &who);
    CHECK_FALSE(conn.is(conn_flag::idle));
    CHECK(other.is(conn_flag::idle));
    CHECK(r.pool.idle_count() == 2);
    CHECK(r.pool.taken_count() == 1);
    CHECK(owner.told_count == 0);
}

TEST_CASE("take_back answers false for a connection that has just ended, and tells in no other way") {
    for (const char what : {'f', 'r', 'b'}) {
        CAPTURE(what);
        idle_rig r({.probe = true});
        listening_owner owner;
        connection& conn = r.parked({.owner = &owner});
        if (what == 'f') r.peer().close();
        if (what == 'r') reset(r.peer());
        if (what == 'b') send_all(r.peer().get(), "stray");
        REQUIRE(arrived(conn));
        user who;

        CHECK_FALSE(r.pool.take_back(conn, user::table, &who));

        CHECK(owner.told_count == 0);
        CHECK(r.conns.live_count() == 0);
        CHECK(r.ended(what == 'f'   ? end_cause::idle_peer_closed
                      : what == 'r' ? end_cause::idle_peer_failed
                                    : end_cause::idle_unsolicited) == 1);
    }
}

// --- what is learned

TEST_CASE("a server that closes its idle connections teaches a safe age: the shortest seen, less a fifth") {
    idle_rig r({.age_max = seconds{100}});
    CHECK(r.pool.safe_age(r.key) == duration::max());
    auto closes_after = [&](duration age) {
        connection& conn = r.parked();
        r.pass(age);
        r.peer().close();
        REQUIRE(end_arrived(conn));
        r.turn();
    };

    closes_after(seconds{10});
    CHECK(r.pool.safe_age(r.key) == seconds{8});
    closes_after(seconds{20});
    CHECK(r.pool.safe_age(r.key) == seconds{8});
    closes_after(seconds{5});

    CHECK(r.pool.safe_age(r.key) == seconds{4});
    CHECK(r.pool.safe_age(r.pool.key_of(server(81))) == duration::max());
}

TEST_CASE("a reset, an eviction and an age of ours teach nothing") {
    idle_rig r({.idle_max = 1, .age_max = seconds{10}});
    connection& conn = r.parked();
    r.pass(seconds{2});
    reset(r.peer());
    REQUIRE(end_arrived(conn));
    r.turn();
    r.parked();
    r.pass(seconds{3});
    r.parked();
    r.pass(seconds{20});

    CHECK(r.ended(end_cause::idle_evicted) == 1);
    CHECK(r.ended(end_cause::idle_age) == 1);
    CHECK(r.pool.safe_age(r.key) == duration::max());
}

TEST_CASE("a connection that outlived what was learned raises it") {
    idle_rig r({.age_max = seconds{100}});
    connection& conn = r.parked();
    r.pass(seconds{5});
    r.peer().close();
    REQUIRE(end_arrived(conn));
    r.turn();
    CHECK(r.pool.safe_age(r.key) == seconds{4});
    r.parked();
    r.pass(seconds{10});
    user who;

    CHECK(r.take(who) != nullptr);

    CHECK(r.pool.safe_age(r.key) == seconds{8});
}

TEST_CASE("a connection that outlived what was learned raises it even if nobody ever took it") {
    idle_rig r({.idle_max = 1, .age_max = seconds{100}});
    connection& conn = r.parked();
    r.pass(milliseconds{2});
    r.peer().close();
    REQUIRE(end_arrived(conn));
    r.turn();
    CHECK(r.pool.safe_age(r.key) < milliseconds{2});
    r.parked();
    r.pass(seconds{10});

    r.pool.flush();

    CHECK(r.pool.safe_age(r.key) == seconds{8});
}

TEST_CASE("a taker that needs a young connection gets none that is older") {
    idle_rig r({.age_max = seconds{100}});
    connection& old = r.parked();
    r.pass(seconds{5});
    connection& young = r.parked();
    r.pass(seconds{1});
    user who;
    auto take = [&](duration age_max) { return r.pool.take(r.key, user::table, &who, {.age_max = age_max}); };

    CHECK(take(milliseconds{999}) == nullptr);
    CHECK(take(seconds{1}) == &young);
    CHECK(take(seconds{1}) == nullptr);
    CHECK(r.pool.idle_count() == 1); // nothing was closed for that
    CHECK(take(seconds{6}) == &old);
}

// --- emptying

TEST_CASE("flush closes every idle connection, flush of a key only that key's") {
    idle_rig r;
    const auto other = r.pool.key_of(server(81));
    listening_owner a, b, c;
    r.parked(r.key, {.owner = &a});
    r.parked(other, {.owner = &b});
    r.parked(r.key, {.owner = &c});

    r.pool.flush(r.key);
    CHECK(a.cause == end_cause::idle_flushed);
    CHECK(c.cause == end_cause::idle_flushed);
    CHECK(b.told_count == 0);
    CHECK(r.pool.idle_count() == 1);
    r.pool.flush();

    CHECK(b.cause == end_cause::idle_flushed);
    CHECK(r.pool.idle_count() == 0);
    CHECK(r.ended(end_cause::idle_flushed) == 3);
    CHECK(r.sums_hold());
}

TEST_CASE("a pool that dies flushes and helps no more in a shortage") {
    rig r;
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    listening_owner owner;
    {
        idle_pool pool(r.conns, {});
        pool.park(conn, pool.key_of(server()), rest, {.owner = &owner});
    }

    CHECK(owner.cause == end_cause::idle_flushed);
    CHECK(r.conns.live_count() == 0);
    CHECK_FALSE(r.conns.relieve());
    for (int i = 0; i < 10; i++)
        const idle_pool another(r.conns, {}); // its place is free again
}

// --- shortage

TEST_CASE("a dial that meets EMFILE kills the oldest idle connection and succeeds") {
    idle_rig r;
    const tcp_listener server_socket = listen_tcp();
    listening_owner oldest, newer;
    r.parked({.owner = &oldest});
    r.parked({.owner = &newer});
    user who;
    const short_of_descriptors now;

    auto conn = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server_socket.port), {}, user::table, &who);

    REQUIRE(conn.ok());
    CHECK(oldest.cause == end_cause::idle_pressure);
    CHECK(newer.told_count == 0);
    CHECK(r.ended(end_cause::idle_pressure) == 1);
    CHECK(r.until([&] { return conn.value()->is(conn_flag::connected); }));
    CHECK(r.sums_hold());
}

TEST_CASE("a dial that meets EMFILE without an idle connection fails, and nothing is lost") {
    idle_rig r;
    const tcp_listener server_socket = listen_tcp();
    user who;
    const short_of_descriptors now;

    auto conn = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server_socket.port), {}, user::table, &who);

    CHECK(conn.error() == EMFILE);
    CHECK(r.conns.live_count() == 0);
    CHECK(r.sums_hold());
}

TEST_CASE("a dial into a full conntab kills the oldest idle connection and succeeds in the same turn") {
    idle_rig r({}, {.connections_max = 2});
    const tcp_listener server_socket = listen_tcp();
    listening_owner oldest, newer;
    r.parked({.owner = &oldest});
    r.parked({.owner = &newer});
    user who;

    auto conn = dial(r.conns, tcp, endpoint::ipv4(0x7f000001, server_socket.port), {}, user::table, &who);

    REQUIRE(conn.ok());
    CHECK(oldest.cause == end_cause::idle_pressure);
    CHECK(newer.told_count == 0);
    CHECK(r.conns.live_count() == 2);
    CHECK(r.sums_hold());
}

TEST_CASE("in a shortage every pool is asked until one can help") {
    rig r;
    idle_pool empty(r.conns, {});
    idle_pool filled(r.conns, {});
    pair ends = tcp_pair();
    user who;
    connection& conn = r.serve(std::move(ends.b), who);
    filled.park(conn, filled.key_of(server()), rest);

    CHECK(r.conns.relieve());
    CHECK(filled.idle_count() == 0);
    CHECK(r.ended(end_cause::idle_pressure) == 1);
    CHECK_FALSE(r.conns.relieve());
}

// --- contract

TEST_CASE("the contract of parking is checked") {
    auto broken = [](auto misuse) {
        return [misuse] {
            idle_rig r;
            pair ends = tcp_pair();
            user who;
            connection& conn = r.serve(std::move(ends.b), who);
            misuse(r, conn);
        };
    };

    CHECK(dies(broken([](idle_rig& r, connection& conn) {
                   r.pool.park(conn, r.key, {.messages_complete = false, .buffers_empty = true});
               }),
               "messages_complete"));
    CHECK(dies(broken([](idle_rig& r, connection& conn) {
                   r.pool.park(conn, r.key, {.messages_complete = true, .buffers_empty = false});
               }),
               "buffers_empty"));
    CHECK(dies(broken([](idle_rig& r, connection& conn) {
                   conn.shutdown_send();
                   r.pool.park(conn, r.key, rest);
               }),
               "send_ended"));
    CHECK(dies(broken([](idle_rig& r, connection& conn) {
                   r.pool.park(conn, r.key, rest);
                   conn.close(close_intent::silent, end_cause::done);
               }),
               "conn_flag::idle"));
    CHECK(dies(broken([](idle_rig& r, connection& conn) {
                   r.pool.park(conn, r.key, rest);
                   user thief;
                   conn.attach(user::table, &thief);
               }),
               "conn_flag::idle"));
    CHECK(dies(broken([](idle_rig& r, connection& conn) {
                   user thief;
                   static_cast<void>(r.pool.take_back(conn, user::table, &thief));
               }),
               "conn_flag::idle"));
}

} // namespace
