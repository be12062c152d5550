// places_harness: gates of several loops that share their places, step by step.
//
// One thread turns all loops. Between two atomic operations of client_places whose order with another thread's matters,
// it may take a whole turn of another loop: what a thread that stands still there lets the others do. Clients come to
// each loop, are busy, wait, go; and a loop may close meanwhile. Then the clients stand still, and whoever is in a
// backlog must be there for want of a place: I22.

#include <vector>

#include "proto/client_gate.hpp"
#include "sim/world.hpp"

namespace simtest {

namespace {

constexpr std::uint32_t yards_max = 4, visitors_max = 24;

class street;

// One loop and its gate.
struct yard {
    street* home = nullptr;
    event_loop loop;
    std::optional<conntab> conns;
    std::optional<client_gate> gate;
    bool is_turning = false;
};

struct visitor {
    street* home = nullptr;
    std::uint16_t port = 0;
    remote* end = nullptr; // null: it has gone
};

class street {
  public:
    street(kernel& k, std::uint32_t places, std::uint32_t yards)
        : k_(k), places_(places, yards), yards_count_(yards) {
        for (std::uint32_t i = 0; i < yards_count_; i++)
            open(i);
        k_.on_interleave([](void* at) noexcept { static_cast<street*>(at)->let_another_on(); }, this);
    }
    street(const street&) = delete;
    street& operator=(const street&) = delete;
    ~street() { k_.on_interleave(nullptr, nullptr); }

    void send(std::uint32_t count, duration span) {
        for (std::uint32_t i = 0; i < count; i++) {
            visitors_.push_back(std::make_unique<visitor>());
            visitors_.back()->home = this;
            visitors_.back()->port = static_cast<std::uint16_t>(1000 + visitors_.size());
            const duration wait = k_.chance.between(duration{}, span);
            k_.time.plan(k_.time.now + wait, come, visitors_.back().get(), 0);
        }
    }
    void turn_until(time_point end) {
        while (k_.time.now < end) {
            yard& next = yards_[k_.chance.below(yards_count_)]; // one draw a statement: their order is the run's
            turn(next, k_.chance.between(duration{1000}, duration{milliseconds{2}}));
        }
    }
    // Its clients go, and those in its backlog are reset.
    void close(std::uint32_t i) {
        yards_[i].gate->close();
        let_all_go(yards_[i]);
    }
    void stand_still() { is_still_ = true; }
    void check_backlogs() {
        // A place may be on its way to the loop that was given it.
        for (int tries = 0; tries < 3 && is_anybody_waiting() && clients_count() < places_.clients_max(); tries++)
            turn_until(k_.time.now + milliseconds{50});
        if (!is_anybody_waiting()) return;
        saw(mark::place_awaited);
        if (clients_count() < places_.clients_max())
            k_.violate("I22", "a client is in the backlog of a loop, and a place is free");
        for (std::uint32_t i = 0; i < yards_count_; i++)
            for (connection* conn = yards_[i].conns->first(); conn; conn = yards_[i].conns->after(*conn))
                if (may_go(*conn))
                    k_.violate("I22", "a client is in the backlog of a loop, and one of some loop only waits");
    }
    void end() {
        for (std::uint32_t i = 0; i < yards_count_; i++)
            if (yards_[i].gate->door().is_open()) close(i);
        turn_until(k_.time.now + seconds{5});
        if (places_.taken_count() != 0) k_.violate("I22", "a place is taken, and no client has it");
        if (places_.paused_count() != 0) k_.violate("I22", "a gate waits for a place, and its listener is closed");
        for (std::uint32_t i = 0; i < yards_count_; i++) {
            yards_[i].gate.reset();
            yards_[i].conns.reset();
        }
    }

  private:
    static const data_cb waiting_cb, busy_cb;
    static const remote_cb visitor_cb;
    static endpoint door_of(std::uint32_t i) {
        return endpoint::ipv4(0x0a000001, static_cast<std::uint16_t>(8000 + i));
    }

    void open(std::uint32_t i) {
        yard& y = yards_[i];
        y.home = this;
        if (!y.loop.open()) k_.violate("I10", "no loop, though nothing is wrong");
        y.conns.emplace(y.loop);
        if (!y.conns->open({.connections_max = 2 * visitors_max}))
            k_.violate("I10", "no conntab, though nothing is wrong");
        y.gate.emplace(*y.conns, client_gate_options{.places = &places_, .accepted = accepted, .let_go = let_go, .owner = &y});
        const std::uint32_t budget = k_.chance.between(1, 4);
        if (!y.gate->listen({.family = &tcp, .at = door_of(i)}, {.accept_budget = budget}))
            k_.violate("I10", "no listener, though nothing is wrong");
    }

    bool is_anybody_waiting() const {
        for (std::uint32_t i = 0; i < yards_count_; i++) {
            const listener& door = yards_[i].gate->door();
            if (door.is_open() && !static_cast<const stream&>(*k_.at(door.fd())).accept_queue.empty()) return true;
        }
        return false;
    }
    // And could have gone for a while: what it had said before it was accepted was read, and the grace of one that has
    // said nothing is over.
    bool may_go(const connection& client) const {
        return &client.cb() == &waiting_cb && k_.time.now - client.born() > milliseconds{1100};
    }

