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

#include "proto/client_gate.hpp"
#include "proto/counter_table.hpp"
#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

struct http1_gateway_options {
    // head.head_bytes_max at most 65,535: EXPECTed. http1_exchange::needs_large_blocks(http.head): above 15,871, say.
    http1_options http{};
    idle_options idle{};  // idle_max 0: no server connection is kept, and each request tells its server so
    balance how = balance::round_robin;
    // Each above 0, EXPECTed. Tunnels count as clients; lingering connections and those of the admin page do not.
    std::uint32_t clients_max = 1024; // at the limit the client that waits for the longest makes room: client_gate.hpp
    client_places* places = nullptr;  // the limit over several loops; at most clients_max, EXPECTed
    std::uint32_t tunnels_max = 256;  // at the limit an upgrade is a 503
    duration tunnel_idle_timeout = seconds{300}; // relay.hpp: without a byte on the wire either way
    duration fin_timeout = seconds{30};          // of a tunnel whose server has ended its side; the same
    // TCP_USER_TIMEOUT of both ends of a tunnel, socket.hpp. Raised to tunnel_idle_timeout.
    duration tunnel_user_timeout = user_timeout_default;
};

class http1_gateway {
  public:
    // Clients of the admin page at once, beyond clients_max. At that limit the one that waits for the longest makes room.
    static constexpr std::uint32_t admin_clients_max = 16;

    // What the conntab of a gateway needs, so that neither idle server connections nor the admin page ever keep a client
    // out: connections_max of conntab_options. Lingering connections make room where there is no other.
    static constexpr std::uint32_t connections_needed(const http1_gateway_options& options) noexcept {
        return 2 * options.clients_max + options.idle.idle_max + admin_clients_max;
    }

    // And blocks_max: those that requests can hold at once, so that no request is refused for want of one. The request's
    // bytes that wait for the server, those that came too early, the head of the response, its fields if they are many,
    // and what waits for the client: one each.
    static constexpr std::uint32_t blocks_needed(const http1_gateway_options& options) noexcept {
        return 5 * (options.clients_max + admin_clients_max);
    }

    // `conns` has room for connections_needed(), or for fewer clients. It is used by nobody else. For heads above 15,871
    // bytes, or of more than a hundred fields, it has large blocks as well (conntab_options::large_blocks_max): EXPECTed
    // by listen(). A request with a large head holds two at a time, and so does its response.
    http1_gateway(conntab& conns, const http1_gateway_options& options) noexcept;
    http1_gateway(const http1_gateway&) = delete;
    http1_gateway& operator=(const http1_gateway&) = delete;
    ~http1_gateway();

    // Before the first request; at least one, at most upstream_set::capacity. The clients' transport: listener_options.
    void add_upstream(const address& where, const xprt& transport = raw_xprt) noexcept {
        add_upstream({&where, 1}, transport);
    }
    // One upstream by all addresses of its name: upstream_set::add().
    void add_upstream(std::span<const address> where, const xprt& transport = raw_xprt) noexcept;
    // Another set of addresses for the upstream that was added as number `i`, from 0: upstream_set::replace(). What runs
    // stays with its address; idle connections to an address that is gone are closed.
    void set_upstream(std::size_t i, std::span<const address> where) noexcept;

    // Once each. Errors as listener::open(); ENOMEM: there was no room for what the options ask for. A user_timeout of
    // the clients is raised to write_timeout.
    result<void> listen(const address& at, const listener_options& options) noexcept;
    result<void> listen(unique_fd inherited, const ctrl& family, const listener_options& options) noexcept;
    // GET /counters answers with JSON: this gateway's counters, or what `writer` writes to `room` (2 KB and more) and
    // whose size it returns; 0: it does not fit. Another path is a 404, another method a 405.
    using counters_writer = std::size_t (*)(void* owner, std::span<char> room) noexcept;
    result<void> listen_admin(const address& at, counters_writer writer = nullptr, void* owner = nullptr,
                              const listener_options& options = {}) noexcept;
    result<void> listen_admin(unique_fd inherited, const ctrl& family, counters_writer writer = nullptr,
                              void* owner = nullptr) noexcept;

