#pragma once
// contract: what a caller must keep, checked in every build.
//
// EXPECT(fact) states one fact that holds unless the caller made a mistake; a false one prints the fact and where it
// stands, and aborts. EXPECT(fact, words) also prints `words`, a C string, which is evaluated only then.
// EXPECT_SLOW is for facts whose check shows in a profile: on unless NDEBUG is defined.
// What the kernel or a peer can cause is never an EXPECT: that is a result<T> or an ending (result.hpp).
//
// Two kernels can lie under the library: Linux, or a simulated one. Everything weir declares is in an inline
// namespace named after its kernel, so objects built for different kernels do not link with each other.

#ifdef WEIR_SIM
#define WEIR_KERNEL sim
#else
#define WEIR_KERNEL native
#endif

namespace weir::inline WEIR_KERNEL {

// Prints the broken fact and the words on stderr and aborts. Never returns, never allocates.
[[noreturn]] void contract_broken(const char* fact, const char* file, int line, const char* words = "") noexcept;

// Is told of a broken contract before the program is stopped; null: nobody is. One at a time. For the simulated kernel.
using contract_listener = void (*)(const char* fact, const char* words) noexcept;
void on_contract_broken(contract_listener listener) noexcept;

// The text of an errno, for `words` and log lines: strerror(3).
const char* error_text(int error) noexcept;

} // namespace weir::inline WEIR_KERNEL

#define EXPECT(fact, ...)                                                                                              \
    (__builtin_expect(!(fact), 0) ? ::weir::contract_broken(#fact, __FILE__, __LINE__ __VA_OPT__(, ) __VA_ARGS__)      \
                                  : void(0))

#ifdef NDEBUG
#define EXPECT_SLOW(fact, ...) static_cast<void>(sizeof(!(fact)))
#else
#define EXPECT_SLOW(fact, ...) EXPECT(fact __VA_OPT__(, ) __VA_ARGS__)
#endif
