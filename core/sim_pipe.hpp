#pragma once
// sim_pipe: a pipe of the simulated kernel, as splice(2) sees it.
//
// A pipe holds slots, not bytes: what is spliced in takes a slot for each piece that the socket has it in, however
// small, so a pipe of 64 KB may be full with 16 bytes in it.
// Each end is a description of its own; what they share is freed with the second one.

#include <deque>

#include "core/sim_stream.hpp"

namespace weir::inline WEIR_KERNEL {

struct pipe_slots {
    static constexpr std::size_t slot_bytes = 4096;

    std::size_t slots_max = 16;
    std::deque<std::size_t> slots; // bytes in each, the oldest first
    byte_queue bytes;
    int ends = 2; // alive

    std::size_t slots_free() const noexcept { return slots_max - slots.size(); }
    // `n` bytes as one piece. There is a slot, and n <= slot_bytes.
    void push(const char* from, std::size_t n) noexcept {
        bytes.push(from, n);
        slots.push_back(n);
    }
    void pop(std::size_t n) noexcept {
        bytes.pop(n);
        while (n > 0) {
            const std::size_t of_first = n < slots.front() ? n : slots.front();
            slots.front() -= of_first;
            n -= of_first;
            if (slots.front() == 0) slots.pop_front();
        }
    }
};

struct pipe_end final : file {
    pipe_end(pipe_slots& s, bool w) noexcept : file(kind::pipe), shared(s), writes(w) {}
    ~pipe_end() override {
        if (--shared.ends == 0) delete &shared;
    }
    std::uint32_t poll() noexcept override {
        const bool alone = shared.ends < 2;
        if (writes) return (shared.slots_free() > 0 ? EPOLLOUT : 0u) | (alone ? EPOLLERR : 0u);
        return (shared.bytes.empty() ? 0u : EPOLLIN) | (alone ? EPOLLHUP : 0u);
    }

    pipe_slots& shared;
    bool writes;
};

} // namespace weir::inline WEIR_KERNEL
