#pragma once
// pipes: pipes for splice(2), lent to whoever has bytes in one.
//
// A pipe that comes back empty is kept open for the next; one that still holds bytes is closed, so what is lent is
// always empty. They are opened when first needed. A dial that runs short of descriptors closes a free one, which gives
// two back; when no pipe can be opened, nobody is told and nobody tries again for a second: bytes are copied meanwhile.
//
// Owner: a relay_pool. Thread: one loop's. Allocation: when made.
// Its conntab asks it in a shortage: on_shortage() has a limit.

#include <cstdint>

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

struct pipe_lease {
    int read_fd = -1, write_fd = -1;
    std::uint32_t held_bytes = 0; // counted by whoever has it
    list_hook hook;               // among the free ones
};

struct pipe_options {
    std::uint32_t pipes_max = 64;          // open at once
    std::uint32_t pipe_bytes = 256 * 1024; // asked for; the kernel may give the default of 64 KB instead, pipe(7)
};

class pipe_pool {
  public:
    pipe_pool(conntab& conns, const pipe_options& options) noexcept;
    pipe_pool(const pipe_pool&) = delete;
    pipe_pool& operator=(const pipe_pool&) = delete;
    ~pipe_pool(); // everything has come back

    // An empty one. Null: pipes_max are lent, or no descriptors are to be had.
    pipe_lease* take() noexcept;
    void give_back(pipe_lease& p) noexcept;

    std::uint32_t bytes() const noexcept { return room_bytes_; } // what one splice is asked to move
    std::size_t open_count() const noexcept { return leases_.used(); }
    std::size_t lent_count() const noexcept { return lent_count_; }
    std::uint64_t opened_count() const noexcept { return opened_count_; }
    std::uint64_t failed_count() const noexcept { return failed_count_; } // pipe2() calls

  private:
    pipe_lease* open() noexcept;
    void close(pipe_lease& p) noexcept;
    bool close_a_free_one() noexcept;

    conntab& conns_;
    fixed_pool<pipe_lease> leases_;
    list<&pipe_lease::hook> free_; // the one used last in front
    std::uint32_t wanted_bytes_, room_bytes_;
    time_point rests_until_{};
    std::size_t lent_count_ = 0;
    std::uint64_t opened_count_ = 0, failed_count_ = 0;
};

} // namespace weir::inline WEIR_KERNEL
