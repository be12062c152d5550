// failures_dials: dials, closes, the tables that come with the library.

#include "core/dialer.hpp"
#include "core/tables.hpp"
#include "proto/unix.hpp"
#include "sim/failures_door.hpp"

namespace failures {

namespace {

// ---- dials

const script asks{say("hello"), hear("hello back"), leave(close_intent::graceful)};
const script answers{hear("hello"), say("hello back"), hear_end};

void dial_then_again(stage& s, const endpoint& to, const ctrl& family, const script& what, const dial_options& how) {
    s.local(what).dial_to(family, to, how);
    s.settle();
    s.recover();
    local_player& again = s.local(what);
    s.k.faults.plan.pause();
    again.dial_to(family, to, how);
    s.settle();
    s.require(again.whole, "a dial after the failure does not work");
    s.k.faults.plan.resume();
}

void dials(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answers});
    dial_then_again(s, shop_at, tcp, asks, {.timeout = seconds{1}});
}

void dials_from_a_source(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answers});
    dial_then_again(s, shop_at, tcp, asks, {.source = endpoint::ipv4(0x0a000002, 0), .timeout = seconds{1}});
}

void dials_a_path(stage& s) {
    s.open_conns();
    const endpoint at = endpoint::unix_path("@shop").value();
    s.serve(at, {answers});
    dial_then_again(s, at, unix_stream, asks, {.timeout = seconds{1}});
}

// The server speaks first, and at once.
void dials_who_speaks_first(stage& s) {
    s.open_conns();
    s.serve(shop_at, {{say("welcome"), hear("hello"), fin, hear_end}});
    dial_then_again(s, shop_at, tcp, {hear("welcome"), say("hello"), hear_end, leave(close_intent::after_fin)},
                    {.timeout = seconds{1}});
}

// Connected, spoken and ended before the dialer looks.
void dials_who_is_gone_already(stage& s) {
    s.open_conns();
    s.serve(shop_at, {{say("welcome"), fin, hear_end}});
    const script what{hear("welcome"), hear_end, leave(close_intent::after_fin)};
    s.local(what).dial_to(tcp, shop_at);
    s.k.time.now += milliseconds{10};
    s.k.time.run_due();
    s.settle();
    s.recover();
}

void dial_expecting(stage& s, const endpoint& to, const ctrl& family, end_cause cause) {
    local_player& p = s.local({hear("nothing")});
    p.whole = true; // there is nothing to be had
    p.dial_to(family, to, {.timeout = milliseconds{300}});
    const bool at_once = p.over; // then there was never a connection
    s.turns(seconds{1});
    s.require(s.harmed() || at_once || s.conns->ended_count(cause) == 1, "a dial ended otherwise");
    s.recover();
}

void dials_who_refuses(stage& s) {
    s.open_conns();
    s.refuse(shop_at);
    dial_expecting(s, shop_at, tcp, end_cause::connect_failed);
}

void dials_who_never_answers(stage& s) {
    s.open_conns();
    s.serve(shop_at, {answers});
    s.k.faults.set(fault::connect_lost, 10'000);
    dial_expecting(s, shop_at, tcp, end_cause::connect_timed_out);
}

void dials_a_path_that_is_not_there(stage& s) {
    s.open_conns();
    dial_expecting(s, path, unix_stream, end_cause::connect_failed);
}

// ---- closes, with bytes that were not read and bytes that were not sent

void close_by(stage& s, close_intent intent) {
    s.open_conns();
    const std::string much = pattern(5000);
    door d{s, {hear("hello"), say(much), leave(intent)}};
    d.open();
    const bool resets = intent == close_intent::silent || intent == close_intent::abort;
    const script what{say("hello"), hear(much), resets ? hear_reset : hear_end};
    s.come(door_at, what);
    s.settle();
    s.recover(door_at, what);
}
void closes_gracefully(stage& s) { close_by(s, close_intent::graceful); }
void closes_after_fin(stage& s) { close_by(s, close_intent::after_fin); }
void closes_silently(stage& s) { close_by(s, close_intent::silent); }
void aborts(stage& s) { close_by(s, close_intent::abort); }

// What the peer still says while the close lingers is thrown away.
void lingers_to_the_end(stage& s) {
    s.open_conns();
    door d{s, greeter};
    d.open();
    s.come(door_at, {say("hello"), hear("hello back"), say(pattern(3000)), wait(milliseconds{20}), fin, hear_end});
    s.settle();
    s.recover(door_at, greet);
}

void lingers_to_the_silence(stage& s) {
    s.open_conns({.linger = milliseconds{500}, .linger_silence = milliseconds{100}});
    door d{s, greeter};
    d.open();
    s.come(door_at,
           {say("hello"), hear("hello back"), wait(milliseconds{20}), say(pattern(3000)), wait(milliseconds{20})});
    s.settle();
    s.recover(door_at, greet);
}

void lingers_to_the_deadline(stage& s) {
    s.open_conns({.linger = milliseconds{200}});
    door d{s, greeter};
    d.open();
    s.come(door_at, {say("hello"), hear("hello back"), wait(milliseconds{600})});
    s.settle();
    s.recover(door_at, greet);
}

// ---- ready-made tables

void accept_discard(void*, connection& conn, const endpoint&) noexcept {
    conn.attach(discard_cb, nullptr);
    conn.want_recv();
}

void discards(stage& s) {
    s.open_conns();
    listener port{*s.conns};
    s.start([&] { return port.open(tcp, door_at, {}, accept_discard, nullptr).ok(); });
    const script what{say(pattern(5000)), fin, hear_end};
    s.come(door_at, what);
    s.settle();
    s.recover(door_at, what);
}

struct echoes_kept {
    std::vector<std::unique_ptr<buffer>> buffers;
    static void accepted(void* self, connection& conn, const endpoint&) noexcept {
        auto& all = static_cast<echoes_kept*>(self)->buffers;
        all.push_back(std::make_unique<buffer>());
        conn.attach(echo_cb, all.back().get());
        conn.want_recv();
    }
};

void echoes(stage& s) {
    s.open_conns();
    echoes_kept kept;
    listener port{*s.conns};
    s.start([&] { return port.open(tcp, door_at, {}, echoes_kept::accepted, &kept).ok(); });
    const std::string much = pattern(3000);
    const script what{say(much), wait(milliseconds{30}), hear(much), fin, hear_end};
    s.come(door_at, what);
    s.settle();
    s.recover(door_at, what);
}

} // namespace

const std::vector<scenario> dial_scenarios{
    {"dials", dials},
    {"dials-from-a-source", dials_from_a_source},
    {"dials-a-path", dials_a_path},
    {"dials-who-speaks-first", dials_who_speaks_first},
    {"dials-who-is-gone-already", dials_who_is_gone_already},
    {"dials-who-refuses", dials_who_refuses},
    {"dials-who-never-answers", dials_who_never_answers},
    {"dials-a-path-that-is-not-there", dials_a_path_that_is_not_there},
    {"closes-gracefully", closes_gracefully},
    {"closes-after-fin", closes_after_fin},
    {"closes-silently", closes_silently},
    {"aborts", aborts},
    {"lingers-to-the-end", lingers_to_the_end},
    {"lingers-to-the-silence", lingers_to_the_silence},
    {"lingers-to-the-deadline", lingers_to_the_deadline},
    {"discards", discards},
    {"echoes", echoes, {.buffer_bytes = 1000}},
};

} // namespace failures
