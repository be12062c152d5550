// origin: reading requests, answering them, leaving.

#include "tools/origin.hpp"

#include <cstdio>

#include "proto/http1_body.hpp"

namespace weir::inline WEIR_KERNEL::tools {

// One connection, from its accept to its end.
struct visitor {
    enum class phase : std::uint8_t { head, body, delay, answer };

    origin& home;
    connection& conn;
    http1_head head{};
    http1_body body{};
    buffer in{}, out{};        // out: made while the request is read; sent before `unsent`
    std::string_view unsent{}; // of a reply
    time_point fin_at{};       // leaving: when it began
    std::uint32_t answered = 0;
    phase at = phase::head;
    ending after = ending::stay;
};

namespace {

block_pool& blocks_of(visitor& v) noexcept { return v.home.conns.blocks(); }

verdict bye(visitor& v, close_intent intent, end_cause cause) noexcept {
    connection& conn = v.conn;
    v.in.clear(blocks_of(v));
    v.out.clear(blocks_of(v));
    v.home.visitors->free(v);
    return conn.close(intent, cause);
}

// --- leaving

verdict leaving_recv(connection& conn) noexcept {
    visitor& v = conn.owner_as<visitor>();
    const bool unread = sys::peek(conn.fd()) > 0;
    if (unread || conn.slot().is(fd_state::err)) { // a request and our FIN crossed, as a rule: it gets a RST
        ++(unread ? v.home.sum.crossed_before : v.home.sum.resets_after_fin);
        return bye(v, close_intent::abort, end_cause::done);
    }
    sockaddr_storage peer;
    socklen_t bytes = sizeof peer;
    if (sys::peer_name(conn.fd(), reinterpret_cast<sockaddr*>(&peer), &bytes) == 0) { // it has a peer still
        conn.cant_recv();
        return verdict::keep;
    }
    v.home.sum.fin_to_close.record(static_cast<std::uint64_t>((sys::now() - v.fin_at).count()));
    return bye(v, close_intent::after_fin, end_cause::done);
}
constinit const data_cb leaving_cb{.name = "leaving", .recv = leaving_recv, .send = keep_on, .wake = keep_on};

// Closes without a word. SHUT_RDWR does to the connection what close() does (FIN, then RST to whatever still comes)
// but leaves the descriptor, which hears of the proxy's close.
void leave(visitor& v, std::uint64_t& counter) noexcept {
    constexpr duration patience = seconds{60}; // with a peer that never closes
    counter++;
    if (!v.in.empty()) v.home.sum.crossed_before++;
    v.conn.arm(v.home.loop.now() + patience, [](timer& t, time_point) noexcept {
        bye(connection::of(t).owner_as<visitor>(), close_intent::silent, end_cause::timed_out);
    });
    v.conn.attach(leaving_cb, &v);
    v.conn.want_recv();
    v.fin_at = sys::now(); // not the loop's: this may be late in a turn
    ::shutdown(v.conn.fd(), SHUT_RDWR);
}

// --- answering

void put(visitor& v, std::string_view bytes) noexcept {
    const auto r = v.out.append(bytes, blocks_of(v));
    EXPECT(r == buffer::append_result::done); // read_body() leaves room, and there are two blocks per connection
}

void answer_with(visitor& v, const reply& r, std::size_t bytes) noexcept {
    v.unsent = std::string_view{r.bytes}.substr(0, bytes);
    v.after = r.after;
    v.at = visitor::phase::answer;
    v.conn.stop_recv();
}

void answer(visitor& v) noexcept {
    const reply& r = v.home.answer;
    answer_with(v, r, v.head.method() == http1_method::head ? r.head_bytes : r.bytes.size());
}

void refuse(visitor& v) noexcept {
    static const reply refusal{"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 0,
                               ending::graceful};
    v.home.sum.refused++;
    answer_with(v, refusal, refusal.bytes.size());
}

enum class progress : std::uint8_t { done, waits, gone };

// At most one send per call, so that a large answer does not keep the others waiting.
progress flush(visitor& v) noexcept {
    constexpr std::size_t turn_bytes = 256 * 1024;
    const bool from_out = !v.out.empty();
    const std::string_view next = from_out ? v.out.bytes() : v.unsent.substr(0, turn_bytes);
    if (!next.empty()) {
        const io_result r = v.conn.send(next);
        if (r.end == io::failed) {
            bye(v, close_intent::silent, end_cause::peer_failed);
            return progress::gone;
        }
        v.home.sum.bytes_out += r.bytes;
        if (from_out) v.out.consume(r.bytes, blocks_of(v));
        else v.unsent.remove_prefix(r.bytes);
    }
    if (!v.out.empty() || !v.unsent.empty()) {
        v.conn.want_send();
        return progress::waits;
    }
    v.conn.stop_send();
    return progress::done;
}

// --- asking

progress read_head(visitor& v) noexcept {
    if (v.in.empty()) return progress::waits;
    switch (v.head.parse(v.in.bytes())) {
    case http1_head::progress::more: return progress::waits;
    case http1_head::progress::needs_table: // its limits allow no more fields than the head holds itself
    case http1_head::progress::bad: refuse(v); return progress::done;
    case http1_head::progress::done: break;
    }
    const habits& has = v.home.has;
    v.in.consume(v.head.size(), blocks_of(v));
    v.body.start(v.head.body_kind(), v.head.content_length());
    v.at = visitor::phase::body;
    if (has.early) answer(v);
    else if (v.head.expect_continue()) put(v, "HTTP/1.1 100 Continue\r\n\r\n");
    if (!has.echo || has.early) return progress::done;
    char text[128];
    const char* format = v.head.is_chunked() ? "HTTP/1.1 %u Echo\r\nTransfer-Encoding: chunked\r\n\r\n"
                                             : "HTTP/1.1 %u Echo\r\nContent-Length: %llu\r\n\r\n";
    const auto length = static_cast<unsigned long long>(v.head.content_length());
    put(v, {text, static_cast<std::size_t>(std::snprintf(text, sizeof text, format, has.status, length))});
    return progress::done;
}

void put_echo(visitor& v, std::string_view data) noexcept {
    if (!v.head.is_chunked()) return put(v, data);
    http1_chunk_head head;
    put(v, {head.data(), write_chunk_head(head, data.size())});
    put(v, data);
    put(v, http1_chunk_end);
}

void body_complete(visitor& v) noexcept {
    const habits& has = v.home.has;
    if (has.echo) {
        if (v.head.is_chunked()) put(v, http1_last_chunk);
        v.at = visitor::phase::answer; // in `out`, or sent already
        v.conn.stop_recv();
    } else if (has.delay > duration{0}) {
        v.at = visitor::phase::delay;
        v.conn.stop_recv();
        v.conn.arm(v.home.loop.now() + has.delay, [](timer& t, time_point) noexcept {
            visitor& late = connection::of(t).owner_as<visitor>();
            answer(late);
            late.conn.want_send(); // busy_send() does the rest
        });
    } else {
        answer(v);
    }
}

// Goes on until the body ends or something is missing. An echo takes no more than it has room for.
progress read_body(visitor& v) noexcept {
    constexpr std::size_t overhead = 64; // around one piece of data: a chunk's head and end, the last chunk
    for (;;) {
        std::string_view bytes = v.in.bytes();
        if (v.home.has.echo) {
            const std::size_t room = block_bytes - v.out.size();
            if (room < block_bytes / 2) {
                v.conn.stop_recv();
                return flush(v);
            }
            bytes = bytes.substr(0, room - overhead);
        }
        const http1_body::step step = v.body.next(bytes);
        if (v.home.has.echo && !step.data.empty()) put_echo(v, step.data);
        v.home.sum.body_bytes_in += step.data.size();
        v.in.consume(step.used, blocks_of(v));
        switch (step.is) {
        case http1_body::what::data: break;
        case http1_body::what::end: body_complete(v); return progress::done;
        case http1_body::what::bad: refuse(v); return progress::done;
        case http1_body::what::more:
            if (!v.in.empty()) break;
            v.conn.want_recv();
            return flush(v) == progress::gone ? progress::gone : progress::waits;
        }
    }
}

void become_idle(visitor& v) noexcept;

// The answer is sent. done: the next request, please.
progress end_exchange(visitor& v) noexcept {
    const habits& has = v.home.has;
    // What HTTP/1.0 needs in the answer to stay, "Connection: keep-alive", is not in it.
    const bool stays = v.after == ending::stay && v.head.keep_alive() && v.head.version() == http1_version::v1_1;
    v.home.sum.requests++;
    v.answered++;
    if (v.after == ending::abort) bye(v, close_intent::abort, end_cause::done);
    else if (has.close_after == v.answered) leave(v, v.home.sum.last_closes);
    else if (!stays || has.early) bye(v, close_intent::graceful, end_cause::done);
    else {
        v.at = visitor::phase::head;
        v.head.start(http1_kind::request);
        v.conn.want_recv();
        return progress::done;
    }
    return progress::gone;
}

verdict go_on(visitor& v) noexcept {
    for (;;) {
        progress p = progress::waits;
        switch (v.at) {
        case visitor::phase::head: p = read_head(v); break;
        case visitor::phase::body: p = read_body(v); break;
        case visitor::phase::delay: break;
        case visitor::phase::answer: p = flush(v); break;
        }
        if (p == progress::done && v.at == visitor::phase::answer && v.out.empty() && v.unsent.empty())
            p = end_exchange(v);
        if (p == progress::gone) return verdict::gone;
        if (p == progress::done) continue;
        if (v.at == visitor::phase::head && v.in.empty()) become_idle(v);
        return verdict::keep;
    }
}

// --- idle and busy

verdict busy_recv(connection& conn) noexcept {
    visitor& v = conn.owner_as<visitor>();
    const buffer::room_view room = v.in.room(blocks_of(v));
    if (room.bytes == 0) return bye(v, close_intent::silent, end_cause::no_room);
    const io_result r = conn.recv(room.at, room.bytes);
    if (r.end == io::done) v.in.grow(r.bytes);
    else if (r.end != io::again) return bye(v, close_intent::after_fin, conn.failure());
    if (v.in.empty()) v.in.clear(blocks_of(v));
    return go_on(v);
}

verdict busy_send(connection& conn) noexcept { return go_on(conn.owner_as<visitor>()); }

verdict idle_recv(connection& conn) noexcept;

verdict wake(connection& conn) noexcept {
    const bool dead = conn.is(conn_flag::failed) || conn.slot().is(fd_state::err | fd_state::hup);
    return dead ? bye(conn.owner_as<visitor>(), close_intent::silent, end_cause::peer_failed) : verdict::keep;
}

constinit const data_cb idle_cb{.name = "idle", .recv = idle_recv, .send = keep_on, .wake = wake};
constinit const data_cb busy_cb{.name = "busy", .recv = busy_recv, .send = busy_send, .wake = wake};

verdict idle_recv(connection& conn) noexcept {
    conn.disarm();
    conn.attach(busy_cb, conn.owner());
    return busy_recv(conn);
}

duration jittered(origin& home, duration about) noexcept { // +-20 %
    home.random ^= home.random << 13;
    home.random ^= home.random >> 17;
    home.random ^= home.random << 5;
    return about / 1000 * (800 + home.random % 401);
}

void become_idle(visitor& v) noexcept {
    v.conn.attach(idle_cb, &v);
    const habits& has = v.home.has;
    // Who has not asked yet, and may be about to, is not told that it is too late.
    const duration wait = has.stray_bytes > duration{0} && v.answered > 0 ? has.stray_bytes : has.close_idle;
    if (wait == duration{0}) return;
    v.conn.arm(v.home.loop.now() + jittered(v.home, wait), [](timer& t, time_point) noexcept {
        visitor& bored = connection::of(t).owner_as<visitor>();
        if (bored.home.has.stray_bytes > duration{0} && bored.answered > 0) {
            bored.home.sum.strays++;
            (void)bored.conn.send("HTTP/1.1 408 Bored\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        leave(bored, bored.home.sum.idle_closes);
    });
}

void accepted(void* owner, connection& conn, const endpoint&) noexcept {
    origin& home = *static_cast<origin*>(owner);
    visitor* v = home.visitors->make(home, conn);
    EXPECT(v != nullptr); // one per connection
    home.sum.accepted++;
    v->head.start(http1_kind::request);
    become_idle(*v);
    conn.want_recv();
}

} // namespace

origin::origin(event_loop& on, const habits& had, reply r) noexcept : loop(on), has(had), answer(std::move(r)) {}

origin::~origin() {
    for (connection *conn = conns.first(), *next; conn; conn = next) {
        next = conns.after(*conn);
        // A lingering connection has no owner any more; the conntab closes it.
        if (conn->owner()) bye(conn->owner_as<visitor>(), close_intent::silent, end_cause::shutdown);
    }
}

void origin::open(const listen_place& at) noexcept {
    const auto descriptors = static_cast<std::uint32_t>(sys::descriptor_limit());
    const std::uint32_t room = std::min(descriptors - std::min(descriptors / 2, 32u), visitors_max);
    if (auto r = conns.open({.connections_max = room}); !r) fail("no memory for %u connections", room);
    visitors = std::make_unique<fixed_pool<visitor>>(room);
    open_listener_at(door, at, {}, accepted, this);
}

void origin::close_idle_ones() noexcept {
    for (connection* conn = conns.first(); conn; conn = conns.after(*conn))
        if (&conn->cb() == &idle_cb) leave(conn->owner_as<visitor>(), sum.idle_closes);
}

} // namespace weir::inline WEIR_KERNEL::tools
