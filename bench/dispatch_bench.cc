// A byte goes round a chain of sockets: what the loop adds to each event, beside the same system calls made by hand.
//
// Expected over TCP: at most 1.02 of the raw edge-triggered loop. Both make one epoll_wait per batch, one recv and one
// send per event: a short read of a TCP socket proves that nothing is left. Every byte comes with 16 others under way,
// so that a batch has several events.
// Over unix sockets the raw loop makes the same calls, and relies on a peer that passes no descriptors. weir does not, and
// reads with recvmsg: ctrl::carries_fds. Expected: 1.15, the price of that call.

#include <benchmark/benchmark.h>

#include <array>
#include <cstdlib>

#include <poll.h>

#include "core/connection.hpp"
#include "proto/tcp.hpp"
#include "proto/unix.hpp"

namespace {

using namespace weir;

constexpr std::size_t chain = 64;
constexpr std::size_t bytes_under_way = 16;

struct link {
    std::array<int, 2> ends;
};

// Two ends of one TCP connection over loopback, with Nagle off as weir's own.
link connect_tcp(const unique_fd& door) {
    const auto at = local_endpoint(door.get());
    if (!at) std::abort();
    auto client = tcp.connect(at.value(), {});
    if (!client) std::abort();
    pollfd what{.fd = client.value().fd.get(), .events = POLLOUT, .revents = 0};
    if (::poll(&what, 1, -1) != 1) std::abort();
    const int server = sys::accept(door.get(), nullptr, nullptr);
    if (server < 0) std::abort();
    return {{server, client.value().fd.release()}};
}

std::array<link, chain> make_chain(const ctrl& family) {
    std::array<link, chain> links;
    if (&family == &unix_stream) {
        for (link& l : links)
            if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, l.ends.data()) < 0) std::abort();
        return links;
    }
    const auto door = tcp.listen(endpoint::ipv4(0x7f000001, 0), {});
    if (!door) std::abort();
    for (link& l : links)
        l = connect_tcp(door.value());
    return links;
}

// What is read at one link is written into the next.
void raw_chain(benchmark::State& state, const ctrl& family) {
    const auto links = make_chain(family);
    const int ep = ::epoll_create1(EPOLL_CLOEXEC);
    for (std::size_t i = 0; i < chain; i++) {
        epoll_event e{.events = EPOLLIN | EPOLLET | EPOLLRDHUP, .data = {.u64 = i}};
        ::epoll_ctl(ep, EPOLL_CTL_ADD, links[i].ends[0], &e);
    }
    for (std::size_t i = 0; i < bytes_under_way; i++)
        if (::send(links[i * chain / bytes_under_way].ends[1], "x", 1, MSG_NOSIGNAL) != 1) std::abort();
    epoll_event events[256];
    std::size_t count = 0;
    for (auto _ : state) {
        const int n = ::epoll_wait(ep, events, 256, -1);
        for (int i = 0; i < n; i++) {
            const std::size_t at = events[i].data.u64;
            char room[4096];
            const ssize_t got = ::recv(links[at].ends[0], room, sizeof room, 0);
            if (got > 0)
                count += static_cast<std::size_t>(
                    ::send(links[(at + 1) % chain].ends[1], room, static_cast<std::size_t>(got), MSG_NOSIGNAL) > 0);
        }
    }
    state.counters["per_event"] =
        benchmark::Counter(static_cast<double>(count), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
    for (const link& l : links)
        for (const int fd : l.ends)
            ::close(fd);
    ::close(ep);
}
BENCHMARK_CAPTURE(raw_chain, tcp, tcp);
BENCHMARK_CAPTURE(raw_chain, unix, unix_stream);

struct weir_chain {
    explicit weir_chain(const ctrl& family) : links(make_chain(family)) {}

    event_loop loop;
    conntab conns{loop};
    std::array<link, chain> links;
    std::array<std::size_t, chain> index{};
    std::size_t count = 0;

    static verdict recv(connection& conn) noexcept {
        weir_chain& self = *conn.owner_as<weir_chain*>();
        const std::size_t at = static_cast<std::size_t>(&conn.owner_as<weir_chain*>() - self.owners.data());
        char room[4096];
        const io_result got = conn.recv(room, sizeof room);
        if (got.end == io::done)
            self.count += sys::send(self.links[(at + 1) % chain].ends[1], room, got.bytes, false) > 0;
        return verdict::keep;
    }
    static const data_cb cb;
    std::array<weir_chain*, chain> owners;
};
const data_cb weir_chain::cb{.name = "chain", .recv = recv, .send = keep_on, .wake = keep_on};

void weir_loop_chain(benchmark::State& state, const ctrl& family) {
    weir_chain c{family};
    if (!c.loop.open() || !c.conns.open({.connections_max = chain})) std::abort();
    for (std::size_t i = 0; i < chain; i++) {
        c.owners[i] = &c;
        connection* conn = c.conns.adopt(unique_fd{c.links[i].ends[0]}, family).value();
        conn->attach(weir_chain::cb, &c.owners[i]);
        conn->want_recv();
    }
    for (std::size_t i = 0; i < bytes_under_way; i++)
        sys::send(c.links[i * chain / bytes_under_way].ends[1], "x", 1, false);
    for (auto _ : state)
        c.loop.turn(seconds{1});
    state.counters["per_event"] =
        benchmark::Counter(static_cast<double>(c.count), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
    for (const link& l : c.links)
        sys::close(l.ends[1]);
}
BENCHMARK_CAPTURE(weir_loop_chain, tcp, tcp);
BENCHMARK_CAPTURE(weir_loop_chain, unix, unix_stream);

} // namespace
