#pragma once
// peers: those at the other ends: servers that answer and clients that ask, well-behaved and otherwise.
//
// They speak the simplest protocol in which mistakes show: a request is 16 bytes, an answer 16 bytes and a payload of
// which every byte follows from the request's number. So a byte that is lost, doubled, or given to another client is
// seen by whoever reads it.
// Before a request a client may say a PROXY line, and a server may have to be told one: the right one, once, whole.
// In HTTP/1.1 the number stands in the path, and what else a request is like in its errand: peers_http.hpp.
// Owner: a town owns its servers and clients; it outlives the kernel's last turn. Thread: the harness's.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "sim/peers_http.hpp"
#include "sim/world.hpp"

namespace simtest {

struct frame {
    static constexpr std::uint32_t request_magic = 0x51c0ffee, answer_magic = 0xa05e1f42;
    std::uint64_t id;
    std::uint32_t bytes; // of the answer's payload
    std::uint32_t magic;
};
static_assert(sizeof(frame) == 16);
inline constexpr std::uint32_t payload_max = 2000;
inline constexpr std::uint32_t bulk_max = 200'000;               // where bytes are passed on: enough to be spliced
inline constexpr std::uint32_t failed_bytes = ~std::uint32_t{0}; // an answer that says: could not be had

inline char payload_byte(std::uint64_t id, std::uint32_t at) noexcept {
    return static_cast<char>(id * 31 + at * 7 + (at >> 8));
}

enum class manner : std::uint8_t {
    well_behaved,
    slow,         // thinks, and takes its time between reads
    aborting,     // RST in the middle
    stalling,     // stops in the middle, for good
    half_closing, // a client: FIN after its last request; a server: FIN after an answer
    pipelining,   // a client: everything at once. A server: closes while idle
    never_reading,
    trickling, // a byte or a few at a time
    sipping,   // reads a little each half second or so: the kernel's queues shrink slowly
    garbage,   // bytes that mean nothing
    stray,     // a server: bytes that nobody asked for, while idle
    parting,   // a server: its end, and a RST later: after a request that it read, or while idle and still reading
    hollow,    // a server: accepts and ends, by FIN or RST, at once or when it has read something
    count_
};

// How a client begins, where PROXY lines are asked for.
enum class greeting : std::uint8_t {
    none,
    told,    // a line with addresses of its own
    unknown, // a line that says nothing of it
    pieces,  // as told, a few bytes at a time
    wrong,   // no PROXY line, and then requests
    cut,     // a part of a line, and its end
    late,    // a part of a line, and never more
};

inline void append(std::string& to, const frame& f) { to.append(reinterpret_cast<const char*>(&f), sizeof f); }

inline void append_payload(std::string& to, std::uint64_t id, std::uint32_t bytes) {
    const std::size_t before = to.size();
    to.resize(before + bytes);
    char* at = to.data() + before;
    for (std::uint32_t i = 0; i < bytes; i++)
        at[i] = payload_byte(id, i);
}

inline bool is_payload(const char* at, std::uint64_t id, std::uint32_t bytes) {
    bool same = true;
    for (std::uint32_t i = 0; i < bytes; i++)
        same &= at[i] == payload_byte(id, i);
    return same;
}

inline frame front(const std::string& from) {
    frame f;
    std::memcpy(&f, from.data(), sizeof f);
    return f;
}

// How much of `out` it says at once.
inline std::size_t mouthful(manner how, const std::string& out, dice& chance) {
    if (how != manner::trickling || out.empty()) return out.size();
    const bool is_bulk = out.size() > 16 * 1024; // which would take a hundred thousand calls
    return std::min<std::size_t>(out.size(), chance.between(1, is_bulk ? 2048 : 8));
}

class town;
struct client;

// One direction of one end.
struct tally {
    std::uint64_t bytes = 0;
    bool ended = false;
};

struct server {
    town* home;
    remote* end;
    manner how;
    std::string in, out; // requests not yet answered, answers not yet sent
    std::uint32_t answered = 0;
    time_point not_before{}; // nothing is sent earlier
    bool finished = false;   // nothing more will come from it
    bool heard_all = false;  // the other side's end
    bool parted = false;     // its own side is ended, and the RST is to come
    time_point strayed{};    // when it said what nobody had asked for
    std::string late;        // what it says behind a complete answer,
    time_point late_at{};    // from then on
    client* to = nullptr;    // whose requests it gets, once known; of use where bytes are passed on
    std::string line;        // of PROXY, as far as it was heard
    bool is_told = false;    // the line is complete, or none is to come
    bool knows_id = false;   // of the first request
    bool is_unix = false;    // where an abort looks like an end
    bool in_hollow_shop = false; // every server there is hollow
    tally said{}, heard{};
    http_ear ear{};
    void run(remote& r) noexcept;

