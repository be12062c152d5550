// http1_harness: the gateway between HTTP clients and servers: no answer to the wrong request, no POST twice.
//
// What is asked and answered, and all that must not happen to it, is the peers' (peers_http). Here a gateway is drawn,
// with every option that its users have; after every turn its books are looked at; and at a moment that the seed
// chooses it is drained, which may be amid the faults: then another one takes its place.

#include "proto/http1_gateway.hpp"

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

// The pairs of its tunnels have deadlines, too. An explicit instantiation may name what is private.
const relay_pool& tunnels_of(const http1_gateway& g) noexcept;
template <auto Tunnels>
struct of_gateway {
    friend const relay_pool& tunnels_of(const http1_gateway& g) noexcept { return g.*Tunnels; }
};
template struct of_gateway<&http1_gateway::tunnels_>;

const address admin_door{.family = &tcp, .at = endpoint::ipv4(0x0a000001, 9090)};

class gateway_house {
  public:
    gateway_house(world& w, town& people);
    ~gateway_house() { world_.after_turns(nullptr, nullptr); }

    void open();
    void close();
    void stay();
    void drain(duration limit);
    void drain_at(time_point when, duration limit) {
        drain_at_ = when;
        limit_ = limit;
    }
    // Nobody else gets a block from now on, but for so many.
    void take_blocks(std::size_t spare);
    void give_blocks();

    bool is_draining() const { return until_ != time_point{}; }
    bool is_drained() const { return is_drained_; }
    // No client is there, and nobody but idle connections.
    bool is_empty() const {
        return gateway_->clients_count() + gateway_->admin_gate().clients_count() == 0 &&
               world_.conns->live_count() == gateway_->idle().idle_count();
    }
    const endpoint& door() const { return door_.at; }

  private:
    static http1_gateway_options draw(world& w);
    static void drained(void* self) noexcept;
    static void access(void* self, std::string_view line) noexcept;
    static void trouble(void* self, std::string_view line) noexcept;
    void look();
    void check_books();
    void check_drain();
    void check_gone() const;
    // A body that is too slow is told by a read of it.
    bool times_out_by_timers() const { return options_.http.body_rate_min == 0; }

    world& world_;
    http1_gateway_options options_;
    const ctrl& servers_;
    address door_;
    shops shops_;
    bool may_move_; // names, among faults
    bool has_admin_;
    http_rules rules_{};
    town& people_;
    listener_options how_;
    std::optional<http1_gateway> gateway_;
    std::vector<block*> blocks_;
    std::vector<large_block*> large_blocks_;
    std::uint64_t logged_count_ = 0; // requests that were understood
    time_point drain_at_ = never;
    duration limit_{};
    time_point until_{}; // the drain's limit, once it has begun
    bool is_drained_ = false;
    std::uint32_t overdue_turns_ = 0;
    backlog_check backlog_;
};

