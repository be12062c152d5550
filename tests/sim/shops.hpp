#pragma once
// shops: the servers behind a proxy, each at an address of its own; some upstreams are names with several of them, which
// move now and then.
//
// Owner: a harness; the kernel outlives it. Thread: the harness's.

#include <algorithm>
#include <string>
#include <vector>

#include "proto/address.hpp"
#include "proto/unix.hpp"
#include "proto/upstream.hpp"
#include "sim/peers.hpp"

namespace simtest {

class shops {
  public:
    static constexpr std::uint32_t shops_max = 4;

    // Some at a port from which a connect may also come: there it may meet itself.
    explicit shops(world& w) : world_(w) {
        port_ = w.k.chance.coin() ? std::uint16_t{80} : w.k.options().network.port_first;
    }

    // One more server of that family, in a name with the one before or an upstream of its own.
    void add(const ctrl& family) {
        static constexpr const char* paths[shops_max] = {"@a", "@b", "@c", "@d"};
        const auto i = static_cast<std::uint32_t>(all_.size());
        if (&family == &tcp) all_.push_back({.family = &tcp, .at = endpoint::ipv4(0x0a000101 + i, port_)});
        else all_.push_back({.family = &unix_stream, .at = endpoint::unix_path(paths[i]).value()});
        const bool joins = !groups_.empty() && &family == &tcp && groups_.back().front().family == &tcp && world_.k.chance.coin();
        if (!joins) groups_.emplace_back();
        groups_.back().push_back(all_.back());
    }

    const std::vector<address>& all() const noexcept { return all_; }
    std::size_t upstreams_count() const noexcept { return groups_.size(); }

    // Where upstream `i` is now, as its name says.
    std::vector<address> look_up(std::size_t i) const {
        const std::vector<address>& group = groups_[i];
        if (group.size() == 1) return group;
        address found[shops_max];
        const auto count = parse_addresses(name_of(i) + ":" + std::to_string(port_), found);
        if (!count) world_.k.violate("I23", "a name that has addresses has none");
        return {found, found + count.value()};
    }
    // All names have all their addresses.
    void settle() {
        for (std::size_t i = 0; i < groups_.size(); i++)
            say(i, groups_[i]);
    }
    // One name has some of its addresses, in any order. Its number, or that of an upstream that is no name.
    std::size_t move_one() {
        dice& chance = world_.k.chance;
        const std::size_t i = chance.below(static_cast<std::uint32_t>(groups_.size()));
        std::vector<address> some = groups_[i];
        if (some.size() == 1) return i;
        for (std::size_t n = some.size(); n > 1; n--)
            std::swap(some[n - 1], some[chance.below(static_cast<std::uint32_t>(n))]);
        some.resize(chance.between(1, static_cast<std::uint32_t>(some.size())));
        say(i, some);
        saw(mark::name_moved);
        return i;
    }

    // After each turn, as long as no name moves: a server that says nothing is not taken for well once it has failed.
    void check_records(const upstream_set& set, const town& people) {
        std::vector<endpoint> failed;
        for (std::size_t i = 0; i < set.size(); i++)
            for (const std::uint8_t place : set.at(i).order()) {
                const upstream_address& a = set.at(i).places[place];
                const bool is_mute = people.is_mute(a.where.at);
                if (is_mute && a.rest > duration{}) failed.push_back(a.where.at);
                const bool had_failed = std::find(failed_.begin(), failed_.end(), a.where.at) != failed_.end();
                if (is_mute && had_failed && a.rest == duration{})
                    world_.k.violate("I23", "a server that has not said a byte counts as well");
            }
        failed_ = failed;
    }

  private:
    static std::string name_of(std::size_t i) { return "name" + std::to_string(i); }
    void say(std::size_t i, const std::vector<address>& group) {
        std::vector<endpoint> at;
        for (const address& a : group)
            at.push_back(a.at);
        world_.k.net.name(name_of(i), at);
    }

    world& world_;
    std::uint16_t port_;
    std::vector<address> all_;
    std::vector<std::vector<address>> groups_; // by upstream
    std::vector<endpoint> failed_;             // and mute, as of the turn before
};

} // namespace simtest
