// names: looking up, and what is made of the answers.

#include "tools/names.hpp"

#include <algorithm>
#include <cstring>

namespace weir::inline WEIR_KERNEL::tools {

namespace {

// A datagram socket sends nothing when it connects, and its own address is then the one that was asked for exactly when
// that is this machine's. (bind() would also succeed for others with net.ipv4.ip_nonlocal_bind.)
bool is_own(const endpoint& at) noexcept {
    if (at.is_loopback() || at.is_any()) return true;
    const int made = sys::socket(at.family(), SOCK_DGRAM);
    if (made < 0) return false;
    const unique_fd fd{made};
    const endpoint to = at.with_port(9); // port 0 cannot be connected to everywhere
    if (sys::connect(made, to.data(), to.size()) < 0) return false;
    const auto local = local_endpoint(made);
    return local && local.value().same_address(at);
}

bool same_places(const upstream_place& a, const upstream_place& b) noexcept {
    const auto same = [](const address& x, const address& y) { return x.family == y.family && x.at == y.at; };
    return std::equal(a.addresses().begin(), a.addresses().end(), b.addresses().begin(), b.addresses().end(), same);
}

// "10.0.0.1:80, 10.0.0.2:80"
struct list_text {
    char text[upstream::addresses_max * (endpoint::text_max + 2) + 1] = "";
};
const char* write_list(const upstream_place& place, list_text& to) noexcept {
    std::size_t size = 0;
    for (const address& each : place.addresses()) {
        char room[endpoint::text_max];
        const std::string_view at = each.at.text(room);
        if (size > 0) size += std::string_view{", "}.copy(to.text + size, 2);
        size += at.copy(to.text + size, at.size());
    }
    to.text[size] = '\0';
    return to.text;
}

} // namespace

int look_up(const char* text, upstream_place& to, std::size_t& ignored) noexcept {
    address all[4 * upstream::addresses_max];
    const auto count = parse_addresses(text, all);
    if (!count) return count.error();
    to.text = text;
    to.count = std::min(count.value(), to.at.size());
    ignored = count.value() - to.count;
    std::copy_n(all, to.count, to.at.begin());
    return 0;
}

bool leads_to(const endpoint& wanted, const endpoint& bound) noexcept {
    const endpoint to = wanted.unmapped(), local = bound.unmapped();
    if (to.family() == AF_UNIX || local.family() == AF_UNIX) return to == local;
    if (to.port() != local.port()) return false;
    if (to.same_address(local)) return true;
    // [::] takes IPv4 clients in as well, unless net.ipv6.bindv6only says otherwise, and 0.0.0.0 is IPv4 alone.
    const bool takes_family = local.family() == to.family() || local.family() == AF_INET6;
    if (local.is_any() && takes_family) return is_own(to);
    return to.is_any() && local.is_loopback() && local.family() == to.family(); // a connect to 0.0.0.0 goes to 127.0.0.1
}

names::~names() { EXPECT(!is_running_); }

void names::open(event_loop& loop, std::span<const upstream_place> first, const endpoint& listening,
                 log_writer& lines, callback moved, void* owner) noexcept {
    EXPECT(!loop_ && first.size() <= places_.size());
    loop_ = &loop;
    lines_ = &lines;
    listening_ = listening;
    moved_ = moved;
    owner_ = owner;
    count_ = first.size();
    std::copy(first.begin(), first.end(), places_.begin());
    for (std::size_t i = 0; i < count_; i++) {
        answers_[i].place.text = places_[i].text;
        answers_[i].is_asked = names_host(places_[i].text);
    }
    done_.run = [](letter& l) noexcept { container_of<&names::done_>(l).found(); };
}

void names::look_up_again() noexcept {
    const std::span all{answers_.data(), count_};
    if (std::none_of(all.begin(), all.end(), [](const answer& a) { return a.is_asked; })) return;
    is_wanted_again_ = is_running_;
    if (is_running_) return;
    if (const int r = sys::thread_start(helper_, resolve_all, this); r < 0) {
        lines_->print("names cannot be looked up again, their addresses stay: %s", std::strerror(-r));
        return;
    }
    is_running_ = true;
}

// The helper thread.
void* names::resolve_all(void* self) noexcept {
    names& n = *static_cast<names*>(self);
    for (std::size_t i = 0; i < n.count_; i++)
        if (answer& a = n.answers_[i]; a.is_asked) a.error = look_up(a.place.text, a.place, a.ignored);
    n.loop_->post(n.done_);
    return nullptr;
}

void names::found() noexcept {
    if (is_over_) return;
    join();
    bool has_changed = false;
    for (std::size_t i = 0; i < count_; i++)
        if (answers_[i].is_asked && take(i)) has_changed = true;
    if (has_changed) moved_(owner_);
    if (is_wanted_again_) look_up_again();
}

// True: upstream `i` is somewhere else now.
bool names::take(std::size_t i) noexcept {
    const answer& a = answers_[i];
    list_text list;
    if (a.error) {
        lines_->print("%s cannot be looked up again: %s; it stays at %s", a.place.text,
            a.error == ENOENT ? "no such host" : std::strerror(a.error), write_list(places_[i], list));
        return false;
    }
    if (same_places(places_[i], a.place)) return false;
    for (const address& each : a.place.addresses()) {
        if (!leads_to(each.at, listening_)) continue;
        lines_->print("%s leads to this proxy itself now; it stays at %s", a.place.text, write_list(places_[i], list));
        return false;
    }
    places_[i] = a.place;
    lines_->print("%s is at %s now", a.place.text, write_list(places_[i], list));
    if (a.ignored > 0) lines_->print("%s has %zu addresses more, which are not used", a.place.text, a.ignored);
    return true;
}

void names::end() noexcept {
    join();
    is_over_ = true;
}

void names::join() noexcept {
    if (!is_running_) return;
    sys::thread_join(helper_);
    is_running_ = false;
}

} // namespace weir::inline WEIR_KERNEL::tools
