#pragma once
// gateway_rig: a gateway on a loop whose clock stands still; its clients and its servers are plain sockets of the
// test's, in the test's own thread.
//
// Nobody but the test makes anything happen: it says bytes, takes turns, looks at what came. What must come is waited
// for (`until`), what must not come is looked for after `settle()`. At the end every rig checks that no block is left
// and that the causes add up.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "proto/http1_gateway.hpp"
#include "support/http1_messages.hpp"
#include "support/peer.hpp"
#include "support/proxy_rig.hpp"
#include "support/record_xprt.hpp"
#include "support/rig.hpp"

namespace support {

// Blocks that nobody else may have.
struct held_blocks {
    explicit held_blocks(block_pool& from) : pool(from) {}
    held_blocks(const held_blocks&) = delete;
    held_blocks& operator=(const held_blocks&) = delete;
    ~held_blocks() { release(); }

    void all_but(std::size_t spare) {
        while (pool.capacity() - pool.used() > spare)
            blocks.push_back(pool.make());
    }
    void all_large_but(std::size_t spare) {
        while (pool.large_capacity() - pool.large_used() > spare)
            large_blocks.push_back(pool.make_large());
    }
    void release() {
        for (block* b : blocks)
            pool.free(*b);
        blocks.clear();
        for (large_block* b : large_blocks)
            pool.free(*b);
        large_blocks.clear();
    }

    block_pool& pool;
    std::vector<block*> blocks;
    std::vector<large_block*> large_blocks;
};

// The raw transport, until it is told that its sockets have no room.
struct choke {
    static inline bool is_on = false;
    static inline std::size_t room = 0; // while it is on

    static io_result recv(connection& conn, void* to, std::size_t bytes) noexcept { return raw_xprt.recv(conn, to, bytes); }
    static io_result send(connection& conn, const iovec* parts, std::size_t parts_count, bool more) noexcept {
        if (!is_on) return raw_xprt.send(conn, parts, parts_count, more);
        iovec first = parts[0];
        first.iov_len = std::min(first.iov_len, room);
        room -= first.iov_len;
        if (first.iov_len > 0) raw_xprt.send(conn, &first, 1, more);
        (void)parts_count;
        fdtab::cant_send(conn.slot());
        return {first.iov_len > 0 ? io::done : io::again, first.iov_len};
    }
};
inline constexpr xprt choked_xprt{
    .name = "choke", .recv = choke::recv, .send = choke::send, .drain = nullptr, .handshake = nullptr, .close = nullptr};

struct gateway_rig : proxy_rig {
    struct setup {
        std::vector<origin_state> origins{origin_state::listening};
        conntab_options tab{.connections_max = 64};
        const xprt* clients = &transport_of(side::clients); // their transport
        const xprt* servers = &transport_of(side::servers);
    };

    explicit gateway_rig(const http1_gateway_options& options = {}) : gateway_rig(options, setup{}) {}
    gateway_rig(const http1_gateway_options& options, const setup& how)
        : proxy_rig(how.tab), gateway(std::make_unique<http1_gateway>(conns, options)) {
        clients_layered = how.clients == &record_xprt;
        servers_layered = how.servers == &record_xprt;
        for (const origin_state state : how.origins) {
            const std::uint16_t port = add_origin(state);
            if (state != origin_state::refusing) small_segments(origins.back().fd.get());
            gateway->add_upstream({.family = &tcp, .at = endpoint::ipv4(0x7f000001, port)}, *how.servers);
        }
        REQUIRE(gateway->listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {.transport = how.clients}).ok());
        gateway->on_trouble(
            [](void* at, std::string_view line) noexcept { static_cast<gateway_rig*>(at)->note_trouble(line); }, this);
    }
    // The client's address changes from run to run, so that it is kept apart from the rest of its line.
    void note_trouble(std::string_view line) {
        if (line.ends_with(" were not written")) return troubles.emplace_back(line), void();
        const std::size_t from = line.find(" client "), to = line.find(" upstream ");
        CHECK(from < to);
        CHECK(to != line.npos);
        trouble_clients.emplace_back(line.substr(from + 8, to - from - 8));
        troubles.push_back(std::string(line.substr(0, from)) + std::string(line.substr(to)));
    }

    ~gateway_rig() {
        choke::is_on = false;
        gateway.reset();
        CHECK(conns.blocks().used() == 0);
        CHECK(conns.blocks().large_used() == 0);
        CHECK(sums_hold());
    }

    // A new client. The gateway has accepted it.
    peer client() {
        const std::uint64_t before = conns.opened_count(conn_origin::accepted);
        peer p{connect_small(gateway->local().port()), clients_layered};
        REQUIRE(until([&] { return conns.opened_count(conn_origin::accepted) > before; }));
        REQUIRE(until([&] { return p.greeted(); }));
        return p;
    }
    // The gateway has dialed: the server's end of that.
    peer server(std::size_t origin = 0) {
        REQUIRE(until([&] { return ready(origins[origin].fd.get(), POLLIN); }));
        peer p{accept_tcp(origins[origin]), servers_layered};
        turn();
        REQUIRE(until([&] { return p.greeted(); }));
        return p;
    }
    bool has_dialed(std::size_t origin = 0) {
        settle();
        return ready(origins[origin].fd.get(), POLLIN);
    }

    // Until nothing happens any more: what is said over loopback has arrived when send() comes back, unless the kernel is
    // pressed for time. What it is late with `until` waits for.
    void settle() {
        for (int quiet = 0; quiet < 3;) {
            const bool ran = loop.turn(duration{0}) > 0 || loop.fds().has_runnable();
            quiet = ran ? 0 : quiet + 1;
            if (quiet) poll(nullptr, 0, 0);
        }
    }
    void pass(duration time) {
        pass_in_steps(time, [this] { settle(); });
    }

