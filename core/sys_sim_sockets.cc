// sys_sim_sockets: the sockets of the simulated kernel, behind the seam.

#include <algorithm>
#include <cstring>

#include "core/sim_crossing.hpp"
#include "core/sys.hpp"

namespace weir::inline WEIR_KERNEL::sys {

namespace {

void copy_name(const endpoint& name, sockaddr* address, socklen_t* bytes) noexcept {
    std::memcpy(address, name.data(), std::min(*bytes, name.size()));
    *bytes = name.size();
}

endpoint named(const sockaddr* address, socklen_t bytes) noexcept {
    sockaddr_storage storage{};
    std::memcpy(&storage, address, bytes);
    return endpoint::from_kernel(storage, bytes);
}

// An error that is the end of the connection; others leave the socket as it is.
constexpr bool is_end(int error) noexcept {
    return error == ECONNREFUSED || error == ECONNRESET || error == EPIPE || error == ETIMEDOUT ||
           error == EHOSTUNREACH || error == ENETUNREACH;
}

// What a send or recv fails with, 0: nothing. An error that it tells is told.
int struck(crossing& c, stream& s, std::span<const ways_to_fail> ways) noexcept {
    int error = c.planned();
    if (!error) error = draw_failure(c, ways);
    if (!is_end(error)) return error;
    c.k.net.break_off(s, error);
    s.error = 0;
    return error;
}

constexpr ways_to_fail recv_ways[] = {{fault::recv_enomem, ENOMEM}, {fault::recv_etimedout, ETIMEDOUT}};
constexpr ways_to_fail send_ways[] = {{fault::send_enobufs, ENOBUFS}, {fault::send_enomem, ENOMEM}};

count receive(crossing& c, void* to, std::size_t bytes, stream::reading how) noexcept {
    stream* s = c.socket();
    if (!s) return c.not_that();
    if (const int error = struck(c, *s, recv_ways)) return c.done(count{-error});
    return c.done(s->recv(static_cast<char*>(to), bytes, how));
}

// One that waits is lost: its other end sees a RST.
void lose_one(stream& door) noexcept {
    stream& lost = *door.accept_queue.front();
    door.accept_queue.erase(door.accept_queue.begin());
    lost.linger_zero = true;
    lost.close();
}

} // namespace

int socket(int family, int type) noexcept {
    crossing c{call::socket, -1, family};
    if (type != SOCK_STREAM) return c.done(-EPROTONOSUPPORT);
    if (family != AF_INET && family != AF_INET6 && family != AF_UNIX) return c.done(-EAFNOSUPPORT);
    static constexpr ways_to_fail ways[] = {{fault::socket_emfile, EMFILE},
                                            {fault::socket_enfile, ENFILE},
                                            {fault::socket_enobufs, ENOBUFS},
                                            {fault::socket_enomem, ENOMEM}};
    if (const int error = c.planned()) return c.done(-error);
    if (const int error = draw_failure(c, ways)) return c.done(-error);
    stream& s = c.k.make_stream(family);
    const int fd = c.k.install(s);
    if (fd < 0) s.close();
    return c.done(fd);
}

int bind(int fd, const sockaddr* address, socklen_t bytes) noexcept {
    crossing c{call::bind, fd};
    stream* s = c.socket();
    if (!s) return c.not_that();
    if (const int error = c.planned()) return c.done(-error);
    return c.done(c.k.net.bind(*s, named(address, bytes)));
}

int listen(int fd, int backlog) noexcept {
    crossing c{call::listen, fd, backlog};
    stream* s = c.socket();
    if (!s) return c.not_that();
    if (const int error = c.planned()) return c.done(-error);
    return c.done(c.k.net.listen(*s, backlog));
}

int accept(int fd, sockaddr* peer, socklen_t* bytes) noexcept {
    crossing c{call::accept, fd};
    stream* s = c.socket();
    if (!s) return c.not_that();
    if (s->at != stream::phase::listening) return c.done(-EINVAL);
    static constexpr ways_to_fail shortages[] = {{fault::accept_emfile, EMFILE},
                                                 {fault::accept_enfile, ENFILE},
                                                 {fault::accept_enobufs, ENOBUFS},
                                                 {fault::accept_enomem, ENOMEM}};
    if (const int error = draw_failure(c, shortages)) return c.done(-error);
    if (s->accept_queue.empty()) return c.done(-EAGAIN);
    const int planned = c.planned();
    const bool is_shortage = planned == EMFILE || planned == ENFILE || planned == ENOBUFS || planned == ENOMEM;
    if (is_shortage) return c.done(-planned); // it stays in the queue
    if (planned == EINVAL) {
        while (!s->accept_queue.empty())
            lose_one(*s);
        return c.done(-planned);
    }
    static constexpr ways_to_fail losses[] = {
        {fault::accept_econnaborted, ECONNABORTED}, {fault::accept_eproto, EPROTO}, {fault::accept_eperm, EPERM}};
    if (const int lost = planned ? planned : draw_failure(c, losses)) {
        lose_one(*s);
        c.k.progress(); // one is out of the way
        return c.done(-lost);
    }
    stream& made = *s->accept_queue.front();
    const int number = c.k.install(made);
    if (number == -EMFILE) return c.done(number); // it stays in the queue
    s->accept_queue.erase(s->accept_queue.begin());
    made.connect_told = true;
    if (peer) copy_name(made.other, peer, bytes);
    return c.done(number);
}

int connect(int fd, const sockaddr* address, socklen_t bytes) noexcept {
    crossing c{call::connect, fd};
    stream* s = c.socket();
    if (!s) return c.not_that();
    const int error = c.planned();
    if (error && error != EINTR) return c.done(-error);
    const int r = c.k.net.connect(*s, named(address, bytes));
    return c.done(error == EINTR && s->is_tcp() && r == 0 ? -EINPROGRESS : r);
}

int shutdown_send(int fd) noexcept {
    crossing c{call::shutdown_send, fd};
    stream* s = c.socket();
    if (!s) return c.not_that();
    if (c.planned()) c.k.net.break_off(*s, ECONNRESET); // the RST came first
    return c.done(s->shutdown_send());
}

int close(int fd) noexcept {
    crossing c{call::close, fd};
    if (!c.any()) return c.broken(EBADF);
    if (stream* s = c.socket(); s && s->met_itself && !s->linger_zero && c.k.options().strict)
        c.k.violate("I23", "a connection that has met itself leaves its server's port in TIME_WAIT");
    c.k.drop(fd); // whatever is answered, the descriptor is gone
    if (const int error = c.planned()) return c.done(-error);
    static constexpr ways_to_fail ways[] = {{fault::close_eintr, EINTR}, {fault::close_eio, EIO}};
    return c.done(-draw_failure(c, ways));
}

count recv(int fd, void* to, std::size_t bytes) noexcept {
    crossing c{call::recv, fd, static_cast<std::int64_t>(bytes)};
    return receive(c, to, bytes, stream::reading::take);
}

count recv_uncut(int fd, void* to, std::size_t bytes, bool& is_cut) noexcept {
    crossing c{call::recv, fd, static_cast<std::int64_t>(bytes)};
    is_cut = false;
    stream* s = c.socket();
    if (!s) return c.not_that();
    if (const int error = struck(c, *s, recv_ways)) return c.done(count{-error});
    std::vector<file*> files;
    const count n = s->recv(static_cast<char*>(to), bytes, stream::reading::take, &files);
    is_cut = !files.empty();
    for (file* f : files)
        let_go(*f);
    return c.done(n);
}

count peek(int fd) noexcept {
    crossing c{call::peek, fd};
    char byte;
    return receive(c, &byte, 1, stream::reading::peek);
}

count discard(int fd, std::size_t bytes) noexcept {
    crossing c{call::discard, fd, static_cast<std::int64_t>(bytes)};
    stream* s = c.socket();
    if (s && !s->is_tcp() && !s->in.empty()) return c.done(count{-EFAULT}); // MSG_TRUNC throws nothing away, unix(7)
    return receive(c, nullptr, bytes, stream::reading::throw_away);
}

count send(int fd, const void* from, std::size_t bytes, bool more) noexcept {
    const iovec part{.iov_base = const_cast<void*>(from), .iov_len = bytes};
    return send_parts(fd, &part, 1, more);
}

// sim_crossing.hpp
count send_through(crossing& c, stream& s, const iovec* parts, std::size_t parts_count) noexcept {
    std::size_t asked = 0;
    for (std::size_t i = 0; i < parts_count; i++)
        asked += parts[i].iov_len;
    if (s.met_itself && c.k.options().strict) c.k.violate("I23", "bytes were sent to where they came from");
    const int error = struck(c, s, send_ways);
    if (error && error != EAGAIN) return -error;
    const bool can = s.at == stream::phase::established && !s.error && !s.send_shut && s.peer;
    std::size_t most = asked;
    if (can && asked > 0 && s.out_room() > 0 && (error || c.strikes(fault::send_eagain))) most = 0;
    else if (can && asked > 1 && s.out_room() > 1 && c.strikes(fault::send_short))
        most = c.k.chance.between(1, static_cast<std::uint32_t>(std::min(asked, s.out_room())) - 1);
    count sent = 0;
    for (std::size_t i = 0; i < parts_count && static_cast<std::size_t>(sent) < most; i++) {
        const std::size_t bytes = std::min(parts[i].iov_len, most - static_cast<std::size_t>(sent));
        const count n = s.send(static_cast<const char*>(parts[i].iov_base), bytes);
        if (n < 0) return sent > 0 ? sent : n;
        sent += n;
        const bool is_short = static_cast<std::size_t>(n) < bytes;
        if (is_short || s.error) return sent; // an error that came meanwhile is the next call's to tell
    }
    if (most == asked) return sent;
    if (s.at == stream::phase::established) c.k.net.squeeze(s);
    return sent > 0 ? sent : -EAGAIN;
}

count send_parts(int fd, const iovec* parts, std::size_t parts_count, bool) noexcept {
    std::size_t asked = 0;
    for (std::size_t i = 0; i < parts_count; i++)
        asked += parts[i].iov_len;
    crossing c{call::send, fd, static_cast<std::int64_t>(asked)};
    stream* s = c.socket();
    return s ? c.done(send_through(c, *s, parts, parts_count)) : c.not_that();
}

namespace {

// What cannot be had of a message is let go: MSG_CTRUNC.
void unwrap(crossing& c, const std::vector<file*>& files, std::size_t most, passed_fds& passed) noexcept {
    for (file* f : files) {
        const int number = passed.fds_count < most && !passed.is_cut ? c.k.install(*f) : -EMFILE;
        if (number < 0) passed.is_cut = true;
        else passed.fds[passed.fds_count++] = number;
        let_go(*f);
    }
}

} // namespace

count send_with(int fd, const void* from, std::size_t bytes, const int* fds, std::size_t fds_count) noexcept {
    crossing c{call::send_with, fd, static_cast<std::int64_t>(fds_count)};
    stream* s = c.socket();
    if (!s || s->is_tcp()) return c.not_that();
    if (fds_count > pass_max) return c.done(count{-EINVAL});
    std::vector<file*> files;
    for (std::size_t i = 0; i < fds_count; i++) {
        file* f = c.k.at(fds[i]);
        if (!f) return c.broken(EBADF);
        files.push_back(f);
    }
    const iovec part{.iov_base = const_cast<void*>(from), .iov_len = bytes};
    const count n = send_through(c, *s, &part, 1);
    if (n > 0 && !files.empty()) s->pass(files, static_cast<std::size_t>(n));
    return c.done(n);
}

count recv_with(int fd, void* to, std::size_t bytes, passed_fds& passed) noexcept {
    crossing c{call::recv_with, fd, static_cast<std::int64_t>(bytes)};
    passed.fds_count = 0;
    passed.is_cut = false;
    stream* s = c.socket();
    if (!s) return c.not_that();
    const int error = struck(c, *s, recv_ways);
    if (error && error != EMFILE) return c.done(count{-error});
    std::vector<file*> files;
    const count n = s->recv(static_cast<char*>(to), bytes, stream::reading::take, &files);
    const bool is_cut = !files.empty() && (error || c.strikes(fault::recv_with_cut));
    const std::size_t most = is_cut ? c.k.chance.below(static_cast<std::uint32_t>(files.size())) : files.size();
    unwrap(c, files, most, passed);
    return c.done(n);
}

int set_option(int fd, int level, int name, int value) noexcept {
    crossing c{call::set_option, fd, name};
    stream* s = c.socket();
    if (!s) return c.not_that();
    if (const int error = c.planned()) return c.done(-error);
    if (c.strikes(fault::option_einval)) return c.done(-EINVAL);
    if (level == SOL_SOCKET && name == SO_REUSEPORT) s->reuse_port = value != 0;
    return c.done(level == IPPROTO_TCP && !s->is_tcp() ? -EOPNOTSUPP : 0);
}

int set_abortive(int fd) noexcept {
    crossing c{call::set_option, fd, SO_LINGER};
    stream* s = c.socket();
    if (!s) return c.not_that();
    s->linger_zero = true;
    return c.done(0);
}

int set_nonblocking(int fd) noexcept {
    crossing c{call::set_nonblocking, fd};
    if (!c.any()) return c.not_that();
    return c.done(-c.planned());
}

bool is_listening(int fd) noexcept {
    crossing c{call::is_listening, fd};
    stream* s = c.socket();
    if (!s) return c.no_socket() > 0;
    const bool listens = s->at == stream::phase::listening && c.planned() == 0;
    return c.done(int{listens}) != 0;
}

bool is_readable(int fd) noexcept {
    crossing c{call::is_readable, fd};
    file* f = c.any();
    if (!f) return c.not_that() != 0;
    constexpr std::uint32_t seen = EPOLLIN | EPOLLERR | EPOLLHUP;
    const bool has = c.planned() != 0 || (f->poll() & seen) != 0;
    return c.done(int{has}) != 0;
}

int socket_error(int fd) noexcept {
    crossing c{call::socket_error, fd};
    stream* s = c.socket();
    if (!s) return -c.not_that();
    if (const int error = c.planned()) c.k.net.break_off(*s, error);
    return c.done(s->take_error());
}

std::int64_t peer_user(int fd) noexcept {
    crossing c{call::peer_user, fd};
    stream* s = c.socket();
    if (!s) return c.no_socket();
    if (const int error = c.planned()) return c.done(std::int64_t{-error});
    return c.done(std::int64_t{s->peer_user});
}

int local_name(int fd, sockaddr* address, socklen_t* bytes) noexcept {
    crossing c{call::local_name, fd};
    stream* s = c.socket();
    if (!s) return c.no_socket();
    if (const int error = c.planned()) return c.done(-error);
    if (c.strikes(fault::name_enobufs)) return c.done(-ENOBUFS);
    copy_name(s->local, address, bytes);
    return c.done(0);
}

int peer_name(int fd, sockaddr* address, socklen_t* bytes) noexcept {
    crossing c{call::peer_name, fd};
    stream* s = c.socket();
    if (!s) return c.no_socket();
    if (const int error = c.planned()) return c.done(-error);
    const bool known = s->at == stream::phase::established; // a unix socket keeps its peer's name
    if (known) copy_name(s->other, address, bytes);
    return c.done(known ? 0 : -ENOTCONN);
}

std::int64_t bytes_acked(int fd) noexcept {
    crossing c{call::bytes_acked, fd};
    stream* s = c.socket();
    if (!s) return c.not_that();
    if (const int error = c.planned()) return c.done(std::int64_t{-error});
    return c.done(s->is_tcp() ? s->acked : std::int64_t{-EOPNOTSUPP});
}

std::int64_t send_queue(int fd) noexcept {
    crossing c{call::send_queue, fd};
    stream* s = c.socket();
    if (!s) return c.any() ? c.done(std::int64_t{-ENOTTY}) : c.broken(EBADF);
    if (const int error = c.planned()) return c.done(std::int64_t{-error});
    if (s->at == stream::phase::listening) return c.done(std::int64_t{s->is_tcp() ? -EINVAL : 0});
    return c.done(static_cast<std::int64_t>(s->queued_bytes()));
}

} // namespace weir::inline WEIR_KERNEL::sys
