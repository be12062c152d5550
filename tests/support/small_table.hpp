#pragma once
// small_table: an fdtab of a few numbers, and reports as a poller would make them.

#include <cstdint>

#include <doctest/doctest.h>

#include "core/fdtab.hpp"
#include "support/actors.hpp"

namespace support {

using namespace weir;

// A table of 64 numbers; no descriptor stands behind them.
struct small_table : fdtab {
    small_table() { REQUIRE(open(64).ok()); }
    ~small_table() {
        for (int fd = 0; fd < 64; fd++)
            if (slot(fd).handler) release(slot(fd));
    }

    fd_slot& add(int fd, actor& who) {
        auto added = insert(fd, actor::run, &who);
        REQUIRE(added.ok());
        return *added.value();
    }
    void say(fd_slot& slot, std::uint32_t events) { report(data_of(slot), events); }
};

} // namespace support
