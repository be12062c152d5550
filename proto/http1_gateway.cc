// http1_gateway: clients that wait, the two doors, draining.

#include "proto/http1_gateway.hpp"

#include <cstdio>

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr duration drain_grain = milliseconds{10};
constexpr std::uint32_t accept_rest_max = 4096;
} // namespace

const data_cb http1_gateway::waiting_cb{
    .name = "http1-waiting", .recv = waiting_recv, .send = keep_on, .wake = waiting_wake};

http1_gateway::http1_gateway(conntab& conns, const http1_gateway_options& options) noexcept
    : conns_(conns), options_(options), idle_(conns, options.idle),
      tunnels_(conns, {.pairs_max = options.tunnels_max,
                       .fin_timeout = options.fin_timeout,
                       .idle_timeout = options.tunnel_idle_timeout,
                       .ended = client_gone,
                       .owner = this}),
      upstreams_(options.how), exchanges_{.conns = conns,
                                          .idle = idle_,
                                          .tunnels = tunnels_,
                                          .upstreams = upstreams_,
                                          .options = options.http,
                                          .client_waits = client_waits,
                                          .client_gone = client_gone,
                                          .gateway = this,
                                          .pool = fixed_pool<http1_exchange>(options.clients_max)},
      admin_{.name = "admin", .answer = answer_admin, .owner = this}, door_(*this, nullptr),
      admin_door_(*this, &admin_) {
    EXPECT(options.clients_max > 0);
    EXPECT(options.http.head.head_bytes_max <= http1_exchange::head_bytes_max);
}

http1_gateway::~http1_gateway() {
    drain_timer_.cancel();
    abort_all();
}

bool http1_gateway::has_memory() const noexcept {
    return exchanges_.pool.capacity() > 0 && idle_.capacity() > 0 && tunnels_.capacity() > 0;
}

result<void> http1_gateway::listen(const address& at, const listener_options& options) noexcept {
    EXPECT(upstreams_.size() > 0);
    if (!has_memory()) return failure{ENOMEM};
    return door_.port.open(*at.family, at.at, options, accepted, &door_);
}

result<void> http1_gateway::listen(unique_fd inherited, const ctrl& family, const listener_options& options) noexcept {
    EXPECT(upstreams_.size() > 0);
    if (!has_memory()) return failure{ENOMEM};
    return door_.port.adopt(std::move(inherited), family, options, accepted, &door_);
}

result<void> http1_gateway::listen_admin(const address& at) noexcept {
    return admin_door_.port.open(*at.family, at.at, {}, accepted, &admin_door_);
}

void http1_gateway::on_trouble(line_sink sink, void* owner) noexcept {
    trouble_ = sink;
    trouble_owner_ = owner;
    exchanges_.trouble = sink ? trouble : nullptr;
}

void http1_gateway::on_access(line_sink sink, void* owner) noexcept {
    access_ = sink;
    access_owner_ = owner;
    exchanges_.access = sink ? access : nullptr;
}

void http1_gateway::trouble(void* self, std::string_view line) noexcept {
    http1_gateway& g = *static_cast<http1_gateway*>(self);
    g.trouble_(g.trouble_owner_, line);
}

void http1_gateway::access(void* self, std::string_view line) noexcept {
    http1_gateway& g = *static_cast<http1_gateway*>(self);
    g.access_(g.access_owner_, line);
}

// --- clients that wait

void http1_gateway::accepted(void* at, connection& client, const endpoint&) noexcept {
    door& d = *static_cast<door*>(at);
    http1_gateway& self = d.home;
    self.clients_count_++;
    self.clients_total_++;
    if (self.clients_count_ >= self.options_.clients_max) self.door_.port.pause();
    client.attach(waiting_cb, &d);
    self.await_request(client);
}

void http1_gateway::await_request(connection& client) noexcept {
    client.arm(conns_.loop().now() + options_.http.header_timeout, waiting_fired);
    if (client.is(conn_flag::connected)) client.want_recv();
}

void http1_gateway::client_waits(void* self, connection& client, const http1_applet* applet,
                                 http1_exchanges::wait how) noexcept {
    http1_gateway& g = *static_cast<http1_gateway*>(self);
    client.attach(waiting_cb, applet ? &g.admin_door_ : &g.door_);
    if (how == http1_exchanges::wait::still) return;
    client.arm(g.conns_.loop().now() + g.options_.http.keep_alive_timeout, waiting_fired);
    client.want_recv();
}

void http1_gateway::client_gone(void* self) noexcept {
    http1_gateway& g = *static_cast<http1_gateway*>(self);
    g.clients_count_--;
    if (g.clients_count_ == g.options_.clients_max - 1) g.door_.port.resume();
}

// The first byte of a request, or the end: an exchange takes over in the middle of the event.
verdict http1_gateway::waiting_recv(connection& client) noexcept {
    door& d = client.owner_as<door>();
    if (d.home.exchanges_.begin(client, d.applet) == verdict::gone) return verdict::gone;
    return client.cb().recv(client);
}

verdict http1_gateway::waiting_wake(connection& client) noexcept {
    if (!client.is_broken()) {
        // A FIN is recv's to find. Nothing is wanted yet when its transport's handshake is just through.
        if (!client.slot().is(fd_state::recv_active)) client.owner_as<door>().home.await_request(client);
        return verdict::keep;
    }
    client_gone(&client.owner_as<door>().home);
    return client.close(close_intent::silent, end_cause::peer_failed);
}

