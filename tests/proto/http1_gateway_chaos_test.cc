// http1_gateway: many clients and servers at once: each gets the answer to its own request.

#include "proto/http1_gateway.hpp"

#include <cstdlib>
#include <deque>
#include <map>
#include <set>

#include "support/gateway_rig.hpp"

namespace {

using namespace weir;
using namespace support;

TEST_CASE("each response goes to the client of its request, with many clients, out of order, and after aborts") {
    gateway_rig rig;
    constexpr std::size_t count = 20;
    std::vector<peer> clients, servers;
    for (std::size_t i = 0; i < count; i++)
        clients.push_back(rig.client());
    for (int round = 0; round < 10; round++) {
        for (std::size_t i = 0; i < count; i++)
            if (clients[i].open()) clients[i].say(get("/" + std::to_string(round) + "-" + std::to_string(i)));
        rig.settle();
        while (ready(rig.origins[0].fd.get(), POLLIN))
            servers.push_back(rig.server());
        if (round % 3 == 2) { // one goes while its request is under way
            clients[static_cast<std::size_t>(round)].reset();
            rig.settle();
        }
        for (std::size_t n = 0; n < servers.size(); n++) {
            peer& s = servers[(n * 7 + static_cast<std::size_t>(round)) % servers.size()];
            if (auto m = take_message(s.pull().got); m && s.end == ending::none) {
                const std::string name = m->head.substr(5, m->head.find(' ', 5) - 5);
                s.say(ok(name));
            }
        }
        for (std::size_t i = 0; i < count; i++)
            if (clients[i].open()) rig.expect(clients[i], ok(std::to_string(round) + "-" + std::to_string(i)));
    }
    CHECK(rig.counters().failed == 0);
    CHECK(rig.at_rest());
}

// --- chaos

struct dice {
    std::uint64_t state;
    std::uint64_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
    }
    std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() >> 11) % n; }
    bool one_in(std::size_t n) { return below(n) == 0; }
};

// Clients and servers that do whatever comes to their minds. Every request has a number, and every 200 names the one it
// answers: none may get another's, and no POST may be read by a server twice.
struct chaos {
    struct client_actor {
        peer p;
        std::string to_say;
        std::deque<std::size_t> awaited; // numbers, in the order they were sent
        bool is_shut = false, reads_slowly = false;
    };
    struct server_actor {
        peer p;
        std::string to_say;
        bool ends_after = false, was_used = false, at_once = false;
        std::size_t lazy = 0; // rounds before it says something
    };

    explicit chaos(std::uint64_t seed) : roll{seed * 2654435769u | 1} {
        for (int i = 0; i < 20; i++)
            roll.next();
    }

