// http1_exchange: answers of weir's own, sending, the end of an exchange. Deadlines are in http1_exchange_deadlines.cc.

#include "proto/http1_exchange.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "core/buggify.hpp"

namespace weir::inline WEIR_KERNEL {

const data_cb http1_exchange::client_cb{
    .name = "http1-client", .recv = client_recv, .send = client_send, .wake = client_wake};
const data_cb http1_exchange::server_cb{
    .name = "http1-server", .recv = server_recv, .send = server_send, .wake = server_wake};

http1_exchange::http1_exchange(http1_exchanges& room, connection& client, const http1_applet* applet) noexcept
    : room_(room), client_(&client), applet_(applet) {
    head_.start(http1_kind::request, room.options.head);
    began_ = now();
}

http1_exchange::~http1_exchange() {
    EXPECT(server_ == nullptr);
    drop_table();
    if (upstream_) room_.upstreams.let_go(*upstream_);
    for (buffer* b : {&from_client_, &to_server_, &from_server_, &to_client_})
        b->clear(blocks());
}

void http1_exchanges::begin(connection& client, const http1_applet* applet) noexcept {
    http1_exchange* x = pool.make(*this, client, applet);
    EXPECT(x != nullptr); // there are as many as clients of both listeners
    client.attach(http1_exchange::client_cb, x);
}

// --- answers of our own

verdict http1_exchange::answer(const http1_answer& a) noexcept {
    if (request_ != request_state::done) request_ = request_state::cut;
    client_->stop_recv();
    const http1_persistence persistence = say_persistence(client_may_stay() && request_ == request_state::done);
    status_ = a.status;
    client_framing_ = http1_body_kind::length;
    response_ = response_state::done;
    const std::size_t n = write_answer(write_room(), write_room_bytes(), a, method_ == http1_method::head, persistence);
    EXPECT(n > 0);
    // An applet's answer may be larger than a block. Beyond what the socket takes at once, that is a shortage.
    switch (push(*client_, to_client_, {.head = {write_room(), n}})) {
    case sent::all: return finish();
    case sent::some: return verdict::keep;
    case sent::broken: return abandon(cause_of(*client_));
    }
    return verdict::keep;
}

verdict http1_exchange::refuse(int status, const char* why) noexcept {
    room_.counters.refused++;
    drop_server(close_intent::silent, end_cause::done);
    request_ = request_state::cut;
    char text[160];
    const int n = std::snprintf(text, sizeof text, "%d %s: %s\n", status, reason_of(status).data(), why);
    EXPECT(n > 0 && n < static_cast<int>(sizeof text));
    return answer({.status = status,
                   .body = {text, static_cast<std::size_t>(n)},
                   .allow = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"});
}

verdict http1_exchange::fail(int status, const char* why) noexcept {
    EXPECT(response_ != response_state::body); // a response under way can only be cut off
    room_.counters.failed++;
    report(status, why);
    if (server_) {
        const bool is_alive = server_->is(conn_flag::connected) && !server_->ended();
        const end_cause of_living = status == 504   ? end_cause::timed_out
                                    : status == 503 ? end_cause::no_room
                                                    : end_cause::protocol;
        drop_server(close_intent::silent, is_alive ? of_living : cause_of(*server_));
    }
    char text[96];
    const int n = std::snprintf(text, sizeof text, "%d %s\n", status, reason_of(status).data());
    return answer({.status = status, .body = {text, static_cast<std::size_t>(n)}});
}

verdict http1_exchange::run_short(const char* why) noexcept {
    room_.counters.shed++;
    return fail(503, why);
}

// What was lost may have been the rest of this request or the beginning of the next: none is read after it.
verdict http1_exchange::shed(const char* why) noexcept {
    room_.counters.shed++;
    client_keep_alive_ = false;
    switch (response_) {
    case response_state::none:
    case response_state::head: return fail(503, why);
    case response_state::body: return abandon(end_cause::no_room);
    case response_state::done: break; // an early one, which is all there: it is taken, and nothing is said after it
    }
    request_ = request_state::cut;
    client_->stop_recv();
    drop_server(close_intent::silent, end_cause::no_room);
    return to_client_.empty() ? finish() : verdict::keep;
}

verdict http1_exchange::late(const char* why) noexcept {
    const bool has_begun = response_ == response_state::body || !to_client_.empty(); // it can only be cut off
    return has_begun ? close_client(close_intent::abort, end_cause::timed_out) : refuse(408, why);
}

namespace {

http1_trouble kind_of(int status) noexcept {
    switch (status) {
    case 502: return http1_trouble::bad_gateway;
    case 503: return http1_trouble::unavailable;
    case 504: return http1_trouble::late;
    }
    return http1_trouble::broken_off; // the status is the server's, which had been sent on
}

} // namespace

void http1_exchanges::tell_left_out(void* self, std::size_t kind, std::uint64_t count) noexcept {
    static constexpr const char* names[] = {"passed over", "502", "503", "504", "broken off"};
    const http1_exchanges& room = *static_cast<const http1_exchanges*>(self);
    if (!room.trouble) return;
    char line[96];
    const int n = std::snprintf(line, sizeof line, "%s: %llu more lines like this were not written", names[kind],
                                static_cast<unsigned long long>(count));
    room.trouble(room.gateway, {line, static_cast<std::size_t>(n)});
}

void http1_exchange::report(int status, const char* why) noexcept {
    http1_trouble kind = status == passed_over ? http1_trouble::passed_over : kind_of(status);
    if (response_ == response_state::body) kind = http1_trouble::broken_off;
    if (!room_.trouble || !room_.lines.admits(static_cast<std::size_t>(kind))) return;
    char at[endpoint::log_text_max], from[endpoint::log_text_max], line[1792];
    const std::string_view client = client_text(from);
    const std::string_view server = upstream_ ? upstream_->where.at.log_text(at) : std::string_view{"-"};
    char room[what_text_max];
    const std::string_view what = what_text(room);
    char answer[16] = "passed over";
    if (status != passed_over) std::snprintf(answer, sizeof answer, "%d", status);
    const int n =
        std::snprintf(line, sizeof line, "%s \"%.*s\" client %.*s upstream %.*s: %s", answer,
                      static_cast<int>(what.size()), what.data(), static_cast<int>(client.size()), client.data(),
                      static_cast<int>(server.size()), server.data(), why);
    room_.trouble(room_.gateway, {line, std::min(static_cast<std::size_t>(n), sizeof line - 1)});
}

std::string_view http1_exchange::what_text(char (&room)[what_text_max]) const noexcept {
    http1_writer out{room, sizeof room};
    return {room, out.put_escaped({what_, what_bytes_}).size()};
}

std::string_view http1_exchange::client_text(char (&room)[endpoint::log_text_max]) const noexcept {
    const endpoint peer = client_->peer();
    return peer.specified() ? peer.log_text(room) : std::string_view{"-"};
}

// Once for each request, however it ends; what says nothing of a request has no line.
void http1_exchange::log_access(ending how) noexcept {
    const bool is_request = what_bytes_ > 0 || status_ != 0;
    if (!room_.access || logged_ || !is_request) return;
    logged_ = true;
    char at[endpoint::log_text_max], from[endpoint::log_text_max], line[1536], room[what_text_max];
    const std::string_view client = client_text(from);
    const std::string_view what = what_text(room);
    const std::string_view server =
        upstream_ ? upstream_->where.at.log_text(at) : std::string_view{applet_ ? applet_->name : "-"};
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now() - began_).count();
    const char* const end = how == ending::whole ? "" : how == ending::cut ? " cut off" : " cut off, client gone";
    const int n = std::snprintf(
        line, sizeof line, "%.*s \"%.*s\" %d %llu bytes %lld us upstream %.*s%s%s%s", static_cast<int>(client.size()),
        client.data(), static_cast<int>(what.size()), what.data(), status_,
        static_cast<unsigned long long>(response_bytes_), static_cast<long long>(us), static_cast<int>(server.size()),
        server.data(), reused_ ? " reused" : "", repeated_ ? " repeated" : "", end);
    room_.access(room_.gateway, {line, std::min(static_cast<std::size_t>(n), sizeof line - 1)});
}

// --- sending

// Takes the framing off what was received and moves the body bytes together, within the same memory.
http1_exchange::unframed http1_exchange::unframe(http1_body& body, char* in, std::size_t bytes) noexcept {
    unframed u{.used = 0, .data = in, .size = 0, .end = http1_body::what::more};
    for (;;) {
        const http1_body::step step = body.next({in + u.used, bytes - u.used});
        if (step.is == http1_body::what::data) {
            char* from = in + (step.data.data() - in);
            if (u.size == 0) u.data = from;
            else std::memmove(u.data + u.size, from, step.data.size());
            u.size += step.data.size();
        }
        u.used += step.used;
        u.end = step.is;
        if (step.is != http1_body::what::data) return u;
    }
}

std::size_t http1_exchange::parts_of(const outgoing& what, http1_chunk_head& room, iovec (&parts)[5]) noexcept {
    std::size_t count = 0;
    const auto add = [&](std::string_view text) {
        if (!text.empty()) parts[count++] = {.iov_base = const_cast<char*>(text.data()), .iov_len = text.size()};
    };
    add(what.head);
    if (what.chunked && !what.data.empty()) {
        add({room.data(), write_chunk_head(room, what.data.size())});
        add(what.data);
        add(http1_chunk_end);
    } else {
        add(what.data);
    }
    if (what.chunked && what.is_last) add(http1_last_chunk);
    return count;
}

// Sends at once what can be, and keeps the rest in `out`. The callers see to it that the rest fits into one block.
http1_exchange::sent http1_exchange::push(connection& to, buffer& out, const outgoing& what) noexcept {
    http1_chunk_head chunk_head;
    iovec parts[5];
    std::size_t count = parts_of(what, chunk_head, parts);
    std::size_t gone = 0;
    if (count > 0 && out.empty() && !buggify(twist::send_buffered)) {
        const io_result r = to.send_parts(parts, count);
        if (r.end == io::failed) return sent::broken;
        gone = r.bytes;
        if (send_progress::has_sent(to, r)) (&to == client_ ? to_client_progress_ : to_server_progress_).sent();
    }
    for (std::size_t i = 0; i < count; i++) {
        const std::string_view part{static_cast<char*>(parts[i].iov_base), parts[i].iov_len};
        const std::size_t skipped = std::min(gone, part.size());
        gone -= skipped;
        if (out.append(part.substr(skipped), blocks()) == buffer::append_result::done) continue;
        to.fail(ENOBUFS); // what is missing now can never be made good
        return sent::broken;
    }
    if (out.empty()) {
        if (out.attached()) out.clear(blocks());
        return sent::all;
    }
    to.want_send();
    if (&to == client_) await_taking();
    return sent::some;
}

// Of a connection that a push to has broken: its socket did, or there was no block.
end_cause http1_exchange::cause_of(const connection& broken) noexcept {
    return broken.error() == ENOBUFS ? end_cause::no_room : broken.failure();
}

// --- the end

// Its request permitting.
bool http1_exchange::client_may_stay() const noexcept {
    if (room_.is_pressed(room_.gateway, applet_)) return false;
    return client_keep_alive_ && !room_.draining && client_->uses() < room_.options.keep_alive_requests;
}

http1_persistence http1_exchange::say_persistence(bool stays) noexcept {
    close_said_ = !stays;
    keep_alive_said_ = stays && version_ == http1_version::v1_0;
    return close_said_        ? http1_persistence::close
           : keep_alive_said_ ? http1_persistence::keep_alive
                              : http1_persistence::unsaid;
}

// The response is complete, and the client's socket has all of it.
verdict http1_exchange::finish() noexcept {
    EXPECT(response_ == response_state::done && to_client_.empty());
    log_access(ending::whole);
    const http1_client_facts facts{
        .failed = client_->is(conn_flag::failed),
        // A FIN that is only known may stand behind another request, which is still to be read.
        .peer_shut = client_->is(conn_flag::recv_ended),
        .pipelined = !from_client_.empty(),
        .request_complete = request_ == request_state::done,
        .response_complete = true,
        .response_written = true,
        .framing = client_framing_,
        .version = version_,
        .close_asked = !client_keep_alive_,
        .close_sent = close_said_,
        .keep_alive_asked = client_asked_keep_alive_,
        .keep_alive_sent = keep_alive_said_,
        .draining = room_.draining,
        .uses_spent = client_->uses() >= room_.options.keep_alive_requests,
    };
    switch (client_verdict(facts)) {
    case http1_client_verdict::stay: return next_request();
    case http1_client_verdict::failed: return close_client(close_intent::silent, end_cause::peer_failed);
    case http1_client_verdict::peer_shut: return close_client(close_intent::after_fin, end_cause::peer_closed);
    case http1_client_verdict::request_incomplete: return close_client(close_intent::graceful, end_cause::protocol);
    case http1_client_verdict::switched:
    case http1_client_verdict::response_incomplete:
    case http1_client_verdict::response_unwritten:
    case http1_client_verdict::until_close:
    case http1_client_verdict::close_asked:
    case http1_client_verdict::close_sent:
    case http1_client_verdict::version_1_0:
    case http1_client_verdict::draining:
    case http1_client_verdict::uses_spent: break;
    }
    return close_client(close_intent::graceful, end_cause::done);
}

// The client stays. Bytes of its next request that have come already make the next exchange begin at once, that is, in
// the next turn; otherwise it waits with no exchange and no block.
verdict http1_exchange::next_request() noexcept {
    http1_exchanges& room = room_;
    connection& client = *client_;
    const http1_applet* applet = applet_;
    buffer rest;
    rest.take(from_client_);
    room.pool.free(*this);
    if (rest.empty()) {
        room.client_waits(room.gateway, client, applet, http1_wait::anew);
        return verdict::gone;
    }
    http1_exchange* next = room.pool.make(room, client, applet);
    EXPECT(next != nullptr); // in the place of this one
    next->from_client_.take(rest);
    next->has_backlog_ = true;
    client.attach(client_cb, next);
    client.want_recv();
    client.may_recv();
    return verdict::gone;
}

// No request has begun: spurious readiness, empty lines, or data that only concerned the transport. Where the deadline
// of the wait is still armed (http1_wait::still), it stays as it is.
verdict http1_exchange::wait_on(http1_wait how) noexcept {
    http1_exchanges& room = room_;
    connection& client = *client_;
    const http1_applet* applet = applet_;
    room.pool.free(*this);
    room.client_waits(room.gateway, client, applet, how);
    return verdict::gone;
}

verdict http1_exchange::abandon(end_cause cause) noexcept {
    room_.counters.abandoned++;
    return close_client(close_intent::abort, cause);
}

verdict http1_exchange::close_client(close_intent intent, end_cause cause, ending how) noexcept {
    log_access(how); // unless it was answered
    drop_server(close_intent::silent, end_cause::done);
    http1_exchanges& room = room_;
    connection& client = *client_;
    const http1_applet* applet = applet_;
    room.pool.free(*this);
    client.close(intent, cause);
    room.client_gone(room.gateway, applet);
    return verdict::gone;
}

void http1_exchange::drop_server(close_intent intent, end_cause cause) noexcept {
    if (!server_) return;
    lacking_hook_.unlink();
    connection& server = *server_;
    server_ = nullptr;
    upstream_->of->active_count--;
    server.close(intent, cause);
}

} // namespace weir::inline WEIR_KERNEL