    // Exactly these bytes have come, and none behind them.
    void expect(peer& p, std::string_view bytes) {
        (void)until([&] { return p.pull().got.size() >= bytes.size() || p.end != ending::none; });
        settle();
        p.pull();
        CHECK(shown(p.got) == shown(bytes));
        p.got.clear();
    }
    // Nothing has come, and the connection is open.
    void expect_silence(peer& p) {
        settle();
        p.pull();
        CHECK(shown(p.got) == "");
        CHECK(p.end == ending::none);
    }
    message expect_message(peer& p, bool is_bodiless = false) {
        std::optional<message> m;
        REQUIRE(until([&] { return (m = take_message(p.pull().got, is_bodiless)).has_value() || p.end != ending::none; }));
        REQUIRE(m.has_value());
        return *m;
    }
    // Says it a piece at a time; each is seen on its own, if the kernel is quick.
    void say_in_pieces(peer& p, std::string_view bytes, std::size_t first, std::size_t piece = SIZE_MAX) {
        for (std::size_t size = first; !bytes.empty(); size = piece) {
            const std::string_view part = bytes.substr(0, size);
            bytes.remove_prefix(part.size());
            if (part.empty()) continue;
            p.say(part);
            settle();
        }
    }
    // Says more than the sockets hold, while the gateway works. False: the gateway no longer takes it.
    [[nodiscard]] bool say_all(peer& p, std::string_view bytes) {
        return until([&] {
            bytes.remove_prefix(p.say_some(bytes));
            return bytes.empty();
        });
    }
    // One request, answered; the connections stay. Returns what the server got.
    void exchange(peer& c, peer& s, std::string_view body = "ok") {
        c.say(get());
        expect(s, get());
        s.say(ok(body));
        expect(c, ok(body));
    }

    // The gateway's connection that is served by the table of that name.
    connection& conn_of(std::string_view table) {
        connection* conn = conns.first();
        while (conn && conn->cb().name != table)
            conn = conns.after(*conn);
        REQUIRE(conn != nullptr);
        return *conn;
    }

    // From now on the clients' sockets have no room; or again have.
    void choke_clients() {
        choke::is_on = true;
        choke::room = 0;
    }
    void let_clients_take(std::size_t bytes = SIZE_MAX) {
        choke::is_on = bytes < SIZE_MAX;
        choke::room = bytes;
        for (connection* conn = conns.first(); conn; conn = conns.after(*conn))
            if (&conn->transport() == &choked_xprt) loop.fds().may_send(conn->slot());
        settle();
    }

    const http1_counters& counters() const { return gateway->counters(); }
    std::uint32_t idle_count() const { return gateway->idle().idle_count(); }
    // An origin that refused listens from now on, where it would have before.
    void listen_again(std::size_t origin) {
        const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        origins[origin].fd = descriptor(fd);
        sockaddr_in at{};
        at.sin_family = AF_INET;
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        at.sin_port = htons(origins[origin].port);
        const int on = 1;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
        REQUIRE(::listen(fd, 8) == 0);
    }
    // Nothing of a request is left behind.
    [[nodiscard]] bool at_rest() {
        settle();
        return gateway->active_count() == 0 && conns.blocks().used() + conns.blocks().large_used() == 0 && sums_hold();
    }

    // Least buffers on the gateway's side of every connection, so that little is on the way.
    void narrow_all() {
        for (connection* conn = conns.first(); conn; conn = conns.after(*conn))
            narrow(conn->fd());
    }

    bool clients_layered = false, servers_layered = false; // choked ones, say, are not
    std::vector<std::string> trouble_clients; // of each line of `troubles`
    std::unique_ptr<http1_gateway> gateway;
};

// Clients whose sockets have no room when the test says so.
inline const gateway_rig::setup choking{.clients = &choked_xprt};

// Where that server listens.
inline std::uint16_t port_of(gateway_rig& rig, std::size_t i) { return rig.origins[i].port; }

// Does something in the middle of a turn: after the batch was taken from the kernel, before what is said to the gateway
// after `ready()` is looked at. So the gateway acts on what was true a moment ago.
struct meanwhile {
    explicit meanwhile(gateway_rig& in) : rig(in) {
        pair ends = stream_pair();
        rig.serve(std::move(ends.b), who, plain_family);
        far = std::move(ends.a);
        rig.settle();
    }
    ~meanwhile() {
        far.close();
        who.on_recv = [](connection& conn) noexcept { return conn.close(close_intent::silent, end_cause::done); };
        for (connection* conn = rig.conns.first(); conn; conn = rig.conns.after(*conn))
            if (conn->owner() == &who) {
                conn->close(close_intent::silent, end_cause::done);
                break;
            }
    }
    void next(std::function<void()> act) {
        who.on_recv = [this, act = std::move(act)](connection& conn) {
            act();
            done_count++;
            return who.read_all(conn);
        };
        for (connection* conn = rig.conns.first(); conn; conn = rig.conns.after(*conn))
            if (conn->owner() == &who) conn->want_recv();
        send_all(far.get(), "x");
    }

    gateway_rig& rig;
    user who;
    descriptor far;
    int done_count = 0;
};

// A client and a server that have talked once: the server's connection is idle, the client waits.
struct acquainted : gateway_rig {
    explicit acquainted(const http1_gateway_options& options = {}, std::string_view more = "") : gateway_rig(options) {
        c = client();
        c.say(get("/first"));
        s = server();
        expect(s, get("/first"));
        s.say(ok("first", more));
        expect(c, ok("first"));
        CHECK(idle_count() == 1);
    }
    peer c, s;
};

} // namespace support
