// TCP_USER_TIMEOUT and its like, by the role of a connection: listeners, inherited ones, pairs.

#include <cstdint>
#include <utility>
#include <vector>

#include <netinet/tcp.h>
#include <sys/socket.h>

#include "core/listener.hpp"
#include "proto/unix.hpp"
#include "support/front.hpp"
#include "support/relay_rig.hpp"

namespace {

using namespace weir;
using namespace support;
using over_records::tcp_pair;

int option_of(int fd, int level, int name) {
    int value = -1;
    socklen_t bytes = sizeof value;
    REQUIRE(getsockopt(fd, level, name, &value, &bytes) == 0);
    return value;
}
int user_timeout_of(int fd) { return option_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT); }

TEST_CASE("an inherited listener gives what it accepts the options of one that was opened here") {
    for (const duration asked : {duration{seconds{7}}, duration{0}}) {
        CAPTURE(asked.count());
        rig r;
        front f(r);
        tcp_listener inherited = listen_tcp();
        const int of_another = 30'000;
        setsockopt(inherited.fd.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, &of_another, sizeof of_another);
        const listener_options how{.socket = {.user_timeout = asked}};
        REQUIRE(f.door.adopt(unique_fd{inherited.fd.release()}, tcp, how, front::accepted, &f).ok());
        f.call(1);
        REQUIRE(r.until([&] { return f.conns.size() == 1; }));

        const int fd = f.conns[0]->fd();
        CHECK(option_of(fd, IPPROTO_TCP, TCP_NODELAY) == 1);
        CHECK(option_of(fd, SOL_SOCKET, SO_KEEPALIVE) == 1);
        CHECK(option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 60);
        CHECK(user_timeout_of(fd) == asked / milliseconds{1});
        CHECK(f.conns[0]->is(conn_flag::has_user_timeout) == (asked > duration{0}));
    }
}

TEST_CASE("a unix listener that was inherited has no options of TCP to be set, and works") {
    rig r;
    front f(r);
    auto made = open_listener(endpoint::unix_path("@weir-user-timeout-test").value(), {});
    REQUIRE(made.ok());
    const listener_options how{.socket = {.user_timeout = seconds{7}}};

    CHECK(f.door.adopt(std::move(made).value(), unix_stream, how, front::accepted, &f).ok());
}

TEST_CASE("what a listener accepts has no TCP_USER_TIMEOUT unless one is asked for: a reader may pause") {
    rig r;
    front f(r);
    f.open();
    f.call(1);
    REQUIRE(r.until([&] { return f.conns.size() == 1; }));

    CHECK(user_timeout_of(f.conns[0]->fd()) == 0);
    CHECK_FALSE(f.conns[0]->is(conn_flag::has_user_timeout));
}

TEST_CASE("a pair's ends have the relay's TCP_USER_TIMEOUT, raised to its idle timeout, whatever they had before") {
    const struct {
        duration asked, idle;
        int told_ms;
    } cases[] = {
        {duration{0}, seconds{100}, 0}, {seconds{7}, seconds{100}, 100'000}, {seconds{300}, seconds{100}, 300'000}};
    for (const auto& c : cases) {
        for (const bool is_dialed : {false, true}) {
            CAPTURE(c.asked.count());
            CAPTURE(is_dialed);
            relay_rig r({.idle_timeout = c.idle, .user_timeout = c.asked});
            const tcp_listener shop = listen_tcp();
            support::pair first = tcp_pair(), second = tcp_pair();
            connection& a = r.serve(std::move(first.b), r.nobody);
            connection& b = r.serve(std::move(second.b), r.nobody);
            for (connection* conn : {&a, &b})
                conn->set_user_timeout(seconds{7}); // of the role before

            if (is_dialed) REQUIRE(r.pool.dial(a, tcp, endpoint::ipv4(0x7f000001, shop.port)) == verdict::keep);
            else REQUIRE(r.pool.join(a, b).ok());

            CHECK(r.pool.user_timeout() == milliseconds{c.told_ms});
            std::vector<connection*> ends;
            for (connection* conn = r.conns.first(); conn; conn = r.conns.after(*conn))
                if (conn->cb().name == std::string_view{"relay"}) ends.push_back(conn);
            REQUIRE(ends.size() == 2);
            for (const connection* conn : ends)
                CHECK(user_timeout_of(conn->fd()) == c.told_ms);
            if (is_dialed) b.close(close_intent::silent, end_cause::done);
        }
    }
}

} // namespace
