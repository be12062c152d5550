#pragma once
// sim_file: an open file description of the simulated kernel, and the epoll sets that watch descriptions.
//
// As in Linux: a descriptor is a number that refers to a description, several may refer to one. An epoll set knows a
// watch by (number, description), so a dup() is watched apart, and a watch outlives the close of its number as long as
// the description lives.
//
//     wake(key) ──> each watch whose interest meets the key (0 meets all) goes on its set's ready list
//     harvest() ──> each watch on the list is polled; what it reports now is what is told. Nothing: dropped in silence.
//                   Level-triggered ones go back on the list.
//
// So a new wake-up re-arms an edge even if the state never changed, and a report tells the whole state.
// The owner of a description is the kernel (sim_kernel.hpp).

#include <cstdint>

#include "core/list.hpp"
#include "core/sim_dice.hpp"
#include "core/sim_faults.hpp"
#include "core/sys.hpp"

namespace weir::inline WEIR_KERNEL {

struct file;
struct epoll_set;

struct watch {
    watch(epoll_set& s, file& f, int n) noexcept : set(s), target(f), fd(n) {}

    epoll_set& set;
    file& target;
    int fd;
    std::uint32_t interest = 0;
    std::uint64_t data = 0;
    list_hook in_set, in_file, in_ready;

    bool pending() const noexcept { return in_ready.linked(); }
};

struct file {
    enum class kind : std::uint8_t { stream, epoll, event, signals, plain, pipe };

    explicit file(kind k) noexcept : what(k) {}
    file(const file&) = delete;
    file& operator=(const file&) = delete;
    virtual ~file() = default;

    // What epoll would report at this moment: EPOLLIN, ...
    virtual std::uint32_t poll() noexcept = 0;
    // Something happened; `key` says what, 0: anything.
    virtual void wake(std::uint32_t key) noexcept;
    // The last descriptor is gone.
    void forget_watches() noexcept;
    watch* watched_as(int fd) noexcept; // the first one, whichever set it belongs to

    kind what;
    int refs = 0;              // descriptors that refer to it
    std::uint64_t used_at = 0; // the call that named it last, in the trace
    list<&watch::in_file> watches;
};

struct epoll_set final : file {
    epoll_set() noexcept : file(kind::epoll) {}
    ~epoll_set() override;

    std::uint32_t poll() noexcept override { return 0; } // sets of sets are not modelled
    int add(int fd, file& target, std::uint32_t interest, std::uint64_t data) noexcept;
    int change(int fd, file& target, std::uint32_t interest, std::uint64_t data) noexcept;
    int remove(int fd, file& target) noexcept;
    // Takes at most events_max reports in the order of their wake-ups, and shuffles those.
    int harvest(epoll_event* events, int events_max, dice& chance) noexcept;
    // A report that no event stands behind, for some watch that wants IN or OUT. False: there is none.
    bool invent(epoll_event& event, dice& chance) noexcept;

    watch* find(int fd, file& target) noexcept;
    list<&watch::in_set> watches_of_set;
    list<&watch::in_ready> ready;
    std::uint32_t count = 0;
    std::uint32_t idle_turns = 0; // waits in a row that neither slept nor got anything, and nothing moved meanwhile
    std::uint64_t progress_seen = 0, relaxed_seen = 0;
};

struct counter_file final : file { // eventfd(2)
    counter_file() noexcept : file(kind::event) {}
    std::uint32_t poll() noexcept override;
    static constexpr std::uint64_t value_max = ~std::uint64_t{0} - 1;
    std::uint64_t value = 0;
};

struct signal_file final : file { // signalfd(2)
    explicit signal_file(const sigset_t& set) noexcept : file(kind::signals), accepted(set) {}
    std::uint32_t poll() noexcept override { return pending != 0 ? EPOLLIN : std::uint32_t{0}; }
    sigset_t accepted;
    std::uint64_t pending = 0; // bit n-1: signal n
};

// A file that epoll refuses.
struct plain_file final : file {
    plain_file() noexcept : file(kind::plain) {}
    std::uint32_t poll() noexcept override { return EPOLLIN | EPOLLOUT; }
    std::uint64_t bytes_count = 0;
};

} // namespace weir::inline WEIR_KERNEL
