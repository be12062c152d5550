#pragma once
// sys: the one seam to the kernel. No other file includes a socket, epoll, signal or clock header.
//
// A function is one system call, or one option of it, and returns its value or -errno. A few are more: resolve, which
// allocates, blocks and asks the network; thread_start; unlink_socket, set_nonblocking and raise_descriptor_limit,
// which look first. None touches the process's signal dispositions. EINTR ends here: what may be repeated is repeated;
// close() is not (the descriptor is gone, close(2)), and an interrupted connect() goes on by itself (EINPROGRESS,
// connect(2)). Only the two calls that wait for epoll answer -EINTR, because their time-out would begin anew.
// Every descriptor made here is close-on-exec, every socket non-blocking.
//
// Thread: any. Owner: the caller of what a function returns (unique_fd.hpp).

#include <cstddef>
#include <cstdint>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL::sys {

// A byte count, or -errno.
using count = std::ptrdiff_t;

// --- time
time_point now() noexcept; // CLOCK_MONOTONIC
inline constexpr clock real_clock{.now = [](const clock&) noexcept { return now(); }, .is_fake = false};

// --- readiness: epoll(7), eventfd(2), signalfd(2)
int epoll_open() noexcept;
int epoll_add(int epoll_fd, int fd, std::uint32_t events, std::uint64_t data) noexcept;
int epoll_change(int epoll_fd, int fd, std::uint32_t events, std::uint64_t data) noexcept;
int epoll_remove(int epoll_fd, int fd) noexcept;
// -EINTR: a signal ended the wait, and nothing was looked at. SIGCONT does so without a handler, signal(7). Never with a
// time-out of 0.
int epoll_wait(int epoll_fd, epoll_event* events, int events_max, int timeout_ms) noexcept;
// The same to the nanosecond, epoll_pwait2(2). Besides -ENOSYS: Linux before 5.11; -EPERM: a filter that does not know it.
int epoll_wait_precise(int epoll_fd, epoll_event* events, int events_max, duration timeout) noexcept;
// Asks the network cards for packets while it waits. -ENOTTY: Linux before 6.9; -EOPNOTSUPP: built without;
// -EPERM: a budget above 64 without CAP_NET_ADMIN; -EINVAL: a number out of range.
struct busy_poll {
    std::uint32_t usecs = 0;  // how long without an interrupt; 0: off
    std::uint16_t budget = 8; // packets at a time
    bool prefer = false;      // the cards' interrupts stay off as long as this goes on
};
int epoll_busy_poll(int epoll_fd, const busy_poll& how) noexcept;
int eventfd_open() noexcept;
int eventfd_ring(int fd) noexcept; // -EAGAIN: the counter is saturated
int eventfd_reset(int fd) noexcept;
int signal_open(const sigset_t& signals) noexcept;    // it reads those that are blocked
void block_signals(const sigset_t& signals) noexcept; // in this thread, beside those that are
int signal_read(int fd) noexcept;                     // a signal number, or -EAGAIN

// --- sockets: how they come and go
int socket(int family, int type) noexcept; // type: SOCK_STREAM, ...
int bind(int fd, const sockaddr* address, socklen_t bytes) noexcept;
int listen(int fd, int backlog) noexcept;
int accept(int fd, sockaddr* peer, socklen_t* bytes) noexcept; // a new descriptor
int connect(int fd, const sockaddr* address, socklen_t bytes) noexcept;
int shutdown_send(int fd) noexcept;
int close(int fd) noexcept; // whatever it returns, fd is gone

// --- sockets: bytes
count recv(int fd, void* to, std::size_t bytes) noexcept;
// The same. is_cut: descriptors came with these bytes and were closed, so that the read ended behind them, whatever is
// queued: MSG_CTRUNC, recvmsg(2), unix(7). With SO_PASSCRED, and so in doubt, always true.
count recv_uncut(int fd, void* to, std::size_t bytes, bool& is_cut) noexcept;
count peek(int fd) noexcept;                       // one byte, left where it is
count discard(int fd, std::size_t bytes) noexcept; // MSG_TRUNC: TCP throws away uncopied, tcp(7)
count send(int fd, const void* from, std::size_t bytes, bool more) noexcept; // never raises SIGPIPE; more: MSG_MORE
count send_parts(int fd, const iovec* parts, std::size_t parts_count, bool more) noexcept;

// --- descriptors that go to another process: unix(7), SCM_RIGHTS
inline constexpr std::size_t pass_max = 253; // in one message: SCM_MAX_FD
struct passed_fds {
    int fds[pass_max]; // the first fds_count are open, and the caller's to close
    std::size_t fds_count;
    bool is_cut; // more were sent than could be had (MSG_CTRUNC): this process is short of descriptors
};
// The descriptors go with the first byte: a short send has passed them all. They stay open here. -ETOOMANYREFS: too
// many are on their way.
count send_with(int fd, const void* from, std::size_t bytes, const int* fds, std::size_t fds_count) noexcept;
// Reads no further than the end of the send that had descriptors with it. On error there are none. What recv() reads
// loses its descriptors.
count recv_with(int fd, void* to, std::size_t bytes, passed_fds& passed) noexcept;

