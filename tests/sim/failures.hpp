#pragma once
// failures: small lives on the simulated kernel. Each is played unharmed first, then again with every call that can
// fail failing in every way that is documented for it, once and from then on, and with every allocation failing
// likewise.
//
//     start ──> play ──> settle: all players are over ──> recover: the failure ends, a new client is served ──> the end
//
// A player says and hears what its script says. What it heard in the unharmed life is what it must hear; under a
// failure it may hear less of it, if its connection ends or an answer of weir's own stands in the place of the rest.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <weir/sim.hpp>

#include "core/idle.hpp"

namespace failures {

using namespace weir;

// ---- what is made to fail

struct fault_wish {
    std::uint64_t call = 0;       // the n-th crossing, from 1; 0: none
    std::size_t way = 0;          // which of its errnos
    std::uint64_t allocation = 0; // the n-th one, from 1; 0: none
    planned_failure::extent extent = planned_failure::extent::once;
};

// failures_memory.cc: what the library takes from the heap, by new (std::nothrow).
void fail_allocation(std::uint64_t nth, planned_failure::extent extent) noexcept; // 0: none
void heal_allocations() noexcept;
std::uint64_t allocations_count() noexcept; // since then
bool allocation_failed() noexcept;
std::int64_t heap_balance() noexcept; // blocks taken and not given back

// ---- scripts

struct step {
    // choose, answer: of an HTTP server, see stage::serve_http.
    enum class act : std::uint8_t { say, hear, hear_end, wait, fin, close, reset, park, choose, answer };
    act what;
    std::string text{};    // what is said, or waited for
    bool or_reset = false; // hear_end: a reset will do, too
    duration pause{};
    close_intent intent = close_intent::graceful; // of a player on weir's side
};
using script = std::vector<step>;

inline step say(std::string text) { return {.what = step::act::say, .text = std::move(text)}; }
inline step hear(std::string text) { return {.what = step::act::hear, .text = std::move(text)}; }
inline step wait(duration pause) { return {.what = step::act::wait, .pause = pause}; }
inline step leave(close_intent intent) { return {.what = step::act::close, .intent = intent}; }
inline const step hear_end{.what = step::act::hear_end}, fin{.what = step::act::fin}, reset{.what = step::act::reset},
    hear_reset{.what = step::act::hear_end, .or_reset = true}, // or an end
    close_it{.what = step::act::close}, park{.what = step::act::park};
// n bytes of which each follows from its place.
std::string pattern(std::size_t n);

class stage;

struct player {
    player(stage& s, script what) : home(s), steps(std::move(what)) {}
    player(const player&) = delete;
    player& operator=(const player&) = delete;

    stage& home;
    script steps;
    std::size_t at = 0, said = 0, mark = 0; // the step; how much of it was said; what the last hear has seen
    std::string heard;
    bool over = false;
    bool whole = false; // its script was played to the end
    bool heard_end = false;
    bool waited = false;
    time_point until{};

    const step* now() const { return at < steps.size() ? &steps[at] : nullptr; }
    void next() {
        at++;
        said = 0;
        waited = false;
    }
    std::string expected() const; // what it waited for so far
    bool satisfied();             // what `now()` waits to hear has come
};

// A player at the other end.
struct remote_player : player {
    using player::player;
    remote* end = nullptr;
    const script* special = nullptr; // chosen by who asks for /two
    void run(remote& r) noexcept;
    static const remote_cb table;

  private:
    enum class progress : std::uint8_t { on, later, dead };
    progress play(remote& r) noexcept;
    progress speak(remote& r) noexcept;
    progress listen(remote& r) noexcept;
    progress wait_for(remote& r) noexcept;
    progress serve(remote& r) noexcept;
    bool read(remote& r) noexcept;
    bool choose() noexcept;
    bool answer(remote& r) noexcept;
    void finish(remote& r) noexcept;
};

// A player on weir's side of a connection.
struct local_player : player {
    using player::player;
    connection* conn = nullptr;
    idle_pool* pool = nullptr; // where it parks
    idle_pool::key key{};

    void dial_to(const ctrl& family, const endpoint& to, const dial_options& how = {.timeout = seconds{1}});
    // From the pool, or else by dial.
    void take_or_dial(const ctrl& family, const endpoint& to);
    void serve(connection& c);

