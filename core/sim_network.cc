// sim_network: deliveries, connects, ports.

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
    // Who sent the first FIN keeps the port for a while; after a RST nobody does.
    if (s.port_claim && s.closed_first) time_waits_.push_back({time.now + options.time_wait, s.port_claim});
    else if (s.port_claim) ports_taken_.erase(s.port_claim);
    s.of_network.unlink();
    streams_live_--;
    s.serial++;
    s.at = stream::phase::fresh;
    s.recv_shut = s.send_shut = s.fin_received = s.fin_sent = s.orphan = s.linger_zero = false;
    s.closed_first = s.no_space = s.squeezed = s.deliver_planned = s.connect_told = s.reuse_port = false;
    s.error = 0;
    s.driver = nullptr;
    s.in.clear();
    s.in_sends.clear();
    s.in_charged = 0;
    s.out.clear();
    s.acked = s.acked_late = 0;
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
        from.out.pop(n);
        acknowledge(from, to, n);
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
        return;
    }
    from.acked_late += static_cast<std::int64_t>(bytes);
    time.plan(time.now + wait, acknowledge_now, &from, from.serial);
}

void network::acknowledge_now(void* at, std::uint32_t serial) noexcept {
    stream& s = *static_cast<stream*>(at);
    if (s.serial == serial && s.at == stream::phase::established) s.acked += std::exchange(s.acked_late, 0);
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

// ---- connects

// TCP's 4-tuple as one number.
int network::claim_port(stream& s, const endpoint& to) noexcept {
    while (!time_waits_.empty() && time_waits_.front().until <= time.now) {
        ports_taken_.erase(time_waits_.front().claim);
        time_waits_.pop_front();
    }
    std::uint64_t where = to.port();
    for (socklen_t i = 0; i < to.size(); i++)
        where = where * 1099511628211u + reinterpret_cast<const unsigned char*>(to.data())[i];
    const std::uint32_t ports = std::uint32_t{options.port_last} - options.port_first + 1;
    for (std::uint32_t tries = 0; tries < ports; tries++) {
        const std::uint16_t port = s.local.port() ? s.local.port() : port_next_;
        port_next_ = port_next_ >= options.port_last ? options.port_first : static_cast<std::uint16_t>(port_next_ + 1);
        const std::uint64_t claim = (where << 16 ^ port) | std::uint64_t{1} << 63;
        if (ports_taken_.insert(claim).second) {
            s.port_claim = claim;
            s.local = endpoint::ipv4(0x7f000001, port);
            return 0;
        }
        if (s.local.port()) return -EADDRINUSE;
    }
    return -EADDRNOTAVAIL;
}

int network::connect(stream& s, const endpoint& to) noexcept {
    using enum stream::phase;
    if (s.family != to.family()) return -EAFNOSUPPORT;
    if (!s.is_tcp()) return connect_unix(s, to);
    switch (s.at) {
    case connecting: return -EALREADY;
    case established:
        if (s.connect_told) return -EISCONN;
        s.connect_told = true;
        return 0;
    case listening: return -EISCONN;
    case over: {
        const int why = s.take_error();
        s.at = fresh;
        return why ? -why : -ECONNABORTED;
    }
    case fresh: break;
    }
    if (faults.strike(fault::connect_eaddrnotavail, chance)) return -EADDRNOTAVAIL;
    if (faults.strike(fault::connect_enetunreach, chance)) return -ENETUNREACH;
    if (const int r = claim_port(s, to); r < 0) return r;
    s.at = connecting;
    s.other = to;
    if (faults.strike(fault::connect_lost, chance)) return -EINPROGRESS;
    if (faults.strike(fault::connect_timed_out, chance)) {
        const duration wait = chance.between(duration{seconds{1}}, duration{seconds{8}});
        time.plan(time.now + wait, time_out_now, &s, s.serial);
        return -EINPROGRESS;
    }
    const bool at_once = faults.strike(fault::connect_at_once, chance);
    const bool interrupted = at_once && faults.strike(fault::connect_eintr, chance);
    const duration round_trip = 2 * s.delay;
    if (!at_once && round_trip > duration{}) {
        time.plan(time.now + round_trip, connect_now, &s, s.serial);
        return -EINPROGRESS;
    }
    answer_connect(s);
    if (!at_once || interrupted || s.at != established) return -EINPROGRESS;
    s.connect_told = true;
    return 0;
}

int network::connect_unix(stream& s, const endpoint& to) noexcept {
    if (s.at == stream::phase::established) return -EISCONN;
    if (s.at != stream::phase::fresh) return -EINVAL;
    if (faults.strike(fault::connect_eagain, chance)) return -EAGAIN;
    stream* door = find_listener(to);
    service* far = door ? nullptr : find_service(to);
    if ((!door && !far) || (far && far->refuses)) return -ECONNREFUSED;
    if (door && door->accept_queue.size() > door->backlog) return -EAGAIN;
    s.other = to;
    answer_connect(s);
    return 0;
}

void network::connect_now(void* at, std::uint32_t serial) noexcept {
    stream& s = *static_cast<stream*>(at);
    if (s.serial == serial && s.at == stream::phase::connecting) s.net.answer_connect(s);
}

void network::time_out_now(void* at, std::uint32_t serial) noexcept {
    stream& s = *static_cast<stream*>(at);
    if (s.serial == serial && s.at == stream::phase::connecting) s.fail(ETIMEDOUT);
}

// What the other side says to a SYN.
void network::answer_connect(stream& s) noexcept {
    stream* door = find_listener(s.other);
    service* far = door ? nullptr : find_service(s.other);
    const bool refused = s.is_tcp() && faults.strike(fault::connect_refused, chance);
    if ((!door && !far) || (far && far->refuses) || refused) {
        s.receive_reset();
        return;
    }
    if (door && door->accept_queue.size() > door->backlog) { // the SYN is dropped, and comes again
        if (s.connect_tries++ > 6) s.fail(ETIMEDOUT);
        else time.plan(time.now + seconds{std::int64_t{1} << s.connect_tries}, connect_now, &s, s.serial);
        return;
    }
    stream& server = make(s.family);
    server.local = s.other;
    server.other = s.local;
    establish(s, server);
    if (door) {
        door->accept_queue.push_back(&server);
        door->wake(EPOLLIN);
    } else {
        remote& r = make_remote(*far->table, far->owner);
        r.take(server);
    }
    if (s.is_tcp() && s.peer && !server.driver && faults.strike(fault::connect_reset, chance)) {
        part(s);
        s.receive_reset();
        server.receive_reset();
    } else if (server.driver) {
        stir(*server.driver);
    }
}

void network::establish(stream& client, stream& server) noexcept {
    client.peer = &server;
    server.peer = &client;
    server.delay = client.delay;
    server.at = stream::phase::established;
    const bool pending = client.at == stream::phase::connecting;
    client.at = stream::phase::established;
    if (client.is_tcp()) client.acked = 1; // its SYN
    if (pending) client.wake(0);
}

void network::join(stream& a, stream& b) noexcept {
    a.peer = &b;
    b.peer = &a;
    a.at = b.at = stream::phase::established;
}

// ---- addresses

int network::bind(stream& s, const endpoint& where) noexcept {
    if (s.family != where.family()) return -EAFNOSUPPORT;
    if (s.local.specified()) return -EINVAL;
    const bool any_port = s.is_tcp() && where.port() == 0;
    const bool is_path = !s.is_tcp() && where.path()[0] != '\0';
    if (is_path && std::find(paths_.begin(), paths_.end(), where) != paths_.end()) return -EADDRINUSE;
    if (is_path) paths_.push_back(where);
    s.local = where;
    if (!any_port) {
        const stream* door = find_listener(where);
        if (!door || (door->reuse_port && s.reuse_port)) return 0;
        s.local = endpoint{};
        return -EADDRINUSE;
    }
    s.local = endpoint::ipv4(0x7f000001, port_next_);
    port_next_ = port_next_ >= options.port_last ? options.port_first : static_cast<std::uint16_t>(port_next_ + 1);
    return 0;
}

int network::listen(stream& s, int backlog) noexcept {
    if (s.at != stream::phase::fresh && s.at != stream::phase::listening) return -EINVAL;
    s.backlog = static_cast<std::size_t>(backlog);
    if (s.at == stream::phase::fresh) listeners_.push_back(&s);
    s.at = stream::phase::listening;
    return 0;
}

int network::unlink(const char* path) noexcept {
    const auto gone = std::erase_if(paths_, [&](const endpoint& at) { return std::strcmp(at.path(), path) == 0; });
    return gone > 0 ? 0 : -ENOENT;
}

void network::stop_listening(stream& s) noexcept {
    std::erase(listeners_, &s);
    s.at = stream::phase::over;
    for (stream* waiting : s.accept_queue) {
        waiting->linger_zero = true;
        if (!waiting->is_tcp() && waiting->peer) waiting->peer->error = ECONNRESET;
        waiting->close();
    }
    s.accept_queue.clear();
}

stream* network::find_listener(const endpoint& where) noexcept {
    for (stream* s : listeners_)
        if (s->local == where) return s;
    return nullptr;
}

service* network::find_service(const endpoint& where) noexcept {
    for (service& s : services_)
        if (s.where == where) return &s;
    return nullptr;
}

} // namespace weir::inline WEIR_KERNEL