// --- bytes that stay in the kernel: pipe(7), splice(2)
int pipe_open(int (&ends)[2]) noexcept; // [0] is read, [1] written; both non-blocking
// One of the two is a pipe. -EAGAIN does not say which of them could not: a full pipe answers it whatever the socket
// holds, an end or an error too. A socket that is gone raises SIGPIPE in this thread, unless it is blocked or ignored.
count splice(int from, int to, std::size_t bytes) noexcept;
int set_pipe_room(int fd, int bytes) noexcept; // rounded up; what it is now, or -EPERM, -EBUSY, fcntl(2)
// SIGPIPE stays pending in this thread, for good. A system call the first time, then none.
void block_pipe_signal() noexcept;

// --- sockets: facts and options
int set_option(int fd, int level, int name, int value) noexcept;
int set_abortive(int fd) noexcept; // close() sends RST: SO_LINGER {1, 0}
int set_nonblocking(int fd) noexcept;
bool is_listening(int fd) noexcept; // SO_ACCEPTCONN
bool is_readable(int fd) noexcept;  // poll(2), without waiting; of a listener: accept() has an answer. In doubt: true
int socket_error(int fd) noexcept;  // SO_ERROR, which it clears: an errno, 0: none
int local_name(int fd, sockaddr* address, socklen_t* bytes) noexcept;
int peer_name(int fd, sockaddr* address, socklen_t* bytes) noexcept;
// Ports from which connect(2) takes one: net.ipv4.ip_local_port_range, of IPv6 too, ip(7). A value, or -errno where
// there is no /proc.
struct port_range {
    std::uint16_t first = 1;
    std::uint16_t last = 65535;
};
int local_ports(port_range& to) noexcept;
std::int64_t peer_user(int fd) noexcept;   // SO_PEERCRED: whose process connected, or listened, unix(7)
std::int64_t bytes_acked(int fd) noexcept; // TCP_INFO tcpi_bytes_acked (RFC 4898)
// SIOCOUTQ, of a connected stream socket: what send() accepted and the peer has not taken. TCP, tcp(7): bytes that are
// not acknowledged, and one for a FIN. Unix: the memory of the sends that are not read to their end, more than their
// bytes. -EINVAL: a listener; -ENOTTY: no socket.
std::int64_t send_queue(int fd) noexcept;

// --- threads: pthreads(7)
using thread = pthread_t;
int thread_start(thread& made, void* (*run)(void*), void* argument) noexcept; // all signals blocked in it; -EAGAIN
void thread_join(thread made) noexcept;
// How many processors the process's first thread may use, sched_getaffinity(2); of another one, which may be pinned,
// that would say nothing about those that give it work.
int cpus_allowed() noexcept;
void sleep_precisely() noexcept; // this thread's waits end on time, not up to 50 us later: PR_SET_TIMERSLACK, prctl(2)
void relax() noexcept; // between two looks at memory that another thread writes: the processor may rest a little

// Tells threads apart that live at the same time. No system call: the address of what each has one of. Out of line: a
// variable in a header would be another one in a program that hides its symbols from the shared library.
using thread_mark = const void*;
thread_mark this_thread() noexcept;

// --- the process
void* map(std::size_t bytes) noexcept;               // zeroed, touched lazily; null: no memory
void* map_wiped_on_fork(std::size_t bytes) noexcept; // a child of fork() sees zeroes, madvise(2)
void unmap(void* at, std::size_t bytes) noexcept;
std::int64_t own_user() noexcept;      // geteuid(2)
int descriptor_limit() noexcept;       // RLIMIT_NOFILE, soft
int raise_descriptor_limit() noexcept; // soft to hard; the new soft limit
int open_append(const char* path) noexcept; // -ENXIO: a pipe that nobody reads, open(2); a pipe is non-blocking
count write(int fd, const void* from, std::size_t bytes) noexcept;
int unlink_socket(const char* path) noexcept; // -ENOTSOCK: something else lives there
// Of a socket file, exactly, whatever the umask; -1 leaves one of them as it is. Follows no link. -EPERM, -ENOTSOCK, ...
int set_socket_access(const char* path, std::int32_t mode, std::int64_t user, std::int64_t group) noexcept;
// getaddrinfo(3): the addresses of a name, in its order, at most addresses_max. How many were stored, at least one;
// -ENOENT: none. Families without an address of this machine (AI_ADDRCONFIG) are not left out: that would also hide ::1
// of localhost from a machine that has IPv4 only, and an address that cannot be reached costs one failed connect.
struct resolved {
    sockaddr_storage address;
    socklen_t bytes;
};
int resolve(const char* host, const char* port, resolved* to, std::size_t addresses_max) noexcept;

} // namespace weir::inline WEIR_KERNEL::sys

#ifndef WEIR_SIM // then the simulated kernel answers: sys_sim.cc
#include "core/sys_native.hpp"
#include "core/sys_native_names.hpp"
#endif
