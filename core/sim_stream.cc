// sim_stream: what the calls answer, after net/ipv4/tcp.c and net/unix/af_unix.c.

#include "core/sim_stream.hpp"

#include <algorithm>
#include <utility>

#include "core/sim_network.hpp"

namespace weir::inline WEIR_KERNEL {

std::uint32_t stream::poll() noexcept {
    if (at == phase::listening) return accept_queue.empty() ? std::uint32_t{0} : EPOLLIN;
    std::uint32_t seen = 0;
    if ((recv_shut && send_shut) || at == phase::fresh || at == phase::over) seen |= EPOLLHUP;
    if (recv_shut) seen |= EPOLLIN | EPOLLRDHUP;
    if (at != phase::connecting) {
        if (!in.empty()) seen |= EPOLLIN;
        if (writable() || (is_tcp() && send_shut)) seen |= EPOLLOUT;
        else no_space = true;
    }
    if (error) seen |= EPOLLERR;
    return seen;
}

void stream::wake(std::uint32_t key) noexcept {
    file::wake(key);
    if (driver) net.stir(*driver);
}

std::size_t stream::out_room() const noexcept {
    if (squeezed) return 0;
    const std::size_t used = is_tcp() || !peer ? out.size() : peer->in_charged;
    return used < out_max ? out_max - used : 0;
}

// A unix socket's charge is its peer's unread sends, each in full.
std::size_t stream::queued_bytes() const noexcept {
    if (!is_tcp()) return peer ? peer->in_charged : 0;
    const bool owes_fin = send_shut && !fin_sent && at == phase::established;
    return out.size() + static_cast<std::size_t>(acked_late) + (owes_fin ? 1 : 0);
}

// Room is told only when there is a good part of it: sk_stream_is_writeable(), unix_writable().
bool stream::writable() const noexcept {
    if (squeezed) return false;
    if (!is_tcp()) return !peer || peer->in_charged * 4 <= out_max;
    return out_room() > 0 && out_room() >= out.size() / 2;
}

int stream::take_error() noexcept { return std::exchange(error, 0); }

sys::count stream::send(const char* from, std::size_t bytes) noexcept {
    if (is_tcp()) {
        if (at == phase::connecting && !error) return -EAGAIN;
        if (at != phase::established || error || send_shut) {
            const int why = take_error();
            return why ? -why : -EPIPE;
        }
    } else {
        if (at != phase::established) return -ENOTCONN;
        if (send_shut || !peer || peer->recv_shut) return -EPIPE;
    }
    const std::size_t n = std::min(bytes, out_room());
    if (n < bytes) no_space = true;
    if (n == 0 && bytes > 0) return -EAGAIN;
    sent_at = net.time.now;
    if (is_tcp()) {
        out.push(from, n);
        net.deliver_soon(*this);
    } else {
        peer->in.push(from, n);
        peer->in_sends.push_back(n);
        peer->in_charged += n;
        peer->note_arrival();
        peer->wake(EPOLLIN);
    }
    return static_cast<sys::count>(n);
}

sys::count stream::recv(char* to, std::size_t bytes, reading how, std::vector<file*>* passed) noexcept {
    came_at = never;
    if (!is_tcp() && at != phase::established) return -EINVAL;
    if (at == phase::listening) return -ENOTCONN;
    if (in.empty()) {
        if (!fin_received && error) return -take_error();
        if (fin_received || recv_shut) {
            end_read = end_read || how == reading::take;
            return 0;
        }
        return at == phase::fresh ? -ENOTCONN : -EAGAIN;
    }
    std::size_t n = std::min(bytes, in.size());
    // A read that meets what was passed ends with the send it came with.
    if (!in_parcels.empty() && n > in_parcels.front().at)
        n = std::min(n, in_parcels.front().at + in_parcels.front().bytes);
    if (how != reading::throw_away) std::memcpy(to, in.front(), n);
    if (how == reading::peek) return static_cast<sys::count>(n);
    in.pop(n);
    received_at = net.time.now;
    unpack(n, passed);
    if (!is_tcp()) uncharge();
    else if (peer) net.deliver_soon(*peer);
    return static_cast<sys::count>(n);
}

void stream::pass(const std::vector<file*>& files, std::size_t bytes) noexcept {
    for (file* f : files)
        f->refs++;
    peer->in_parcels.push_back({peer->in.size() - bytes, bytes, files});
}

// After n bytes were read.
void stream::unpack(std::size_t n, std::vector<file*>* passed) noexcept {
    if (!in_parcels.empty() && in_parcels.front().at < n) {
        const std::vector<file*> files = std::move(in_parcels.front().files);
        in_parcels.pop_front();
        if (passed) *passed = files;
        else
            for (file* f : files)
                let_go(*f);
    }
    for (parcel& p : in_parcels)
        p.at -= n;
}

void stream::drop_parcels() noexcept {
    for (const parcel& p : std::exchange(in_parcels, {}))
        for (file* f : p.files)
            let_go(*f);
}

// Gives the sends back that were read to their end; each is room for the sender.
void stream::uncharge() noexcept {
    while (!in_sends.empty() && in_charged - in_sends.front() >= in.size()) {
        in_charged -= in_sends.front();
        if (peer) peer->sent_at = net.time.now;
        in_sends.pop_front();
        if (peer && peer->writable()) peer->wake(EPOLLOUT);
    }
}

int stream::shutdown_send() noexcept {
    if (at == phase::listening) return 0;
    if (is_tcp() && (at == phase::fresh || at == phase::over)) {
        send_shut = true;
        wake(0);
        return -ENOTCONN;
    }
    if (is_tcp() && at == phase::connecting) { // disconnects
        net.part(*this);
        at = phase::fresh;
        error = ECONNRESET;
        wake(0);
        return 0;
    }
    send_shut = true;
    sent_at = net.time.now;
    wake(0);
    if (!peer) return 0;
    if (is_tcp()) {
        net.deliver_soon(*this);
    } else {
        peer->recv_shut = true;
        peer->note_arrival();
        peer->wake(0);
    }
    return 0;
}

// The other side has said its last byte.
void stream::receive_fin() noexcept {
    fin_received = true;
    recv_shut = true;
    note_arrival();
    wake(0);
}

void stream::note_arrival() noexcept { came_at = std::min(came_at, net.time.now); }

void stream::receive_reset() noexcept {
    if (at == phase::over || at == phase::fresh) return;
    fail(at == phase::connecting ? ECONNREFUSED : fin_received ? EPIPE : ECONNRESET);
}

// Both directions are over. What was received before stays readable.
void stream::fail(int why) noexcept {
    out.clear();
    net.part(*this);
    at = phase::over;
    recv_shut = send_shut = true;
    closed_first = false;
    error = why;
    wake(0);
    wake(EPOLLERR);
}

void let_go(file& f) noexcept {
    if (--f.refs > 0) return;
    if (f.what == file::kind::stream) {
        static_cast<stream&>(f).close();
        return;
    }
    f.forget_watches();
    delete &f;
}

void stream::close() noexcept {
    forget_watches();
    driver = nullptr;
    if (at == phase::listening) {
        net.stop_listening(*this);
    } else if (!is_tcp()) {
        if (peer) {
            peer->recv_shut = peer->send_shut = true;
            if (!in.empty()) peer->error = ECONNRESET;
            stream& survivor = *peer;
            net.part(*this);
            survivor.wake(0);
        }
    } else if (at == phase::established && peer && (linger_zero || !in.empty())) {
        closed_first = false;
        net.reset_other_end(*this);
    } else if (at == phase::established && peer) {
        // Freed when its FIN has been answered. What is still on its way here is answered by a RST.
        stream& far_end = *peer;
        const std::uint32_t before = serial;
        far_end.left = far_end.left || !send_shut;
        orphan = recv_shut = send_shut = true;
        net.deliver_soon(*this);
        if (serial == before && peer) net.deliver_soon(far_end);
        return;
    }
    net.part(*this);
    net.free(*this);
}

} // namespace weir::inline WEIR_KERNEL