    // Where lines for people go; null: nowhere. `owner` is handed to both.
    using line_sink = void (*)(void* owner, std::string_view line) noexcept;
    // A 502, 503, 504, an answer that broke off, or a server that was passed over; for which client; and why. Of each of
    // these kinds at most http1_options::trouble_rate, then a sum.
    void on_trouble(line_sink sink, void* owner) noexcept;
    // Each request once, when its answer is sent, when it is cut off, or when its tunnel begins: CLIENT "METHOD TARGET"
    // STATUS N bytes N us upstream SERVER [reused] [repeated] [cut off[, client gone]]. STATUS is 0 where no answer had
    // begun. `client gone`: client_fin::abort. The client is told as connection::peer() knows it, also one that has
    // reset; "-": it does not. In the quotes, what is not printable ASCII, '"' and '\' are \xHH.
    void on_access(line_sink sink, void* owner) noexcept;

    // Stops listening, lets what runs finish, then calls `done` once; after `limit` whatever still runs is closed.
    // Clients that wait are closed at once; when it hands over they have until `limit` to ask once more, because a
    // close may cross the request that they are just sending. Said again (`end`), it only closes those.
    using drained = void (*)(void* owner) noexcept;
    void drain(drain_kind how, duration limit, drained done, void* owner) noexcept;
    // Requests and tunnels that a drain cut off at its limit. Valid from `done` on.
    std::size_t cut_count() const noexcept { return door_.gate.cut_count(); }

    endpoint local() const noexcept { return door_.gate.door().local(); }
    listener& port() noexcept { return door_.gate.door(); }
    const listener& port() const noexcept { return door_.gate.door(); }
    listener& admin_port() noexcept { return admin_door_.gate.door(); }
    const listener& admin_port() const noexcept { return admin_door_.gate.door(); }
    client_gate& gate() noexcept { return door_.gate; }
    const client_gate& admin_gate() const noexcept { return admin_door_.gate; }
    const http1_counters& counters() const noexcept { return exchanges_.counters; }
    const idle_pool& idle() const noexcept { return idle_; }
    const upstream_set& upstreams() const noexcept { return upstreams_; }
    std::uint32_t clients_count() const noexcept { return door_.gate.clients_count(); } // without the admin page's
    std::size_t active_count() const noexcept { return exchanges_.active_count(); }

    // Any thread.
    void add_counters(counter_table& to) const noexcept;

  private:
    struct door {
        door(http1_gateway& g, std::uint32_t clients_max, client_places* places, const http1_applet* a) noexcept
            : home(g), gate(g.conns_, {.clients_max = clients_max, .places = places, .accepted = accepted,
                                       .let_go = let_go, .cut_off = cut_off, .owner = this}),
              applet(a) {}
        http1_gateway& home;
        client_gate gate;
        const http1_applet* applet; // null: the upstreams
    };

    bool has_memory() const noexcept;
    listener_options for_clients(listener_options options) const noexcept;
    bool has_blocks_for_heads() const noexcept;
    static const data_cb waiting_cb;
    static verdict waiting_recv(connection& client) noexcept;
    static verdict waiting_wake(connection& client) noexcept;
    static void waiting_fired(timer& t, time_point now) noexcept;
    static void accepted(void* at, connection& client, const endpoint& peer) noexcept;
    static void let_go(void* at, connection& client) noexcept;
    static std::size_t cut_off(void* at) noexcept;
    static void client_waits(void* self, connection& client, const http1_applet* applet, http1_wait how) noexcept;
    static void client_gone(void* self, const http1_applet* applet) noexcept;
    static bool is_pressed(void* self, const http1_applet* applet) noexcept;
    static void tunnel_ended(void* self, void* to, relay_end how) noexcept;
    void give_keys(std::size_t i) noexcept;
    bool shares_key(const upstream_address& a) const noexcept;
    static void trouble(void* self, std::string_view line) noexcept;
    static void access(void* self, std::string_view line) noexcept;
    static http1_answer answer_admin(void* self, const http1_head& request, std::span<char> room) noexcept;
    void await_request(connection& client) noexcept;
    door& door_of(const http1_applet* applet) noexcept { return applet ? admin_door_ : door_; }
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
    line_sink trouble_ = nullptr, access_ = nullptr;
    void* trouble_owner_ = nullptr;
    void* access_owner_ = nullptr;
    counters_writer counters_ = nullptr;
    void* counters_owner_ = nullptr;
};

} // namespace weir::inline WEIR_KERNEL
