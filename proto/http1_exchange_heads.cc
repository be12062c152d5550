// http1_exchange: heads that differ from what was received by more than their framing: a request's Host, interim
// responses, 101.

#include <algorithm>
#include <cstring>
#include <utility>

#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

// A server's own name, as Host: RFC 9110 section 7.2. A unix socket has none. The zone of an IPv6 address means nothing
// to another host, and is no part of Host: RFC 6874 section 1.
std::string_view host_of(const endpoint& at, std::span<char, endpoint::text_max> room) noexcept {
    if (at.family() == AF_UNIX) return "localhost";
    const std::string_view text = at.text(room);
    const std::size_t zone = text.find('%');
    if (zone == text.npos) return text;
    const std::size_t end = text.find(']');
    std::memmove(room.data() + zone, room.data() + end, text.size() - end);
    return text.substr(0, text.size() - (end - zone));
}

} // namespace

// The longest name of a server, for which forward() leaves room.
std::string_view http1_exchange::longest_host(std::span<char, endpoint::text_max> room) const noexcept {
    const endpoint* longest = &room_.upstreams.at(0).first().at;
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < room_.upstreams.size(); i++) {
        const upstream& u = room_.upstreams.at(i);
        for (const std::uint8_t place : u.order()) {
            const endpoint& at = u.places[place].where.at;
            const std::size_t size = host_of(at, room).size();
            if (size > bytes) longest = &at;
            bytes = std::max(bytes, size);
        }
    }
    return host_of(*longest, room);
}

// The request has no Host: it gets the name of the server that it goes to (RFC 9112 section 3.2). The head was written
// with room for the longest one.
bool http1_exchange::name_host() noexcept {
    constexpr std::string_view name_is = "Host: ";
    const std::string_view before = to_server_.bytes();
    const std::size_t name_at = before.find("\r\n") + 2 + name_is.size();
    const std::size_t name_end = before.find("\r\n", name_at);
    char room[endpoint::text_max];
    http1_writer out{write_room(), write_room_bytes()};
    out.put(before.substr(0, name_at)).put(host_of(upstream_->where.at, room)).put(before.substr(name_end));
    to_server_.clear(blocks());
    return to_server_.append({write_room(), out.size()}, blocks()) == buffer::append_result::done;
}

// Parses up to the final head, which stays in head_; interim ones (RFC 9110 section 15.2) are written to `out`. bad with
// no error in head_: the 1xx come too fast.
http1_head::progress http1_exchange::take_heads(char* in, std::size_t bytes, std::size_t& used,
                                                http1_writer& out) noexcept {
    for (;;) {
        const http1_head::progress p = parse_head({in + used, bytes - used});
        // A server that sends an empty line behind a body says nothing of this request with it.
        if (!head_.has_not_begun()) note_answer();
        if (p != http1_head::progress::done) return p;
        used += head_.size();
        if (head_.status() >= 200 || head_.status() == 101) return p;
        if (!take_interim(head_.size())) return http1_head::progress::bad;
        const bool is_continue = head_.status() == 100 && std::exchange(awaits_continue_, false);
        if (is_continue && request_ == request_state::body && unsent() == 0) {
            begin_window();
            expect_body();
        }
        // RFC 9110 section 15.2: never to a client of HTTP/1.0.
        if (version_ == http1_version::v1_1) write_next_head(out, {}, http1_persistence::unsaid);
        if (out.size() > used + interim_growth_max) return http1_head::progress::bad;
        expect_response();
    }
}

// The first byte of an answer has come: the server is well, and lacks no place.
void http1_exchange::note_answer() noexcept {
    if (std::exchange(response_begun_, true)) return;
    room_.upstreams.answered(*upstream_);
    place_due_ = never;
    lacking_hook_.unlink();
}

// Whether one more interim response, of so many bytes, keeps to the rate. They are passed on and not kept, so their
// number has no limit: a server may say 102 each few seconds for hours.
bool http1_exchange::take_interim(std::size_t bytes) noexcept {
    const auto counted = static_cast<std::int64_t>(std::max(bytes, interim_bytes_min));
    interims_paid_ = std::max(interims_paid_, now()) + duration{seconds{1}} / std::int64_t{interim_bytes_per_s} * counted;
    return interims_paid_ - now() <= interim_burst;
}

// 101. RFC 9110 section 15.2.2: the server names what it switches to, which the client must have asked for.
verdict http1_exchange::switch_protocols(http1_writer& out, std::string_view early) noexcept {
    if (upgrades_ == 0) return fail(502, "a 101 that was not asked for");
    if (!server_facts_.request_written) return fail(502, "a 101 before the request was all sent");
    if (!is_switch_to(head_, room_.options.upgrades, upgrades_))
        return fail(502, "a 101 to a protocol that was not asked for");
    if (room_.tunnels.pair_count() == room_.tunnels.capacity()) return run_short("no tunnel is left");
    write_next_head(out, {}, http1_persistence::upgrade);
    return become_tunnel({write_room(), out.size()}, early);
}

// From here on the two connections carry something that is not HTTP. RFC 9110 section 7.8.
verdict http1_exchange::become_tunnel(std::string_view head, std::string_view early) noexcept {
    status_ = 101;
    const sent s = push(*client_, to_client_, {.head = head, .data = early});
    if (s == sent::broken) return abandon(cause_of(*client_));
    connection& server = *server_;
    connection& client = *client_;
    server.disarm();
    client.disarm();
    const auto joined = room_.tunnels.join(client, server, from_client_.bytes(), to_client_.bytes(), upstream_);
    if (!joined) return abandon(end_cause::no_room);
    log_access(ending::whole);
    room_.counters.tunnels++;
    room_.upstreams.hold(*upstream_);
    server_ = nullptr; // its upstream counts it until the tunnel ends
    room_.pool.free(*this);
    return verdict::gone;
}

} // namespace weir::inline WEIR_KERNEL
