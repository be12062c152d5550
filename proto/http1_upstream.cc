// http1_upstream: choosing, resting.

#include "proto/http1_upstream.hpp"

#include <algorithm>

namespace weir::inline WEIR_KERNEL {

void http1_upstreams::add(const address& where, idle_pool& pool, const xprt& transport) noexcept {
    EXPECT(size_ < capacity);
    servers_[size_].where = where;
    servers_[size_].transport = &transport;
    servers_[size_].key = pool.key_of({.remote = where.at, .family = where.family, .transport = &transport});
    size_++;
}

http1_upstream* http1_upstreams::choose(mask tried, time_point now) noexcept {
    http1_upstream* best = nullptr;
    http1_upstream* resting = nullptr;
    for (std::size_t n = 0; n < size_; n++) {
        http1_upstream& u = servers_[(next_ + n) % size_];
        if (tried & bit_of(u)) continue;
        if (u.rests_until > now && u.rest > duration{}) {
            if (!resting || u.rests_until < resting->rests_until) resting = &u;
            continue;
        }
        if (!best || (how_ == balance::least && u.active_count < best->active_count)) best = &u;
    }
    http1_upstream* chosen = best ? best : resting;
    if (chosen) next_ = (static_cast<std::size_t>(chosen - servers_.data()) + 1) % size_;
    return chosen;
}

void http1_upstreams::failed(http1_upstream& u, time_point now) noexcept {
    u.failed_count++;
    if (u.rest > duration{} && u.rests_until > now) return; // of the same burst, or asked while it rests
    u.rest = u.rest == duration{} ? rest_min : std::min(u.rest * 2, rest_max);
    u.rests_until = now + u.rest;
}

} // namespace weir::inline WEIR_KERNEL
