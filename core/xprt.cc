// xprt: the raw transport, which adds nothing.

#include "core/xprt.hpp"

#include "core/buggify.hpp"
#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

// What a call that receives has answered.
io_result received(connection& conn, sys::count n) noexcept {
    if (n > 0) return {io::done, static_cast<std::size_t>(n)};
    if (n == 0) {
        conn.end_recv();
        return {io::closed, 0};
    }
    if (n == -EAGAIN) {
        conn.cant_recv();
        return {io::again, 0};
    }
    conn.fail(static_cast<int>(-n));
    return {io::failed, 0};
}

io_result raw_recv(connection& conn, void* to, std::size_t bytes) noexcept {
    if (bytes > 1 && buggify(twist::recv_one)) bytes = 1;
    bool is_cut = false;
    const sys::count n = conn.family().carries_fds ? sys::recv_uncut(conn.fd(), to, bytes, is_cut)
                                                   : sys::recv(conn.fd(), to, bytes);
    // A short read means that nothing is left, which saves the recv that would only say EAGAIN; unless an end has been
    // reported, which that recv must find, or the read ended behind descriptors.
    const bool sure = !is_cut && !conn.slot().is(fd_state::unsure);
    const bool proves = conn.family().short_read_proves && !conn.slot().ended() && sure;
    if (n > 0 && static_cast<std::size_t>(n) < bytes && proves && !buggify(twist::recv_unsure)) conn.cant_recv();
    return received(conn, n);
}

// A short one proves nothing: the pipe may have run out of slots, however few bytes are in them. Neither does 0: so it
// answers at the mark of urgent data, too, when a FIN has come behind it. What stands between the two only recv(2)
// gets.
io_result raw_splice_in(connection& conn, int pipe_fd, std::size_t bytes) noexcept {
    const sys::count n = sys::splice(conn.fd(), pipe_fd, bytes);
    if (n != 0) return received(conn, n);
    if (const sys::count behind = sys::peek(conn.fd()); behind <= 0) return received(conn, behind);
    conn.slot().state |= fd_state::unsure;
    return {io::again, 0};
}

// What a call that sends has answered.
io_result sent(connection& conn, sys::count n, std::size_t asked) noexcept {
    if (n >= 0) return {n == 0 && asked > 0 ? io::again : io::done, static_cast<std::size_t>(n)};
    if (n == -EAGAIN) {
        conn.cant_send();
        return {io::again, 0};
    }
    conn.fail(static_cast<int>(-n));
    return {io::failed, 0};
}

// A short one proves nothing here, either: a signal ends it between two pieces, and the kernel, which was not told of a
// full socket, would never say that there is room. Only EAGAIN is a reason to wait.
io_result raw_splice_out(connection& conn, int pipe_fd, std::size_t bytes) noexcept {
    sys::block_pipe_signal(); // splice(2) cannot be told not to raise it; and a loop may come to another thread
    return sent(conn, sys::splice(pipe_fd, conn.fd(), bytes), bytes);
}

io_result raw_send(connection& conn, const iovec* parts, std::size_t parts_count, bool more) noexcept {
    if (parts_count > 0 && parts->iov_len > 1 && buggify(twist::send_one)) {
        const iovec one_byte{.iov_base = parts->iov_base, .iov_len = 1};
        return raw_send(conn, &one_byte, 1, more);
    }
    std::size_t asked = 0;
    for (std::size_t i = 0; i < parts_count; i++)
        asked += parts[i].iov_len;
    const sys::count n = parts_count == 1 ? sys::send(conn.fd(), parts[0].iov_base, asked, more)
                                          : sys::send_parts(conn.fd(), parts, parts_count, more);
    // A short send means that the socket's buffer is full: the kernel will say when it no longer is.
    if (n >= 0 && static_cast<std::size_t>(n) < asked) conn.cant_send();
    return sent(conn, n, asked);
}

} // namespace

const xprt raw_xprt{.name = "raw",
                    .recv = raw_recv,
                    .send = raw_send,
                    .drain = nullptr,
                    .handshake = nullptr,
                    .close = nullptr,
                    .shutdown = nullptr,
                    .splice_in = raw_splice_in,
                    .splice_out = raw_splice_out};

} // namespace weir::inline WEIR_KERNEL
