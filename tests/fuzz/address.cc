// address: what is understood can be printed, and what was printed means the same.
//
// Names are never asked of a resolver here: the linker puts the function below before the system's.

#include "fuzz/fuzz.hpp"

#include <array>
#include <string>

#include <netdb.h>

#include "proto/address.hpp"
#include "proto/tcp.hpp"
#include "proto/unix.hpp"

using namespace weir;

extern "C" {
int __real_getaddrinfo(const char*, const char*, const addrinfo*, addrinfo**);
int __wrap_getaddrinfo(const char* host, const char* port, const addrinfo* hints, addrinfo** found);

int __wrap_getaddrinfo(const char* host, const char* port, const addrinfo* hints, addrinfo** found) {
    addrinfo numbers_only = *hints;
    numbers_only.ai_flags |= AI_NUMERICHOST;
    return __real_getaddrinfo(host, port, &numbers_only, found);
}
}

namespace {

std::string text_of(const endpoint& at) {
    std::array<char, endpoint::text_max> room;
    const std::string_view text = at.text(room);
    EXPECT(text.data() == room.data() && text.size() < room.size());
    return std::string{text};
}

// `at` came out of `parse`, or could have.
void expect_prints(const endpoint& at) {
    const std::string text = text_of(at);
    const auto again = parse_address(text);
    EXPECT(again);
    EXPECT(again.value().at == at);
    EXPECT(text_of(again.value().at) == text);
}

void try_text(std::string_view bytes) {
    const fuzz::alone copy{bytes};
    const auto got = parse_address(copy.view());
    if (!got) return EXPECT(got.error() > 0);
    const bool is_unix = got.value().family == &unix_stream;
    EXPECT(is_unix || got.value().family == &tcp);
    EXPECT(is_unix == (got.value().at.family() == AF_UNIX));
    expect_prints(got.value().at);
}

// Any address, printed and read.
void try_number(std::string_view bytes) {
    std::array<std::uint8_t, 16> address{};
    if (bytes.size() < address.size() + 2) return;
    std::memcpy(address.data(), bytes.data(), address.size());
    std::uint16_t port;
    std::memcpy(&port, bytes.data() + address.size(), sizeof port);
    expect_prints(endpoint::ipv6(address, port));
    std::uint32_t v4;
    std::memcpy(&v4, bytes.data(), sizeof v4);
    expect_prints(endpoint::ipv4(v4, port));
}

// What a kernel may fill in: it is printed, whatever it is.
void try_kernel(std::string_view bytes) {
    sockaddr_storage storage{};
    if (bytes.size() < sizeof storage.ss_family || bytes.size() > sizeof storage) return;
    std::memcpy(&storage, bytes.data(), bytes.size());
    const int family = storage.ss_family;
    const auto socklen = static_cast<socklen_t>(bytes.size());
    if (family == AF_UNIX && bytes.size() > sizeof(sockaddr_un)) return;
    if (family == AF_INET && bytes.size() != sizeof(sockaddr_in)) return;
    if (family == AF_INET6 && bytes.size() != sizeof(sockaddr_in6)) return;
    text_of(endpoint::from_kernel(storage, socklen));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view bytes = fuzz::text_of(data, size);
    try_text(bytes);
    try_number(bytes);
    try_kernel(bytes);
    return 0;
}
