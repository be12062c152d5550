// failures_stage: how a life begins, goes on and ends, and what must hold then.

#include "sim/failures.hpp"

#include <algorithm>

namespace failures {

namespace {

kernel_options options_of(const setting& how) {
    return {.seed = 1,
            .descriptors_max = how.descriptors_max,
            .call_max = duration{500},
            .swarm = false,
            .network = {.buffer_bytes_min = how.buffer_bytes, .buffer_bytes_max = how.buffer_bytes}};
}

bool starts_with(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }

// "HTTP/1.1 200 ..." "HTTP/1.1 502 ...": each answer by itself.
std::vector<std::string_view> answers_in(std::string_view heard) {
    std::vector<std::string_view> answers;
    for (std::size_t at = 0; at < heard.size();) {
        const std::size_t next = std::min(heard.find("HTTP/1.1 ", at + 1), heard.size());
        answers.push_back(heard.substr(at, next - at));
        at = next;
    }
    return answers;
}

bool is_interim(std::string_view answer) { return starts_with(answer, "HTTP/1.1 10"); }
bool is_refusal(std::string_view answer) {
    return starts_with(answer, "HTTP/1.1 502") || starts_with(answer, "HTTP/1.1 503") ||
           starts_with(answer, "HTTP/1.1 504") || starts_with(answer, "HTTP/1.1 408");
}

} // namespace

stage::stage(const setting& how, const fault_wish& wish, memories& m)
    : k(options_of(how)), how_(how), wish_(wish), memories_(m) {
    k.on_violation(
        [](void*, kernel& sim, const char* invariant, const char* text) noexcept { give_up(sim, invariant, text); },
        nullptr);
    k.faults.plan.set(wish.call, wish.way, wish.extent);
    fail_allocation(wish.allocation, wish.extent);
    start([&] {
        loop = std::make_unique<event_loop>();
        if (loop->open(how_.loop)) return true;
        loop.reset();
        require(k.open_count() == 0, "a loop that could not be opened left a descriptor behind");
        return false;
    });
    check_.emplace(*loop);
}

stage::~stage() { heal_allocations(); }

void stage::fail(const char* text) { give_up(k, "failure", text); }

void stage::start(const std::function<bool()>& attempt) {
    if (attempt()) return;
    require(harmed(), "it does not work, though nothing failed");
    if (attempt()) return;
    require(wish_.extent == planned_failure::extent::from_then_on,
            "it does not work again after a failure that came once");
    k.faults.plan.pause();
    heal_allocations();
    require(attempt(), "it does not work again after the failure is over");
}

void stage::open_conns(conntab_options how) {
    how.connections_max = how_.connections_max;
    how.blocks_max = 2 * how_.connections_max;
    start([&] {
        conns = std::make_unique<conntab>(*loop);
        const bool opened = conns->open(how).ok();
        require(conns->is_open() == opened, "a conntab does not say whether it is open");
        return opened;
    });
}

void stage::first_run(remote& r) noexcept {
    shop& at = *static_cast<shop*>(r.owner);
    const std::size_t visit = std::min({at.visits++, at.scripts.size() - 1, at.visits_max});
    at.home->servers_.push_back(std::make_unique<remote_player>(*at.home, at.scripts[visit]));
    remote_player& p = *at.home->servers_.back();
    p.special = &at.scripts.back();
    p.end = &r;
    r.owner = &p;
    r.become(remote_player::table);
    p.run(r);
}

void stage::serve(const endpoint& where, std::vector<script> scripts) {
    static constexpr remote_cb entrance{.name = "entrance", .run = first_run};
    shops_.push_back(std::make_unique<shop>(shop{this, std::move(scripts)}));
    k.net.serve({.where = where, .table = &entrance, .owner = shops_.back().get()});
}

void stage::serve_http(const endpoint& where, script special) {
    serve(where, {{{.what = step::act::choose}}, std::move(special)});
    shops_.back()->visits_max = 0;
}

void stage::refuse(const endpoint& where) { k.net.serve({.where = where, .refuses = true}); }

remote_player& stage::come(const endpoint& where, script steps) {
    clients_.push_back(std::make_unique<remote_player>(*this, std::move(steps)));
    remote_player& p = *clients_.back();
    const bool tcp_door = where.family() != AF_UNIX;
    const auto port = static_cast<std::uint16_t>(1000 + clients_.size());
    p.end = &k.net.dial(tcp_door ? endpoint::ipv4(0x0a00ff01, port) : endpoint::unix_path("@client").value(), where,
                        remote_player::table, &p);
    return p;
}

local_player& stage::local(script steps) {
    locals_.push_back(std::make_unique<local_player>(*this, std::move(steps)));
    return *locals_.back();
}

void stage::turns(duration span) {
    const time_point end = k.time.now + span;
    constexpr int turns_max = 200'000;
    for (int i = 0; k.time.now < end; i++) {
        require(i < turns_max, "the loop turns and turns");
        loop->turn(end - k.time.now);
    }
}

bool stage::all_over() const noexcept {
    const auto over = [](const auto& p) { return p->over; };
    return std::all_of(clients_.begin(), clients_.end(), over) && std::all_of(locals_.begin(), locals_.end(), over);
}

void stage::settle(duration patience) {
    const time_point end = k.time.now + patience;
    while (k.time.now < end && !all_over())
        turns(std::min<duration>(end - k.time.now, milliseconds{20}));
    turns(milliseconds{20}); // what the last of them left behind
    require(harmed() || all_over(), "somebody waits for what never comes, though nothing failed");
}

void stage::heal() {
    k.faults.plan.pause();
    heal_allocations();
    settle();
    require(all_over(), "somebody still waits after the failure is over");
    turns(how_.rest);
}

void stage::recover() {
    heal();
    k.faults.plan.resume();
}

void stage::recover(const endpoint& where, script visitor) {
    heal();
    remote_player& p = come(where, std::move(visitor));
    settle();
    require(p.over && p.whole, "a client that came after the failure was not served");
    k.faults.plan.resume();
}

void stage::check_sums() {
    using enum conn_origin;
    std::uint64_t ended = 0;
    for (unsigned cause = 0; cause < static_cast<unsigned>(end_cause::count_); cause++)
        ended += conns->ended_count(static_cast<end_cause>(cause));
    const std::uint64_t opened =
        conns->opened_count(accepted) + conns->opened_count(dialed) + conns->opened_count(adopted);
    require(opened == ended + conns->live_count(), "I18: the causes do not add up to accepts and dials");
    require(conns->ended_count(end_cause::none) == 0, "I18: a connection ended without a cause");
}

void stage::finish() {
    if (conns) {
        for (int i = 0; i < 400 && conns->live_count() > 0; i++) // those that linger
            turns(milliseconds{20});
        require(conns->live_count() == 0, "a connection outlives everybody");
        require(conns->blocks().used() == 0, "a block was not given back");
        check_sums();
    }
    check_clients();
    check_servers();
    conns.reset();
    check_.reset();
    loop.reset();
    require(k.open_count() == 0, "I1: a descriptor is left open");
    require(k.maps_count() == 0, "a mapping is left");
}

// In a harmed life, of an unharmed one's `all`: the whole, or less of it.
bool stage::may_have_heard(const std::string& heard, const std::string& all) const {
    if (starts_with(all, heard) || how_.language == speech::numbers) return true;
    if (how_.language != speech::http) return false;
    const auto expected = answers_in(all), answers = answers_in(heard);
    std::size_t at = 0;
    for (std::size_t i = 0; i < answers.size(); i++) {
        while (at < expected.size() && is_interim(expected[at]) && !is_interim(answers[i]))
            at++;
        if (at == expected.size()) { // no server's: weir's own to what was said on the way into a tunnel that is none
            if (!is_refusal(answers[i])) return false;
            continue;
        }
        const bool is_cut = i + 1 == answers.size() && starts_with(expected[at], answers[i]);
        // A request that was refused may be asked again, if what failed now proves that nobody had it.
        const bool may_be = is_cut || answers[i] == expected[at] || is_refusal(answers[i]) || is_refusal(expected[at]);
        if (!may_be) return false;
        at++;
    }
    return true;
}

void stage::check_unharmed(const player& p) {
    require(p.whole, "somebody was not served, though nothing failed");
    const bool exact = how_.language == speech::bytes || how_.language == speech::asks;
    require(!exact || p.heard == p.expected(), "somebody heard other bytes than were said to him");
}

void stage::check_clients() {
    std::size_t short_count[2] = {}; // at the far ends, and on weir's side
    std::vector<std::string> heard;
    const auto check = [&](const player& p, std::size_t side) {
        const std::size_t i = heard.size();
        heard.push_back(p.heard);
        if (!memories_.filled) return check_unharmed(p);
        require(i < memories_.clients.size() && may_have_heard(p.heard, memories_.clients[i]),
                "somebody heard what was not for him");
        if (!p.whole || (p.heard != memories_.clients[i] && how_.language == speech::bytes)) short_count[side]++;
    };
    for (const auto& p : clients_)
        check(*p, 0);
    for (const auto& p : locals_)
        check(*p, 1);
    if (!memories_.filled) memories_.clients = heard;
    if (wish_.extent == planned_failure::extent::from_then_on || !k.faults.plan.struck()) return;
    const planned_failure& plan = k.faults.plan;
    if (plan.what() == call::accept && plan.error() == EINVAL) return; // the whole queue is lost
    const std::size_t sufferers = std::max(short_count[0], short_count[1]);
    require(sufferers == 0 || how_.suffer_max > 1 || !is_harmless(plan.what(), plan.error()),
            "somebody suffered from what harms nobody");
    require(sufferers <= how_.suffer_max, "more suffered than one failure can reach");
}

void stage::check_servers() {
    std::string all;
    for (const auto& p : servers_)
        all += p->heard;
    for (const std::string& text : only_once_) {
        const std::size_t first = all.find(text);
        require(first == all.npos || all.find(text, first + 1) == all.npos, "a request was made twice");
    }
    if (!memories_.filled) {
        for (const auto& p : servers_)
            memories_.servers.push_back(p->heard);
        memories_.filled = true;
        return;
    }
    if (how_.language == speech::http || how_.language == speech::numbers) return;
    std::string asks;
    while (how_.language == speech::asks && asks.size() < all.size())
        asks += "ask";
    if (!asks.empty()) memories_.servers = {asks};
    for (const auto& p : servers_) {
        const auto fits = [&](const std::string& m) { return starts_with(m, p->heard); };
        require(std::any_of(memories_.servers.begin(), memories_.servers.end(), fits),
                "a server heard what was not for it");
    }
}

} // namespace failures