  private:
    bool misbehave(remote& r) noexcept;
    void part(remote& r) noexcept;
    void stray_on() noexcept;
    void plan_late(const errand& e, std::size_t body_bytes) noexcept;
    void say_late() noexcept;
    sys::count write_some(remote& r, std::string_view bytes) noexcept;
    void leave(remote& r) noexcept;
    void reset(remote& r) noexcept;
    void idle_on(remote& r) noexcept;
    void end_unheard(remote& r) noexcept;
    bool crosses_next(remote& r) noexcept;
    void know(std::uint64_t id) noexcept;
    void belong_to(client& c) noexcept;
    std::string_view hear_line(std::string_view bytes) noexcept;
    void check_strays() noexcept;
    bool read(remote& r) noexcept;
    bool write(remote& r) noexcept;
    void answer_all() noexcept;
    // --- peers_http_server.cc
    void answer_http() noexcept;
    bool hear_head() noexcept;
    void check_head(const errand& e, std::string_view head) noexcept;
    bool is_overtaken(const errand& e) const noexcept;
    void arrive(errand& e) noexcept;
    bool take_body(const errand& e) noexcept;
    bool hear_body() noexcept;
    bool hear_rest() noexcept;
    void hear_tunnel() noexcept;
    void say_hint(std::string_view status, mark what) noexcept;
    void say_early_hints() noexcept;
    void speak_http() noexcept;
    void speak_nonsense(errand& e) noexcept;
    void begin_tunnel(errand& e) noexcept;
    void spoke() noexcept;
    void fall_silent(remote& r, bool with_fin) noexcept;
    std::string parting_word() noexcept;
};

struct client {
    town* home;
    remote* end; // null: it is gone
    manner how;
    bool must_succeed; // healthy, among healthy ones
    std::uint64_t first_id;
    std::uint32_t asks; // requests in all
    std::uint32_t asked = 0, answered = 0, failed = 0;
    std::string in, out;
    greeting greets = greeting::none;
    std::size_t greeting_bytes = 0;   // of `out` the first ones: no server gets them
    endpoint source{}, destination{}; // what a server is told of it; unspecified: nothing
    time_point not_before{};
    bool over = false; // satisfied, or out of reach
    bool is_unix = false;
    bool is_owed = false;   // it was there and behaved when healing began: it is served, or told that it is not
    server* from = nullptr; // who answers, once known; of use where bytes are passed on
    tally said{}, heard{};
    http_voice voice{};
    // No byte of it may reach a server.
    bool is_barred() const noexcept { return greets >= greeting::wrong; }
    void greet(bool is_believed, const endpoint& door) noexcept;
    void run(remote& r) noexcept;

  private:
    void speak(remote& r) noexcept;
    void ask(remote& r) noexcept;
    bool read(remote& r) noexcept;
    bool digest(remote& r) noexcept;
    bool answered_one(remote& r) noexcept;
    void leave(remote& r) noexcept;
    // --- peers_http_client.cc
    friend class town;
    void dress_http() noexcept;
    void ask_http() noexcept;
    void draw_errand(errand& e) noexcept;
    void say_body(const errand& e) noexcept;
    void say_held() noexcept;
    bool digest_http(remote& r) noexcept;
    void hear_hint(errand& e, int status, std::string_view head) noexcept;
    bool take_body(const errand& e, int status, std::string_view head, std::size_t& at, std::string& body) noexcept;
    void judge(const errand& e, int status, std::string_view head, std::string_view body) noexcept;
    void judge_own(const errand& e, int status) noexcept;
    bool close_or_go_on(remote& r, const errand& e, std::string_view head) noexcept;
    bool hear_tunnel(remote& r) noexcept;
    void judge_end(remote& r) noexcept;
    void end_tunnel() noexcept;
};

class town {
  public:
    // What stands between passes bytes on as they are: then nobody says nonsense, since it would reach the other side.
    enum class between : std::uint8_t { judges, passes_on };
    enum class tongue : std::uint8_t { frames, http1 };
    town(kernel& k, between b, tongue t = tongue::frames) noexcept : k_(k), between_(b), tongue_(t) {}
    town(const town&) = delete;
    town& operator=(const town&) = delete;

