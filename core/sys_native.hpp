#pragma once
// sys_native: Linux behind the seam. Part of sys.hpp: include that.
//
// Everything is inline, so that the seam costs nothing.

namespace weir::inline WEIR_KERNEL::sys {

namespace detail {
inline int value_or_error(int returned) noexcept { return returned < 0 ? -errno : returned; }

// Repeats a call that a signal interrupted before it did anything.
template <class Call>
inline auto repeat(Call call) noexcept {
    for (;;) {
        const auto returned = call();
        if (returned >= 0) return returned;
        if (errno != EINTR) return static_cast<decltype(returned)>(-errno);
    }
}
} // namespace detail

inline time_point now() noexcept {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return time_point{seconds{t.tv_sec} + duration{t.tv_nsec}};
}

inline int epoll_open() noexcept { return detail::value_or_error(::epoll_create1(EPOLL_CLOEXEC)); }

inline int epoll_add(int epoll_fd, int fd, std::uint32_t events, std::uint64_t data) noexcept {
    epoll_event e{.events = events, .data = {.u64 = data}};
    return detail::value_or_error(::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e));
}

inline int epoll_change(int epoll_fd, int fd, std::uint32_t events, std::uint64_t data) noexcept {
    epoll_event e{.events = events, .data = {.u64 = data}};
    return detail::value_or_error(::epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &e));
}

inline int epoll_remove(int epoll_fd, int fd) noexcept {
    epoll_event unused{}; // Linux before 2.6.9 read it, epoll_ctl(2)
    return detail::value_or_error(::epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, &unused));
}

inline int epoll_wait(int epoll_fd, epoll_event* events, int events_max, int timeout_ms) noexcept {
    return detail::value_or_error(::epoll_wait(epoll_fd, events, events_max, timeout_ms));
}

inline int epoll_wait_precise(int epoll_fd, epoll_event* events, int events_max, duration timeout) noexcept {
    const auto whole = std::chrono::duration_cast<seconds>(timeout);
    const timespec t{.tv_sec = whole.count(), .tv_nsec = (timeout - whole).count()};
    return detail::value_or_error(::epoll_pwait2(epoll_fd, events, events_max, &t, nullptr));
}

// struct epoll_params and EPIOCSPARAMS of <linux/eventpoll.h>, which has them since 6.9.
struct busy_poll_params {
    std::uint32_t usecs;
    std::uint16_t budget;
    std::uint8_t prefer, zero;
};
static_assert(sizeof(busy_poll_params) == 8, "Linux reads eight bytes");
inline constexpr unsigned long set_busy_poll = _IOW(0x8A, 0x01, busy_poll_params);

inline int epoll_busy_poll(int epoll_fd, const busy_poll& how) noexcept {
    const busy_poll_params params{how.usecs, how.budget, how.prefer, 0};
    return detail::value_or_error(::ioctl(epoll_fd, set_busy_poll, &params));
}