// The keep-alive timer is left armed while an exchange serves the client.
void http1_gateway::waiting_fired(timer& t, time_point now) noexcept {
    connection& client = connection::of(t);
    if (&client.cb() == &http1_exchange::client_cb) {
        http1_exchange::client_timer(client, now);
        return;
    }
    client_gone(&client.owner_as<door>().home);
    client.close(close_intent::graceful, end_cause::timed_out);
}

// --- draining

void http1_gateway::drain(duration limit, drained done, void* owner) noexcept {
    EXPECT(done != nullptr);
    exchanges_.draining = true;
    drained_ = done;
    drained_owner_ = owner;
    idle_.flush();
    close_waiting();
    door_.port.accept_rest(accept_rest_max); // they would be reset; now they have until `limit` to ask
    door_.port.close();
    admin_door_.port.close();
    drain_until_ = conns_.loop().now() + limit;
    conns_.loop().arm_in(drain_timer_, drain_grain);
}

void http1_gateway::drain_tick(timer& t, time_point now) noexcept {
    http1_gateway& self = container_of<&http1_gateway::drain_timer_>(t);
    const bool is_quiet = self.clients_count_ == 0 && self.conns_.live_count() == 0;
    if (!is_quiet && now < self.drain_until_) {
        self.conns_.loop().arm_in(t, drain_grain);
        return;
    }
    self.cut_count_ = self.exchanges_.active_count() + self.tunnels_.pair_count();
    self.abort_all();
    self.drained_(self.drained_owner_);
}

void http1_gateway::close_waiting() noexcept {
    for (connection* conn = conns_.first(); conn;) {
        connection* next = conns_.after(*conn);
        const bool is_ours = &conn->cb() == &waiting_cb && &conn->owner_as<door>().home == this;
        if (is_ours) {
            client_gone(this);
            conn->close(close_intent::graceful, end_cause::shutdown);
        }
        conn = next;
    }
}

void http1_gateway::abort_all() noexcept {
    close_waiting();
    // An exchange closes two connections: look from the start again after each.
    for (connection* conn = conns_.first(); conn;) {
        const bool is_ours =
            &conn->cb() == &http1_exchange::client_cb && conn->owner_as<http1_exchange>().is_of(exchanges_);
        if (is_ours) conn->owner_as<http1_exchange>().abort(end_cause::shutdown);
        conn = is_ours ? conns_.first() : conns_.after(*conn);
    }
    tunnels_.abort_all(); // no exchange is left that could make another
}

// --- the admin page

http1_answer http1_gateway::answer_admin(void* self, const http1_head& request, std::span<char> room) noexcept {
    http1_gateway& g = *static_cast<http1_gateway*>(self);
    const bool is_get = request.method() == http1_method::get || request.method() == http1_method::head;
    if (!is_get) return {.status = 405, .body = "GET it.\n", .allow = "GET, HEAD"};
    if (request.path() != "/counters") return {.status = 404, .body = "There is /counters.\n"};
    const std::size_t n = g.write_counters(room);
    return {.status = 200, .content_type = "application/json", .body = {room.data(), n}};
}

std::size_t http1_gateway::write_counters(std::span<char> room) noexcept {
    const http1_counters& c = exchanges_.counters;
    http1_writer out{room.data(), room.size()};
    bool is_first = true;
    const auto put = [&](std::string_view name, std::uint64_t value) {
        out.put(is_first ? "{\"" : ",\"").put(name).put("\":").put_number(value);
        is_first = false;
    };
    put("requests", c.requests);
    put("responses", c.responses);
    put("refused", c.refused);
    put("errors", c.failed + c.truncated);
    put("failed", c.failed);
    put("truncated", c.truncated);
    put("abandoned", c.abandoned);
    put("shed", c.shed);
    put("reused", c.reused);
    put("fresh", c.fresh);
    put("retries", c.repeated);
    put("retries_by_proof", c.repeated_by_proof);
    put("tunnels", c.tunnels);
    put("clients", clients_count_);
    put("clients_total", clients_total_);
    put("active", active_count());
    put("idle", idle_.idle_count());
    put("parked", idle_.parked_count());
    put("taken", idle_.taken_count());
    put("swaps", idle_.parked_count() + idle_.taken_count());
    put("idle_closes",
        conns_.ended_count(end_cause::idle_peer_closed) + conns_.ended_count(end_cause::idle_peer_failed));
    put("live", conns_.live_count());
    put("accepted", conns_.opened_count(conn_origin::accepted));
    put("dialed", conns_.opened_count(conn_origin::dialed));
    put("accept_failed", door_.port.failed_count());
    put("accept_paused", door_.port.paused_count());
    put("blocks", conns_.blocks().used());
    put("turns", conns_.loop().turn_count());
    put("epoll_waits", conns_.loop().polls().wait_count());
    put("epoll_ctls", conns_.loop().polls().ctl_count());
    put("stale_reports", conns_.loop().fds().stale_count());
    for (std::size_t i = 1; i < static_cast<std::size_t>(end_cause::count_); i++) {
        char name[40];
        const int n = std::snprintf(name, sizeof name, "end_%s", to_string(static_cast<end_cause>(i)));
        put({name, static_cast<std::size_t>(n)}, conns_.ended_count(static_cast<end_cause>(i)));
    }
    return out.put("}\n").size();
}

} // namespace weir::inline WEIR_KERNEL
