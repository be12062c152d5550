// upstream: which server is asked next, and which ones rest.

#include "proto/upstream.hpp"

#include <cerrno>
#include <vector>

#include "support/dies.hpp"
#include "support/rig.hpp"

namespace {

using namespace weir;
using namespace support;

address at_port(int port) { return {.family = &tcp, .at = endpoint::ipv4(0x7f000001, static_cast<std::uint16_t>(port))}; }

struct servers : rig {
    explicit servers(std::size_t count, balance how = balance::round_robin) : all(how) {
        for (std::size_t i = 0; i < count; i++)
            all.add(at_port(1000 + static_cast<int>(i)));
    }
    // By names: so many addresses each, at 1000, 1001, ...; 1010, ...
    struct names {
        std::initializer_list<int> counts;
    };
    explicit servers(names of, balance how = balance::round_robin) : all(how) {
        int first = 1000;
        for (const int count : of.counts) {
            std::vector<address> where;
            for (int i = 0; i < count; i++)
                where.push_back(at_port(first + i));
            all.add(where);
            first += 10;
        }
    }
    // Its number, -1: none.
    int choose(const upstream_set::attempts& made = {}) {
        const upstream_address* a = all.choose(made, clock.at);
        return a ? a->where.at.port() - 1000 : -1;
    }
    upstream_address& one(std::size_t i) { return all.at(i).places[0]; }
    static upstream_set::attempts tried(upstream_set& all, std::initializer_list<std::size_t> which) {
        upstream_set::attempts made;
        for (const std::size_t i : which)
            all.rule_out(made, all.at(i).places[0], EAGAIN, time_point{});
        made.last = nullptr;
        return made;
    }
    upstream_set::attempts but(std::initializer_list<std::size_t> which) { return tried(all, which); }
    void fail(std::size_t i) { all.failed(one(i), clock.at); }
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
        CHECK(s.choose(s.but({0})) == 1);
        CHECK(s.choose(s.but({0, 2})) == 1);
        CHECK(s.choose(s.but({0, 1, 2})) == -1);
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
        CHECK(s.one(0).rest == pause);
        s.let_pass(pause - duration{1});
        CHECK(s.choose(s.but({1})) == 0); // the only one left is asked even so
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
    CHECK(s.one(0).rest == milliseconds{100});
    s.let_pass(milliseconds{100});
    CHECK(s.choose() == 0);
    s.fail(0);
    CHECK(s.one(0).rest == milliseconds{200});
}

TEST_CASE("when a pause is over one asks, and the others wait for what becomes of it") {
    servers s{2};
    s.fail(0);
    s.let_pass(milliseconds{100});
    CHECK(s.choose() == 0);
    CHECK(s.choose() == 1);
    CHECK(s.choose() == 1);

    SUBCASE("it is back") {
        s.all.answered(s.one(0));
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
        CHECK(s.choose(s.but({1})) == 0);
    }
}

TEST_CASE("an answer ends the pause, and the next one is short again") {
    servers s{2};
    s.fail(0);
    s.let_pass(milliseconds{100});
    s.fail(0);
    CHECK(s.choose() == 1);
    s.all.answered(s.one(0));
    CHECK(s.choose() == 0);
    s.fail(0);
    CHECK(s.one(0).rest == milliseconds{100});
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
        CHECK(s.choose(s.but({2})) == 0);
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
    upstream_set::attempts made;
    for (std::size_t i = 0; i < 32; i++) {
        CHECK(s.choose(made) == static_cast<int>(i));
        s.all.rule_out(made, s.one(i), EAGAIN, s.clock.at);
    }
    CHECK(s.choose(made) == -1);
    CHECK(dies([&] { s.all.add(s.one(0).where); }, "size_ < capacity"));
}

TEST_CASE("a connect that succeeds lets the others in, and is no answer: the next pause is longer still") {
    servers s{2};
    s.fail(0);
    s.let_pass(milliseconds{100});
    CHECK(s.choose() == 0);
    s.all.connected(s.one(0));
    CHECK(s.choose() == 1);
    CHECK(s.choose() == 0);
    CHECK(s.choose() == 1);
    CHECK(s.choose() == 0);

    s.fail(0); // it accepts, and closes without a word

    CHECK(s.one(0).rest == milliseconds{200});
    CHECK(s.choose() == 1);
    CHECK(s.choose() == 1);
}

TEST_CASE("what failed long ago, and never answered but stayed connected, is forgotten") {
    // A server of a protocol in which it says nothing: syslog over TCP.
    servers s{2};
    for (const duration since : {duration{seconds{10}}, duration{seconds{10} + milliseconds{201}}}) {
        s.all.answered(s.one(0));
        s.fail(0);
        s.let_pass(milliseconds{100});
        CHECK(s.choose(s.but({1})) == 0);
        s.all.connected(s.one(0));
        s.let_pass(since);
        s.fail(0);
        CHECK(s.one(0).rest == (since > seconds{10} ? milliseconds{100} : milliseconds{200}));
    }
}

// --- whose fault it is

TEST_CASE("a failed connect speaks of us, of the way, of a busy server or of a dead one") {
    for (const int error : {EMFILE, ENFILE, ENOMEM, ENOBUFS})
        CHECK(blame_of(error) == blame::ours);
    for (const int error : {EADDRNOTAVAIL, EADDRINUSE})
        CHECK(blame_of(error) == blame::path);
    CHECK(blame_of(EAGAIN) == blame::busy);
    for (const int error : {ECONNREFUSED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EACCES, ENOENT, EAFNOSUPPORT, ended_unheard})
        CHECK(blame_of(error) == blame::dead);
}

TEST_CASE("only a dead server rests, and only what is not our fault rules a server out") {
    const struct {
        int error;
        bool is_ruled_out, rests;
    } cases[] = {{EMFILE, false, false}, {EADDRNOTAVAIL, true, false}, {EAGAIN, true, false}, {ECONNREFUSED, true, true}};
    for (const auto& each : cases) {
        CAPTURE(each.error);
        servers s{2};
        upstream_set::attempts made;
        CHECK((s.all.rule_out(made, s.one(0), each.error, s.clock.at) == blame::ours) == !each.is_ruled_out);
        CHECK(made.error == (each.is_ruled_out ? each.error : 0));
        CHECK(s.choose(made) == (each.is_ruled_out ? 1 : 0));
        CHECK((s.one(0).state == upstream_address::health::resting) == each.rests);
    }
}

TEST_CASE("whether another one could be asked") {
    servers s{2}, single{1};
    CHECK(s.all.has_other({}, s.one(0)));
    CHECK_FALSE(s.all.has_other(s.but({1}), s.one(0)));
    CHECK_FALSE(single.all.has_other({}, single.one(0)));
    servers name{servers::names{{2}}};
    CHECK(name.all.has_other({}, name.one(0)));
}

// --- names

TEST_CASE("of a name the first address is asked as long as it is well, and the load is one upstream's") {
    servers s{servers::names{{2, 1}}};
    for (const int next : {0, 10, 0, 10})
        CHECK(s.choose() == next);
    s.fail(0);
    for (const int next : {1, 10, 1, 10})
        CHECK(s.choose() == next);
    s.let_pass(milliseconds{100});
    CHECK(s.choose() == 0); // on trial
    CHECK(s.choose() == 10);
    CHECK(s.choose() == 1);
    s.all.answered(s.one(0));
    CHECK(s.choose() == 10);
    CHECK(s.choose() == 0);
}

TEST_CASE("the next attempt of a request is the next address of the same name, then another upstream") {
    for (const balance how : {balance::round_robin, balance::least}) {
        servers s{servers::names{{3, 2}}, how};
        s.all.at(0).active_count = how == balance::least ? 0 : 5;
        s.all.at(1).active_count = how == balance::least ? 9 : 0;
        upstream_set::attempts made;
        for (const int next : {0, 1, 2, 10, 11}) {
            upstream_address* a = s.all.choose(made, s.clock.at);
            REQUIRE(a != nullptr);
            CHECK(a->where.at.port() - 1000 == next);
            s.all.rule_out(made, *a, ECONNREFUSED, s.clock.at);
        }
        CHECK(s.choose(made) == -1);
    }
}

TEST_CASE("an address of the same name that rests is asked after the other upstreams") {
    servers s{servers::names{{2, 1}}};
    s.all.failed(s.all.at(0).places[1], s.clock.at);
    upstream_set::attempts made;
    s.all.rule_out(made, s.one(0), ECONNREFUSED, s.clock.at);
    CHECK(s.choose(made) == 10);
    s.all.rule_out(made, s.one(1), ECONNREFUSED, s.clock.at);
    CHECK(s.choose(made) == 1);
}

TEST_CASE("of a name no more than eight addresses are used, and each once") {
    std::vector<address> where;
    for (int i = 0; i < 12; i++)
        where.push_back(at_port(1000 + i / 2));
    upstream_set few(balance::round_robin);
    few.add(where); // eight of them: 1000, 1000, 1001, ... 1003
    CHECK(few.at(0).order().size() == 4);
    for (int i = 0; i < 12; i++)
        where[static_cast<std::size_t>(i)] = at_port(1000 + i);
    upstream_set many(balance::round_robin);
    many.add(where);
    CHECK(many.at(0).order().size() == upstream::addresses_max);
    CHECK(many.at(0).first().at.port() == 1000);
}

TEST_CASE("when a name has moved, what stays keeps its health, and what is gone is asked no more") {
    servers s{servers::names{{2, 1}}};
    s.all.failed(s.all.at(0).places[1], s.clock.at);

    s.all.replace(0, std::vector{at_port(1005), at_port(1001)});

    CHECK(s.choose(s.but({1})) == 5);
    upstream_set::attempts made;
    for (const int next : {10, 5, 1}) { // the last one rests yet
        upstream_address* a = s.all.choose(made, s.clock.at);
        REQUIRE(a != nullptr);
        CHECK(a->where.at.port() - 1000 == next);
        s.all.rule_out(made, *a, ECONNREFUSED, s.clock.at);
    }
    CHECK(s.choose(made) == -1);
}

TEST_CASE("an address that is gone keeps its place for those who hold it") {
    servers s{servers::names{{1}}};
    upstream_address& held = s.one(0);
    s.all.hold(held);
    for (int i = 0; i < 40; i++) { // more moves than there are places
        s.all.replace(0, std::vector{at_port(2000 + i)});
        CHECK(s.all.at(0).first().at.port() == 2000 + i);
    }
    CHECK(held.where.at.port() == 1000);
    CHECK_FALSE(held.is_listed);
    s.all.let_go(held);
    s.all.replace(0, std::vector{at_port(1000)});
    CHECK(held.is_listed);
}

TEST_CASE("where every place is held, new addresses have to wait") {
    servers s{servers::names{{1}}};
    s.all.hold(s.one(0));
    for (int i = 1; i < 16; i++) {
        s.all.replace(0, std::vector{at_port(1000 + i)});
        s.all.hold(s.all.at(0).places[s.all.at(0).listed[0]]);
    }
    s.all.replace(0, std::vector{at_port(1000), at_port(3000)});
    CHECK(s.all.at(0).order().size() == 1);
    CHECK(s.all.at(0).first().at.port() == 1000);
}

} // namespace
