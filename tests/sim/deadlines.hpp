#pragma once
// deadlines: the timers of connections and of a relay's pairs, watched from outside: I8, I9, I20, I21, and I4 at every reap.
//
//   before a turn   whom it may reap has nothing that could be done and was not told: a reaper hides lost wake-ups
//   after it        none is overdue for longer than turns may put a timer off; and who ended by a timeout had one that
//                   was due. A deadline of sending, or of a pair, ends no connection whose wire has moved less than the
//                   timeout before: I21. Why a connection ended is in the loop's ledger.
//   when a timer     whom it ends has no bytes that came before the deadline and that the library never asked for (I20)
//   fires
// Not late is asked only of a loop that is woken in time: where no clock jumps, no sleep is too long, no call is late.
// Owner: a world.

#include <cstdint>
#include <vector>

#include <weir/sim.hpp>

namespace simtest {

using namespace weir;

class deadline_check {
  public:
    // The deadlines of these pairs are watched, too, null: there are none. Before the first call there may be some that
    // nobody knows of, and why a connection timed out is not asked.
    void watch(const relay_pool* first, const relay_pool* second = nullptr) noexcept {
        relays_[0] = first;
        relays_[1] = second;
        knows_all_ = true;
    }

    // Of the exchanges, if there are any. I21 is asked only where watch() was called.
    void watch_exchanges(duration first_byte_timeout, duration write_timeout) noexcept {
        first_byte_timeout_ = first_byte_timeout;
        write_timeout_ = write_timeout;
    }
    // The end of a pair that was reset, while what it had said before is still passed on.
    bool is_breaking(const connection& conn) const noexcept;

    void before_turn(kernel& k, loop_check& check, conntab& conns);
    void after_turn(kernel& k, event_loop& loop, conntab& conns);

  private:
    struct alive {
        int fd;
        std::uint32_t generation;
        time_point until;
    };

    static std::uint64_t timeouts_count(const conntab& conns) noexcept;
    void expect_alive(const connection& conn, time_point moved, duration timeout);
    void note_movement(kernel& k, conntab& conns);
    void check_movement(kernel& k, event_loop& loop);
    void observe(kernel& k, timer& t, connection& end);

    const relay_pool* relays_[2]{};
    duration first_byte_timeout_{}, write_timeout_{};
    std::vector<alive> alive_; // as of the turn's beginning
    time_point jumps_until_{}; // until then a stop of the process may show
    bool knows_all_ = false;
    time_point first_due_ = never; // before the turn
    std::uint64_t timeouts_before_ = 0;
    std::uint64_t overdue_turns_ = 0, overdue_max_ = 0;
};

} // namespace simtest