  private:
    static verdict hear_more(connection& c) noexcept;
    static verdict state_changed(connection& c) noexcept;
    verdict go_on() noexcept;
    verdict finish(close_intent intent, end_cause cause) noexcept;
    static const data_cb table;
};

// ---- a life

struct memories { // of the unharmed one
    bool filled = false;
    std::vector<std::string> clients, servers;
};

// bytes: servers hear what they heard in the unharmed life, or less. asks: the same word again and again. http:
// anything but a request twice; answers of weir's own are known by their status. numbers: what is heard differs from
// life to life.
enum class speech : std::uint8_t { bytes, asks, http, numbers };

struct setting {
    int descriptors_max = 64;
    std::uint32_t buffer_bytes = 65536, connections_max = 16;
    speech language = speech::bytes;
    duration rest{};            // before the visitor comes: what is idle goes
    std::size_t suffer_max = 1; // who is told of one failure that comes once
    loop_options loop{.events_max = 16};
};

class stage {
  public:
    stage(const setting& how, const fault_wish& wish, memories& m);
    stage(const stage&) = delete;
    stage& operator=(const stage&) = delete;
    ~stage();

    kernel k;
    std::unique_ptr<event_loop> loop;
    std::unique_ptr<conntab> conns;

    // `attempt` works at first, the second time after a failure that came once, or when a lasting one is over.
    void start(const std::function<bool()>& attempt);
    void open_conns(conntab_options how = {}); // connections_max of the setting

    void serve(const endpoint& where, std::vector<script> scripts); // the n-th connection plays the n-th, or the last
    // A connection that first asks for /two plays the script, any other one is answered by the path: /one by "hello",
    // /3 by "hell3", /204 and /304 by these.
    void serve_http(const endpoint& where, script special = {});
    void refuse(const endpoint& where);
    remote_player& come(const endpoint& where, script steps);
    local_player& local(script steps);

    void turns(duration span);
    // Until everybody who came is over, or has been patient for too long.
    void settle(duration patience = seconds{8});
    // What fails ceases to. Everybody is over then, and `visitor` is served as if nothing had been.
    void recover(const endpoint& where, script visitor);
    void recover();
    // The end: nothing may be left.
    void finish();

    bool harmed() const noexcept { return k.faults.plan.struck() || allocation_failed(); }
    void require(bool holds, const char* text) {
        if (!holds) fail(text);
    }
    [[noreturn]] void fail(const char* text);
    // The text may stand once in all that servers heard.
    void only_once(std::string_view text) { only_once_.push_back(std::string{text}); }
    void check_sums();

  private:
    struct shop {
        stage* home;
        std::vector<script> scripts;
        std::size_t visits = 0, visits_max = ~std::size_t{0};
    };
    static void first_run(remote& r) noexcept;
    bool all_over() const noexcept;
    void heal();
    void check_unharmed(const player& p);
    void check_clients();
    void check_servers();
    bool may_have_heard(const std::string& heard, const std::string& all) const;

    setting how_;
    fault_wish wish_;
    memories& memories_;
    std::optional<loop_check> check_;
    std::vector<std::unique_ptr<shop>> shops_;
    std::vector<std::unique_ptr<remote_player>> clients_, servers_;
    std::vector<std::unique_ptr<local_player>> locals_;
    std::vector<std::string> only_once_;
    friend struct remote_player;
};

struct scenario {
    const char* name;
    void (*play)(stage& s);
    setting how{};
};
extern const std::vector<scenario> core_scenarios, dial_scenarios, stream_scenarios, proxy_scenarios, gateway_scenarios,
    takeover_scenarios;

// A failure that nobody outside may notice.
bool is_harmless(call what, int error) noexcept;
// Ends the program, with what to replay.
[[noreturn]] void give_up(kernel& k, const char* invariant, const char* text) noexcept;

inline const endpoint shop_at = endpoint::ipv4(0x0a000101, 80), other_shop = endpoint::ipv4(0x0a000102, 80);
inline const endpoint door_at = endpoint::ipv4(0x0a000001, 8080);

} // namespace failures
