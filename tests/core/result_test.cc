#include "core/result.hpp"

#include <cerrno>
#include <memory>
#include <string>
#include <type_traits>

#include <doctest/doctest.h>

#include "support/dies.hpp"

namespace {

using namespace weir;
using support::dies;

result<int> half(int n) {
    if (n % 2 != 0) return failure{EINVAL};
    return n / 2;
}

result<void> allow(bool yes) {
    if (!yes) return failure{EPERM};
    return {};
}

TEST_CASE("a value is ok and has no error") {
    const result<int> four = half(8);

    CHECK(four.ok());
    CHECK(static_cast<bool>(four));
    CHECK(four.error() == 0);
    CHECK(four.value() == 4);
}

TEST_CASE("a failure is not ok and carries the errno") {
    const result<int> none = half(7);

    CHECK_FALSE(none.ok());
    CHECK_FALSE(static_cast<bool>(none));
    CHECK(none.error() == EINVAL);
}

TEST_CASE("asking for the value of a failure is a broken contract, which names the error") {
    CHECK(dies([] { static_cast<void>(half(7).value()); }, "ok(): Invalid argument"));
}

TEST_CASE("the value of a temporary result lives as long as the reference to it") {
    static_assert(std::is_same_v<decltype(half(8).value()), int>);
    const int& four = half(8).value();

    CHECK(four == 4);
}

TEST_CASE("a result of nothing is ok or carries the errno") {
    CHECK(allow(true).ok());
    CHECK(allow(true).error() == 0);
    CHECK_FALSE(allow(false).ok());
    CHECK(allow(false).error() == EPERM);
}

TEST_CASE("zero and null are values like others") {
    const result<int> zero = 0;
    const result<int*> null = nullptr;

    CHECK(zero.ok());
    CHECK(null.ok());
    CHECK(null.value() == nullptr);
}

TEST_CASE("a value can be changed in place") {
    result<std::string> text = std::string("weir");

    text.value() += 's';

    CHECK(text.value() == "weirs");
}

TEST_CASE("a value that only moves is moved out") {
    result<std::unique_ptr<int>> box = std::make_unique<int>(7);

    const std::unique_ptr<int> mine = std::move(box).value();

    CHECK(*mine == 7);
    CHECK_FALSE(std::is_copy_constructible_v<result<std::unique_ptr<int>>>);
}

TEST_CASE("the value of a failure is a broken contract") {
    result<int> none = failure{ENOENT};

    CHECK(dies([&] { (void)none.value(); }, "ok()"));
    CHECK(dies([&] { (void)std::as_const(none).value(); }, "ok()"));
    CHECK(dies([&] { (void)std::move(none).value(); }, "ok()"));
}

TEST_CASE("a failure without an errno is a broken contract") {
    CHECK(dies([] { (void)result<int>(failure{0}); }, "why.code > 0"));
    CHECK(dies([] { (void)result<int>(failure{-EINVAL}); }, "why.code > 0"));
    CHECK(dies([] { (void)result<void>(failure{0}); }, "why.code > 0"));
}

} // namespace
