#pragma once
// crew_options: what weir-gateway and weir-relay are both told on the command line, and how it is split among threads.

#include <array>
#include <cstdint>
#include <span>

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
    std::uint32_t clients_max = 0;                // 0: half of the descriptors, at most 65,536
    std::uint32_t pipes_max = 0;                  // of each worker: two descriptors each
    duration user_timeout = user_timeout_default; // each program has its own
    duration drain = seconds{30};
    std::uint32_t ledger = 4096;
    listen_place takeover; // a unix address, or none
    bool quiet = false;
};

// LISTEN, UPSTREAM and the options that both have.
void declare(options& o, crew_options& set) noexcept;

// How many clients there may be over all workers: two descriptors for each, and for each worker some for itself. Ends
// the program with 1 if those are too few.
std::uint32_t clients_allowed(const crew_options& set, std::uint32_t descriptors) noexcept;

// What a worker may have.
struct share {
    std::uint32_t clients_max;
    std::uint32_t connections_max;
};

// Of `clients`, which are at least one for each; the first workers have what is left over.
constexpr share share_of(std::uint32_t clients, std::uint32_t threads, std::uint32_t index) noexcept {
    const std::uint32_t mine = clients / threads + (index < clients % threads ? 1 : 0);
    return {.clients_max = mine, .connections_max = 2 * mine};
}

} // namespace weir::inline WEIR_KERNEL::tools
