#pragma once
// rig: a loop with a conntab on a clock that stands still, users that write down what they are called for, and what a
// peer sees at the end.
//
// A user is an object, its callbacks are lambdas: what is not given does the usual thing. Inside callbacks only CHECK:
// a REQUIRE throws, and callbacks are noexcept.

#include <cerrno>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <doctest/doctest.h>

#include "core/connection.hpp"
#include "core/send_progress.hpp"
#include "proto/tcp.hpp"
#include "support/counting.hpp"
#include "support/net.hpp"
#include "support/over_records.hpp"
#include "support/record_xprt.hpp"

namespace support {

using namespace weir;

inline const endpoint any_port = endpoint::ipv4(0x7f000001, 0);

// Who is served: counts and records. The two tables differ only in their address, so that a test can tell which one
// the dispatcher read.
struct user {
    std::string calls;    // r, s, w in the order of the calls; upper case through other_table
    std::string received; // what the usual recv read
    std::function<verdict(connection&)> on_recv, on_send, on_wake;

    // Reads all there is.
    verdict read_all(connection& conn) noexcept {
        char bytes[4096];
        for (;;) {
            const io_result r = conn.recv(bytes, sizeof bytes);
            if (r.end != io::done) return verdict::keep;
            received.append(bytes, r.bytes);
            if (!conn.slot().is(fd_state::recv_ready)) return verdict::keep;
        }
    }

    template <bool Upper>
    static verdict recv(connection& conn) noexcept {
        user& self = conn.owner_as<user>();
        self.calls += Upper ? 'R' : 'r';
        return self.on_recv ? self.on_recv(conn) : self.read_all(conn);
    }
    template <bool Upper>
    static verdict send(connection& conn) noexcept {
        user& self = conn.owner_as<user>();
        self.calls += Upper ? 'S' : 's';
        if (self.on_send) return self.on_send(conn);
        conn.stop_send();
        return verdict::keep;
    }
    template <bool Upper>
    static verdict wake(connection& conn) noexcept {
        user& self = conn.owner_as<user>();
        self.calls += Upper ? 'W' : 'w';
        return self.on_wake ? self.on_wake(conn) : verdict::keep;
    }

    static constexpr data_cb table{.name = "user", .recv = recv<false>, .send = send<false>, .wake = wake<false>};
    static constexpr data_cb other_table{.name = "other", .recv = recv<true>, .send = send<true>, .wake = wake<true>};
};

// The family of a test that needs nothing of one.
inline const ctrl plain_family{.name = "plain",
                               .listen = nullptr,
                               .connect = nullptr,
                               .drain = nullptr,
                               .short_read_proves = true,
                               .carries_fds = false,
                               .counts_acked = false};

struct rig {
    explicit rig(const conntab_options& options = {.connections_max = 32}) {
        REQUIRE(loop.open({.time_source = &clock}).ok());
        REQUIRE(conns.open(options).ok());
    }

    // A connection of a socket of the test's, served by `who`.
    connection& serve(descriptor socket, user& who, const ctrl& family = tcp, const xprt& transport = raw_xprt) {
        const bool layered = is_over_records(socket.get()); // the suite is, and has made the pair
        const int fd = socket.get();
        auto conn = conns.adopt(unique_fd{socket.release()}, family, layered ? record_xprt : transport, {});
        REQUIRE(conn.ok());
        conn.value()->attach(user::table, &who);
        if (!layered) return *conn.value();
        REQUIRE(until([&] { return conn.value()->is(conn_flag::connected); }));
        over_records::greet(fd);
        who.calls.clear();
        return *conn.value();
    }

    void turn(int count = 1) {
        for (int i = 0; i < count; i++)
            loop.turn(duration{0});
    }

    // Takes turns until `holds()`, as long as it may take the kernel. False: it never did.
    template <class Condition>
    [[nodiscard]] bool until(Condition holds) {
        for (int i = 0; i < patience.count(); i++) {
            turn();
            if (holds()) return true;
            poll(nullptr, 0, i < 20 ? 0 : 1); // what is missing is the kernel's to do
        }
        return false;
    }

    // In steps, as for a loop that wakes up now and then: a timer that fires in between may arm another one.
    template <class After>
    void pass_in_steps(duration time, After after) {
        constexpr int steps_count = 64;
        const duration step = time > milliseconds{steps_count} ? time / steps_count : duration{};
        for (int i = 1; i < steps_count && step > duration{}; i++, time -= step) {
            clock.advance(step);
            after();
        }
        clock.advance(time);
        after();
    }
    void pass(duration time) {
        pass_in_steps(time, [this] { turn(); });
    }
    // By so much a deadline of sending may be late: a look, the time between two steps, and the wheel's grain.
    static constexpr duration lateness_max(duration timeout) {
        return send_progress::wait_between_looks(timeout) + timeout / 32 + milliseconds{2};
    }

