// upstream: blaming, choosing, resting, and another set of addresses.

#include "proto/upstream.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace weir::inline WEIR_KERNEL {

blame blame_of(int error) noexcept {
    if (is_shortage(error)) return blame::ours;
    switch (error) {
    case EADDRNOTAVAIL:
    case EADDRINUSE: return blame::path; // connect(2), bind(2): of the local port
    case EAGAIN: return blame::busy;     // connect(2) of unix(7)
    default: return blame::dead;
    }
}

const char* describe(int error) noexcept {
    return error == ended_unheard ? "closed without an answer" : std::strerror(error);
}

void upstream_set::add(std::span<const address> where, const xprt& transport) noexcept {
    EXPECT(size_ < capacity);
    upstreams_[size_].transport = &transport;
    replace(size_++, where);
}

void upstream_set::replace(std::size_t i, std::span<const address> where) noexcept {
    EXPECT(i < size_);
    EXPECT(!where.empty());
    upstream& u = upstreams_[i];
    for (upstream_address& a : u.places)
        a.is_listed = false;
    u.listed_count = 0;
    const auto is_at = [](const upstream_address& a, const address& wanted) {
        return a.of && a.where.family == wanted.family && a.where.at == wanted.at;
    };
    for (const address& wanted : where.first(std::min(where.size(), upstream::addresses_max))) {
        auto place = std::find_if(u.places.begin(), u.places.end(), [&](const auto& a) { return is_at(a, wanted); });
        if (place != u.places.end() && place->is_listed) continue; // said twice
        if (place == u.places.end()) {
            // A free place, of which nothing new needs to be kept: an address that stays may be any of those to come.
            place = std::find_if(u.places.begin(), u.places.end(), [&](const auto& a) {
                const bool stays = std::any_of(where.begin(), where.end(), [&](const auto& w) { return is_at(a, w); });
                return !a.is_listed && a.users_count == 0 && !a.key && !stays;
            });
            if (place == u.places.end()) continue;
            *place = upstream_address{.where = wanted, .of = &u};
        }
        place->is_listed = true;
        u.listed[u.listed_count++] = static_cast<std::uint8_t>(place - u.places.begin());
    }
}

upstream_set::candidates upstream_set::look(upstream& u, const attempts& made, time_point now) noexcept {
    candidates found;
    for (const std::uint8_t place : u.order()) {
        upstream_address& a = u.places[place];
        if (made.tried[index_of(a)]) continue;
        const bool may_be_asked = a.state == upstream_address::health::well || a.rests_until <= now;
        if (may_be_asked && !found.usable) found.usable = &a;
        if (!may_be_asked && (!found.resting || a.rests_until < found.resting->rests_until)) found.resting = &a;
    }
    return found;
}

upstream_address* upstream_set::choose(const attempts& made, time_point now) noexcept {
    upstream_address* best = made.last ? look(*made.last, made, now).usable : nullptr;
    upstream_address* resting = nullptr;
    for (std::size_t n = 0; n < size_ && !(best && best->of == made.last); n++) {
        upstream& u = upstreams_[(next_ + n) % size_];
        const auto [usable, rests] = look(u, made, now);
        if (usable && (!best || (how_ == balance::least && u.active_count < best->of->active_count))) best = usable;
        if (rests && (!resting || rests->rests_until < resting->rests_until)) resting = rests;
    }
    if (best && best->state != upstream_address::health::well) {
        best->state = upstream_address::health::on_trial;
        best->rests_until = now + best->rest;
    }
    upstream_address* chosen = best ? best : resting;
    if (chosen) next_ = (static_cast<std::size_t>(chosen->of - upstreams_.data()) + 1) % size_;
    return chosen;
}

bool upstream_set::has_other(const attempts& made, const upstream_address& but) const noexcept {
    for (std::size_t i = 0; i < size_; i++)
        for (const std::uint8_t place : upstreams_[i].order()) {
            const upstream_address& a = upstreams_[i].places[place];
            if (&a != &but && !made.tried[index_of(a)]) return true;
        }
    return false;
}

blame upstream_set::rule_out(attempts& made, upstream_address& a, int error, time_point now) noexcept {
    const blame whose = blame_of(error);
    if (whose == blame::ours) return whose;
    made.tried[index_of(a)] = true;
    made.last = a.of;
    made.error = error;
    if (whose == blame::dead) failed(a, now);
    return whose;
}

void upstream_set::failed(upstream_address& a, time_point now) noexcept {
    using enum upstream_address::health;
    if (a.state == resting && a.rests_until > now) return; // of the same burst, or asked while it rests
    // It was well for longer than rest_max, so the pause starts again at rest_min.
    if (a.state == well && now - a.rests_until > rest_max) a.rest = duration{};
    a.state = resting;
    a.rest = a.rest == duration{} ? rest_min : std::min(a.rest * 2, rest_max);
    a.rests_until = now + a.rest;
}

} // namespace weir::inline WEIR_KERNEL
