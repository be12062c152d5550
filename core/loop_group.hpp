#pragma once
// loop_group: several loops, one per thread, that share nothing.
//
//     open()  ──> in a thread each: event_loop::open(), set_up() ──> turns        all are up, or none stays;
//                                   the first member first, which turns in run() only
//     tell()  ──> a message to every loop, which takes it in its own turn
//     run()   ──> the caller's thread turns member 0; back when every member has ended
//
// Member 0 belongs to the thread that calls open() and run(). The others are started with all signals blocked, so
// signals arrive there. What set_up() makes is its member's alone; tear_down() runs in the same thread after the last
// turn. So nothing that is registered with a loop is ever touched by another thread.
//
// Owner: the program. Thread: open(), run() and the destructor the same one; tell() and stop() any, between open() and
// the destructor. Allocation: in open().

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/loop.hpp"

namespace weir::inline WEIR_KERNEL {

struct loop_group_options {
    std::uint32_t loops_count = 1;
    loop_options loop{}; // of each
    // All are called in the member's own thread. `index` is 0 .. loops_count-1.
    result<void> (*set_up)(void* owner, event_loop& loop, std::uint32_t index) noexcept = nullptr;
    void (*tear_down)(void* owner, event_loop& loop, std::uint32_t index) noexcept = nullptr; // set_up() went well
    void (*told)(void* owner, event_loop& loop, std::uint32_t index, std::uint32_t what) noexcept = nullptr;
    void* owner = nullptr;
};

class loop_group {
  public:
    static constexpr std::uint32_t messages_max = 8; // kinds that tell() knows: 0 .. 7

    loop_group() noexcept = default;
    loop_group(const loop_group&) = delete;
    loop_group& operator=(const loop_group&) = delete;
    ~loop_group(); // run() has come back, or open() failed

    // Starts all members. EAGAIN: no more threads; otherwise what a loop's open() or a set_up() said. On error every
    // member that was up has been torn down. The callbacks of the others may run as soon as their set_up() has, before
    // open() returns; member 0 takes its first turn in run().
    result<void> open(const loop_group_options& options) noexcept;

    // Returns when every loop has been stopped, and every member torn down.
    void run() noexcept;

    // told() is called once in every member. The same kind told again before a member has taken it is one message.
    void tell(std::uint32_t what) noexcept;
    // Every loop ends its turn and then its run.
    void stop() noexcept;

    std::uint32_t size() const noexcept { return size_; }
    event_loop& loop(std::uint32_t index) noexcept { return members_[index].loop; } // index < size()

  private:
    struct member;
    struct message {
        letter l;
        member* to = nullptr;
        std::uint32_t what = 0;
        std::atomic<bool> under_way{false};
    };
    struct member {
        loop_group* home = nullptr;
        std::uint32_t index = 0;
        int error = 0;      // of its start; valid once `up` has run
        bool is_up = false; // between set_up() and tear_down(): whoever is told something otherwise does not hear it
        letter up;          // to start_
        message messages[messages_max];
        sys::thread thread{};
        event_loop loop; // goes first: it runs the letters that are left
    };

    static void* live(void* self) noexcept;
    static int start(member& m) noexcept;
    static void tear_down(member& m) noexcept;
    void await_start(std::uint32_t others) noexcept;
    void end(std::uint32_t started) noexcept;

    loop_group_options options_;
    // Where the others report while they start. It stays: whoever posts is in it a little longer than the letter.
    event_loop start_;
    std::unique_ptr<member[]> members_;
    std::uint32_t size_ = 0;
    std::uint32_t up_count_ = 0; // others that have started or failed; the caller's thread
    bool is_up_ = false;
};

} // namespace weir::inline WEIR_KERNEL
