// http1_exchange: the request, from the client to the server.

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/buggify.hpp"
#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

// The framing around one piece of a chunked body: its size line, two line ends and the last chunk.
constexpr std::size_t chunk_framing_max = sizeof(http1_chunk_head) + 2 + http1_last_chunk.size();

} // namespace

verdict http1_exchange::client_recv(connection& client) noexcept {
    const still_there is{client};
    http1_exchange& x = client.owner_as<http1_exchange>();
    switch (x.request_) {
    case request_state::head: x.read_head(); break;
    case request_state::body: x.read_body(); break;
    case request_state::done:
    case request_state::cut: client.stop_recv(); break;
    }
    return is.answer();
}

// --- the head

verdict http1_exchange::read_head() noexcept {
    if (has_backlog_) return take_head(from_client_.bytes());
    const bool in_scratch = from_client_.empty();
    buffer::room_view to{conns().scratch(), read_bytes_max};
    if (!in_scratch) to = from_client_.room(blocks());
    if (to.bytes == 0) { // the limit of a head lies above a block
        if (!from_client_.enlarge(blocks())) return shed("no large block is left for a head");
        to = from_client_.room(blocks());
    }
    EXPECT(to.bytes > 0); // a head that fills a large block is over any limit
    const io_result got = client_->recv(to.at, to.bytes);
    switch (got.end) {
    case io::again: return in_scratch ? wait_on(http1_wait::still) : verdict::keep; // nothing yet: without an exchange
    case io::closed: return close_client(close_intent::after_fin, end_cause::peer_closed);
    case io::failed: return close_client(close_intent::silent, end_cause::peer_failed);
    case io::done: break;
    }
    if (in_scratch) return take_head({to.at, got.bytes});
    from_client_.grow(got.bytes);
    return take_head(from_client_.bytes());
}

verdict http1_exchange::take_head(std::string_view bytes) noexcept {
    const bool is_backlog = std::exchange(has_backlog_, false);
    switch (parse_head(bytes)) {
    case http1_head::progress::needs_table: return shed("no block is left for the fields of a head");
    case http1_head::progress::more:
        if (head_.has_not_begun() && head_.consumed() == bytes.size())
            return pass_lines(is_backlog || client_deadline_ != never ? http1_wait::anew : http1_wait::still);
        if (from_client_.empty() &&
            (!may_hold_head() || from_client_.append(bytes, blocks()) == buffer::append_result::full))
            return shed("no block is left for a head");
        if (client_deadline_ == never) set_client_deadline(later(now(), room_.options.header_timeout));
        return verdict::keep;
    case http1_head::progress::bad: return refuse(status_of(head_.error()), to_string(head_.error()));
    case http1_head::progress::done: break;
    }
    client_deadline_ = never;
    return begin(bytes);
}

// Lends a block for the fields that head_ cannot hold itself. needs_table: none is left.
http1_head::progress http1_exchange::parse_head(std::string_view bytes) noexcept {
    const http1_head::progress p = head_.parse(bytes);
    if (p != http1_head::progress::needs_table) return p;
    static_assert(http1_head::table_bytes <= block_bytes);
    head_table_ = blocks().make();
    if (!head_table_) return p;
    head_.lend_table(head_table_->bytes);
    return head_.parse(bytes);
}

// The fields of head_ are not asked for any more.
void http1_exchange::drop_table() noexcept {
    if (head_table_) blocks().free(*head_table_);
    head_table_ = nullptr;
}

// head_ is that of a response from now on.
void http1_exchange::expect_response() noexcept {
    drop_table();
    http1_limits limits = room_.options.head;
    limits.allow_bare_lf = limits.allow_bare_lf || room_.options.server_bare_lf;
    head_.start(http1_kind::response, limits);
}

