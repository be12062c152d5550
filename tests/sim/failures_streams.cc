// failures_streams: idle pools and relays.

#include "core/listener.hpp"
#include "core/relay.hpp"
#include "proto/tcp.hpp"
#include "proto/unix.hpp"
#include "sim/failures.hpp"

namespace failures {

namespace {

// ---- idle pools

const script ask_and_park{say("ask"), hear("answer"), park};
// As often as any scenario asks.
const script answer_each{hear("ask"), say("answer"), hear("ask"), say("answer"),
                         hear("ask"), say("answer"), hear_reset};

struct parlour {
    explicit parlour(stage& s, const idle_options& o = {.idle_max = 8, .keys_max = 4, .age_max = milliseconds{200}})
        : home(s) {
        s.start([&] {
            pool.emplace(*s.conns, o);
            return pool->capacity() > 0;
        });
    }
    local_player& ask(const ctrl& family = tcp, const endpoint& at = shop_at, const script& what = ask_and_park) {
        local_player& p = home.local(what);
        p.pool = &*pool;
        p.take_or_dial(family, at);
        return p;
    }
    // One after the other.
    void ask_and_wait(const endpoint& at = shop_at) {
        ask(tcp, at);
        home.settle(seconds{3});
    }
    // After a failure one that asks is answered.
    void recover(const ctrl& family = tcp, const endpoint& at = shop_at) {
        home.recover();
        home.k.faults.plan.pause();
        const local_player& p = ask(family, at);
        home.settle();
        home.require(p.whole, "nobody answers after the failure");
        home.k.faults.plan.resume();
    }
    stage& home;
    std::optional<idle_pool> pool;
};

void idle_is_taken(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answer_each});
    parlour p{s};
    p.ask_and_wait();
    p.ask_and_wait();
    s.require(s.harmed() || p.pool->taken_count() == 1, "it was not taken");
    p.recover();
}

void idle_is_probed(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answer_each});
    parlour p{s, {.idle_max = 8, .age_max = milliseconds{200}, .probe = true}};
    p.ask_and_wait();
    p.ask_and_wait();
    p.recover();
}

void idle_unix_is_taken(stage& s) {
    s.open_conns();
    const endpoint at = endpoint::unix_path("@shop").value();
    s.serve(at, {answer_each});
    parlour p{s};
    for (int i = 0; i < 2; i++) {
        p.ask(unix_stream, at);
        s.settle();
    }
    p.recover(unix_stream, at);
}

void idle_expires(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answer_each});
    parlour p{s, {.idle_max = 8, .age_max = milliseconds{100}}};
    p.ask_and_wait();
    s.turns(milliseconds{300});
    s.require(p.pool->idle_count() == 0, "an idle connection outlived its age");
    s.require(s.harmed() || s.conns->ended_count(end_cause::idle_age) == 1, "it did not end by its age");
    p.recover();
}

void idle_is_flushed(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answer_each});
    parlour p{s};
    p.ask();
    p.ask();
    s.settle();
    p.pool->flush();
    s.require(p.pool->idle_count() == 0, "flushed, and one is idle");
    p.recover();
}

void idle_oldest_is_killed(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answer_each});
    parlour p{s};
    p.ask();
    p.ask();
    s.settle();
    const bool killed = p.pool->kill_oldest(end_cause::idle_evicted);
    s.require(s.harmed() || killed, "none was idle");
    p.recover();
}

void idle_is_evicted(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answer_each});
    parlour p{s, {.idle_max = 1, .age_max = milliseconds{200}}};
    p.ask();
    p.ask();
    s.settle();
    s.require(s.harmed() || s.conns->ended_count(end_cause::idle_evicted) == 1, "none was evicted");
    s.require(p.pool->idle_count() <= 1, "more are idle than may be");
    p.recover();
}

// Descriptors are short, or connections: an idle one makes room for a dial.
void idle_makes_room(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answer_each});
    s.serve(other_shop, {answer_each});
    parlour p{s, {.idle_max = 8, .age_max = seconds{20}}};
    p.ask();
    p.ask();
    s.settle();
    p.ask_and_wait(other_shop);
    s.require(s.harmed() || s.conns->ended_count(end_cause::idle_pressure) == 1, "no room had to be made");
    p.recover(tcp, other_shop);
}

void idle_hears_a_stray_byte(stage& s) {
    s.open_conns();
    s.serve(shop_at, {{hear("ask"), say("answer"), wait(milliseconds{10}), say("stray"), hear_reset}});
    parlour p{s};
    p.ask_and_wait();
    s.turns(milliseconds{50});
    s.require(p.pool->idle_count() == 0, "one that said what nobody asked for is idle");
    s.require(s.harmed() || s.conns->ended_count(end_cause::idle_unsolicited) == 1, "it ended otherwise");
    p.recover();
}

