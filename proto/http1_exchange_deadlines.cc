// http1_exchange: deadlines. Those of sending count from the last byte that moved on the wire: send_progress.hpp.

#include <algorithm>

#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

void http1_exchange::set_client_deadline(time_point at) noexcept {
    client_deadline_ = at;
    client_->arm(at, client_fired);
}

// The client is to take more of its answer. A look at its kernel's queue comes before the deadline, also where this
// exchange has sent nothing yet: answers of requests before may fill the queue.
void http1_exchange::await_taking() noexcept {
    to_client_progress_.found_full(*client_);
    const duration timeout = room_.options.write_timeout;
    client_deadline_ = later(now(), timeout);
    client_->arm(later(now(), send_progress::wait_between_looks(timeout)), client_fired);
}

// The server is to take more of the request, or to answer. A look comes before the deadline where bytes of the request
// may be on their way.
void http1_exchange::await_server() noexcept {
    const duration timeout = room_.options.first_byte_timeout;
    server_deadline_ = later(now(), timeout);
    const duration wait = to_server_progress_.is_settled() ? timeout : send_progress::wait_between_looks(timeout);
    place_due_ = may_lack_place() ? later(now(), place_timeout) : never;
    server_->arm(std::min(later(now(), wait), place_due_), server_fired);
}

// A server may serve fewer connections at a time than it has: each process or thread of it reads one until that ends.
// Then a fresh connection gets no byte as long as others to the same server lie idle here. They became idle after the
// dial, or this request would have had one. So a request without a byte for place_timeout on a fresh connection has the
// oldest idle one closed; or else the next one that becomes free, which gives_place() tells. Each fresh connection closes
// at most one, so a server that is only slow costs no more than one connection for each that was dialed.
void http1_exchange::look_for_place(time_point now) noexcept {
    if (now < place_due_) return;
    place_due_ = never;
    has_looked_for_place_ = true;
    if (room_.idle.kill_oldest(upstream_->key, end_cause::idle_pressure)) room_.counters.places_made++;
    else room_.lacking_at(*upstream_).push_back(*this);
}

// Whether this exchange's server connection, which could be kept, is to be closed for another request.
bool http1_exchange::gives_place() noexcept {
    if (!room_.lacking_at(*upstream_).pop_front()) return false;
    room_.counters.places_made++;
    return true;
}

// What the server has sent is read from now on, and its time begins now: a deadline that is due in this turn would end
// the answer before the bytes that wait in the kernel are read.
void http1_exchange::resume_server() noexcept {
    server_->want_recv();
    if (!connecting_ && !awaiting_proof_) await_server(); // these two have deadlines of another kind
}

void http1_exchange::client_fired(timer& t, time_point now) noexcept { client_timer(connection::of(t), now); }

// Deadlines are pushed and dropped without touching the timer: what it finds when it fires decides.
void http1_exchange::client_timer(connection& client, time_point now) noexcept {
    http1_exchange& x = client.owner_as<http1_exchange>();
    if (x.client_deadline_ == never) return;
    const duration write_timeout = x.room_.options.write_timeout;
    const bool is_write = !x.to_client_.empty();
    if (is_write && x.to_client_progress_.look(client)) x.client_deadline_ = later(now, write_timeout);
    if (x.client_deadline_ > now) {
        const bool is_watched = is_write && !x.to_client_progress_.is_settled();
        const duration wait = is_watched ? send_progress::wait_between_looks(write_timeout) : duration::max();
        client.arm(std::min(x.client_deadline_, later(now, wait)), client_fired);
        return;
    }
    x.client_deadline_ = never;
    const bool is_silent =
        x.request_ == request_state::head && x.head_.has_not_begun(); // half an empty line: no request
    if (is_silent) x.close_client(close_intent::graceful, end_cause::timed_out);
    else x.late(x.request_ == request_state::head ? "the request's head took too long" : "the request's body stalled");
}

// Whether its time goes on: it has taken some of the request, or there was no look at the end of its time yet.
bool http1_exchange::look_at_server(time_point now) noexcept {
    const duration timeout = room_.options.first_byte_timeout;
    if (to_server_progress_.look(*server_)) server_deadline_ = later(now, timeout);
    if (server_deadline_ <= now) return false;
    const bool is_watched = !to_server_progress_.is_settled();
    const duration wait = is_watched ? send_progress::wait_between_looks(timeout) : duration::max();
    server_->arm(std::min({server_deadline_, place_due_, later(now, wait)}), server_fired);
    return true;
}

void http1_exchange::server_fired(timer& t, time_point now) noexcept {
    connection& server = connection::of(t);
    http1_exchange& x = server.owner_as<http1_exchange>();
    const bool takes_more = !server.is(conn_flag::failed); // else only what it had still to say was waited for
    const bool waits_for_body =
        x.request_ == request_state::body && x.unsent() == 0 && !x.awaits_continue_ && takes_more;
    const bool waits_for_client = !x.to_client_.empty() || waits_for_body;
    if (!x.awaiting_proof_ && !waits_for_client) x.look_for_place(now);
    if (x.awaiting_proof_) x.fail(502, "closed without an answer, and may have seen the request");
    else if (waits_for_client) x.await_server(); // who has a deadline
    else if (x.look_at_server(now)) return;
    else if (x.response_ != response_state::body) x.fail(504, "no answer in time");
    else x.truncated("the response stalled", end_cause::timed_out);
}

} // namespace weir::inline WEIR_KERNEL
