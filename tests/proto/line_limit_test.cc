#include "proto/line_limit.hpp"

#include <doctest/doctest.h>

#include <string>

#include "support/dies.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

struct limited {
    explicit limited(const line_rate& rate) : limit(r.loop, rate, note, this) {}

    static void note(void* self, std::size_t kind, std::uint64_t count) noexcept {
        static_cast<limited*>(self)->sums += std::to_string(kind) + ":" + std::to_string(count) + " ";
    }
    int admitted(std::size_t kind, int asked) {
        int n = 0;
        for (int i = 0; i < asked; i++)
            n += limit.admits(kind);
        return n;
    }

    rig r;
    line_limit limit;
    std::string sums;
};

TEST_CASE("a burst of lines is written, then as many a second as are allowed") {
    limited l({.burst = 100, .per_second = 10});

    CHECK(l.admitted(3, 1000) == 100);
    for (int second = 0; second < 5; second++) {
        l.r.pass(seconds{1});
        CHECK(l.admitted(3, 1000) == 10);
    }
    l.r.pass(milliseconds{100});
    CHECK(l.admitted(3, 1000) == 1);
    l.r.pass(seconds{60});
    CHECK(l.admitted(3, 1000) == 100); // it grows to the burst, and no further
}

TEST_CASE("each kind has a budget of its own") {
    limited l({.burst = 2, .per_second = 1});

    CHECK(l.admitted(0, 5) == 2);
    CHECK(l.admitted(line_limit::kinds_max - 1, 5) == 2);
}

TEST_CASE("what was left out is told once a second, by kind, and never more than once") {
    limited l({.burst = 1, .per_second = 1});
    CHECK(l.admitted(5, 8) == 1);
    CHECK(l.admitted(2, 4) == 1);
    l.r.pass(milliseconds{900});
    CHECK(l.sums.empty());

    l.r.pass(milliseconds{200});
    CHECK(l.sums == "2:3 5:7 ");
    l.r.pass(seconds{5});
    CHECK(l.sums == "2:3 5:7 ");
    CHECK(l.admitted(5, 3) == 1);
    l.limit.tell_sums();
    CHECK(l.sums == "2:3 5:7 5:2 ");
    l.r.pass(seconds{5});
    CHECK(l.sums == "2:3 5:7 5:2 ");
}

TEST_CASE("a budget that is never exceeded arms no timer") {
    limited l({.burst = 3, .per_second = 1});

    CHECK(l.admitted(0, 3) == 3);

    CHECK(l.r.loop.turn(duration{0}) == 0);
    CHECK(l.sums.empty());
}

TEST_CASE("a kind beyond the table breaks the contract") {
    CHECK(dies([] { (void)limited({.burst = 1, .per_second = 1}).limit.admits(line_limit::kinds_max); }, "kinds_max"));
}

} // namespace
