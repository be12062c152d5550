#pragma once
// loop_rig: loops on a clock that stands still or on the real one, and handlers for what they watch.

#include <cerrno>
#include <csignal>
#include <cstdint>

#include <doctest/doctest.h>

#include "core/loop.hpp"
#include "core/sys.hpp"
#include "support/actors.hpp"

namespace support {

using namespace weir;

// Reads all there is, as an edge wants it. True when the end was met.
inline bool drain(fd_slot& slot) {
    slot.state &= ~fd_state::news;
    char room[512];
    for (int turns = 0; turns < 10'000; turns++) {
        const auto n = sys::recv(slot.fd, room, sizeof room);
        if (n > 0) continue;
        fdtab::cant_recv(slot);
        return n != -EAGAIN;
    }
    FAIL_CHECK("no end of bytes");
    return true;
}

// A loop whose time stands still, so that it never sleeps.
struct still_loop : event_loop {
    fake_clock clock;

    explicit still_loop(loop_options options = {}) {
        options.time_source = &clock;
        REQUIRE(open(options).ok());
    }

    ~still_loop() {
        for (std::uint32_t fd = 0; fds().used_count() > 1 && fd < fds().fd_max(); fd++)
            if (fds().slot(static_cast<int>(fd)).handler == actor::run) close(fds().slot(static_cast<int>(fd)));
    }

    // Watches and wants to receive. The loop closes fd.
    fd_slot& add(int fd, actor& who, interest first = interest::recv) {
        auto slot = watch(fd, first, actor::run, &who);
        REQUIRE(slot.ok());
        fds().want_recv(*slot.value());
        return *slot.value();
    }
    std::uint32_t turn() { return event_loop::turn(duration{0}); }
};

// The real clock: it sleeps.
struct real_loop : event_loop {
    real_loop() { REQUIRE(open().ok()); }
};

// A loop blocks the signals it handles: a test gives the mask back.
class kept_mask {
  public:
    kept_mask() { pthread_sigmask(SIG_SETMASK, nullptr, &was_); }
    ~kept_mask() { pthread_sigmask(SIG_SETMASK, &was_, nullptr); }

  private:
    sigset_t was_;
};

// Receives once per run, as far as its room goes.
struct reader {
    int runs = 0, bytes = 0;

    static void run(fd_slot& slot) noexcept {
        reader& self = *static_cast<reader*>(slot.owner);
        self.runs++;
        slot.state &= ~fd_state::news;
        char room[64];
        const auto n = sys::recv(slot.fd, room, sizeof room);
        if (n > 0) self.bytes += static_cast<int>(n);
        fdtab::cant_recv(slot);
    }
};

} // namespace support
