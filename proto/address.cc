// address: which family a text belongs to.

#include "proto/address.hpp"

#include "proto/tcp.hpp"
#include "proto/unix.hpp"

namespace weir::inline WEIR_KERNEL {

result<address> parse_address(std::string_view text) noexcept {
    const bool is_unix = text.substr(0, 5) == "unix:";
    auto at = is_unix ? parse_unix(text) : parse_tcp(text);
    if (!at) return failure{at.error()};
    return address{is_unix ? &unix_stream : &tcp, at.value()};
}

} // namespace weir::inline WEIR_KERNEL
