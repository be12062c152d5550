// idle_harness: a small store-and-forward proxy of its own, to try the idle pool, the dialer and the listener.
//
// A desk serves one client: it reads a request, takes an idle connection to some server or dials one, reads the whole
// answer, parks the server connection and passes the answer on. A request that a reused connection failed is asked once
// more on a fresh one, and after that answered with "could not be had".

#include "core/dialer.hpp"
#include "core/idle.hpp"
#include "core/listener.hpp"
#include "core/still_there.hpp"
#include "proto/tcp.hpp"
#include "proto/unix.hpp"
#include "sim/peers.hpp"

namespace simtest {

namespace {

constexpr int shops = 3;
// Where the servers are: TCP, or unix.
endpoint shop(const ctrl& family, std::uint32_t i) {
    if (&family == &tcp) return endpoint::ipv4(0x0a000101 + i, 80);
    return endpoint::unix_path(i == 0 ? "@a" : i == 1 ? "@b" : "@c").value();
}
const endpoint door = endpoint::ipv4(0x0a000001, 8080);

constexpr duration client_patience = seconds{10};
constexpr duration answer_patience = seconds{4};

class office;

struct desk {
    office& home;
    connection* client;
    connection* server = nullptr;
    std::uint32_t shop_at = 0;
    bool fresh = false; // the server connection was dialed for this request
    bool repeated = false;
    std::uint32_t asked = 0; // bytes of the request that the server was sent
    std::uint32_t got = 0;   // bytes in `bytes`: of the request, then of the answer
    std::uint32_t told = 0;  // bytes of the answer that the client was sent
    frame request{};
    char bytes[sizeof(frame) + payload_max]{};
    list_hook hook;

    desk(office& o, connection& c) noexcept : home(o), client(&c) {}
};

class office {
  public:
    office(world& w, const ctrl& servers)
        : world_(w), servers_(servers), idle_(*w.conns, draw(w.k.chance)), listener_(*w.conns), desks_(64),
          rests_until_(w.loop->fds().fd_max()) {}
    ~office() {
        world_.watch_accepts(nullptr, 0);
        while (desk* d = live_.front())
            leave(*d, close_intent::abort, end_cause::shutdown);
    }

    void open();
    idle_pool& idle() noexcept { return idle_; }
    // Nothing is wrong any more: whoever is slow now is so by the size of its buffers and the length of its wire.
    void be_patient() noexcept { is_patient_ = true; }
    std::size_t desks_count() const noexcept { return desks_.used(); }

  private:
    static idle_options draw(dice& chance);
    static void accepted(void* self, connection& conn, const endpoint& peer) noexcept;

    static const data_cb client_cb, server_cb;
    static verdict hear_client(connection& conn) noexcept;
    static verdict tell_client(connection& conn) noexcept;
    static verdict watch_client(connection& conn) noexcept;
    static verdict hear_server(connection& conn) noexcept;
    static verdict tell_server(connection& conn) noexcept;
    static verdict watch_server(connection& conn) noexcept;
    static void client_timed_out(timer& t, time_point now) noexcept;
    static void server_timed_out(timer& t, time_point now) noexcept;

    void find_server(desk& d, bool may_reuse) noexcept;
    void server_failed(desk& d, close_intent intent, end_cause cause) noexcept;
    void server_done(desk& d) noexcept;
    void answer(desk& d) noexcept;
    void next_request(desk& d) noexcept;
    void leave(desk& d, close_intent intent, end_cause cause) noexcept;
    // What a callback answers that has closed its connection. The dispatcher knows better than to believe `keep`.
    verdict closed() noexcept { return world_.k.chance.coin() ? verdict::gone : verdict::keep; }
    void check_taken(connection& conn) noexcept;
    verdict park(connection& server, idle_pool::key key) noexcept;
    event_loop& loop() noexcept { return *world_.loop; }
    duration patience(duration usual) const noexcept { return is_patient_ ? seconds{50} : usual; }

