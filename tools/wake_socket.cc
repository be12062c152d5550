// wake_socket: a byte over loopback to a loop, and back.

#include <sys/socket.h>

#include "core/buffer.hpp"
#include "core/connection.hpp"
#include "core/tables.hpp"
#include "proto/tcp.hpp"
#include "tools/wake.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

// The near end is the same for both sides: it sends and waits in recv(), or when it spins asks and asks.
class byte_side : public wake_side {
  public:
    explicit byte_side(const wake_options& how) : spins_(how.spin > duration{}) {
        auto door = open_listener(endpoint::ipv4(0x7f000001, 0), {.backlog_count = 1});
        if (!door) no_way("listener", door.error());
        auto at = local_endpoint(door.value().get());
        if (!at) no_way("address", at.error());
        near_fd_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (::connect(near_fd_.get(), at.value().data(), at.value().size()) < 0) no_way("connection", errno);
        tune_tcp(near_fd_.get(), user_timeout_default);
        far_fd_.reset(sys::accept(door.value().get(), nullptr, nullptr));
        if (!far_fd_) no_way("connection", -far_fd_.get());
        if (spins_) sys::set_nonblocking(near_fd_.get());
    }

    void near(std::uint64_t rounds, histogram& to) override {
        char byte = 'w';
        time_point sent_at = sys::now();
        for (; rounds > 0; rounds--) {
            if (sys::send(near_fd_.get(), &byte, 1, false) != 1) no_way("sending", errno);
            sys::count n;
            do
                n = sys::recv(near_fd_.get(), &byte, 1);
            while (n == -EAGAIN);
            if (n != 1) no_way("answer", static_cast<int>(-n));
            const time_point now = sys::now();
            to.record(static_cast<std::uint64_t>((now - sent_at).count()));
            sent_at = now;
        }
    }
    wake_counts near_counts() const override { return {}; }

  protected:
    bool spins_;
    unique_fd near_fd_, far_fd_;
};

class loop_side final : public byte_side {
  public:
    explicit loop_side(const wake_options& how) : byte_side(how) {
        open_loop(loop_, how);
        if (auto r = conns_.open({.connections_max = 4}); !r) no_way("memory", r.error());
        auto conn = conns_.adopt(std::move(far_fd_), tcp);
        if (!conn) no_way("connection", conn.error());
        conn.value()->attach(answering, this);
        conn.value()->want_recv();
    }
    ~loop_side() override { loop_.claim(); }

    void far(std::uint64_t rounds) override {
        take_loop(loop_);
        for (left_ = rounds; left_ > 0;)
            loop_.turn(seconds{60});
    }
    wake_counts far_counts() const override { return counts_of(loop_); }

  private:
    static verdict answer(connection& conn) noexcept {
        char bytes[64]; // one comes: a short read, after which nobody asks again
        const io_result got = conn.recv(bytes, sizeof bytes);
        if (got.bytes == 0) return verdict::keep;
        conn.owner_as<loop_side>().left_--;
        conn.send({bytes, got.bytes});
        return verdict::keep;
    }
    static verdict nothing(connection&) noexcept { return verdict::keep; }
    static constexpr data_cb answering{.name = "answer", .recv = answer, .send = nothing, .wake = nothing};

    event_loop loop_;
    conntab conns_{loop_};
    std::uint64_t left_ = 0;
};

class bare_side final : public byte_side {
  public:
    explicit bare_side(const wake_options& how) : byte_side(how), poll_(spins_) {
        poll_.add(far_fd_.get(), EPOLLIN | EPOLLRDHUP);
    }
    void far(std::uint64_t rounds) override {
        char bytes[64];
        for (; rounds > 0; rounds--) {
            const int fd = poll_.wait();
            const sys::count n = sys::recv(fd, bytes, sizeof bytes);
            if (n > 0) sys::send(fd, bytes, static_cast<std::size_t>(n), false);
        }
    }
    wake_counts far_counts() const override { return {.waits = poll_.waits_count()}; }

  private:
    bare_epoll poll_;
};

} // namespace

wake_pair make_socket(const wake_options& how) {
    return {.weir = std::make_unique<loop_side>(how), .raw = std::make_unique<bare_side>(how)};
}

} // namespace weir::inline WEIR_KERNEL::tools
