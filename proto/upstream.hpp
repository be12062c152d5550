#pragma once
// upstream: the servers that a proxy forwards to, which of them is asked next, and what a failed attempt says.
//
// An upstream is one entry of load balancing. It has one address, or all addresses of a name; each of them is an attempt
// of its own, with a health of its own. Within an upstream the first healthy address in the given order is asked.
//
// Health is passive: an address that failed rests for a pause that doubles from 100 ms to 10 s, and the next one is
// asked at once. When the pause is over one client asks the address; the others wait for the outcome, or until as much
// time has passed again: a server that swallows connects holds up one client at a time. A single address never rests:
// it is asked each time.
//
//     well ──failed()──> resting ──(the pause is over, choose())──> on trial ──answered() or connected()──> well
//                           ^                                          │
//                           └──────── failed(): twice the pause ───────┘
//
// A connect proves nothing: docker's proxy, socket activation and a crashed worker behind an open port accept and close.
// So answered(), a server's first byte, ends the record of its failures, and connected() does not. The HTTP gateway has
// a trial decided by answered() alone. The L4 proxy also calls connected(), since some protocols let a server say
// nothing.
//
// Owner: the proxy. Thread: one loop's. Allocation: none.

#include <array>
#include <bitset>
#include <cstdint>
#include <span>

#include "core/idle.hpp"
#include "proto/address.hpp"

namespace weir::inline WEIR_KERNEL {

enum class balance : std::uint8_t { round_robin, least };

// Which side an attempt that failed speaks of.
enum class blame : std::uint8_t {
    ours, // this process or machine is short of something: no other server helps
    path, // only the way to this address is: no local port is left to it. Others are asked, and this one does not rest
    busy, // the server's queue is full: the same
    dead, // refused, unreachable, too late, ended without a byte: others are asked, and this one rests
};
// `error`: an errno, or ended_unheard.
blame blame_of(int error) noexcept;

// Stands for an errno where there is none: the server accepted, and ended its side before its first byte.
inline constexpr int ended_unheard = -1;
const char* describe(int error) noexcept; // for people

struct upstream;

struct upstream_address {
    enum class health : std::uint8_t { well, resting, on_trial };

    address where{};
    upstream* of = nullptr;
    idle_pool::key key{}; // of its idle connections, for a user that keeps any
    time_point rests_until{};
    duration rest{};               // the pause that the latest failure made; 0: none since it answered
    std::uint32_t users_count = 0; // those who hold it: hold(), let_go()
    health state = health::well;
    bool is_listed = false; // false: it is gone from its upstream, or was never there
};

struct upstream {
    // More addresses of a name are ignored.
    static constexpr std::size_t addresses_max = 8;
    // An address that is gone keeps its place as long as it is held.
    static constexpr std::size_t places_max = 2 * addresses_max;

    std::span<const std::uint8_t> order() const noexcept { return {listed.data(), listed_count}; }
    const address& first() const noexcept { return places[listed[0]].where; }

    const xprt* transport = &raw_xprt;
    std::uint32_t active_count = 0; // requests, or connections, under way
    std::uint8_t listed_count = 0;
    std::array<std::uint8_t, addresses_max> listed{}; // indices of `places`, in the order in which they are asked
    std::array<upstream_address, places_max> places{};
};

class upstream_set {
  public:
    static constexpr std::size_t capacity = 32;
    static constexpr std::size_t places_max = capacity * upstream::places_max;
    static constexpr duration rest_min = milliseconds{100};
    static constexpr duration rest_max = seconds{10};

    // What was tried for one client or request.
    struct attempts {
        std::bitset<places_max> tried;
        upstream* last = nullptr; // of the latest attempt that failed
        int error = 0;            // of that: an errno, ended_unheard; 0: none has failed since it was last cleared
    };

    explicit upstream_set(balance how) noexcept : how_(how) {}

    // At most `capacity`: EXPECTed. `where` has at least one address, EXPECTed; those beyond addresses_max are ignored.
    void add(std::span<const address> where, const xprt& transport = raw_xprt) noexcept;
    void add(const address& where, const xprt& transport = raw_xprt) noexcept { add({&where, 1}, transport); }
    // From now on upstream `i` is at `where`, at least one address. An address that stays keeps its health. One that is
    // gone is asked no more, and its place is free once it is held no more; if no place is free, a new one is ignored.
    void replace(std::size_t i, std::span<const address> where) noexcept;
    std::size_t size() const noexcept { return size_; }
    upstream& at(std::size_t i) noexcept { return upstreams_[i]; }
    const upstream& at(std::size_t i) const noexcept { return upstreams_[i]; }

    // The address to ask, none that was tried: the next one of the upstream that was tried last, or else one of another
    // upstream. One that rests, or is on trial, only if there is no other. Null: all were tried.
    upstream_address* choose(const attempts& made, time_point now) noexcept;
    // Whether choose() would find another address than `but`.
    bool has_other(const attempts& made, const upstream_address& but) const noexcept;

    // An attempt has failed. `ours`: nothing is noted, and the caller gives up. Otherwise the address counts as tried,
    // and rests if it is to blame: choose() again.
    blame rule_out(attempts& made, upstream_address& a, int error, time_point now) noexcept;

    void connected(upstream_address& a) noexcept { a.state = upstream_address::health::well; }
    void answered(upstream_address& a) noexcept {
        a.rest = duration{};
        a.state = upstream_address::health::well;
    }
    void failed(upstream_address& a, time_point now) noexcept;

    // Whoever keeps a pointer to an address beyond the present callback holds it.
    void hold(upstream_address& a) noexcept { a.users_count++; }
    void let_go(upstream_address& a) noexcept { a.users_count--; }

  private:
    std::size_t index_of(const upstream_address& a) const noexcept {
        return static_cast<std::size_t>(a.of - upstreams_.data()) * upstream::places_max +
               static_cast<std::size_t>(&a - a.of->places.data());
    }
    // Of `u`, and not tried: the first one that may be asked, and that whose pause is over first.
    struct candidates {
        upstream_address* usable = nullptr;
        upstream_address* resting = nullptr;
    };
    candidates look(upstream& u, const attempts& made, time_point now) noexcept;

    balance how_;
    std::size_t size_ = 0;
    std::size_t next_ = 0; // round robin
    std::array<upstream, capacity> upstreams_{};
};

} // namespace weir::inline WEIR_KERNEL
