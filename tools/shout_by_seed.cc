// shout_by_seed: how callbacks of one's own are tested on the simulated kernel. A server that answers in capitals, and
// what must be true of it whatever the kernel does, seed by seed.
//
//     shout-by-seed 1..10000     all of them
//     shout-by-seed 4711         one, with every call of it

#include <weir/sim.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

using namespace weir;

// ---- what is tested

struct shouter {
    char words[8];
    std::size_t have = 0, told = 0; // told <= have
};

verdict hear(connection& conn) noexcept {
    auto& me = conn.owner_as<shouter>();
    const io_result got = conn.recv(me.words, sizeof me.words);
    if (got.end == io::again) return verdict::keep;
    if (got.end == io::closed) return conn.close(close_intent::after_fin, end_cause::peer_closed);
    if (got.end == io::failed) return conn.close(close_intent::silent, end_cause::peer_failed);
    me.have = got.bytes;
    me.told = 0;
    for (char& c : me.words)
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    conn.stop_recv();
    conn.want_send();
    return verdict::keep;
}

verdict tell(connection& conn) noexcept {
    auto& me = conn.owner_as<shouter>();
    const io_result sent = conn.send({me.words + me.told, me.have - me.told});
    if (sent.end == io::failed) return conn.close(close_intent::silent, end_cause::peer_failed);
    me.told += sent.bytes; // a send may be short: forget that, and a seed tells
    if (me.told < me.have) return verdict::keep;
    conn.stop_send();
    conn.want_recv();
    return verdict::keep;
}

verdict look(connection& conn) noexcept {
    return conn.is_broken() ? conn.close(close_intent::silent, conn.failure()) : verdict::keep;
}

const data_cb shout_cb{.name = "shout", .recv = hear, .send = tell, .wake = look};

// ---- who plays against it

constexpr std::string_view question = "who goes there, and what for?", answer = "WHO GOES THERE, AND WHAT FOR?";

struct caller {
    std::size_t asked = 0;
    std::string heard;
    bool over = false;
};

void act(remote& r) noexcept {
    auto& me = *static_cast<caller*>(r.owner);
    if (r.connecting()) return;
    if (me.asked < question.size()) {
        const sys::count n = r.send(question.substr(me.asked, r.chance().between(1, 16)));
        if (n > 0) me.asked += static_cast<std::size_t>(n);
    }
    char room[5];
    const sys::count n = r.recv(room);
    if (n > 0) me.heard.append(room, static_cast<std::size_t>(n));
    me.over = me.heard.size() >= answer.size() || n == 0 || (n < 0 && n != -EAGAIN);
    if (me.over) r.close();
    else r.wake_in(milliseconds{1});
}
constexpr remote_cb caller_cb{.name = "caller", .run = act};

// ---- a run

constexpr int callers_max = 4;
const endpoint door = endpoint::ipv4(0x0a000001, 80), far_away = endpoint::ipv4(0x0a000002, 1);

struct server {
    shouter desks[callers_max + 1];
    int next = 0;
};

void play(std::uint64_t seed, bool aloud) {
    kernel k{{.seed = seed}}; // what goes wrong is drawn from the seed
    if (aloud) k.log.echo(stdout);
    k.faults.pause();
    caller callers[callers_max], last; // they act until the last call of the teardown
    event_loop loop;
    conntab conns{loop};
    listener port{conns};
    server here;
    const auto accepted = [](void* self, connection& conn, const endpoint&) noexcept {
        auto& s = *static_cast<server*>(self);
        conn.attach(shout_cb, &s.desks[s.next++ % (callers_max + 1)]);
        conn.want_recv();
    };
    if (!loop.open() || !conns.open({.connections_max = callers_max + 1}) || !port.open(tcp, door, {}, accepted, &here))
        return k.violate("start", "nothing is wrong yet");
    loop_check check{loop}; // no lost wake-up, whenever the loop goes to sleep

    k.faults.resume();
    for (caller& c : callers)
        k.net.dial(far_away, door, caller_cb, &c);
    const time_point trouble_ends = k.time.now + seconds{2};
    while (k.time.now < trouble_ends)
        loop.turn(trouble_ends - k.time.now);

    k.heal();
    k.net.dial(far_away, door, caller_cb, &last);
    const time_point deadline = k.time.now + seconds{10};
    while (!last.over && k.time.now < deadline)
        loop.turn(deadline - k.time.now);
    if (last.heard != answer) k.violate("liveness", "nothing is wrong any more, and the answer is not whole");
    for (const caller& c : callers)
        if (!answer.starts_with(c.heard)) k.violate("safety", "somebody heard what is not the answer");
}

} // namespace

int main(int argc, char** argv) {
    char* end = nullptr;
    const std::uint64_t first = argc == 2 ? std::strtoull(argv[1], &end, 10) : 0;
    const bool many = end && std::strncmp(end, "..", 2) == 0;
    const std::uint64_t last = many ? std::strtoull(end + 2, &end, 10) : first;
    if (!end || end == argv[1] || *end != '\0' || last < first) {
        std::fputs("usage: shout-by-seed SEED | FIRST..LAST\n", stderr);
        return 2;
    }
    for (std::uint64_t seed = first; seed <= last; seed++)
        play(seed, !many);
    std::printf("%llu runs\n", static_cast<unsigned long long>(last - first + 1));
}
