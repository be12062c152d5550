// The leak check of tests/main.cc, checked: what it must catch, and what it must not take for a leak.

#include <cstdlib>
#include <memory>
#include <new>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <fcntl.h>
#include <unistd.h>

#include "support/counting.hpp"

namespace {

// Leaked blocks stay reachable from here, so that LeakSanitizer holds its peace about them.
std::vector<void*>& leaked() {
    static auto* blocks = [] {
        const support::forgiven these;
        auto* room = new std::vector<void*>;
        room->reserve(16);
        return room;
    }();
    return *blocks;
}

int dev_null() {
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

// The compiler may leave out a new whose result is unused.
template <class T>
T* kept(T* pointer) {
    T* volatile opaque = pointer;
    return opaque;
}

TEST_CASE("a leaked new fails its case" * doctest::expected_failures(1)) {
    leaked().push_back(kept(new int));
}

TEST_CASE("a leaked new[] fails its case" * doctest::expected_failures(1)) {
    leaked().push_back(kept(new char[100]));
}

TEST_CASE("a leaked over-aligned new fails its case" * doctest::expected_failures(1)) {
    leaked().push_back(::operator new(64, std::align_val_t{64}));
}

TEST_CASE("a leaked nothrow new fails its case" * doctest::expected_failures(1)) {
    leaked().push_back(::operator new(64, std::nothrow));
}

TEST_CASE("a leaked malloc, calloc, realloc or posix_memalign fails its case" * doctest::expected_failures(1)) {
    void* aligned = nullptr;
    CHECK(posix_memalign(&aligned, 64, 64) == 0);
    leaked().push_back(kept(std::malloc(1)));
    leaked().push_back(kept(std::calloc(1, 1)));
    leaked().push_back(kept(std::realloc(std::malloc(1), 1000)));
    leaked().push_back(aligned);
}

TEST_CASE("a block leaked by a thread fails its case" * doctest::expected_failures(1)) {
    std::thread([] { leaked().push_back(kept(new int)); }).join();
}

TEST_CASE("a block leaked in one subcase of two fails its case" * doctest::expected_failures(1)) {
    SUBCASE("the one that leaks") {
        leaked().push_back(kept(new int));
    }
    SUBCASE("the one that does not") {
    }
}

TEST_CASE("a leaked block cannot hide behind the end of an earlier one" * doctest::expected_failures(1)) {
    static auto earlier = [] {
        const support::forgiven these;
        return std::make_unique<int>();
    }();

    earlier.reset();
    leaked().push_back(kept(new int));
}

TEST_CASE("a descriptor left open fails its case" * doctest::expected_failures(1)) {
    CHECK(dev_null() >= 0);
}

TEST_CASE("closing somebody else's descriptor fails the case" * doctest::expected_failures(1)) {
    // The two cases above and below left one open each at the worst; this closes the lowest that is not a standard one.
    for (int fd = 3; fd < 100; fd++)
        if (close(fd) == 0) return;
}

TEST_CASE("a descriptor number with a new meaning fails its case" * doctest::expected_failures(1)) {
    close(STDIN_FILENO);
    CHECK(open("/dev/zero", O_RDONLY | O_CLOEXEC) == STDIN_FILENO);
}

TEST_CASE("a leaked block fails the program" * doctest::skip()) {
    leaked().push_back(kept(new int));
}

TEST_CASE("what is freed again is no leak") {
    auto text = std::make_unique<std::string>(1000, 'x');
    std::vector<std::string> many(100, *text);
    std::ostringstream stream;
    stream << *text;
    std::thread([&] { many.resize(1000); }).join();
    close(dev_null());

    CHECK(many.size() == 1000);
    CHECK(stream.str().size() == 1000);
}

TEST_CASE("many blocks in any order of freeing are no leak") {
    std::vector<std::unique_ptr<int>> blocks(20'000);
    for (auto& block : blocks)
        block = std::make_unique<int>();

    for (std::size_t i = 0; i < blocks.size(); i++)
        blocks[i * 7919 % blocks.size()].reset();

    CHECK(blocks.front() == nullptr);
}

TEST_CASE("what doctest keeps for itself is no leak of the case") {
    const std::string detail(2000, 'x');
    INFO("a long detail: ", detail);
    CAPTURE(detail);
    CHECK_THROWS(throw 1);

    SUBCASE("a subcase whose name is too long for the buffer that doctest's strings have in themselves") {
        SUBCASE("one") {
        }
        SUBCASE("another one, whose name is too long as well") {
            CHECK(detail == std::string(2000, 'x'));
        }
    }
    SUBCASE("a second subcase whose name is too long for the buffer that doctest's strings have in themselves") {
    }
}

TEST_CASE("more threads at once than before are no leak") {
    std::vector<std::thread> threads(20);
    for (auto& thread : threads)
        thread = std::thread([] {});
    for (auto& thread : threads)
        thread.join();
}

TEST_CASE("a forgiven block may outlive its case") {
    const support::forgiven these;
    leaked().push_back(kept(new int));
}

TEST_CASE("a forgiven block may be freed by a later case") {
    const support::forgiven these;
    delete static_cast<int*>(leaked().back());
    leaked().pop_back();
}

TEST_CASE("every allocation counts once, no other operation does") {
    std::string text;

    const auto before = support::allocation_count();
    text.reserve(1000);
    const auto one = support::allocation_count();
    text.append(1000, 'x');
    const auto none = support::allocation_count();
    std::thread([&] { text.reserve(5000); }).join();
    const auto some = support::allocation_count();

    CHECK(one - before == 1);
    CHECK(none == one);
    CHECK(some > none);
}

} // namespace
