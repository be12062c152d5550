// count_allocations: preloaded into a program, it counts what the program takes from the heap.
//
//     LD_PRELOAD=libcount_allocations.so COUNT_ALLOCATIONS=/tmp/counter weir-gateway ...
//
// The file holds one 64-bit number, which is always current: it is mapped, so another process reads it whenever it
// likes, and counting needs no signal and no call into the program. operator new ends in malloc, so it is counted too.

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

// glibc's own allocator, under the names it keeps for replacements like this one.
extern "C" void* __libc_malloc(std::size_t);
extern "C" void* __libc_calloc(std::size_t, std::size_t);
extern "C" void* __libc_realloc(void*, std::size_t);
extern "C" void* __libc_memalign(std::size_t, std::size_t);

namespace {

using counter = std::atomic<std::uint64_t>;
static_assert(counter::is_always_lock_free);

constinit counter until_mapped{0};
constinit std::atomic<counter*> count{&until_mapped};

[[gnu::constructor]] void map_counter() {
    const char* path = std::getenv("COUNT_ALLOCATIONS");
    if (!path) return;
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(counter)) != 0) std::abort();
    void* at = mmap(nullptr, sizeof(counter), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) std::abort();
    close(fd);
    count = static_cast<counter*>(at);
    count.load()->fetch_add(until_mapped.load());
}

void* counted(void* block) {
    count.load(std::memory_order_relaxed)->fetch_add(1, std::memory_order_relaxed);
    return block;
}

} // namespace

extern "C" {

void* malloc(std::size_t bytes) { return counted(__libc_malloc(bytes)); }
void* calloc(std::size_t items, std::size_t bytes) { return counted(__libc_calloc(items, bytes)); }
void* realloc(void* old, std::size_t bytes) { return counted(__libc_realloc(old, bytes)); }
void* memalign(std::size_t alignment, std::size_t bytes) { return counted(__libc_memalign(alignment, bytes)); }
void* aligned_alloc(std::size_t alignment, std::size_t bytes) { return counted(__libc_memalign(alignment, bytes)); }
int posix_memalign(void** to, std::size_t alignment, std::size_t bytes) {
    *to = counted(__libc_memalign(alignment, bytes));
    return *to ? 0 : ENOMEM;
}
}
