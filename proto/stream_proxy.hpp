#pragma once
// stream_proxy: an L4 proxy on one loop: accepts, chooses a server, connects to it, relays.
//
//     listener ──> greeting ──(its PROXY line)──> dialing ──(both connected)──> relay_pool::join
//                  (with accept_proxy only)        │  ^ │
//                              the next server, at │  │ └──(none is left)──> RST
//                              once: upstream.hpp  └──┘
//
// A server is well when it has said a byte. One that ends first, by FIN or RST and without a byte, has failed as one has
// that could not be connected to: it rests. The client's bytes may have reached it, so its client is not given another.
//
// What a client says meanwhile waits in its socket, but for what came in one read with its PROXY line. With
// send_proxy the server is told first for whom the proxy speaks: for the source and destination of an accepted PROXY
// line if those are known, or else for the client's own. From join() on the bytes are the relay's.
//
// accept_proxy: a client can claim any address, so only proxies that are trusted may reach the listener.
//
// Owner: the user; its conntab outlives it. Thread: the loop's; counters any. Allocation: when made.

#include <cstdint>

#include "core/relay.hpp"
#include "proto/client_gate.hpp"
#include "proto/counter_table.hpp"
#include "proto/line_limit.hpp"
#include "proto/proxy_line.hpp"
#include "proto/upstream.hpp"

namespace weir::inline WEIR_KERNEL {

enum class send_proxy : std::uint8_t { off, v1, v2 };

struct stream_proxy_options {
    // pairs_max: clients at once, above 0, EXPECTed. At the limit a client makes room only if it was to send a PROXY
    // line and has not sent a byte for a second: client_gate.hpp. Every other client has something under way.
    relay_options relay{};
    client_places* places = nullptr; // the limit over several loops; at most pairs_max, EXPECTed
    balance how = balance::round_robin;
    bool accept_proxy = false;
    proxy_options proxy{};                // of accept_proxy; bytes_max at most 16,152, EXPECTed. TLVs are not passed on
    duration proxy_timeout = seconds{10}; // for the whole line
    send_proxy send = send_proxy::off;
    line_rate trouble_rate{}; // of on_trouble(), for each cause
};

class stream_proxy {
  public:
    struct counters_type {
        counter clients_total;
        counter relayed;        // clients whose server was connected to
        counter refused;        // no server could be connected to, or not before a drain's limit
        counter bad_greetings;  // no PROXY line, a wrong one, or not in time
        counter silent;         // ended without a byte, where a PROXY line was due: a probe of the port
        counter abandoned;      // the client failed before its server was connected
        counter connect_failed; // one server each
        counter unheard;        // clients whose server ended first, without a byte
    };

    // What the conntab of a proxy needs: connections_max of conntab_options.
    static constexpr std::uint32_t connections_needed(const stream_proxy_options& options) noexcept {
        return 2 * options.relay.pairs_max;
    }

    // `conns` has room for connections_needed(), or for fewer clients. It is used by nobody else.
    stream_proxy(conntab& conns, const stream_proxy_options& options) noexcept;
    stream_proxy(const stream_proxy&) = delete;
    stream_proxy& operator=(const stream_proxy&) = delete;
    ~stream_proxy(); // aborts everything

    // Before listen(); at least one, at most upstream_set::capacity. The clients' transport: listener_options.
    void add_upstream(const address& where, const xprt& transport = raw_xprt) noexcept {
        upstreams_.add(where, transport);
    }
    // One upstream by all addresses of its name: upstream_set::add().
    void add_upstream(std::span<const address> where, const xprt& transport = raw_xprt) noexcept {
        upstreams_.add(where, transport);
    }
    // Another set of addresses for the upstream that was added as number `i`, from 0: upstream_set::replace(). Clients
    // that have a server keep it.
    void set_upstream(std::size_t i, std::span<const address> where) noexcept { upstreams_.replace(i, where); }