void idle_drains_a_stray_byte(stage& s) {
    s.open_conns();
    s.serve(shop_at, {{hear("ask"), say("answer"), wait(milliseconds{10}), say("stray"), hear("ask"), say("answer"),
                       hear("ask"), say("answer"), hear_reset}});
    parlour p{s, {.idle_max = 8, .age_max = milliseconds{200}, .on_bytes = unsolicited::drain}};
    p.ask_and_wait();
    s.turns(milliseconds{50});
    p.ask_and_wait();
    p.recover();
}

void idle_hears_the_end(stage& s) {
    s.open_conns();
    s.serve(shop_at, {{hear("ask"), say("answer"), wait(milliseconds{10})}});
    parlour p{s};
    p.ask_and_wait();
    s.turns(milliseconds{50});
    s.require(p.pool->idle_count() == 0, "one that has ended is idle");
    p.recover();
}

void idle_hears_a_stray_byte_and_the_end(stage& s) {
    s.open_conns();
    s.serve(shop_at, {{hear("ask"), say("answer"), wait(milliseconds{10}), say("stray")}});
    parlour p{s};
    p.ask_and_wait();
    s.turns(milliseconds{50});
    s.require(p.pool->idle_count() == 0, "one that has ended is idle");
    p.recover();
}

// The answer and the end come together: it is not parked, or not for long.
void idle_ends_as_it_is_parked(stage& s) {
    s.open_conns();
    s.serve(shop_at, {{hear("ask"), say("answer"), fin, hear_reset}});
    parlour p{s};
    p.ask_and_wait();
    p.ask_and_wait();
    p.recover();
}

// ---- relays

struct bridge {
    explicit bridge(stage& s) : home(s), port(*s.conns) {
        s.start([&] {
            pairs.emplace(*s.conns, relay_options{.pairs_max = 8,
                                                  .connect_timeout = seconds{1},
                                                  .fin_timeout = seconds{1},
                                                  .idle_timeout = seconds{2}});
            return pairs->capacity() > 0;
        });
        s.start([&] { return port.open(tcp, door_at, {}, accepted, this).ok(); });
    }
    static void accepted(void* self, connection& conn, const endpoint&) noexcept {
        static_cast<void>(static_cast<bridge*>(self)->pairs->dial(conn, tcp, shop_at));
    }
    stage& home;
    std::optional<relay_pool> pairs;
    listener port;
};

void relay_case(stage& s, const script& client, const script& server, int clients = 1) {
    s.open_conns();
    s.serve(shop_at, {server});
    bridge b{s};
    for (int i = 0; i < clients; i++)
        s.come(door_at, client);
    s.settle();
    s.recover(door_at, client);
    s.turns(milliseconds{50});
    s.require(b.pairs->pair_count() == 0, "a pair outlived its ends");
}

void relay_carries(stage& s) {
    relay_case(s, {say("hello"), hear("hello back"), fin, hear_end}, {hear("hello"), say("hello back"), hear_end, fin});
}
void relay_carries_several(stage& s) {
    relay_case(s, {say("hello"), hear("hello back"), fin, hear_end}, {hear("hello"), say("hello back"), hear_end, fin},
               3);
}
void relay_client_half_closes(stage& s) {
    relay_case(s, {say("question"), fin, hear("answer"), hear_end}, {hear("question"), hear_end, say("answer")});
}
void relay_server_half_closes(stage& s) {
    relay_case(s, {hear("banner"), hear_end, say("goodbye")}, {say("banner"), fin, hear("goodbye"), hear_end});
}
void relay_slow_reader(stage& s) {
    const std::string much = pattern(9000);
    relay_case(s, {say("more"), wait(milliseconds{100}), hear(much), hear_end}, {hear("more"), say(much)});
}
void relay_slow_server(stage& s) {
    const std::string much = pattern(9000);
    relay_case(s, {say(much), fin, hear("done"), hear_end},
               {wait(milliseconds{100}), hear(much), hear_end, say("done")});
}
void relay_client_aborts(stage& s) {
    relay_case(s, {say("hello"), hear("hello back"), reset}, {hear("hello"), say("hello back"), hear_reset});
}
void relay_server_aborts(stage& s) {
    relay_case(s, {say("hello"), hear("hello back"), hear_reset},
               {hear("hello"), say("hello back"), wait(milliseconds{10}), reset});
}
void relay_goes_quiet(stage& s) {
    relay_case(s, {say("hello"), hear("hello back"), hear_reset}, {hear("hello"), say("hello back"), hear_reset});
}
void relay_half_closed_and_quiet(stage& s) {
    relay_case(s, {say("hello"), fin, hear("hello back"), hear_reset},
               {hear("hello"), hear_end, say("hello back"), wait(seconds{3})});
}

void relay_refused(stage& s) {
    s.open_conns();
    s.refuse(shop_at);
    bridge b{s};
    s.come(door_at, {hear_reset});
    s.settle();
    s.recover(door_at, {hear_reset});
}

