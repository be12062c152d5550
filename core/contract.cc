// contract: how a broken contract ends the program.

#include "core/contract.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace weir::inline WEIR_KERNEL {

void contract_broken(const char* fact, const char* file, int line, const char* words) noexcept {
    std::fprintf(stderr, "weir: contract broken at %s:%d: %s%s%s\n", file, line, fact, *words ? ": " : "", words);
    std::abort();
}

const char* error_text(int error) noexcept { return std::strerror(error); }

} // namespace weir::inline WEIR_KERNEL
