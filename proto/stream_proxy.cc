// stream_proxy: greeting, dialing, handing over to the relay; draining.

#include "proto/stream_proxy.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace weir::inline WEIR_KERNEL {

namespace {

relay_options with_owner(relay_options options, decltype(relay_options::answered) answered,
                         decltype(relay_options::ended) ended, void* owner) noexcept {
    options.answered = answered;
    options.ended = ended;
    options.owner = owner;
    return options;
}

} // namespace

const data_cb stream_proxy::client_cb{
    .name = "stream-client", .recv = greeting_recv, .send = keep_on, .wake = client_wake};
const data_cb stream_proxy::server_cb{.name = "stream-server", .recv = keep_on, .send = keep_on, .wake = server_wake};

stream_proxy::stream_proxy(conntab& conns, const stream_proxy_options& options) noexcept
    : conns_(conns), options_(options), upstreams_(options.how),
      gate_(conns, {.clients_max = options.relay.pairs_max, .places = options.places, .accepted = accepted,
                    .let_go = let_go, .cut_off = cut_off, .owner = this}),
      relay_(conns, with_owner(options.relay, pair_answered, pair_ended, this)), sessions_(options.relay.pairs_max),
      lines_(conns.loop(), options.trouble_rate, tell_left_out, this) {
    static_assert(static_cast<std::size_t>(end_cause::count_) <= line_limit::kinds_max, "each cause is a kind");
    EXPECT(!options.places || options.places->clients_max() <= options.relay.pairs_max);
    // What came with the line goes into one block, together with the line that is sent.
    EXPECT(options.proxy.bytes_max + proxy_v2_bytes_max <= block_bytes);
}

stream_proxy::~stream_proxy() {
    gate_.stop_drain();
    abort_all();
}

listener_options stream_proxy::for_clients(listener_options options) const noexcept {
    options.socket.user_timeout = user_timeout_for(options.socket.user_timeout, options_.relay.idle_timeout);
    return options;
}

result<void> stream_proxy::listen(const address& at, const listener_options& options) noexcept {
    EXPECT(upstreams_.size() > 0);
    if (!has_memory()) return failure{ENOMEM};
    return gate_.listen(at, for_clients(options));
}

result<void> stream_proxy::listen(unique_fd inherited, const ctrl& family, const listener_options& options) noexcept {
    EXPECT(upstreams_.size() > 0);
    if (!has_memory()) return failure{ENOMEM};
    return gate_.listen(std::move(inherited), family, for_clients(options));
}

void stream_proxy::on_trouble(line_sink sink, void* owner) noexcept {
    trouble_ = sink;
    trouble_owner_ = owner;
}

// --- a client, until its server is there

void stream_proxy::accepted(void* self, connection& client, const endpoint& peer) noexcept {
    stream_proxy& p = *static_cast<stream_proxy*>(self);
    p.counters_.clients_total++;
    session* s = p.sessions_.make(p, client, peer);
    EXPECT(s != nullptr); // there are as many as clients
    p.waiting_.push_back(*s);
    client.attach(client_cb, s);
    const bool is_connected = client.is(conn_flag::connected);
    if (!is_connected) // its transport's handshake
        client.arm(later(p.conns_.loop().now(), p.options_.relay.connect_timeout), connection::timed_out);
    s->greeted = !p.options_.accept_proxy;
    if (s->greeted) p.dial_next(*s);
    else if (is_connected) p.await_greeting(*s);
}

void stream_proxy::await_greeting(session& s) noexcept {
    s.line.start(options_.proxy);
    s.client->arm(later(conns_.loop().now(), options_.proxy_timeout), greeting_late);
    s.client->want_recv();
    gate_.waits(*s.client);
}

// Of a client whose PROXY line has not begun: another one needs its place.
void stream_proxy::let_go(void* self, connection& client) noexcept {
    stream_proxy& p = *static_cast<stream_proxy*>(self);
    p.refuse(client.owner_as<session>(), p.counters_.bad_greetings, end_cause::idle_evicted,
             "its PROXY line has not begun, and another client needs its place");
}

