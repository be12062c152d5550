// http1_exchange: the final response, from the server to the client; and what happens when there is none.

#include <algorithm>
#include <cstring>
#include <utility>

#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

// The server closes what is idle for so long (0: it did not say): a second below, and below that by the tenth that the
// pool may add to an age. A pool whose own age is shorter adds no more than that tenth either.
duration age_below(std::uint32_t timeout_s) noexcept {
    const duration latest = timeout_s > 1 ? duration{seconds{timeout_s - 1}} : milliseconds{500};
    return timeout_s > 0 ? latest / 11 * 10 : duration{0};
}

// Whether `body` ends within the bytes that come next. A copy: nothing is taken.
bool ends_in(http1_body body, std::string_view bytes) noexcept {
    for (;;) {
        const http1_body::step step = body.next(bytes);
        if (step.is != http1_body::what::data) return step.is == http1_body::what::end;
        bytes.remove_prefix(step.used);
    }
}

} // namespace

verdict http1_exchange::server_recv(connection& server) noexcept {
    const still_there is{server};
    server.owner_as<http1_exchange>().read_response();
    return is.answer();
}

verdict http1_exchange::read_response() noexcept {
    if (!to_client_.empty()) {
        server_->stop_recv(); // goes on when the client has taken it
        return verdict::keep;
    }
    const bool in_scratch = from_server_.empty();
    buffer::room_view to{conns().scratch(), read_bytes_max};
    if (!in_scratch) {
        if (from_server_.size() == read_bytes_max && !from_server_.enlarge(blocks()))
            return run_short("no large block is left for a head");
        to = from_server_.room(blocks());
        to.bytes = (from_server_.is_large() ? large_read_bytes_max : read_bytes_max) - from_server_.size();
        EXPECT(to.bytes > 0); // a head as large is over its limit
    }
    const io_result got = server_->recv(to.at, to.bytes);
    // A failed send is known by now, so nothing will come where nothing is.
    if (got.end == io::again) return server_->is(conn_flag::failed) ? server_ended(io::failed) : verdict::keep;
    if (got.end != io::done) return server_ended(got.end);

    await_server();
    if (!in_scratch) from_server_.grow(got.bytes);
    char* in = in_scratch ? to.at : const_cast<char*>(from_server_.bytes().data());
    const std::size_t bytes = in_scratch ? got.bytes : from_server_.size();
    std::size_t used = 0;
    if (take_response(in, bytes, used) == verdict::gone) return verdict::gone;
    // Only a head that goes on leaves bytes behind; those of a body, and what is beyond it, are done with.
    if (response_ != response_state::head) {
        from_server_.clear(blocks());
    } else if (!in_scratch) {
        from_server_.consume(used, blocks());
    } else if (from_server_.append({in + used, bytes - used}, blocks()) == buffer::append_result::full) {
        return run_short("no block is left for a head");
    }
    return verdict::keep;
}

// Heads, if they are due, then body bytes. `used`: bytes of `in` that are done with; the rest is a head that goes on.
verdict http1_exchange::take_response(char* in, std::size_t bytes, std::size_t& used) noexcept {
    used = 0;
    if (response_ == response_state::body) return take_response_body(in, bytes, {}, used);

    http1_writer out{write_room(), write_room_bytes()};
    switch (take_heads(in, bytes, used, out)) {
    case http1_head::progress::needs_table: return run_short("no block is left for the fields of a head");
    case http1_head::progress::bad:
        return fail(502, head_.error() == http1_error::none ? "1xx responses faster than they may come" : to_string(head_.error()));
    case http1_head::progress::more:
        if (out.size() > 0 && push(*client_, to_client_, {.head = {write_room(), out.size()}}) == sent::broken)
            return abandon(cause_of(*client_));
        return verdict::keep;
    case http1_head::progress::done: break;
    }
    if (is_parting_word()) {
        by_proof_ = !is_idempotent(method_);
        used = bytes;
        return repeat_request();
    }
    stop_keeping();
    if (head_.status() == 101) return switch_protocols(out, {in + used, bytes - used});
    begin_response(out, {in + used, bytes - used});
    if (out.size() == 0) return fail(502, "a head too large to forward");
    // What came in a large block goes on in one. Once a byte is sent on, no 503 can be said any more.
    if (from_server_.is_large() && !to_client_.enlarge(blocks()))
        return run_short("no large block is left for a head");
    response_ = response_state::body;
    return take_response_body(in + used, bytes - used, {write_room(), out.size()}, used);
}

// Appends head_, as it goes on, to what `out` holds already.
void http1_exchange::write_next_head(http1_writer& out, const http1_framing& framing, http1_persistence how) noexcept {
    out.take(write_response_head(out.next(), out.room(), head_, framing, how));
}

