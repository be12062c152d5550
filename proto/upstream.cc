// upstream: choosing, resting.

#include "proto/upstream.hpp"

#include <algorithm>

namespace weir::inline WEIR_KERNEL {

void upstream_set::add(const address& where, const xprt& transport, idle_pool::key key) noexcept {
    EXPECT(size_ < capacity);
    servers_[size_].where = where;
    servers_[size_].transport = &transport;
    servers_[size_].key = key;
    size_++;
}

upstream* upstream_set::choose(mask tried, time_point now) noexcept {
    upstream* best = nullptr;
    upstream* resting = nullptr;
    for (std::size_t n = 0; n < size_; n++) {
        upstream& u = servers_[(next_ + n) % size_];
        if (tried & bit_of(u)) continue;
        if (u.rests_until > now && u.rest > duration{}) {
            if (!resting || u.rests_until < resting->rests_until) resting = &u;
            continue;
        }
        if (!best || (how_ == balance::least && u.active_count < best->active_count)) best = &u;
    }
    if (best && best->rest > duration{}) {
        best->is_on_trial = true;
        best->rests_until = now + best->rest;
    }
    upstream* chosen = best ? best : resting;
    if (chosen) next_ = (static_cast<std::size_t>(chosen - servers_.data()) + 1) % size_;
    return chosen;
}

void upstream_set::failed(upstream& u, time_point now) noexcept {
    const bool is_resting = u.rest > duration{} && u.rests_until > now;
    if (is_resting && !u.is_on_trial) return; // of the same burst, or asked while it rests
    u.is_on_trial = false;
    u.rest = u.rest == duration{} ? rest_min : std::min(u.rest * 2, rest_max);
    u.rests_until = now + u.rest;
}

} // namespace weir::inline WEIR_KERNEL
