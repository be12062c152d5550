#pragma once
// counting: how often this process allocated, and which blocks a stretch of a test left behind.
//
// Every way to the heap is seen: malloc and its kin are defined here, and new, strdup or getaddrinfo end in them. Under
// AddressSanitizer and ThreadSanitizer, which own malloc, the sanitizer's hooks report the same. A program that
// links counting.cc needs nothing else. Thread: any.

#include <array>
#include <cstddef>
#include <cstdint>

namespace support {

// Allocations in this process so far, in all threads. For "this stretch allocates nothing":
//
//     const auto before = allocation_count();
//     ...
//     CHECK(allocation_count() == before);
std::uint64_t allocation_count() noexcept;

// While one lives, blocks that this thread allocates are not missed when they outlive the test case. For what a
// library keeps to itself by design: a locale, a resolver's configuration. allocation_count() still counts them.
class [[nodiscard]] forgiven {
  public:
    forgiven() noexcept;
    forgiven(const forgiven&) = delete;
    forgiven& operator=(const forgiven&) = delete;
    ~forgiven();
};

// Blocks allocated since watch_allocations() and not freed by the call of survivors(). One watch at a time; it covers
// all threads, so threads that a test started must have been joined.
struct survivors {
    std::size_t count = 0;
    std::size_t bytes = 0;
    std::array<std::size_t, 8> sizes{}; // of the first few, to recognise them by
};
void watch_allocations() noexcept;
survivors stop_watching() noexcept;

} // namespace support
