#include "core/unique_fd.hpp"

#include <utility>

#include <doctest/doctest.h>

#include <fcntl.h>
#include <unistd.h>

#include "support/dies.hpp"
#include "support/net.hpp"

namespace {

using namespace weir;
using support::dies;

bool is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

int some_fd() {
    return support::stream_pair().a.release();
}

TEST_CASE("a descriptor is closed with its owner") {
    const int fd = some_fd();

    {
        const unique_fd owner(fd);
        CHECK(owner);
        CHECK(owner.get() == fd);
        CHECK(is_open(fd));
    }

    CHECK_FALSE(is_open(fd));
}

TEST_CASE("an owner of nothing is false, and closes nothing") {
    unique_fd none, error(-24);

    CHECK_FALSE(none);
    CHECK_FALSE(error);
    none.reset();
    error.reset();
    CHECK(none.get() == -1);
}

TEST_CASE("descriptor 0 is a descriptor") {
    unique_fd zero(0);

    CHECK(zero);
    CHECK(zero.release() == 0);
}

TEST_CASE("moving hands over, and leaves nothing behind") {
    const int fd = some_fd(), other = some_fd();
    unique_fd from(fd);

    unique_fd to(std::move(from));
    unique_fd last(other);
    last = std::move(to);

    CHECK_FALSE(from);
    CHECK_FALSE(to);
    CHECK(last.get() == fd);
    CHECK(is_open(fd));
    CHECK_FALSE(is_open(other));
}

TEST_CASE("moving to itself keeps the descriptor") {
    const int fd = some_fd();
    unique_fd owner(fd);
    unique_fd& same = owner;

    owner = std::move(same);

    CHECK(owner.get() == fd);
    CHECK(is_open(fd));
}

TEST_CASE("a released descriptor is the caller's") {
    int fd = -1;

    {
        unique_fd owner(some_fd());
        fd = owner.release();
        CHECK_FALSE(owner);
    }

    CHECK(is_open(fd));
    const support::descriptor now_mine(fd);
}

TEST_CASE("reset closes the old and owns the new") {
    const int old = some_fd(), fresh = some_fd();
    unique_fd owner(old);

    owner.reset(fresh);

    CHECK(owner.get() == fresh);
    CHECK_FALSE(is_open(old));
    CHECK(is_open(fresh));
}

TEST_CASE("closing what somebody else has closed is a mistake") {
    CHECK(dies(
        [] {
            unique_fd owner(some_fd());
            close(owner.get());
            owner.reset();
        },
        "r != -EBADF"));
}

} // namespace
