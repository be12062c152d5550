// sys_sim_names: names and ports of the simulated kernel, behind the seam.

#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/sim_crossing.hpp"
#include "core/sys.hpp"

namespace weir::inline WEIR_KERNEL::sys {

int local_ports(port_range& to) noexcept {
    crossing c{call::local_ports, -1};
    if (const int error = c.planned()) return c.done(-error);
    to = {c.k.options().network.port_first, c.k.options().network.port_last};
    return c.done(0);
}

namespace {

// "10.0.0.1". -ENOENT: no number.
int parse_number(const char* host, std::uint32_t& value) noexcept {
    value = 0;
    const char* at = std::strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    for (int part = 0; part < 4; part++) {
        char* end;
        const unsigned long number = std::strtoul(at, &end, 10);
        if (end == at || number > 255 || *end != (part < 3 ? '.' : '\0')) return -ENOENT;
        value = value << 8 | static_cast<std::uint32_t>(number);
        at = end + 1;
    }
    return 0;
}

} // namespace

// Numbers, "localhost", and what network::name() has.
int resolve(const char* host, const char* port, resolved* to, std::size_t addresses_max) noexcept {
    crossing c{call::resolve, -1};
    if (const int error = c.planned()) return c.done(-error);
    const auto number = static_cast<std::uint16_t>(std::strtoul(port, nullptr, 10));
    const auto store = [&](std::size_t i, const endpoint& at) {
        to[i] = {.address = {}, .bytes = sizeof to[i].address};
        std::memcpy(&to[i].address, at.data(), at.size());
        to[i].bytes = at.size();
    };
    if (const std::vector<endpoint>* known = c.k.net.addresses_of(host)) {
        std::size_t stored = 0;
        for (const endpoint& at : *known)
            if (stored < addresses_max) store(stored++, at.with_port(number));
        return c.done(stored > 0 ? static_cast<int>(stored) : -ENOENT);
    }
    std::uint32_t value;
    if (const int r = parse_number(host, value); r < 0) return c.done(r);
    store(0, endpoint::ipv4(value, number));
    return c.done(1);
}

} // namespace weir::inline WEIR_KERNEL::sys
