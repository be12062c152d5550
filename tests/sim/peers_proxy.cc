// peers: PROXY lines, as clients say them and servers are told; whose bytes come to whom; the phases of a run.

#include "proto/proxy_line.hpp"
#include "sim/peers.hpp"

namespace simtest {

// ---- clients

// Draws how it begins, and knows from then on what a server must be told of it.
void client::greet(bool is_believed, const endpoint& door) noexcept {
    dice& chance = home->k_.chance;
    if (door.family() != AF_UNIX) { // a proxy tells what it sees
        source = end->local();
        destination = door;
    }
    if (!is_believed) return;
    static constexpr greeting usual[] = {greeting::told, greeting::unknown, greeting::pieces};
    const bool good = must_succeed || home->calm_ || chance.below(3) != 0;
    greets = good ? usual[chance.below(std::size(usual))] : static_cast<greeting>(chance.between(4, 6));
    static_assert(static_cast<int>(greeting::wrong) == 4 && static_cast<int>(greeting::late) == 6);
    saw(static_cast<mark>(static_cast<unsigned>(mark::greeting_told) + static_cast<unsigned>(greets) - 1));

    endpoint who{}, where{};
    if (greets != greeting::unknown) {
        const auto port = static_cast<std::uint16_t>(1000 + home->clients_.size());
        const std::array<std::uint8_t, 16> ip{0x20, 0x01, 0x0d, 0xb8};
        const bool is_v6 = chance.coin();
        who = is_v6 ? endpoint::ipv6(ip, port) : endpoint::ipv4(0x0b000001, port);
        where = is_v6 ? endpoint::ipv6(ip, 443) : endpoint::ipv4(0x0b0000ff, 443);
        source = who;
        destination = where;
    }
    char room[proxy_v2_bytes_max + 16];
    if (chance.coin()) out = write_proxy_v1(std::span{room}.first<proxy_v1_bytes_max>(), who, where);
    else out = write_proxy_v2(room, who, where, {}, chance.coin() ? proxy_checksum::crc32c : proxy_checksum::none);
    if (greets == greeting::wrong) out[chance.below(4)] ^= 0x20;
    if (greets == greeting::cut || greets == greeting::late)
        out.resize(chance.below(static_cast<std::uint32_t>(out.size())));
    greeting_bytes = out.size();
}

client* town::told_as(const endpoint& source, const endpoint& destination) noexcept {
    for (auto& c : clients_)
        if (c->source.specified() && c->source == source && c->destination == destination) return c.get();
    return nullptr;
}

// ---- servers

// Takes the PROXY line off the bytes that came; the rest is the client's.
std::string_view server::hear_line(std::string_view bytes) noexcept {
    if (is_told || home->servers_version_ == 0) return bytes;
    kernel& k = home->k_;
    line.append(bytes);
    proxy_line heard_line;
    heard_line.start({.accept = home->servers_version_ == 1 ? proxy_accept::v1 : proxy_accept::v2});
    switch (heard_line.parse(line)) {
    case proxy_line::progress::more: return {};
    case proxy_line::progress::bad: k.violate("I6", "a server was told something else than who speaks"); return {};
    case proxy_line::progress::done: break;
    }
    is_told = true;
    const bool is_known = heard_line.source().specified();
    saw(!is_known ? mark::told_nothing : home->servers_version_ == 1 ? mark::told_v1 : mark::told_v2);
    if (is_known) {
        client* c = home->told_as(heard_line.source(), heard_line.destination());
        if (c) belong_to(*c);
        else k.violate("I6", "a server was told of a client that there is not");
    }
    return bytes.substr(bytes.size() - (line.size() - heard_line.size()));
}

// Where bytes are passed on, one client's requests come here, and nobody else's.
void server::know(std::uint64_t id) noexcept {
    if (home->between_ != town::between::passes_on) return;
    knows_id = true;
    client* asks = home->asker(id);
    if (!asks) return; // answer_all() will say so
    if (to && to != asks) home->k_.violate("I15", "a server was told of one client, and got what another said");
    if (!to && is_told && asks->source.specified())
        home->k_.violate("I6", "a server was not told of a client that is known");
    belong_to(*asks);
}

void server::belong_to(client& c) noexcept {
    if (c.is_barred()) home->k_.violate("I6", "a server got what a client said who has not said who he is");
    if (c.from && c.from != this) home->k_.violate("I6", "two servers got what one client said");
    to = &c;
    c.from = this;
}

// ---- the phases of a run

void go_through_trouble(world& w, town& people, const endpoint& door, std::uint32_t clients_max) {
    w.k.note("warm-up");
    people.send_clients(door, 2, milliseconds{50}, false);
    w.turn_until(w.k.time.now + milliseconds{200});
    w.k.note("faults");
    w.k.faults.resume();
    people.send_clients(door, w.k.chance.between(2, clients_max), seconds{2}, false);
    const duration trouble = w.k.chance.between(duration{milliseconds{500}}, duration{seconds{4}});
    w.post_letters(w.k.chance.below(6), trouble);
    w.turn_until(w.k.time.now + trouble);
    w.k.note("heal");
    w.k.heal();
    people.calm_down();
}

void serve_healthy(world& w, town& people, const endpoint& door, std::uint32_t count, duration span) {
    constexpr std::uint32_t clients_min = 6;
    w.require_by(w.k.time.now + seconds{1}, "I10", "who behaved when healing began was neither served nor told",
                 [&] { return people.is_nobody_owed(); });
    for (std::uint32_t sent = 0; sent < clients_min; sent += count) {
        // Of few ports, most may wait for the end of TIME_WAIT.
        const auto& ports = w.k.options().network;
        if (ports.port_last - ports.port_first < 64) w.turn_until(w.k.time.now + ports.time_wait);
        people.send_clients(door, count, span, true);
        w.turn_until(w.k.time.now + span);
        w.require_by(w.k.time.now + seconds{60}, "I10", "a healthy client was not served in time",
                     [&] { return people.all_must_succeed_over(); });
    }
}

} // namespace simtest
