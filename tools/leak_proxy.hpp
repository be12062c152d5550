#pragma once
// leak_proxy: the proxy that weir-leak tests by itself: every part of the library that opens or closes a descriptor.
//
//     door      what it does with a client
//     relay     relay_pool to an upstream
//     refused   the same, to a port where nobody listens
//     hole      the same, to an address that never answers, with a short connect timeout
//     victim    the same, to a process that is killed
//     lend      one byte there and back over a dialed connection, which is parked in an idle_pool then; byte 'd': the
//               pool is drained as a proxy does that stops, while what runs is finished
//     gate      admits 4 clients and rejects the others with a reset
//
// It runs in a child process, so that its descriptors and its memory are its own. SIGUSR1: tells what the ledger knows
// of the connections that are open and were not told of before. SIGTERM: ends.

#include <array>
#include <cstdint>
#include <memory>

#include <sys/types.h>

#include "core/endpoint.hpp"
#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL::tools {

enum class leak_door : std::uint8_t { relay, refused, hole, victim, lend, gate, count_ };
inline constexpr std::size_t leak_doors = static_cast<std::size_t>(leak_door::count_);
inline constexpr std::uint32_t gate_max = 4;

struct leak_proxy_options {
    std::array<endpoint, 16> upstreams{}; // several, so that TIME_WAIT does not use the ports of one up
    endpoint refused{}, hole{}, victim{};
    duration hole_timeout = milliseconds{20};
    std::uint32_t connections_max = 1024;
    std::uint32_t ledger = 65'536; // events
    std::uint32_t plant = 0;       // forgets a dialed connection for every so many clients of `relay`; 0: none
};

struct leak_proxy {
    pid_t pid = -1;
    std::array<endpoint, leak_doors> doors{};
};

// Forks. The child ends with its parent, at the latest. Ends the program with 1 if something is missing.
leak_proxy start_leak_proxy(const leak_proxy_options& options);

} // namespace weir::inline WEIR_KERNEL::tools
