#pragma once
// upstream: the servers that a proxy forwards to, and which of them is asked next.
//
// Health is passive: a server that could not be connected to rests for a pause that doubles from 100 ms to 10 s, and
// the next one is asked at once. When the pause is over one asks it; the others wait for what becomes of that one, or
// until as much time has passed again: a server that swallows connects holds up one at a time. A single server never
// rests: it is tried again each time, so that it is back the moment it is back.
//
//     well ──failed()──> resting ──(the pause is over, choose())──> on trial ──connected()──> well
//                           ^                                          │
//                           └──────── failed(): twice the pause ───────┘
//
// Owner: the proxy. Thread: one loop's. Allocation: none.

#include <array>
#include <cstdint>

#include "core/idle.hpp"
#include "proto/address.hpp"

namespace weir::inline WEIR_KERNEL {

enum class balance : std::uint8_t { round_robin, least };

struct upstream {
    address where{};
    const xprt* transport = &raw_xprt;
    idle_pool::key key{};           // of its idle connections, for who keeps any
    std::uint32_t active_count = 0; // requests, or connections, under way
    time_point rests_until{};
    duration rest{};                // the present pause; 0: the last connect succeeded
    bool is_on_trial = false;
};

class upstream_set {
  public:
    static constexpr std::size_t capacity = 32;
    using mask = std::uint32_t; // one bit per upstream
    static constexpr duration rest_min = milliseconds{100};
    static constexpr duration rest_max = seconds{10};

    explicit upstream_set(balance how) noexcept : how_(how) {}

    // At most `capacity`: EXPECTed.
    void add(const address& where, const xprt& transport = raw_xprt, idle_pool::key key = {}) noexcept;
    std::size_t size() const noexcept { return size_; }
    upstream& at(std::size_t i) noexcept { return servers_[i]; }
    const upstream& at(std::size_t i) const noexcept { return servers_[i]; }

    // The one to ask, none of `tried`; resting ones, and those on trial, only if there is no other. Null: all were
    // tried.
    upstream* choose(mask tried, time_point now) noexcept;
    mask bit_of(const upstream& u) const noexcept { return mask{1} << (&u - servers_.data()); }

    void connected(upstream& u) noexcept {
        u.rest = duration{};
        u.is_on_trial = false;
    }
    void failed(upstream& u, time_point now) noexcept;

  private:
    balance how_;
    std::size_t size_ = 0;
    std::size_t next_ = 0; // round robin
    std::array<upstream, capacity> servers_{};
};

} // namespace weir::inline WEIR_KERNEL
