// fdtab: the run lists and the merging of reports.

#include "core/fdtab.hpp"

#include <cstring>

#include "core/buggify.hpp"
#include "core/sys.hpp"

namespace weir::inline WEIR_KERNEL {

std::string_view to_string(fd_state state, char (&room)[160]) noexcept {
    static constexpr const char* names[] = {"recv_active", "recv_ready",  "send_active", "send_ready", "rdhup",
                                            "hup",         "err",         "news",        "queued",     "idle",
                                            "connecting",  "awaits_send", "shared",      "unsure"};
    std::size_t at = 0;
    for (std::size_t bit = 0; bit < std::size(names); bit++) {
        if (!any(state, static_cast<fd_state>(1u << bit))) continue;
        if (at) room[at++] = '+';
        const std::size_t length = std::strlen(names[bit]);
        std::memcpy(room + at, names[bit], length);
        at += length;
    }
    return {room, at};
}

fdtab::~fdtab() {
    EXPECT(used_count_ == 0, "a loop ends before its conntab, its listeners or what else it watches");
    if (slots_) sys::unmap(slots_, std::size_t{fd_max_} * sizeof(fd_slot));
}

result<void> fdtab::open(std::uint32_t fd_max) noexcept {
    EXPECT(!slots_);
    EXPECT(fd_max > 0 && fd_max < 1u << 31);
    slots_ = static_cast<fd_slot*>(sys::map(std::size_t{fd_max} * sizeof(fd_slot)));
    if (!slots_) return failure{ENOMEM};
    fd_max_ = fd_max;
    return {};
}

result<fd_slot*> fdtab::insert(int fd, fd_handler handler, void* owner) noexcept {
    EXPECT(fd >= 0);
    EXPECT(handler != nullptr);
    if (static_cast<std::uint32_t>(fd) >= fd_max_) return failure{EMFILE};
    fd_slot& slot = slots_[fd];
    EXPECT(slot.handler == nullptr);
    slot.handler = handler;
    slot.owner = owner;
    slot.fd = fd;
    slot.state &= fd_state::queued;
    used_count_++;
    return &slot;
}

void fdtab::release(fd_slot& slot) noexcept {
    EXPECT(slot.handler != nullptr);
    slot.handler = nullptr;
    slot.owner = nullptr;
    slot.generation++;
    slot.state &= fd_state::queued;
    used_count_--;
}

void fdtab::report(std::uint64_t data, std::uint32_t events) noexcept {
    const auto fd = static_cast<std::uint32_t>(data);
    EXPECT(fd < fd_max_);
    fd_slot& slot = slots_[fd];
    if (slot.generation != data >> 32 || !slot.handler) {
        stale_count_++;
        return;
    }
    fd_state seen{};
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) seen |= fd_state::recv_ready;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) seen |= fd_state::send_ready;
    // A recv stops short at the mark of urgent data, tcp(7), with more behind it.
    if (events & EPOLLPRI) seen |= fd_state::recv_ready | fd_state::unsure;
    if (events & EPOLLRDHUP) seen |= fd_state::rdhup;
    if (events & EPOLLHUP) seen |= fd_state::hup;
    if (events & EPOLLERR) seen |= fd_state::err;

    // Some kernels show HUP or RDHUP for a moment while a connect is still going to succeed: the handler asks the
    // socket, and nothing is latched that would outlive the answer.
    const bool undecided = slot.is(fd_state::connecting) && !(events & EPOLLERR);
    const fd_state latched = fd_state::rdhup | fd_state::hup | fd_state::err;
    if (any(seen & ~slot.state, latched)) seen |= fd_state::news;
    if (undecided && any(seen, latched)) seen = (seen & ~latched) | fd_state::unsure;
    set(slot, seen);
}

void fdtab::append(fd_slot& slot) noexcept {
    run_list& to = lists_[slot.is(fd_state::idle) ? 0 : 1];
    slot.state |= fd_state::queued;
    slot.next = -1;
    if (to.first < 0) to.first = slot.fd;
    else slots_[to.last].next = slot.fd;
    to.last = slot.fd;
}

std::uint32_t fdtab::run() noexcept {
    const std::int32_t idle_first = lists_[0].first, others_first = lists_[1].first;
    lists_[0] = lists_[1] = {};
    std::uint32_t ran = run_from(idle_first);
    ran += run_from(others_first);
    return ran;
}

std::uint32_t fdtab::run_from(std::int32_t at) noexcept {
    std::uint32_t ran = 0;
    while (at >= 0) {
        fd_slot& slot = slots_[at];
        at = slot.next;
        slot.state &= ~fd_state::queued;
        if (!slot.handler || !slot.runnable()) continue;
        const std::uint32_t generation = slot.generation;
        if (!buggify(twist::slot_later)) {
            slot.handler(slot);
            ran++;
        }
        // More to do than one turn allows: to the back, for the next turn.
        if (slot.generation == generation && slot.runnable()) queue(slot);
    }
    return ran;
}

} // namespace weir::inline WEIR_KERNEL