    world& world_;
    bool is_patient_ = false;
    const ctrl& servers_; // their family
    idle_pool idle_;
    listener listener_;
    fixed_pool<desk> desks_;
    list<&desk::hook> live_;
    std::vector<time_point> rests_until_; // by descriptor, of the connection that was parked last
};

const data_cb office::client_cb{.name = "client", .recv = hear_client, .send = tell_client, .wake = watch_client};
const data_cb office::server_cb{.name = "server", .recv = hear_server, .send = tell_server, .wake = watch_server};

idle_options office::draw(dice& chance) {
    idle_options o;
    o.idle_max = chance.between(1, 16);
    o.idle_per_key_max = chance.coin() ? 0 : chance.between(1, 8);
    o.age_max = chance.between(duration{milliseconds{50}}, duration{seconds{3}});
    o.lifetime_max = chance.coin() ? duration{} : chance.between(duration{milliseconds{100}}, duration{seconds{5}});
    o.uses_max = chance.coin() ? 0 : chance.between(1, 10);
    o.on_bytes = unsolicited::kill;
    o.probe = chance.coin();
    o.seed = chance.next();
    return o;
}

void office::open() {
    const listener_options how{.socket = {.backlog_count = static_cast<int>(world_.k.chance.magnitude(1, 64))},
                               .accept_budget = world_.k.chance.between(1, 16)};
    if (world_.k.chance.below(8) == 0) world_.k.faults.resume();
    while (!listener_.open(tcp, door, how, accepted, this)) {
        if (listener_.is_open()) world_.k.violate("I1", "a listener that could not be opened is open");
        if (world_.k.chance.below(3) == 0) world_.k.faults.pause();
    }
    world_.k.faults.pause();
    world_.watch_accepts(&listener_, how.accept_budget);
}

void office::accepted(void* self, connection& conn, const endpoint&) noexcept {
    office& home = *static_cast<office*>(self);
    desk* d = home.desks_.make(home, conn);
    if (!d) {
        conn.close(close_intent::silent, end_cause::no_room);
        return;
    }
    home.live_.push_back(*d);
    conn.attach(client_cb, d);
    home.next_request(*d);
}

void office::next_request(desk& d) noexcept {
    d.got = d.told = d.asked = 0;
    d.repeated = false;
    d.client->arm(loop().now() + patience(client_patience), client_timed_out);
    d.client->want_recv();
}

// ---- the client's side

verdict office::hear_client(connection& conn) noexcept {
    desk& d = conn.owner_as<desk>();
    office& home = d.home;
    const still_there there{conn};
    const io_result r = conn.recv(reinterpret_cast<char*>(&d.request) + d.got, sizeof(frame) - d.got);
    switch (r.end) {
    case io::again: return verdict::keep;
    case io::closed: return home.leave(d, close_intent::after_fin, end_cause::peer_closed), home.closed();
    case io::failed: return home.leave(d, close_intent::silent, end_cause::peer_failed), home.closed();
    case io::done: break;
    }
    d.got += static_cast<std::uint32_t>(r.bytes);
    if (d.got < sizeof(frame)) return verdict::keep;
    if (d.request.magic != frame::request_magic || d.request.bytes > payload_max) {
        home.leave(d, close_intent::graceful, end_cause::protocol);
        return home.closed();
    }
    conn.stop_recv();
    d.got = 0;
    d.shop_at = home.world_.k.chance.below(shops);
    home.find_server(d, true);
    return there.answer();
}

void office::answer(desk& d) noexcept {
    d.told = 0;
    d.client->want_send();
}

verdict office::tell_client(connection& conn) noexcept {
    desk& d = conn.owner_as<desk>();
    office& home = d.home;
    const io_result r = conn.send({d.bytes + d.told, d.got - d.told});
    if (r.end == io::failed) {
        home.leave(d, close_intent::silent, end_cause::peer_failed);
        return home.closed();
    }
    d.told += static_cast<std::uint32_t>(r.bytes);
    if (d.told < d.got) return verdict::keep;
    conn.stop_send();
    home.next_request(d);
    return verdict::keep;
}

verdict office::watch_client(connection& conn) noexcept {
    desk& d = conn.owner_as<desk>();
    office& home = d.home;
    if (!conn.is(conn_flag::failed) && !conn.slot().is(fd_state::err)) return verdict::keep;
    home.leave(d, close_intent::silent, end_cause::peer_failed);
    return home.closed();
}

void office::client_timed_out(timer& t, time_point) noexcept {
    connection& conn = connection::of(t);
    desk& d = conn.owner_as<desk>();
    office& home = d.home;
    home.world_.check->before_reaping(conn.slot());
    home.leave(d, close_intent::graceful, end_cause::timed_out);
}

void office::leave(desk& d, close_intent intent, end_cause cause) noexcept {
    connection& client = *d.client;
    if (connection* server = std::exchange(d.server, nullptr)) server->close(close_intent::silent, end_cause::done);
    d.hook.unlink();
    desks_.free(d);
    client.close(intent, cause);
}

// ---- the server's side

void office::find_server(desk& d, bool may_reuse) noexcept {
    const endpoint to = shop(servers_, d.shop_at);
    const idle_pool::key key = idle_.key_of({.remote = to, .family = &servers_});
    d.got = d.asked = 0;
    d.fresh = false;
    if (may_reuse && (d.server = idle_.take(key, server_cb, &d)) != nullptr) {
        saw(mark::reused);
        check_taken(*d.server);
        d.server->count_use();
        d.server->arm(loop().now() + patience(answer_patience), server_timed_out);
        d.server->want_send();
        return;
    }
    d.fresh = true;
    const duration patience = world_.k.chance.coin() ? duration{seconds{1}} : duration{seconds{3}};
    auto dialed = dial(*world_.conns, servers_, to, {.timeout = patience}, server_cb, &d);
    if (dialed) d.server = dialed.value();
    else server_failed(d, close_intent::silent, end_cause::connect_failed);
}

// I16: what epoll has told of an idle connection was looked at before it is given to anybody.
void office::check_taken(connection& conn) noexcept {
    auto& socket = static_cast<stream&>(*world_.k.at(conn.fd()));
    const bool told = !socket.watched_as(conn.fd())->pending();
    if (told && (!socket.in.empty() || socket.recv_shut))
        world_.k.violate("I16", "taken with something unread, or ended");
    if (loop().now() < rests_until_[static_cast<std::size_t>(conn.fd())])
        world_.k.violate("I16", "taken while it rests");
}

// Most connections are parked without a rest, as after an answer behind which nothing can come.
verdict office::park(connection& server, idle_pool::key key) noexcept {
    dice& chance = world_.k.chance;
    const bool rests = chance.below(3) == 0;
    const duration rest = rests ? chance.between(duration{milliseconds{1}}, duration{milliseconds{40}}) : duration{};
    rests_until_[static_cast<std::size_t>(server.fd())] = loop().now() + rest;
    return idle_.park(server, key, {.messages_complete = true, .buffers_empty = true}, {.rest = rest});
}

// Closes the server's connection, if any, and asks once more or gives up.
void office::server_failed(desk& d, close_intent intent, end_cause cause) noexcept {
    const connection* closed = d.server;
    if (connection* server = std::exchange(d.server, nullptr)) server->close(intent, cause);
    if (!d.fresh && !d.repeated) {
        saw(mark::repeated);
        d.repeated = true;
        find_server(d, false);
        if (closed && d.server == closed) world_.k.violate("I3", "freed before the end of its turn");
        return;
    }
    const frame sorry{.id = d.request.id, .bytes = failed_bytes, .magic = frame::answer_magic};
    __builtin_memcpy(d.bytes, &sorry, sizeof sorry);
    d.got = sizeof sorry;
    answer(d);
}

verdict office::watch_server(connection& conn) noexcept {
    desk& d = conn.owner_as<desk>();
    office& home = d.home;
    if (conn.is(conn_flag::failed) || conn.slot().is(fd_state::err)) {
        home.server_failed(d, close_intent::silent, conn.failure());
        return home.closed();
    }
    if (conn.is(conn_flag::connected) && d.fresh && d.asked == 0 && !conn.slot().is(fd_state::send_active)) {
        conn.count_use();
        conn.arm(home.loop().now() + home.patience(answer_patience), server_timed_out);
        conn.want_send();
        conn.want_recv();
    }
    return verdict::keep;
}

verdict office::tell_server(connection& conn) noexcept {
    desk& d = conn.owner_as<desk>();
    office& home = d.home;
    const char* from = reinterpret_cast<const char*>(&d.request);
    const io_result r = conn.send({from + d.asked, sizeof(frame) - d.asked});
    if (r.end == io::failed) {
        home.server_failed(d, close_intent::silent, conn.failure());
        return home.closed();
    }
    d.asked += static_cast<std::uint32_t>(r.bytes);
    if (d.asked == sizeof(frame)) conn.stop_send();
    return verdict::keep;
}

verdict office::hear_server(connection& conn) noexcept {
    desk& d = conn.owner_as<desk>();
    office& home = d.home;
    frame f{.id = 0, .bytes = 0, .magic = 0};
    const bool has_head = d.got >= sizeof f;
    if (has_head) __builtin_memcpy(&f, d.bytes, sizeof f);
    const std::uint32_t whole = static_cast<std::uint32_t>(sizeof f) + (has_head ? f.bytes : 0);
    const io_result r = conn.recv(d.bytes + d.got, whole - d.got);
    if (r.end == io::again) return verdict::keep;
    if (r.end != io::done) {
        home.server_failed(d, close_intent::silent, conn.failure());
        return home.closed();
    }
    d.got += static_cast<std::uint32_t>(r.bytes);
    if (d.got < sizeof f) return verdict::keep;
    __builtin_memcpy(&f, d.bytes, sizeof f);
    const bool fits = f.magic == frame::answer_magic && f.id == d.request.id && f.bytes == d.request.bytes;
    if (!fits || d.asked < sizeof(frame)) {
        home.server_failed(d, close_intent::silent, end_cause::protocol);
        return home.closed();
    }
    if (d.got < sizeof f + f.bytes) return verdict::keep;
    const still_there there{conn};
    home.server_done(d);
    return there.answer();
}

void office::server_done(desk& d) noexcept {
    connection& server = *std::exchange(d.server, nullptr);
    const idle_pool::key key = idle_.key_of({.remote = shop(servers_, d.shop_at), .family = &servers_});
    server.disarm();
    if (world_.k.chance.coin()) server.stop_recv(); // whatever was wanted, the pool watches
    answer(d);
    if (park(server, key) == verdict::keep && world_.k.chance.below(16) == 0)
        static_cast<void>(idle_.park(server, key, {.messages_complete = true, .buffers_empty = true})); // twice is once
    if (world_.k.chance.below(8) != 0) return;
    connection* again = idle_.take(key, server_cb, nullptr);
    if (!again) return;
    check_taken(*again);
    static_cast<void>(park(*again, key));
}

void office::server_timed_out(timer& t, time_point) noexcept {
    connection& conn = connection::of(t);
    desk& d = conn.owner_as<desk>();
    office& home = d.home;
    home.world_.check->before_reaping(conn.slot());
    d.fresh = true; // slow is no reason to ask again
    home.server_failed(d, close_intent::silent, end_cause::timed_out);
}

// ---- the run

// Ends that healthy peers give no reason for.
std::uint64_t failed_count(const conntab& conns) {
    std::uint64_t sum = 0;
    for (end_cause cause : {end_cause::timed_out, end_cause::peer_failed, end_cause::protocol, end_cause::no_room})
        sum += conns.ended_count(cause);
    return sum;
}

std::uint64_t run(std::uint64_t seed) {
    world w{seed};
    town people{w.k, town::between::judges};
    const ctrl& servers = w.k.chance.below(3) == 0 ? unix_stream : tcp;
    for (std::uint32_t i = 0; i < shops; i++)
        people.open_shop(shop(servers, i));
    std::optional<office> o;
    o.emplace(w, servers);
    o->open();
    w.watch_pairs(nullptr);

    go_through_trouble(w, people, door, 24);
    // Whatever is stuck in trouble that is past may take as long as its deadlines.
    // The latest visitors come in: two seconds of them, those whose SYN was dropped after 1 s and 2 s more.
    w.turn_until(w.k.time.now + seconds{9});
    // A client with a window of one byte may have several requests left, each within its deadline.
    w.require_by(w.k.time.now + seconds{90}, "I8", "a client is served beyond every deadline",
                 [&] { return o->desks_count() == 0 && w.conns->live_count() == o->idle().idle_count(); });
    w.check_sums();
    const std::uint64_t failures = failed_count(*w.conns);
    o->be_patient();
    serve_healthy(w, people, door, 3, milliseconds{300});
    if (failed_count(*w.conns) != failures) w.k.violate("I9", "a connection between healthy ends was closed as failed");
    w.require_by(w.k.time.now + seconds{5}, "I8", "an idle connection outlived its age",
                 [&] { return w.conns->live_count() == 0; });
    if (o->idle().idle_count() != 0) w.k.violate("I8", "the pool counts connections that are gone");

    w.k.note("teardown");
    o.reset();
    w.close_conns();
    w.tear_down();
    return w.k.log.hash();
}

} // namespace

const harness idle_harness{.name = "idle", .run = run};

} // namespace simtest
