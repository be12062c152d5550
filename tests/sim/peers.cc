// peers: the town, and the state machine of clients. That of servers is in peers_server.cc.

#include "sim/peers.hpp"

#include <algorithm>
#include <cstring>

namespace simtest {

namespace {

constexpr std::uint16_t client_port = 20'000;

mark mark_of(bool is_server, manner how) noexcept {
    const auto base = static_cast<unsigned>(is_server ? mark::server_well_behaved : mark::client_well_behaved);
    return static_cast<mark>(base + static_cast<unsigned>(how));
}

} // namespace

const remote_cb town::server_cb{.name = "server", .run = [](remote& r) noexcept {
                                    // The network gives a new remote its service's owner: the town.
                                    town& home = *static_cast<town*>(r.owner);
                                    auto s = std::make_unique<server>();
                                    s->home = &home;
                                    s->end = &r;
                                    s->how = home.draw(true);
                                    s->is_unix = !r.socket().is_tcp();
                                    s->in_hollow_shop = home.is_hollow(r.local());
                                    if (s->in_hollow_shop) s->how = manner::hollow;
                                    r.owner = s.get();
                                    static constexpr remote_cb known{.name = "server", .run = [](remote& me) noexcept {
                                                                         static_cast<server*>(me.owner)->run(me);
                                                                     }};
                                    r.become(known);
                                    home.servers_.push_back(std::move(s));
                                    static_cast<server*>(r.owner)->run(r);
                                }};

const remote_cb town::client_cb{.name = "client",
                                .run = [](remote& r) noexcept { static_cast<client*>(r.owner)->run(r); }};

manner town::draw(bool is_server) noexcept {
    const auto kinds = static_cast<std::uint32_t>(is_server ? manner::count_ : manner::stray);
    const bool good = calm_ || k_.chance.below(3) == 0;
    auto how = good ? manner::well_behaved : static_cast<manner>(k_.chance.below(kinds));
    if (between_ == between::passes_on && (how == manner::garbage || how == manner::stray)) how = manner::slow;
    saw(mark_of(is_server, how));
    return how;
}

// Longer than a turn, shorter than any timeout of sending. Long after the trouble it behaves, so that a run has an end.
bool town::may_sip(remote& r, manner& how, time_point& not_before) noexcept {
    constexpr duration goes_on = seconds{20};
    if (how != manner::sipping) return true;
    if (calm_ && k_.time.now > calm_since_ + goes_on) {
        how = manner::well_behaved;
        return true;
    }
    if (k_.time.now < not_before) return false;
    const duration wait = k_.chance.between(duration{milliseconds{200}}, duration{milliseconds{900}});
    not_before = k_.time.now + wait;
    r.wake_in(wait);
    return true;
}

std::size_t town::sip_bytes() noexcept {
    return k_.chance.between(1, std::clamp<std::uint32_t>(k_.options().network.buffer_bytes_max / 8, 1, 1024));
}

// Through small buffers only small payloads: more would cost time and show nothing new, least of all among healthy
// ones.
std::uint32_t town::draw_bytes() noexcept {
    const bool is_wide = between_ == between::passes_on && k_.options().network.buffer_bytes_min >= 1024;
    if (is_wide && k_.chance.below(24) == 0) return k_.chance.between(bulk_max / 4, bulk_max);
    const std::uint32_t room = k_.options().network.buffer_bytes_max;
    return k_.chance.below(std::min(payload_max, room * (calm_ ? 5 : 20)) + 1);
}

void town::open_shop(const endpoint& where) {
    shops_.push_back(where);
    k_.net.serve({.where = where, .table = &server_cb, .owner = this});
}

void town::calm_down() noexcept {
    calm_ = true;
    calm_since_ = k_.time.now;
    hollow_.clear();
    mute_.clear();
    for (const endpoint& where : shops_)
        k_.net.find_service(where)->refuses = k_.net.find_service(where)->swallows = false;
    for (auto& s : servers_)
        if (s->end && s->how != manner::well_behaved) s->end->wake_in(milliseconds{1});
    for (auto& c :
         clients_) { // who has not come yet stays away; who is slow hurries; who stalls is the library's to end
        if (c->how == manner::slow || c->how == manner::trickling) c->how = manner::well_behaved;
        if (c->end) c->end->wake_in(milliseconds{1});
        const bool behaves =
            c->how == manner::well_behaved || c->how == manner::half_closing || c->how == manner::pipelining;
        c->is_owed = behaves && !c->is_barred() && c->end && !c->end->connecting();
        if (!c->end || !c->end->connecting()) continue;
        c->over = true;
        c->end->reset();
        c->end = nullptr;
    }
}

void town::lose_shops(hollows may) noexcept {
    const std::uint32_t kept = k_.chance.below(static_cast<std::uint32_t>(shops_.size()));
    for (std::uint32_t i = 0; i < shops_.size(); i++) {
        service& shop = *k_.net.find_service(shops_[i]);
        shop.refuses = i != kept && k_.chance.below(3) == 0;
        shop.swallows = i != kept && k_.chance.below(3) == 0;
        shop.portless = i != kept && k_.chance.below(4) == 0;
        const bool is_hollow = i != kept && may == hollows::one && hollow_.empty() && k_.chance.coin();
        if (is_hollow) empty_shop(shops_[i], true);
    }
}

void town::empty_shop(const endpoint& where, bool is_hollow) noexcept {
    std::erase(hollow_, where);
    std::erase(mute_, where);
    if (!is_hollow) return;
    hollow_.push_back(where);
    saw(mark::shop_hollow);
    const auto speaks = [&](const auto& s) { return s->end && s->end->local() == where; };
    if (std::none_of(servers_.begin(), servers_.end(), speaks)) mute_.push_back(where);
}

void town::send_clients(const endpoint& where, std::uint32_t count, duration span, bool must_succeed) {
    for (std::uint32_t i = 0; i < count; i++) {
        visits_.push_back(std::make_unique<visit>(visit{this, where, must_succeed}));
        const duration wait = k_.chance.between(duration{}, span);
        k_.time.plan(k_.time.now + wait, come, visits_.back().get(), 0);
    }
}

void town::come(void* at, std::uint32_t) noexcept {
    visit& v = *static_cast<visit*>(at);
    town& home = *v.home;
    dice& chance = home.k_.chance;
    auto c = std::make_unique<client>();
    c->home = &home;
    c->must_succeed = v.must_succeed;
    static constexpr manner healthy[] = {manner::well_behaved, manner::well_behaved, manner::half_closing,
                                         manner::pipelining, manner::trickling};
    c->how = v.must_succeed ? healthy[chance.below(std::size(healthy))] : home.draw(false);
    c->asks = chance.between(1, v.must_succeed ? 3 : 5);
    c->first_id = home.ids_;
    home.ids_ += c->asks;
    if (home.tongue_ == tongue::http1) home.prepare_errands(*c);
    const auto port = static_cast<std::uint16_t>(client_port + home.clients_.size());
    const endpoint& where = c->voice.is_admin ? home.rules_.admin : v.where;
    c->is_unix = where.family() == AF_UNIX;
    const endpoint here = c->is_unix ? endpoint::unix_path("@client").value() : endpoint::ipv4(0x0a000002, port);
    c->end = &home.k_.net.dial(here, where, client_cb, c.get());
    c->greet(home.clients_greet_, where);
    home.clients_.push_back(std::move(c));
    // Now and then a shop shuts, or opens again.
    if (home.calm_ || home.shops_.empty() || chance.below(6) != 0) return;
    const endpoint& place = home.shops_[chance.below(static_cast<std::uint32_t>(home.shops_.size()))];
    service& shop = *home.k_.net.find_service(place);
    if (chance.below(3) == 0) {
        home.empty_shop(place, !home.is_hollow(place));
        return;
    }
    const bool swallows = home.between_ == between::passes_on && chance.below(3) == 0;
    bool& shut = swallows ? shop.swallows : shop.refuses;
    shut = !shut;
    if (shut) saw(swallows ? mark::server_swallowing : mark::server_refusing);
}

client* town::asker(std::uint64_t id) noexcept {
    for (auto& c : clients_)
        if (id >= c->first_id && id < c->first_id + c->asks) return c.get();
    return nullptr;
}

void town::check_end(const tally& heard, const tally& said) noexcept {
    if (!said.ended) k_.violate("I7", "an end was heard that nobody had said");
    if (heard.bytes != said.bytes) k_.violate("I7", "an end was heard before the last byte");
}

// A unix socket knows no reset: an abort behind it, or before it, looks like an end.
void town::check_end_at(const client& c) noexcept {
    // A server that did not even read whose it was.
    if (!c.from && c.heard.bytes == 0 && hollow_ends_heard_ < hollow_ends_said_) {
        hollow_ends_heard_++;
        return;
    }
    if (c.is_unix || (c.from && c.from->is_unix)) return;
    const bool may_be_unix =
        std::any_of(shops_.begin(), shops_.end(), [](const auto& s) { return s.family() == AF_UNIX; });
    if (c.from || !may_be_unix) check_end(c.heard, c.from ? c.from->said : tally{});
}

void town::check_end_at(const server& s) noexcept {
    if (s.is_unix) return;
    if (s.end->socket().left && !s.said.ended)
        k_.violate("I7", "a server heard an end, and it was that of a connection that was given up");
    if (!s.is_told && servers_version_ != 0) k_.violate("I7", "a server heard an end before it was told who speaks");
    if (s.to && !s.to->is_unix) check_end(s.heard, s.to->said);
    else if (!s.to && s.heard.bytes == 0) check_silent_end();
}

bool town::has_unix() const noexcept {
    return std::any_of(shops_.begin(), shops_.end(), [](const auto& s) { return s.family() == AF_UNIX; }) ||
           std::any_of(clients_.begin(), clients_.end(), [](const auto& c) { return c->is_unix; });
}

// A server that was told nothing cannot know whose end it heard: there are no more of them than clients said.
void town::check_silent_end() noexcept {
    const auto said = std::count_if(clients_.begin(), clients_.end(),
                                    [](const auto& c) { return (c->said.ended || c->is_unix) && c->said.bytes == 0; });
    if (++silent_ends_heard_ > said) k_.violate("I7", "an end was heard that nobody had said");
}

bool town::all_must_succeed_over() const noexcept {
    return std::all_of(clients_.begin(), clients_.end(), [](const auto& c) { return !c->must_succeed || c->over; });
}

bool town::is_nobody_owed() const noexcept {
    return std::none_of(clients_.begin(), clients_.end(), [](const auto& c) { return c->is_owed && c->end; });
}

bool town::is_anybody_connecting() const noexcept {
    return std::any_of(clients_.begin(), clients_.end(), [](const auto& c) { return c->end && c->end->connecting(); });
}

// ---- clients

void client::leave(remote& r) noexcept {
    if (r.socket().in.empty()) {
        said.ended = true;
        end_tunnel();
    }
    over = true;
    end = nullptr;
    r.close();
}

void client::run(remote& r) noexcept {
    if (r.connecting()) return;
    dice& chance = r.chance();
    if (how == manner::slow && r.now() < not_before) return;
    if (how == manner::slow) {
        const duration wait = chance.between(duration{milliseconds{1}}, duration{milliseconds{200}});
        not_before = r.now() + wait;
        r.wake_in(wait);
    }
    if (!home->may_sip(r, how, not_before)) return;
    if (how == manner::aborting && chance.below(5) == 0) {
        if (!out.empty() && asked > 0 && home->tongue_ == town::tongue::http1) saw(mark::aborted_while_asking);
        over = true;
        end = nullptr;
        r.reset();
        return;
    }
    say_held();
    if (greets != greeting::cut && greets != greeting::late) ask(r);
    speak(r);
    const bool ends = greets == greeting::cut || (how == manner::half_closing && asked == asks && voice.held.empty());
    if (ends && out.empty() && !r.socket().send_shut) {
        said.ended = true;
        end_tunnel();
        r.shutdown_send();
    }
    if (how == manner::never_reading) return;
    if (read(r) && answered == asks && !voice.lingers) leave(r);
}

void client::speak(remote& r) noexcept {
    if (voice.drips && home->calm_) return; // it never goes on
    const bool by_bits = how == manner::trickling || (greets == greeting::pieces && greeting_bytes > 0);
    while (!out.empty()) {
        const std::size_t some = mouthful(by_bits ? manner::trickling : how, out, r.chance());
        const sys::count n = r.send(std::string_view{out}.substr(0, some));
        if (n <= 0) break; // what it hears, recv tells
        const std::size_t greeted = std::min(greeting_bytes, static_cast<std::size_t>(n));
        greeting_bytes -= greeted;
        said.bytes += static_cast<std::uint64_t>(n) - greeted;
        out.erase(0, static_cast<std::size_t>(n));
        if (by_bits) break;
    }
    if (by_bits && !out.empty()) r.wake_in(voice.drips ? milliseconds{300} : milliseconds{2});
}

void client::ask(remote& r) noexcept {
    const bool all_at_once = how == manner::pipelining || how == manner::half_closing || how == manner::never_reading;
    while (asked < asks && (all_at_once || asked == answered)) {
        if (how == manner::stalling && asked > 0) return;
        if (home->tongue_ == town::tongue::http1) {
            ask_http();
            asked++;
            continue;
        }
        const std::uint32_t bytes = home->draw_bytes();
        const bool nonsense = how == manner::garbage && r.chance().coin();
        append(out, {.id = first_id + asked, .bytes = bytes, .magic = nonsense ? 0xbad : frame::request_magic});
        asked++;
    }
}

// False: it is gone.
bool client::read(remote& r) noexcept {
    char bytes[1024];
    for (bool goes_on = true; goes_on;) {
        goes_on = how != manner::sipping;
        const sys::count n = r.recv({bytes, goes_on ? sizeof bytes : home->sip_bytes()});
        if (n == -EAGAIN) return !voice.tunnel || hear_tunnel(r);
        const bool may_tell = home->between_ == town::between::passes_on && r.socket().fin_received;
        if (n == 0 && may_tell) home->check_end_at(*this);
        if (n <= 0) {
            if (home->tongue_ == town::tongue::http1) {
                if (n == 0 && !digest_http(r)) return false; // the end was that of a body
                judge_end(r);
            }
            const std::uint32_t given_up = home->gives_up_behind_a_fin() && said.ended ? 1 : 0; // the last one
            if (must_succeed && answered + failed + given_up < asks)
                home->k_.violate("I10", "a healthy client was cut off");
            leave(r);
            return false;
        }
        in.append(bytes, static_cast<std::size_t>(n));
        heard.bytes += static_cast<std::uint64_t>(n);
        if (home->tongue_ == town::tongue::http1 ? !digest_http(r) : !digest(r)) return false;
    }
    return true;
}

// Checks the answers that are complete. False: it is gone.
bool client::digest(remote& r) noexcept {
    while (in.size() >= sizeof(frame)) {
        const frame f = front(in);
        kernel& k = home->k_;
        if (f.magic != frame::answer_magic) k.violate("I6", "a client got bytes that are no answer");
        if (f.id != first_id + answered) k.violate("I15", "a client got the answer to another request");
        const bool is_error = f.bytes == failed_bytes;
        if (is_error && must_succeed) k.violate("I10", "a healthy client was told that it cannot be answered");
        const std::uint32_t bytes = is_error ? 0 : f.bytes;
        if (in.size() < sizeof f + bytes) return true;
        if (!is_payload(in.data() + sizeof f, f.id, bytes)) k.violate("I6", "a client got a byte that is not its own");
        saw(is_error ? mark::answer_error : mark::answer_whole);
        in.erase(0, sizeof f + bytes);
        if (!answered_one(r)) return false;
    }
    return true;
}

// False: that was the last, and it is gone.
bool client::answered_one(remote& r) noexcept {
    answered++;
    if (answered == asks && how != manner::half_closing && !voice.lingers) {
        leave(r);
        return false;
    }
    if (how != manner::stalling) r.wake_in(duration{1000});
    return true;
}

} // namespace simtest
