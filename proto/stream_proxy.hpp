#pragma once
// stream_proxy: an L4 proxy on one loop: accepts, chooses a server, connects to it, relays.
//
//     listener ──> greeting ──(its PROXY line)──> dialing ──(both connected)──> relay_pool::join
//                  (with accept_proxy only)        │  ^ │
//                              the next server, at │  │ └──(none is left)──> RST
//                              once: upstream.hpp  └──┘
//
// What a client says meanwhile waits in its socket, but for what came in one read with its PROXY line. With
// send_proxy the server is told first for whom the proxy speaks: for the source and destination of an accepted PROXY
// line if those are known, or else for the client's own. From join() on the bytes are the relay's.
//
// accept_proxy: a client can claim any address, so only proxies that are trusted may reach the listener.
//
// Owner: the user; its conntab outlives it. Thread: the loop's; counters any. Allocation: when made.

#include <cstdint>

#include "core/drain.hpp"
#include "core/listener.hpp"
#include "core/relay.hpp"
#include "proto/counter_table.hpp"
#include "proto/proxy_line.hpp"
#include "proto/upstream.hpp"

namespace weir::inline WEIR_KERNEL {

enum class send_proxy : std::uint8_t { off, v1, v2 };

struct stream_proxy_options {
    // pairs_max: clients at once, above 0, EXPECTed; at the limit nothing is accepted until one goes.
    relay_options relay{};
    balance how = balance::round_robin;
    bool accept_proxy = false;
    proxy_options proxy{};                // of accept_proxy; bytes_max at most 16,152, EXPECTed. TLVs are not passed on
    duration proxy_timeout = seconds{10}; // for the whole line
    send_proxy send = send_proxy::off;
};

class stream_proxy {
  public:
    struct counters_type {
        counter clients_total;
        counter relayed;        // clients whose server was connected to
        counter refused;        // no server could be connected to, or not before a drain's limit
        counter bad_greetings;  // no PROXY line, a wrong one, or not in time
        counter abandoned;      // the client failed before its server was connected
        counter connect_failed; // one server each
    };

    // `conns` has room for two connections per client, and is used by nobody else.
    stream_proxy(conntab& conns, const stream_proxy_options& options) noexcept;
    stream_proxy(const stream_proxy&) = delete;
    stream_proxy& operator=(const stream_proxy&) = delete;
    ~stream_proxy(); // aborts everything

    // Before listen(); at least one, at most upstream_set::capacity. The clients' transport: listener_options.
    void add_upstream(const address& where, const xprt& transport = raw_xprt) noexcept {
        upstreams_.add(where, transport);
    }

    // Once. Errors as listener::open(); ENOMEM: there was no room for what the options ask for.
    result<void> listen(const address& at, const listener_options& options) noexcept;
    result<void> listen(unique_fd inherited, const ctrl& family, const listener_options& options) noexcept;

    // A line for people when a client is refused, with the reason. Null: nobody wants to know.
    using line_sink = void (*)(void* owner, std::string_view line) noexcept;
    void on_trouble(line_sink sink, void* owner) noexcept;

    // Stops listening, lets what runs end, then calls `done` once; after `limit` whatever still runs is aborted. Said
    // again, it changes nothing.
    using drained = void (*)(void* owner) noexcept;
    void drain(drain_kind how, duration limit, drained done, void* owner) noexcept;
    // Clients that a drain cut off at its limit. Valid from `done` on.
    std::size_t cut_count() const noexcept { return cut_count_; }

    listener& port() noexcept { return door_; }
    const listener& port() const noexcept { return door_; }
    const relay_pool& relay() const noexcept { return relay_; }
    const upstream_set& upstreams() const noexcept { return upstreams_; }
    const counters_type& counters() const noexcept { return counters_; }
    std::uint32_t clients_count() const noexcept { return clients_count_; }

    // Any thread.
    void add_counters(counter_table& to) const noexcept;

  private:
    // A client whose server is not connected yet.
    struct session {
        session(stream_proxy& p, connection& c, const endpoint& from) noexcept : home(p), client(&c), peer(from) {}

        stream_proxy& home;
        connection* client;
        connection* server = nullptr;
        upstream* to = nullptr; // server's
        upstream_set::mask tried = 0;
        bool greeted = false; // its PROXY line was read, or none is asked for
        int error = 0;        // of the latest server that could not be connected to:
        upstream* failed = nullptr;
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
    static void pair_ended(void* self, void* to) noexcept;
    static void drain_over(void* self) noexcept;

    bool has_memory() const noexcept { return relay_.capacity() > 0 && sessions_.capacity() > 0; }
    listener_options for_clients(listener_options options) const noexcept;
    void await_greeting(session& s) noexcept;
    verdict dial_next(session& s) noexcept;
    void note_failed(session& s, upstream& to, int error) noexcept;
    std::size_t write_line(const session& s, std::span<char> room) const noexcept;
    verdict start(session& s) noexcept;
    verdict refuse(session& s, counter& why, end_cause cause, const char* words) noexcept;
    void end(session& s, end_cause cause) noexcept;
    void client_gone() noexcept;
    void abort_all() noexcept;

    conntab& conns_;
    stream_proxy_options options_;
    upstream_set upstreams_;
    relay_pool relay_;
    fixed_pool<session> sessions_;
    list<&session::hook> waiting_;
    listener door_;
    counters_type counters_;
    shared_count<std::uint32_t> clients_count_;
    line_sink trouble_ = nullptr;
    void* trouble_owner_ = nullptr;
    drained drained_ = nullptr;
    void* drained_owner_ = nullptr;
    std::size_t cut_count_ = 0;
    drain_watch drain_;
};

} // namespace weir::inline WEIR_KERNEL
