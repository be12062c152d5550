// allocations: I5. Once everything is open, a turn takes nothing from the heap. What the simulated kernel and the peers
// take is not the library's, and happens within calls.

#include <cstddef>
#include <cstdlib>
#include <new>

#include "sim/world.hpp"

namespace {

bool in_turn = false;

void* take(std::size_t bytes, std::size_t align = alignof(std::max_align_t)) noexcept {
    weir::kernel* k = weir::kernel::current_or_null();
    if (in_turn && k && !k->is_at_work()) {
        in_turn = false; // the report may allocate
        k->violate("I5", "memory was allocated in a turn");
    }
    return std::aligned_alloc(align, (bytes + align - 1) / align * align);
}

} // namespace

namespace simtest {

no_allocations::no_allocations() noexcept { in_turn = true; }
no_allocations::~no_allocations() { in_turn = false; }

} // namespace simtest

void* operator new(std::size_t bytes) {
    if (void* at = take(bytes)) return at;
    std::abort();
}
void* operator new[](std::size_t bytes) { return operator new(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void* operator new(std::size_t bytes, std::align_val_t align) {
    if (void* at = take(bytes, static_cast<std::size_t>(align))) return at;
    std::abort();
}
void* operator new[](std::size_t bytes, std::align_val_t align) { return operator new(bytes, align); }
void* operator new(std::size_t bytes, std::align_val_t align, const std::nothrow_t&) noexcept {
    return take(bytes, static_cast<std::size_t>(align));
}
void* operator new[](std::size_t bytes, std::align_val_t align, const std::nothrow_t&) noexcept {
    return take(bytes, static_cast<std::size_t>(align));
}
void operator delete(void* at, std::align_val_t) noexcept { std::free(at); }
void operator delete[](void* at, std::align_val_t) noexcept { std::free(at); }
void operator delete(void* at, std::size_t, std::align_val_t) noexcept { std::free(at); }
void operator delete[](void* at, std::size_t, std::align_val_t) noexcept { std::free(at); }
void operator delete(void* at) noexcept { std::free(at); }
void operator delete[](void* at) noexcept { std::free(at); }
void operator delete(void* at, std::size_t) noexcept { std::free(at); }
void operator delete[](void* at, std::size_t) noexcept { std::free(at); }
