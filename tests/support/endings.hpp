#pragma once
// endings: how tests about the end of a connection look and wait.

#include <array>
#include <chrono>

#include <sched.h>

#include "core/sys.hpp"
#include "support/net.hpp"

namespace support {

// Looks until `fact` holds.
template <class Fact>
bool comes_true(Fact fact) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (!fact()) {
        if (std::chrono::steady_clock::now() > deadline) return false;
        sched_yield();
    }
    return true;
}

// Without waiting; -errno if there is nothing.
inline weir::sys::count recv_some(int fd) {
    std::array<char, 65536> room;
    return weir::sys::recv(fd, room.data(), room.size());
}

} // namespace support
