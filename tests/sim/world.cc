// world: the draw of a run's circumstances, and what must hold at its end.

#include "sim/world.hpp"

namespace simtest {

const char* to_string(mark what) noexcept {
    static constexpr const char* names[] = {
        "client well-behaved",
        "client slow",
        "client aborting",
        "client stalling",
        "client half-closing",
        "client pipelining",
        "client never reading",
        "client trickling",
        "client sipping",
        "client garbage",
        "server well-behaved",
        "server slow",
        "server aborting",
        "server stalling",
        "server half-closing",
        "server closing idle",
        "server never reading",
        "server trickling",
        "server sipping",
        "server garbage",
        "server stray bytes",
        "server parting",
        "server hollow",
        "server refusing",
        "answer whole",
        "answer error",
        "reused",
        "repeated",
        "start failed",
        "letter rang",
        "takeover taken",
        "takeover taken alone",
        "takeover refused",
        "takeover died",
        "takeover timed out",
        "takeover system",
        "takeover untrusted",
        "takeover too late",
        "taker killed",
        "taker killed after all",
        "giver killed",
        "giver stopped",
        "over records",
        "spin found",
        "spin in vain",
        "sleep precise",
        "server swallowing",
        "unix door",
        "unix server",
        "greeting told",
        "greeting unknown",
        "greeting in pieces",
        "greeting wrong",
        "greeting cut",
        "greeting late",
        "told in v1",
        "told in v2",
        "told of nobody",
        "next server tried",
        "refused by all",
        "abandoned while dialing",
        "spliced",
        "copied again",
        "pipe refused",
        "limit of clients reached",
        "drained",
        "cut off by a drain",
        "drained in trouble",
        "report for nobody",
        "answer early",
        "1xx: 100",
        "1xx: 103",
        "answer to HEAD",
        "answer without body",
        "server of HTTP/1.0",
        "server says close",
        "answer in chunks",
        "answer until the end",
        "answer with surplus",
        "answer of nonsense",
        "tunnel begun",
        "tunnel whole",
        "tunnel bytes early",
        "used after strays",
        "request repeated",
        "client gone",
        "client of HTTP/1.0",
        "client says close",
        "request in chunks",
        "request broken",
        "line behind a body",
        "line behind an answer",
        "body behind an answer",
        "head of the largest size",
        "head of the most fields",
        "answer of the largest size",
        "heads may be large",
        "head too large",
        "refused as due",
        "client late",
        "idle client closed",
        "aborted while asking",
        "admin asked",
        "repeats off",
        "balance: least",
        "keeps no server connection",
        "blocks short",
        "gateway drained",
        "gateway cut off",
        "gateway drained in need",
        "gateway: unix door",
        "gateway: unix server",
        "place awaited",
        "client let go",
        "shop hollow",
        "repeated elsewhere",
        "waited for room",
        "name moved",
    };
    static_assert(std::size(names) == static_cast<std::size_t>(mark::count_));
    return names[static_cast<std::size_t>(what)];
}

kernel_options world::draw(std::uint64_t seed, const pace& may) {
    dice d{seed * 2 + 1};
    kernel_options o{.seed = seed, .leaves_watches = may.leaves_watches};
    const bool few_descriptors = d.below(4) == 0;
    o.descriptors_max = few_descriptors ? static_cast<int>(d.between(14, 40)) : 256;
    const std::uint32_t least = d.magnitude(1, 4096);
    const std::uint32_t more = d.magnitude(1, 32);
    o.network.buffer_bytes_min = least;
    o.network.buffer_bytes_max = least * more;
    o.network.delay_max = d.coin() ? duration{} : d.between(duration{10'000}, duration{milliseconds{20}});
    o.network.reaction_max = d.between(duration{2000}, duration{milliseconds{3}});
    const bool few_ports = d.below(8) == 0;
    if (few_ports) o.network.port_last = static_cast<std::uint16_t>(o.network.port_first + d.between(8, 40));
    if (few_ports) o.network.time_wait = seconds{2};
    o.call_max = d.coin() ? duration{500} : d.between(duration{1000}, duration{20'000});
    return o;
}

world::world(std::uint64_t seed, const pace& may) : k(draw(seed, may)) {
    watch(k);
    connections_max = k.chance.below(4) == 0 ? k.chance.between(8, 16) : 64;
    if (k.chance.below(8) != 0) k.faults.pause(); // else it starts among faults
    open_loop(may);
    k.faults.pause();
    check.emplace(*loop);
    conns = std::make_unique<conntab>(*loop);
    if (!conns->open({.connections_max = connections_max, .large_blocks_max = may.large_blocks_max})) k.violate("I10", "no conntab, though nothing is wrong");
}

void world::open_loop(const pace& may) {
    loop_options how{.events_max = k.chance.magnitude(1, 64), .timers_max = k.chance.between(32, 64)};
    how.ledger_max = 1024; // asked by deadline_check
    // Between a spin that ends before it looks at the clock and one that outlasts many sleeps.
    if (may.may_spin && k.chance.coin()) how.spin_us_max = k.chance.magnitude(1, 100);
    is_precise_ = may.may_be_precise && k.chance.coin();
    how.precise_timers = is_precise_;
    for (;;) {
        loop = std::make_unique<event_loop>();
        if (loop->open(how) && loop->on_signal(
                                   SIGHUP, [](void*, int) noexcept {}, nullptr))
            return;
        saw(mark::start_failed);
        loop.reset();
        if (k.open_count() != 0) k.violate("I1", "a loop that could not be opened left descriptors behind");
        if (k.chance.below(3) == 0) k.faults.pause();
    }
}

void world::turn_until(time_point end) {
    while (k.time.now < end)
        turn(end - k.time.now);
}

void world::turn(duration sleep_max) {
    deadlines_.before_turn(k, *check, *conns);
    const std::uint64_t accepted = door_ ? door_->accepted_count() : 0;
    {
        const no_allocations none;
        loop->turn(sleep_max);
    }
    if (door_ && door_->accepted_count() - accepted > accept_budget_)
        k.violate("I14", "one turn accepted more than its budget");
    waiting_.resize(static_cast<std::size_t>(k.numbers_end()));
    connecting_count_ = 0;
    for (connection* conn = conns->first(); conn; conn = conns->after(*conn))
        check_connection(*conn);
    if (conns->redials().waiting_count() > 0) saw(mark::waited_for_room);
    if (conns->redials().waiting_count() > connecting_count_)
        k.violate("I20", "a connect is repeated for a connection that is no more");
    deadlines_.after_turn(k, *loop, *conns);
    if (turn_check_) turn_check_(turn_owner_);
}

void world::check_connection(connection& conn) {
    const fd_slot& slot = conn.slot();
    // A failed connection that is still there, and that nothing is going to tell of.
    const bool known = slot.is(fd_state::err) || conn.is(conn_flag::failed);
    const bool must_close = closes_what_failed && !deadlines_.is_breaking(conn);
    if (must_close && known && !slot.is(fd_state::news | fd_state::queued))
        k.violate("I4", "a connection has failed, and who is served by it was not told");
    // What an idle connection was seen to come to ends it in the turn in which it was seen, or it is about to run.
    if (conn.is(conn_flag::idle) && conn.ended() && !slot.is(fd_state::queued))
        k.violate("I4", "an idle connection has ended, and is kept");
    const auto& socket = static_cast<const stream&>(*k.at(slot.fd));
    if (conn.origin() == conn_origin::accepted && socket.is_tcp() && !(conn.peer() == socket.other.unmapped()))
        k.violate("I25", "an accepted connection does not know its client");
    check_fair(conn);
    if (conn.is(conn_flag::connecting)) connecting_count_++;
}

// Whoever may go on gets its turn: a connection that stays runnable has been served, which shows in its calls. A slot
// may be put off now and then on purpose.
void world::check_fair(const connection& conn) {
    constexpr std::uint32_t turns_max = 16;
    const fd_slot& slot = conn.slot();
    waiting& w = waiting_[static_cast<std::size_t>(slot.fd)];
    const std::uint64_t used_at = k.at(slot.fd)->used_at;
    if (!slot.runnable() || slot.generation != w.generation || used_at != w.used_at)
        w = {.generation = slot.generation, .turns_count = 0, .used_at = used_at};
    else if (++w.turns_count > turns_max)
        k.violate("I14", "a connection that may go on is passed over, turn after turn");
}

void world::post_letters(std::uint32_t count, duration span) {
    for (std::uint32_t i = 0; i < count; i++) {
        letters_.push_back(std::make_unique<note_to_loop>());
        letters_.back()->home = this;
        letters_.back()->l.run = [](letter& l) noexcept {
            note_to_loop& n = container_of<&note_to_loop::l>(l);
            n.home->letters_ran_++;
        };
        const duration wait = k.chance.between(duration{}, span);
        k.time.plan(
            k.time.now + wait,
            [](void* at, std::uint32_t) noexcept {
                note_to_loop& n = *static_cast<note_to_loop*>(at);
                n.home->loop->post(n.l);
            },
            letters_.back().get(), 0);
    }
}

void world::check_sums() {
    using enum conn_origin;
    const std::uint64_t opened =
        conns->opened_count(accepted) + conns->opened_count(dialed) + conns->opened_count(adopted);
    std::uint64_t ended = 0;
    for (unsigned cause = 0; cause < static_cast<unsigned>(end_cause::count_); cause++)
        ended += conns->ended_count(static_cast<end_cause>(cause));
    if (opened != ended + conns->live_count()) k.violate("I18", "the causes do not add up to accepts and dials");
    if (conns->ended_count(end_cause::none) != 0) k.violate("I18", "a connection ended without a cause");
    std::uint32_t walked = 0;
    for (connection* conn = conns->first(); conn; conn = conns->after(*conn))
        walked++;
    if (walked != conns->live_count()) k.violate("I18", "the live ones are not as many as counted");
}

void world::close_conns() {
    check_sums();
    for (std::size_t cause = 0; cause < sums().causes.size(); cause++)
        sums().causes[cause] += conns->ended_count(static_cast<end_cause>(cause));
    conns.reset();
}

void world::tear_down() {
    if (!all_letters_ran()) k.violate("I4", "a letter was posted and never ran");
    if (loop->letters().ring_count() > 0) saw(mark::letter_rang);
    if (is_precise_ && loop->polls().imprecise_count() == 0) saw(mark::sleep_precise);
    if (loop->spin_found_count() > 0) saw(mark::spin_found);
    if (loop->spin_count() > loop->spin_found_count()) saw(mark::spin_in_vain);
    check.reset();
    loop.reset();
    if (k.open_count() != 0) k.violate("I1", "a descriptor is left open");
}

world::~world() {
    for (std::size_t kind = 0; kind < fault_plan::kinds; kind++)
        sums().faults[kind] += k.faults.marks(static_cast<fault>(kind));
    for (std::size_t kind = 0; kind < twist_plan::kinds; kind++)
        sums().twists[kind] += k.twists.marks(static_cast<twist>(kind));
    sums().seeds++;
    sums().calls += k.log.count();
}

} // namespace simtest
