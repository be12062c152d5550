// failures_memory: the program's operator new. It counts every block; those asked for with std::nothrow, which are the
// library's (the simulator's throw), it can refuse.

#include <cstdlib>
#include <new>

#include "sim/failures.hpp"

namespace {

std::int64_t blocks = 0;
std::uint64_t asked = 0, fails_at = 0;
bool fails_on = false, failed = false;

void* take(std::size_t bytes, std::size_t align) noexcept {
    void* at = std::aligned_alloc(align, (bytes + align - 1) / align * align);
    if (at) blocks++;
    return at;
}
void* take_or_refuse(std::size_t bytes, std::size_t align) noexcept {
    asked++;
    if (fails_at != 0 && (asked == fails_at || (fails_on && asked > fails_at))) {
        failed = true;
        return nullptr;
    }
    return take(bytes, align);
}
void* take_or_die(std::size_t bytes, std::size_t align) noexcept {
    void* at = take(bytes, align);
    if (!at) std::abort();
    return at;
}
void give_back(void* at) noexcept {
    if (at) blocks--;
    std::free(at);
}
constexpr std::size_t plain = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

} // namespace

namespace failures {

void fail_allocation(std::uint64_t nth, planned_failure::extent extent) noexcept {
    asked = 0;
    failed = false;
    fails_at = nth;
    fails_on = extent == planned_failure::extent::from_then_on;
}
void heal_allocations() noexcept { fails_at = 0; }
std::uint64_t allocations_count() noexcept { return asked; }
bool allocation_failed() noexcept { return failed; }
std::int64_t heap_balance() noexcept { return blocks; }

} // namespace failures

using std::align_val_t, std::nothrow_t, std::size_t;
void* operator new(size_t n) { return take_or_die(n, plain); }
void* operator new[](size_t n) { return take_or_die(n, plain); }
void* operator new(size_t n, align_val_t a) { return take_or_die(n, static_cast<size_t>(a)); }
void* operator new[](size_t n, align_val_t a) { return take_or_die(n, static_cast<size_t>(a)); }
void* operator new(size_t n, const nothrow_t&) noexcept { return take_or_refuse(n, plain); }
void* operator new[](size_t n, const nothrow_t&) noexcept { return take_or_refuse(n, plain); }
void* operator new(size_t n, align_val_t a, const nothrow_t&) noexcept {
    return take_or_refuse(n, static_cast<size_t>(a));
}
void* operator new[](size_t n, align_val_t a, const nothrow_t&) noexcept {
    return take_or_refuse(n, static_cast<size_t>(a));
}
void operator delete(void* at) noexcept { give_back(at); }
void operator delete[](void* at) noexcept { give_back(at); }
void operator delete(void* at, size_t) noexcept { give_back(at); }
void operator delete[](void* at, size_t) noexcept { give_back(at); }
void operator delete(void* at, align_val_t) noexcept { give_back(at); }
void operator delete[](void* at, align_val_t) noexcept { give_back(at); }
void operator delete(void* at, size_t, align_val_t) noexcept { give_back(at); }
void operator delete[](void* at, size_t, align_val_t) noexcept { give_back(at); }
