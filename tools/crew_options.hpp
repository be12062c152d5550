#pragma once
// crew_options: what weir-gateway and weir-relay are both told on the command line, and how it is split among threads.

#include <array>
#include <cstdint>

#include "proto/upstream.hpp"
#include "tools/options.hpp"

namespace weir::inline WEIR_KERNEL::tools {

struct crew_options {
    listen_place listen;
    std::array<upstream_place, upstream_set::capacity> upstreams;
    std::size_t upstreams_count = 0;
    balance how = balance::round_robin;
    std::uint32_t threads = 1;
    std::uint32_t clients_max = 0; // 0: half of the descriptors
    std::uint32_t pipes_max = 0;   // of each worker: two descriptors each
    duration linger = seconds{2};
    duration drain = seconds{30};
    std::uint32_t ledger = 4096;
    listen_place takeover; // a unix address, or none
    bool quiet = false;
};

// LISTEN, UPSTREAM and the options that both have.
void declare(options& o, crew_options& set) noexcept;

// What each worker may have.
struct share {
    std::uint32_t clients_max;
    std::uint32_t connections_max;
};

// Two descriptors per client, and for each worker some for itself; ends the program with 1 if those are too few.
share split(const crew_options& set, std::uint32_t descriptors) noexcept;

} // namespace weir::inline WEIR_KERNEL::tools
