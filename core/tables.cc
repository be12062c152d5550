// tables: discard and echo.

#include "core/tables.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

constexpr int reads_per_turn = 4;

verdict discard_recv(connection& conn) noexcept {
    for (int reads = 0; reads < reads_per_turn; reads++) {
        switch (conn.recv(conn.home().scratch(), conntab::scratch_bytes).end) {
        case io::done: break;
        case io::again: return verdict::keep;
        case io::closed: return conn.close(close_intent::after_fin, end_cause::peer_closed);
        case io::failed: return conn.close(close_intent::silent, end_cause::peer_failed);
        }
        if (!conn.slot().is(fd_state::recv_ready)) return verdict::keep;
    }
    return verdict::keep;
}

verdict discard_wake(connection& conn) noexcept {
    return conn.is_broken() ? conn.close(close_intent::silent, conn.failure()) : verdict::keep;
}

verdict echo_end(connection& conn, close_intent intent, end_cause cause) noexcept {
    conn.owner_as<buffer>().clear(conn.home().blocks());
    return conn.close(intent, cause);
}

verdict echo_recv(connection& conn) noexcept {
    buffer& pending = conn.owner_as<buffer>();
    for (int reads = 0; reads < reads_per_turn; reads++) {
        char* at = conn.home().scratch();
        const io_result got = conn.recv(at, block_bytes);
        if (got.end == io::again) return verdict::keep;
        if (got.end == io::closed) return echo_end(conn, close_intent::after_fin, end_cause::peer_closed);
        if (got.end == io::failed) return echo_end(conn, close_intent::silent, end_cause::peer_failed);
        const io_result sent = conn.send({at, got.bytes});
        if (sent.end == io::failed) return echo_end(conn, close_intent::silent, end_cause::peer_failed);
        if (sent.bytes < got.bytes) {
            const std::string_view rest{at + sent.bytes, got.bytes - sent.bytes};
            if (pending.append(rest, conn.home().blocks()) == buffer::append_result::full)
                return echo_end(conn, close_intent::abort, end_cause::no_room);
            conn.stop_recv();
            conn.want_send();
            return verdict::keep;
        }
        if (!conn.slot().is(fd_state::recv_ready)) return verdict::keep;
    }
    return verdict::keep;
}

verdict echo_send(connection& conn) noexcept {
    buffer& pending = conn.owner_as<buffer>();
    const io_result sent = conn.send(pending.bytes());
    if (sent.end == io::failed) return echo_end(conn, close_intent::silent, end_cause::peer_failed);
    pending.consume(sent.bytes, conn.home().blocks());
    if (!pending.empty()) return verdict::keep;
    conn.stop_send();
    conn.want_recv();
    return verdict::keep;
}

verdict echo_wake(connection& conn) noexcept {
    return conn.is_broken() ? echo_end(conn, close_intent::silent, conn.failure()) : verdict::keep;
}

} // namespace

const data_cb discard_cb{.name = "discard", .recv = discard_recv, .send = keep_on, .wake = discard_wake};
const data_cb echo_cb{.name = "echo", .recv = echo_recv, .send = echo_send, .wake = echo_wake};

} // namespace weir::inline WEIR_KERNEL
