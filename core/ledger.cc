// ledger: the ring, and the words for people.

#include "core/ledger.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "core/endpoint.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

// A line under construction; what does not fit is cut off.
class line {
  public:
    [[gnu::format(printf, 2, 3)]] line& put(const char* format, ...) noexcept {
        va_list values;
        va_start(values, format);
        const int n = std::vsnprintf(room_ + size_, sizeof room_ - size_, format, values);
        va_end(values);
        if (n > 0) size_ = std::min(size_ + static_cast<std::size_t>(n), sizeof room_ - 1);
        return *this;
    }
    line& put_text(std::string_view text) noexcept { return put("%.*s", static_cast<int>(text.size()), text.data()); }
    line& put_age(duration age) noexcept {
        return put("%.3f s", std::chrono::duration<double>(std::max(age, duration{0})).count());
    }
    void send(line_sink out) const noexcept { out.take(out.to, {room_, size_}); }

  private:
    char room_[640];
    std::size_t size_ = 0;
};

using name_call = int (*)(int fd, sockaddr* address, socklen_t* bytes) noexcept;

// "" for what is no socket, or has no peer.
std::string_view name_of(int fd, name_call call, char (&room)[endpoint::log_text_max]) noexcept {
    sockaddr_storage storage{};
    socklen_t bytes = sizeof storage;
    if (call(fd, reinterpret_cast<sockaddr*>(&storage), &bytes) < 0) return {};
    return endpoint::from_kernel(storage, bytes).log_text(room);
}

void put_addresses(line& to, int fd) noexcept {
    char here[endpoint::log_text_max], there[endpoint::log_text_max];
    const std::string_view local = name_of(fd, sys::local_name, here);
    if (local.empty()) return;
    to.put(" ").put_text(local);
    if (const std::string_view peer = name_of(fd, sys::peer_name, there); !peer.empty()) to.put(" - ").put_text(peer);
}

} // namespace

const char* to_string(fd_event what) noexcept {
    switch (what) {
    case fd_event::opened: return "opened";
    case fd_event::parked: return "parked";
    case fd_event::taken: return "taken";
    case fd_event::lingering: return "lingering";
    case fd_event::closed: return "closed";
    }
    return "";
}

fd_ledger::~fd_ledger() {
    if (ring_) sys::unmap(ring_, std::size_t{entries_} * sizeof(entry));
    if (newest_) sys::unmap(newest_, std::size_t{fd_max_} * sizeof *newest_);
}

result<void> fd_ledger::open(std::uint32_t entries, std::uint32_t fd_max) noexcept {
    EXPECT(!ring_);
    EXPECT(entries > 0 && entries < 1u << 31);
    newest_ = static_cast<std::uint32_t*>(sys::map(std::size_t{fd_max} * sizeof *newest_));
    if (!newest_) return failure{ENOMEM};
    fd_max_ = fd_max;
    ring_ = static_cast<entry*>(sys::map(std::size_t{entries} * sizeof(entry)));
    if (!ring_) return failure{ENOMEM};
    entries_ = entries;
    return {};
}

void fd_ledger::record(const fd_slot& slot, fd_event what, const char* by, time_point at) noexcept {
    EXPECT(static_cast<std::uint32_t>(slot.fd) < fd_max_);
    if (static_cast<std::uint32_t>(++recorded_count_) == 0) ++recorded_count_; // 0 says "none"
    entry& e = ring_[(recorded_count_ - 1) % entries_];
    e = {.at = at, .by = by, .fd = slot.fd, .generation = slot.generation, .previous = newest_[slot.fd], .what = what};
    newest_[slot.fd] = static_cast<std::uint32_t>(recorded_count_);
}

// An entry that was overwritten is told by its age, and by its number. After 2^32 events an old number looks young
// again, but a younger entry of the same descriptor number would have been the one that was asked for.
const fd_ledger::entry* fd_ledger::find(std::uint32_t number, int fd) const noexcept {
    const std::uint32_t age = static_cast<std::uint32_t>(recorded_count_) - number;
    if (number == 0 || age >= std::min<std::uint64_t>(entries_, recorded_count_)) return nullptr;
    const entry& e = ring_[(recorded_count_ - age - 1) % entries_];
    return e.fd == fd ? &e : nullptr;
}

