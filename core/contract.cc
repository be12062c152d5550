// contract: how a broken contract ends the program.

#include "core/contract.hpp"

#include <cstdio>
#include <cstdlib>

namespace weir::inline WEIR_KERNEL {

void contract_broken(const char* fact, const char* file, int line) noexcept {
    std::fprintf(stderr, "weir: contract broken at %s:%d: %s\n", file, line, fact);
    std::abort();
}

} // namespace weir::inline WEIR_KERNEL
