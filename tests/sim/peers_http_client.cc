// peers: clients that speak HTTP/1.x: how they ask, and what they may be told.

#include <algorithm>
#include <cstdlib>

#include "sim/peers.hpp"

namespace simtest {

// ---- asking

// Numbers for what it is going to ask, and what kind of client it is.
void town::prepare_errands(client& c) noexcept {
    for (std::uint32_t i = 0; i < c.asks; i++) {
        errands_.emplace_back();
        errands_.back().id = c.first_id + i;
    }
    c.voice.is_admin = !c.must_succeed && rules_.admin.specified() && k_.chance.below(12) == 0;
    c.dress_http();
}

void client::dress_http() noexcept {
    dice& chance = home->k_.chance;
    if (must_succeed) return;
    if (voice.is_admin) {
        how = manner::well_behaved;
        saw(mark::admin_asked);
    } else if (how == manner::trickling) {
        voice.drips = chance.coin();
    } else if (how == manner::well_behaved) {
        voice.lingers = chance.below(4) == 0;
    }
}

void client::ask_http() noexcept {
    dice& chance = home->k_.chance;
    errand& e = *home->errand_of(first_id + asked);
    e.asked_at = home->k_.time.now;
    if (voice.is_admin) {
        static constexpr std::string_view pages[] = {"GET /counters", "HEAD /counters", "GET /else", "PUT /counters"};
        static constexpr int statuses[] = {200, 200, 404, 405};
        const std::uint32_t which = chance.below(4);
        e.method = which == 1 ? "HEAD" : "GET";
        e.refusal = statuses[which];
        out.append(pages[which]).append(" HTTP/1.1\r\nHost: admin\r\n\r\n");
        return;
    }
    if (how == manner::garbage && chance.coin()) {
        out += bad_head(home->rules_.options.head, chance, e.refusal);
        return;
    }
    draw_errand(e);
    http1_limits limits = home->rules_.options.head;
    if (voice.said_lines) limits.head_bytes_max -= 4; // of a head they are a part
    if (chance.below(8) == 0 && !voice.said_lines) {
        limits.head_bytes_max -= 4;
        out += "\r\n";
    }
    voice.said_lines = false;
    const bool pads =
        limits.head_bytes_max <= 20 * home->k_.options().network.buffer_bytes_max && how != manner::trickling;
    const std::string head = head_of(e, limits, pads, chance);
    e.head_bytes = static_cast<std::uint32_t>(head.size());
    out += head;
    say_body(e);
    if (e.upgrades && how != manner::half_closing && !voice.lingers && chance.coin()) {
        out += payload(tunnel_id(e, false), e.body_bytes); // before there is one
        e.client_said = e.body_bytes;
        if (e.body_bytes > 0) saw(mark::tunnel_bytes_early);
    }
    if (how != manner::stalling || e.upgrades || chance.coin()) return;
    out.resize(chance.below(static_cast<std::uint32_t>(out.size())) + 1);
    voice.held.clear();
}

void client::draw_errand(errand& e) noexcept {
    dice& chance = home->k_.chance;
    const bool is_last = asked + 1 == asks;
    static constexpr const char* methods[] = {"GET", "GET",    "HEAD",    "POST",  "POST",
                                              "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"};
    e.method = methods[chance.below(std::size(methods))];
    e.answer_bytes = home->draw_bytes();
    e.is_old = chance.below(8) == 0;
    if (e.is_old) saw(mark::client_of_1_0);
    e.names_host = !e.is_old || chance.coin();
    const bool may_close = is_last || (!must_succeed && chance.below(8) == 0);
    e.keeps = !may_close || chance.below(4) != 0;
    if (!e.keeps) saw(mark::client_says_close);
    if (is_last && !e.is_old && chance.below(6) == 0) {
        e.upgrades = true;
        e.keeps = true;
        e.method = "GET";
        e.body_bytes = chance.below(400); // in the tunnel
        return;
    }
    const bool has_body = e.method[0] == 'P' || chance.below(8) == 0;
    if (!has_body) return;
    e.body_bytes = home->draw_bytes();
    e.form = !e.is_old && chance.coin() ? body_form::chunked : body_form::length;
    if (e.form == body_form::chunked) saw(mark::request_in_chunks);
    const bool all_at_once = how == manner::pipelining || how == manner::half_closing || how == manner::never_reading;
    e.expects = !e.is_old && !all_at_once && chance.below(4) == 0;
    e.is_broken = !must_succeed && e.form == body_form::chunked && chance.below(16) == 0;
    if (e.is_broken) e.refusal = 400;
}

void client::say_body(const errand& e) noexcept {
    dice& chance = home->k_.chance;
    if (e.form == body_form::none) return;
    std::string body = payload(e.id, e.body_bytes);
    if (e.form == body_form::chunked) body = in_chunks(body, chance);
    if (e.is_broken) {
        body = "5\r\n" + payload(e.id, 5) + "nonsense";
        saw(mark::request_broken);
    }
    if (chance.below(8) == 0) {
        body += "\r\n"; // as old clients did
        voice.said_lines = true;
        saw(mark::line_behind_a_body);
    }
    if (!e.expects) {
        out += body;
        return;
    }
    voice.held = std::move(body);
    const duration wait = chance.between(duration{milliseconds{1}}, duration{milliseconds{500}});
    voice.held_until = home->k_.time.now + wait;
    end->wake_in(wait);
}

// A body that has waited for 100 long enough, or in vain.
void client::say_held() noexcept {
    if (voice.held.empty() || home->k_.time.now < voice.held_until) return;
    out += voice.held;
    voice.held.clear();
}

// ---- being told

// Takes the answers that are complete off what came. False: it is gone.
bool client::digest_http(remote& r) noexcept {
    kernel& k = home->k_;
    for (;;) {
        if (voice.tunnel) return hear_tunnel(r);
        if (in.empty()) return true;
        if (answered == asked && voice.hears_no_more) {
            in.clear();
            return true;
        }
        if (answered == asked) {
            k.violate("I15", "a client was told something that it has not asked for");
            return false;
        }
        const std::size_t end_of_head = in.find("\r\n\r\n");
        if (end_of_head == in.npos) return true;
        const std::string head = in.substr(0, end_of_head + 2);
        if (!head.starts_with("HTTP/1.1 ")) k.violate("I6", "a client got bytes that are no answer");
        errand& e = *home->errand_of(first_id + answered);
        const int status = std::atoi(head.c_str() + 9);
        if (field_text(head, "x-hop").data() || field_text(head, "keep-alive").data())
            k.violate("I6", "a field was passed on to a client that is not for it");
        if (status < 200) {
            in.erase(0, end_of_head + 4);
            hear_hint(e, status, head);
            continue;
        }
        std::size_t end_of_all = end_of_head + 4;
        std::string body;
        if (!take_body(e, status, head, end_of_all, body)) return true;
        judge(e, status, head, body);
        in.erase(0, end_of_all);
        if (!close_or_go_on(r, e, head)) return false;
    }
}

void client::hear_hint(errand& e, int status, std::string_view head) noexcept {
    kernel& k = home->k_;
    if (e.is_old) k.violate("I6", "a client of HTTP/1.0 got a 1xx");
    if (status == 101) {
        if (e.status != 101 || field_number(head, "x-id", 0) != e.id)
            k.violate("I6", "a client was told of a tunnel that no server has begun");
        voice.tunnel = &e;
        if (e.client_said > 0 || end->socket().send_shut) return;
        e.client_said = e.body_bytes;
        out += payload(tunnel_id(e, false), e.body_bytes);
        end->wake_in(duration{1000});
        return;
    }
    const bool is_hint = (status == 100 || status == 103) && field_text(head, "x-hint") == "1";
    if (!is_hint || ++voice.hints > e.hints_said) k.violate("I6", "a client got a 1xx that no server has said");
    const auto ms = static_cast<std::uint64_t>((k.time.now - e.asked_at) / milliseconds{1});
    if (voice.hints > 64 + ms * 32 / 1000 + 1) k.violate("I8", "a client got more 1xx than may come in that time");
    voice.held_until = {};
    end->wake_in(duration{1000});
}

// The body at the front of what came. False: it is not complete.
bool client::take_body(const errand& e, int status, std::string_view head, std::size_t& at,
                       std::string& body) noexcept {
    kernel& k = home->k_;
    const std::string_view rest = std::string_view{in}.substr(at);
    const std::uint32_t length = field_number(head, "content-length", failed_bytes);
    const bool is_chunked = field_text(head, "transfer-encoding").data() != nullptr;
    const bool is_head = std::string_view{e.method} == "HEAD";
    // Told so by a gateway that has not read all of the head, and need not know the method: it has said close.
    if (is_head && e.arrivals == 0 && (status == 408 || status == 503)) voice.hears_no_more = true;
    if (is_chunked && e.is_old) k.violate("I6", "a client of HTTP/1.0 got chunks");
    if (is_head || status == 204 || status == 304) return true;
    if (is_chunked) {
        const std::size_t bytes = unchunk(rest, body);
        at += bytes;
        return bytes != rest.npos;
    }
    if (length != failed_bytes) {
        if (rest.size() < length) return false;
        body = rest.substr(0, length);
        at += length;
        return true;
    }
    if (!e.is_old) k.violate("I6", "a client of HTTP/1.1 got a body without a length");
    const bool is_over = end->socket().end_read && (end->socket().fin_received || home->has_unix());
    if (!is_over) return false;
    body = rest;
    at += rest.size();
    return true;
}

// Is that what a server has said to this errand, or may the gateway say it itself?
void client::judge(const errand& e, int status, std::string_view head, std::string_view body) noexcept {
    kernel& k = home->k_;
    const std::uint32_t id = field_number(head, "x-id", 0);
    voice.answers_count++;
    if (voice.answers_count > home->rules_.options.keep_alive_requests && !voice.is_admin)
        k.violate("I18", "a connection carried more requests than it may");
    if (id == 0) {
        const bool is_stray = status == 408 && field_text(head, "x-stray") == "1"; // it crossed the request
        if (!is_stray || must_succeed) judge_own(e, status);
        return;
    }
    if (id != e.id) k.violate("I15", "a client got the answer to another request");
    if (status != e.status) k.violate("I6", "a client got another status than a server has said");
    if (!e.is_old && e.arrivals == 1 && voice.hints != e.hints_said) k.violate("I6", "a 1xx was lost on its way");
    const bool has_body = std::string_view{e.method} != "HEAD" && status != 204 && status != 304;
    if (!is_payload(body, e.id)) k.violate("I6", "a client got a byte that is not its own");
    const bool is_all = body.size() == (e.by_end ? e.ended_with : e.answer_bytes) || !has_body;
    if (!home->has_unix() && !(e.is_whole && is_all))
        k.violate("I7", "a client got an answer as whole that was cut off");
    if (!has_body && status != 204) {
        const std::uint32_t length = field_number(head, "content-length", failed_bytes);
        if (length != failed_bytes && length != e.answer_bytes) k.violate("I6", "a length is not as it was said");
    }
    saw(mark::answer_whole);
}

void client::judge_own(const errand& e, int status) noexcept {
    kernel& k = home->k_;
    saw(mark::answer_error);
    // Some server only accepts and ends: what may not be repeated may fail there.
    const bool is_held = e.form == body_form::none || e.head_bytes + 2 * e.body_bytes < block_bytes / 2;
    const bool may_fail =
        home->has_hollow() && (!is_held || !e.may_repeat() || home->rules_.options.repeats == repeat::off);
    if (must_succeed && !may_fail) k.violate("I10", "a healthy client was told that it cannot be answered");
    if (status == 408) {
        const http1_options& o = home->rules_.options;
        const duration patience = std::min(o.header_timeout, o.body_timeout);
        if (k.time.now < e.asked_at + patience) k.violate("I9", "a client was told that it is late, and is not");
        saw(mark::client_late);
        return;
    }
    if (status == 502 || status == 503 || status == 504) return;
    if (status != e.refusal) k.violate("I9", "a good request was refused");
    else if (!voice.is_admin) saw(mark::refused_as_due);
}

// Behind an answer. False: it is gone.
bool client::close_or_go_on(remote& r, const errand& e, std::string_view head) noexcept {
    kernel& k = home->k_;
    voice.hints = 0;
    voice.told_close = field_text(head, "connection") == "close";
    const bool is_early = !voice.held.empty() || !out.empty() || e.is_early; // the rest of its body has no reader
    if (!e.keeps && !e.is_old && !voice.told_close) k.violate("I6", "a connection is to stay that was to close");
    voice.told_close |= is_early; // that it closes then is not said
    const bool stays = !voice.told_close && !is_early && e.keeps && e.refusal < 400;
    if (!stays && answered + 1 < asks) {
        answered++;
        leave(r);
        return false;
    }
    return answered_one(r);
}

// Bytes of its tunnel. False: it is gone.
bool client::hear_tunnel(remote& r) noexcept {
    kernel& k = home->k_;
    errand& e = *voice.tunnel;
    if (!is_payload(in, tunnel_id(e, true), voice.heard)) k.violate("I6", "a tunnel has altered a byte");
    voice.heard += static_cast<std::uint32_t>(in.size());
    in.clear();
    if (voice.heard > e.answer_bytes) k.violate("I6", "a tunnel has a byte too many");
    if (voice.heard < e.answer_bytes || !out.empty()) return true;
    saw(mark::tunnel_whole);
    answered++;
    leave(r);
    return false;
}

// Its side ends. What of its tunnel was said by then?
void client::end_tunnel() noexcept {
    if (home->tongue_ != town::tongue::http1 || asked != asks) return;
    errand& e = *home->errand_of(first_id + asks - 1);
    if (!e.upgrades || e.client_ended) return;
    e.client_ended = true;
    e.client_said -= std::min(e.client_said, static_cast<std::uint32_t>(out.size()));
}

// The end has come. Is it one that may come?
void client::judge_end(remote& r) noexcept {
    kernel& k = home->k_;
    const bool is_fin = r.socket().fin_received && !r.failed();
    if (!is_fin || home->has_unix()) return;
    if (errand* e = voice.tunnel) {
        if (!e->server_ended) k.violate("I7", "an end was heard through a tunnel that nobody had said");
        if (voice.heard != e->server_said) k.violate("I7", "an end was heard through a tunnel before the last byte");
        return;
    }
    if (!voice.lingers || answered < asks || voice.told_close || voice.said_lines) return;
    saw(mark::idle_client_closed);
    const duration patience = home->rules_.options.keep_alive_timeout;
    const time_point asked_at = home->errand_of(first_id + asks - 1)->asked_at; // it waits since later than that
    if (!home->rules_.may_leave_early && k.time.now < asked_at + patience)
        home->early_ends_++; // judged behind the turn: only then it is known why
}

void town::judge_early_ends() noexcept {
    if (early_ends_ > 0 && !rules_.may_leave_early) k_.violate("I9", "a client that waits was closed before its time");
    early_ends_ = 0;
}

} // namespace simtest