// The final head has come: how its body, of which `behind` is there, reaches the client, and whether the client's
// connection stays.
void http1_exchange::begin_response(http1_writer& out, std::string_view behind) noexcept {
    status_ = head_.status();
    const bool is_head = method_ == http1_method::head;
    const http1_body_kind kind = head_.response_body_kind(is_head);
    response_body_.start(kind, head_.content_length());
    body_is_only_said_ = kind == http1_body_kind::none && (head_.is_chunked() || head_.content_length() > 0);

    http1_framing framing{.kind = kind, .length = head_.content_length()};
    const bool unknown_length = kind == http1_body_kind::chunked || kind == http1_body_kind::until_close;
    if (unknown_length)
        framing.kind = version_ == http1_version::v1_1 ? http1_body_kind::chunked : http1_body_kind::until_close;
    if (kind == http1_body_kind::none && status_ != 204) // RFC 9110 section 8.6: the length a GET would have had
        framing.says_length = (is_head || status_ == 304) && head_.has(http1_name::content_length);
    client_framing_ = framing.kind;
    response_chunked_ = framing.kind == http1_body_kind::chunked;

    // A body that is still being sent may well be finished before the answer is, unless all of that has come; if it is
    // not, the connection closes without having said so.
    const bool is_cut =
        request_ == request_state::cut || (request_ == request_state::body && ends_in(response_body_, behind));
    const bool stays = client_may_stay() && !is_cut && framing.kind != http1_body_kind::until_close;
    write_next_head(out, framing, say_persistence(stays));

    server_facts_.user_bound = binds_user_ || head_.binds_user();
    server_facts_.framing = kind;
    server_facts_.version = head_.version();
    server_facts_.close_asked = head_.close_requested() || head_.keep_alive_refused();
    server_facts_.keep_alive_asked = head_.keep_alive_requested();
    server_facts_.early_response = !server_facts_.request_written;
    keep_alive_s_ = head_.keep_alive_timeout_s();
    drop_table();
}

verdict http1_exchange::take_response_body(char* in, std::size_t bytes, std::string_view head,
                                           std::size_t& used) noexcept {
    const unframed u = unframe(response_body_, in, bytes);
    used += u.used;
    if (u.end == http1_body::what::bad) {
        if (!head.empty()) { // nothing of it was sent on
            response_ = response_state::head;
            return fail(502, to_string(response_body_.error()));
        }
        return truncated(to_string(response_body_.error()));
    }
    response_bytes_ += u.size;
    const bool is_last = u.end == http1_body::what::end;
    outgoing what{.head = head, .data = {u.data, u.size}, .chunked = response_chunked_, .is_last = is_last};
    // One copy of a small body costs less than what sendmsg costs above send.
    if (!head.empty() && !response_chunked_ && u.size <= copied_bytes_max) {
        std::memcpy(write_room() + head.size(), u.data, u.size);
        what = {.head = {head.data(), head.size() + u.size}};
    }
    switch (push(*client_, to_client_, what)) {
    case sent::broken: return abandon(cause_of(*client_));
    case sent::some: server_->stop_recv(); break;
    case sent::all: break;
    }
    if (!is_last) return verdict::keep;
    return response_over(u.used < bytes);
}

// The server has said its last byte, and what the client did not take yet is in to_client_.
verdict http1_exchange::response_over(bool has_surplus) noexcept {
    response_ = response_state::done;
    room_.counters.responses++;
    from_server_.clear(blocks());
    release_server(has_surplus);
    if (request_ != request_state::done) {
        request_ = request_state::cut; // answered early: the rest of the body has no reader. RFC 9112 section 9.5
        client_->stop_recv();
    }
    to_server_.clear(blocks());
    return to_client_.empty() ? finish() : verdict::keep;
}

void http1_exchange::release_server(bool has_surplus) noexcept {
    connection& server = *server_;
    server_facts_.failed = server.is(conn_flag::failed);
    server_facts_.peer_shut = server.ended();
    server_facts_.response_complete = true;
    server_facts_.surplus = has_surplus;
    server_facts_.close_sent = keeps_no_server();
    server_facts_.draining = room_.draining || !upstream_->is_listed;
    const http1_server_verdict v = server_verdict(server_facts_);
    if (v != http1_server_verdict::park) {
        const bool is_fault = v == http1_server_verdict::surplus;
        const end_cause cause = server.ended() ? server.failure() : is_fault ? end_cause::protocol : end_cause::done;
        drop_server(close_intent::silent, cause);
        return;
    }
    if (gives_place()) {
        drop_server(close_intent::silent, end_cause::done);
        return;
    }
    server_ = nullptr;
    upstream_->of->active_count--;
    server.disarm();
    room_.idle.park(server, upstream_->key, {.messages_complete = true, .buffers_empty = true},
                    {.age_max = age_below(keep_alive_s_),
                     .rest = body_is_only_said_ ? room_.options.rest : duration{0}});
}

// --- the server is gone

verdict http1_exchange::server_wake(connection& server) noexcept {
    const still_there is{server};
    http1_exchange& x = server.owner_as<http1_exchange>();
    if (!server.is(conn_flag::connected)) {
        if (server.is(conn_flag::failed)) x.connect_failed();
        return is.answer();
    }
    if (x.connecting_) {
        x.dialed();
        server.want_recv();
        // What came with the connect is looked at before a byte is sent: at an end nothing of the request is lost.
        if (server.slot().is(fd_state::recv_ready)) server.want_send();
        else x.flush_to_server();
        return is.answer();
    }
    if (!server.is_broken()) return verdict::keep;
    if (x.awaiting_proof_) {
        x.server_ended(io::failed);
    } else if (x.to_client_.empty()) {
        // A send has failed. What the server said before that comes first, in the next turn and before a deadline that is
        // due in this one; behind it recv finds the end.
        x.resume_server();
        server.may_recv();
    }
    return is.answer();
}

