#pragma once
// endpoint: where a socket is or goes to: an IPv4, IPv6 or unix address. A value; no port is ever looked up here.
//
// Parsing text into one is protocol business: proto/tcp.hpp, proto/unix.hpp, proto/address.hpp.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/escape.hpp"
#include "core/result.hpp"
#include "core/sys.hpp"

namespace weir::inline WEIR_KERNEL {

class endpoint {
  public:
    // The longest text(): "unix:", 107 bytes of path, "@" in front of an abstract name.
    static constexpr std::size_t text_max = 120;

    // Unspecified: family() is AF_UNSPEC, nothing can be bound or connected to it.
    endpoint() noexcept : as_{} {}

    static endpoint ipv4(std::uint32_t address, std::uint16_t port) noexcept; // both in host byte order
    static endpoint ipv6(const std::array<std::uint8_t, 16>& address, std::uint16_t port,
                         std::uint32_t scope = 0) noexcept;
    // A file system path, or an abstract name if it begins with '@'. ENAMETOOLONG beyond 107 bytes, EINVAL if empty or
    // with a NUL: a path would end there, as another file's.
    static result<endpoint> unix_path(std::string_view path) noexcept;
    // What the kernel filled in: accept(2), getsockname(2).
    static endpoint from_kernel(const sockaddr_storage& storage, socklen_t bytes) noexcept;

    int family() const noexcept { return as_.any.sa_family; }
    bool specified() const noexcept { return family() != AF_UNSPEC; }
    std::uint16_t port() const noexcept; // 0 for unix
    bool is_any() const noexcept;        // 0.0.0.0 or [::], whatever the port
    bool is_loopback() const noexcept;   // 127.0.0.0/8 or ::1, whatever the port
    endpoint with_port(std::uint16_t port) const noexcept; // a unix address stays what it is
    // Of IPv4 or IPv6, whatever the ports. An IPv4 address and the same one mapped into IPv6 are not the same here.
    bool same_address(const endpoint& other) const noexcept;
    const char* path() const noexcept;   // unix only: NUL-terminated, "" for an unnamed socket
    std::uint32_t ipv4_address() const noexcept;                 // IPv4 only, in host byte order
    std::array<std::uint8_t, 16> ipv6_address() const noexcept; // IPv6 only, and so is the next
    std::uint32_t scope() const noexcept;

    const sockaddr* data() const noexcept { return &as_.any; }
    socklen_t size() const noexcept { return bytes_; }

    // An IPv4 address that the kernel tells as IPv6, since the socket is one of IPv6: ::ffff:a.b.c.d, RFC 4291 section
    // 2.5.5.2. unmapped(): that IPv4 endpoint; of any other, the same.
    bool is_mapped() const noexcept;
    endpoint unmapped() const noexcept;

    // "127.0.0.1:80", "[::1]:80", "unix:/run/x.sock", "unix:@name"; written into `room`, which the view borrows. A mapped
    // address ends in dotted decimals: "[::ffff:127.0.0.1]:80", RFC 5952 section 5.
    std::string_view text(std::span<char, text_max> room) const noexcept;
    // The same for a log: what is not printable ASCII, '"' and '\' as \xHH. Who binds a unix socket chooses its name,
    // line ends and all. A mapped address is told as IPv4: a client is the same whichever listener it came to.
    static constexpr std::size_t log_text_max = escaped_max * text_max;
    std::string_view log_text(std::span<char, log_text_max> room) const noexcept;

    friend bool operator==(const endpoint& a, const endpoint& b) noexcept;

  private:
    union {
        // First because it is the longest: {} zeroes the first member, and a path ends with one of its zeroes.
        sockaddr_un local;
        sockaddr any;
        sockaddr_in v4;
        sockaddr_in6 v6;
    } as_;
    socklen_t bytes_ = 0;
};

// The address a socket is bound to.
result<endpoint> local_endpoint(int fd) noexcept;

} // namespace weir::inline WEIR_KERNEL
