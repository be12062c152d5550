// upstream: which server is asked next, and which ones rest.

#include "proto/upstream.hpp"

#include <vector>

#include "support/dies.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

struct servers : rig {
    explicit servers(std::size_t count, balance how = balance::round_robin) : all(how) {
        for (std::size_t i = 0; i < count; i++)
            all.add({.family = &tcp, .at = endpoint::ipv4(0x7f000001, static_cast<std::uint16_t>(1000 + i))});
    }
    // Its number, -1: none.
    int choose(upstream_set::mask tried = 0) {
        const upstream* u = all.choose(tried, clock.at);
        return u ? u->where.at.port() - 1000 : -1;
    }
    void fail(std::size_t i) { all.failed(all.at(i), clock.at); }
    void let_pass(duration time) { clock.advance(time); }

    upstream_set all;
};

TEST_CASE("round robin asks one after the other") {
    servers s{3};
    for (const int next : {0, 1, 2, 0, 1, 2, 0})
        CHECK(s.choose() == next);
}

TEST_CASE("least asks the one with the fewest requests, in turn among equals") {
    servers s{3, balance::least};
    s.all.at(0).active_count = 2;
    s.all.at(1).active_count = 1;
    s.all.at(2).active_count = 1;
    CHECK(s.choose() == 1);
    CHECK(s.choose() == 2);
    CHECK(s.choose() == 1);
    s.all.at(2).active_count = 0;
    CHECK(s.choose() == 2);
    CHECK(s.choose() == 2);
}

TEST_CASE("round robin does not look at how busy they are") {
    servers s{2};
    s.all.at(0).active_count = 100;
    CHECK(s.choose() == 0);
}

TEST_CASE("what was tried is not asked again; when all were, nobody is") {
    for (const balance how : {balance::round_robin, balance::least}) {
        servers s{3, how};
        const auto bit = [&](std::size_t i) { return s.all.bit_of(s.all.at(i)); };
        CHECK(s.choose(bit(0)) == 1);
        CHECK(s.choose(bit(0) | bit(2)) == 1);
        CHECK(s.choose(bit(0) | bit(1) | bit(2)) == -1);
    }
}

TEST_CASE("a server that failed rests for 100 ms, then is asked again") {
    servers s{2};
    s.fail(0);
    CHECK(s.choose() == 1);
    CHECK(s.choose() == 1);
    s.let_pass(milliseconds{100} - duration{1});
    CHECK(s.choose() == 1);
    s.let_pass(duration{1});
    CHECK(s.choose() == 0);
}

TEST_CASE("the pause doubles with each failure, up to ten seconds") {
    servers s{2};
    duration pause = milliseconds{100};
    for (int i = 0; i < 10; i++) {
        INFO(i);
        s.fail(0);
        CHECK(s.all.at(0).rest == pause);
        s.let_pass(pause - duration{1});
        CHECK(s.choose(s.all.bit_of(s.all.at(1))) == 0); // the only one left is asked even so
        CHECK(s.choose() == 1);
        s.let_pass(duration{1});
        pause = std::min<duration>(pause * 2, seconds{10});
    }
    CHECK(pause == seconds{10});
}

TEST_CASE("a burst of failures is one pause") {
    // Connects that were under way together fail together: that is one thing that was learned, not ten.
    servers s{2};
    for (int i = 0; i < 10; i++)
        s.fail(0);
    CHECK(s.all.at(0).rest == milliseconds{100});
    s.let_pass(milliseconds{100});
    CHECK(s.choose() == 0);
    s.fail(0);
    CHECK(s.all.at(0).rest == milliseconds{200});
}

TEST_CASE("when a pause is over one asks, and the others wait for what becomes of it") {
    servers s{2};
    s.fail(0);
    s.let_pass(milliseconds{100});
    CHECK(s.choose() == 0);
    CHECK(s.choose() == 1);
    CHECK(s.choose() == 1);

    SUBCASE("it is back") {
        s.all.connected(s.all.at(0));
        CHECK(s.choose() == 0);
        CHECK(s.choose() == 1);
        CHECK(s.choose() == 0);
    }
    SUBCASE("it fails, late: the pause is twice as long from then on") {
        s.let_pass(milliseconds{50});
        s.fail(0);
        s.let_pass(milliseconds{200} - duration{1});
        CHECK(s.choose() == 1);
        s.let_pass(duration{1});
        CHECK(s.choose() == 0);
    }
    SUBCASE("nobody ever knows, because who asked has gone: another one asks after as long again") {
        s.let_pass(milliseconds{100} - duration{1});
        CHECK(s.choose() == 1);
        s.let_pass(duration{1});
        CHECK(s.choose() == 0);
        CHECK(s.choose() == 1);
    }
    SUBCASE("if it is the only one left it is asked all the same") {
        CHECK(s.choose(s.all.bit_of(s.all.at(1))) == 0);
    }
}

TEST_CASE("a connect that succeeds ends the pause, and the next one is short again") {
    servers s{2};
    s.fail(0);
    s.let_pass(milliseconds{100});
    s.fail(0);
    CHECK(s.choose() == 1);
    s.all.connected(s.all.at(0));
    CHECK(s.choose() == 0);
    s.fail(0);
    CHECK(s.all.at(0).rest == milliseconds{100});
}

TEST_CASE("when all rest, the one whose pause is over first is asked") {
    for (const balance how : {balance::round_robin, balance::least}) {
        servers s{3, how};
        s.fail(2);
        s.let_pass(milliseconds{1});
        s.fail(0);
        s.let_pass(milliseconds{1});
        s.fail(1);
        CHECK(s.choose() == 2);
        CHECK(s.choose() == 2);
        CHECK(s.choose(s.all.bit_of(s.all.at(2))) == 0);
    }
}

TEST_CASE("a single server is asked always") {
    servers s{1};
    for (int i = 0; i < 5; i++) {
        s.fail(0);
        CHECK(s.choose() == 0);
    }
}

TEST_CASE("thirty-two servers are held, one more is a mistake") {
    servers s{32};
    CHECK(s.all.bit_of(s.all.at(31)) == 0x80000000u);
    upstream_set::mask tried = 0;
    for (int i = 0; i < 32; i++) {
        CHECK(s.choose(tried) == i);
        tried |= s.all.bit_of(s.all.at(static_cast<std::size_t>(i)));
    }
    CHECK(s.choose(tried) == -1);
    CHECK(dies([&] { s.all.add(s.all.at(0).where); }, "size_ < capacity"));
}

} // namespace