    std::string request(std::size_t number, bool is_wild) {
        const std::string target = "/" + std::to_string(number) + "/";
        const std::string more = is_wild && roll.one_in(12) ? "Connection: close\r\n" : "";
        switch (roll.below(is_wild ? 6 : 4)) {
        case 0: return get(target, more);
        case 1: return post(target, pattern(roll.below(roll.one_in(5) ? 40'000 : 300), 3));
        case 2: {
            std::string r = "POST " + target + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
            for (std::size_t n = roll.below(4); n > 0; n--)
                r += "5\r\nabcde\r\n";
            return r + "0\r\n\r\n";
        }
        case 3: return "PUT " + target + " HTTP/1.1\r\nHost: h\r\n" + more + "Content-Length: 3\r\n\r\nput";
        case 4: return "POST " + target + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        default: return get(target, more) + (roll.one_in(3) ? "garbage\r\n" : "");
        }
    }

    std::string response(std::size_t number, server_actor& s, bool is_wild) {
        const std::string body = "=" + std::to_string(number) + "=" + (roll.one_in(6) ? pattern(roll.below(60'000)) : "");
        const std::string early = roll.one_in(5) ? "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" : "";
        char size[20];
        std::snprintf(size, sizeof size, "%zx\r\n", body.size());
        switch (roll.below(is_wild ? 9 : 3)) {
        case 0: return early + ok(body);
        case 1: return early + "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + body + "\r\n0\r\n\r\n";
        case 2: s.ends_after = true; return early + "HTTP/1.1 200 OK\r\n\r\n" + body;
        case 3: s.ends_after = true; return ok(body).substr(0, roll.below(40 + body.size())); // cut off
        case 4: s.at_once = true; return ok("=" + std::to_string(number) + "=") + ok("STRAY"); // later it could be anybody's
        case 5: return "HTTP/1.1 what?\r\n\r\n";
        case 6: s.ends_after = true; return ok(body);
        case 7: return ok(body, "Connection: close\r\n");
        default: s.ends_after = true; return "";
        }
    }

    void client_step(client_actor& c, bool is_wild) {
        if (!c.p.open()) {
            if (roll.one_in(3)) c = {.p = peer{connect_small(port), is_layered(side::clients)}, .to_say = {}, .awaited = {}};
            c.reads_slowly = is_wild && roll.one_in(5);
            return;
        }
        if (c.to_say.empty() && !c.is_shut && c.awaited.size() < (is_wild ? 4 : 1) && (is_wild || good_left > 0)) {
            if (!is_wild) good_left--;
            c.to_say = request(++numbers, is_wild);
            c.awaited.push_back(numbers);
        }
        const std::size_t piece = roll.one_in(2) ? 1 + roll.below(20) : 20'000;
        c.to_say.erase(0, c.p.say_some(std::string_view(c.to_say).substr(0, piece)));
        c.p.pull(c.reads_slowly ? roll.below(500) : SIZE_MAX);
        while (auto m = take_message(c.p.got)) {
            const std::string status = m->head.substr(9, 3);
            if (status[0] == '1') continue;
            if (c.awaited.empty()) {
                if (status == "200") wrong += "an answer to nothing: " + m->body.substr(0, 40) + "\n";
                continue;
            }
            const std::string mine = "=" + std::to_string(c.awaited.front()) + "=";
            c.awaited.pop_front();
            if (status == "200" && !m->body.starts_with(mine)) wrong += "to " + mine + " " + m->body.substr(0, 40) + "\n";
            if (status == "200") good++;
            else bad++;
        }
        if (c.p.end != ending::none) c.p.close();
        if (!is_wild || !c.p.open()) return;
        if (roll.one_in(60)) c.p.reset();
        else if (roll.one_in(80)) c.p.close();
        else if (c.to_say.empty() && !c.is_shut && roll.one_in(40)) {
            c.p.try_shut();
            c.is_shut = true;
        }
    }

    void server_step(server_actor& s, bool is_wild) {
        if (!s.p.open()) return;
        if (s.lazy > 0 && is_wild) {
            s.lazy--;
            return;
        }
        if (s.to_say.empty() && s.ends_after) {
            if (is_wild && roll.one_in(3)) s.p.reset();
            else s.p.close();
            return;
        }
        const std::size_t piece = roll.one_in(2) && !s.at_once ? 1 + roll.below(60) : 30'000;
        s.to_say.erase(0, s.p.say_some(std::string_view(s.to_say).substr(0, piece)));
        s.at_once = false;
        s.p.pull();
        if (s.p.end != ending::none) {
            s.p.close();
            return;
        }
        if (!s.to_say.empty() || s.ends_after) return;
        note_heads(s);
        if (auto m = take_message(s.p.got)) {
            s.was_used = true;
            s.to_say = response(number_of(m->head), s, is_wild);
            s.lazy = roll.one_in(4) ? roll.below(10) : 0;
        } else if (is_wild && s.p.got.empty() && s.was_used) {
            if (roll.one_in(30)) s.p.close(); // while idle
            else if (roll.one_in(60)) s.p.reset();
            else if (roll.one_in(40)) s.p.say_some(ok("STRAY"));
        } else if (is_wild && !s.p.got.empty() && roll.one_in(20)) { // answers early, in the middle of a body
            if (s.p.got.find("\r\n\r\n") == s.p.got.npos) return;
            s.to_say = ok("=" + std::to_string(number_of(s.p.got)) + "=");
            s.p.got.clear();
            s.ends_after = true;
        }
    }

    static std::size_t number_of(const std::string& head) {
        const std::size_t at = head.find('/');
        return at == head.npos ? 0 : static_cast<std::size_t>(std::strtoull(head.c_str() + at + 1, nullptr, 10));
    }
    // The POSTs that a server has seen. One whose head stands complete at the front of `got` is counted once per
    // connection.
    void note_heads(server_actor& s) {
        if (!s.p.got.starts_with("POST /") || s.p.got.find("\r\n\r\n") == s.p.got.npos) return;
        const std::size_t number = number_of(s.p.got);
        const auto [at, is_new] = seen.insert({number, s.p.fd.get()});
        if (is_new && number == last_number[s.p.fd.get()]) return;
        last_number[s.p.fd.get()] = number;
        std::size_t places = 0;
        for (const auto& [n, fd] : seen)
            if (n == number) places++;
        if (places > 1) twice++;
    }

    void step(gateway_rig& rig, bool is_wild) {
        for (std::size_t i = 0; i < rig.origins.size(); i++)
            while (ready(rig.origins[i].fd.get(), POLLIN)) {
                const int fd = ::accept4(rig.origins[i].fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd < 0) break;
                seen_erase(fd);
                servers.push_back({.p = peer{descriptor(fd), is_layered(side::servers)}, .to_say = {}});
            }
        const std::size_t first = roll.below(clients.size());
        for (std::size_t i = 0; i < clients.size(); i++)
            if (!is_wild || roll.one_in(2)) client_step(clients[(first + i) % clients.size()], is_wild);
        for (server_actor& s : servers)
            if (!is_wild || roll.one_in(2)) server_step(s, is_wild);
        std::erase_if(servers, [](const server_actor& s) { return !s.p.open(); });
        if (is_wild && roll.one_in(20)) rig.clock.advance(milliseconds{static_cast<int>(roll.below(2000))});
        rig.turn(1 + static_cast<int>(roll.below(3)));
    }
    // A descriptor's number is used again: what was noted under it stays, under a number that no descriptor has.
    void seen_erase(int fd) {
        std::set<std::pair<std::size_t, int>> kept;
        for (const auto& [n, at] : seen)
            kept.insert({n, at == fd ? --retired : at});
        seen.swap(kept);
        last_number.erase(fd);
    }

    dice roll;
    std::uint16_t port = 0;
    std::vector<client_actor> clients;
    std::vector<server_actor> servers;
    std::set<std::pair<std::size_t, int>> seen; // POST's number, server connection
    std::map<int, std::size_t> last_number;
    int retired = -1;
    std::size_t numbers = 0, good_left = 0;
    std::size_t good = 0, bad = 0, twice = 0;
    std::string wrong;
};

void run_chaos(std::uint64_t seed) {
    INFO("WEIR_SEED=" << seed);
    const bool is_short = seed % 3 == 0; // of blocks
    gateway_rig rig{{.idle = {.idle_max = 6}, .clients_max = 12},
                    {.origins = {origin_state::listening, origin_state::listening},
                     .tab = {.connections_max = 40, .blocks_max = is_short ? 6u : 0u}}};
    chaos world{seed};
    world.port = rig.gateway->local().port();
    world.clients.resize(15);
    for (int i = 0; i < 600; i++)
        world.step(rig, true);

    // Healing: whoever was wild goes; then everybody is good, and each request is answered.
    world.clients.clear();
    for (chaos::server_actor& s : world.servers)
        s.p.close();
    world.servers.clear();
    rig.settle();
    rig.pass(seconds{100});
    for (std::size_t i = 0; i < rig.origins.size(); i++)
        rig.pass(seconds{5}); // nobody accepts, so a handshake goes unanswered until its timeout, with each server
    rig.pass(seconds{3});
    CHECK(rig.gateway->active_count() == 0);
    CHECK(rig.conns.blocks().used() == 0);
    CHECK(rig.conns.live_count() == 0);
    CHECK(rig.gateway->clients_count() == 0);
    CHECK(rig.idle_count() == 0);
    CHECK(rig.sums_hold());
    const std::size_t before = world.good, bad_before = world.bad;
    world.clients.resize(is_short ? 2 : 10);
    world.good_left = 60;
    for (int i = 0; i < 20'000 && world.good + world.bad < before + bad_before + 60; i++)
        world.step(rig, false);
    CHECK(world.good == before + 60);
    CHECK(world.bad == bad_before);
    CHECK(world.wrong == "");
    CHECK(world.twice == 0);
    CHECK(before > 30); // something went well in the wild phase, too
    world.clients.clear();
    rig.settle();
    CHECK(rig.at_rest());
    CHECK(rig.gateway->clients_count() == 0);
}

TEST_CASE("after chaos all is counted, nothing is left, and good requests are answered") {
    if (const char* seed = std::getenv("WEIR_SEED")) return run_chaos(std::strtoull(seed, nullptr, 10));
    for (std::uint64_t seed = 1; seed <= 20; seed++)
        run_chaos(seed);
}

} // namespace
