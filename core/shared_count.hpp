#pragma once
// shared_count: a number that one thread changes and any thread may read, at no cost: a plain load and store.
//
// For counters of one loop that are added up over several. Relaxed: what is read is a value that it had, and says
// nothing about any other.

#include <atomic>
#include <cstdint>

namespace weir::inline WEIR_KERNEL {

template <class T>
class shared_count {
  public:
    constexpr shared_count() noexcept = default;
    shared_count(const shared_count&) = delete;
    shared_count& operator=(const shared_count&) = delete;

    operator T() const noexcept { return value_.load(std::memory_order_relaxed); }

    // The owner's thread.
    void operator++(int) noexcept { *this += 1; }
    void operator--(int) noexcept { *this -= 1; }
    void operator+=(T by) noexcept { value_.store(static_cast<T>(*this + by), std::memory_order_relaxed); }
    void operator-=(T by) noexcept { value_.store(static_cast<T>(*this - by), std::memory_order_relaxed); }

  private:
    std::atomic<T> value_{0};
};
using counter = shared_count<std::uint64_t>;

} // namespace weir::inline WEIR_KERNEL
