// peers: servers that speak HTTP/1.x: what they must be told, and all the ways in which they answer.

#include <algorithm>
#include <cstdlib>

#include "sim/peers.hpp"

namespace simtest {

namespace {

constexpr std::string_view nonsense[] = {
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nab",
    "HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX-Nul: \x01\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2 200\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: else\r\n\r\n",
};

} // namespace

void server::answer_http() noexcept {
    for (;;) {
        if (ear.answered_early && !hear_rest()) return;
        if (ear.tunnel) {
            hear_tunnel();
            return;
        }
        if (!ear.now && !hear_head()) return;
        if (!hear_body()) return;
        speak_http();
        answered++;
        if (how == manner::pipelining) not_before = {}; // crosses_next() draws anew
        stray_on();
    }
}

// ---- what is heard

bool server::hear_head() noexcept {
    const std::size_t end_of_head = in.find("\r\n\r\n");
    if (end_of_head == in.npos) return false;
    const std::string head = in.substr(0, end_of_head + 2);
    in.erase(0, end_of_head + 4);
    const std::size_t path = head.find(" /");
    errand* e = path == head.npos ? nullptr : home->errand_of(std::strtoull(head.c_str() + path + 2, nullptr, 10));
    if (!e) {
        home->k_.violate("I6", "a server got a request that no client has sent");
        return false;
    }
    check_head(*e, head);
    if (is_overtaken(*e)) {
        in.clear();
        return false;
    }
    check_strays();
    if (ear.was_told_close) home->k_.violate("I16", "a connection was used again after its server was told close");
    if (ear.said_close) home->k_.violate("I16", "a connection was used again after its server had said close");
    // The loop's time is that of the turn's beginning.
    const bool is_punctual = home->k_.faults.ratio(fault::clock_jump) == 0;
    if (is_punctual && home->k_.time.now + milliseconds{5} < ear.rests_until)
        home->k_.violate("I16", "a connection was used again at once behind an answer whose body was only announced");
    arrive(*e);
    ear.now = e;
    ear.was_told_close = field_text(head, "connection") == "close";
    if (e->expects && (home->calm_ || home->k_.chance.below(4) != 0)) say_hint("100 Continue", mark::hint_100);
    return true;
}

void server::check_head(const errand& e, std::string_view head) noexcept {
    kernel& k = home->k_;
    const std::string asked = std::string(e.method) + " /" + std::to_string(e.id) + " HTTP/1.1\r\n";
    if (!head.starts_with(asked)) k.violate("I6", "a server got another request line than was sent");
    char room[endpoint::text_max];
    const std::string_view own = is_unix ? "localhost" : end->local().text(room);
    if (field_text(head, "host") != (e.names_host ? "shop" : own))
        k.violate("I6", "a server got another host than was named");
    if (field_number(head, "x-keep", 0) != e.id) k.violate("I6", "a field of a request was lost");
    for (const std::string_view hop : {"x-hop", "te", "keep-alive"})
        if (field_text(head, hop).data()) k.violate("I6", "a field was passed on to a server that is not for it");
    const bool upgrades = field_text(head, "upgrade") == "Weir-Test";
    if (field_text(head, "http2-settings").data() || (!upgrades && field_text(head, "upgrade").data()))
        k.violate("I6", "a server was asked for a protocol that is not allowed");
    if (upgrades != e.upgrades) k.violate("I6", "a server was asked for another protocol than the gateway was");
    const bool is_chunked = field_text(head, "transfer-encoding") == "chunked";
    const std::uint32_t length = field_number(head, "content-length", failed_bytes);
    if (is_chunked != (e.form == body_form::chunked) ||
        length != (e.form == body_form::length ? e.body_bytes : failed_bytes))
        k.violate("I6", "a server got another framing than was sent");
    const bool says_close = field_text(head, "connection") == "close";
    if (!e.upgrades && says_close == home->rules_.keeps_servers)
        k.violate("I6", "a server was told that its connection is not kept, or was not told so");
    if ((field_text(head, "expect").data() != nullptr) != e.expects)
        k.violate("I6", "an expectation did not come to the server, or none was sent");
}

// The gateway has given this connection up, and what it repeated elsewhere was read first.
bool server::is_overtaken(const errand& e) const noexcept {
    return e.arrivals == 1 && !e.came_on_used && ear.heads_count > 0 && !end->socket().peer;
}

// A request is sent twice at most, and only where that does no harm: design.md section 4.
void server::arrive(errand& e) noexcept {
    kernel& k = home->k_;
    const bool is_first = ear.heads_count++ == 0;
    if (++e.arrivals > 1) {
        if (e.arrivals > 2) k.violate("I17", "a request came to servers a third time");
        if (home->rules_.options.repeats == repeat::off)
            k.violate("I17", "a request was repeated, though none is to be");
        if (!is_first) k.violate("I17", "a request was repeated on a connection that is not fresh");
        if (!e.came_on_used && e.came_to == end->local())
            k.violate("I17", "a request was repeated at the address at which a fresh connection had failed");
        if (!e.came_on_used) saw(mark::repeated_elsewhere);
        if (e.was_answered) k.violate("I17", "a request was repeated after a byte of its answer");
        if (!e.may_repeat() && !e.came_unseen)
            k.violate("I17", "a request that a server had seen came to a server again");
    }
    // Who ended its own side first reads it, but cannot answer, and counts as one that has not seen it: its reset looks
    // the same to the gateway whether or not it read on.
    e.came_unseen = said.ended;
    e.came_on_used = !is_first;
    e.came_to = end->local();
    e.was_answered = e.is_whole = e.by_end = e.is_early = false;
    e.status = 0;
    ear.said_before = said.bytes;
}

// The rest of a body that was answered early. False: it is not complete.
bool server::hear_rest() noexcept {
    if (!take_body(*ear.answered_early)) {
        if (in.find("\r\nX-Keep: ") != in.npos) // a head within a body
            home->k_.violate("I16", "a connection was used again, and its last request was not all said");
        return false;
    }
    ear.answered_early = nullptr;
    return true;
}

// Takes the body of a request off what came. False: it is not complete.
bool server::take_body(const errand& e) noexcept {
    std::string body;
    std::size_t bytes = 0;
    if (e.form == body_form::length) {
        body = in.substr(0, e.body_bytes);
        bytes = in.size() < e.body_bytes ? in.npos : e.body_bytes;
    } else if (e.form == body_form::chunked) {
        bytes = unchunk(in, body);
    }
    if (!is_payload(body, e.id)) home->k_.violate("I6", "a server got a body that was not sent so");
    if (bytes == in.npos) return false;
    const bool fits = e.form == body_form::none || body.size() == e.body_bytes;
    if (!fits || e.is_broken) home->k_.violate("I6", "a server got a whole body that was not");
    in.erase(0, bytes);
    return true;
}

bool server::hear_body() noexcept {
    if (take_body(*ear.now)) return true;
    // Now and then the answer comes before the request is complete: RFC 9112 section 9.5.
    if (how == manner::well_behaved || home->calm_ || home->k_.chance.below(6) != 0) return false;
    saw(mark::answer_early);
    ear.answered_early = ear.now;
    ear.now->is_early = true;
    return true;
}

void server::hear_tunnel() noexcept {
    errand& e = *ear.tunnel;
    if (!is_payload(in, tunnel_id(e, false), ear.heard)) home->k_.violate("I6", "a tunnel has altered a byte");
    ear.heard += static_cast<std::uint32_t>(in.size());
    in.clear();
    const bool has_begun = said.bytes + e.answer_bytes >= ear.said_at_end; // else the gateway gave it up
    if (!heard_all || !end->socket().fin_received || home->has_unix() || !has_begun) return;
    if (!e.client_ended) home->k_.violate("I7", "an end was heard through a tunnel that nobody had said");
    if (ear.heard != e.client_said) home->k_.violate("I7", "an end was heard through a tunnel before the last byte");
}

// ---- what is said

void server::say_hint(std::string_view status, mark what) noexcept {
    out.append("HTTP/1.1 ").append(status).append("\r\nX-Hint: 1\r\n\r\n");
    ear.now->hints_said++;
    saw(what);
}

// More of them, at times, than a gateway passes on: 64 at once.
void server::say_early_hints() noexcept {
    dice& chance = home->k_.chance;
    const bool hints = chance.below(8) == 0;
    for (std::uint32_t n = hints ? chance.magnitude(1, 100) : 0; n > 0; n--)
        say_hint("103 Early Hints", mark::hint_103);
}

void server::speak_http() noexcept {
    errand& e = *ear.now;
    dice& chance = home->k_.chance;
    const bool calm = home->calm_;
    if (!calm && chance.below(24) == 0) {
        speak_nonsense(e);
        return;
    }
    if (!calm) say_early_hints();
    ear.now = nullptr;
    ear.speaking = &e;
    if (e.upgrades && chance.below(4) != 0) {
        begin_tunnel(e);
        return;
    }
    static constexpr int statuses[] = {200, 200, 200, 204, 304, 404};
    e.status = calm ? 200 : statuses[chance.below(std::size(statuses))];
    const bool is_head = std::string_view{e.method} == "HEAD";
    const bool is_bodiless = is_head || e.status == 204 || e.status == 304;
    const bool is_old = !calm && chance.below(8) == 0;
    const bool closes = !calm && chance.below(8) == 0;
    body_form form = chance.below(3) == 0 ? body_form::chunked : body_form::length;
    if (is_old && form == body_form::chunked) form = body_form::until_end;
    if (!calm && chance.below(8) == 0) form = body_form::until_end;
    if (is_bodiless) {
        form = body_form::length;
        saw(is_head ? mark::answer_to_head : mark::answer_without_body);
    }
    std::string head = std::string(is_old ? "HTTP/1.0 " : "HTTP/1.1 ") + std::to_string(e.status) + " Fine\r\n";
    head += "X-Id: " + std::to_string(e.id) + "\r\n";
    if (is_old) saw(mark::server_of_1_0);
    const bool keeps = !closes && (!is_old || chance.coin());
    if (closes) {
        head += "Connection: Close\r\n";
        saw(mark::server_says_close);
    } else if (keeps && is_old) {
        head += "Connection: keep-alive\r\n";
    }
    if (chance.below(4) == 0) head += "Connection: x-hop\r\nX-Hop: 1\r\n";
    if (chance.below(8) == 0) head += "Keep-Alive: timeout=2\r\n";
    const http1_limits& limits = home->rules_.options.head;
    const bool pads = limits.head_bytes_max <= 20 * home->k_.options().network.buffer_bytes_max;
    if (pads && chance.below(32) == 0) pad_fields(head, limits);
    if (pads && chance.below(16) == 0) {
        http1_limits less = limits;
        less.head_bytes_max -= 64; // for the framing
        less.fields_max -= 1;
        if (pad(head, less)) saw(mark::answer_of_the_largest_size);
    }
    const bool says_length = form == body_form::length && e.status != 204;
    if (says_length) head += "Content-Length: " + std::to_string(e.answer_bytes) + "\r\n";
    const std::string body = is_bodiless ? "" : payload(e.id, e.answer_bytes);
    if (form == body_form::chunked) {
        out += head + "Transfer-Encoding: chunked\r\n\r\n" + in_chunks(body, chance);
        saw(mark::answer_in_chunks);
    } else {
        out += head + "\r\n" + body;
    }
    ear.said_at_end = said.bytes + out.size();
    e.by_end = form == body_form::until_end;
    if (e.by_end) saw(mark::answer_until_end);
    ear.said_close = !keeps;
    if (e.by_end || (!keeps && chance.coin())) heard_all = true; // leaves when it has said all; else the gateway must
    if (keeps && !e.by_end && !heard_all) plan_late(e, body.size());
    if (is_bodiless && !calm && chance.below(16) == 0) {
        out += "no body";
        strayed = end->now();
        saw(mark::answer_with_surplus);
    }
}

// Some milliseconds behind a complete answer: the body of one that has none, or an empty line behind a body. The first
// may become the beginning of the next answer, if that is under way by then. The second never does harm; but half of it may
// be thrown away with a pool that drains.
void server::plan_late(const errand& e, std::size_t body_bytes) noexcept {
    dice& chance = home->k_.chance;
    const bool announces = body_bytes == 0 && e.answer_bytes > 0 && e.status != 204;
    if (announces ? home->calm_ : body_bytes == 0 || home->rules_.drains_unasked) return;
    if (chance.below(8) != 0) return;
    late = announces ? "no body" : "\r\n";
    const duration wait = chance.between(duration{10'000}, duration{milliseconds{20}});
    late_at = end->now() + wait;
    end->wake_in(wait);
}

void server::say_late() noexcept {
    if (late.empty() || end->now() < late_at || !out.empty() || ear.tunnel || heard_all || finished || parted) return;
    const bool is_line = late == "\r\n";
    if (is_line || !home->calm_) {
        out = late;
        saw(is_line ? mark::line_behind_an_answer : mark::body_behind_an_answer);
        if (!is_line) strayed = end->now();
    }
    late.clear();
}

void server::speak_nonsense(errand& e) noexcept {
    dice& chance = home->k_.chance;
    saw(mark::answer_of_nonsense);
    ear.now = nullptr;
    const std::uint32_t which = chance.below(static_cast<std::uint32_t>(std::size(nonsense)) + 1);
    if (e.upgrades || std::string_view{e.method} == "HEAD" || which < std::size(nonsense)) {
        const std::size_t of_upgrade = chance.coin() ? 0 : std::size(nonsense) - 1; // a 101 to another protocol
        out += nonsense[e.upgrades ? of_upgrade : which % std::size(nonsense)];
        return;
    }
    // A body that breaks off in the middle of nowhere: never whole.
    e.status = 200;
    out += "HTTP/1.1 200 Fine\r\nX-Id: " + std::to_string(e.id) + "\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n";
    out += payload(e.id, 1) + "\r\nnonsense\r\n";
}

void server::begin_tunnel(errand& e) noexcept {
    out += "HTTP/1.1 101 Switching Protocols\r\nX-Id: " + std::to_string(e.id);
    out += "\r\nConnection: upgrade\r\nUpgrade: weir-test\r\n\r\n";
    out += payload(tunnel_id(e, true), e.answer_bytes);
    e.status = 101;
    ear.tunnel = &e;
    ear.said_at_end = said.bytes + out.size();
    saw(mark::tunnel);
}

// What it says when it is tired of waiting: cut short, or a whole one.
std::string server::parting_word() noexcept {
    const bool is_whole = home->tongue_ == town::tongue::http1 && home->k_.chance.coin();
    return is_whole ? "HTTP/1.1 408 Too Late\r\nX-Stray: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    : "HTTP/1.1 408";
}

// Some of what is to be said was taken.
void server::spoke() noexcept {
    if (!ear.speaking || ear.speaking->by_end || said.bytes < ear.said_at_end) return;
    errand& e = *ear.speaking;
    e.is_whole = true;
    ear.speaking = nullptr;
    const bool announced = std::string_view{e.method} == "HEAD" || e.status == 304;
    if (announced && e.status != 204 && e.status != 101 && e.answer_bytes > 0)
        ear.rests_until = end->now() + home->rules_.options.rest;
}

// Its side of the connection ends here: what has come to the gateway of what it was saying? `with_fin`: all of it will.
void server::fall_silent(remote& r, bool with_fin) noexcept {
    if (home->tongue_ != town::tongue::http1) return;
    const auto unsaid = static_cast<std::uint32_t>(ear.said_at_end - std::min(ear.said_at_end, said.bytes));
    if (ear.tunnel && with_fin) {
        ear.tunnel->server_said = ear.tunnel->answer_bytes - std::min(unsaid, ear.tunnel->answer_bytes);
        ear.tunnel->server_ended = true;
    }
    errand* e = ear.now ? ear.now : ear.speaking;
    if (!e) return;
    const bool is_sure = home->k_.faults.ratio(fault::recv_etimedout) + home->k_.faults.ratio(fault::recv_enomem) == 0;
    const std::uint64_t delivered = said.bytes - (with_fin ? 0 : r.socket().out.size());
    if (is_sure && delivered > ear.said_before) e->was_answered = true;
    if (with_fin && e == ear.speaking && e->by_end && unsaid <= e->answer_bytes) {
        e->is_whole = true;
        e->ended_with = e->answer_bytes - unsaid;
    }
    ear.speaking = nullptr;
}

} // namespace simtest
