#include "core/drain.hpp"

#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

// Counts how often it was over.
struct drained {
    explicit drained(rig& r, duration limit) {
        watch.begin(
            r.conns, limit, [](void* self) noexcept { static_cast<drained*>(self)->over_count++; }, this);
    }
    drain_watch watch;
    int over_count = 0;
};

TEST_CASE("a drain is over when the last connection has ended, once") {
    rig r;
    user who;
    support::pair ends = tcp_pair();
    connection& conn = r.serve(std::move(ends.b), who);
    drained d(r, seconds{60});
    r.pass(seconds{1});
    CHECK(d.over_count == 0);

    conn.close(close_intent::silent, end_cause::done);
    r.pass(milliseconds{11});
    CHECK(d.over_count == 1);

    r.pass(seconds{120});
    CHECK(d.over_count == 1);
}

TEST_CASE("a drain is over at its limit and not before, whoever is left") {
    rig r;
    user who;
    support::pair ends = tcp_pair();
    r.serve(std::move(ends.b), who);
    drained d(r, seconds{5});
    r.turn();

    for (int i = 0; i < 499; i++) // it looks every 10 ms
        r.pass(milliseconds{10});
    r.pass(milliseconds{9});
    CHECK(d.over_count == 0);
    r.pass(milliseconds{1});

    CHECK(d.over_count == 1);
}

TEST_CASE("a drain without a limit waits for as long as somebody is left") {
    rig r;
    user who;
    support::pair ends = tcp_pair();
    r.serve(std::move(ends.b), who);
    drained d(r, duration::max());

    r.pass(std::chrono::hours{24 * 365});
    r.turn(2);

    CHECK(d.over_count == 0);
}

} // namespace
