#pragma once
// pool: room for a fixed number of objects of one type, taken from the system once.
//
// make() answers null when the pool is full: that is a normal ending, and the caller sheds. Memory is mapped at
// construction but touched only when used, and the object freed last is handed out first, so a pool sized for the
// worst case costs what its peak cost. Objects never move. Not for threads: a pool belongs to one loop. Objects that are
// still there when the pool dies are destroyed.
//
// In a build with AddressSanitizer a cell without an object is poisoned: the use of a freed object is reported.

#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>

#include "core/contract.hpp"
#include "core/shared_count.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define WEIR_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WEIR_POISONS 1
#endif
#endif
#ifdef WEIR_POISONS // of sanitizer/asan_interface.h
extern "C" void __asan_poison_memory_region(const volatile void* at, std::size_t bytes);
extern "C" void __asan_unpoison_memory_region(const volatile void* at, std::size_t bytes);
#endif

namespace weir::inline WEIR_KERNEL {

namespace detail {
inline void poison([[maybe_unused]] const void* at, [[maybe_unused]] std::size_t bytes) noexcept {
#ifdef WEIR_POISONS
    __asan_poison_memory_region(at, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* at, [[maybe_unused]] std::size_t bytes) noexcept {
#ifdef WEIR_POISONS
    __asan_unpoison_memory_region(at, bytes);
#endif
}
} // namespace detail

template <class T>
class fixed_pool {
  public:
    // The only allocation. `capacity` > 0. Without memory for it the pool is full from the start: capacity() is 0.
    explicit fixed_pool(std::size_t capacity) noexcept
        : cells_(static_cast<cell*>(
              ::operator new (capacity * sizeof(cell), std::align_val_t{alignof(cell)}, std::nothrow))),
          capacity_(capacity) {
        EXPECT(capacity > 0);
        if (!cells_) capacity_ = 0;
        detail::poison(cells_, capacity_ * sizeof(cell));
    }
    fixed_pool(const fixed_pool&) = delete;
    fixed_pool& operator=(const fixed_pool&) = delete;
    ~fixed_pool() {
        detail::unpoison(cells_, capacity_ * sizeof(cell));
        if constexpr (!std::is_trivially_destructible_v<T>) destroy_rest();
        ::operator delete (cells_, std::align_val_t{alignof(cell)});
    }

    // A new object, null when the pool is full.
    template <class... Args>
    [[nodiscard]] T* make(Args&&... args) noexcept {
        cell* at = free_;
        if (at) {
            detail::unpoison(at, sizeof(cell));
            free_ = at->next_free;
        } else {
            if (touched_ == capacity_) return nullptr;
            at = &cells_[touched_++];
            detail::unpoison(at, sizeof(cell));
        }
        used_++;
        return ::new (at->bytes) T{std::forward<Args>(args)...};
    }

    // `object` came from this pool's make().
    void free(T& object) noexcept {
        EXPECT_SLOW(owns(object));
        object.~T();
        cell* at = reinterpret_cast<cell*>(&object);
        at->next_free = free_;
        free_ = at;
        used_--;
        detail::poison(at, sizeof(cell));
    }

    // Which of its capacity() places the object has: the same as long as it lives, and no other's.
    std::size_t index_of(const T& object) const noexcept {
        EXPECT_SLOW(owns(object));
        return static_cast<std::size_t>(reinterpret_cast<const cell*>(&object) - cells_);
    }

    std::size_t capacity() const noexcept { return capacity_; }
    std::size_t used() const noexcept { return used_; }
    bool full() const noexcept { return used_ == capacity_; }

  private:
    union cell {
        cell* next_free;
        alignas(T) std::byte bytes[sizeof(T)];
    };

    // Destroys what nobody has freed. The free cells, in the order of their addresses, tell which those are.
    void destroy_rest() noexcept {
        if (used_ == 0) return;
        cell* free = sorted(free_, touched_ - used_);
        for (cell* at = cells_; at < cells_ + touched_; at++) {
            if (at == free) free = free->next_free;
            else std::launder(reinterpret_cast<T*>(at->bytes))->~T();
        }
    }
    // A merge sort of the first `count` cells of a list, which is cut behind them.
    static cell* sorted(cell*& first, std::size_t count) noexcept {
        if (count == 0) return nullptr;
        if (count == 1) {
            cell* only = first;
            first = first->next_free;
            only->next_free = nullptr;
            return only;
        }
        cell* a = sorted(first, count / 2);
        cell* b = sorted(first, count - count / 2);
        cell* merged = nullptr;
        cell** end = &merged;
        while (a && b) {
            cell*& lower = a < b ? a : b;
            *end = lower;
            end = &lower->next_free;
            lower = *end;
        }
        *end = a ? a : b;
        return merged;
    }

    bool owns(const T& object) const noexcept {
        const auto at = reinterpret_cast<std::uintptr_t>(&object);
        const auto first = reinterpret_cast<std::uintptr_t>(cells_);
        return at >= first && at < first + capacity_ * sizeof(cell) && (at - first) % sizeof(cell) == 0;
    }

    cell* cells_;
    std::size_t capacity_;
    std::size_t touched_ = 0; // cells beyond this one were never used
    shared_count<std::size_t> used_;
    cell* free_ = nullptr;
};

} // namespace weir::inline WEIR_KERNEL