    // The loop would sleep now: nothing is left to run.
    [[nodiscard]] bool sleeps() {
        turn(2);
        return !loop.fds().has_runnable() && loop.turn(duration{0}) == 0;
    }

    std::uint64_t ended(end_cause cause) const { return conns.ended_count(cause); }
    std::uint64_t ended_in_all() const {
        std::uint64_t sum = 0;
        for (unsigned cause = 0; cause < static_cast<unsigned>(end_cause::count_); cause++)
            sum += conns.ended_count(static_cast<end_cause>(cause));
        return sum;
    }
    std::uint64_t opened_in_all() const {
        using enum conn_origin;
        return conns.opened_count(accepted) + conns.opened_count(dialed) + conns.opened_count(adopted);
    }
    // Every connection that was ever opened is alive or has exactly one cause.
    [[nodiscard]] bool sums_hold() const { return ended_in_all() == opened_in_all() - conns.live_count(); }

    fake_clock clock;
    event_loop loop;
    conntab conns{loop};
};

// How a stream ends for the one who reads it.
enum class ending : std::uint8_t {
    fin,
    reset,
    none,
    cut, // of a stream over records: a FIN without the end that has to stand in front of it
};

// Reads what is left, then says how it ended. none: nothing more came.
inline ending ending_of(int fd, std::string* bytes = nullptr, std::chrono::milliseconds limit = patience) {
    char chunk[4096];
    while (wait_for(fd, POLLIN, limit)) {
        const ssize_t n = over_records::recv_some(fd, chunk, sizeof chunk);
        if (n == 0) return is_over_records(fd) && !far_end_of(fd).heard_end ? ending::cut : ending::fin;
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) return ending::reset;
        if (bytes) bytes->append(chunk, static_cast<std::size_t>(n));
    }
    return ending::none;
}
inline std::ostream& operator<<(std::ostream& to, ending e) {
    return to << (e == ending::fin ? "fin" : e == ending::reset ? "reset" : e == ending::cut ? "cut" : "none");
}

// A callback's recv that asks for so many bytes, once; at most 64.
inline verdict read_once(connection& conn, std::string& to, std::size_t bytes) {
    char room[64];
    const io_result r = conn.recv(room, bytes);
    if (r.end == io::done) to.append(room, r.bytes);
    return verdict::keep;
}

// A connection over record_xprt, its handshake done.
inline connection& greeted(rig& r, descriptor socket, descriptor& peer, user& who) {
    connection& conn = r.serve(std::move(socket), who, tcp, record_xprt);
    send_all(peer.get(), "H");
    REQUIRE(r.until([&] { return conn.is(conn_flag::connected); }));
    CHECK(recv_exactly(peer.get(), 1) == "H");
    who.calls.clear();
    return conn;
}

// The bytes of a socket's other end have come as far as its descriptor.
[[nodiscard]] inline bool arrived(const connection& conn) { return wait_for(conn.fd(), POLLIN); }
[[nodiscard]] inline bool end_arrived(const connection& conn) { return wait_for(conn.fd(), POLLRDHUP); }

// The least room to send that the kernel allows, so that sends are short; receiving stays as fast as it is.
inline void shrink_room(const descriptor& socket) {
    const int least = 1;
    REQUIRE(setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &least, sizeof least) == 0);
}

// A descriptor on a number of the test's choice, which must be free. `socket` is closed.
inline descriptor moved_to(descriptor socket, int number) {
    descriptor there(fcntl(socket.get(), F_DUPFD_CLOEXEC, number));
    REQUIRE(there.get() == number);
    return there;
}

// Every descriptor that may be made is made, so the next one fails with EMFILE.
class short_of_descriptors {
  public:
    short_of_descriptors() {
        getrlimit(RLIMIT_NOFILE, &before_);
        rlimit limit = before_;
        limit.rlim_cur = 128;
        setrlimit(RLIMIT_NOFILE, &limit);
        for (int fd = dup(0); fd >= 0; fd = dup(0))
            taken_.emplace_back(fd);
    }
    short_of_descriptors(const short_of_descriptors&) = delete;
    short_of_descriptors& operator=(const short_of_descriptors&) = delete;
    ~short_of_descriptors() { setrlimit(RLIMIT_NOFILE, &before_); }

  private:
    rlimit before_;
    std::vector<descriptor> taken_;
};

} // namespace support
