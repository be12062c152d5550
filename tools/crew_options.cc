// crew_options: declaring, splitting.

#include "tools/crew_options.hpp"

#include <algorithm>

namespace weir::inline WEIR_KERNEL::tools {

void declare(options& o, crew_options& set) noexcept {
    static constexpr const char* balance_words[] = {"round-robin", "least"};
    o.count("--threads", set.threads, "each with a loop, a listener and its share of the clients", {1, 256});
    o.count("--max-connections", set.clients_max,
            "of clients, over all threads; 0: half of the descriptors, at most 65536", {0, 1'000'000});
    o.choice("--balance", set.how, balance_words, "among several upstreams");
    o.time(
        "--user-timeout", set.user_timeout,
        "TCP_USER_TIMEOUT; ends readers that are slow all the while, too; raised to the longest of the timeouts above "
        "that the connection has, so that it caps none; 0: the system's");
    o.time("--drain-timeout", set.drain, "to finish what runs after SIGTERM, or a takeover; then it is cut off");
    o.listen_at("--takeover", set.takeover,
                "unix:/path: take the sockets of who serves there (with as many --threads at least), then serve there");
    o.count("--ledger", set.ledger, "events of descriptors that SIGUSR1 remembers; 0: none", {0, 1 << 24});
    o.listen_at("LISTEN", set.listen);
    o.connect_to("UPSTREAM", set.upstreams, set.upstreams_count);
}

std::uint32_t clients_allowed(const crew_options& set, std::uint32_t descriptors) noexcept {
    constexpr std::uint32_t reserve = 32, worker_reserve = 8, clients_min = 16, clients_default_max = 65'536;
    const std::uint32_t own = reserve + (set.threads - 1) * worker_reserve + set.threads * 2 * set.pipes_max;
    const std::uint32_t room = descriptors > own ? (descriptors - own) / 2 : 0;
    if (room < clients_min * set.threads)
        fail("%u descriptors are too few: raise the limit (ulimit -n) to at least %u", descriptors,
             own + 2 * clients_min * set.threads);
    if (set.clients_max > room)
        fail("--max-connections %u needs %u descriptors, the limit is %u", set.clients_max, 2 * set.clients_max + own,
             descriptors);
    if (set.clients_max > 0 && set.clients_max < set.threads)
        fail("--max-connections %u is less than one for each of %u threads", set.clients_max, set.threads);
    return set.clients_max > 0 ? set.clients_max : std::min(room, clients_default_max);
}

} // namespace weir::inline WEIR_KERNEL::tools
