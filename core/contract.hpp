#pragma once
// contract: what a caller must keep, checked in every build.
//
// EXPECT states one fact that holds unless the caller made a mistake; a false one prints the fact and where it
// stands, and aborts. EXPECT_SLOW is for facts whose check shows in a profile: on unless NDEBUG is defined.
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

// Prints the broken fact on stderr and aborts. Never returns, never allocates.
[[noreturn]] void contract_broken(const char* fact, const char* file, int line) noexcept;

} // namespace weir::inline WEIR_KERNEL

#define EXPECT(fact) (__builtin_expect(!(fact), 0) ? ::weir::contract_broken(#fact, __FILE__, __LINE__) : void(0))

#ifdef NDEBUG
#define EXPECT_SLOW(fact) static_cast<void>(sizeof(!(fact)))
#else
#define EXPECT_SLOW(fact) EXPECT(fact)
#endif
