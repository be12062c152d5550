#pragma once
// odd_families: TCP, to servers that cannot be reached for reasons that are not theirs.

#include <cerrno>

#include "proto/tcp.hpp"

namespace support {

using namespace weir;

template <int Error>
result<connecting_socket> cannot_connect(const endpoint&, const connect_options&) noexcept {
    return failure{Error};
}

template <int Error>
inline constexpr ctrl odd_family{.name = "odd",
                                 .listen = open_listener,
                                 .connect = cannot_connect<Error>,
                                 .drain = nullptr,
                                 .short_read_proves = true,
                                 .carries_fds = false,
                                 .counts_acked = true};

// No local port is left to it; its queue is full; this process has no descriptor left.
inline address portless(std::uint16_t port) { return {.family = &odd_family<EADDRNOTAVAIL>, .at = endpoint::ipv4(0x7f000001, port)}; }
inline address busy(std::uint16_t port) { return {.family = &odd_family<EAGAIN>, .at = endpoint::ipv4(0x7f000001, port)}; }
inline address needy(std::uint16_t port) { return {.family = &odd_family<EMFILE>, .at = endpoint::ipv4(0x7f000001, port)}; }

} // namespace support
