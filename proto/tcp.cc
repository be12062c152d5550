// tcp: sockets of the family, and the parsing of HOST:PORT.

#include "proto/tcp.hpp"

#include <algorithm>
#include <cstring>

namespace weir::inline WEIR_KERNEL {

namespace {

constexpr std::size_t drain_bytes = 1 << 20; // a call, uncopied

drain_result drain(int fd, std::size_t bytes_max) noexcept {
    std::size_t total = 0;
    while (total < bytes_max) {
        const sys::count n = sys::discard(fd, drain_bytes);
        if (n == -EAGAIN) return {drained::again, total};
        if (n <= 0) return {n == 0 ? drained::closed : drained::failed, total};
        total += static_cast<std::size_t>(n);
    }
    return {drained::more, total};
}

constexpr std::size_t names_max = 64; // addresses of one name that are looked at

// "80" -> 80. Digits only, at most 65535.
bool parse_port(std::string_view text, std::uint16_t& port) noexcept {
    if (text.empty() || text.size() > 5) return false;
    std::uint32_t value = 0;
    for (const char c : text) {
        if (c < '0' || c > '9') return false;
        value = value * 10 + static_cast<std::uint32_t>(c - '0');
    }
    port = static_cast<std::uint16_t>(value);
    return value <= 65535;
}

} // namespace

const ctrl tcp{.name = "tcp",
               .listen = open_listener,
               .connect = open_connection,
               .drain = drain,
               .short_read_proves = true,
               .carries_fds = false,
               .counts_acked = true};

result<endpoint> parse_tcp(std::string_view text) noexcept {
    endpoint first;
    auto count = parse_tcp(text, {&first, 1});
    if (!count) return failure{count.error()};
    return first;
}

result<std::size_t> parse_tcp(std::string_view text, std::span<endpoint> to) noexcept {
    EXPECT(!to.empty());
    const std::size_t colon = text.rfind(':');
    std::uint16_t port = 0;
    if (colon == text.npos || !parse_port(text.substr(colon + 1), port)) return failure{EINVAL};
    std::string_view host = text.substr(0, colon);
    if (host.empty()) {
        to[0] = endpoint::ipv4(0, port);
        return std::size_t{1};
    }
    if (host == "*") return failure{EINVAL}; // resolvers make ::1 of it, which nobody means
    if (host.find_first_not_of("0123456789") == host.npos) return failure{EINVAL}; // and of 10:80, 0.0.0.10
    const bool in_brackets = host.size() >= 2 && host.front() == '[' && host.back() == ']';
    if (in_brackets) host = host.substr(1, host.size() - 2);
    if (in_brackets != (host.find(':') != host.npos)) return failure{EINVAL}; // ::1:80 could be read in two ways

    char name[256], number[6];
    if (host.size() >= sizeof name || host.find('\0') != host.npos) return failure{EINVAL};
    std::memcpy(name, host.data(), host.size());
    name[host.size()] = '\0';
    const std::string_view digits = text.substr(colon + 1);
    std::memcpy(number, digits.data(), digits.size());
    number[digits.size()] = '\0';
    sys::resolved found[names_max];
    const int count = sys::resolve(name, number, found, std::min(to.size(), names_max));
    if (count < 0) return failure{-count};
    for (int i = 0; i < count; i++)
        to[static_cast<std::size_t>(i)] = endpoint::from_kernel(found[i].address, found[i].bytes);
    return static_cast<std::size_t>(count);
}

} // namespace weir::inline WEIR_KERNEL
