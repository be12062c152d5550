// xprt: bytes that stay in the kernel: what a splice proves of the socket, and what it does not.

#include "core/xprt.hpp"

#include <unistd.h>

#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

// A connection of the raw transport, its far end, and a pipe.
struct splice_rig : rig {
    splice_rig() : conn(serve(std::move(ends.b), who)) {}

    void fill(std::string_view bytes) {
        REQUIRE(::write(pipe.b.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    }

    pair ends = tcp_pair();
    pair pipe = pipe_pair();
    user who;
    connection& conn;
};

TEST_CASE("raw: a short splice is not taken for a socket without room, which only EAGAIN says") {
    splice_rig r;
    r.fill("cut");

    // What a signal does between two pieces: less than was asked for, and nothing that the socket was told of.
    const io_result cut = r.conn.splice_out(r.pipe.a.get(), 1000);

    CHECK(cut.end == io::done);
    CHECK(cut.bytes == 3);
    CHECK(r.conn.slot().is(fd_state::send_ready));
    CHECK_FALSE(r.conn.slot().is(fd_state::awaits_send));
    const std::string much(64 * 1024, 'x');
    io_result sent{};
    for (int i = 0; i < 10'000 && r.conn.slot().is(fd_state::send_ready); i++) {
        const ssize_t held = ::write(r.pipe.b.get(), much.data(), much.size());
        sent = r.conn.splice_out(r.pipe.a.get(), held > 0 ? static_cast<std::size_t>(held) : 1);
    }
    CHECK(sent.end == io::again);
    CHECK(r.conn.slot().is(fd_state::awaits_send));
}

} // namespace