// The last quarter of the blocks is not for heads that are incomplete, which clients may keep so for as long as the
// header timeout: complete requests need blocks to be forwarded.
bool http1_exchange::may_hold_head() noexcept {
    const std::size_t capacity = blocks().capacity();
    return blocks().used() < capacity - capacity / 4;
}

// Empty lines, and nothing behind them: no request has begun, and none is late (RFC 9112 section 2.2). Old clients send
// one behind a POST. Each time is a use, so that it is bounded. `how`: anew if the deadline of a wait is not armed.
verdict http1_exchange::pass_lines(http1_wait how) noexcept {
    client_->count_use();
    const bool is_over = room_.draining && how == http1_wait::anew; // it was no client that waits
    if (is_over || client_->uses() > room_.options.keep_alive_requests)
        return close_client(close_intent::graceful, end_cause::done);
    return wait_on(how);
}

// Method and target, as much as the logs show.
void http1_exchange::remember() noexcept {
    http1_writer out{what_, sizeof what_};
    const std::string_view method = head_.method_text();
    const std::string_view target = head_.target().substr(0, sizeof what_ - 1 - method.size());
    what_bytes_ = static_cast<std::uint8_t>(out.put(method).put(" ").put(target).size());
}

verdict http1_exchange::begin(std::string_view bytes) noexcept {
    room_.counters.requests++;
    client_->count_use();
    remember();
    method_ = head_.method();
    version_ = head_.version();
    client_keep_alive_ = head_.keep_alive();
    client_asked_keep_alive_ = head_.keep_alive_requested();
    upgrades_ = upgrades_asked(head_, room_.options.upgrades);
    binds_user_ = head_.binds_user();
    awaits_continue_ = head_.expect_continue();
    const http1_body_kind kind = head_.body_kind();
    if (method_ == http1_method::connect) return refuse(501, "this is no forward proxy");
    if (method_ == http1_method::trace) return refuse(405, "TRACE is not forwarded");
    if (kind == http1_body_kind::length && head_.content_length() > room_.options.body_bytes_max)
        return refuse(413, "the body is too large");

    request_chunked_ = kind == http1_body_kind::chunked;
    request_body_.start(kind, head_.content_length(), {.body_bytes_max = room_.options.body_bytes_max});
    request_ = kind == http1_body_kind::none || request_body_.done() ? request_state::done : request_state::body;
    if (!applet_) return forward(bytes);

    const http1_answer a = applet_->answer(applet_->owner, head_, {conns().scratch() + read_bytes_max, block_bytes});
    // Bytes behind the head are not looked at: the connection closes after the answer instead.
    if (bytes.size() > head_.size()) client_keep_alive_ = false;
    from_client_.clear(blocks());
    return answer(a);
}

// Writes the head anew and sends it on, with what has come of the body.
verdict http1_exchange::forward(std::string_view bytes) noexcept {
    if (!put_request_head()) {
        to_server_.clear(blocks());
        return shed("no room for the request's head");
    }
    char* rest = const_cast<char*>(bytes.data()) + head_.size(); // in our own memory: scratch room or from_client_
    const std::size_t rest_bytes = bytes.size() - head_.size();
    const bool in_buffer = !from_client_.empty();
    std::size_t used = 0;
    if (request_ == request_state::body) {
        if (rest_bytes > 0) awaits_continue_ = false;
        body_bytes_ = rest_bytes;
        if (take_body(rest, rest_bytes, used) == verdict::gone) return verdict::gone;
        if (response_ == response_state::done)
            return verdict::keep; // refused, and the client has not taken all of that
    }
    if (in_buffer) from_client_.consume(head_.size() + used, blocks());
    else if (from_client_.append({rest + used, rest_bytes - used}, blocks()) == buffer::append_result::full)
        return shed("no block is left for what the client said early");
    client_->stop_recv(); // of a body, flush_to_server() asks for more
    expect_response();
    response_ = response_state::head;
    return client_has_gone() ? give_up() : acquire();
}