    // Once. Errors as listener::open(); ENOMEM: there was no room for what the options ask for.
    result<void> listen(const address& at, const listener_options& options) noexcept;
    result<void> listen(unique_fd inherited, const ctrl& family, const listener_options& options) noexcept;

    // A line for people when a client is refused, with the reason. At most trouble_rate of each cause, then a sum; a client
    // that said nothing and ended has none. Null: nobody wants to know.
    using line_sink = void (*)(void* owner, std::string_view line) noexcept;
    void on_trouble(line_sink sink, void* owner) noexcept;

    // Stops listening, lets what runs end, then calls `done` once; after `limit` whatever still runs is aborted. Said
    // again, it changes nothing.
    using drained = void (*)(void* owner) noexcept;
    void drain(drain_kind how, duration limit, drained done, void* owner) noexcept;
    // Clients that a drain cut off at its limit. Valid from `done` on.
    std::size_t cut_count() const noexcept { return gate_.cut_count(); }

    listener& port() noexcept { return gate_.door(); }
    const listener& port() const noexcept { return gate_.door(); }
    client_gate& gate() noexcept { return gate_; }
    const relay_pool& relay() const noexcept { return relay_; }
    const upstream_set& upstreams() const noexcept { return upstreams_; }
    const counters_type& counters() const noexcept { return counters_; }
    std::uint32_t clients_count() const noexcept { return gate_.clients_count(); }

    // Any thread.
    void add_counters(counter_table& to) const noexcept;

  private:
    // A client whose server is not connected yet.
    struct session {
        session(stream_proxy& p, connection& c, const endpoint& from) noexcept : home(p), client(&c), peer(from) {}

        stream_proxy& home;
        connection* client;
        connection* server = nullptr;
        upstream_address* to = nullptr; // server's; held
        upstream_set::attempts made;
        endpoint failed{};    // where the latest attempt that failed went
        bool greeted = false; // its PROXY line was read, or none is asked for
        proxy_line line;
        buffer early; // the PROXY line, and then what came with it
        endpoint peer;
        list_hook hook;
    };

    static const data_cb client_cb, server_cb;
    static void accepted(void* self, connection& client, const endpoint& peer) noexcept;
    static verdict greeting_recv(connection& client) noexcept;
    static void greeting_late(timer& t, time_point now) noexcept;
    static verdict client_wake(connection& client) noexcept;
    static verdict server_wake(connection& server) noexcept;
    static void pair_answered(void* self, void* to) noexcept;
    static void pair_ended(void* self, void* to, relay_end how) noexcept;
    static void let_go(void* self, connection& client) noexcept;
    static std::size_t cut_off(void* self) noexcept;
    static void tell_left_out(void* self, std::size_t cause, std::uint64_t count) noexcept;

    bool has_memory() const noexcept { return relay_.capacity() > 0 && sessions_.capacity() > 0; }
    listener_options for_clients(listener_options options) const noexcept;
    void await_greeting(session& s) noexcept;
    verdict dial_next(session& s) noexcept;
    bool may_ask_another(session& s, upstream_address& to, int error) noexcept;
    void leave(upstream_address& to) noexcept;
    std::size_t write_line(const session& s, std::span<char> room) const noexcept;
    verdict start(session& s) noexcept;
    verdict refuse(session& s, counter& why, end_cause cause, const char* words) noexcept;
    void end(session& s, end_cause cause) noexcept;
    void abort_all() noexcept;

    conntab& conns_;
    stream_proxy_options options_;
    upstream_set upstreams_;
    client_gate gate_; // goes last: clients that end tell it
    relay_pool relay_;
    fixed_pool<session> sessions_;
    list<&session::hook> waiting_;
    counters_type counters_;
    line_limit lines_;
    line_sink trouble_ = nullptr;
    void* trouble_owner_ = nullptr;
};

} // namespace weir::inline WEIR_KERNEL
