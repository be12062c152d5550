#pragma once
// sys_native_names: names and ports, on Linux. Part of sys.hpp: include that.

namespace weir::inline WEIR_KERNEL::sys {

inline int local_ports(port_range& to) noexcept {
    const int fd = detail::repeat([] { return ::open("/proc/sys/net/ipv4/ip_local_port_range", O_RDONLY | O_CLOEXEC); });
    if (fd < 0) return fd;
    char text[32];
    const ssize_t bytes = detail::repeat([&] { return ::read(fd, text, sizeof text); });
    ::close(fd);
    if (bytes < 0) return static_cast<int>(bytes);
    unsigned ends[2] = {0, 0}; // "32768\t60999\n"
    for (ssize_t i = 0, which = 0; i < bytes && which < 2; i++) {
        if (text[i] >= '0' && text[i] <= '9') ends[which] = ends[which] * 10 + static_cast<unsigned>(text[i] - '0');
        else which++;
    }
    if (ends[0] == 0 || ends[1] < ends[0] || ends[1] > 65535) return -EPROTO;
    to = {static_cast<std::uint16_t>(ends[0]), static_cast<std::uint16_t>(ends[1])};
    return 0;
}

inline int resolve(const char* host, const char* port, resolved* to, std::size_t addresses_max) noexcept {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const int error = ::getaddrinfo(host, port, &hints, &found);
    if (error == EAI_SYSTEM) return -errno;
    if (error == EAI_MEMORY) return -ENOMEM;
    if (error != 0 || !found) return -ENOENT;
    std::size_t stored = 0;
    for (const addrinfo* one = found; one && stored < addresses_max; one = one->ai_next) {
        if (one->ai_family != AF_INET && one->ai_family != AF_INET6) continue;
        to[stored] = {};
        to[stored].bytes = one->ai_addrlen;
        __builtin_memcpy(&to[stored].address, one->ai_addr, one->ai_addrlen);
        stored++;
    }
    ::freeaddrinfo(found);
    return stored > 0 ? static_cast<int>(stored) : -ENOENT;
}

} // namespace weir::inline WEIR_KERNEL::sys
