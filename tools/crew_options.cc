// crew_options: declaring, and counting descriptors.

#include "tools/crew_options.hpp"

#include <algorithm>

namespace weir::inline WEIR_KERNEL::tools {

void declare(options& o, crew_options& set) noexcept {
    static constexpr const char* balance_words[] = {"round-robin", "least"};
    o.count("--threads", set.threads, "each with a loop and a listener", {1, 256});
    o.count("--max-connections", set.clients_max,
            "of clients, over all threads; 0: as many as the descriptors allow, at most 65536", {0, 1'000'000});
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

namespace {

// Descriptors without which `clients` cannot be served.
std::uint64_t least(const crew_options& set, std::uint64_t clients) noexcept {
    constexpr std::uint64_t program = 32, worker = 8;
    const std::uint64_t own = program + (set.threads - 1) * worker + std::uint64_t{set.threads} * 2 * set.pipes_max;
    const std::uint64_t idle = set.idle_max > 0 ? set.threads : 0;
    return own + 2 * clients + idle + set.admin_clients_max;
}

// And those with which idle and lingering connections need not make room.
std::uint64_t enough(const crew_options& set, std::uint64_t clients) noexcept {
    const std::uint64_t idle = std::min(std::uint64_t{set.threads} * set.idle_max, clients);
    return least(set, clients) + idle + (set.lingers ? clients / 8 : 0);
}

} // namespace

allowance allowed(const crew_options& set, std::uint32_t descriptors) noexcept {
    constexpr std::uint32_t clients_min = 16, clients_default_max = 65'536;
    const auto count = [](std::uint64_t n) noexcept { return static_cast<unsigned long long>(n); };
    const std::uint32_t least_clients = set.clients_max > 0 ? std::min(set.clients_max, clients_min) : clients_min;
    if (least(set, least_clients) > descriptors)
        fail("%u descriptors are too few: raise the limit (ulimit -n) to at least %llu", descriptors,
             count(least(set, least_clients)));
    if (least(set, set.clients_max) > descriptors)
        fail("--max-connections %u needs %llu descriptors, the limit is %u", set.clients_max,
             count(least(set, set.clients_max)), descriptors);
    std::uint32_t clients = set.clients_max;
    if (clients == 0)
        for (clients = clients_min; clients < clients_default_max && enough(set, clients + 1) <= descriptors;)
            clients++;
    // A quarter of what is left is for clients that linger.
    const std::uint64_t left = (descriptors - least(set, clients)) / 4 * 3 / set.threads + 1;
    const std::uint32_t portion = (clients + set.threads - 1) / set.threads;
    const std::uint64_t idle = std::min({left, std::uint64_t{portion}, std::uint64_t{set.idle_max}});
    return {.clients_max = clients, .idle_max = static_cast<std::uint32_t>(idle)};
}

} // namespace weir::inline WEIR_KERNEL::tools