inline int eventfd_open() noexcept { return detail::value_or_error(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

inline int eventfd_ring(int fd) noexcept {
    const std::uint64_t one = 1;
    return static_cast<int>(detail::repeat([&] { return ::write(fd, &one, sizeof one); }));
}

inline int eventfd_reset(int fd) noexcept {
    std::uint64_t rings;
    return static_cast<int>(detail::repeat([&] { return ::read(fd, &rings, sizeof rings); }));
}

inline int signal_open(const sigset_t& signals) noexcept {
    return detail::value_or_error(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

inline void block_signals(const sigset_t& signals) noexcept { ::pthread_sigmask(SIG_BLOCK, &signals, nullptr); }

inline int signal_read(int fd) noexcept {
    signalfd_siginfo info;
    const auto n = detail::repeat([&] { return ::read(fd, &info, sizeof info); });
    return n < 0 ? static_cast<int>(n) : static_cast<int>(info.ssi_signo);
}

inline int socket(int family, int type) noexcept {
    return detail::value_or_error(::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

inline int bind(int fd, const sockaddr* address, socklen_t bytes) noexcept {
    return detail::value_or_error(::bind(fd, address, bytes));
}

inline int listen(int fd, int backlog) noexcept { return detail::value_or_error(::listen(fd, backlog)); }

inline int accept(int fd, sockaddr* peer, socklen_t* bytes) noexcept {
    return detail::repeat([&] { return ::accept4(fd, peer, bytes, SOCK_NONBLOCK | SOCK_CLOEXEC); });
}

inline int connect(int fd, const sockaddr* address, socklen_t bytes) noexcept {
    if (::connect(fd, address, bytes) == 0) return 0;
    return errno == EINTR ? -EINPROGRESS : -errno;
}

inline int shutdown_send(int fd) noexcept { return detail::value_or_error(::shutdown(fd, SHUT_WR)); }

inline int close(int fd) noexcept { return detail::value_or_error(::close(fd)); }

inline count recv(int fd, void* to, std::size_t bytes) noexcept {
    return detail::repeat([&] { return ::recv(fd, to, bytes, 0); });
}

// Without room for descriptors they are closed, and the kernel says so.
inline count recv_uncut(int fd, void* to, std::size_t bytes, bool& is_cut) noexcept {
    iovec part{.iov_base = to, .iov_len = bytes};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    const count n = detail::repeat([&] { return ::recvmsg(fd, &message, 0); });
    is_cut = n > 0 && (message.msg_flags & MSG_CTRUNC) != 0;
    return n;
}

inline count peek(int fd) noexcept {
    char byte;
    return detail::repeat([&] { return ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT); });
}

inline count discard(int fd, std::size_t bytes) noexcept {
    return detail::repeat([&] { return ::recv(fd, nullptr, bytes, MSG_TRUNC | MSG_DONTWAIT); });
}

inline count send(int fd, const void* from, std::size_t bytes, bool more) noexcept {
    const int flags = MSG_NOSIGNAL | (more ? MSG_MORE : 0);
    return detail::repeat([&] { return ::send(fd, from, bytes, flags); });
}

inline count send_parts(int fd, const iovec* parts, std::size_t parts_count, bool more) noexcept {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(parts); // sendmsg(2) does not write to it
    message.msg_iovlen = parts_count;
    const int flags = MSG_NOSIGNAL | (more ? MSG_MORE : 0);
    return detail::repeat([&] { return ::sendmsg(fd, &message, flags); });
}

inline count send_with(int fd, const void* from, std::size_t bytes, const int* fds, std::size_t fds_count) noexcept {
    iovec part{.iov_base = const_cast<void*>(from), .iov_len = bytes}; // sendmsg(2) does not write to it
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * pass_max)]{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fds_count > 0) {
        if (fds_count > pass_max) return -EINVAL; // as the kernel answers
        const std::size_t fds_bytes = sizeof(int) * fds_count;
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(fds_bytes);
        cmsghdr* rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds_bytes);
        __builtin_memcpy(CMSG_DATA(rights), fds, fds_bytes);
    }
    return detail::repeat([&] { return ::sendmsg(fd, &message, MSG_NOSIGNAL); });
}

// The room is for all that one message can have, so what is cut off was cut for want of descriptors.
inline count recv_with(int fd, void* to, std::size_t bytes, passed_fds& passed) noexcept {
    iovec part{.iov_base = to, .iov_len = bytes};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * pass_max)];
    msghdr message{};
    passed.fds_count = 0;
    passed.is_cut = false;
    const count n = detail::repeat([&] {
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        return ::recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    });
    if (n < 0) return n;
    passed.is_cut = (message.msg_flags & MSG_CTRUNC) != 0;
    for (cmsghdr* at = CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at)) {
        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t fds_bytes = at->cmsg_len - CMSG_LEN(0);
        __builtin_memcpy(passed.fds + passed.fds_count, CMSG_DATA(at), fds_bytes);
        passed.fds_count += fds_bytes / sizeof(int);
    }
    return n;
}

inline int pipe_open(int (&ends)[2]) noexcept { return detail::value_or_error(::pipe2(ends, O_CLOEXEC | O_NONBLOCK)); }

inline count splice(int from, int to, std::size_t bytes) noexcept {
    constexpr unsigned flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;
    return detail::repeat([&] { return ::splice(from, nullptr, to, nullptr, bytes, flags); });
}

inline int set_pipe_room(int fd, int bytes) noexcept {
    return detail::value_or_error(::fcntl(fd, F_SETPIPE_SZ, bytes));
}

inline void block_pipe_signal() noexcept {
    static thread_local constinit bool is_blocked = false;
    if (is_blocked) return;
    is_blocked = true;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    block_signals(set);
}

inline int set_option(int fd, int level, int name, int value) noexcept {
    return detail::value_or_error(::setsockopt(fd, level, name, &value, sizeof value));
}

inline int set_abortive(int fd) noexcept {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    return detail::value_or_error(::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
}

inline int set_nonblocking(int fd) noexcept {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0) return -errno;
    return detail::value_or_error(::fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

inline bool is_listening(int fd) noexcept {
    int listens = 0;
    socklen_t bytes = sizeof listens;
    return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &bytes) == 0 && listens != 0;
}

inline bool is_readable(int fd) noexcept {
    pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&one, 1, 0) != 0;
}

inline int socket_error(int fd) noexcept {
    int error = 0;
    socklen_t bytes = sizeof error;
    return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) < 0 ? errno : error;
}

inline int local_name(int fd, sockaddr* address, socklen_t* bytes) noexcept {
    return detail::value_or_error(::getsockname(fd, address, bytes));
}

inline int peer_name(int fd, sockaddr* address, socklen_t* bytes) noexcept {
    return detail::value_or_error(::getpeername(fd, address, bytes));
}

