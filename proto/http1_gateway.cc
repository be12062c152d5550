// http1_gateway: clients that wait, the two doors, draining.

#include "proto/http1_gateway.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

// One for each address that an upstream may have.
idle_options with_keys(idle_options idle) noexcept {
    constexpr std::uint32_t keys_min = upstream_set::capacity * upstream::addresses_max;
    idle.keys_max = std::max(idle.keys_max, keys_min);
    return idle;
}

} // namespace

const data_cb http1_gateway::waiting_cb{
    .name = "http1-waiting", .recv = waiting_recv, .send = keep_on, .wake = waiting_wake};

http1_gateway::http1_gateway(conntab& conns, const http1_gateway_options& options) noexcept
    : conns_(conns), options_(options), idle_(conns, with_keys(options.idle)),
      tunnels_(conns, {.pairs_max = options.tunnels_max,
                       .fin_timeout = options.fin_timeout,
                       .idle_timeout = options.tunnel_idle_timeout,
                       .user_timeout = options.tunnel_user_timeout,
                       .ended = tunnel_ended,
                       .owner = this}),
      upstreams_(options.how), exchanges_{.conns = conns,
                                          .idle = idle_,
                                          .tunnels = tunnels_,
                                          .upstreams = upstreams_,
                                          .options = options.http,
                                          .client_waits = client_waits,
                                          .client_gone = client_gone,
                                          .is_pressed = is_pressed,
                                          .gateway = this,
                                          .lines = line_limit(conns.loop(), options.http.trouble_rate,
                                                              http1_exchanges::tell_left_out, &exchanges_),
                                          .pool = fixed_pool<http1_exchange>(std::size_t{options.clients_max} +
                                                                             admin_clients_max)},
      admin_{.name = "admin", .answer = answer_admin, .owner = this},
      door_(*this, options.clients_max, options.places, nullptr),
      admin_door_(*this, admin_clients_max, nullptr, &admin_) {
    http1_options& http = exchanges_.options;
    http.user_timeout = user_timeout_for(http.user_timeout, http.first_byte_timeout);
    EXPECT(!options.places || options.places->clients_max() <= options.clients_max);
    EXPECT(options.http.head.head_bytes_max <= http1_exchange::large_head_bytes_max);
    EXPECT(check_upgrades(options.http.upgrades) == http1_upgrades_error::none);
}

http1_gateway::~http1_gateway() {
    door_.gate.stop_drain();
    abort_all();
}

bool http1_gateway::has_blocks_for_heads() const noexcept {
    return conns_.blocks().large_capacity() > 0 || !http1_exchange::needs_large_blocks(options_.http.head);
}

bool http1_gateway::has_memory() const noexcept {
    const bool has_idle = idle_.capacity() > 0 || options_.idle.idle_max == 0;
    return exchanges_.pool.capacity() > 0 && has_idle && tunnels_.capacity() > 0;
}

void http1_gateway::add_upstream(std::span<const address> where, const xprt& transport) noexcept {
    upstreams_.add(where, transport);
    give_keys(upstreams_.size() - 1);
}

void http1_gateway::set_upstream(std::size_t i, std::span<const address> where) noexcept {
    upstreams_.replace(i, where);
    give_keys(i);
}

// A key for each address that is listed, and for no other.
void http1_gateway::give_keys(std::size_t i) noexcept {
    upstream& u = upstreams_.at(i);
    for (upstream_address& a : u.places) {
        if (a.is_listed || !a.key) continue;
        if (!shares_key(a)) idle_.forget(a.key);
        a.key = {};
    }
    for (const std::uint8_t place : u.order()) {
        upstream_address& a = u.places[place];
        if (!a.key)
            a.key = idle_.key_of({.remote = a.where.at, .family = a.where.family, .transport = u.transport});
    }
}

// Two upstreams may be at one address.
bool http1_gateway::shares_key(const upstream_address& a) const noexcept {
    for (std::size_t i = 0; i < upstreams_.size(); i++)
        for (const upstream_address& other : upstreams_.at(i).places)
            if (&other != &a && other.key == a.key) return true;
    return false;
}

listener_options http1_gateway::for_clients(listener_options options) const noexcept {
    options.socket.user_timeout = user_timeout_for(options.socket.user_timeout, options_.http.write_timeout);
    return options;
}

result<void> http1_gateway::listen(const address& at, const listener_options& options) noexcept {
    EXPECT(upstreams_.size() > 0);
    EXPECT(has_blocks_for_heads());
    if (!has_memory()) return failure{ENOMEM};
    return door_.gate.listen(at, for_clients(options));
}

result<void> http1_gateway::listen(unique_fd inherited, const ctrl& family, const listener_options& options) noexcept {
    EXPECT(upstreams_.size() > 0);
    EXPECT(has_blocks_for_heads());
    if (!has_memory()) return failure{ENOMEM};
    return door_.gate.listen(std::move(inherited), family, for_clients(options));
}

result<void> http1_gateway::listen_admin(const address& at, counters_writer writer, void* owner,
                                         const listener_options& options) noexcept {
    EXPECT(has_blocks_for_heads());
    counters_ = writer;
    counters_owner_ = owner;
    return admin_door_.gate.listen(at, options);
}

result<void> http1_gateway::listen_admin(unique_fd inherited, const ctrl& family, counters_writer writer,
                                         void* owner) noexcept {
    EXPECT(has_blocks_for_heads());
    counters_ = writer;
    counters_owner_ = owner;
    return admin_door_.gate.listen(std::move(inherited), family, {});
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
    client.attach(waiting_cb, &d);
    d.gate.waits(client);
    d.home.await_request(client);
}

