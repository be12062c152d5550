#include "core/list.hpp"

#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include "support/counting.hpp"
#include "support/dies.hpp"

namespace {

using namespace weir;
using support::dies;

struct job {
    explicit job(int n) : number(n) {}

    double in_front = 0; // so that no hook stands at offset 0
    int number;
    list_hook hook;
    list_hook other_hook;
};
using job_list = list<&job::hook>;
using other_list = list<&job::other_hook>;

// The numbers from front to back; the way back must read the same.
std::vector<int> numbers(job_list& jobs) {
    std::vector<int> found;
    for (job* at = jobs.front(); at; at = jobs.after(*at))
        found.push_back(at->number);
    return found;
}

void clear(job_list& jobs) {
    while (jobs.pop_front()) {
    }
}

TEST_CASE("a new list is empty") {
    job_list jobs;

    CHECK(jobs.empty());
    CHECK(jobs.front() == nullptr);
    CHECK(jobs.back() == nullptr);
    CHECK(jobs.pop_front() == nullptr);
}

TEST_CASE("elements stand where they were pushed") {
    job a(1), b(2), c(3);
    job_list jobs;

    jobs.push_back(b);
    jobs.push_back(c);
    jobs.push_front(a);

    CHECK(numbers(jobs) == std::vector{1, 2, 3});
    CHECK(jobs.front() == &a);
    CHECK(jobs.back() == &c);
    CHECK_FALSE(jobs.empty());
    clear(jobs);
}

TEST_CASE("pop_front takes in order and unlinks") {
    job a(1), b(2);
    job_list jobs;
    jobs.push_back(a);
    jobs.push_back(b);

    CHECK(jobs.pop_front() == &a);
    CHECK_FALSE(a.hook.linked());
    CHECK(b.hook.linked());
    CHECK(jobs.pop_front() == &b);
    CHECK(jobs.empty());
}

TEST_CASE("an element leaves from the front, the middle and the back without its list") {
    for (int leaver = 1; leaver <= 3; leaver++) {
        job a(1), b(2), c(3);
        job_list jobs;
        for (job* each : {&a, &b, &c})
            jobs.push_back(*each);

        for (job* each : {&a, &b, &c})
            if (each->number == leaver) each->hook.unlink();

        std::vector<int> left;
        for (int n = 1; n <= 3; n++)
            if (n != leaver) left.push_back(n);
        CHECK(numbers(jobs) == left);
        CHECK(jobs.front()->number == left.front());
        CHECK(jobs.back()->number == left.back());
        clear(jobs);
    }
}

TEST_CASE("unlinking what is in no list does nothing") {
    job a(1);
    job_list jobs;
    jobs.push_back(a);

    a.hook.unlink();
    a.hook.unlink();

    CHECK_FALSE(a.hook.linked());
    CHECK(jobs.empty());
}

TEST_CASE("an element that left may come back") {
    job a(1), b(2);
    job_list jobs;
    jobs.push_back(a);
    jobs.push_back(b);

    a.hook.unlink();
    jobs.push_back(a);

    CHECK(numbers(jobs) == std::vector{2, 1});
    clear(jobs);
}

TEST_CASE("an element may be in two lists by two hooks") {
    job a(1), b(2);
    job_list jobs;
    other_list others;

    jobs.push_back(a);
    jobs.push_back(b);
    others.push_back(b);
    others.push_back(a);

    CHECK(jobs.front() == &a);
    CHECK(others.front() == &b);
    a.hook.unlink();
    CHECK(jobs.front() == &b);
    CHECK(others.after(b) == &a);
    clear(jobs);
    while (others.pop_front()) {
    }
}

TEST_CASE("link_before puts a hook in front of another element") {
    job a(1), b(2), c(3);
    job_list jobs;
    jobs.push_back(a);
    jobs.push_back(c);

    b.hook.link_before(c.hook);

    CHECK(numbers(jobs) == std::vector{1, 2, 3});
    clear(jobs);
}

TEST_CASE("take_all appends everything in order and leaves nothing") {
    job a(1), b(2), c(3), d(4);
    job_list todo;
    job_list arrived;
    todo.push_back(a);
    todo.push_back(b);
    arrived.push_back(c);
    arrived.push_back(d);

    todo.take_all(arrived);

    CHECK(arrived.empty());
    CHECK(numbers(todo) == std::vector{1, 2, 3, 4});
    CHECK(todo.back() == &d);
    clear(todo);
}

TEST_CASE("take_all works from and to an empty list") {
    job a(1);
    job_list empty_one;
    job_list jobs;
    jobs.push_back(a);

    jobs.take_all(empty_one);
    CHECK(numbers(jobs) == std::vector{1});

    empty_one.take_all(jobs);
    CHECK(jobs.empty());
    CHECK(numbers(empty_one) == std::vector{1});

    jobs.take_all(empty_one);
    empty_one.take_all(empty_one);
    CHECK(empty_one.empty());
    clear(jobs);
}

TEST_CASE("an element moved by take_all unlinks from its new list") {
    job a(1), b(2);
    job_list arrived;
    arrived.push_back(a);
    arrived.push_back(b);

    job_list todo;
    todo.take_all(arrived);
    a.hook.unlink();

    CHECK(numbers(todo) == std::vector{2});
    clear(todo);
}

TEST_CASE("container_of finds the object from any of its hooks") {
    job a(1);

    CHECK(&container_of<&job::hook>(a.hook) == &a);
    CHECK(&container_of<&job::other_hook>(a.other_hook) == &a);
    CHECK(&container_of<&job::number>(a.number) == &a);
}

TEST_CASE("a list never allocates") {
    job a(1), b(2);

    const auto before = support::allocation_count();
    {
        job_list jobs;
        job_list more;
        jobs.push_back(a);
        more.push_front(b);
        jobs.take_all(more);
        clear(jobs);
    }

    CHECK(support::allocation_count() == before);
}

TEST_CASE("what is linked is pinned") {
    CHECK_FALSE(std::is_copy_constructible_v<list_hook>);
    CHECK_FALSE(std::is_move_constructible_v<list_hook>);
    CHECK_FALSE(std::is_copy_constructible_v<job_list>);
    CHECK_FALSE(std::is_move_assignable_v<job_list>);
}

TEST_CASE("linking what is linked is a broken contract") {
    job a(1);
    job_list jobs;
    jobs.push_back(a);

    CHECK(dies([&] { jobs.push_back(a); }, "!linked()"));
    CHECK(dies([&] { jobs.push_front(a); }, "!linked()"));
    clear(jobs);
}

TEST_CASE("an element that dies leaves its list") {
    job_list jobs;
    job a(1);
    jobs.push_back(a);
    {
        job b(2);
        jobs.push_back(b);
    }

    CHECK(jobs.front() == &a);
    CHECK(jobs.back() == &a);
    clear(jobs);
}

TEST_CASE("a list that dies lets go of its elements") {
    job a(1), b(2);
    {
        job_list jobs;
        jobs.push_back(a);
        jobs.push_back(b);
    }

    CHECK_FALSE(a.hook.linked());
    CHECK_FALSE(b.hook.linked());
}

} // namespace