    // --- loops

    void turn(yard& y, duration sleep_max) {
        if (y.is_turning) return;
        y.is_turning = true;
        y.loop.turn(sleep_max);
        y.is_turning = false;
        if (clients_count() > places_.clients_max()) k_.violate("I18", "there are more clients than may be");
    }
    void let_another_on() noexcept {
        if (k_.chance.below(3) != 0) return;
        k_.progress(); // a look for nothing is no spin: the other thread is to go on
        turn(yards_[k_.chance.below(yards_count_)], duration{});
    }
    std::uint32_t clients_count() const {
        std::uint32_t count = 0;
        for (std::uint32_t i = 0; i < yards_count_; i++)
            if (yards_[i].gate) count += yards_[i].gate->clients_count();
        return count;
    }

    // --- clients, as the gate has them

    static void accepted(void* at, connection& client, const endpoint&) noexcept {
        yard& y = *static_cast<yard*>(at);
        client.attach(waiting_cb, &y);
        y.gate->waits(client);
        client.want_recv();
    }
    static void let_go(void* at, connection& client) noexcept {
        saw(mark::client_let_go);
        client.close(close_intent::graceful, end_cause::idle_evicted);
        static_cast<yard*>(at)->gate->gone();
    }
    static verdict gone(connection& client, end_cause cause) noexcept {
        yard& y = client.owner_as<yard>();
        const verdict v = client.close(close_intent::silent, cause);
        y.gate->gone();
        return v;
    }
    void let_all_go(yard& y) {
        for (connection* conn = y.conns->first(); conn; conn = y.conns->first())
            gone(*conn, end_cause::shutdown);
    }
    static verdict recv(connection& client) noexcept {
        yard& y = client.owner_as<yard>();
        char word = 0;
        const io_result got = client.recv(&word, 1);
        if (got.end == io::again) return verdict::keep;
        if (got.end == io::closed) return gone(client, end_cause::peer_closed);
        if (got.end == io::failed) return gone(client, end_cause::peer_failed);
        const bool was_waiting = &client.cb() == &waiting_cb;
        client.count_use();
        if (word == 'w') {
            client.attach(waiting_cb, &y);
            y.gate->waits(client);
        } else if (was_waiting) {
            client.attach(busy_cb, &y);
            y.gate->stops_waiting(client);
        }
        return verdict::keep;
    }
    static verdict wake(connection& client) noexcept {
        return client.is_broken() ? gone(client, end_cause::peer_failed) : verdict::keep;
    }

    // --- clients, at their own end

    static void come(void* at, std::uint32_t) noexcept {
        visitor& v = *static_cast<visitor*>(at);
        street& s = *v.home;
        const endpoint door = door_of(s.k_.chance.below(s.yards_count_));
        v.end = &s.k_.net.dial(endpoint::ipv4(0x0a000002, v.port), door, visitor_cb, &v);
    }
    void act(remote& r) noexcept {
        visitor& v = *static_cast<visitor*>(r.owner);
        if (r.connecting()) return;
        char room[8];
        const sys::count n = r.recv(room);
        const bool has_ended = r.failed() || (n <= 0 && n != -EAGAIN);
        if (has_ended || (!is_still_ && k_.chance.below(12) == 0)) {
            v.end = nullptr;
            if (k_.chance.coin()) r.close();
            else r.reset();
            return;
        }
        if (!is_still_ && k_.chance.coin()) r.send(k_.chance.coin() ? "w" : "b");
        r.wake_in(k_.chance.between(duration{10'000}, duration{milliseconds{80}}));
    }

    kernel& k_;
    client_places places_;
    const std::uint32_t yards_count_;
    yard yards_[yards_max];
    std::vector<std::unique_ptr<visitor>> visitors_;
    bool is_still_ = false;
};

const remote_cb street::visitor_cb{
    .name = "visitor", .run = [](remote& r) noexcept { static_cast<visitor*>(r.owner)->home->act(r); }};
const data_cb street::waiting_cb{.name = "waiting", .recv = recv, .send = keep_on, .wake = wake};
const data_cb street::busy_cb{.name = "busy", .recv = recv, .send = keep_on, .wake = wake};

std::uint64_t run(std::uint64_t seed) {
    kernel k{{.seed = seed}};
    watch(k);
    k.faults.pause();
    const std::uint32_t yards = k.chance.between(1, yards_max);
    street s{k, k.chance.between(1, 6), yards};
    for (std::uint32_t rounds = k.chance.between(1, 3); rounds > 0; rounds--) {
        s.send(k.chance.between(1, visitors_max), milliseconds{300});
        s.turn_until(k.time.now + k.chance.between(duration{}, duration{milliseconds{600}}));
    }
    if (yards > 1 && k.chance.below(4) == 0) s.close(k.chance.below(yards));
    s.stand_still();
    s.turn_until(k.time.now + seconds{3}); // who says nothing may be let go after one
    s.check_backlogs();
    s.end();
    sums().seeds++;
    sums().calls += k.log.count();
    return k.log.hash();
}

} // namespace

const harness places_harness{.name = "places", .run = run};

} // namespace simtest
