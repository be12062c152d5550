// stream_harness: the whole L4 proxy: greetings, several servers of which some are out of reach, relaying, draining.
//
// After every turn its books are looked at: each client is counted once, each connection to a server is somebody's, and
// no block and no pipe is held but by who has bytes in it. At a moment that the seed chooses it is drained, with some
// limit; that may be amid the faults, and then another one takes its place.

#include "proto/stream_proxy.hpp"

#include "proto/tcp.hpp"
#include "proto/unix.hpp"
#include "sim/backlog.hpp"
#include "sim/peers.hpp"
#include "sim/shops.hpp"

namespace simtest {

namespace {

address door_of(bool by_path) {
    if (by_path) return {.family = &unix_stream, .at = endpoint::unix_path("@door").value()};
    return {.family = &tcp, .at = endpoint::ipv4(0x0a000001, 8080)};
}

class house {
  public:
    house(world& w, town& people);
    ~house() { world_.after_turns(nullptr, nullptr); }

    void open();
    void close();
    void stay();
    void drain(duration limit);
    void drain_at(time_point when, duration limit) {
        drain_at_ = when;
        limit_ = limit;
    }

    bool is_draining() const { return until_ != time_point{}; }
    bool is_drained() const { return is_drained_; }
    // Nobody is served, and nobody waits to be accepted.
    bool is_empty() const;
    const endpoint& door() const { return door_.at; }
    std::uint32_t clients_max() const { return options_.relay.pairs_max; }
    // No reason for any of them comes from who behaves.
    std::uint64_t failures_count() const {
        const auto& c = proxy_->counters();
        return c.refused + c.bad_greetings + c.silent + c.abandoned + world_.conns->ended_count(end_cause::timed_out);
    }

  private:
    static stream_proxy_options draw(world& w);
    static void trouble(void* self, std::string_view line) noexcept;
    static void drained(void* self) noexcept;
    void look();
    void check_books();
    void check_deadline(const connection& client);
    void check_drain();
    void see();
    void see_all();

