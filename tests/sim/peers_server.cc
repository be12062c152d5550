// peers: the state machine of servers.

#include <algorithm>

#include "sim/peers.hpp"

namespace simtest {

void server::run(remote& r) noexcept {
    if (misbehave(r)) return;
    if (!read(r)) return;
    if (home->tongue_ == town::tongue::http1) answer_http();
    else answer_all();
    say_late();
    if (parted) {
        part(r);
        return;
    }
    const bool goes = how == manner::aborting || how == manner::pipelining || how == manner::parting;
    if (!out.empty() && answered > 1 && goes && r.chance().below(3) == 0) {
        // has read the request, and goes without a word, or in the middle of one
        const std::size_t some = r.chance().magnitude(1, 256);
        if (r.chance().coin()) write_some(r, std::string_view{out}.substr(0, some));
        if (how == manner::parting) part(r);
        else if (how == manner::aborting) reset(r);
        else leave(r);
        return;
    }
    if (!write(r)) return;
    if (heard_all && out.empty()) {
        leave(r);
        return;
    }
    const bool idle = out.empty() && in.empty() && answered > 0 && !ear.tunnel && !ear.now;
    if (idle) idle_on(r);
}

// Nothing is asked of it.
void server::idle_on(remote& r) noexcept {
    dice& chance = r.chance();
    if (how == manner::half_closing && !finished) {
        fall_silent(r, true);
        finished = said.ended = true;
        r.shutdown_send();
    }
    if (how == manner::parting && chance.below(3) == 0) part(r);
    if (how == manner::pipelining && crosses_next(r)) return;
    if (how == manner::pipelining && chance.below(3) == 0) { // closes while idle, sooner or later
        leave(r);
        return;
    }
    if (how == manner::stray && chance.below(3) == 0 && !finished) {
        finished = true;
        if (write_some(r, parting_word()) > 0) strayed = r.now();
    }
    if (how == manner::pipelining || (how == manner::stray && !finished)) {
        const duration wait = chance.between(duration{milliseconds{1}}, duration{milliseconds{400}});
        r.wake_in(wait);
    }
}

// Closes so soon behind an answer that its end may cross the next request. False: it does not.
bool server::crosses_next(remote& r) noexcept {
    if (home->tongue_ != town::tongue::http1) return false;
    if (not_before == time_point{}) {
        if (r.chance().coin()) return false;
        const duration wait = r.chance().between(duration{1000}, 2 * r.socket().delay + duration{40'000});
        not_before = r.now() + wait;
        r.wake_in(wait);
    } else if (r.now() >= not_before) {
        leave(r);
    }
    return true;
}

// Its connection ends with a FIN, unless something is unread.
void server::leave(remote& r) noexcept {
    fall_silent(r, r.socket().in.empty());
    if (r.socket().in.empty()) said.ended = true;
    end = nullptr;
    r.close();
}

void server::reset(remote& r) noexcept {
    fall_silent(r, false);
    end = nullptr;
    r.reset();
}

// Ends its own side, reads on, and resets in the end.
void server::part(remote& r) noexcept {
    if (!parted) fall_silent(r, true);
    out.clear();
    if (!parted) {
        parted = said.ended = true;
        r.shutdown_send();
        const duration wait = r.chance().between(duration{100'000}, duration{milliseconds{40}});
        not_before = r.now() + wait;
        r.wake_in(wait);
    } else if (r.now() >= not_before) {
        reset(r);
    }
}

sys::count server::write_some(remote& r, std::string_view bytes) noexcept {
    const sys::count n = r.send(bytes);
    if (n > 0) said.bytes += static_cast<std::uint64_t>(n);
    spoke();
    return n;
}

// Does what it is known for. True: it is gone, or does nothing more now.
bool server::misbehave(remote& r) noexcept {
    dice& chance = r.chance();
    if (r.failed()) {
        end = nullptr;
        r.close();
        return true;
    }
    if (how == manner::hollow && (!home->calm_ || in_hollow_shop)) {
        end_unheard(r);
        return true;
    }
    // The troublemakers leave. In HTTP who stalls is the gateway's to end: it has a deadline for that.
    const bool stays = how == manner::sipping || (how == manner::stalling && home->tongue_ == town::tongue::http1);
    if (home->calm_ && how != manner::well_behaved && !stays) {
        reset(r);
        return true;
    }
    switch (how) {
    case manner::aborting:
        if (chance.below(8) != 0) return false;
        reset(r);
        return true;
    case manner::stalling: return answered > 0 || chance.below(4) == 0;
    case manner::never_reading: return true;
    case manner::sipping: return !home->may_sip(r, how, not_before);
    case manner::garbage:
        if (chance.below(3) == 0 && out.empty() && !ear.tunnel) out.append("\xde\xad\xbe\xef garbage");
        return false;
    case manner::slow:
        if (r.now() >= not_before) {
            const duration wait = chance.between(duration{milliseconds{1}}, duration{milliseconds{300}});
            not_before = r.now() + wait;
            r.wake_in(wait);
            return chance.coin();
        }
        return true;
    case manner::well_behaved:
    case manner::half_closing:
    case manner::pipelining:
    case manner::trickling:
    case manner::stray:
    case manner::parting:
    case manner::hollow:
    case manner::count_: return false;
    }
    return false;
}

// At once, or a little later; it may have read by then, and what it has read counts as seen.
void server::end_unheard(remote& r) noexcept {
    dice& chance = r.chance();
    if (not_before == time_point{}) {
        const duration wait = chance.coin() ? duration{1} : chance.between(duration{1000}, duration{milliseconds{30}});
        not_before = r.now() + wait;
        r.wake_in(wait);
    }
    if (chance.coin() && !read(r)) return;
    if (home->tongue_ == town::tongue::http1 && !ear.now && !in.empty()) hear_head();
    if (r.now() < not_before) return;
    const bool is_fin = chance.coin();
    if (is_fin && !to && r.socket().in.empty()) home->hollow_ends_said_++;
    if (is_fin) leave(r);
    else reset(r);
}

// False: it is gone.
bool server::read(remote& r) noexcept {
    char bytes[512];
    for (bool goes_on = true; goes_on;) {
        goes_on = how != manner::sipping;
        const sys::count n = r.recv({bytes, goes_on ? sizeof bytes : std::min(home->sip_bytes(), sizeof bytes)});
        if (n == -EAGAIN) return true;
        if (n > 0) {
            const std::string_view payload = hear_line({bytes, static_cast<std::size_t>(n)});
            in.append(payload);
            heard.bytes += payload.size();
            if (!knows_id && in.size() >= sizeof(frame)) know(front(in).id);
            continue;
        }
        if (n == 0) { // the end of the requests; not of the answers
            const bool is_news = !std::exchange(heard_all, true);
            if (!is_news || !r.socket().fin_received) return true; // a send has met a RST
            if (home->between_ == town::between::passes_on) home->check_end_at(*this);
            return true;
        }
        end = nullptr;
        r.close();
        return false;
    }
    return true;
}

void server::answer_all() noexcept {
    while (in.size() >= sizeof(frame)) {
        frame f = front(in);
        in.erase(0, sizeof f);
        if (f.magic != frame::request_magic || f.bytes > home->largest()) {
            home->k_.violate("I6", "a server got bytes that are no request");
            return;
        }
        check_strays();
        f.magic = frame::answer_magic;
        append(out, f);
        append_payload(out, f.id, f.bytes);
        answered++;
    }
    stray_on();
}

// In one breath with the answer.
void server::stray_on() noexcept {
    if (how != manner::stray || finished || heard_all || ear.tunnel || out.empty() || !in.empty()) return;
    if (home->k_.chance.below(4) != 0) return;
    strayed = end->now();
    out.append("HTTP/1.1 408");
}

// Long after that the connection was idle, it may have been given to nobody. A jump of the clock makes no long.
void server::check_strays() noexcept {
    const bool jumps = home->k_.faults.ratio(fault::clock_jump) > 0;
    if (strayed == time_point{}) return;
    if (home->rules_.drains_unasked) saw(mark::used_after_strays);
    else if (end->now() > strayed + seconds{1} && !jumps && how != manner::sipping) // it reads what came long ago
        home->k_.violate("I16", "a connection was used again after bytes that nobody had asked for");
}

// False: it is gone.
bool server::write(remote& r) noexcept {
    while (!out.empty()) {
        const std::size_t some = mouthful(how, out, r.chance());
        const sys::count n = write_some(r, std::string_view{out}.substr(0, some));
        if (n == -EAGAIN) return true;
        if (n < 0) {
            end = nullptr;
            r.close();
            return false;
        }
        out.erase(0, static_cast<std::size_t>(n));
        if (how == manner::trickling && !out.empty()) {
            r.wake_in(duration{milliseconds{1}});
            return true;
        }
    }
    return true;
}

} // namespace simtest
