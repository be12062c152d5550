#pragma once
// mailbox: the one door through which other threads reach a loop.
//
// Any thread posts a letter; the loop runs it, once, in its own thread. Letters are intrusive: posting allocates
// nothing and never waits. The eventfd is rung only if the loop sleeps and nobody has rung yet; a busy loop costs
// its producers no system call. The eventfd is registered edge-triggered and never read: every write is an edge,
// eventfd(2), and the counter needs 2^64 of them to fill up.
//
// Order in memory. A producer pushes the letter, then looks whether the loop sleeps; the loop says that it sleeps, then
// looks for letters. All four are seq_cst, so in their single order one of the two looks comes last and sees the
// other's store: either the producer rings or the loop stays awake. A look that finds `rung` finds a loop that another
// producer has woken since it last said that it sleeps, or is about to; it empties the stack before it may say so
// again. awake() is relaxed, because a producer that sees the older value at worst rings a loop that is awake, and the
// next `sleeping` comes behind it in the order of that one variable. The letter's contents are released by the push and
// acquired by the exchange that empties the stack: each push is a read-modify-write, so the exchange meets the releases
// of all of them, not of the last alone. Nothing here leans on a system call being a barrier.
//
// Who changes `sleeping` to `rung` rings. If that thread is not let on between the two, those who post meanwhile do not
// ring, and the loop wakes when it goes on, or at its next deadline.
//
// A loop that spins before it sleeps (spin.hpp) is awake: it asks empty() again and again, and nobody rings. empty() is
// a plain load and orders nothing. It need not: what it sees it only takes as a hint to go and empty the stack, and
// what it misses (a store comes to be seen in finite time, but no sooner) the look behind may_sleep() finds. So a spin
// can neither run a letter that is not all there nor lose one.
//
// Stack and state share a cache line on purpose: a post takes that line for the push, and has it for the look.
//
// Letters of one producer run in the order they were posted. Owner: one event_loop. Thread: post() any, the rest the
// loop's.

#include <atomic>
#include <cstdint>

#include "core/result.hpp"
#include "core/unique_fd.hpp"

namespace weir::inline WEIR_KERNEL {

struct letter {
    using callback = void (*)(letter& self) noexcept;

    callback run = nullptr;
    letter* next = nullptr; // the mailbox's, while posted

    letter() noexcept = default;
    explicit letter(callback on_run) noexcept : run(on_run) {}
};

class mailbox {
  public:
    mailbox() noexcept = default;
    mailbox(const mailbox&) = delete;
    mailbox& operator=(const mailbox&) = delete;
    ~mailbox() { EXPECT(stack_.load() == nullptr); }

    // EMFILE, ENFILE, ENOMEM.
    result<void> open() noexcept;
    int fd() const noexcept { return eventfd_.get(); }

    // Any thread. `l` is not posted already and lives until it has run; whoever posts it again knows that it has, in an
    // order that both threads see (a lock, a join, the letter's own doing). The mailbox outlives the call, not only the
    // letter: a letter may have run while its post() is still about to ring.
    void post(letter& l) noexcept;

    // Runs what was posted so far; what is posted meanwhile waits for the next call. Returns how many ran.
    std::uint32_t run() noexcept;

    // Before sleeping: says so. False: there are letters, do not sleep.
    [[nodiscard]] bool may_sleep() noexcept;
    void awake() noexcept { state_.store(awake_state, std::memory_order_relaxed); }

    bool empty() const noexcept { return stack_.load(std::memory_order_relaxed) == nullptr; }
    std::uint64_t ring_count() const noexcept { return ring_count_.load(std::memory_order_relaxed); }

  private:
    static constexpr std::uint32_t awake_state = 0, sleeping = 1, rung = 2;

    std::atomic<letter*> stack_{nullptr}; // newest first
    std::atomic<std::uint32_t> state_{awake_state};
    std::atomic<std::uint64_t> ring_count_{0}; // writes to the eventfd
    unique_fd eventfd_;
};

} // namespace weir::inline WEIR_KERNEL
