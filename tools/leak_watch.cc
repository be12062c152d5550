// leak_watch: reading /proc.

#include "tools/leak_watch.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <dirent.h>

namespace weir::inline WEIR_KERNEL::tools {

namespace {

using file = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;
file open_text(const std::string& path) { return {std::fopen(path.c_str(), "re"), std::fclose}; }

// "0100007F:1F90" or 32 digits before the colon: words of the address as the machine sees them, in network order.
endpoint parse_endpoint(const char* digits, unsigned port) noexcept {
    std::array<std::uint8_t, 16> bytes{};
    const std::size_t words = std::strlen(digits) / 8;
    for (std::size_t i = 0; i < words && i < 4; i++) {
        const std::string word{digits + 8 * i, 8};
        const auto value = static_cast<std::uint32_t>(std::strtoul(word.c_str(), nullptr, 16));
        std::memcpy(bytes.data() + 4 * i, &value, 4);
    }
    if (words == 4) return endpoint::ipv6(bytes, static_cast<std::uint16_t>(port));
    const std::uint32_t host =
        std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 | std::uint32_t{bytes[2]} << 8 | bytes[3];
    return endpoint::ipv4(host, static_cast<std::uint16_t>(port));
}

void read_tcp_into(tcp_table& to, const char* path) {
    const file in = open_text(path);
    if (!in) return;
    char line[512];
    while (std::fgets(line, sizeof line, in.get())) {
        char local[40], remote[40];
        unsigned local_port = 0, remote_port = 0, state = 0;
        std::uint64_t inode = 0;
        const int n = std::sscanf(line, " %*u: %39[0-9A-F]:%x %39[0-9A-F]:%x %x %*s %*s %*s %*u %*u %" SCNu64, local,
                                  &local_port, remote, &remote_port, &state, &inode);
        if (n != 6 || inode == 0) continue;
        to[inode] = {.local = parse_endpoint(local, local_port),
                     .remote = parse_endpoint(remote, remote_port),
                     .state = static_cast<int>(state),
                     .inode = inode};
    }
}

std::string describe(const open_descriptor& d, const tcp_socket* s) {
    std::string text = "fd " + std::to_string(d.fd) + " " + d.target;
    if (!s) return d.inode() ? text + " (closed, or not of TCP)" : text; // a socket that is reset is in no table
    char local[endpoint::text_max], remote[endpoint::text_max];
    return text.append(" ")
        .append(s->local.text(local))
        .append(" - ")
        .append(s->remote.text(remote))
        .append(" ")
        .append(tcp_state_name(s->state));
}

} // namespace

const char* tcp_state_name(int state) noexcept {
    static constexpr const char* names[] = {"?",          "ESTABLISHED", "SYN_SENT",  "SYN_RECV",
                                            "FIN_WAIT1",  "FIN_WAIT2",   "TIME_WAIT", "CLOSED",
                                            "CLOSE_WAIT", "LAST_ACK",    "LISTEN",    "CLOSING"};
    return state > 0 && state < static_cast<int>(std::size(names)) ? names[state] : names[0];
}

tcp_table read_tcp_table(pid_t pid) {
    const std::string net = pid > 0 ? "/proc/" + std::to_string(pid) + "/net/" : "/proc/net/"; // its namespace
    tcp_table table;
    read_tcp_into(table, (net + "tcp").c_str());
    read_tcp_into(table, (net + "tcp6").c_str());
    return table;
}

std::unordered_set<std::uint64_t> read_unix_table(pid_t pid) {
    std::unordered_set<std::uint64_t> table;
    const file in = open_text(pid > 0 ? "/proc/" + std::to_string(pid) + "/net/unix" : "/proc/net/unix");
    char line[512];
    while (in && std::fgets(line, sizeof line, in.get())) {
        unsigned state = 0;
        std::uint64_t inode = 0;
        constexpr unsigned connected = 3;
        if (std::sscanf(line, "%*x: %*x %*x %*x %*x %x %" SCNu64, &state, &inode) == 2 && state == connected)
            table.insert(inode);
    }
    return table;
}

std::uint64_t open_descriptor::inode() const noexcept {
    constexpr std::string_view prefix = "socket:[";
    if (!target.starts_with(prefix)) return 0;
    return std::strtoull(target.c_str() + prefix.size(), nullptr, 10);
}

std::vector<open_descriptor> open_descriptors(pid_t pid) {
    const std::string root = "/proc/" + std::to_string(pid) + "/fd";
    const std::unique_ptr<DIR, int (*)(DIR*)> dir{::opendir(root.c_str()), ::closedir};
    std::vector<open_descriptor> found;
    if (!dir) return found;
    while (const dirent* entry = ::readdir(dir.get())) {
        if (entry->d_name[0] == '.') continue;
        char target[256];
        const ssize_t n = ::readlinkat(::dirfd(dir.get()), entry->d_name, target, sizeof target);
        if (n > 0) found.push_back({std::atoi(entry->d_name), {target, static_cast<std::size_t>(n)}});
    }
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.fd < b.fd; });
    return found;
}

