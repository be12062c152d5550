#pragma once
// gateway_rig: a gateway on a loop whose clock stands still; its clients and its servers are plain sockets of the
// test's, in the test's own thread.
//
// Nobody but the test makes anything happen: it says bytes, takes turns, looks at what came. What must come is waited for
// (`until`), what must not come is looked for after `settle()`. At the end every rig checks that no block is left and
// that the causes add up.
//
// WEIR_TRANSPORT=clients, servers or both: the gateway's connections of that side are over record_xprt, and the peers
// speak records. A case is the same then; one that cannot be says so: raw_only.

#include <cstdlib>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "proto/http1_gateway.hpp"
#include "support/record_xprt.hpp"
#include "support/rig.hpp"

namespace support {

using namespace std::string_literals;
using namespace std::string_view_literals;

// Small buffers, but several segments wide: less would wait for TCP's own timers.
inline constexpr int segment_bytes = 1000;
inline void narrow(int fd) {
    const int bytes = 16 * segment_bytes;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}
inline void small_segments(int fd) { setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment_bytes, sizeof segment_bytes); }

inline descriptor connect_small(std::uint16_t port) {
    descriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    small_segments(fd.get());
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    REQUIRE(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    set_blocking(fd.get(), blocking::no);
    return fd;
}

// Which of the gateway's sides are over records.
enum class side : std::uint8_t { clients, servers };
inline bool is_layered(side s) {
    static const std::string_view how = [] {
        const char* said = std::getenv("WEIR_TRANSPORT");
        return std::string_view{said ? said : "raw"};
    }();
    return how == "both" || how == (s == side::clients ? "clients" : "servers");
}
inline const xprt& transport_of(side s) { return is_layered(s) ? record_xprt : raw_xprt; }

// A case that is about something of the raw transport's, and of that side's only: it is not run over records there.
struct raw_only {
    constexpr raw_only(side s, const char* reason) : of(s), why(reason) {}
    side of;
    const char* why;
    void fill(doctest::detail::TestCase& test) const {
        if (is_layered(of)) test.m_skip = true;
    }
};

// The far end of one of the gateway's connections.
struct peer {
    descriptor fd;
    std::string got;           // received and not yet taken by the test
    ending end = ending::none; // how the gateway ended it

    peer() = default;
    explicit peer(descriptor socket, bool over_records = false) : fd(std::move(socket)), layered_(over_records) {
        const int on = 1; // small pieces go out at once, each on its own
        setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (layered_) say_raw("H"); // the socket may be dead already
    }

    bool open() const { return fd.get() >= 0; }
    void say(std::string_view bytes) {
        send_all(fd.get(), layered_ ? std::exchange(unsaid_, {}) + record(bytes) : std::string{bytes});
    }
    // What there is room for now; how much that was.
    std::size_t say_some(std::string_view bytes) {
        if (!layered_) return say_raw(bytes);
        if (!say_rest()) return 0;
        bytes = bytes.substr(0, 8 * 1024);
        unsaid_ = record(bytes);
        say_rest();
        return bytes.size();
    }
    // Reads what has come, at most `bytes_max`.
    peer& pull(std::size_t bytes_max = SIZE_MAX) {
        char chunk[16 * 1024];
        while (open() && end == ending::none && bytes_max > 0) {
            const ssize_t n = ::recv(fd.get(), chunk, std::min(sizeof chunk, bytes_max), MSG_DONTWAIT);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0 && errno == EAGAIN) break;
            if (n <= 0) end = n < 0 ? ending::reset : layered_ && !heard_end_ ? ending::cut : ending::fin;
            if (n <= 0) break;
            hear({chunk, static_cast<std::size_t>(n)});
            bytes_max -= static_cast<std::size_t>(n);
        }
        return *this;
    }
    bool ended() { return pull().end != ending::none; }
    // Over records: the gateway's transport has greeted. Raw: always.
    bool greeted() { return !layered_ || pull().greeted_; }
    void shut() {
        say_end();
        shut_write(fd.get());
    }
    // The socket may be dead already.
    void try_shut() {
        say_end();
        ::shutdown(fd.get(), SHUT_WR);
    }
    void close() {
        if (open()) say_end();
        fd.close();
    }
    // The end that anybody can bring about: a FIN, and nothing of the transport's in front of it.
    void cut_off() { fd.close(); }
    void reset() { support::reset(fd); }
    // A small window: the gateway soon cannot send.
    void narrow() { support::narrow(fd.get()); }

  private:
    std::size_t say_raw(std::string_view bytes) {
        const ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        return n > 0 ? static_cast<std::size_t>(n) : 0;
    }
    bool say_rest() {
        if (!unsaid_.empty()) unsaid_.erase(0, say_raw(unsaid_));
        return unsaid_.empty();
    }
    void say_end() {
        if (!layered_) return;
        unsaid_ += record_end;
        say_rest();
    }
    void hear(std::string_view bytes) {
        if (!layered_) {
            got += bytes;
            return;
        }
        CHECK_FALSE(heard_end_); // nothing follows an end
        wire_ += bytes;
        if (!greeted_) {
            CHECK(wire_[0] == 'H');
            wire_.erase(0, 1);
            greeted_ = true;
        }
        heard_end_ = unrecord(wire_, got);
    }

    bool layered_ = false, greeted_ = false, heard_end_ = false;
    std::string wire_;   // received, not decoded
    std::string unsaid_; // encoded, not sent
};

