// address: which family a text belongs to.

#include "proto/address.hpp"

#include <algorithm>

#include "proto/tcp.hpp"
#include "proto/unix.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr std::size_t addresses_max = 64; // of one name
}

result<address> parse_address(std::string_view text) noexcept {
    const bool is_unix = text.substr(0, 5) == "unix:";
    auto at = is_unix ? parse_unix(text) : parse_tcp(text);
    if (!at) return failure{at.error()};
    return address{is_unix ? &unix_stream : &tcp, at.value()};
}

result<std::size_t> parse_addresses(std::string_view text, std::span<address> to) noexcept {
    EXPECT(!to.empty());
    if (!names_host(text)) {
        auto one = parse_address(text);
        if (!one) return failure{one.error()};
        to[0] = one.value();
        return std::size_t{1};
    }
    endpoint found[addresses_max];
    auto count = parse_tcp(text, std::span{found}.first(std::min(to.size(), addresses_max)));
    if (!count) return count;
    for (std::size_t i = 0; i < count.value(); i++)
        to[i] = {.family = &tcp, .at = found[i]};
    return count;
}

bool names_host(std::string_view text) noexcept {
    if (text.substr(0, 5) == "unix:" || text.substr(0, 1) == "[") return false;
    const std::string_view host = text.substr(0, text.rfind(':'));
    return host.find_first_not_of("0123456789.") != host.npos;
}

} // namespace weir::inline WEIR_KERNEL
