// contract: how a broken contract ends the program.

#include "core/contract.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace weir::inline WEIR_KERNEL {

namespace {
constinit contract_listener the_listener = nullptr;
} // namespace

void on_contract_broken(contract_listener listener) noexcept { the_listener = listener; }

void contract_broken(const char* fact, const char* file, int line, const char* words) noexcept {
    std::fprintf(stderr, "weir: contract broken at %s:%d: %s%s%s\n", file, line, fact, *words ? ": " : "", words);
    if (const contract_listener tell = std::exchange(the_listener, nullptr)) tell(fact, words); // not of its own mistakes
    std::abort();
}

const char* error_text(int error) noexcept { return std::strerror(error); }

} // namespace weir::inline WEIR_KERNEL