std::uint64_t resident_bytes(pid_t pid) {
    const std::string root = "/proc/" + std::to_string(pid);
    // smaps_rollup counts pages; VmRSS is summed from counters that lag behind by some.
    for (const auto& [path, format] : {std::pair{root + "/smaps_rollup", "Rss: %" SCNu64 " kB"},
                                       std::pair{root + "/status", "VmRSS: %" SCNu64 " kB"}}) {
        const file in = open_text(path);
        char line[256];
        std::uint64_t kb = 0;
        while (in && std::fgets(line, sizeof line, in.get()))
            if (std::sscanf(line, format, &kb) == 1) return kb * 1024;
    }
    return 0;
}

std::vector<open_descriptor> without(const std::vector<open_descriptor>& fresh,
                                     const std::vector<open_descriptor>& known) {
    std::vector<open_descriptor> rest;
    const auto by_number = [](const open_descriptor& x, const open_descriptor& y) { return x.fd < y.fd; };
    for (const open_descriptor& d : fresh) {
        const auto at = std::lower_bound(known.begin(), known.end(), d, by_number);
        if (at == known.end() || *at != d) rest.push_back(d);
    }
    return rest;
}

suspects judge(const std::vector<open_descriptor>& kept, pid_t pid, const endpoint& door) {
    suspects found;
    if (kept.empty()) return found;
    const tcp_table table = read_tcp_table(pid);
    const auto unix_table = read_unix_table(pid);
    for (const open_descriptor& d : kept) {
        const auto at = table.find(d.inode());
        const tcp_socket* s = at == table.end() ? nullptr : &at->second;
        const bool is_close_wait = s && s->state == tcp_close_wait;
        if (is_close_wait) found.close_wait++;
        const bool is_client = s && door.specified() && s->local.port() == door.port();
        const bool is_connection = s ? !is_close_wait && !is_client : unix_table.contains(d.inode());
        const bool may_be_kept = door.specified() && is_connection;
        (may_be_kept ? found.maybe_pooled : found.leaked).push_back(describe(d, s));
        if (may_be_kept) found.pooled.push_back(d);
    }
    return found;
}

suspects stuck_at(const endpoint& door) {
    suspects found;
    for (const auto& [inode, s] : read_tcp_table(0)) {
        if (s.state != tcp_close_wait || s.local.port() != door.port()) continue;
        found.close_wait++;
        found.leaked.push_back(describe({-1, "socket:[" + std::to_string(inode) + "]"}, &s));
    }
    return found;
}

static suspects look(const subject& s, const std::vector<open_descriptor>& kept,
                     const std::vector<open_descriptor>& open) {
    if (s.pid == 0) return stuck_at(s.door);
    suspects found = judge(kept, s.pid, s.door);
    const std::size_t still_pooled = s.pooled.size() - without(s.pooled, open).size();
    if (still_pooled + found.maybe_pooled.size() > s.pool)
        found.leaked.insert(found.leaked.end(), found.maybe_pooled.begin(), found.maybe_pooled.end());
    return found;
}

// The kernel's table of sockets is long after a storm: it is read only once the descriptors have come to rest.
suspects rest(event_loop& loop, const subject& s, duration settle) {
    constexpr duration pass = milliseconds{30};
    const time_point until = sys::now() + settle;
    std::vector<open_descriptor> kept = without(open_descriptors(s.pid), s.known);
    for (;;) {
        for (const time_point end = sys::now() + pass; sys::now() < end;)
            loop.turn(milliseconds{1}); // our own side lets go, too
        const auto open = open_descriptors(s.pid);
        if (s.pid && open.empty()) return {.leaked = {"process " + std::to_string(s.pid) + " is gone"}};
        const std::size_t before = kept.size();
        kept = without(kept, without(kept, open)); // those that are in both
        const bool is_over = sys::now() >= until;
        if (kept.size() != before && !is_over) continue;
        suspects found = look(s, kept, open);
        if (found.leaked.empty() || is_over) return found;
    }
}

} // namespace weir::inline WEIR_KERNEL::tools
