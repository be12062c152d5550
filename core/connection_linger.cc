// connection: lingering. Our end is said, and what the peer still sends is thrown away, so that no reset overtakes the
// last answer (RFC 9112 section 9.6). It ends with the peer's FIN, after a silence, or at a deadline.

#include <algorithm>

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

constexpr std::size_t bytes_per_turn = 1024 * 1024; // thrown away of one connection; it costs nothing to copy

std::uint32_t ms_of(time_point at) noexcept {
    return static_cast<std::uint32_t>(std::chrono::ceil<milliseconds>(at.time_since_epoch()).count());
}

} // namespace

const data_cb connection::linger_cb{.name = "linger", .recv = linger_recv, .send = keep_on, .wake = linger_wake};

void connection::begin_linger(end_cause cause) noexcept {
    cause_ = cause;
    loop().note(*slot_, fd_event::lingering, to_string(cause));
    flags_ |= conn_flag::lingering | conn_flag::closed;
    cb_ = &linger_cb;
    owner_ = nullptr;
    hook_.unlink();
    home_->lingering_.push_back(*this);
    if (is(conn_flag::refused)) { // the layer is past saying anything
        flags_ |= conn_flag::send_ended;
        sys::shutdown_send(fd());
    } else if (!is(conn_flag::send_ended)) {
        end_send();
    }
    uses_ = ms_of(later(loop().now(), home_->options_.linger));
    timer_.fire = [](timer& t, time_point) noexcept { of(t).finish(close_intent::after_fin, end_cause::none); };
    await_more();
    if (!is(conn_flag::recv_ended)) fds().want_recv(*slot_);
}

// Until the peer is silent for too long, but not beyond the end of it all. The difference of two such counts is right
// as long as it is below 2^31 ms.
void connection::await_more() noexcept {
    const time_point now = loop().now();
    const auto left = std::max(static_cast<std::int32_t>(uses_ - ms_of(now)), 0);
    loop().arm(timer_, later(now, std::min<duration>(milliseconds{left}, home_->options_.linger_silence)));
}

// Raw bytes are thrown away in the kernel; a layer has to look for its own end among them.
drained connection::discard_some() noexcept {
    const bool is_raw = !hides_bytes() || is(conn_flag::refused);
    if (is_raw && ctrl_->drain) {
        const drain_result r = ctrl_->drain(fd(), bytes_per_turn);
        if (r.bytes > 0) await_more();
        if (r.end == drained::again) cant_recv();
        return r.end;
    }
    for (std::size_t total = 0; total < bytes_per_turn;) {
        const io_result r = xprt_->recv(*this, home_->scratch(), conntab::scratch_bytes);
        if (r.end == io::again) return drained::again;
        if (r.end != io::done) return r.end == io::closed ? drained::closed : drained::failed;
        total += r.bytes;
        await_more();
        if (!slot_->is(fd_state::recv_ready)) return drained::again;
    }
    return drained::more;
}

verdict connection::linger_recv(connection& conn) noexcept {
    switch (conn.discard_some()) {
    case drained::again:
    case drained::more: return verdict::keep;
    case drained::closed:
        conn.end_recv();
        if (conn.is(conn_flag::ending)) return verdict::keep; // our own end is still to be sent
        break;
    case drained::failed: break;
    }
    return conn.finish(close_intent::after_fin, end_cause::none);
}

verdict connection::linger_wake(connection& conn) noexcept {
    const bool has_failed = conn.is(conn_flag::failed) && !conn.is(conn_flag::refused);
    // Behind an end of both ways there may be bytes that were not read, and a close would reset the peer.
    const bool has_unread = conn.slot_->is(fd_state::recv_ready) && !conn.is(conn_flag::recv_ended);
    const bool is_over = has_failed || conn.slot_->is(fd_state::err) || (conn.slot_->is(fd_state::hup) && !has_unread);
    return is_over ? conn.finish(close_intent::after_fin, end_cause::none) : verdict::keep;
}

} // namespace weir::inline WEIR_KERNEL
