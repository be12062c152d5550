#pragma once
// world: what every harness starts from: a simulated kernel, a loop and a conntab on it, and the phases of a run.
//
//     warm-up ──> faults ──> heal ──> everything healthy must finish by the liveness deadline ──> teardown
//
// A harness is a function of a seed. It is quiet when all is well; whatever is wrong goes to kernel::violate().

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <weir/sim.hpp>

#include "sim/deadlines.hpp"

namespace simtest {

using namespace weir;

// Things that must have been seen at least once over many seeds, beside the faults.
enum class mark : std::uint8_t {
    client_well_behaved,
    client_slow,
    client_aborting,
    client_stalling,
    client_half_closing,
    client_pipelining,
    client_never_reading,
    client_trickling,
    client_sipping,
    client_garbage,
    server_well_behaved,
    server_slow,
    server_aborting,
    server_stalling,
    server_half_closing,
    server_closing_idle,
    server_never_reading,
    server_trickling,
    server_sipping,
    server_garbage,
    server_stray_bytes,
    server_parting,
    server_hollow,
    server_refusing,
    answer_whole,
    answer_error,
    reused,
    repeated,
    start_failed,
    letter_rang,
    takeover_taken,
    takeover_taken_alone,
    takeover_refused,
    takeover_died,
    takeover_timed_out,
    takeover_system,
    takeover_untrusted,
    takeover_too_late,
    taker_killed,
    taker_killed_behind_the_answer,
    giver_killed,
    giver_stopped,
    over_records,
    spin_found,
    spin_in_vain,
    sleep_precise,
    server_swallowing,
    unix_door,
    unix_server,
    greeting_told,
    greeting_unknown,
    greeting_pieces,
    greeting_wrong,
    greeting_cut,
    greeting_late,
    told_v1,
    told_v2,
    told_nothing,
    next_server,
    refused_by_all,
    abandoned,
    spliced,
    copied_again,
    pipe_refused,
    limit_reached,
    drained,
    cut_off,
    drained_in_trouble,
    stale_report,
    answer_early,
    hint_100,
    hint_103,
    answer_to_head,
    answer_without_body,
    server_of_1_0,
    server_says_close,
    answer_in_chunks,
    answer_until_end,
    answer_with_surplus,
    answer_of_nonsense,
    tunnel,
    tunnel_whole,
    tunnel_bytes_early,
    used_after_strays,
    http_repeated,
    http_client_gone,
    client_of_1_0,
    client_says_close,
    request_in_chunks,
    request_broken,
    line_behind_a_body,
    line_behind_an_answer,
    body_behind_an_answer,
    head_of_the_largest_size,
    head_of_the_most_fields,
    answer_of_the_largest_size,
    heads_may_be_large,
    head_too_large,
    refused_as_due,
    client_late,
    idle_client_closed,
    aborted_while_asking,
    admin_asked,
    repeats_off,
    balance_least,
    keeps_no_server,
    blocks_short,
    http_drained,
    http_cut_off,
    http_drained_in_trouble,
    http_unix_door,
    http_unix_server,
    place_awaited,
    client_let_go,
    shop_hollow,
    repeated_elsewhere,
    waited_for_room,
    name_moved,
    count_
};
const char* to_string(mark what) noexcept;

struct totals {
    std::array<std::uint64_t, fault_plan::kinds> faults;
    std::array<std::uint64_t, twist_plan::kinds> twists;
    std::array<std::uint64_t, static_cast<std::size_t>(mark::count_)> marks;
    std::array<std::uint64_t, static_cast<std::size_t>(end_cause::count_)> causes;
    std::uint64_t seeds, calls;
};
totals& sums() noexcept; // of this process
inline void saw(mark what) noexcept { sums().marks[static_cast<std::size_t>(what)]++; }

struct harness {
    const char* name;
    std::uint64_t (*run)(std::uint64_t seed); // answers the trace's hash
};
// simtest.cc: what a violation comes to.
void watch(kernel& k) noexcept;

extern const harness idle_harness, relay_harness, stream_harness, http1_harness, mailbox_harness, timers_harness,
    takeover_harness, shared_harness, records_harness, places_harness;

// While one lives, the library takes nothing from the heap: I5.
struct no_allocations {
    no_allocations() noexcept;
    no_allocations(const no_allocations&) = delete;
    no_allocations& operator=(const no_allocations&) = delete;
    ~no_allocations();
};

// What a harness lets be drawn for its loop, beside what every loop has.
struct pace {
    bool may_spin = false, may_be_precise = false;
    std::uint32_t large_blocks_max = 0;
    bool leaves_watches = false; // its user closes what somebody else holds, without a word to epoll
};

class world {
  public:
    explicit world(std::uint64_t seed, const pace& may = {});
    world(const world&) = delete;
    world& operator=(const world&) = delete;
    ~world();

    kernel k;
    std::unique_ptr<event_loop> loop;
    std::optional<loop_check> check;
    std::unique_ptr<conntab> conns;
    std::uint32_t connections_max = 0;
    // Whoever is served closes a connection as soon as it is told that it failed; otherwise it may read on first.
    bool closes_what_failed = true;

    void turn(duration sleep_max);
    // From now on no turn may accept more there. Null: nowhere.
    void watch_accepts(const listener* door, std::uint32_t budget) noexcept {
        door_ = door;
        accept_budget_ = budget;
    }
    // The deadlines of its pairs are watched, as those of all connections are. Null: there are no pairs.
    void watch_pairs(const relay_pool* pool, const relay_pool* second = nullptr) noexcept {
        deadlines_.watch(pool, second);
    }
    void watch_exchanges(duration first_byte_timeout, duration write_timeout) noexcept {
        deadlines_.watch_exchanges(first_byte_timeout, write_timeout);
    }
    // Called after every turn from now on. Null: no more.
    using turn_check = void (*)(void* owner);
    void after_turns(turn_check look, void* owner) noexcept {
        turn_check_ = look;
        turn_owner_ = owner;
    }
    void turn_until(time_point end);
    // Takes turns until `holds()`; violates `invariant` if that is not so by then.
    template <class Condition>
    void require_by(time_point end, const char* invariant, const char* text, Condition holds) {
        while (k.time.now < end && !holds())
            turn(std::min<duration>(end - k.time.now, milliseconds{50}));
        if (!holds()) k.violate(invariant, "%s", text);
    }

    // Another thread, as steps between the calls of this one: posts letters, each of which must run once.
    void post_letters(std::uint32_t count, duration span);
    bool all_letters_ran() const noexcept { return letters_ran_ == letters_.size(); }

    // I18: every connection is alive or has one cause.
    void check_sums();
    // Before conns goes: what its connections ended from.
    void close_conns();
    // The loop goes, and nothing may be left open: I1.
    void tear_down();

  private:
    struct note_to_loop {
        world* home;
        letter l;
    };
    std::vector<std::unique_ptr<note_to_loop>> letters_;
    std::size_t letters_ran_ = 0;
    const listener* door_ = nullptr;
    std::uint32_t accept_budget_ = 0;
    turn_check turn_check_ = nullptr;
    void* turn_owner_ = nullptr;
    deadline_check deadlines_;
    void check_connection(connection& conn);
    void check_fair(const connection& conn);
    struct waiting {
        std::uint32_t generation = 0;
        std::uint32_t turns_count = 0;
        std::uint64_t used_at = 0;
    };
    std::vector<waiting> waiting_; // by descriptor
    std::size_t connecting_count_ = 0;
    void open_loop(const pace& may);
    bool is_precise_ = false;
    static kernel_options draw(std::uint64_t seed, const pace& may);
};

} // namespace simtest
