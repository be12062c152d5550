// real_machine: Linux, by loopback and unix sockets.

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include <poll.h>

#include "core/sys.hpp"
#include "sim/machine.hpp"

namespace conform {

namespace {

namespace sys = weir::sys;

constexpr int room_bytes = 32 * 1024; // fixed, so that a full buffer is found soon

struct address {
    sockaddr_storage bytes{};
    socklen_t size = 0;
    sockaddr* get() { return reinterpret_cast<sockaddr*>(&bytes); }
};

class real_machine final : public machine {
  public:
    explicit real_machine(int pause_ms) : epoll_(sys::epoll_open()), pause_ms_(pause_ms) {}
    ~real_machine() override {
        for (const int fd : open_) {
            sys::set_abortive(fd); // no TIME_WAIT: there are many scripts
            sys::close(fd);
        }
        sys::close(epoll_);
    }

    int socket(family f) override {
        const int fd = keep(sys::socket(f == family::tcp ? AF_INET : AF_UNIX, SOCK_STREAM));
        if (f != family::tcp) return fd;
        sys::set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        sys::set_option(fd, SOL_SOCKET, SO_SNDBUF, room_bytes);
        sys::set_option(fd, SOL_SOCKET, SO_RCVBUF, room_bytes);
        return fd;
    }
    int pair(int (&ends)[2]) override {
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0) return -errno;
        keep(ends[0]);
        keep(ends[1]);
        return 0;
    }
    int listen(family f, int name, int backlog) override {
        const int fd = socket(f);
        address& at = addresses_[name];
        at = {};
        if (f == family::tcp) {
            auto* v4 = reinterpret_cast<sockaddr_in*>(&at.bytes);
            v4->sin_family = AF_INET;
            v4->sin_addr.s_addr = htonl(0x7f000001u);
            at.size = sizeof *v4;
        } else {
            static unsigned count = 0;
            auto* un = reinterpret_cast<sockaddr_un*>(&at.bytes);
            un->sun_family = AF_UNIX;
            const int n =
                std::snprintf(un->sun_path + 1, sizeof un->sun_path - 1, "weir-conform-%d-%u", getpid(), count++);
            at.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + static_cast<std::size_t>(n));
        }
        if (const int r = listen_at(fd, at, backlog); r < 0) return r;
        sys::local_name(fd, at.get(), &at.size);
        return fd;
    }
    int listen_again(family f, int name) override {
        const int fd = socket(f);
        const int r = listen_at(fd, addresses_[name], 4);
        if (r < 0) close(fd);
        return r < 0 ? r : fd;
    }
    int connect(int fd, family, int name) override {
        return sys::connect(fd, addresses_[name].get(), addresses_[name].size);
    }
    int accept(int fd) override { return keep(sys::accept(fd, nullptr, nullptr)); }
    int dup(int fd) override {
        const int made = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
        return made < 0 ? -errno : keep(made);
    }
    int close(int fd) override {
        open_.erase(fd);
        return sys::close(fd);
    }
    int abort(int fd) override {
        sys::set_abortive(fd);
        return close(fd);
    }
    int shutdown_send(int fd) override { return sys::shutdown_send(fd); }
    long send(int fd, const char* from, std::size_t bytes) override { return sys::send(fd, from, bytes, false); }
    long recv(int fd, char* to, std::size_t bytes) override { return sys::recv(fd, to, bytes); }
    long peek(int fd) override { return sys::peek(fd); }
    long discard(int fd, std::size_t bytes) override { return sys::discard(fd, bytes); }
    long pass(int from, int to, std::size_t bytes, int times) override {
        int pipe[2]; // a new one: what is stuck in it goes with it
        if (const int r = sys::pipe_open(pipe); r < 0) return r;
        const long r = pass_through(pipe, from, to, bytes, times, [this](int a, int b, std::size_t n) {
            settle();
            return sys::splice(a, b, n);
        });
        sys::close(pipe[0]);
        sys::close(pipe[1]);
        return r;
    }
    long send_with(int fd, const char* from, std::size_t bytes, int passed) override {
        return sys::send_with(fd, from, bytes, &passed, 1);
    }
    long recv_with(int fd, char* to, std::size_t bytes, std::vector<int>& got) override {
        sys::passed_fds passed;
        const long n = sys::recv_with(fd, to, bytes, passed);
        for (std::size_t i = 0; n >= 0 && i < passed.fds_count; i++)
            got.push_back(keep(passed.fds[i]));
        return n;
    }
    int counter() override { return keep(sys::eventfd_open()); }
    int ring(int fd) override { return sys::eventfd_ring(fd); }
    int reset(int fd) override { return sys::eventfd_reset(fd); }
    kind_of_fd what_is(int fd) override {
        int domain = 0;
        socklen_t size = sizeof domain;
        if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0) return {family::none, role::counter, -1};
        const family kind = domain == AF_INET ? family::tcp : family::local;
        if (!sys::is_listening(fd)) return {kind, role::stream, -1};
        address at;
        at.size = sizeof at.bytes;
        sys::local_name(fd, at.get(), &at.size);
        for (const auto& [name, known] : addresses_)
            if (known.size == at.size && std::memcmp(&known.bytes, &at.bytes, at.size) == 0)
                return {kind, role::listener, name};
        return {kind, role::listener, -1};
    }
    int socket_error(int fd) override { return sys::socket_error(fd); }
    int peer_name(int fd) override {
        address at;
        at.size = sizeof at.bytes;
        return sys::peer_name(fd, at.get(), &at.size);
    }
    std::uint32_t poll(int fd) override {
        pollfd p{.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP, .revents = 0};
        ::poll(&p, 1, 0);
        return static_cast<std::uint32_t>(p.revents); // POLLIN is EPOLLIN, and so on
    }
    int add(int fd, std::uint32_t events, std::uint64_t data) override {
        return sys::epoll_add(epoll_, fd, events, data);
    }
    int change(int fd, std::uint32_t events, std::uint64_t data) override {
        return sys::epoll_change(epoll_, fd, events, data);
    }
    int remove(int fd) override { return sys::epoll_remove(epoll_, fd); }
    int wait(report* reports, int reports_max) override {
        epoll_event events[64];
        const int n = sys::epoll_wait(epoll_, events, reports_max, 0);
        for (int i = 0; i < n; i++)
            reports[i] = {events[i].data.u64, events[i].events};
        return n;
    }
    void settle() override {
        if (pause_ms_ > 0) ::poll(nullptr, 0, pause_ms_);
    }

  private:
    static int listen_at(int fd, address& at, int backlog) {
        sys::set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
        const int r = sys::bind(fd, at.get(), at.size);
        return r < 0 ? r : sys::listen(fd, backlog);
    }
    int keep(int fd) {
        if (fd >= 0) open_.insert(fd);
        return fd;
    }
    int epoll_;
    int pause_ms_;
    std::set<int> open_;
    std::map<int, address> addresses_;
};

} // namespace

std::unique_ptr<machine> make_real(int pause_ms) { return std::make_unique<real_machine>(pause_ms); }

} // namespace conform