// Into a block, or else into a large one.
bool http1_exchange::put_request_head() noexcept {
    const http1_framing framing{.kind = head_.body_kind(), .length = head_.content_length()};
    const auto persistence = upgrades_           ? http1_persistence::upgrade
                             : keeps_no_server() ? http1_persistence::close
                                                 : http1_persistence::unsaid;
    needs_host_ = !head_.names_host();
    char longest[endpoint::text_max];
    const http1_forwarding how{.upgrades = room_.options.upgrades,
                               .own_host = needs_host_ ? longest_host(longest) : std::string_view{}};
    do {
        const buffer::room_view to = to_server_.room(blocks());
        const std::size_t n = to.at ? write_request_head(to.at, to.bytes, head_, framing, persistence, how) : 0;
        if (n > 0) {
            to_server_.grow(n);
            return true;
        }
    } while (!to_server_.is_large() && to_server_.enlarge(blocks()));
    return false;
}

// --- the body

verdict http1_exchange::read_body() noexcept {
    if (unsent() > 0 || !server_is_ready()) {
        hold_client(); // goes on when flush_to_server() is through
        return verdict::keep;
    }
    if (keeping_ && to_server_.size() > block_bytes / 2) stop_keeping();
    std::size_t used = 0;
    if (!from_client_.empty()) {
        char* in = const_cast<char*>(from_client_.bytes().data());
        const std::size_t bytes = std::min(from_client_.size(), read_bytes_max);
        if (take_body(in, bytes, used) == verdict::gone) return verdict::gone;
        from_client_.consume(used, blocks());
        return client_has_gone() ? give_up() : flush_to_server();
    }
    char* in = conns().scratch();
    const io_result got = client_->recv(in, read_bytes_max);
    constexpr const char* too_slow = "the request's body comes too slowly";
    switch (got.end) {
    case io::again: return !awaits_continue_ && rate_is_low() ? late(too_slow) : verdict::keep;
    case io::closed: return abandon(end_cause::peer_closed);
    case io::failed: return abandon(end_cause::peer_failed);
    case io::done: break;
    }
    if (std::exchange(awaits_continue_, false)) begin_window();
    body_bytes_ += got.bytes;
    if (take_body(in, got.bytes, used) == verdict::gone) return verdict::gone;
    if (request_ == request_state::cut) return verdict::keep; // it was refused: what stands behind is nothing
    // What is not taken yet may be the body's end, which is never too late. The rate is judged when all that has come is
    // counted: the process may have stood still.
    const bool all_counted = used == got.bytes && !client_->slot().is(fd_state::recv_ready);
    if (request_ == request_state::body && all_counted && rate_is_low()) return late(too_slow);
    if (from_client_.append({in + used, got.bytes - used}, blocks()) == buffer::append_result::full)
        return shed("no block is left for a body");
    return client_has_gone() ? give_up() : flush_to_server();
}

// The client is to go on with its body; the time until then is its own, unless it waits for its server's 100. One that
// was held up begins a new window; in the first one what came with the head counts.
void http1_exchange::expect_body() noexcept {
    const bool is_first = body_since_ == time_point{};
    if (is_first) body_since_ = now();
    else if (!client_->slot().is(fd_state::recv_active)) begin_window();
    client_->want_recv();
    if (awaits_continue_) {
        await_server();
    } else if (to_client_.empty()) {
        set_client_deadline(later(now(), room_.options.body_timeout));
    }
}

void http1_exchange::begin_window() noexcept {
    body_since_ = now();
    body_bytes_ = 0;
}

// The server takes nothing now, so the client's deadline stops.
void http1_exchange::hold_client() noexcept {
    client_->stop_recv();
    if (to_client_.empty()) client_deadline_ = never;
}

