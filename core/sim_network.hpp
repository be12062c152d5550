#pragma once
// sim_network: what lies between sockets: addresses, ports, connects under way, bytes and ends in flight.
//
// A connection runs either between two descriptors or between a descriptor and a remote: an end that the harness plays
// (sim_remote.hpp). A listening socket and a remote service are looked up by address. A wire delivers at once unless
// the faults say otherwise: `wire_slow` plans the delivery, `wire_pieces` cuts it, `wire_reset` breaks it.
//
// Streams are recycled, never freed, so a planned happening may point to one; its serial tells whether it is meant.

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "core/sim_stream.hpp"
#include "core/sim_timeline.hpp"
#include "core/sim_trace.hpp"

namespace weir::inline WEIR_KERNEL {

struct remote_cb;

// Somebody who answers connects to an address, and is not a descriptor.
struct service {
    endpoint where{};
    const remote_cb* table = nullptr; // of each connection's remote
    void* owner = nullptr;
    bool refuses = false;  // RST to every connect, as if nobody were there
    bool swallows = false; // none is answered. A unix one: its backlog is full
    bool portless = false; // no local port is left to it. Not of a unix one
};

struct network_options {
    std::uint16_t port_first = 32768, port_last = 60999;             // ip_local_port_range
    std::uint32_t buffer_bytes_min = 1024, buffer_bytes_max = 65536; // each socket draws its own, each way
    duration delay_max{};                                            // of a slow wire, one way
    duration time_wait = seconds{60};
    duration reaction_max = milliseconds{2}; // until a remote looks at what happened at its end
};

class network {
  public:
    network(timeline& t, dice& d, fault_plan& f, trace& tr, const network_options& options) noexcept;
    network(const network&) = delete;
    network& operator=(const network&) = delete;
    ~network();

    stream& make(int family) noexcept;
    void free(stream& s) noexcept;

    int bind(stream& s, const endpoint& where) noexcept;
    int listen(stream& s, int backlog) noexcept;
    int unlink(const char* path) noexcept;
    bool has_path(const char* path) const noexcept;
    int connect(stream& s, const endpoint& to) noexcept;
    void join(stream& a, stream& b) noexcept; // socketpair(2)

    // --- for streams
    void deliver_soon(stream& from) noexcept;
    void reset_other_end(stream& from) noexcept; // sends a RST; `from` has no peer afterwards
    void part(stream& s) noexcept;               // no bytes go either way any more
    void stop_listening(stream& s) noexcept;
    void stir(remote& r) noexcept; // something changed at its end

    // --- names, for resolve(): a host has so many addresses from now on, the ports aside
    void name(std::string_view called, std::vector<endpoint> addresses) noexcept;
    const std::vector<endpoint>* addresses_of(std::string_view called) const noexcept; // null: no such host

    // --- remotes
    void serve(const service& s) noexcept { services_.push_back(s); }
    service* find_service(const endpoint& where) noexcept;
    remote& dial(const endpoint& from, const endpoint& to, const remote_cb& table, void* owner) noexcept;
    void release(remote& r) noexcept;
    std::size_t remotes_count() const noexcept { return remotes_live_; }

    void squeeze(stream& s) noexcept; // takes its room to send away for a moment

    // What `s` was connected to is out of reach: `why` is for `s` to tell, the other side sees a RST.
    void break_off(stream& s, int why) noexcept;
    // Breaks one established connection, both ends seeing a RST. False: there is none.
    bool break_one() noexcept;
    std::size_t streams_count() const noexcept { return streams_live_; }

    timeline& time;
    dice& chance;
    fault_plan& faults;
    trace& log;
    network_options options;
    std::uint32_t user = 1000; // whose sockets are made from now on

  private:
    static void deliver_now(void* at, std::uint32_t serial) noexcept;
    static void acknowledge_now(void* at, std::uint32_t serial) noexcept;
    static void reset_now(void* at, std::uint32_t serial) noexcept;
    static void connect_now(void* at, std::uint32_t serial) noexcept;
    static void relax_now(void* at, std::uint32_t serial) noexcept;
    static void time_out_now(void* at, std::uint32_t serial) noexcept;
    static void run_remote(void* at, std::uint32_t serial) noexcept;
    void deliver(stream& from) noexcept;
    void acknowledge(stream& from, const stream& to, std::size_t bytes) noexcept;
    void arrive_at_orphan(stream& from, stream& to) noexcept;
    void answer_connect(stream& s) noexcept;
    void establish(stream& client, stream& server) noexcept;
    int connect_unix(stream& s, const endpoint& to) noexcept;
    int claim_port(stream& s, const endpoint& to) noexcept;
    bool is_anybody_at(const endpoint& where) noexcept;
    void meet_itself(stream& s) noexcept;
    // A fault that stays for a while where it struck.
    struct trouble {
        fault kind;
        endpoint where;
        time_point until;
    };
    bool is_troubled(fault kind, const endpoint& where) noexcept;
    remote& make_remote(const remote_cb& table, void* owner) noexcept;
    stream* find_listener(const endpoint& where) noexcept;

    std::vector<std::unique_ptr<stream>> streams_;
    std::vector<stream*> streams_free_;
    std::size_t streams_live_ = 0;
    list<&stream::of_network> live_;
    std::vector<std::unique_ptr<remote>> remotes_;
    std::vector<remote*> remotes_free_;
    std::size_t remotes_live_ = 0;
    std::vector<stream*> listeners_;
    std::vector<endpoint> paths_; // sockets in the file system: they outlive who was bound to them
    std::vector<service> services_;
    std::vector<trouble> troubles_;
    struct host {
        std::string name;
        std::vector<endpoint> addresses;
    };
    std::vector<host> hosts_;
    struct waiting_port {
        time_point until;
        std::uint64_t claim;
    };
    std::unordered_set<std::uint64_t> ports_taken_;
    std::deque<waiting_port> time_waits_;
    std::uint16_t port_next_;
};

} // namespace weir::inline WEIR_KERNEL
