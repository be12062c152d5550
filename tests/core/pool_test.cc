#include "core/pool.hpp"

#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include "support/counting.hpp"
#include "support/dies.hpp"

namespace {

using namespace weir;
using support::dies;

struct point {
    int x;
    int y;
};

struct tracked {
    explicit tracked(int& alive) : alive_(alive) { alive_++; }
    tracked(const tracked&) = delete;
    tracked& operator=(const tracked&) = delete;
    ~tracked() { alive_--; }

    int& alive_;
};

struct alignas(128) wide {
    char bytes[128];
};

struct tiny {
    char byte;
};

TEST_CASE("a pool makes as many objects as it has room for, then answers null") {
    fixed_pool<point> pool(3);
    std::vector<point*> made;

    while (point* p = pool.make())
        made.push_back(p);

    CHECK(made.size() == 3);
    CHECK(pool.capacity() == 3);
    CHECK(pool.used() == 3);
    CHECK(pool.full());
    CHECK(pool.make() == nullptr);
    for (point* p : made)
        pool.free(*p);
    CHECK(pool.used() == 0);
    CHECK_FALSE(pool.full());
}

TEST_CASE("arguments reach the object") {
    fixed_pool<point> pool(1);
    int alive = 0;
    fixed_pool<tracked> others(1);

    point* p = pool.make(3, 4);
    tracked* t = others.make(alive);

    CHECK(p->x == 3);
    CHECK(p->y == 4);
    CHECK(alive == 1);
    pool.free(*p);
    others.free(*t);
    CHECK(alive == 0);
}

TEST_CASE("the object freed last is handed out first") {
    fixed_pool<point> pool(3);
    point* a = pool.make();
    point* b = pool.make();
    point* c = pool.make();

    pool.free(*a);
    pool.free(*c);

    CHECK(pool.make() == c);
    CHECK(pool.make() == a);
    for (point* p : {a, b, c})
        pool.free(*p);
}

TEST_CASE("a freed place is used before an untouched one") {
    fixed_pool<point> pool(100);
    point* a = pool.make();

    pool.free(*a);
    point* again = pool.make();

    CHECK(again == a);
    pool.free(*again);
}

TEST_CASE("objects do not overlap and are aligned, whatever their size") {
    const auto check = []<class T>(fixed_pool<T>& pool) {
        std::vector<T*> made;
        std::set<std::uintptr_t> places;
        while (T* p = pool.make()) {
            made.push_back(p);
            places.insert(reinterpret_cast<std::uintptr_t>(p));
        }

        CHECK(places.size() == pool.capacity());
        std::uintptr_t end_of_last = 0;
        for (std::uintptr_t at : places) {
            CHECK(at >= end_of_last);
            CHECK(at % alignof(T) == 0);
            end_of_last = at + sizeof(T);
        }
        for (T* p : made)
            pool.free(*p);
    };

    fixed_pool<tiny> of_tiny(17);
    fixed_pool<wide> of_wide(5);
    fixed_pool<std::string> of_strings(9);
    check(of_tiny);
    check(of_wide);
    check(of_strings);
}

TEST_CASE("objects that own memory give it back when they are freed") {
    fixed_pool<std::string> pool(2);
    std::string* text = pool.make(std::string(1000, 'x'));

    CHECK(text->size() == 1000);
    pool.free(*text); // the test case's allocation balance is the check
}

TEST_CASE("a pool allocates once, at construction") {
    const auto before = support::allocation_count();
    fixed_pool<point> pool(1000);
    const auto made = support::allocation_count();
    for (int round = 0; round < 3; round++) {
        std::array<point*, 1000> all{};
        for (point*& p : all)
            p = pool.make();
        for (point* p : all)
            pool.free(*p);
    }
    const auto used = support::allocation_count();

    CHECK(made - before == 1);
    CHECK(used == made);
}

TEST_CASE("a pool is pinned") {
    CHECK_FALSE(std::is_copy_constructible_v<fixed_pool<point>>);
    CHECK_FALSE(std::is_move_constructible_v<fixed_pool<point>>);
}

TEST_CASE("a pool without room is a broken contract") {
    CHECK(dies([] { fixed_pool<point> pool(0); }, "capacity > 0"));
}

TEST_CASE("a pool that dies destroys the objects that are still there, and no other") {
    int alive = 0;
    {
        fixed_pool<tracked> pool(100);
        std::vector<tracked*> made;
        for (int i = 0; i < 60; i++)
            made.push_back(pool.make(alive));
        for (const std::size_t i : {59u, 3u, 0u, 58u, 17u, 31u, 4u})
            pool.free(*made[i]);
        CHECK(alive == 53);
    }
    CHECK(alive == 0);
}

#ifndef NDEBUG
TEST_CASE("freeing what another pool made is a broken contract") {
    fixed_pool<point> pool(2);
    fixed_pool<point> other(2);
    point* p = other.make();
    point on_stack{};

    CHECK(dies([&] { pool.free(*p); }, "owns(object)"));
    CHECK(dies([&] { pool.free(on_stack); }, "owns(object)"));
    other.free(*p);
}
#endif

} // namespace
