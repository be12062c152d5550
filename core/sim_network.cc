// sim_network: streams, and what goes from one to another. Connects and addresses are in sim_network_connect.cc.

#include "core/sim_network.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/sim_remote.hpp"

namespace weir::inline WEIR_KERNEL {

network::network(timeline& t, dice& d, fault_plan& f, trace& tr, const network_options& o) noexcept
    : time(t), chance(d), faults(f), log(tr), options(o), port_next_(o.port_first) {}

network::~network() {
    while (live_.pop_front()) {
    }
}

stream& network::make(int family) noexcept {
    if (streams_free_.empty()) {
        streams_.push_back(std::make_unique<stream>(*this));
        streams_free_.push_back(streams_.back().get());
    }
    stream& s = *streams_free_.back();
    streams_free_.pop_back();
    s.family = family;
    s.user = user;
    s.peer_user = ~0u;
    s.in_max = chance.magnitude(options.buffer_bytes_min, options.buffer_bytes_max);
    s.out_max = chance.magnitude(options.buffer_bytes_min, options.buffer_bytes_max);
    s.delay = duration{};
    if (options.delay_max > duration{} && family != AF_UNIX && faults.strike(fault::wire_slow, chance))
        s.delay = chance.between(duration{1000}, options.delay_max);
    live_.push_back(s);
    streams_live_++;
    return s;
}

void network::free(stream& s) noexcept {
    EXPECT(!s.peer && s.refs == 0 && s.watches.empty());
    s.drop_parcels();
    // Who sent the first FIN keeps the port for a while; after a RST nobody does.
    if (s.port_claim && s.closed_first) time_waits_.push_back({time.now + options.time_wait, s.port_claim});
    else if (s.port_claim) ports_taken_.erase(s.port_claim);
    s.of_network.unlink();
    streams_live_--;
    s.serial++;
    s.at = stream::phase::fresh;
    s.came_at = never;
    s.recv_shut = s.end_read = s.send_shut = s.fin_received = s.fin_sent = s.orphan = s.linger_zero = false;
    s.left = s.closed_first = s.no_space = s.squeezed = s.deliver_planned = s.connect_told = s.reuse_port = s.met_itself = false;
    s.error = 0;
    s.driver = nullptr;
    s.in.clear();
    s.in_sends.clear();
    s.in_charged = 0;
    s.out.clear();
    s.acked = s.acked_late = 0;
    s.sent_at = s.received_at = {};
    s.local = s.other = endpoint{};
    s.port_claim = 0;
    s.connect_tries = 0;
    s.backlog = 0;
    streams_free_.push_back(&s);
}

void network::part(stream& s) noexcept {
    if (s.peer) s.peer->peer = nullptr;
    s.peer = nullptr;
}

// ---- bytes and ends

void network::deliver_soon(stream& from) noexcept {
    if (!from.peer || from.deliver_planned) return;
    if (from.delay == duration{}) {
        deliver(from);
        return;
    }
    from.deliver_planned = true;
    time.plan(time.now + from.delay, deliver_now, &from, from.serial);
}

void network::deliver_now(void* at, std::uint32_t serial) noexcept {
    stream& from = *static_cast<stream*>(at);
    if (from.serial != serial) return;
    from.deliver_planned = false;
    from.net.deliver(from);
}

void network::deliver(stream& from) noexcept {
    if (!from.peer) return;
    stream& to = *from.peer;
    if (to.orphan && !from.out.empty()) {
        arrive_at_orphan(from, to);
        return;
    }
    std::size_t n = std::min(from.out.size(), to.in_room());
    if (n > 1 && faults.strike(fault::wire_pieces, chance)) {
        n = chance.between(1, static_cast<std::uint32_t>(n));
        from.deliver_planned = true;
        time.plan(time.now + chance.between(duration{1000}, duration{500'000}), deliver_now, &from, from.serial);
    }
    if (n > 0) {
        to.in.push(from.out.front(), n);
        to.note_arrival();
        from.out.pop(n);
        acknowledge(from, to, n);
        if (to.acked_late > 0) to.sent_at = time.now;
        to.acked += std::exchange(to.acked_late, 0); // these bytes carry it
        to.wake(EPOLLIN);
        if (from.no_space && from.writable()) {
            from.no_space = false;
            from.wake(EPOLLOUT);
        }
    }
    if (!from.out.empty() || !from.send_shut || from.fin_sent) return;
    from.fin_sent = true;
    from.closed_first = !from.fin_received;
    from.acked += std::exchange(from.acked_late, 0) + 1;
    from.sent_at = time.now;
    if (to.acked_late > 0) to.sent_at = time.now;
    to.acked += std::exchange(to.acked_late, 0);
    from.wake(0); // its FIN is acknowledged
    to.receive_fin();
    if (!to.fin_sent) return;
    // Both ends have been said and heard: neither socket is connected any more.
    part(from);
    for (stream* s : {&from, &to}) {
        s->at = stream::phase::over;
        if (s->orphan) free(*s);
        else s->wake(0);
    }
}

// Linux delays an acknowledgement by up to 40 ms, in the hope of an answer that will carry it.
void network::acknowledge(stream& from, const stream& to, std::size_t bytes) noexcept {
    const bool is_delayed = faults.ratio(fault::wire_slow) > 0 && chance.coin();
    const duration wait = to.delay + (is_delayed ? duration{milliseconds{40}} : duration{});
    if (wait == duration{}) {
        from.acked += static_cast<std::int64_t>(bytes);
        from.sent_at = time.now;
        return;
    }
    from.acked_late += static_cast<std::int64_t>(bytes);
    time.plan(time.now + wait, acknowledge_now, &from, from.serial);
}

void network::acknowledge_now(void* at, std::uint32_t serial) noexcept {
    stream& s = *static_cast<stream*>(at);
    if (s.serial != serial || s.at != stream::phase::established || s.acked_late == 0) return;
    s.acked += std::exchange(s.acked_late, 0);
    s.sent_at = s.net.time.now;
}

// Nobody reads there any more: the sender learns it by a RST.
void network::arrive_at_orphan(stream& from, stream& to) noexcept {
    const duration back = to.delay;
    part(from);
    to.closed_first = false;
    free(to);
    if (from.orphan) {
        free(from);
        return;
    }
    if (back == duration{}) from.receive_reset();
    else time.plan(time.now + back, reset_now, &from, from.serial);
}

void network::reset_other_end(stream& from) noexcept {
    if (!from.peer) return;
    stream& to = *from.peer;
    part(from);
    if (to.orphan) {
        free(to);
        return;
    }
    if (from.delay == duration{}) to.receive_reset();
    else time.plan(time.now + from.delay, reset_now, &to, to.serial);
}

void network::reset_now(void* at, std::uint32_t serial) noexcept {
    stream& s = *static_cast<stream*>(at);
    if (s.serial == serial && !s.orphan) s.receive_reset();
    else if (s.serial == serial) s.net.free(s);
}

// For a moment the kernel has no memory for this socket's bytes.
void network::squeeze(stream& s) noexcept {
    s.squeezed = s.no_space = true;
    time.plan(time.now + chance.between(duration{1000}, duration{2'000'000}), relax_now, &s, s.serial);
}

void network::relax_now(void* at, std::uint32_t serial) noexcept {
    stream& s = *static_cast<stream*>(at);
    if (s.serial != serial || !s.squeezed) return;
    s.squeezed = false;
    if (!s.writable()) return;
    s.no_space = false;
    s.wake(EPOLLOUT);
}

void network::break_off(stream& s, int why) noexcept {
    if (s.at != stream::phase::established && s.at != stream::phase::connecting) return;
    if (s.peer) reset_other_end(s);
    s.fail(why);
}

bool network::break_one() noexcept {
    if (streams_live_ == 0) return false;
    stream* s = live_.front();
    for (std::uint32_t skip = chance.below(static_cast<std::uint32_t>(streams_live_)); skip > 0 && s; skip--)
        s = live_.after(*s);
    if (!s || s->at != stream::phase::established || !s->peer || !s->is_tcp() || s->orphan || s->peer->orphan)
        return false;
    stream& other = *s->peer;
    part(*s);
    s->receive_reset();
    other.receive_reset();
    return true;
}

} // namespace weir::inline WEIR_KERNEL
