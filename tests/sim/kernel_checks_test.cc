#include <weir/sim.hpp>

#include <string>

#include <doctest/doctest.h>

// What the simulated kernel calls a violation, and what not.

using namespace weir;

namespace {

// Nothing goes wrong, and time stands still between sleeps.
struct judged {
    explicit judged(kernel_options o = {.call_max = duration{}, .swarm = false}) : k(o) {
        k.on_violation([](void* self, kernel&, const char* invariant,
                          const char*) noexcept { static_cast<judged*>(self)->violated += invariant; },
                       this);
    }
    std::string violated;
    kernel k;
};

} // namespace

TEST_CASE("turns without progress are a violation, and a close that answers EINTR is progress") {
    judged j;
    const int epoll = sys::epoll_open();
    int fds[4];
    for (int& fd : fds)
        fd = sys::eventfd_open();
    j.k.faults.set(fault::close_eintr, 10'000);
    epoll_event event;

    for (const int fd : fds) {
        for (int looks = 0; looks < 3; looks++)
            CHECK(sys::epoll_wait(epoll, &event, 1, 0) == 0);
        CHECK(sys::close(fd) == -EINTR);
    }
    CHECK(j.violated.empty());
    for (int looks = 0; looks < 5; looks++)
        CHECK(sys::epoll_wait(epoll, &event, 1, 0) == 0);

    CHECK(j.violated == "I11");
}