inline std::int64_t peer_user(int fd) noexcept {
    ucred who{};
    socklen_t bytes = sizeof who;
    return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) < 0 ? -errno : std::int64_t{who.uid};
}

// The head of struct tcp_info as far as tcpi_bytes_acked (linux/tcp.h since 4.1). glibc's <netinet/tcp.h> ends
// before that field, and <linux/tcp.h> cannot be included beside it.
struct tcp_info_head {
    std::uint8_t bytes_0[8];
    std::uint32_t words_8[24];
    std::uint64_t pacing_rate, max_pacing_rate, bytes_acked;
};
static_assert(offsetof(tcp_info_head, bytes_acked) == 120, "where Linux puts tcpi_bytes_acked");

inline std::int64_t bytes_acked(int fd) noexcept {
    tcp_info_head info{};
    socklen_t bytes = sizeof info;
    if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) < 0) return -errno;
    return bytes < sizeof info ? -ENOPROTOOPT : static_cast<std::int64_t>(info.bytes_acked);
}

inline std::int64_t send_queue(int fd) noexcept {
    int bytes = 0;
    return ::ioctl(fd, TIOCOUTQ, &bytes) < 0 ? -errno : std::int64_t{bytes}; // SIOCOUTQ by its older name, tcp(7)
}

// A new thread has the mask of the one that starts it.
inline int thread_start(thread& made, void* (*run)(void*), void* argument) noexcept {
    sigset_t all, before;
    sigfillset(&all);
    if (const int error = ::pthread_sigmask(SIG_BLOCK, &all, &before)) return -error;
    const int error = ::pthread_create(&made, nullptr, run, argument);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return -error;
}

inline void thread_join(thread made) noexcept { ::pthread_join(made, nullptr); }

inline int cpus_allowed() noexcept {
    cpu_set_t sets[8]; // 8,192 processors are the most that Linux can be built for
    CPU_ZERO_S(sizeof sets, sets);
    if (::sched_getaffinity(::getpid(), sizeof sets, sets) < 0) return -errno;
    return CPU_COUNT_S(sizeof sets, sets);
}

inline void sleep_precisely() noexcept { ::prctl(PR_SET_TIMERSLACK, 1ul); }

inline void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield" ::: "memory");
#endif
}

inline void* map(std::size_t bytes) noexcept {
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : at;
}

inline void* map_wiped_on_fork(std::size_t bytes) noexcept {
    void* at = map(bytes);
    if (at && ::madvise(at, bytes, MADV_WIPEONFORK) < 0) {
        ::munmap(at, bytes);
        return nullptr;
    }
    return at;
}

inline void unmap(void* at, std::size_t bytes) noexcept { ::munmap(at, bytes); }

inline std::int64_t own_user() noexcept { return std::int64_t{::geteuid()}; }

inline int descriptor_limit() noexcept {
    rlimit limit;
    if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
    return limit.rlim_cur > 1 << 30 ? 1 << 30 : static_cast<int>(limit.rlim_cur);
}

inline int raise_descriptor_limit() noexcept {
    rlimit limit;
    if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
    limit.rlim_cur = limit.rlim_max;
    if (::setrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
    return descriptor_limit();
}

inline int open_append(const char* path) noexcept {
    return detail::repeat([&] { return ::open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0644); });
}

inline count write(int fd, const void* from, std::size_t bytes) noexcept {
    return detail::repeat([&] { return ::write(fd, from, bytes); });
}

inline int unlink_socket(const char* path) noexcept {
    struct stat what;
    if (::lstat(path, &what) < 0) return -errno;
    if (!S_ISSOCK(what.st_mode)) return -ENOTSOCK;
    return detail::value_or_error(::unlink(path));
}

// The owner first: whoever gives a file away must still own it to set its mode, but for root. glibc sets the mode of a
// file that is no link by /proc; where that is not mounted (EOPNOTSUPP), by its name.
inline int set_socket_access(const char* path, std::int32_t mode, std::int64_t user, std::int64_t group) noexcept {
    struct stat what;
    if (::lstat(path, &what) < 0) return -errno;
    if (!S_ISSOCK(what.st_mode)) return -ENOTSOCK;
    const auto uid = static_cast<uid_t>(user);
    const auto gid = static_cast<gid_t>(group);
    if (user >= 0 || group >= 0)
        if (::fchownat(AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW) < 0) return -errno;
    if (mode < 0) return 0;
    const auto bits = static_cast<mode_t>(mode);
    if (::fchmodat(AT_FDCWD, path, bits, AT_SYMLINK_NOFOLLOW) == 0) return 0;
    return errno == EOPNOTSUPP ? detail::value_or_error(::chmod(path, bits)) : -errno;
}

} // namespace weir::inline WEIR_KERNEL::sys
