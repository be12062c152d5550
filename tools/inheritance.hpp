#pragma once
// inheritance: listening sockets that pass from a running process to the next one (--takeover unix:/path).
//
//     take() ──> socket()... ──> listen ──> offer()... ──> give(): to the next one, in turn ──> confirm() ──> serve
//       └─(nobody there: nothing is inherited)──┘                                          (nothing to do)─┘
//
// What goes wrong before confirm() is over ends the program with 1, and the old process goes on. core/takeover.hpp says
// what the two tell each other.
// Owner: main(). Thread: main's, which is that of the first loop; but socket() may be called in several, each for an
// index of its own.

#include <array>
#include <optional>

#include "core/takeover.hpp"
#include "proto/line_limit.hpp"
#include "tools/log_writer.hpp"
#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

// What a socket is for; travels with it.
enum class heirloom : std::uint32_t { listener = 1, admin = 2 };

class inheritance {
  public:
    inheritance() noexcept = default;
    inheritance(const inheritance&) = delete;
    inheritance& operator=(const inheritance&) = delete;

    // Asks at `at`, a unix address, which is borrowed for good.
    void take(const listen_place& at) noexcept;

    // Another process serves yet, and confirm() will decide. Any thread, between take() and confirm().
    bool is_taking() const noexcept { return taker_.has_value(); }
    // How many of this kind were inherited.
    std::uint32_t count(heirloom what) const noexcept;
    // One of them, once, if it listens where it is wanted ("port 0" is anywhere of that family); otherwise none.
    // give() says what nobody took, and closes it.
    unique_fd socket(heirloom what, std::uint32_t index, const endpoint& wanted) noexcept;

    // From the next turn of `loop` on the next process is given what was offered; then `taken` is called, in a turn.
    void offer(heirloom what, std::uint32_t index, int fd) noexcept;
    // What is to be said about that goes to `lines`, which outlives this: at most so much as line_limit lets strangers cause.
    void give(event_loop& loop, log_writer& lines, void (*taken)(void* owner) noexcept, void* owner) noexcept;
    // No longer.
    void stop() noexcept;

    // Everything listens: tells the old process so and waits until it drains. SIGTERM waits for that, too.
    void confirm() noexcept;

  private:
    struct offered {
        takeover_tag tag;
        int fd;
    };

    static void received(void* self, std::span<taken_fd> fds) noexcept;
    static void came_to_nothing(void* self, takeover_failure why, int error) noexcept;
    static void tell_left_out(void* self, std::size_t kind, std::uint64_t count) noexcept;
    static void over(void* self, takeover_end end, int error) noexcept;
    [[noreturn]] void fail_over() noexcept;

    const listen_place* at_ = nullptr;
    std::optional<event_loop> loop_; // until confirm()
    std::optional<takeover_taker> taker_;
    std::optional<takeover_giver> giver_;
    log_writer* lines_ = nullptr;
    std::optional<line_limit> limit_; // of what strangers cause
    std::array<taken_fd, sys::pass_max> fds_{};
    std::size_t fds_count_ = 0;
    std::array<offered, sys::pass_max> offers_{};
    std::size_t offers_count_ = 0;
    bool is_over_ = false;
    takeover_end end_{};
    int error_ = 0;
    void (*taken_)(void* owner) noexcept = nullptr;
    void* owner_ = nullptr;
};

} // namespace weir::inline WEIR_KERNEL::tools
