// wake_idle: from a server's close() to the close of the idle connection at its other end, among many.
//
// The near end is the server. It hands over connections by their descriptors, closes one, and hears when the other end
// of it was closed. So a round also holds the making of a connection, which is not part of the time but of the CPU
// time.

#include <algorithm>

#include <sys/socket.h>

#include "core/idle.hpp"
#include "core/socket.hpp"
#include "core/tables.hpp"
#include "proto/tcp.hpp"
#include "tools/wake.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {

class server_side : public wake_side {
  public:
    explicit server_side(const wake_options& how) : ends_(how.idle_count) {
        int pair[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) no_way("pair of sockets", errno);
        near_talk_.reset(pair[0]);
        far_talk_.reset(pair[1]);
        sys::set_nonblocking(pair[1]);
        auto made = open_listener(endpoint::ipv4(0, 0), {});
        if (!made) no_way("listener", made.error());
        door_ = std::move(made).value();
        sockaddr_in at{};
        socklen_t bytes = sizeof at;
        sys::local_name(door_.get(), reinterpret_cast<sockaddr*>(&at), &bytes);
        port_ = ntohs(at.sin_port);
    }

    void near(std::uint64_t rounds, histogram& to) override {
        for (unique_fd& end : ends_)
            if (!end) end = hand_over();
        for (; rounds > 0; rounds--) {
            unique_fd& end = ends_[next_++ % ends_.size()];
            const time_point closed_at = sys::now();
            end.reset();
            const time_point seen_at = hear();
            to.record(static_cast<std::uint64_t>((seen_at - closed_at).count()));
            end = hand_over();
        }
    }
    // Hears of as many connections as near() hands over in the meantime, and of as many ends.
    void far(std::uint64_t rounds) final {
        left_ = 2 * rounds + (is_filled_ ? 0 : ends_.size());
        is_filled_ = true;
        serve();
    }
    wake_counts near_counts() const override { return {}; }

  protected:
    virtual void serve() = 0; // until left_ is 0

    // The descriptor of a connection to keep, or -1.
    int hear_of() noexcept {
        int fd = -1;
        return sys::recv(far_talk_.get(), &fd, sizeof fd) == sizeof fd ? fd : -1;
    }
    void say(time_point when) noexcept {
        left_--;
        const std::int64_t ns = when.time_since_epoch().count();
        if (sys::send(far_talk_.get(), &ns, sizeof ns, false) != sizeof ns) no_way("answer", errno);
    }

    unique_fd near_talk_, far_talk_;
    std::uint64_t left_ = 0;

  private:
    time_point hear() noexcept {
        std::int64_t ns = 0;
        if (::recv(near_talk_.get(), &ns, sizeof ns, MSG_WAITALL) != sizeof ns) no_way("answer", errno);
        return time_point{duration{ns}};
    }
    // A new connection's other end goes over; this one stays.
    unique_fd hand_over() {
        made_count_++; // ports that wait for late packets are another address's
        auto dialed = open_connection(endpoint::ipv4(0x7f010001 + made_count_ % 4000, port_), {});
        if (!dialed) no_way("connection", dialed.error());
        unique_fd mine{-1};
        while (!mine)
            mine.reset(std::max(sys::accept(door_.get(), nullptr, nullptr), -1));
        const int theirs = dialed.value().fd.release();
        if (sys::send(near_talk_.get(), &theirs, sizeof theirs, false) != sizeof theirs) no_way("sending", errno);
        hear();
        return mine;
    }

    std::vector<unique_fd> ends_;
    unique_fd door_;
    std::uint16_t port_ = 0;
    std::uint32_t made_count_ = 0;
    std::size_t next_ = 0;
    bool is_filled_ = false; // the far end's
};

class pool_side final : public server_side {
  public:
    explicit pool_side(const wake_options& how) : server_side(how) {
        open_loop(loop_, how);
        if (auto r = conns_.open({.connections_max = how.idle_count + 4}); !r) no_way("memory", r.error());
        pool_ = std::make_unique<idle_pool>(
            conns_, idle_options{.idle_max = how.idle_count + 1, .age_max = std::chrono::hours{24}});
        key_ = pool_->key_of({.remote = endpoint::ipv4(0x7f000001, 80), .family = &tcp});
        auto slot = loop_.watch(far_talk_.get(), interest::recv, told, this);
        if (!slot || !key_) no_way("memory", ENOMEM);
        talk_ = slot.value();
        loop_.fds().want_recv(*talk_);
        owner_.home = this;
        owner_.it.lost = [](idle_owner& o, const connection&, end_cause) noexcept {
            container_of<&lost_owner::it>(o).home->say(sys::now());
        };
    }
    ~pool_side() override {
        loop_.claim();
        owner_.it.lost = [](idle_owner&, const connection&, end_cause) noexcept {};
        pool_.reset();
        loop_.close(*talk_);
        [[maybe_unused]] const int closed = far_talk_.release();
    }
    wake_counts far_counts() const override { return counts_of(loop_); }

  private:
    struct lost_owner {
        pool_side* home = nullptr;
        idle_owner it;
    };

    void serve() override {
        take_loop(loop_);
        while (left_ > 0)
            loop_.turn(seconds{60});
    }
    static void told(fd_slot& slot) noexcept {
        pool_side& self = *static_cast<pool_side*>(slot.owner);
        for (int fd; (fd = self.hear_of()) >= 0;)
            self.keep(fd);
        fdtab::cant_recv(slot);
        slot.state &= ~fd_state::news;
    }
    void keep(int fd) noexcept {
        auto conn = conns_.adopt(unique_fd{fd}, tcp);
        if (!conn) no_way("connection", conn.error());
        conn.value()->attach(discard_cb, nullptr);
        const auto kept =
            pool_->park(*conn.value(), key_, {.messages_complete = true, .buffers_empty = true}, {.owner = &owner_.it});
        if (kept == verdict::gone) no_way("idle connection", ECONNRESET);
        say(time_point{});
    }

    event_loop loop_;
    conntab conns_{loop_};
    std::unique_ptr<idle_pool> pool_;
    idle_pool::key key_;
    fd_slot* talk_ = nullptr;
    lost_owner owner_;
};

class bare_side final : public server_side {
  public:
    explicit bare_side(const wake_options& how) : server_side(how), poll_(how.spin > duration{}) {
        poll_.add(far_talk_.get(), EPOLLIN);
    }
    wake_counts far_counts() const override { return {.waits = poll_.waits_count()}; }

  private:
    void serve() override {
        while (left_ > 0) {
            const int fd = poll_.wait();
            if (fd == far_talk_.get()) {
                for (int made; (made = hear_of()) >= 0;) {
                    poll_.add(made, EPOLLIN | EPOLLRDHUP);
                    say(time_point{});
                }
                continue;
            }
            if (sys::discard(fd, 65536) != 0) continue;
            sys::close(fd);
            say(sys::now());
        }
    }

    bare_epoll poll_;
};

} // namespace

wake_pair make_idle_close(const wake_options& how) {
    return {.weir = std::make_unique<pool_side>(how), .raw = std::make_unique<bare_side>(how), .wakes_per_round = 2};
}

} // namespace weir::inline WEIR_KERNEL::tools
