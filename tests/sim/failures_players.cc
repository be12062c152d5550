// failures_players: those who say and hear what their scripts say, at the far ends and on weir's side.

#include "sim/failures.hpp"

#include <utility>

#include "core/dialer.hpp"

namespace failures {

std::string pattern(std::size_t n) {
    std::string bytes(n, ' ');
    for (std::size_t i = 0; i < n; i++)
        bytes[i] = static_cast<char>('a' + (i * 7 + i / 26 * 3 + i / 1000) % 26);
    return bytes;
}

bool player::satisfied() {
    const step& s = steps[at];
    if (s.what == step::act::hear_end) return heard_end;
    const std::size_t found = heard.find(s.text, mark);
    if (found == heard.npos) return false;
    mark = found + s.text.size();
    return true;
}

std::string player::expected() const {
    std::string all;
    for (std::size_t i = 0; i < at; i++)
        if (steps[i].what == step::act::hear) all += steps[i].text;
    return all;
}

// ---- at the other end

const remote_cb remote_player::table{.name = "player",
                                     .run = [](remote& r) noexcept { static_cast<remote_player*>(r.owner)->run(r); }};

void remote_player::finish(remote& r) noexcept {
    over = true;
    while (now() && now()->what == step::act::hear && satisfied())
        next();
    if (now() && now()->what == step::act::hear_end && now()->or_reset) whole = true;
    end = nullptr;
    r.close();
}

// False: the connection is dead.
bool remote_player::read(remote& r) noexcept {
    char room[4096];
    for (;;) {
        const sys::count n = r.recv(room);
        if (n == -EAGAIN) return true;
        if (n < 0) return false;
        if (n == 0) {
            heard_end = true;
            return true;
        }
        heard.append(room, static_cast<std::size_t>(n));
    }
}

bool remote_player::choose() noexcept {
    if (heard.find("\r\n\r\n") == heard.npos) return false;
    if (heard.find(" /two ") != heard.npos && !special->empty()) steps = *special;
    else steps = {{.what = step::act::answer}};
    return true;
}

// Whatever was asked. False: there is no more.
bool remote_player::answer(remote& r) noexcept {
    const std::size_t end_of_head = heard.find("\r\n\r\n", mark);
    if (end_of_head == heard.npos) return false;
    const std::string_view head{heard.data() + mark, end_of_head - mark};
    const std::size_t slash = head.find(" /") + 2;
    const std::string path{head.substr(slash, head.find(' ', slash) - slash)};
    mark = end_of_head + 4;
    const bool is_head = head.find("HEAD /") != head.npos;
    std::string text;
    if (path == "204") text = "HTTP/1.1 204 No Content\r\n\r\n";
    else if (path == "304") text = "HTTP/1.1 304 Not Modified\r\n\r\n";
    else
        text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" +
               (is_head ? std::string{} : "hell" + (path.size() == 1 ? path : "o"));
    const sys::count n = r.send(text);
    home.require(n < 0 || static_cast<std::size_t>(n) == text.size(), "an answer did not fit");
    return n > 0;
}

remote_player::progress remote_player::speak(remote& r) noexcept {
    const std::string_view text = now()->text;
    while (said < text.size()) {
        const sys::count n = r.send(text.substr(said));
        if (n == -EAGAIN) return progress::later;
        if (n < 0) {
            static_cast<void>(read(r)); // what was said to it before
            return progress::dead;
        }
        said += static_cast<std::size_t>(n);
    }
    return progress::on;
}

remote_player::progress remote_player::listen(remote& r) noexcept {
    if (satisfied()) return progress::on;
    const bool alive = read(r);
    if (satisfied()) return progress::on;
    return alive && !heard_end ? progress::later : progress::dead;
}

remote_player::progress remote_player::wait_for(remote& r) noexcept {
    if (!waited) {
        waited = true;
        until = r.now() + now()->pause;
        r.wake_in(now()->pause);
    }
    return r.now() < until ? progress::later : progress::on;
}

remote_player::progress remote_player::serve(remote& r) noexcept {
    const bool alive = read(r);
    while (now()->what == step::act::answer && answer(r)) {
    }
    if (now()->what == step::act::choose && choose()) return play(r);
    return alive && !heard_end ? progress::later : progress::dead;
}

remote_player::progress remote_player::play(remote& r) noexcept {
    switch (now()->what) {
    case step::act::say: return speak(r);
    case step::act::hear:
    case step::act::hear_end: return listen(r);
    case step::act::wait: return wait_for(r);
    case step::act::choose:
    case step::act::answer: return serve(r);
    case step::act::fin: r.shutdown_send(); return progress::on;
    case step::act::reset: r.socket().linger_zero = true; return progress::on; // and the script ends
    case step::act::park:
    case step::act::close: return progress::on;
    }
    return progress::dead;
}

void remote_player::run(remote& r) noexcept {
    if (over || r.connecting()) return;
    if (r.failed() && !read(r)) return finish(r);
    while (now()) {
        const progress p = play(r);
        if (p == progress::later) return;
        if (p == progress::dead) return finish(r);
        next();
    }
    whole = true;
    finish(r);
}

// ---- on weir's side

const data_cb local_player::table{.name = "player",
                                  .recv = hear_more,
                                  .send = [](connection& c) noexcept { return c.owner_as<local_player>().go_on(); },
                                  .wake = state_changed};

verdict local_player::hear_more(connection& c) noexcept {
    local_player& self = c.owner_as<local_player>();
    char room[4096];
    do {
        const io_result got = c.recv(room, sizeof room);
        if (got.end == io::again) break;
        if (got.end == io::failed) return self.finish(close_intent::silent, c.failure());
        if (got.end == io::closed) self.heard_end = true;
        self.heard.append(room, got.bytes);
    } while (!self.heard_end && c.slot().is(fd_state::recv_ready));
    return self.go_on();
}

verdict local_player::state_changed(connection& c) noexcept {
    local_player& self = c.owner_as<local_player>();
    if (c.is_broken()) return self.finish(close_intent::silent, c.failure());
    if (!c.is(conn_flag::recv_ended)) c.want_recv();
    return self.go_on();
}

verdict local_player::finish(close_intent intent, end_cause cause) noexcept {
    over = true;
    connection* c = std::exchange(conn, nullptr);
    return c->close(intent, cause);
}

verdict local_player::go_on() noexcept {
    conn->stop_send();
    while (const step* s = now()) {
        switch (s->what) {
        case step::act::say: {
            const io_result sent = conn->send(std::string_view{s->text}.substr(said));
            if (sent.end == io::failed) return finish(close_intent::silent, conn->failure());
            said += sent.bytes;
            if (said < s->text.size()) {
                conn->want_send();
                return verdict::keep;
            }
            break;
        }
        case step::act::hear:
        case step::act::hear_end:
            if (!satisfied()) {
                if (heard_end) return finish(close_intent::after_fin, end_cause::peer_closed);
                return verdict::keep;
            }
            break;
        case step::act::wait:
            if (!waited) {
                waited = true;
                conn->arm(conn->loop().now() + s->pause, [](timer& t, time_point) noexcept {
                    local_player& self = connection::of(t).owner_as<local_player>();
                    self.next();
                    static_cast<void>(self.go_on());
                });
            }
            return verdict::keep;
        case step::act::fin: conn->shutdown_send(); break;
        case step::act::reset: whole = true; return finish(close_intent::abort, end_cause::done);
        case step::act::close: whole = true; return finish(s->intent, end_cause::done);
        case step::act::choose:
        case step::act::answer: home.fail("only a server does that");
        case step::act::park: {
            over = whole = true;
            connection& c = *std::exchange(conn, nullptr);
            return pool->park(c, key, {.messages_complete = true, .buffers_empty = true});
        }
        }
        next();
    }
    whole = true;
    return finish(close_intent::graceful, end_cause::done);
}

void local_player::dial_to(const ctrl& family, const endpoint& to, const dial_options& how) {
    auto made = dial(*home.conns, family, to, how, table, this);
    if (made) conn = made.value();
    else over = true;
}

void local_player::take_or_dial(const ctrl& family, const endpoint& to) {
    key = pool->key_of({.remote = to, .family = &family});
    conn = pool->take(key, table, this);
    if (conn) static_cast<void>(go_on());
    else dial_to(family, to);
}

void local_player::serve(connection& c) {
    conn = &c;
    c.attach(table, this);
    c.want_recv();
    c.want_send();
}

} // namespace failures