// What a failed CHECK prints of bytes that may be many.
inline std::string shown(std::string_view bytes) {
    if (bytes.size() <= 600) return std::string(bytes);
    const std::size_t hash = std::hash<std::string_view>{}(bytes);
    return std::string(bytes.substr(0, 200)) + "... " + std::to_string(bytes.size()) + " bytes, hash " + std::to_string(hash);
}

// An HTTP message without its framing, to compare what was framed in different ways.
struct message {
    std::string head; // with the empty line
    std::string body;
    bool is_chunked = false;
};

// Takes the first whole message off `bytes`. Knows only what the gateway writes. Nothing: it is not complete.
inline std::optional<message> take_message(std::string& bytes, bool is_bodiless = false) {
    const std::size_t head_end = bytes.find("\r\n\r\n");
    if (head_end == bytes.npos) return {};
    message m{.head = bytes.substr(0, head_end + 4), .body = {}};
    std::size_t at = m.head.size();
    const auto value_of = [&](const char* name) {
        const std::size_t found = m.head.find(name);
        return found == m.head.npos ? ""s : m.head.substr(found + std::string_view(name).size());
    };
    m.is_chunked = m.head.find("\r\nTransfer-Encoding: chunked\r\n") != m.head.npos;
    if (is_bodiless) {
    } else if (m.is_chunked) {
        for (std::size_t size = 1; size > 0;) {
            const std::size_t line_end = bytes.find("\r\n", at);
            if (line_end == bytes.npos) return {};
            size = std::stoul(bytes.substr(at, line_end - at), nullptr, 16);
            if (bytes.size() < line_end + 2 + size + 2) return {};
            m.body += bytes.substr(line_end + 2, size);
            at = line_end + 2 + size + 2;
        }
    } else if (const std::string length = value_of("\r\nContent-Length: "); !length.empty()) {
        const std::size_t size = std::stoul(length);
        if (bytes.size() - at < size) return {};
        m.body = bytes.substr(at, size);
        at += size;
    }
    bytes.erase(0, at);
    return m;
}

inline std::string get(std::string_view target = "/", std::string_view more = "") {
    return "GET " + std::string(target) + " HTTP/1.1\r\nHost: h\r\n" + std::string(more) + "\r\n";
}
inline std::string post(std::string_view target, std::string_view body) {
    return "POST " + std::string(target) + " HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n\r\n" + std::string(body);
}
inline std::string ok(std::string_view body = "", std::string_view more = "") {
    return "HTTP/1.1 200 OK\r\n" + std::string(more) + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
           std::string(body);
}
// "answer of our own": head and body of what the gateway itself answers.
inline std::string own_answer(int status, std::string_view reason, std::string_view body, std::string_view connection,
                              std::string_view more = "") {
    return "HTTP/1.1 " + std::to_string(status) + " " + std::string(reason) + "\r\n" + std::string(more) +
           "Content-Type: text/plain\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + std::string(connection) +
           "\r\n" + std::string(body);
}
inline std::string bad_gateway(std::string_view connection = "") {
    return own_answer(502, "Bad Gateway", "502 Bad Gateway\n", connection);
}
inline std::string gateway_timeout(std::string_view connection = "") {
    return own_answer(504, "Gateway Timeout", "504 Gateway Timeout\n", connection);
}
constexpr std::string_view closes = "Connection: close\r\n";

