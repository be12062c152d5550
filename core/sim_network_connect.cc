// sim_network_connect: connects, ports, and who is found at an address.

#include <algorithm>
#include <cstring>

#include "core/sim_network.hpp"
#include "core/sim_remote.hpp"

namespace weir::inline WEIR_KERNEL {

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
    if (const service* far = find_service(to); far && far->portless) return -EADDRNOTAVAIL;
    if (is_troubled(fault::connect_eaddrnotavail, to)) return -EADDRNOTAVAIL;
    if (faults.strike(fault::connect_enetunreach, chance)) return -ENETUNREACH;
    if (const int r = claim_port(s, to); r < 0) return r;
    s.at = connecting;
    s.other = to;
    const bool is_local_port = options.port_first <= to.port() && to.port() <= options.port_last;
    if (is_local_port && !is_anybody_at(to) && faults.strike(fault::connect_itself, chance)) {
        meet_itself(s);
        return -EINPROGRESS;
    }
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
    if (is_troubled(fault::connect_eagain, to)) return -EAGAIN;
    stream* door = find_listener(to);
    service* far = door ? nullptr : find_service(to);
    if ((!door && !far) || (far && far->refuses)) return -ECONNREFUSED;
    if (far && far->swallows) return -EAGAIN;
    if (door && door->accept_queue.size() > door->backlog) return -EAGAIN;
    s.other = to;
    answer_connect(s);
    return 0;
}

bool network::is_anybody_at(const endpoint& where) noexcept {
    const service* far = find_service(where);
    return find_listener(where) || (far && !far->refuses);
}

// The other end of such a connection is the socket itself. What it would say or hear, the seam sees and does not allow.
void network::meet_itself(stream& s) noexcept {
    static constexpr remote_cb itself{.name = "itself", .run = [](remote& r) noexcept {
                                          if (r.failed() || r.socket().fin_received) r.close();
                                      }};
    stream& other = make(s.family);
    s.local = other.local = other.other = s.other;
    s.met_itself = true;
    establish(s, other);
    make_remote(itself, nullptr).take(other);
}

bool network::is_troubled(fault kind, const endpoint& where) noexcept {
    if (faults.paused() || faults.ratio(kind) == 0) return false; // it is healed
    for (trouble& t : troubles_)
        if (t.kind == kind && t.where == where && t.until > time.now) return true;
    if (!faults.strike(kind, chance)) return false;
    std::erase_if(troubles_, [&](const trouble& t) { return t.until <= time.now; });
    troubles_.push_back({kind, where, time.now + chance.between(duration{1000}, duration{milliseconds{300}})});
    return true;
}

void network::name(std::string_view called, std::vector<endpoint> addresses) noexcept {
    for (auto& known : hosts_) {
        if (known.name != called) continue;
        known.addresses = std::move(addresses);
        return;
    }
    hosts_.push_back({std::string{called}, std::move(addresses)});
}

const std::vector<endpoint>* network::addresses_of(std::string_view called) const noexcept {
    for (const auto& known : hosts_)
        if (known.name == called) return &known.addresses;
    return nullptr;
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
    if (far && far->swallows) return;
    if (door && door->accept_queue.size() > door->backlog) { // the SYN is dropped, and comes again
        if (s.connect_tries++ > 6) s.fail(ETIMEDOUT);
        else time.plan(time.now + seconds{std::int64_t{1} << s.connect_tries}, connect_now, &s, s.serial);
        return;
    }
    stream& server = make(s.family);
    server.local = s.other;
    server.other = s.local;
    server.user = door ? door->user : server.user;
    server.peer_user = s.user;
    s.peer_user = server.user;
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
    a.peer_user = b.user;
    b.peer_user = a.user;
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

bool network::has_path(const char* path) const noexcept {
    return std::any_of(paths_.begin(), paths_.end(),
                       [&](const endpoint& at) { return std::strcmp(at.path(), path) == 0; });
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
