#pragma once
// drain: waits until the last connection of a conntab has ended, but no longer than it is told.
//
// Owner: the user; its conntab outlives it. Thread: the loop's. Allocation: none.

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

class drain_watch {
  public:
    // None is left, or the time is over: the user aborts what is left. Called in a turn, once.
    using callback = void (*)(void* owner) noexcept;

    drain_watch() noexcept = default;
    drain_watch(const drain_watch&) = delete;
    drain_watch& operator=(const drain_watch&) = delete;
    ~drain_watch() { stop(); }

    // Once, unless stopped. Looks at once in the next turn, and then every 10 ms.
    void begin(conntab& conns, duration limit, callback over, void* owner) noexcept;
    void stop() noexcept { next_look_.cancel(); }
    bool is_on() const noexcept { return next_look_.armed(); }

  private:
    static void look(timer& t, time_point now) noexcept;

    conntab* conns_ = nullptr;
    callback over_ = nullptr;
    void* owner_ = nullptr;
    time_point until_ = never;
    timer next_look_{look};
};

} // namespace weir::inline WEIR_KERNEL
