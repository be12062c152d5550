#pragma once
// drain: waits until the last connection of a conntab has ended, but no longer than it is told.
//
// Owner: the user; its conntab outlives it. Thread: the loop's. Allocation: none.

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

// What a proxy that stops is to think of its clients.
enum class drain_kind : std::uint8_t {
    end,       // nobody comes after it: who is in the backlog is served, who waits is closed
    hand_over, // the next process has the listening sockets: it serves the backlog; and there is time for who waits
};

class drain_watch {
  public:
    // None is left, or the time is over: the user aborts what is left. Called in a turn, once.
    using callback = void (*)(void* owner) noexcept;

    drain_watch() noexcept = default;
    drain_watch(const drain_watch&) = delete;
    drain_watch& operator=(const drain_watch&) = delete;
    ~drain_watch() { stop(); }

    // Once, unless stopped. Looks with the next tick, and then every 10 ms: closing a connection, which is done more
    // often, need not know of it.
    void begin(conntab& conns, duration limit, callback over, void* owner) noexcept;
    void stop() noexcept { next_look_.cancel(); }

  private:
    static void look(timer& t, time_point now) noexcept;

    conntab* conns_ = nullptr;
    callback over_ = nullptr;
    void* owner_ = nullptr;
    time_point until_ = never;
    timer next_look_{look};
};

} // namespace weir::inline WEIR_KERNEL