    world& world_;
    town& people_;
    stream_proxy_options options_;
    address door_;
    shops shops_;
    bool may_move_; // names, among faults
    listener_options how_;
    std::optional<stream_proxy> proxy_;
    struct {
        std::uint64_t connect_failed, gave_up;
        bool is_full;
    } before_{}; // as of the turn before
    time_point drain_at_ = never;
    duration limit_{};
    bool is_punctual_;
    time_point until_{}; // the drain's limit, once it has begun
    bool is_drained_ = false;
    std::uint32_t overdue_turns_ = 0;
    backlog_check backlog_;
};

stream_proxy_options house::draw(world& w) {
    dice& chance = w.k.chance;
    stream_proxy_options o;
    // Two connections for each, as it is asked for.
    o.relay.pairs_max = chance.coin() ? w.connections_max / 2 : chance.between(1, 4);
    o.relay.connect_timeout = seconds{2};
    // As long as a slow wire takes at times: some come through when they are given up. A loop that comes late hears of
    // both in one turn.
    const duration round_trip_max = 2 * w.k.options().network.delay_max;
    if (round_trip_max > milliseconds{1} && chance.coin()) {
        o.relay.connect_timeout = chance.between(duration{milliseconds{1}}, round_trip_max);
        const bool is_late = chance.coin();
        if (is_late) w.k.faults.set(fault::epoll_late, 2500);
        if (is_late) w.k.faults.set(fault::wire_slow, 5000);
    }
    o.relay.fin_timeout = seconds{2};
    o.relay.idle_timeout = seconds{6};
    o.relay.pipes.pipes_max = chance.coin() ? 0 : chance.between(1, 4);
    o.how = chance.coin() ? balance::least : balance::round_robin;
    o.accept_proxy = chance.coin();
    o.proxy_timeout = seconds{3};
    static constexpr send_proxy sends[] = {send_proxy::off, send_proxy::off, send_proxy::v1, send_proxy::v2};
    o.send = sends[chance.below(4)];
    return o;
}

house::house(world& w, town& people)
    : world_(w), people_(people), options_(draw(w)), door_(door_of(w.k.chance.below(4) == 0)),
      shops_(w), may_move_(w.k.chance.coin()) {
    const fault_plan& faults = w.k.faults;
    is_punctual_ = faults.ratio(fault::clock_jump) == 0 && faults.ratio(fault::epoll_late) == 0 &&
                   faults.ratio(fault::call_late) == 0;
    how_.socket.backlog_count = static_cast<int>(w.k.chance.between(4, 16));
    how_.accept_budget = w.k.chance.between(1, 16);
    people.speak_proxy(options_.accept_proxy, static_cast<int>(options_.send));
    for (std::uint32_t left = w.k.chance.between(1, shops::shops_max); left > 0; left--) {
        const bool by_path = w.k.chance.below(4) == 0;
        shops_.add(by_path ? unix_stream : tcp);
        people.open_shop(shops_.all().back().at);
        if (by_path) saw(mark::unix_server);
    }
    shops_.settle();
    if (door_.family == &unix_stream) saw(mark::unix_door);
}

void house::open() {
    proxy_.emplace(*world_.conns, options_);
    for (std::size_t i = 0; i < shops_.upstreams_count(); i++)
        proxy_->add_upstream(shops_.look_up(i));
    proxy_->on_trouble(trouble, this);
    if (!proxy_->listen(door_, how_)) world_.k.violate("I10", "no listener, though nothing is wrong");
    before_ = {};
    drain_at_ = never;
    until_ = {};
    is_drained_ = false;
    overdue_turns_ = 0;
    backlog_ = {};
    world_.watch_accepts(&proxy_->port(), how_.accept_budget);
    world_.watch_pairs(&proxy_->relay());
    world_.after_turns([](void* self) { static_cast<house*>(self)->look(); }, this);
}

void house::close() {
    see_all();
    world_.watch_accepts(nullptr, 0);
    world_.watch_pairs(nullptr);
    world_.after_turns(nullptr, nullptr);
    proxy_.reset();
}

bool house::is_empty() const {
    if (world_.conns->live_count() > 0 || people_.is_anybody_connecting()) return false;
    return !proxy_->port().is_open() ||
           static_cast<const stream&>(*world_.k.at(proxy_->port().fd())).accept_queue.empty();
}

// ---- draining

void house::drain(duration limit) {
    world_.watch_accepts(nullptr, 0); // the rest of the queue is taken at once
    until_ = world_.loop->now() + limit;
    proxy_->drain(drain_kind::end, limit, drained, this);
}

void house::drained(void* self) noexcept {
    house& h = *static_cast<house*>(self);
    if (h.is_drained_) h.world_.k.violate("I8", "a drain was over twice");
    h.is_drained_ = true;
    saw(h.proxy_->cut_count() > 0 ? mark::cut_off : mark::drained);
    if (h.proxy_->cut_count() > 0 && h.world_.loop->now() < h.until_)
        h.world_.k.violate("I8", "a drain cut clients off before its limit");
    if (h.world_.conns->live_count() > 0) h.world_.k.violate("I8", "a drain is over, and somebody is left");
}

// ---- after every turn

void house::look() {
    check_books();
    check_drain();
    // Whether a PROXY line has begun cannot be seen from here.
    backlog_.look(world_, proxy_->gate(), [](const connection&) { return false; });
    see();
    if (!is_draining() && world_.k.time.now >= drain_at_) drain(limit_);
    if (may_move_ && world_.k.chance.below(64) == 0) {
        const std::size_t i = shops_.move_one();
        proxy_->set_upstream(i, shops_.look_up(i));
    }
    if (!may_move_) shops_.check_records(proxy_->upstreams(), people_);
}

// From now on every name has all its addresses.
void house::stay() {
    may_move_ = false;
    shops_.settle();
    for (std::size_t i = 0; i < shops_.upstreams_count(); i++)
        proxy_->set_upstream(i, shops_.look_up(i));
}

void house::check_books() {
    kernel& k = world_.k;
    const auto& c = proxy_->counters();
    std::uint32_t waiting = 0, dialing = 0, may_hold = 0;
    conntab& conns = *world_.conns;
    for (connection* conn = conns.first(); conn; conn = conns.after(*conn)) {
        const std::string_view role = conn->cb().name;
        if (role == "stream-client") {
            waiting++;
            check_deadline(*conn);
        } else if (role == "stream-server") {
            dialing++;
        } else if (conn->slot().is(fd_state::send_active)) {
            may_hold++;
        }
    }
    const std::size_t pairs = proxy_->relay().pair_count();
    if (c.clients_total != c.relayed + c.refused + c.bad_greetings + c.silent + c.abandoned + waiting)
        k.violate("I18", "clients are not counted once each");
    if (proxy_->clients_count() != waiting + pairs) k.violate("I18", "there are not as many clients as counted");
    if (proxy_->clients_count() > options_.relay.pairs_max) k.violate("I18", "there are more clients than may be");
    std::size_t active = 0, held = 0;
    for (std::size_t i = 0; i < proxy_->upstreams().size(); i++) {
        active += proxy_->upstreams().at(i).active_count;
        for (const upstream_address& a : proxy_->upstreams().at(i).places)
            held += a.users_count;
    }
    if (active != held) k.violate("I18", "addresses are not held by as many as their servers have connections");
    if (active != dialing + pairs) k.violate("I18", "servers have not as many connections as counted");
    const pipe_pool* pipes = proxy_->relay().pipes();
    if (conns.blocks().used() + (pipes ? pipes->lent_count() : 0) > waiting + may_hold)
        k.violate("I5", "a quiet pair holds a block, or a pipe");
}

// Of a client that waits for its server. When the clock jumps, each of its deadlines may be late.
void house::check_deadline(const connection& client) {
    if (!is_punctual_) return;
    duration longest = options_.relay.connect_timeout * static_cast<std::int64_t>(shops_.all().size()) + milliseconds{500};
    if (options_.accept_proxy) longest += options_.proxy_timeout;
    if (world_.loop->now() > client.born() + longest)
        world_.k.violate("I8", "a client waits for its server beyond every deadline");
}

void house::check_drain() {
    // In so many turns a timer may be put off: by two rounds of full batches, and by twists.
    const std::uint32_t turns_max = 64 + 2 * world_.loop->fds().used_count();
    const bool is_overdue = is_draining() && !is_drained_ && world_.loop->now() > until_ + milliseconds{20};
    overdue_turns_ = is_overdue ? overdue_turns_ + 1 : 0;
    if (overdue_turns_ > turns_max) world_.k.violate("I8", "a drain outlived its limit");
}

// What has been seen.
void house::see() {
    const auto& c = proxy_->counters();
    const std::uint64_t gave_up = c.refused + c.abandoned;
    if (c.connect_failed > before_.connect_failed && gave_up == before_.gave_up) saw(mark::next_server);
    const bool is_full = proxy_->clients_count() == options_.relay.pairs_max;
    if (is_full && !before_.is_full) saw(mark::limit_reached);
    before_ = {c.connect_failed, gave_up, is_full};
}

// At the end of a proxy.
void house::see_all() {
    const relay_pool& relay = proxy_->relay();
    if (proxy_->counters().abandoned > 0) saw(mark::abandoned);
    if (relay.spliced_count() > 0) saw(mark::spliced);
    if (relay.unspliced_count() > 0) saw(mark::copied_again);
    if (relay.pipes() && relay.pipes()->failed_count() > 0) saw(mark::pipe_refused);
}

void house::trouble(void* self, std::string_view line) noexcept {
    if (line.ends_with(": Resource temporarily unavailable"))
        static_cast<house*>(self)->world_.k.violate("I23", "a client was refused since a server was busy for a moment");
    if (line.find(" refused: connect_failed: ") != line.npos) saw(mark::refused_by_all);
}

// ---- the run

std::uint64_t run(std::uint64_t seed) {
    world w{seed};
    town people{w.k, town::between::passes_on};
    std::optional<house> h;
    h.emplace(w, people);
    h->open();
    if (w.k.chance.below(4) == 0) {
        const duration wait = w.k.chance.between(duration{milliseconds{100}}, duration{seconds{3}});
        h->drain_at(w.k.time.now + wait, w.k.chance.between(duration{}, duration{seconds{8}}));
    }

    go_through_trouble(w, people, h->door(), 24);
    w.turn_until(w.k.time.now + seconds{3});
    // Each of those who came may have kept the others waiting for all of its deadlines, and a backlog that was full may
    // make a client's kernel ask again for as long as 127 s.
    const seconds patience{170 + 17 * 26 / static_cast<int>(h->clients_max())};
    w.require_by(w.k.time.now + patience, "I8", "a client outlived every deadline", [&] { return h->is_empty(); });
    if (h->is_draining()) {
        saw(mark::drained_in_trouble);
        w.require_by(w.k.time.now + seconds{9}, "I8", "a drain outlived its limit", [&] { return h->is_drained(); });
        h->close();
        h->open();
    }

    w.k.note("healthy");
    h->stay();
    people.lose_shops(town::hollows::none);
    const std::uint64_t failures = h->failures_count();
    const bool few_descriptors = w.k.options().descriptors_max < 64;
    serve_healthy(w, people, h->door(), few_descriptors ? 1 : w.k.chance.between(1, 3), milliseconds{100});
    w.require_by(w.k.time.now + seconds{10}, "I8", "a pair outlived its ends", [&] { return h->is_empty(); });
    if (h->failures_count() != failures) w.k.violate("I9", "a client failed, though it and a server are well");

    w.k.note("drain");
    people.send_clients(h->door(), w.k.chance.below(3), milliseconds{40}, false);
    w.turn_until(w.k.time.now + w.k.chance.between(duration{}, duration{milliseconds{60}}));
    h->drain(w.k.chance.between(duration{}, duration{seconds{2}}));
    w.require_by(w.k.time.now + seconds{3}, "I8", "a drain outlived its limit", [&] { return h->is_drained(); });
    if (w.conns->blocks().used() != 0) w.k.violate("I5", "a block was not given back");

    w.k.note("teardown");
    h->close();
    h.reset();
    w.close_conns();
    w.tear_down();
    return w.k.log.hash();
}

} // namespace

const harness stream_harness{.name = "stream", .run = run};

} // namespace simtest
