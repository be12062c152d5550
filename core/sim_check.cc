// sim_check: comparing slots with sockets.

#include "core/sim_check.hpp"

namespace weir::inline WEIR_KERNEL {

loop_check::loop_check(event_loop& loop) noexcept : loop_(loop), kernel_(kernel::current()) {
    kernel_.on_sleep([](void* self) noexcept { static_cast<loop_check*>(self)->asleep(); }, this);
    kernel_.on_spin([](void* self, const char* what) noexcept { static_cast<loop_check*>(self)->spins(what); }, this);
}

loop_check::~loop_check() {
    kernel_.on_sleep(nullptr, nullptr);
    kernel_.on_spin(nullptr, nullptr);
}

void loop_check::complain(const char* invariant, const fd_slot& slot, const char* what) noexcept {
    const fd_facts known = loop_.ledger().facts(slot);
    char room[160];
    const std::string_view state = to_string(slot.state, room);
    kernel_.violate(invariant, "%s: fd %d %s%s%s (%.*s)", what, slot.fd, known.role, *known.table ? " " : "", known.table,
                    static_cast<int>(state.size()), state.data());
}

// The first slot that is runnable is the likely cause: its handler neither moves bytes nor stops wanting to.
void loop_check::spins(const char* what) noexcept {
    fdtab& fds = loop_.fds();
    const int fd_end = std::min(kernel_.numbers_end(), static_cast<int>(fds.fd_max()));
    for (int fd = 0; fd < fd_end; fd++)
        if (const fd_slot& slot = fds.slot(fd); slot.handler && slot.runnable()) return complain("I11", slot, what);
    kernel_.violate("I11", "%s: no descriptor is runnable", what);
}

void loop_check::asleep() noexcept {
    fdtab& fds = loop_.fds();
    const int fd_end = std::min(kernel_.numbers_end(), static_cast<int>(fds.fd_max()));
    for (int fd = 0; fd < fd_end; fd++) {
        const fd_slot& slot = fds.slot(fd);
        if (slot.handler == nullptr) continue;
        file* f = kernel_.at(fd);
        if (!f) complain("I2", slot, "the loop has a slot for a number that is not open");
        else check(fds, slot, *f);
    }
}

void loop_check::check(const fdtab& fds, const fd_slot& slot, file& f) noexcept {
    const watch* w = f.watched_as(slot.fd);
    if (!w) {
        complain("I12", slot, "a slot's descriptor is not watched");
        return;
    }
    const bool has_out = (w->interest & EPOLLOUT) != 0;
    if (has_out != slot.is(fd_state::awaits_send)) complain("I12", slot, "EPOLLOUT is not what the slot records");
    if (w->data != fds.data_of(slot)) complain("I12", slot, "epoll's data names another generation");
    if (slot.runnable()) complain("I4", slot, "asleep with a runnable slot");
    const bool is_stream =
        f.what == file::kind::stream; // an eventfd is never read: each edge is news, and it is enough
    if (is_stream && !w->pending()) check_ready(slot, static_cast<stream&>(f));
}

void loop_check::before_reaping(const fd_slot& slot) noexcept {
    file* f = kernel_.at(slot.fd);
    const watch* w = f ? f->watched_as(slot.fd) : nullptr;
    if (!w) complain("I12", slot, "a slot's descriptor is not watched");
    else if (!w->pending()) check_ready(slot, static_cast<stream&>(*f));
}

// No event is on its way: what could be done now will never be told.
void loop_check::check_ready(const fd_slot& slot, stream& socket) noexcept {
    const std::uint32_t seen = socket.poll();
    if (slot.is(fd_state::connecting)) {
        const bool connected = (seen & (EPOLLOUT | EPOLLHUP)) == EPOLLOUT;
        if (connected || (seen & EPOLLERR) != 0) complain("I4", slot, "asleep, and how a connect ended was not told");
        return;
    }
    const bool waits_to_recv = slot.is(fd_state::recv_active) && !slot.is(fd_state::recv_ready);
    const bool waits_to_send = slot.is(fd_state::send_active) && !slot.is(fd_state::send_ready);
    if (waits_to_recv && (seen & (EPOLLIN | EPOLLRDHUP)) != 0)
        complain("I4", slot, "asleep, and something could be received");
    if (waits_to_send && (seen & EPOLLOUT) != 0) complain("I4", slot, "asleep, and something could be sent");
    if ((seen & EPOLLERR) != 0 && !slot.is(fd_state::err)) complain("I4", slot, "asleep, and an error was not told");
    const bool knows_end = socket.end_read || slot.is(fd_state::rdhup | fd_state::hup | fd_state::err |
                                                      fd_state::unsure | fd_state::recv_ready);
    if ((seen & (EPOLLRDHUP | EPOLLHUP)) != 0 && !knows_end) complain("I4", slot, "asleep, and an end was not told");
}

} // namespace weir::inline WEIR_KERNEL
