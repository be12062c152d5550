// counting: a table of the live blocks, fed by malloc and free.

#include "support/counting.hpp"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include <dlfcn.h>
#include <pthread.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZER_OWNS_MALLOC
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZER_OWNS_MALLOC
#endif

namespace support {
namespace {

// Nothing in here may allocate, and all of it is in place before the first constructor runs.

struct block {
    std::uintptr_t address; // complemented, so that LeakSanitizer does not take this table for a reference; 0: none
    std::size_t bytes;
};

constexpr std::size_t table_size = std::size_t{1} << 18;
constexpr std::size_t table_limit = table_size / 4 * 3;
constinit std::array<block, table_size> table{}; // open addressing, linear probing
constinit std::size_t blocks_live = 0;

constinit std::atomic<std::uint64_t> count{0};
constinit std::atomic<bool> watching{false};
constinit thread_local int forgiving = 0;

// A mutex might allocate, and a test may fork while it is held by nobody.
constinit std::atomic_flag table_busy = ATOMIC_FLAG_INIT;
struct table_lock {
    table_lock() noexcept {
        while (table_busy.test_and_set(std::memory_order_acquire)) {
        }
    }
    table_lock(const table_lock&) = delete;
    table_lock& operator=(const table_lock&) = delete;
    ~table_lock() { table_busy.clear(std::memory_order_release); }
};

std::uintptr_t key_of(const volatile void* at) noexcept {
    return ~reinterpret_cast<std::uintptr_t>(at);
}

std::size_t home_of(std::uintptr_t key) noexcept {
    return (key >> 4) * 0x9E3779B97F4A7C15u >> (64 - 18);
}

std::size_t next(std::size_t index) noexcept {
    return (index + 1) % table_size;
}

// Where `key` is, or the free place where it would be.
std::size_t find(std::uintptr_t key) noexcept {
    std::size_t at = home_of(key);
    while (table[at].address != 0 && table[at].address != key)
        at = next(at);
    return at;
}

// Closes the gap: what probed past `hole` moves back into it.
void erase(std::size_t hole) noexcept {
    for (std::size_t at = next(hole); table[at].address != 0; at = next(at)) {
        const std::size_t home = home_of(table[at].address);
        const bool reaches_past_hole = (at - home) % table_size >= (at - hole) % table_size;
        if (!reaches_past_hole) continue;
        table[hole] = table[at];
        hole = at;
    }
    table[hole] = {};
    blocks_live--;
}

void allocated(const volatile void* at, std::size_t bytes) noexcept {
    if (!at) return;
    count.fetch_add(1, std::memory_order_relaxed);
    if (!watching.load(std::memory_order_relaxed) || forgiving > 0) return;

    const table_lock lock;
    if (blocks_live == table_limit) {
        std::fputs("tests/support/counting: a test case holds more blocks than the table has room for\n", stderr);
        std::abort();
    }
    table[find(key_of(at))] = {.address = key_of(at), .bytes = bytes};
    blocks_live++;
}

// Comes before the real free: right after it another thread may own the same address. Answers how big the block was
// if it was watched, so that a realloc which failed can put it back.
std::size_t freed(const volatile void* at) noexcept {
    if (!at || !watching.load(std::memory_order_relaxed)) return 0;

    const table_lock lock;
    const std::size_t index = find(key_of(at));
    if (table[index].address == 0) return 0; // allocated before the watch, or forgiven
    const std::size_t bytes = table[index].bytes;
    erase(index);
    return bytes;
}

} // namespace

std::uint64_t allocation_count() noexcept {
    return count.load(std::memory_order_relaxed);
}

forgiven::forgiven() noexcept {
    forgiving++;
}
forgiven::~forgiven() {
    forgiving--;
}

void watch_allocations() noexcept {
    watching.store(true);
}

survivors stop_watching() noexcept {
    watching.store(false);

    const table_lock lock;
    survivors left;
    for (std::size_t i = 0; blocks_live > 0; i++) {
        if (table[i].address == 0) continue;
        if (left.count < left.sizes.size()) left.sizes[left.count] = table[i].bytes;
        left.count++;
        left.bytes += table[i].bytes;
        table[i] = {}; // the whole table goes, so no chain is left to be broken
        blocks_live--;
    }
    return left;
}

} // namespace support

#ifdef SANITIZER_OWNS_MALLOC

// Declared here, as g++ comes without <sanitizer/allocator_interface.h>.
extern "C" int __interceptor_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) noexcept;
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*allocated)(const volatile void*, std::size_t),
                                                         void (*freed)(const volatile void*));

namespace {
[[maybe_unused]] const int hooks_installed = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void* at, std::size_t bytes) { support::allocated(at, bytes); },
    [](const volatile void* at) { support::freed(at); });
}

#elif defined(__GLIBC__)

// glibc's own names for its allocator: nothing to look up, so nothing to allocate before the first call.
extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t n, std::size_t bytes);
void* __libc_realloc(void* at, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);
void __libc_free(void* at);

void* malloc(std::size_t bytes) noexcept {
    void* at = __libc_malloc(bytes);
    support::allocated(at, bytes);
    return at;
}

void* calloc(std::size_t n, std::size_t bytes) noexcept {
    void* at = __libc_calloc(n, bytes);
    support::allocated(at, n * bytes);
    return at;
}

void* realloc(void* old, std::size_t bytes) noexcept {
    const std::size_t old_bytes = support::freed(old);
    void* at = __libc_realloc(old, bytes);
    if (at)
        support::allocated(at, bytes);
    else if (old_bytes > 0 && bytes > 0)
        support::allocated(old, old_bytes);
    return at;
}

void* memalign(std::size_t alignment, std::size_t bytes) noexcept {
    void* at = __libc_memalign(alignment, bytes);
    support::allocated(at, bytes);
    return at;
}

void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
    return memalign(alignment, bytes);
}

int posix_memalign(void** out, std::size_t alignment, std::size_t bytes) noexcept {
    if (alignment % sizeof(void*) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0) return EINVAL;
    void* at = memalign(alignment, bytes);
    if (!at) return ENOMEM;
    *out = at;
    return 0;
}

void free(void* at) noexcept {
    support::freed(at);
    __libc_free(at);
}
} // extern "C"

#endif

// glibc keeps the stacks of ended threads for the next ones, and with each a heap block for its thread_locals.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) noexcept {
#ifdef SANITIZER_OWNS_MALLOC
    const auto real = __interceptor_pthread_create;
#else
    static const auto real = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
#endif
    const support::forgiven its_thread_locals;
    return real(thread, attributes, body, argument);
}
