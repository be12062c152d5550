#pragma once
// http1_gateway: an HTTP/1.1 keep-alive reverse proxy on one loop.
//
//     listener ──> waiting client ──(first byte)──> exchange ──> server connection <──> idle_pool
//                   (no exchange,  <──(response      (http1_exchange.hpp)
//                    no block)          complete)
//
// It puts the parts together and owns them: listeners, clients that wait, exchanges, upstreams, the idle pool, tunnels.
// A waiting client costs its connection and its slot, nothing else.
//
// Owner: the user; its conntab outlives it. Thread: the loop's. Allocation: when made.

#include <cstdint>
#include <span>

#include "core/drain.hpp"
#include "core/listener.hpp"
#include "proto/counter_table.hpp"
#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

struct http1_gateway_options {
    // head.head_bytes_max at most 65,535: EXPECTed. http1_exchange::needs_large_blocks(http.head): above 15,871, say.
    http1_options http{};
    idle_options idle{};  // idle_max 0: no server connection is kept, and each request tells its server so
    balance how = balance::round_robin;
    // Each above 0, EXPECTed. Tunnels count as clients.
    std::uint32_t clients_max = 1024;            // at the limit nothing is accepted until one goes
    std::uint32_t tunnels_max = 256;             // at the limit an upgrade is a 503
    duration tunnel_idle_timeout = seconds{300}; // relay.hpp: without a byte on the wire either way
    duration fin_timeout = seconds{30};          // of a tunnel whose server has ended its side; the same
    // TCP_USER_TIMEOUT of both ends of a tunnel, socket.hpp. Raised to tunnel_idle_timeout.
    duration tunnel_user_timeout = user_timeout_default;
};

class http1_gateway {
  public:
    // `conns` has room for two connections per client, and is used by nobody else. For heads above 15,871 bytes, or of
    // more than a hundred fields, it has large blocks as well (conntab_options::large_blocks_max): EXPECTed by listen().
    // A request with a large head holds two at a time, and so does its response.
    http1_gateway(conntab& conns, const http1_gateway_options& options) noexcept;
    http1_gateway(const http1_gateway&) = delete;
    http1_gateway& operator=(const http1_gateway&) = delete;
    ~http1_gateway();

    // Before the first request; at least one, at most upstream_set::capacity. The clients' transport: listener_options.
    void add_upstream(const address& where, const xprt& transport = raw_xprt) noexcept;

    // Once each. Errors as listener::open(); ENOMEM: there was no room for what the options ask for. A user_timeout of
    // the clients is raised to write_timeout.
    result<void> listen(const address& at, const listener_options& options) noexcept;
    result<void> listen(unique_fd inherited, const ctrl& family, const listener_options& options) noexcept;
    // GET /counters answers with JSON: this gateway's counters, or what `writer` writes to `room` (2 KB and more) and
    // whose size it returns; 0: it does not fit. Another path is a 404, another method a 405.
    using counters_writer = std::size_t (*)(void* owner, std::span<char> room) noexcept;
    result<void> listen_admin(const address& at, counters_writer writer = nullptr, void* owner = nullptr) noexcept;
    result<void> listen_admin(unique_fd inherited, const ctrl& family, counters_writer writer = nullptr,
                              void* owner = nullptr) noexcept;

    // Where lines for people go; null: nowhere. `owner` is handed to both.
    using line_sink = void (*)(void* owner, std::string_view line) noexcept;
    // A 502, 503, 504, an answer that broke off, or a server that was passed over; for which client; and why.
    void on_trouble(line_sink sink, void* owner) noexcept;
    // Each request once, when its answer is sent, when it is cut off, or when its tunnel begins: CLIENT "METHOD TARGET"
    // STATUS N bytes N us upstream SERVER [reused] [repeated] [cut off]. STATUS is 0 where no answer had begun. The
    // client is told as connection::peer() knows it, also one that has reset; "-": it does not. In the quotes, what is not
    // printable ASCII, '"' and '\' are \xHH.
    void on_access(line_sink sink, void* owner) noexcept;

    // Stops listening, lets what runs finish, then calls `done` once; after `limit` whatever still runs is closed.
    // Clients that wait are closed at once; when it hands over they have until `limit` to ask once more, because a
    // close may cross the request that they are just sending. Said again (`end`), it only closes those.
    using drained = void (*)(void* owner) noexcept;
    void drain(drain_kind how, duration limit, drained done, void* owner) noexcept;
    // Requests and tunnels that a drain cut off at its limit. Valid from `done` on.
    std::size_t cut_count() const noexcept { return cut_count_; }

    endpoint local() const noexcept { return door_.port.local(); }
    listener& port() noexcept { return door_.port; }
    const listener& port() const noexcept { return door_.port; }
    listener& admin_port() noexcept { return admin_door_.port; }
    const listener& admin_port() const noexcept { return admin_door_.port; }
    const http1_counters& counters() const noexcept { return exchanges_.counters; }
    const idle_pool& idle() const noexcept { return idle_; }
    std::uint32_t clients_count() const noexcept { return clients_count_; }
    std::size_t active_count() const noexcept { return exchanges_.active_count(); }

    // Any thread.
    void add_counters(counter_table& to) const noexcept;

  private:
    struct door {
        door(http1_gateway& g, const http1_applet* a) noexcept : home(g), port(g.conns_), applet(a) {}
        http1_gateway& home;
        listener port;
        const http1_applet* applet; // null: the upstreams
    };

    bool has_memory() const noexcept;
    bool has_blocks_for_heads() const noexcept;
    listener_options for_clients(listener_options options) const noexcept;
    static const data_cb waiting_cb;
    static verdict waiting_recv(connection& client) noexcept;
    static verdict waiting_wake(connection& client) noexcept;
    static void waiting_fired(timer& t, time_point now) noexcept;
    static void accepted(void* at, connection& client, const endpoint& peer) noexcept;
    static void client_waits(void* self, connection& client, const http1_applet* applet, http1_wait how) noexcept;
    static void client_gone(void* self) noexcept;
    static void tunnel_ended(void* self, void* to) noexcept;
    static void trouble(void* self, std::string_view line) noexcept;
    static void access(void* self, std::string_view line) noexcept;
    static http1_answer answer_admin(void* self, const http1_head& request, std::span<char> room) noexcept;
    static void drain_over(void* self) noexcept;
    void await_request(connection& client) noexcept;
    void close_waiting() noexcept;
    void abort_all() noexcept;

    conntab& conns_;
    http1_gateway_options options_;
    idle_pool idle_;
    relay_pool tunnels_;
    upstream_set upstreams_;
    http1_exchanges exchanges_;
    http1_applet admin_;
    door door_, admin_door_;
    shared_count<std::uint32_t> clients_count_;
    counter clients_total_;
    line_sink trouble_ = nullptr, access_ = nullptr;
    void* trouble_owner_ = nullptr;
    void* access_owner_ = nullptr;
    counters_writer counters_ = nullptr;
    void* counters_owner_ = nullptr;
    drained drained_ = nullptr;
    void* drained_owner_ = nullptr;
    std::size_t cut_count_ = 0;
    drain_watch drain_;
};

} // namespace weir::inline WEIR_KERNEL
