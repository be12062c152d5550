// process: say, listen, stop, report.

#include "tools/process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "proto/tcp.hpp"
#include "proto/unix.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

const char* program = "weir";
constexpr int exit_failed = 1;

constexpr int say_wait_ms = 1000;

// One write per line: threads and other programs may share stderr. At most PIPE_BUF bytes, which poll(2) promises.
void print_line(const char* format, va_list values) noexcept {
    char line[4096];
    int at = std::snprintf(line, sizeof line, "%s: ", program);
    at = std::min<int>(at, sizeof line - 2);
    at += std::vsnprintf(line + at, sizeof line - 1 - static_cast<std::size_t>(at), format, values);
    at = std::min<int>(at, sizeof line - 2);
    line[at++] = '\n';
    pollfd what{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (::poll(&what, 1, say_wait_ms) == 0) return; // nobody reads it, and there is no other place to say so
    [[maybe_unused]] const sys::count n = sys::write(STDERR_FILENO, line, static_cast<std::size_t>(at));
}

} // namespace

void name_program(const char* name) noexcept { program = name; }
const char* program_name() noexcept { return program; }

void hold_standard_descriptors() noexcept {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (::fcntl(fd, F_GETFD) >= 0) continue;
        if (::open("/dev/null", O_RDWR) == fd) continue; // the lowest number that is free: open(2)
        fail("descriptor %d is closed, and /dev/null cannot be opened for it", fd);
    }
}

void say(const char* format, ...) noexcept {
    va_list values;
    va_start(values, format);
    print_line(format, values);
    va_end(values);
}

void fail(const char* format, ...) noexcept {
    va_list values;
    va_start(values, format);
    print_line(format, values);
    static std::atomic_flag is_ending;
    while (is_ending.test_and_set()) // exit(3) is for one thread
        ::pause();
    std::exit(exit_failed);
}

std::uint32_t prepare_process() noexcept {
    std::signal(SIGPIPE, SIG_IGN);
    const int limit = sys::raise_descriptor_limit();
    if (limit < 0) fail("the descriptor limit cannot be read: %s", std::strerror(-limit));
    return static_cast<std::uint32_t>(limit);
}

const ctrl& family_of(const listen_place& place) noexcept {
    if (place.fd < 0) return *place.at.family;
    auto local = local_endpoint(place.fd);
    if (!local) fail("cannot listen at %s: %s", place.text, std::strerror(local.error()));
    return local.value().family() == AF_UNIX ? unix_stream : tcp;
}

void open_listener_at(listener& at, const listen_place& place, const listener_options& how, listener::accepted callback,
                      void* owner) noexcept {
    result<void> r;
    if (place.fd >= 0) {
        r = at.adopt(unique_fd{place.fd}, family_of(place), how, callback, owner);
    } else {
        listener_options own = how;
        own.socket.file = place.file;
        r = at.open(*place.at.family, place.at.at, own, callback, owner);
    }
    if (!r) fail("cannot listen at %s: %s", place.text, std::strerror(r.error()));
}

void announce(const endpoint& at) noexcept {
    char text[endpoint::text_max];
    const std::string_view local = at.text(text);
    say("listening on %.*s", static_cast<int>(local.size()), local.data());
}

namespace {

struct drain_order {
    drain_callback drain = nullptr;
    void* owner = nullptr;
};
constinit drain_order order;

// From the first signal on, the next one acts as a signal does: even a loop that hangs is ended by it.
void first_stop_signal(void*, int) noexcept {
    sigset_t both;
    sigemptyset(&both);
    for (const int signal : {SIGTERM, SIGINT}) {
        std::signal(signal, [](int) { ::_exit(exit_failed); });
        sigaddset(&both, signal);
    }
    ::pthread_sigmask(SIG_UNBLOCK, &both, nullptr);
    order.drain(order.owner);
}

} // namespace

void on_stop_signal(event_loop& loop, drain_callback drain, void* owner) noexcept {
    EXPECT(drain != nullptr);
    order = {.drain = drain, .owner = owner};
    for (const int signal : {SIGTERM, SIGINT})
        if (auto r = loop.on_signal(signal, first_stop_signal, nullptr); !r)
            fail("signals cannot be received: %s", std::strerror(r.error()));
}

void socket_file_kept::remember(const endpoint& at) noexcept {
    at_ = {};
    struct stat what {};
    if (at.family() != AF_UNIX || !*at.path() || ::lstat(at.path(), &what) < 0) return;
    at_ = at;
    device_ = what.st_dev;
    inode_ = what.st_ino;
}

void socket_file_kept::remove() noexcept {
    struct stat what {};
    if (!at_.specified() || ::lstat(at_.path(), &what) < 0) return;
    if (what.st_dev == device_ && what.st_ino == inode_) sys::unlink_socket(at_.path()); // it is gone, or stays
    at_ = {};
}

unique_fd duplicate(int fd) noexcept {
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) fail("descriptor %d cannot be duplicated: %s", fd, std::strerror(errno));
    return unique_fd{copy};
}

} // namespace weir::inline WEIR_KERNEL::tools
