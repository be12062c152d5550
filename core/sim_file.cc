// sim_file: epoll sets, as fs/eventpoll.c has them.

#include "core/sim_file.hpp"

#include <utility>

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr std::uint32_t always = EPOLLERR | EPOLLHUP;
constexpr std::uint32_t modes = EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP;

void forget(watch& w) noexcept {
    w.in_ready.unlink();
    w.in_file.unlink();
    w.in_set.unlink();
    w.set.count--;
    delete &w;
}
} // namespace

void file::wake(std::uint32_t key) noexcept {
    for (watch* w = watches.front(); w; w = watches.after(*w)) {
        const std::uint32_t interest = (w->interest & ~modes) | always;
        if (key != 0 && (key & interest) == 0) continue;
        if (!w->in_ready.linked()) w->set.ready.push_back(*w);
    }
}

void file::forget_watches() noexcept {
    while (watch* w = watches.front())
        forget(*w);
}

watch* file::watched_as(int fd) noexcept {
    for (watch* w = watches.front(); w; w = watches.after(*w))
        if (w->fd == fd) return w;
    return nullptr;
}

epoll_set::~epoll_set() {
    while (watch* w = watches_of_set.front())
        forget(*w);
}

watch* epoll_set::find(int fd, file& target) noexcept {
    for (watch* w = target.watches.front(); w; w = target.watches.after(*w))
        if (w->fd == fd && &w->set == this) return w;
    return nullptr;
}

int epoll_set::add(int fd, file& target, std::uint32_t interest, std::uint64_t data) noexcept {
    if (target.what == kind::plain) return -EPERM;
    if (&target == this) return -EINVAL;
    if (find(fd, target)) return -EEXIST;
    watch* w = new watch(*this, target, fd);
    watches_of_set.push_back(*w);
    target.watches.push_back(*w);
    count++;
    return change(fd, target, interest, data);
}

// Looks at the state at once, so what is there already counts as an event.
int epoll_set::change(int fd, file& target, std::uint32_t interest, std::uint64_t data) noexcept {
    watch* w = find(fd, target);
    if (!w) return -ENOENT;
    w->interest = interest;
    w->data = data;
    if ((target.poll() & ((interest & ~modes) | always)) != 0 && !w->in_ready.linked()) ready.push_back(*w);
    return 0;
}

int epoll_set::remove(int fd, file& target) noexcept {
    watch* w = find(fd, target);
    if (!w) return -ENOENT;
    forget(*w);
    return 0;
}

int epoll_set::harvest(epoll_event* events, int events_max, dice& chance) noexcept {
    int n = 0;
    list<&watch::in_ready> level; // go back behind those that were not looked at
    while (n < events_max) {
        watch* w = ready.pop_front();
        if (!w) break;
        const std::uint32_t seen = w->target.poll() & ((w->interest & ~modes) | always);
        if (seen == 0) continue;
        events[n].events = seen;
        events[n].data.u64 = w->data;
        n++;
        if (!(w->interest & EPOLLET)) level.push_back(*w);
    }
    ready.take_all(level);
    for (int i = n - 1; i > 0; i--) {
        const auto j = chance.below(static_cast<std::uint32_t>(i) + 1);
        std::swap(events[i], events[j]);
    }
    return n;
}

bool epoll_set::invent(epoll_event& event, dice& chance) noexcept {
    if (count == 0) return false;
    watch* w = watches_of_set.front();
    for (std::uint32_t skip = chance.below(count); skip > 0; skip--)
        w = watches_of_set.after(*w);
    const std::uint32_t in_or_out = chance.coin() ? EPOLLIN : EPOLLOUT;
    // A socket that is still connecting is never reported writable: that OUT means connected, connect(2).
    const std::uint32_t told = w->interest & in_or_out;
    if (told == 0 || w->target.what != kind::stream || w->target.poll() == 0) return false;
    event.events = told;
    event.data.u64 = w->data;
    return true;
}

std::uint32_t counter_file::poll() noexcept { return (value > 0 ? EPOLLIN : 0u) | (value < value_max ? EPOLLOUT : 0u); }

} // namespace weir::inline WEIR_KERNEL
