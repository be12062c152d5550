// sys_sim: the simulated kernel behind the seam. Each call: the world goes on a little, the call is answered, both are
// written down. Sockets are in sys_sim_sockets.cc.

#include <cstdlib>
#include <utility>

#include "core/sim_crossing.hpp"
#include "core/sys.hpp"

namespace weir::inline WEIR_KERNEL::sys {

namespace {

int open_new(crossing& c, file* made) noexcept {
    const int fd = c.k.install(*made);
    if (fd < 0) delete made;
    return c.done(fd);
}

epoll_set* set_of(crossing& c, int epoll_fd) noexcept {
    file* f = c.k.at(epoll_fd);
    return f && f->what == file::kind::epoll && c.any() ? static_cast<epoll_set*>(f) : nullptr;
}

} // namespace

time_point now() noexcept { return kernel::current().time.now; }

int epoll_open() noexcept {
    crossing c{call::epoll_open, -1};
    if (const int error = c.planned()) return c.done(-error);
    if (c.strikes(fault::epoll_open_emfile)) return c.done(-EMFILE);
    return open_new(c, new epoll_set);
}

int epoll_add(int epoll_fd, int fd, std::uint32_t events, std::uint64_t data) noexcept {
    crossing c{call::epoll_add, fd, events};
    epoll_set* set = set_of(c, epoll_fd);
    if (!set) return c.broken(EBADF);
    static constexpr ways_to_fail ways[] = {{fault::epoll_add_enospc, ENOSPC}, {fault::epoll_add_enomem, ENOMEM}};
    if (const int error = c.planned()) return c.done(-error);
    if (const int error = draw_failure(c, ways)) return c.done(-error);
    const int r = set->add(fd, *c.any(), events, data);
    return r == -EEXIST ? c.broken(EEXIST) : c.done(r);
}

int epoll_change(int epoll_fd, int fd, std::uint32_t events, std::uint64_t data) noexcept {
    crossing c{call::epoll_change, fd, events};
    epoll_set* set = set_of(c, epoll_fd);
    if (!set) return c.broken(EBADF);
    if (const int error = c.planned()) return c.done(-error);
    if (c.strikes(fault::epoll_change_enomem)) return c.done(-ENOMEM);
    const int r = set->change(fd, *c.any(), events, data);
    return r == -ENOENT ? c.broken(ENOENT) : c.done(r);
}

int epoll_remove(int epoll_fd, int fd) noexcept {
    crossing c{call::epoll_remove, fd};
    epoll_set* set = set_of(c, epoll_fd);
    if (!set) return c.broken(EBADF);
    const int r = set->remove(fd, *c.any());
    return r == -ENOENT ? c.broken(ENOENT) : c.done(r);
}

namespace {

int answer_wait(crossing& c, int epoll_fd, epoll_event* events, int n, call what, std::int64_t timeout) noexcept {
    c.k.log.add({c.k.time.now, what, epoll_fd, timeout, n, nullptr});
    for (int i = 0; i < n; i++) // none of an interrupted one
        c.k.log.add({c.k.time.now, call::epoll_event, static_cast<int>(static_cast<std::uint32_t>(events[i].data.u64)),
                     static_cast<std::int64_t>(events[i].events), static_cast<std::int64_t>(events[i].data.u64 >> 32),
                     nullptr});
    return n;
}

} // namespace

int epoll_wait(int epoll_fd, epoll_event* events, int events_max, int timeout_ms) noexcept {
    crossing c{call::epoll_wait, epoll_fd, timeout_ms};
    epoll_set* set = c.as<epoll_set>(file::kind::epoll);
    if (!set) return c.broken(EBADF);
    const duration timeout = timeout_ms < 0 ? duration{-1} : milliseconds{timeout_ms};
    const int n = c.k.wait(*set, events, events_max, timeout);
    return answer_wait(c, epoll_fd, events, n, call::epoll_wait, timeout_ms);
}

int epoll_wait_precise(int epoll_fd, epoll_event* events, int events_max, duration timeout) noexcept {
    crossing c{call::epoll_wait_precise, epoll_fd, timeout.count()};
    epoll_set* set = c.as<epoll_set>(file::kind::epoll);
    if (!set) return c.broken(EBADF);
    if (const int error = c.planned()) return c.done(-error);
    const int n = c.k.wait(*set, events, events_max, timeout);
    return answer_wait(c, epoll_fd, events, n, call::epoll_wait_precise, timeout.count());
}

int epoll_busy_poll(int epoll_fd, const busy_poll& how) noexcept {
    crossing c{call::epoll_busy_poll, epoll_fd, how.usecs};
    if (!set_of(c, epoll_fd)) return c.broken(EBADF);
    if (const int error = c.planned()) return c.done(-error);
    constexpr std::uint16_t weight = 64; // NAPI_POLL_WEIGHT: beyond it only with CAP_NET_ADMIN, which nobody has here
    if (how.usecs > INT32_MAX) return c.done(-EINVAL);
    return c.done(how.budget > weight ? -EPERM : 0);
}

int eventfd_open() noexcept {
    crossing c{call::eventfd_open, -1};
    if (const int error = c.planned()) return c.done(-error);
    if (c.strikes(fault::eventfd_emfile)) return c.done(-EMFILE);
    return open_new(c, new counter_file);
}

int eventfd_ring(int fd) noexcept {
    crossing c{call::eventfd_ring, fd};
    auto* f = c.as<counter_file>(file::kind::event);
    if (!f) return c.not_that();
    // Full it can only be once it was rung.
    if (f->value > 0 && (c.planned() != 0 || c.strikes(fault::eventfd_eagain))) f->value = counter_file::value_max;
    if (f->value == counter_file::value_max) return c.done(-EAGAIN);
    f->value++;
    f->wake(EPOLLIN);
    return c.done(8);
}

int eventfd_reset(int fd) noexcept {
    crossing c{call::eventfd_reset, fd};
    auto* f = c.as<counter_file>(file::kind::event);
    if (!f) return c.not_that();
    if (c.planned() != 0) f->value = 0;
    if (std::exchange(f->value, 0) == 0) return c.done(-EAGAIN);
    f->wake(EPOLLOUT);
    return c.done(8);
}

int signal_open(const sigset_t& signals) noexcept {
    crossing c{call::signal_open, -1};
    if (const int error = c.planned()) return c.done(-error);
    if (c.strikes(fault::signalfd_emfile)) return c.done(-EMFILE);
    return open_new(c, new signal_file(signals));
}

void block_signals(const sigset_t&) noexcept {}

int signal_read(int fd) noexcept {
    crossing c{call::signal_read, fd};
    auto* f = c.as<signal_file>(file::kind::signals);
    if (!f) return c.not_that();
    if (f->pending == 0) return c.done(-EAGAIN);
    const int signal = __builtin_ctzll(f->pending) + 1;
    f->pending &= f->pending - 1;
    return c.done(signal);
}

// The simulated kernel has one thread; others are steps between its calls (sim_kernel.hpp).
int thread_start(thread&, void* (*)(void*), void*) noexcept { return -EAGAIN; }
void thread_join(thread) noexcept {}

int cpus_allowed() noexcept {
    crossing c{call::cpus_allowed, -1};
    if (const int error = c.planned()) return c.done(-error);
    return c.done(2);
}
void sleep_precisely() noexcept {} // time that is simulated has no slack
void relax() noexcept { kernel::current().relax(); }

void* map(std::size_t bytes) noexcept {
    crossing c{call::map, -1, static_cast<std::int64_t>(bytes)};
    const bool refused = c.planned() != 0 || c.strikes(fault::map_enomem);
    return c.done(refused ? -ENOMEM : 0) < 0 ? nullptr : c.k.map(bytes);
}
void* map_wiped_on_fork(std::size_t bytes) noexcept { return map(bytes); } // nothing forks here
void unmap(void* at, std::size_t) noexcept { kernel::current().unmap(at); }
std::int64_t own_user() noexcept { return kernel::current().net.user; }
int descriptor_limit() noexcept { return kernel::current().descriptors_max(); }
int raise_descriptor_limit() noexcept { return descriptor_limit(); }

int open_append(const char*) noexcept {
    crossing c{call::open_append, -1};
    if (const int error = c.planned()) return c.done(-error);
    return open_new(c, new plain_file);
}

count write(int fd, const void*, std::size_t bytes) noexcept {
    crossing c{call::write, fd, static_cast<std::int64_t>(bytes)};
    auto* f = c.as<plain_file>(file::kind::plain);
    if (!f) return c.not_that();
    if (const int error = c.planned()) return c.done(count{-error});
    f->bytes_count += bytes;
    return c.done(static_cast<count>(bytes));
}

int unlink_socket(const char* path) noexcept {
    crossing c{call::unlink_socket, -1};
    if (const int error = c.planned()) return c.done(-error);
    return c.done(c.k.net.unlink(path));
}

// Files have no users here.
int set_socket_access(const char* path, std::int32_t, std::int64_t, std::int64_t) noexcept {
    crossing c{call::set_socket_access, -1};
    if (const int error = c.planned()) return c.done(-error);
    return c.done(c.k.net.has_path(path) ? 0 : -ENOENT);
}

} // namespace weir::inline WEIR_KERNEL::sys
