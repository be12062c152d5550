#pragma once
// crew_options: what weir-gateway and weir-relay are both told on the command line, and how many clients that allows.

#include <array>
#include <cstdint>
#include <span>

#include "proto/client_places.hpp"
#include "proto/upstream.hpp"
#include "tools/options.hpp"

namespace weir::inline WEIR_KERNEL::tools {

struct crew_options {
    listen_place listen{.file = {.mode = 0666}}; // as a port of TCP: a folder can keep others out
    std::array<upstream_place, upstream_set::capacity> upstreams;
    std::size_t upstreams_count = 0;
    std::span<const upstream_place> places() const noexcept { return {upstreams.data(), upstreams_count}; }
    balance how = balance::round_robin;
    std::uint32_t threads = 1;
    std::uint32_t clients_max = 0;                // over all threads; 0: as many as the descriptors allow, at most 65,536
    std::uint32_t pipes_max = 0;                  // of each worker: two descriptors each
    std::uint32_t idle_max = 0;                   // server connections that each worker may keep: a descriptor each
    std::uint32_t admin_clients_max = 0;          // likewise, in all
    bool lingers = false;                         // clients that have gone may hold a descriptor for a while
    duration user_timeout = user_timeout_default; // each program has its own
    duration drain = seconds{30};
    std::uint32_t ledger = 4096;
    listen_place takeover; // a unix address, or none
    bool quiet = false;
};

// LISTEN, UPSTREAM and the options that both have.
void declare(options& o, crew_options& set) noexcept;

// What there may be.
struct allowance {
    std::uint32_t clients_max; // over all workers; one of them may have them all
    std::uint32_t idle_max;    // server connections that each worker may keep
};

// Of so many descriptors: a few for the program and for each worker, two for each client, one for each client of the
// admin page; what is left is for idle server connections and for clients that linger. Ends the program with 1 if they
// are too few, for 16 clients or for those that are asked for.
allowance allowed(const crew_options& set, std::uint32_t descriptors) noexcept;

// What a worker is made with.
struct share {
    allowance limits;
    client_places& places; // common to all
};

} // namespace weir::inline WEIR_KERNEL::tools
