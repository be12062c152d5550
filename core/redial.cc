// redial: the lines of connects that wait, and their tries.

#include "core/redial.hpp"

#include <algorithm>
#include <cerrno>

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

void redial_pool::add(connection& conn, const endpoint& to) noexcept {
    const bool is_first = first_for(to) == nullptr;
    entry* e = pool_.make(*this, conn, to);
    EXPECT(e != nullptr);
    waiting_.push_back(*e);
    if (is_first) arm(*e);
}

void redial_pool::remove(connection& conn) noexcept {
    entry* e = waiting_.front();
    while (e && &e->conn != &conn)
        e = waiting_.after(*e);
    if (!e) return;
    const bool was_first = e->again.armed();
    const endpoint to = e->to;
    e->again.cancel();
    e->hook.unlink();
    pool_.free(*e);
    entry* next = was_first ? first_for(to) : nullptr;
    if (next) arm(*next);
}

void redial_pool::try_again(timer& t, time_point) noexcept {
    entry& e = container_of<&entry::again>(t);
    e.home.go_on(&e);
}

// From the first of a line on, as long as there is room.
void redial_pool::go_on(entry* first) noexcept {
    while (first && is_through(*first)) {
        const endpoint to = first->to;
        first->hook.unlink();
        pool_.free(*first);
        first = first_for(to);
    }
    if (first) arm(*first);
}

// False: its server has no room yet.
bool redial_pool::is_through(entry& e) noexcept {
    connection& conn = e.conn;
    if (conn.is(conn_flag::failed)) return true; // its deadline has passed, and its user is about to be told
    const int r = sys::connect(conn.fd(), e.to.data(), e.to.size());
    if (r == -EAGAIN) return false;
    if (r < 0) conn.fail(-r);
    else loop_.fds().may_send(conn.slot()); // connected at once: nothing is reported
    return true;
}

void redial_pool::arm(entry& e) noexcept {
    loop_.arm(e.again, later(loop_.now(), e.pause));
    e.pause = std::min(2 * e.pause, pause_max);
}

redial_pool::entry* redial_pool::first_for(const endpoint& to) noexcept {
    entry* e = waiting_.front();
    while (e && !(e->to == to))
        e = waiting_.after(*e);
    return e;
}

} // namespace weir::inline WEIR_KERNEL
