#pragma once
// redial: connects that the full backlog of a unix listener has put off.
//
// Where TCP sends its SYN again, connect(2) to a unix listener whose backlog is full answers EAGAIN: nothing is under
// way, and nothing will be reported, unix(7). A redial_pool repeats such a connect until it succeeds or fails, or until
// its connection is closed; the connection is `connecting` meanwhile, and its deadline is its user's as ever.
//
// Connects to the same address wait in a line. Only the first one is repeated: 1 ms after the latest failure, then 2, 4,
// 8 and at most 16 ms. When it is through, the next one is tried at once. So a server that is short of room costs one
// system call each time, whatever the number of those who wait, and the one that has waited for the longest is served
// first. (A new connect that finds room does not wait behind the line.)
//
// Owner: the conntab. Thread: its loop's. Allocation: when made.

#include "core/endpoint.hpp"
#include "core/list.hpp"
#include "core/pool.hpp"
#include "core/timers.hpp"

namespace weir::inline WEIR_KERNEL {

class connection;
class event_loop;

class redial_pool {
  public:
    static constexpr duration pause_min = milliseconds{1};
    static constexpr duration pause_max = milliseconds{16};

    // As many may wait as there may be connections.
    redial_pool(event_loop& loop, std::size_t connections_max) noexcept : loop_(loop), pool_(connections_max) {}

    // connect() of the connection's socket to `to` has said EAGAIN. It is not waiting yet, and there is a place: EXPECTed.
    void add(connection& conn, const endpoint& to) noexcept;
    // The connection is closing. It need not be waiting.
    void remove(connection& conn) noexcept;

    std::size_t waiting_count() const noexcept { return pool_.used(); }
    std::size_t capacity() const noexcept { return pool_.capacity(); } // 0: there was no memory

  private:
    struct entry {
        entry(redial_pool& pool, connection& c, const endpoint& at) noexcept : home(pool), conn(c), to(at) {}

        redial_pool& home;
        connection& conn;
        endpoint to;
        duration pause = pause_min; // before the next try
        timer again{try_again};     // armed: the first of its line
        list_hook hook;
    };

    static void try_again(timer& t, time_point now) noexcept;
    void go_on(entry* first) noexcept;
    bool is_through(entry& e) noexcept;
    void arm(entry& e) noexcept;
    entry* first_for(const endpoint& to) noexcept;

    event_loop& loop_;
    fixed_pool<entry> pool_;
    list<&entry::hook> waiting_; // in the order in which they came
};

} // namespace weir::inline WEIR_KERNEL
