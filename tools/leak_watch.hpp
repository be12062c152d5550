#pragma once
// leak_watch: what a process has open, seen from outside: /proc/PID/fd, the kernel's table of TCP sockets, memory.
//
// Owner: nobody; values. Allocation: as /proc needs it.

#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <sys/types.h>

#include "core/endpoint.hpp"
#include "core/loop.hpp"

namespace weir::inline WEIR_KERNEL::tools {

// One line of /proc/net/tcp or tcp6.
struct tcp_socket {
    endpoint local, remote;
    int state = 0; // of the kernel's enum: 1 ESTABLISHED, ... 8 CLOSE_WAIT, ...
    std::uint64_t inode = 0;
};
inline constexpr int tcp_close_wait = 8;
const char* tcp_state_name(int state) noexcept;

// Every TCP socket of the process's network that a process holds, by inode. The rest (TIME_WAIT, orphans) have none.
using tcp_table = std::unordered_map<std::uint64_t, tcp_socket>;
tcp_table read_tcp_table(pid_t pid); // 0: of our own
// The unix sockets of the same, connected ones, by inode.
std::unordered_set<std::uint64_t> read_unix_table(pid_t pid);

struct open_descriptor {
    int fd;
    std::string target;                   // of the link in /proc/PID/fd: "socket:[4711]"
    std::uint64_t inode() const noexcept; // 0: no socket
    friend bool operator==(const open_descriptor&, const open_descriptor&) = default;
};

// By number. Empty: the process is gone, or not ours to look at.
std::vector<open_descriptor> open_descriptors(pid_t pid);

// Resident bytes; 0: not to be read.
std::uint64_t resident_bytes(pid_t pid);

// Those of `fresh` that are not in `known`.
std::vector<open_descriptor> without(const std::vector<open_descriptor>& fresh,
                                     const std::vector<open_descriptor>& known);

// What a process keeps open, sorted by what may be said of it.
struct suspects {
    std::vector<std::string> leaked{};       // "fd 17 socket:[4711] 127.0.0.1:80 - 127.78.0.1:40112 CLOSE_WAIT"
    std::vector<std::string> maybe_pooled{}; // established, and not with a client: may be kept for later
    std::vector<open_descriptor> pooled{};   // the same
    std::size_t close_wait = 0;
};
// `door`: where the process's clients connect to; unspecified: nothing is taken for pooled.
suspects judge(const std::vector<open_descriptor>& kept, pid_t pid, const endpoint& door);

// Without a pid: the sockets of whoever listens at `door` whose peer has ended and that are kept.
suspects stuck_at(const endpoint& door);

// The process under test.
struct subject {
    pid_t pid = 0;        // 0: not known
    endpoint door{};      // of a target: what is open there is a client's; unspecified: nothing may be kept at all
    std::size_t pool = 0; // connections that it may keep, in all
    std::vector<open_descriptor> known{};  // open before, and so no leak of what comes
    std::vector<open_descriptor> pooled{}; // of these, what earlier endings have left: it counts against `pool`
};

// What was open when the storm ended and still is when it was given `settle` to let go.
suspects rest(event_loop& loop, const subject& s, duration settle);

} // namespace weir::inline WEIR_KERNEL::tools
