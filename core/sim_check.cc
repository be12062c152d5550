// sim_check: comparing slots with sockets.

#include "core/sim_check.hpp"

namespace weir::inline WEIR_KERNEL {

loop_check::loop_check(event_loop& loop) noexcept : loop_(loop), kernel_(kernel::current()) {
    kernel_.on_sleep([](void* self) noexcept { static_cast<loop_check*>(self)->asleep(); }, this);
}

loop_check::~loop_check() { kernel_.on_sleep(nullptr, nullptr); }

void loop_check::asleep() noexcept {
    fdtab& fds = loop_.fds();
    const int fd_end = std::min(kernel_.numbers_end(), static_cast<int>(fds.fd_max()));
    for (int fd = 0; fd < fd_end; fd++) {
        const fd_slot& slot = fds.slot(fd);
        if (slot.handler == nullptr) continue;
        file* f = kernel_.at(fd);
        if (!f) kernel_.violate("I2", "the loop has a slot for a number that is not open");
        else check(fds, slot, *f);
    }
}

void loop_check::check(const fdtab& fds, const fd_slot& slot, file& f) noexcept {
    const watch* w = f.watched_as(slot.fd);
    if (!w) {
        kernel_.violate("I12", "a slot's descriptor is not watched");
        return;
    }
    const bool has_out = (w->interest & EPOLLOUT) != 0;
    if (has_out != slot.is(fd_state::awaits_send)) kernel_.violate("I12", "EPOLLOUT is not what the slot records");
    if (w->data != fds.data_of(slot)) kernel_.violate("I12", "epoll's data names another generation");
    if (slot.runnable()) kernel_.violate("I4", "asleep with a runnable slot");
    const bool is_stream =
        f.what == file::kind::stream; // an eventfd is never read: each edge is news, and it is enough
    if (is_stream && !w->pending()) check_ready(slot, static_cast<stream&>(f));
}

void loop_check::before_reaping(const fd_slot& slot) noexcept {
    file* f = kernel_.at(slot.fd);
    const watch* w = f ? f->watched_as(slot.fd) : nullptr;
    if (!w) kernel_.violate("I12", "a slot's descriptor is not watched");
    else if (!w->pending()) check_ready(slot, static_cast<stream&>(*f));
}

// No event is on its way: what could be done now will never be told.
void loop_check::check_ready(const fd_slot& slot, stream& socket) noexcept {
    const std::uint32_t seen = socket.poll();
    if (slot.is(fd_state::connecting)) {
        const bool connected = (seen & (EPOLLOUT | EPOLLHUP)) == EPOLLOUT;
        if (connected || (seen & EPOLLERR) != 0) kernel_.violate("I4", "asleep, and how a connect ended was not told");
        return;
    }
    const bool waits_to_recv = slot.is(fd_state::recv_active) && !slot.is(fd_state::recv_ready);
    const bool waits_to_send = slot.is(fd_state::send_active) && !slot.is(fd_state::send_ready);
    if (waits_to_recv && (seen & (EPOLLIN | EPOLLRDHUP)) != 0)
        kernel_.violate("I4", "asleep, and something could be received");
    if (waits_to_send && (seen & EPOLLOUT) != 0) kernel_.violate("I4", "asleep, and something could be sent");
    if ((seen & EPOLLERR) != 0 && !slot.is(fd_state::err)) kernel_.violate("I4", "asleep, and an error was not told");
    const bool knows_end = socket.end_read || slot.is(fd_state::rdhup | fd_state::hup | fd_state::err |
                                                      fd_state::unsure | fd_state::recv_ready);
    if ((seen & (EPOLLRDHUP | EPOLLHUP)) != 0 && !knows_end) kernel_.violate("I4", "asleep, and an end was not told");
}

} // namespace weir::inline WEIR_KERNEL