bool http1_exchange::rate_is_low() noexcept {
    const duration window = room_.options.body_timeout;
    const std::uint32_t rate_min = request_chunked_ ? room_.options.chunked_rate_min : room_.options.body_rate_min;
    if (now() - body_since_ < window) return false;
    const auto window_s = std::chrono::duration_cast<seconds>(window).count();
    const std::uint64_t wanted = std::uint64_t{rate_min} * static_cast<std::uint64_t>(window_s);
    const bool is_low = body_bytes_ < wanted;
    body_since_ = now();
    body_bytes_ = 0;
    return is_low;
}

// Moves body bytes on towards the server: as many as fit into to_server_ if that holds any, directly otherwise. `used`:
// bytes of `in` that are done with.
verdict http1_exchange::take_body(char* in, std::size_t bytes, std::size_t& used) noexcept {
    const bool direct = server_is_ready() && to_server_.empty() && !buggify(twist::send_buffered);
    const std::size_t room = to_server_.capacity() - to_server_.size();
    const std::size_t fits = room > chunk_framing_max ? room - chunk_framing_max : 0;
    if (!direct) bytes = std::min(bytes, fits);
    const unframed u = unframe(request_body_, in, bytes);
    used = u.used;
    if (u.end == http1_body::what::bad) {
        if (response_ == response_state::body) return abandon(end_cause::protocol);
        return refuse(status_of(request_body_.error()), to_string(request_body_.error()));
    }
    const bool is_last = u.end == http1_body::what::end;
    if (is_last) {
        request_ = request_state::done;
        if (to_client_.empty()) client_deadline_ = never; // else it is that of an early answer, which it has to take
        client_->stop_recv();
    }
    const outgoing what{.data = {u.data, u.size}, .chunked = request_chunked_, .is_last = is_last};
    if (direct) {
        if (push(*server_, to_server_, what) != sent::broken) return verdict::keep;
        if (server_->error() == ENOBUFS) return shed("no block is left for a body");
        hold_client(); // not the end: what the server said before comes first. server_wake() sees to it
        return verdict::keep;
    }
    http1_chunk_head chunk_head;
    iovec parts[5];
    const std::size_t count = parts_of(what, chunk_head, parts);
    for (std::size_t i = 0; i < count; i++) {
        const auto r = to_server_.append({static_cast<char*>(parts[i].iov_base), parts[i].iov_len}, blocks());
        if (r == buffer::append_result::full) return shed("no block is left for a body");
    }
    return verdict::keep;
}

verdict http1_exchange::flush_to_server() noexcept {
    if (!server_is_ready() || server_->is(conn_flag::failed)) return verdict::keep;
    while (unsent() > 0) {
        const io_result r = server_->send(to_server_.bytes().substr(sent_bytes_));
        sent_bytes_ += static_cast<std::uint32_t>(r.bytes);
        if (send_progress::has_sent(*server_, r)) to_server_progress_.sent();
        if (r.end != io::failed && unsent() == 0) break;
        hold_client();
        if (r.end == io::failed) return verdict::keep; // server_wake() looks for what the server still said
        server_->want_send();
        await_server();
        return verdict::keep;
    }
    server_->stop_send();
    if (!keeping_) {
        to_server_.clear(blocks());
        sent_bytes_ = 0;
    }
    if (request_ == request_state::done) {
        if (!server_facts_.request_written) await_server();
        server_facts_.request_written = true;
        return verdict::keep;
    }
    if (request_ != request_state::body) return verdict::keep;
    if (!from_client_.empty()) return read_body();
    expect_body();
    return verdict::keep;
}

// The response has begun, or the request outgrew its block: it will not be sent again.
void http1_exchange::stop_keeping() noexcept {
    keeping_ = false;
    to_server_.consume(sent_bytes_, blocks());
    sent_bytes_ = 0;
}

verdict http1_exchange::server_send(connection& server) noexcept {
    const still_there is{server};
    server.owner_as<http1_exchange>().flush_to_server();
    return is.answer();
}

} // namespace weir::inline WEIR_KERNEL
