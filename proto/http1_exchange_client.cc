// http1_exchange: the client takes what it was sent, or has gone.

#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

verdict http1_exchange::client_send(connection& client) noexcept {
    const still_there is{client};
    http1_exchange& x = client.owner_as<http1_exchange>();
    const io_result r = client.send(x.to_client_.bytes());
    if (r.end == io::failed) {
        x.abandon(client.failure());
        return is.answer();
    }
    const bool has_sent = send_progress::has_sent(client, r);
    if (has_sent) x.to_client_progress_.sent();
    x.to_client_.consume(r.bytes, x.blocks());
    if (!x.to_client_.empty()) {
        if (has_sent) x.client_deadline_ = later(x.now(), x.room_.options.write_timeout);
        return is.answer();
    }
    client.stop_send();
    x.client_deadline_ = never;
    if (x.request_ == request_state::body && client.slot().is(fd_state::recv_active)) x.expect_body();
    if (x.response_ == response_state::done) x.finish();
    else if (x.server_) x.resume_server();
    return is.answer();
}

verdict http1_exchange::client_wake(connection& client) noexcept {
    const still_there is{client};
    http1_exchange& x = client.owner_as<http1_exchange>();
    if (client.is_broken()) x.abandon(end_cause::peer_failed);
    else if (x.client_has_gone()) x.give_up();
    return is.answer();
}

// The client has sent its FIN, its request is complete, and nothing stands behind the request. Bytes behind it are the
// next request of a client that pipelines, and still wants its answers.
//
// epoll reports the FIN (EPOLLRDHUP) although nothing is received then, and client_wake() is called. A FIN that was
// reported before the request was complete is not reported again: the callers ask when the request becomes complete.
bool http1_exchange::client_has_gone() noexcept {
    if (!client_->ended() || !awaits_server() || room_.options.on_client_fin == client_fin::wait) return false;
    if (!client_->hides_bytes()) {
        const sys::count n = sys::peek(client_->fd());
        if (n < 0 && n != -EAGAIN) client_->fail(static_cast<int>(-n)); // client_wake() ends the exchange
        return n == 0;
    }
    // What lies in the socket is the transport's: only its recv tells whether bytes of the client are among that. A FIN
    // without the transport's own end is a truncation, and the client has gone as well.
    const io_result got = client_->recv(conns().scratch(), 1);
    if (got.end == io::again) return false; // of the rest of a record, which the FIN cut off, the next recv tells
    if (got.end != io::done) return true;
    if (from_client_.append({conns().scratch(), got.bytes}, blocks()) == buffer::append_result::done) return false;
    return true; // without a block the next request would lose its first byte
}

// Gives up a request whose client has gone. The server connection is closed, so that the server hears of it. What the
// client's socket holds, an answer to an earlier request, is still delivered; a response that breaks off must show it.
verdict http1_exchange::give_up() noexcept {
    room_.counters.abandoned++;
    const bool shows = response_ != response_state::body || client_framing_ != http1_body_kind::until_close;
    return close_client(shows ? close_intent::after_fin : close_intent::abort, end_cause::peer_closed, ending::client_gone);
}

} // namespace weir::inline WEIR_KERNEL