http1_gateway_options gateway_house::draw(world& w) {
    dice& chance = w.k.chance;
    http1_gateway_options o;
    o.http.header_timeout = seconds{3};
    o.http.body_timeout = seconds{3};
    o.http.body_rate_min = chance.coin() ? 0 : 16;
    o.http.keep_alive_timeout = seconds{4};
    o.http.keep_alive_requests = chance.coin() ? 1000 : chance.between(1, 6);
    o.http.connect_timeout = seconds{2};
    o.http.first_byte_timeout = seconds{4};
    o.http.write_timeout = seconds{4};
    o.http.repeats = chance.below(4) == 0 ? repeat::off : repeat::automatic;
    o.http.on_client_fin = chance.coin() ? client_fin::abort : client_fin::wait;
    o.http.upgrades = "other, weir-test";
    const std::uint32_t heads = chance.below(8);
    if (heads < 4) o.http.head = {.start_line_bytes_max = 300, .head_bytes_max = 900, .fields_max = 20};
    if (heads == 4) {
        o.http.head.head_bytes_max = chance.between(15'000, 65'535);
        o.http.head.start_line_bytes_max = chance.between(8'000, o.http.head.head_bytes_max - 100);
        o.http.head.fields_max = static_cast<std::uint16_t>(chance.between(100, 1000));
        saw(mark::heads_may_be_large);
    }
    o.idle.idle_max = chance.below(8) == 0 ? 0 : chance.between(1, 16);
    o.idle.age_max = chance.between(duration{milliseconds{50}}, duration{seconds{3}});
    o.idle.probe = chance.coin();
    o.idle.seed = chance.next();
    o.idle.on_bytes = chance.below(4) == 0 ? unsolicited::drain : unsolicited::kill;
    o.how = chance.coin() ? balance::least : balance::round_robin;
    o.clients_max = chance.coin() ? chance.between(4, 6) : chance.between(8, 32);
    o.tunnels_max = chance.between(4, 6); // at least one for each healthy client
    o.tunnel_idle_timeout = seconds{6};
    o.fin_timeout = seconds{2};
    if (o.http.repeats == repeat::off) saw(mark::repeats_off);
    if (o.how == balance::least) saw(mark::balance_least);
    if (o.idle.idle_max == 0) saw(mark::keeps_no_server);
    return o;
}

gateway_house::gateway_house(world& w, town& people)
    : world_(w), options_(draw(w)), servers_(w.k.chance.below(6) == 0 ? unix_stream : tcp),
      door_(door_of(w.k.chance.below(8) == 0)), shops_(w), may_move_(w.k.chance.coin()),
      has_admin_(w.k.chance.below(4) == 0), people_(people) {
    how_.accept_budget = w.k.chance.between(1, 16);
    rules_ = {.options = options_.http,
              .drains_unasked = options_.idle.on_bytes == unsolicited::drain,
              .keeps_servers = options_.idle.idle_max > 0};
    if (has_admin_) rules_.admin = admin_door.at;
    people.follow(rules_);
    for (std::uint32_t left = w.k.chance.between(1, 3); left > 0; left--) {
        shops_.add(servers_);
        people.open_shop(shops_.all().back().at);
    }
    shops_.settle();
    if (&servers_ == &unix_stream) saw(mark::http_unix_server);
    if (door_.family == &unix_stream) saw(mark::http_unix_door);
}

void gateway_house::open() {
    gateway_.emplace(*world_.conns, options_);
    for (std::size_t i = 0; i < shops_.upstreams_count(); i++)
        gateway_->add_upstream(shops_.look_up(i));
    gateway_->on_trouble(trouble, this);
    gateway_->on_access(access, this);
    if (!gateway_->listen(door_, how_)) world_.k.violate("I10", "no listener, though nothing is wrong");
    if (has_admin_ && !gateway_->listen_admin(admin_door))
        world_.k.violate("I10", "no listener for the admin page, though nothing is wrong");
    logged_count_ = 0;
    drain_at_ = never;
    until_ = {};
    is_drained_ = false;
    rules_.may_leave_early = false;
    people_.follow(rules_);
    overdue_turns_ = 0;
    backlog_ = {};
    world_.watch_accepts(&gateway_->port(), how_.accept_budget);
    if (times_out_by_timers()) world_.watch_pairs(&tunnels_of(*gateway_));
    world_.watch_exchanges(options_.http.first_byte_timeout, options_.http.write_timeout);
    world_.after_turns([](void* self) { static_cast<gateway_house*>(self)->look(); }, this);
}

void gateway_house::close() {
    if (gateway_->counters().repeated > 0) saw(mark::http_repeated);
    if (options_.http.on_client_fin == client_fin::abort && gateway_->counters().abandoned > 0)
        saw(mark::http_client_gone);
    world_.watch_accepts(nullptr, 0);
    if (times_out_by_timers()) world_.watch_pairs(nullptr);
    world_.after_turns(nullptr, nullptr);
    gateway_.reset();
}

void gateway_house::take_blocks(std::size_t spare) {
    block_pool& pool = world_.conns->blocks();
    while (pool.capacity() - pool.used() > spare)
        blocks_.push_back(pool.make());
    while (large_block* b = world_.k.chance.coin() ? pool.make_large() : nullptr)
        large_blocks_.push_back(b);
    saw(mark::blocks_short);
}

void gateway_house::give_blocks() {
    for (block* b : blocks_)
        world_.conns->blocks().free(*b);
    blocks_.clear();
    for (large_block* b : large_blocks_)
        world_.conns->blocks().free(*b);
    large_blocks_.clear();
}

// ---- draining

void gateway_house::drain(duration limit) {
    world_.watch_accepts(nullptr, 0); // the rest of the queue is taken at once
    until_ = world_.loop->now() + limit;
    rules_.may_leave_early = true;
    people_.follow(rules_);
    gateway_->drain(drain_kind::end, limit, drained, this);
}

void gateway_house::drained(void* self) noexcept {
    gateway_house& h = *static_cast<gateway_house*>(self);
    if (h.is_drained_) h.world_.k.violate("I8", "a drain was over twice");
    h.is_drained_ = true;
    saw(h.gateway_->cut_count() > 0 ? mark::http_cut_off : mark::http_drained);
    if (h.gateway_->cut_count() > 0 && h.world_.loop->now() < h.until_)
        h.world_.k.violate("I8", "a drain cut requests off before its limit");
    if (h.gateway_->clients_count() > 0) h.world_.k.violate("I8", "a drain is over, and a client is left");
}

void gateway_house::check_drain() {
    // In so many turns a timer may be put off: by two rounds of full batches, and by twists.
    const std::uint32_t turns_max = 64 + 2 * world_.loop->fds().used_count();
    const bool is_overdue = is_draining() && !is_drained_ && world_.loop->now() > until_ + milliseconds{20};
    overdue_turns_ = is_overdue ? overdue_turns_ + 1 : 0;
    if (overdue_turns_ > turns_max) world_.k.violate("I8", "a drain outlived its limit");
}

// ---- after every turn

void gateway_house::look() {
    check_books();
    check_drain();
    check_gone();
    const bool has_admins = gateway_->admin_gate().clients_count() > 0; // which wait in the same way, at another gate
    backlog_.look(world_, gateway_->gate(),
                  [&](const connection& conn) { return !has_admins && conn.cb().name == std::string_view{"http1-waiting"}; });
    if (gateway_->gate().let_go_count() > 0 && !rules_.may_leave_early) {
        rules_.may_leave_early = true;
        people_.follow(rules_);
    }
    people_.judge_early_ends();
    if (!is_draining() && world_.k.time.now >= drain_at_) drain(limit_);
    if (may_move_ && world_.k.chance.below(64) == 0) {
        const std::size_t i = shops_.move_one();
        gateway_->set_upstream(i, shops_.look_up(i));
    }
    if (!may_move_) shops_.check_records(gateway_->upstreams(), people_);
}

// From now on every name has all its addresses.
void gateway_house::stay() {
    may_move_ = false;
    shops_.settle();
    for (std::size_t i = 0; i < shops_.upstreams_count(); i++)
        gateway_->set_upstream(i, shops_.look_up(i));
}

void gateway_house::trouble(void* self, std::string_view line) noexcept {
    if (line.ends_with(": Resource temporarily unavailable"))
        static_cast<gateway_house*>(self)->world_.k.violate("I23", "a request failed since a server was busy for a moment");
}

void gateway_house::access(void* self, std::string_view line) noexcept {
    gateway_house& h = *static_cast<gateway_house*>(self);
    if (line.find(" \"\" ") == line.npos) h.logged_count_++;
}

void gateway_house::check_books() {
    kernel& k = world_.k;
    std::uint32_t waiting = 0, asking = 0, serving = 0, tunneled = 0;
    conntab& conns = *world_.conns;
    for (connection* conn = conns.first(); conn; conn = conns.after(*conn)) {
        const std::string_view role = conn->cb().name;
        if (role == "http1-waiting") waiting++;
        if (role == "http1-client") asking++;
        if (role == "http1-server") serving++;
        if (role == "relay") tunneled++;
    }
    if (gateway_->active_count() != asking) k.violate("I18", "there are not as many exchanges as clients that ask");
    const std::uint32_t admins = gateway_->admin_gate().clients_count();
    if (gateway_->clients_count() + admins != waiting + asking + (tunneled + 1) / 2)
        k.violate("I18", "there are not as many clients as counted");
    if (serving > asking) k.violate("I18", "a server's connection is nobody's");
    if (gateway_->clients_count() > options_.clients_max || admins > http1_gateway::admin_clients_max)
        k.violate("I18", "there are more clients than may be");
    if (asking == 0 && gateway_->counters().requests != logged_count_)
        k.violate("I18", "the access log has not one line for each request");
    const bool is_given_back =
        conns.blocks().used() == blocks_.size() && conns.blocks().large_used() == large_blocks_.size();
    if (asking + tunneled == 0 && !is_given_back)
        k.violate("I5", "a block is held by nobody who needs one");
}

// A client whose end is known, whose request is complete and who has said nothing behind it is served no longer.
void gateway_house::check_gone() const {
    if (options_.http.on_client_fin == client_fin::wait) return;
    conntab& conns = *world_.conns;
    for (connection* conn = conns.first(); conn; conn = conns.after(*conn)) {
        const bool is_known = conn->slot().ended() && !conn->slot().is(fd_state::news); // else its wake is still to come
        if (!is_known || std::string_view{conn->cb().name} != "http1-client") continue;
        if (!conn->owner_as<http1_exchange>().awaits_server()) continue;
        if (static_cast<stream&>(*world_.k.at(conn->fd())).in.empty())
            world_.k.violate("I4", "a client has gone, and its server works on for it");
    }
}

// ---- the run

std::uint64_t run(std::uint64_t seed) {
    world w{seed, {.large_blocks_max = 12}};
    w.closes_what_failed = false; // what a server said before it failed is still passed on
    town people{w.k, town::between::judges, town::tongue::http1};
    std::optional<gateway_house> h;
    h.emplace(w, people);
    h->open();
    dice& chance = w.k.chance;
    if (chance.below(6) == 0) {
        const duration wait = chance.between(duration{milliseconds{100}}, duration{seconds{3}});
        h->drain_at(w.k.time.now + wait, chance.between(duration{}, duration{seconds{8}}));
    }
    if (chance.below(6) == 0) h->take_blocks(chance.below(4));

    go_through_trouble(w, people, h->door(), 24);
    h->give_blocks();
    w.turn_until(w.k.time.now + seconds{12}); // upstreams that rested are asked again after 10 s
    w.require_by(w.k.time.now + seconds{60}, "I8", "a client is served beyond every deadline",
                 [&] { return h->is_empty(); });
    if (h->is_draining()) {
        saw(mark::http_drained_in_trouble);
        w.require_by(w.k.time.now + seconds{9}, "I8", "a drain outlived its limit", [&] { return h->is_drained(); });
        h->close();
        h->open();
    }
    h->stay();
    people.lose_shops(town::hollows::one);
    // A drain, a tunnel and a client that stays cost descriptors and ports for a while.
    const auto& ports = w.k.options().network;
    const bool is_scarce = w.k.options().descriptors_max < 64 || ports.port_last - ports.port_first < 64;
    serve_healthy(w, people, h->door(), is_scarce ? 1 : chance.between(2, 4), milliseconds{300});
    w.require_by(w.k.time.now + seconds{15}, "I8", "an idle connection outlived its age",
                 [&] { return w.conns->live_count() == 0; });
    if (w.conns->blocks().used() + w.conns->blocks().large_used() != 0) w.k.violate("I5", "a block was not given back");

    w.k.note("teardown");
    h->drain(chance.between(duration{}, duration{seconds{1}}));
    w.require_by(w.k.time.now + seconds{2}, "I8", "a drain outlived its limit", [&] { return h->is_drained(); });
    h->close();
    h.reset();
    w.close_conns();
    w.tear_down();
    return w.k.log.hash();
}

} // namespace

const harness http1_harness{.name = "http1", .run = run};

} // namespace simtest