    // Before anybody comes. `to_servers`: the version in which they are told who speaks, 0: they are not.
    void speak_proxy(bool from_clients, int to_servers) noexcept {
        clients_greet_ = from_clients;
        servers_version_ = to_servers;
    }
    // How the gateway between them is, where the tongue is HTTP.
    void follow(const http_rules& rules) noexcept { rules_ = rules; }
    void judge_early_ends() noexcept; // behind each turn
    // Servers answer at `where` from now on.
    void open_shop(const endpoint& where);
    // `count` clients come to `where` within `span`.
    void send_clients(const endpoint& where, std::uint32_t count, duration span, bool must_succeed);
    // From now on everybody new behaves.
    void calm_down() noexcept;
    // But for one, any shop may be out of reach from now on; one of them, with `hollows`, may only accept and end.
    enum class hollows : std::uint8_t { none, one };
    void lose_shops(hollows may) noexcept;
    // No byte of an answer comes from there.
    bool is_mute(const endpoint& where) const noexcept {
        return std::find(mute_.begin(), mute_.end(), where) != mute_.end();
    }
    bool has_hollow() const noexcept { return !hollow_.empty(); }
    bool is_hollow(const endpoint& where) const noexcept {
        return std::find(hollow_.begin(), hollow_.end(), where) != hollow_.end();
    }

    bool all_must_succeed_over() const noexcept;
    bool is_nobody_owed() const noexcept;
    bool is_anybody_connecting() const noexcept;
    // I7: one has heard an end.
    void check_end_at(const client& c) noexcept;
    void check_end_at(const server& s) noexcept;
    kernel& sim() noexcept { return k_; }

    static const remote_cb server_cb, client_cb;

  private:
    struct visit {
        town* home;
        endpoint where;
        bool must_succeed;
    };
    static void come(void* at, std::uint32_t) noexcept;
    friend struct server;
    friend struct client;
    manner draw(bool is_server) noexcept;
    // Who sips: whether it is time for that, and if so for how many bytes.
    bool may_sip(remote& r, manner& how, time_point& not_before) noexcept;
    std::size_t sip_bytes() noexcept;
    void empty_shop(const endpoint& where, bool is_hollow) noexcept;
    std::uint32_t draw_bytes() noexcept;
    // A client that ends its side behind a request has gone.
    bool gives_up_behind_a_fin() const noexcept {
        return tongue_ == tongue::http1 && rules_.options.on_client_fin == client_fin::abort;
    }
    client* asker(std::uint64_t id) noexcept;
    void check_end(const tally& heard, const tally& said) noexcept;
    void check_silent_end() noexcept;
    bool has_unix() const noexcept; // some shop's or client's sockets, which know no reset
    errand* errand_of(std::uint64_t id) noexcept {
        return id == 0 || id > errands_.size() ? nullptr : &errands_[id - 1];
    }
    void prepare_errands(client& c) noexcept;
    client* told_as(const endpoint& source, const endpoint& destination) noexcept;
    std::uint32_t largest() const noexcept { return between_ == between::passes_on ? bulk_max : payload_max; }

    kernel& k_;
    between between_;
    tongue tongue_;
    http_rules rules_;
    std::deque<errand> errands_; // by number, from 1 on
    bool calm_ = false;
    time_point calm_since_{};
    std::ptrdiff_t silent_ends_heard_ = 0;
    std::size_t hollow_ends_said_ = 0, hollow_ends_heard_ = 0;
    std::size_t early_ends_ = 0; // in this turn: of clients that waited for less than the keep-alive timeout
    bool clients_greet_ = false;
    int servers_version_ = 0;
    std::uint64_t ids_ = 1;
    std::vector<endpoint> shops_;
    std::vector<endpoint> hollow_; // of these
    std::vector<endpoint> mute_;   // of those: no server from before is there either
    std::vector<std::unique_ptr<server>> servers_;
    std::vector<std::unique_ptr<client>> clients_;
    std::vector<std::unique_ptr<visit>> visits_;
};

// The first phases of a run: warm-up, then up to `clients_max` clients among faults, then heal.
void go_through_trouble(world& w, town& people, const endpoint& door, std::uint32_t clients_max);
// After them at least six healthy clients come, so many at a time and within `span`, and a minute later each was
// served.
void serve_healthy(world& w, town& people, const endpoint& door, std::uint32_t count, duration span);

} // namespace simtest