const fd_ledger::entry* fd_ledger::newest(int fd) const noexcept {
    const bool is_known = ring_ && fd >= 0 && static_cast<std::uint32_t>(fd) < fd_max_;
    return is_known ? find(newest_[fd], fd) : nullptr;
}

void fd_ledger::introduce(fd_handler handler, fd_teller teller) noexcept {
    EXPECT(handler != nullptr && teller != nullptr);
    std::uint32_t at = 0;
    while (at < tellers_count_ && tellers_[at].handler != handler)
        at++;
    if (at < tellers_count_) return;
    EXPECT(tellers_count_ < tellers_max);
    tellers_[tellers_count_++] = {handler, teller};
}

fd_facts fd_ledger::facts(const fd_slot& slot) const noexcept {
    fd_facts known{.owner = slot.owner};
    for (const auto& t : tellers_)
        if (t.handler == slot.handler && t.teller) t.teller(slot, known);
    return known;
}

time_point fd_ledger::opened_at(const fd_slot& slot, const fd_facts& known) const noexcept {
    if (known.since != never) return known.since;
    for (const entry* e = newest(slot.fd); e && e->generation == slot.generation; e = before(*e))
        if (e->what == fd_event::opened) return e->at;
    return never;
}

std::uint32_t fd_ledger::list(fdtab& fds, time_point now, line_sink out) const noexcept {
    std::uint32_t found = 0;
    for (std::uint32_t fd = 0; fd < fds.fd_max() && found < fds.used_count(); fd++) {
        const fd_slot& slot = fds.slot(static_cast<int>(fd));
        if (!slot.handler) continue;
        found++;
        describe(slot, now, out);
    }
    return found;
}

std::uint32_t fd_ledger::list_some(fdtab& fds, std::uint32_t from, std::uint32_t lines_max, time_point now,
                                   line_sink out) const noexcept {
    EXPECT(lines_max > 0);
    std::uint32_t fd = from;
    for (std::uint32_t lines = 0; fd < fds.fd_max() && lines < lines_max; fd++) {
        const fd_slot& slot = fds.slot(static_cast<int>(fd));
        if (!slot.handler) continue;
        lines++;
        describe(slot, now, out);
    }
    return fd;
}

void fd_ledger::describe(const fd_slot& slot, time_point now, line_sink out) const noexcept {
    const fd_facts known = facts(slot);
    line text;
    text.put("fd %d %s", slot.fd, known.role);
    if (*known.table) text.put(" %s", known.table);
    put_addresses(text, slot.fd);
    if (const time_point since = opened_at(slot, known); since != never) text.put(" age ").put_age(now - since);
    char bits[160];
    text.put(" owner %p ", known.owner).put_text(to_string(slot.state, bits));
    const entry* last = newest(slot.fd);
    if (last && last->generation == slot.generation)
        text.put("; %s %s ", to_string(last->what), last->by).put_age(now - last->at).put(" ago");
    text.send(out);
}

std::uint32_t fd_ledger::tell(int fd, time_point now, line_sink out) const noexcept {
    std::uint32_t told = 0;
    for (const entry* e = newest(fd); e; e = before(*e)) {
        line text;
        text.put("fd %d generation %u %s %s ", fd, e->generation, to_string(e->what), e->by);
        text.put_age(now - e->at).put(" ago").send(out);
        told++;
    }
    return told;
}

line_sink lines_to(int fd) noexcept {
    const auto take = [](void* to, std::string_view text) noexcept {
        char whole[704];
        const std::size_t n = std::min(text.size(), sizeof whole - 1);
        std::memcpy(whole, text.data(), n);
        whole[n] = '\n';
        // A line that nobody takes is lost: there is no better place to say so.
        [[maybe_unused]] const sys::count written =
            sys::write(static_cast<int>(reinterpret_cast<std::intptr_t>(to)), whole, n + 1);
    };
    return {.take = take, .to = reinterpret_cast<void*>(std::intptr_t{fd})};
}

} // namespace weir::inline WEIR_KERNEL
