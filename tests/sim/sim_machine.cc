// sim_machine: the simulated kernel, behind the same calls.

#include <weir/sim.hpp>

#include "sim/machine.hpp"

namespace conform {

namespace {

namespace sys = weir::sys;
using weir::endpoint;

class sim_machine final : public machine {
  public:
    explicit sim_machine(std::uint64_t seed) : kernel_(options(seed)), epoll_(sys::epoll_open()) {}

    int socket(family f) override { return sys::socket(f == family::tcp ? AF_INET : AF_UNIX, SOCK_STREAM); }
    int pair(int (&ends)[2]) override { return kernel_.pair(AF_UNIX, ends); }
    int listen(family f, int name, int backlog) override {
        const int fd = socket(f);
        const endpoint at = named(f, name);
        if (const int r = sys::bind(fd, at.data(), at.size()); r < 0) return r;
        const int r = sys::listen(fd, backlog);
        return r < 0 ? r : fd;
    }
    int listen_again(family f, int name) override {
        const int fd = socket(f);
        const endpoint at = named(f, name);
        int r = sys::bind(fd, at.data(), at.size());
        if (r == 0) r = sys::listen(fd, 4);
        if (r < 0) sys::close(fd);
        return r < 0 ? r : fd;
    }
    int connect(int fd, family f, int name) override {
        const endpoint at = named(f, name);
        return sys::connect(fd, at.data(), at.size());
    }
    int accept(int fd) override { return sys::accept(fd, nullptr, nullptr); }
    int dup(int fd) override { return kernel_.dup(fd); }
    int close(int fd) override { return sys::close(fd); }
    int abort(int fd) override {
        sys::set_abortive(fd);
        return sys::close(fd);
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
            got.push_back(passed.fds[i]);
        return n;
    }
    int counter() override { return sys::eventfd_open(); }
    int ring(int fd) override { return sys::eventfd_ring(fd); }
    int reset(int fd) override { return sys::eventfd_reset(fd); }
    kind_of_fd what_is(int) override { return {family::none, role::counter, -1}; }
    int socket_error(int fd) override { return sys::socket_error(fd); }
    int peer_name(int fd) override {
        sockaddr_storage at;
        socklen_t size = sizeof at;
        return sys::peer_name(fd, reinterpret_cast<sockaddr*>(&at), &size);
    }
    std::uint32_t poll(int fd) override { return kernel_.at(fd)->poll(); }
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
    void settle() override {}

  private:
    static weir::kernel_options options(std::uint64_t seed) {
        return {.seed = seed,
                .call_max = weir::duration{},
                .swarm = false,
                .strict = false,
                .network = {.buffer_bytes_min = 65536, .buffer_bytes_max = 65536}};
    }
    static endpoint named(family f, int name) {
        if (f == family::tcp) return endpoint::ipv4(0x7f000001, static_cast<std::uint16_t>(10'000 + name));
        char path[16] = "@";
        std::snprintf(path + 1, sizeof path - 1, "%d", name);
        return endpoint::unix_path(path).value();
    }

    weir::kernel kernel_;
    int epoll_;
};

} // namespace

std::unique_ptr<machine> make_simulated(std::uint64_t seed) { return std::make_unique<sim_machine>(seed); }

} // namespace conform