verdict stream_proxy::greeting_recv(connection& client) noexcept {
    session& s = client.owner_as<session>();
    stream_proxy& p = s.home;
    for (;;) {
        const auto room = s.early.room(p.conns_.blocks());
        if (!room.at) return p.refuse(s, p.counters_.bad_greetings, end_cause::no_room, "no block is left");
        const std::size_t bytes_max = std::max<std::size_t>(p.options_.proxy.bytes_max, proxy_v1_bytes_max);
        const io_result got = client.recv(room.at, bytes_max - s.early.size());
        switch (got.end) {
        case io::done:
            s.early.grow(got.bytes);
            p.gate_.stops_waiting(client);
            break;
        case io::again:
            if (s.early.empty()) s.early.clear(p.conns_.blocks()); // a client that only waits holds none
            return verdict::keep;
        case io::closed:
            if (s.early.empty()) return p.refuse(s, p.counters_.silent, end_cause::peer_closed, nullptr);
            return p.refuse(s, p.counters_.bad_greetings, end_cause::peer_closed, "it ended within its PROXY line");
        case io::failed: return p.refuse(s, p.counters_.abandoned, end_cause::peer_failed, nullptr);
        }
        switch (s.line.parse(s.early.bytes())) {
        case proxy_line::progress::more:
            if (!client.slot().is(fd_state::recv_ready)) return verdict::keep;
            continue;
        case proxy_line::progress::bad:
            return p.refuse(s, p.counters_.bad_greetings, end_cause::protocol, to_string(s.line.error()));
        case proxy_line::progress::done: break;
        }
        s.early.consume(s.line.size(), p.conns_.blocks());
        s.greeted = true;
        client.stop_recv();
        client.disarm();
        return p.dial_next(s);
    }
}

void stream_proxy::greeting_late(timer& t, time_point) noexcept {
    session& s = connection::of(t).owner_as<session>();
    s.home.refuse(s, s.home.counters_.bad_greetings, end_cause::timed_out, "its PROXY line is not complete");
}

verdict stream_proxy::client_wake(connection& client) noexcept {
    session& s = client.owner_as<session>();
    if (client.is_broken()) return s.home.refuse(s, s.home.counters_.abandoned, end_cause::peer_failed, nullptr);
    if (s.greeted) return s.home.start(s);
    // Its transport's handshake may just be through.
    if (client.is(conn_flag::connected) && !client.slot().is(fd_state::recv_active)) s.home.await_greeting(s);
    return verdict::keep;
}

// --- its server

// `keep`, or `gone`: none is left and the client was closed.
verdict stream_proxy::dial_next(session& s) noexcept {
    for (;;) {
        upstream_address* to = upstreams_.choose(s.made, conns_.loop().now());
        if (!to) return refuse(s, counters_.refused, end_cause::connect_failed, describe(s.made.error));
        auto server = dial(conns_, *to->where.family, to->where.at,
                           {.timeout = options_.relay.connect_timeout,
                            .user_timeout = relay_.user_timeout(),
                            .transport = to->of->transport},
                           server_cb, &s);
        if (server) {
            s.server = server.value();
            s.to = to;
            upstreams_.hold(*to);
            to->of->active_count++;
            return verdict::keep;
        }
        if (!may_ask_another(s, *to, server.error()))
            return refuse(s, counters_.refused, end_cause::no_room, describe(server.error()));
    }
}

// False: the failure is ours, and no other server helps.
bool stream_proxy::may_ask_another(session& s, upstream_address& to, int error) noexcept {
    const blame whose = upstreams_.rule_out(s.made, to, error, conns_.loop().now());
    if (whose == blame::dead) counters_.connect_failed++;
    s.failed = to.where.at;
    return whose != blame::ours;
}

// A connection to `to` is no more.
void stream_proxy::leave(upstream_address& to) noexcept {
    to.of->active_count--;
    upstreams_.let_go(to);
}

verdict stream_proxy::server_wake(connection& server) noexcept {
    session& s = server.owner_as<session>();
    stream_proxy& p = s.home;
    if (!server.is_broken()) {
        if (server.is(conn_flag::connected)) p.upstreams_.connected(*s.to);
        return p.start(s);
    }
    upstream_address& to = *std::exchange(s.to, nullptr);
    s.server = nullptr;
    const int error = server.error() != 0 ? server.error() : ECONNRESET;
    server.close(close_intent::silent, server.failure());
    const bool may_go_on = p.may_ask_another(s, to, error);
    p.leave(to);
    if (may_go_on) p.dial_next(s);
    else p.refuse(s, p.counters_.refused, end_cause::no_room, describe(error));
    return verdict::gone;
}

// Writes the PROXY line; 0 bytes: none is sent.
std::size_t stream_proxy::write_line(const session& s, std::span<char> room) const noexcept {
    if (options_.send == send_proxy::off) return 0;
    endpoint source, destination;
    const bool is_told = options_.accept_proxy && s.line.source().specified();
    if (is_told) {
        source = s.line.source();
        destination = s.line.destination();
    } else if (s.peer.family() != AF_UNIX) {
        const auto local = local_endpoint(s.client->fd());
        source = s.peer;
        destination = local ? local.value() : port().local(); // ENOBUFS: who it is must not depend on that
    }
    if (options_.send == send_proxy::v1)
        return write_proxy_v1(room.first<proxy_v1_bytes_max>(), source, destination).size();
    return write_proxy_v2(room, source, destination).size();
}