verdict http1_exchange::server_ended(io how) noexcept {
    const bool is_broken = how == io::failed || server_->is_broken();
    if (response_ == response_state::body) {
        if (is_broken || response_body_.finish() == http1_body::finish_result::truncated)
            return truncated(is_broken ? "the response was cut off by an error" : "the response was cut off");
        if (push(*client_, to_client_, {.chunked = response_chunked_, .is_last = true}) == sent::broken)
            return abandon(cause_of(*client_));
        return response_over(false);
    }
    if (response_begun_) return fail(502, "the response's head was cut off");
    const int error = server_->error() ? server_->error() : ended_unheard;
    if (!reused_ && !awaiting_proof_) rule_out(error); // made for this request: as if it had not come about
    switch (may_repeat(how)) {
    case repeatable::yes:
        from_server_.clear(blocks()); // half an empty line
        return repeat_request();
    case repeatable::no: break;
    case repeatable::not_known_yet:
        awaiting_proof_ = true;
        hold_client();
        server_->arm(later(now(), proof_timeout), server_fired);
        return verdict::keep;
    }
    const bool has_words = server_->error() != 0 && server_->transport().reason;
    return fail(502, has_words ? server_->reason() : describe(error));
}

// The response breaks off in the middle, and so must what the client gets: no last chunk, fewer bytes than promised; or
// an abort where nothing else would tell.
verdict http1_exchange::truncated(const char* why, end_cause of_living) noexcept {
    room_.counters.truncated++;
    report(status_, why);
    drop_server(close_intent::silent, server_->ended() ? server_->failure() : of_living);
    const bool shows = client_framing_ != http1_body_kind::until_close;
    return close_client(shows ? close_intent::graceful : close_intent::abort, end_cause::peer_failed);
}

// A request is sent twice only where that is proven harmless. Not one byte of a response came, all that was sent is still
// held, the connection had been idle, or else there is another address to send it to; and
//   - the method is idempotent (RFC 9110 section 9.2.2), or
//   - no byte was accepted by send(), where that tells of the wire: a transport may have sent records of a request of
//     which it accepted nothing so far, or
//   - the server had closed before: it reset the connection after its FIN (EPIPE), and the count of acknowledged bytes
//     has not moved. After a FIN alone the reset is still to come: wait for it. A server that ends its own side, then
//     reads on and resets before its kernel acknowledged looks the same; but it processes no request after it has
//     closed, nor could it answer one. RFC 9112 section 9.6. Over a transport the count has other bytes in it, too:
//     they can only make it move, which is no proof.
bool http1_exchange::may_repeat_at_all() const noexcept {
    if (!keeping_ || repeated_) return false;
    return reused_ || (attempts_.error != 0 && room_.upstreams.has_other(attempts_, *upstream_));
}

http1_exchange::repeatable http1_exchange::may_repeat(io how) noexcept {
    if (!may_repeat_at_all()) return repeatable::no;
    if (is_idempotent(method_)) return repeatable::yes;
    if (sent_bytes_ == 0 && !server_->hides_bytes()) return repeatable::yes;
    if (!is_unseen()) return repeatable::no;
    const int error = server_->error() ? server_->error() : sys::socket_error(server_->fd());
    if (error == EPIPE) {
        by_proof_ = true;
        return repeatable::yes;
    }
    return error == 0 && how == io::closed ? repeatable::not_known_yet : repeatable::no;
}

// The server's kernel has not acknowledged a byte of this request.
bool http1_exchange::is_unseen() const noexcept {
    return acked_before_ >= 0 && sys::bytes_acked(server_->fd()) == acked_before_;
}

// The connection that was asked for is there, and the request goes out on it.
void http1_exchange::dialed() noexcept {
    connecting_ = false;
    room_.counters.fresh++;
    if (repeated_) room_.counters.repeated++;
    if (by_proof_) room_.counters.repeated_by_proof++;
}

// A server's 408 on an idle connection, which the request has crossed: it may be sent again on another one, RFC 9110
// section 15.5.9; here only where that is harmless, since a 408 may also be an answer to it. A server that does not
// close behind it may still read the request and process it.
bool http1_exchange::is_parting_word() const noexcept {
    if (head_.status() != 408 || interims_paid_ != time_point{} || !reused_ || !may_repeat_at_all()) return false;
    const bool is_closing = !head_.keep_alive() || server_->ended();
    return is_idempotent(method_) || (is_closing && is_unseen());
}

verdict http1_exchange::repeat_request() noexcept {
    repeated_ = true;
    awaiting_proof_ = false;
    response_begun_ = false;
    server_facts_ = {};
    expect_response();
    drop_server(close_intent::silent, server_->failure());
    return acquire();
}

} // namespace weir::inline WEIR_KERNEL
