// pipes: opening, lending, closing.

#include "core/pipes.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr duration rest = seconds{1};
constexpr std::uint32_t default_bytes = 64 * 1024; // pipe(7)
} // namespace

pipe_pool::pipe_pool(conntab& conns, const pipe_options& options) noexcept
    : conns_(conns), leases_(options.pipes_max), wanted_bytes_(options.pipe_bytes), room_bytes_(default_bytes) {
    conns.on_shortage(
        [](void* self, shortage of) noexcept {
            return of == shortage::descriptors && static_cast<pipe_pool*>(self)->close_a_free_one();
        },
        this);
}

pipe_pool::~pipe_pool() {
    EXPECT(lent_count_ == 0);
    while (close_a_free_one()) {
    }
    conns_.no_shortage(this);
}

pipe_lease* pipe_pool::take() noexcept {
    pipe_lease* p = free_.pop_front();
    if (!p && conns_.loop().now() >= rests_until_) p = open();
    if (p) lent_count_++;
    return p;
}

pipe_lease* pipe_pool::open() noexcept {
    pipe_lease* p = leases_.make();
    if (!p) return nullptr;
    int ends[2];
    if (sys::pipe_open(ends) < 0) {
        failed_count_++;
        rests_until_ = conns_.loop().now() + rest;
        leases_.free(*p);
        return nullptr;
    }
    opened_count_++;
    p->read_fd = ends[0];
    p->write_fd = ends[1];
    if (wanted_bytes_ > default_bytes) {
        const int given = sys::set_pipe_room(p->write_fd, static_cast<int>(wanted_bytes_));
        if (given > 0) room_bytes_ = static_cast<std::uint32_t>(given);
        else wanted_bytes_ = room_bytes_ = default_bytes; // beyond what one user may have, pipe(7)
    }
    return p;
}

void pipe_pool::give_back(pipe_lease& p) noexcept {
    lent_count_--;
    if (p.held_bytes > 0) close(p);
    else free_.push_front(p);
}

void pipe_pool::close(pipe_lease& p) noexcept {
    sys::close(p.read_fd);
    sys::close(p.write_fd);
    leases_.free(p);
}

bool pipe_pool::close_a_free_one() noexcept {
    pipe_lease* p = free_.pop_front();
    if (p) close(*p);
    return p != nullptr;
}

} // namespace weir::inline WEIR_KERNEL
