#pragma once
// names: where the upstreams of a proxy are: looked up at the start, and again by a thread that no loop waits for.
//
//     parse ──> first_places ──> (SIGHUP) look_up_again() ──> [helper thread: resolves] ──> letter ──> found(), in the loop
//                                        └── during one: noted, and done once more afterwards
//
// Owner: the crew; it outlives the loop. Thread: that of the loop; the helper thread touches `answers_` alone, between its start and its end.
// Allocation: none but the resolver's.

#include <array>
#include <cstdint>
#include <span>

#include "core/loop.hpp"
#include "proto/upstream.hpp"
#include "tools/log_writer.hpp"
#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

// An UPSTREAM: one address, or all of a name's.
struct upstream_place {
    std::array<address, upstream::addresses_max> at{};
    std::size_t count = 0;
    const char* text = ""; // as given

    std::span<const address> addresses() const noexcept { return {at.data(), count}; }
};

// Looks `text` up: an errno, 0: done. `ignored`: addresses of the name beyond what an upstream holds.
int look_up(const char* text, upstream_place& to, std::size_t& ignored) noexcept;

// Whether a connect to `to` comes in at a listener that is bound to `local`. Asks the kernel whether an address is this
// machine's where the listener takes them all; needs a descriptor for that.
bool leads_to(const endpoint& to, const endpoint& local) noexcept;

class names {
  public:
    names() noexcept = default;
    names(const names&) = delete;
    names& operator=(const names&) = delete;
    ~names(); // no look-up is under way: end()

    // Where they are now. The loop's thread.
    std::span<const upstream_place> places() const noexcept { return {places_.data(), count_}; }

    // Once, before look_up_again(). `listening`: an address that leads there is not taken. `moved` is called in a turn of
    // `loop` when places() has changed.
    // Lines for people go to `lines`.
    using callback = void (*)(void* owner) noexcept;
    void open(event_loop& loop, std::span<const upstream_place> first, const endpoint& listening, log_writer& lines,
              callback moved, void* owner) noexcept;
    void look_up_again() noexcept;
    // The loop turns no more: waits for a look-up that is under way. What that found is not taken, although its letter
    // may be read later, when the loop is destroyed; this object has to outlive the loop.
    void end() noexcept;

  private:
    struct answer {
        upstream_place place;
        std::size_t ignored = 0;
        int error = 0;
        bool is_asked = false; // its text has a name
    };
    static void* resolve_all(void* self) noexcept;
    void join() noexcept;
    void found() noexcept;
    bool take(std::size_t i) noexcept;

    event_loop* loop_ = nullptr;
    log_writer* lines_ = nullptr;
    callback moved_ = nullptr;
    void* owner_ = nullptr;
    endpoint listening_{};
    std::array<upstream_place, upstream_set::capacity> places_{};
    std::size_t count_ = 0;
    std::array<answer, upstream_set::capacity> answers_{};
    sys::thread helper_{};
    bool is_running_ = false;
    bool is_wanted_again_ = false;
    bool is_over_ = false;
    letter done_;
};

} // namespace weir::inline WEIR_KERNEL::tools