// Bytes that tell where they stood.
inline std::string pattern(std::size_t size, unsigned seed = 1) {
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < size; i++)
        bytes[i] = static_cast<char>('a' + (i / 7 + i * seed) % 26);
    return bytes;
}

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
    void release() {
        for (block* b : blocks)
            pool.free(*b);
        blocks.clear();
    }

    block_pool& pool;
    std::vector<block*> blocks;
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

enum class origin_state : std::uint8_t {
    listening,
    refusing,
    swallowing, // its backlog is full: whoever connects waits for ever
};

struct gateway_rig : rig {
    struct setup {
        std::vector<origin_state> origins{origin_state::listening};
        conntab_options tab{.connections_max = 64};
        const xprt* clients = &transport_of(side::clients); // their transport
        const xprt* servers = &transport_of(side::servers);
    };

    explicit gateway_rig(const http1_gateway_options& options = {}) : gateway_rig(options, setup{}) {}
    gateway_rig(const http1_gateway_options& options, const setup& how)
        : rig(how.tab), gateway(std::make_unique<http1_gateway>(conns, options)) {
        clients_layered = how.clients == &record_xprt;
        servers_layered = how.servers == &record_xprt;
        for (const origin_state state : how.origins) {
            origins.push_back(listen_tcp(blocking::no, state == origin_state::swallowing ? 0 : 128));
            const std::uint16_t port = origins.back().port;
            small_segments(origins.back().fd.get());
            if (state == origin_state::refusing) origins.back().fd.close();
            if (state == origin_state::swallowing) fillers.push_back(connect_tcp(port));
            gateway->add_upstream({.family = &tcp, .at = endpoint::ipv4(0x7f000001, port)}, *how.servers);
        }
        REQUIRE(gateway->listen({.family = &tcp, .at = endpoint::ipv4(0x7f000001, 0)}, {.transport = how.clients}).ok());
        gateway->on_trouble(
            [](void* at, std::string_view line) noexcept { static_cast<gateway_rig*>(at)->troubles.emplace_back(line); }, this);
    }
    ~gateway_rig() {
        choke::is_on = false;
        gateway.reset();
        CHECK(conns.blocks().used() == 0);
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

    // Until nothing happens any more.
    void settle() {
        for (int quiet = 0; quiet < 3;) {
            const bool ran = loop.turn(duration{0}) > 0 || loop.fds().has_runnable();
            quiet = ran ? 0 : quiet + 1;
            if (quiet) poll(nullptr, 0, 0);
        }
    }
    void pass(duration time) {
        clock.advance(time);
        settle();
    }

    // Exactly these bytes have come, and none behind them.
    void expect(peer& p, std::string_view bytes) {
        (void)until([&] { return p.pull().got.size() >= bytes.size() || p.end != ending::none; });
        settle();
        p.pull();
        CHECK(shown(p.got) == shown(bytes));
        p.got.clear();
    }
    void expect_end(peer& p, ending how) {
        (void)until([&] { return p.ended(); });
        CHECK(shown(p.got) == "");
        CHECK(p.end == how);
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
    // Says it a piece at a time; each is seen on its own.
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
        return gateway->active_count() == 0 && conns.blocks().used() == 0 && sums_hold();
    }

    // Least buffers on the gateway's side of every connection, so that little is on the way.
    void narrow_all() {
        for (connection* conn = conns.first(); conn; conn = conns.after(*conn))
            narrow(conn->fd());
    }

    bool clients_layered = false, servers_layered = false; // choked ones, say, are not
    std::vector<tcp_listener> origins;
    std::vector<descriptor> fillers;
    std::vector<std::string> troubles;
    std::unique_ptr<http1_gateway> gateway;
};

} // namespace support