// Both were spoken with before they are tied together, and each has more to say.
void relay_joins(stage& s) {
    struct joiner {
        stage& home;
        std::optional<relay_pool> pairs;
        listener port;
        connection* first = nullptr;
        static void accepted(void* self, connection& conn, const endpoint&) noexcept {
            joiner& j = *static_cast<joiner*>(self);
            static constexpr data_cb waiting{
                .name = "waiting", .recv = keep_on, .send = keep_on, .wake = [](connection& c) noexcept {
                    if (!c.is_broken()) return verdict::keep;
                    c.owner_as<joiner>().first = nullptr;
                    return c.close(close_intent::silent, end_cause::peer_failed);
                }};
            conn.attach(waiting, &j);
            if (!j.first) {
                j.first = &conn;
                conn.arm(conn.loop().now() + milliseconds{500}, lonely);
                return;
            }
            connection& a = *std::exchange(j.first, nullptr);
            a.disarm();
            if (!j.pairs->join(a, conn, "early to b ", "early to a ")) j.home.fail("no pair, though there is room");
        }
        static void lonely(timer& t, time_point) noexcept {
            connection& conn = connection::of(t);
            conn.owner_as<joiner>().first = nullptr;
            conn.close(close_intent::abort, end_cause::timed_out);
        }
    };
    s.open_conns();
    joiner j{.home = s, .pairs = {}, .port = listener{*s.conns}};
    s.start([&] {
        j.pairs.emplace(*s.conns, relay_options{.pairs_max = 4, .fin_timeout = seconds{1}, .idle_timeout = seconds{2}});
        return j.pairs->capacity() > 0;
    });
    s.start([&] { return j.port.open(tcp, door_at, {}, joiner::accepted, &j).ok(); });
    s.come(door_at, {say("from a"), hear("early to a "), hear("from b"), fin, hear_end});
    s.turns(milliseconds{5});
    s.come(door_at, {say("from b"), hear("early to b "), hear("from a"), hear_end});
    s.settle();
    s.recover();
}

void relay_aborts_all(stage& s) {
    s.open_conns();
    s.serve(shop_at, {{hear("hello"), say("hello back"), hear_reset}});
    bridge b{s};
    s.come(door_at, {say("hello"), hear("hello back"), hear_reset});
    s.come(door_at, {say("hello"), hear("hello back"), hear_reset});
    s.turns(milliseconds{100});
    b.pairs->abort_all();
    s.settle();
    s.recover(door_at, {say("hello"), hear("hello back"), hear_reset});
}

} // namespace

const std::vector<scenario> stream_scenarios{
    {"idle-is-taken", idle_is_taken, {.language = speech::asks}},
    {"idle-is-probed", idle_is_probed, {.language = speech::asks}},
    {"idle-unix-is-taken", idle_unix_is_taken, {.language = speech::asks}},
    {"idle-expires", idle_expires, {.language = speech::asks}},
    {"idle-is-flushed", idle_is_flushed, {.language = speech::asks}},
    {"idle-oldest-is-killed", idle_oldest_is_killed, {.language = speech::asks}},
    {"idle-is-evicted", idle_is_evicted, {.language = speech::asks}},
    {"idle-makes-room-for-a-descriptor", idle_makes_room, {.descriptors_max = 7, .language = speech::asks}},
    {"idle-makes-room-for-a-connection", idle_makes_room, {.connections_max = 2, .language = speech::asks}},
    {"idle-hears-a-stray-byte", idle_hears_a_stray_byte, {.language = speech::asks}},
    {"idle-drains-a-stray-byte", idle_drains_a_stray_byte, {.language = speech::asks}},
    {"idle-hears-the-end", idle_hears_the_end, {.language = speech::asks}},
    {"idle-hears-a-stray-byte-and-the-end", idle_hears_a_stray_byte_and_the_end, {.language = speech::asks}},
    {"idle-ends-as-it-is-parked", idle_ends_as_it_is_parked, {.language = speech::asks}},
    {"relay-carries", relay_carries},
    {"relay-carries-several", relay_carries_several},
    {"relay-client-half-closes", relay_client_half_closes},
    {"relay-server-half-closes", relay_server_half_closes},
    {"relay-slow-reader", relay_slow_reader, {.buffer_bytes = 1500}},
    {"relay-slow-server", relay_slow_server, {.buffer_bytes = 1500}},
    {"relay-client-aborts", relay_client_aborts},
    {"relay-server-aborts", relay_server_aborts},
    {"relay-goes-quiet", relay_goes_quiet},
    {"relay-half-closed-and-quiet", relay_half_closed_and_quiet},
    {"relay-refused", relay_refused},
    {"relay-joins", relay_joins, {.suffer_max = 2}},
    {"relay-aborts-all", relay_aborts_all},
};

} // namespace failures
