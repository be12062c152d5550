// sys_sim_pipes: pipes and splice of the simulated kernel, behind the seam. After fs/splice.c.

#include <algorithm>

#include "core/sim_crossing.hpp"
#include "core/sim_pipe.hpp"
#include "core/sys.hpp"

namespace weir::inline WEIR_KERNEL::sys {

namespace {

pipe_end* pipe_at(kernel& k, int fd) noexcept {
    file* f = k.at(fd);
    return f && f->what == file::kind::pipe ? static_cast<pipe_end*>(f) : nullptr;
}

// The pipe is asked first: when it is full, nobody looks at the socket.
count splice_in(crossing& c, stream& from, pipe_end& to, std::size_t bytes) noexcept {
    pipe_slots& pipe = to.shared;
    if (!to.writes) return -EBADF;
    if (pipe.ends < 2) return -EPIPE;
    if (pipe.slots_free() == 0) return -EAGAIN;
    if (const int error = c.planned()) return -error;
    // tcp_read_sock() gets no further than urgent data, and without an end behind it that would be EAGAIN.
    const bool has_both = from.is_tcp() && from.fin_received && !from.in.empty();
    if (has_both && c.strikes(fault::splice_mark)) return 0;
    count moved = 0;
    while (bytes > 0 && pipe.slots_free() > 0) {
        char piece[pipe_slots::slot_bytes];
        std::size_t most = std::min(bytes, sizeof piece);
        if (c.k.options().swarm && c.k.chance.below(4) == 0) // the sender's segments, of which nobody here knows
            most = std::min<std::size_t>(most, c.k.chance.between(1, 64));
        const std::size_t parcels_before = from.in_parcels.size();
        const count n = from.recv(piece, most, stream::reading::take);
        if (n <= 0) return moved > 0 ? moved : n;
        pipe.push(piece, static_cast<std::size_t>(n));
        moved += n;
        bytes -= static_cast<std::size_t>(n);
        if (from.in.empty()) break; // an end or an error behind it is for the next call
        if (from.in_parcels.size() < parcels_before) break; // as recv(), no further than a send that had descriptors
    }
    return moved;
}

// The socket is not looked at when there is nothing for it.
count splice_out(crossing& c, pipe_end& from, stream& to, std::size_t bytes) noexcept {
    pipe_slots& pipe = from.shared;
    if (from.writes) return -EBADF;
    if (pipe.bytes.empty()) return pipe.ends < 2 ? 0 : -EAGAIN;
    std::size_t most = std::min(bytes, pipe.bytes.size());
    // splice_to_socket() looks for signals between 16 slots and the next; earlier kernels did at other places.
    if (pipe.slots.front() < most && c.strikes(fault::splice_cut)) most = pipe.slots.front();
    const iovec part{.iov_base = const_cast<char*>(pipe.bytes.front()), .iov_len = most};
    const count n = send_through(c, to, &part, 1);
    if (n > 0) pipe.pop(static_cast<std::size_t>(n));
    return n;
}

} // namespace

int pipe_open(int (&ends)[2]) noexcept {
    crossing c{call::pipe_open, -1};
    if (const int error = c.planned()) return c.done(-error);
    auto* shared = new pipe_slots;
    auto *reader = new pipe_end{*shared, false}, *writer = new pipe_end{*shared, true};
    const int read_fd = c.k.install(*reader);
    const int write_fd = read_fd < 0 ? read_fd : c.k.install(*writer);
    if (write_fd < 0) { // neither or both, pipe(2)
        if (read_fd >= 0) c.k.drop(read_fd);
        else delete reader;
        delete writer;
        return c.done(-EMFILE);
    }
    ends[0] = read_fd;
    ends[1] = write_fd;
    return c.done(0);
}

count splice(int from, int to, std::size_t bytes) noexcept {
    crossing c{call::splice, from, to};
    pipe_end *const source = pipe_at(c.k, from), *const target = pipe_at(c.k, to);
    if (stream* s = c.socket(); s && target) return c.done(bytes == 0 ? 0 : splice_in(c, *s, *target, bytes));
    file* f = c.k.at(to);
    if (f) f->used_at = c.k.log.count() + 1; // by this call, which is written down as one of `from`
    if (source && f && f->what == file::kind::stream)
        return c.done(bytes == 0 ? 0 : splice_out(c, *source, static_cast<stream&>(*f), bytes));
    return c.broken(c.any() && f ? EINVAL : EBADF);
}

int set_pipe_room(int fd, int bytes) noexcept {
    crossing c{call::pipe_room, fd, bytes};
    pipe_end* end = pipe_at(c.k, fd);
    if (!end) return c.broken(EBADF);
    if (const int error = c.planned()) return c.done(-error);
    std::size_t slots = 1; // powers of two
    while (slots * pipe_slots::slot_bytes < static_cast<std::size_t>(std::max(bytes, 0)))
        slots *= 2;
    if (slots < end->shared.slots.size()) return c.done(-EBUSY);
    end->shared.slots_max = slots;
    return c.done(static_cast<int>(slots * pipe_slots::slot_bytes));
}

void block_pipe_signal() noexcept {}

} // namespace weir::inline WEIR_KERNEL::sys