verdict stream_proxy::start(session& s) noexcept {
    if (!s.server || !s.server->is(conn_flag::connected) || !s.client->is(conn_flag::connected)) return verdict::keep;
    // The scratch room is free: nothing is received here.
    const std::span<char> room{conns_.scratch(), conntab::scratch_bytes};
    std::size_t bytes = write_line(s, room);
    const std::string_view early = s.early.bytes();
    bytes += early.copy(room.data() + bytes, early.size());
    s.early.clear(conns_.blocks());
    const auto joined = relay_.join(*s.client, *s.server, {room.data(), bytes}, {}, s.to);
    if (!joined) return refuse(s, counters_.refused, end_cause::no_room, std::strerror(joined.error()));
    counters_.relayed++;
    s.hook.unlink();
    sessions_.free(s);
    return verdict::keep;
}

// --- ends

// Closes the client, and the server's connection if there is one. `words`: for people; null if there is nothing to say.
verdict stream_proxy::refuse(session& s, counter& why, end_cause cause, const char* words) noexcept {
    why++;
    if (trouble_ && words && lines_.admits(static_cast<std::size_t>(cause))) {
        char line[1280], at[endpoint::log_text_max], server_at[endpoint::log_text_max];
        const std::string_view from = s.peer.log_text(at);
        const bool is_server = cause == end_cause::connect_failed && s.failed.specified();
        const std::string_view server = is_server ? s.failed.log_text(server_at) : std::string_view{};
        const int n =
            std::snprintf(line, sizeof line, "client %.*s refused: %s: %s%.*s%s%s", static_cast<int>(from.size()),
                          from.data(), to_string(cause), is_server ? "upstream " : "", static_cast<int>(server.size()),
                          server.data(), is_server ? ": " : "", words);
        trouble_(trouble_owner_, {line, std::min(static_cast<std::size_t>(n), sizeof line - 1)});
    }
    end(s, cause);
    return verdict::gone;
}

void stream_proxy::tell_left_out(void* self, std::size_t cause, std::uint64_t count) noexcept {
    const stream_proxy& p = *static_cast<const stream_proxy*>(self);
    if (!p.trouble_) return;
    char line[96];
    const int n = std::snprintf(line, sizeof line, "clients refused: %s: %llu more lines like this were not written",
                                to_string(static_cast<end_cause>(cause)), static_cast<unsigned long long>(count));
    p.trouble_(p.trouble_owner_, {line, static_cast<std::size_t>(n)});
}

void stream_proxy::end(session& s, end_cause cause) noexcept {
    s.early.clear(conns_.blocks());
    if (s.to) leave(*s.to);
    if (s.server) s.server->close(close_intent::silent, end_cause::done);
    s.client->close(close_intent::abort, cause);
    s.hook.unlink();
    sessions_.free(s);
    gate_.gone();
}

void stream_proxy::pair_answered(void* self, void* to) noexcept {
    static_cast<stream_proxy*>(self)->upstreams_.answered(*static_cast<upstream_address*>(to));
}

void stream_proxy::pair_ended(void* self, void* at, relay_end how) noexcept {
    stream_proxy& p = *static_cast<stream_proxy*>(self);
    upstream_address& to = *static_cast<upstream_address*>(at);
    if (how == relay_end::unheard) {
        p.counters_.unheard++;
        p.upstreams_.failed(to, p.conns_.loop().now());
    }
    p.leave(to);
    p.gate_.gone();
}

void stream_proxy::abort_all() noexcept {
    while (session* s = waiting_.front())
        refuse(*s, counters_.refused, end_cause::shutdown, nullptr);
    relay_.abort_all();
}

void stream_proxy::drain(drain_kind how, duration limit, drained done, void* owner) noexcept {
    if (!gate_.is_draining()) gate_.drain(how, limit, done, owner);
}

std::size_t stream_proxy::cut_off(void* self) noexcept {
    stream_proxy& p = *static_cast<stream_proxy*>(self);
    const std::size_t count = p.clients_count();
    p.abort_all();
    p.lines_.tell_sums();
    return count;
}

void stream_proxy::add_counters(counter_table& to) const noexcept {
    to.add("clients", clients_count());
    to.add("clients_total", counters_.clients_total);
    to.add("relayed", counters_.relayed);
    to.add("refused", counters_.refused);
    to.add("bad_greetings", counters_.bad_greetings);
    to.add("silent", counters_.silent);
    to.add("abandoned", counters_.abandoned);
    to.add("connect_failed", counters_.connect_failed);
    to.add("clients_let_go", gate_.let_go_count());
    to.add("unheard", counters_.unheard);
    to.add("bytes", relay_.bytes_count());
    to.add("spliced_bytes", relay_.spliced_count());
    to.add("unspliced", relay_.unspliced_count());
    add_engine_counters(to, conns_, port());
}

} // namespace weir::inline WEIR_KERNEL
