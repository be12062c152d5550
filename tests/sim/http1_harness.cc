// http1_harness: the gateway between HTTP clients and servers: no answer to the wrong request, no POST twice.
//
// What is asked and answered, and all that must not happen to it, is the peers' (peers_http). Here a gateway is drawn,
// with every option that its users have; after every turn its books are looked at; and at a moment that the seed
// chooses it is drained, which may be amid the faults: then another one takes its place.

#include "proto/http1_gateway.hpp"

#include "proto/tcp.hpp"
#include "proto/unix.hpp"
#include "sim/peers.hpp"

namespace simtest {

namespace {

address shop(const ctrl& family, std::uint32_t i) {
    static constexpr const char* paths[] = {"@a", "@b", "@c"};
    if (&family == &tcp) return {.family = &tcp, .at = endpoint::ipv4(0x0a000101 + i, 80)};
    return {.family = &unix_stream, .at = endpoint::unix_path(paths[i]).value()};
}

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
        return gateway_->clients_count() == 0 && world_.conns->live_count() == gateway_->idle().idle_count();
    }
    const endpoint& door() const { return door_.at; }

  private:
    static http1_gateway_options draw(world& w);
    static void drained(void* self) noexcept;
    static void access(void* self, std::string_view line) noexcept;
    void look();
    void check_books();
    void check_drain();
    // A body that is too slow is told by a read of it.
    bool times_out_by_timers() const { return options_.http.body_rate_min == 0; }

    world& world_;
    http1_gateway_options options_;
    const ctrl& servers_;
    address door_;
    std::uint32_t shops_count_;
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
    o.clients_max = chance.between(8, 32);
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
      door_(door_of(w.k.chance.below(8) == 0)), shops_count_(w.k.chance.between(1, 3)),
      has_admin_(w.k.chance.below(4) == 0), people_(people) {
    how_.accept_budget = w.k.chance.between(1, 16);
    rules_ = {.options = options_.http,
              .drains_unasked = options_.idle.on_bytes == unsolicited::drain,
              .keeps_servers = options_.idle.idle_max > 0};
    if (has_admin_) rules_.admin = admin_door.at;
    people.follow(rules_);
    for (std::uint32_t i = 0; i < shops_count_; i++)
        people.open_shop(shop(servers_, i).at);
    if (&servers_ == &unix_stream) saw(mark::http_unix_server);
    if (door_.family == &unix_stream) saw(mark::http_unix_door);
}

void gateway_house::open() {
    gateway_.emplace(*world_.conns, options_);
    for (std::uint32_t i = 0; i < shops_count_; i++)
        gateway_->add_upstream(shop(servers_, i));
    gateway_->on_access(access, this);
    if (!gateway_->listen(door_, how_)) world_.k.violate("I10", "no listener, though nothing is wrong");
    if (has_admin_ && !gateway_->listen_admin(admin_door))
        world_.k.violate("I10", "no listener for the admin page, though nothing is wrong");
    logged_count_ = 0;
    drain_at_ = never;
    until_ = {};
    is_drained_ = false;
    overdue_turns_ = 0;
    world_.watch_accepts(&gateway_->port(), how_.accept_budget);
    if (times_out_by_timers()) world_.watch_pairs(&tunnels_of(*gateway_));
    world_.watch_exchanges(options_.http.first_byte_timeout, options_.http.write_timeout);
    world_.after_turns([](void* self) { static_cast<gateway_house*>(self)->look(); }, this);
}

void gateway_house::close() {
    if (gateway_->counters().repeated > 0) saw(mark::http_repeated);
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
    constexpr std::uint32_t turns_max = 64; // in which a timer may be put off
    const bool is_overdue = is_draining() && !is_drained_ && world_.loop->now() > until_ + milliseconds{20};
    overdue_turns_ = is_overdue ? overdue_turns_ + 1 : 0;
    if (overdue_turns_ > turns_max) world_.k.violate("I8", "a drain outlived its limit");
}

// ---- after every turn

void gateway_house::look() {
    check_books();
    check_drain();
    if (!is_draining() && world_.k.time.now >= drain_at_) drain(limit_);
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
    if (gateway_->clients_count() != waiting + asking + (tunneled + 1) / 2)
        k.violate("I18", "there are not as many clients as counted");
    if (serving > asking) k.violate("I18", "a server's connection is nobody's");
    // The admin page lets its clients in above the limit.
    if (!has_admin_ && gateway_->clients_count() > options_.clients_max)
        k.violate("I18", "there are more clients than may be");
    if (asking == 0 && gateway_->counters().requests != logged_count_)
        k.violate("I18", "the access log has not one line for each request");
    const bool is_given_back =
        conns.blocks().used() == blocks_.size() && conns.blocks().large_used() == large_blocks_.size();
    if (asking + tunneled == 0 && !is_given_back)
        k.violate("I5", "a block is held by nobody who needs one");
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

    go_through_trouble(w, people, h->door(), 16);
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