void http1_gateway::await_request(connection& client) noexcept {
    client.arm(later(conns_.loop().now(), options_.http.header_timeout), waiting_fired);
    if (client.is(conn_flag::connected)) client.want_recv();
}

void http1_gateway::client_waits(void* self, connection& client, const http1_applet* applet, http1_wait how) noexcept {
    http1_gateway& g = *static_cast<http1_gateway*>(self);
    door& d = g.door_of(applet);
    client.attach(waiting_cb, &d);
    d.gate.waits(client);
    if (how == http1_wait::still) return;
    client.arm(later(g.conns_.loop().now(), g.options_.http.keep_alive_timeout), waiting_fired);
    client.want_recv();
}

void http1_gateway::client_gone(void* self, const http1_applet* applet) noexcept {
    static_cast<http1_gateway*>(self)->door_of(applet).gate.gone();
}

bool http1_gateway::is_pressed(void* self, const http1_applet* applet) noexcept {
    return static_cast<http1_gateway*>(self)->door_of(applet).gate.is_pressed();
}

void http1_gateway::tunnel_ended(void* self, void* at, relay_end) noexcept {
    upstream_address& to = *static_cast<upstream_address*>(at);
    to.of->active_count--;
    static_cast<http1_gateway*>(self)->upstreams_.let_go(to);
    client_gone(self, nullptr);
}

// Of a client that waits: another one needs its place.
void http1_gateway::let_go(void* at, connection& client) noexcept {
    client.close(close_intent::graceful, end_cause::idle_evicted);
    static_cast<door*>(at)->gate.gone();
}

// The first byte of a request, or the end: an exchange takes over in the middle of the event.
verdict http1_gateway::waiting_recv(connection& client) noexcept {
    door& d = client.owner_as<door>();
    d.gate.stops_waiting(client);
    d.home.exchanges_.begin(client, d.applet);
    return client.cb().recv(client);
}

verdict http1_gateway::waiting_wake(connection& client) noexcept {
    if (!client.is_broken()) {
        // A FIN is recv's to find. Nothing is wanted yet when its transport's handshake is just through.
        if (!client.slot().is(fd_state::recv_active)) client.owner_as<door>().home.await_request(client);
        return verdict::keep;
    }
    client.owner_as<door>().gate.gone();
    return client.close(close_intent::silent, end_cause::peer_failed);
}

// The keep-alive timer is left armed while an exchange serves the client.
void http1_gateway::waiting_fired(timer& t, time_point now) noexcept {
    connection& client = connection::of(t);
    if (&client.cb() == &http1_exchange::client_cb) {
        http1_exchange::client_timer(client, now);
        return;
    }
    client.owner_as<door>().gate.gone();
    client.close(close_intent::graceful, end_cause::timed_out);
}

// --- draining

void http1_gateway::drain(drain_kind how, duration limit, drained done, void* owner) noexcept {
    if (how == drain_kind::end) close_waiting();
    if (exchanges_.draining) return;
    exchanges_.draining = true;
    idle_.flush();
    admin_door_.gate.close();
    door_.gate.drain(how, limit, done, owner); // those in the backlog have until `limit` to ask
}

std::size_t http1_gateway::cut_off(void* at) noexcept {
    http1_gateway& self = static_cast<door*>(at)->home;
    const std::size_t count = self.exchanges_.active_count() + self.tunnels_.pair_count();
    self.abort_all();
    self.exchanges_.lines.tell_sums();
    return count;
}

void http1_gateway::close_waiting() noexcept {
    for (connection* conn = conns_.first(); conn;) {
        connection* next = conns_.after(*conn);
        const bool is_ours = &conn->cb() == &waiting_cb && &conn->owner_as<door>().home == this;
        if (is_ours) {
            client_gone(this, conn->owner_as<door>().applet);
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
    std::size_t bytes = 0;
    if (g.counters_) {
        bytes = g.counters_(g.counters_owner_, room);
    } else {
        counter_table counters;
        g.add_counters(counters);
        bytes = counters.write_json(room);
    }
    return {.status = 200, .content_type = "application/json", .body = {room.data(), bytes}};
}

void http1_gateway::add_counters(counter_table& to) const noexcept {
    const http1_counters& c = exchanges_.counters;
    to.add("requests", c.requests);
    to.add("responses", c.responses);
    to.add("refused", c.refused);
    to.add("errors", c.failed + c.truncated);
    to.add("failed", c.failed);
    to.add("truncated", c.truncated);
    to.add("abandoned", c.abandoned);
    to.add("shed", c.shed);
    to.add("reused", c.reused);
    to.add("fresh", c.fresh);
    to.add("retries", c.repeated);
    to.add("retries_by_proof", c.repeated_by_proof);
    to.add("tunnels", c.tunnels);
    to.add("clients", clients_count());
    to.add("clients_total", door_.gate.clients_total());
    to.add("clients_let_go", door_.gate.let_go_count());
    to.add("admin_clients", admin_door_.gate.clients_count());
    to.add("active", active_count());
    to.add("idle", idle_.idle_count());
    to.add("parked", idle_.parked_count());
    to.add("taken", idle_.taken_count());
    to.add("swaps", idle_.parked_count() + idle_.taken_count());
    to.add("idle_closes",
           conns_.ended_count(end_cause::idle_peer_closed) + conns_.ended_count(end_cause::idle_peer_failed));
    add_engine_counters(to, conns_, port());
}

} // namespace weir::inline WEIR_KERNEL
