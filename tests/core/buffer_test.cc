#include "core/buffer.hpp"

#include <string>

#include <doctest/doctest.h>

#include "support/counting.hpp"
#include "support/dies.hpp"

namespace {

using namespace weir;
using support::dies;
using enum buffer::append_result;

TEST_CASE("a new buffer is empty and owns no block") {
    buffer b;

    CHECK(b.empty());
    CHECK(b.size() == 0);
    CHECK(b.bytes().empty());
    CHECK_FALSE(b.attached());
}

TEST_CASE("bytes come out in the order they went in, and the block goes back with the last of them") {
    block_pool pool(2);
    buffer b;

    CHECK(b.append("hello ", pool) == done);
    CHECK(b.append("world", pool) == done);
    CHECK(pool.used() == 1);
    CHECK(b.bytes() == "hello world");
    b.consume(6, pool);
    CHECK(b.bytes() == "world");
    CHECK(b.attached());
    b.consume(5, pool);

    CHECK(b.empty());
    CHECK_FALSE(b.attached());
    CHECK(pool.used() == 0);
}

TEST_CASE("appending nothing attaches nothing") {
    block_pool pool(1);
    buffer b;

    CHECK(b.append("", pool) == done);

    CHECK_FALSE(b.attached());
    CHECK(pool.used() == 0);
}

TEST_CASE("a block holds exactly block_bytes") {
    block_pool pool(1);
    buffer b;
    const std::string whole(block_bytes, 'x');

    CHECK(b.append(whole + "x", pool) == full);
    CHECK_FALSE(b.attached()); // refused as a whole, and the block went back
    CHECK(b.append(whole, pool) == done);
    CHECK(b.size() == block_bytes);
    CHECK(b.append("x", pool) == full);
    CHECK(b.size() == block_bytes);
    b.consume(1, pool);
    CHECK(b.append("yz", pool) == full);
    CHECK(b.append("y", pool) == done);

    CHECK(b.size() == block_bytes);
    CHECK(b.bytes().back() == 'y');
    b.clear(pool);
}

TEST_CASE("more than a block holds goes into a large block, which goes back when it is empty") {
    block_pool pool(1, 1);
    buffer b;
    const std::string whole = std::string(block_bytes - 2, 'x') + "yz";

    CHECK(b.append(whole, pool) == done);
    CHECK_FALSE(b.is_large());
    CHECK(pool.large_used() == 0);
    b.consume(1, pool);
    CHECK(b.append("abc", pool) == done);
    CHECK(b.is_large());
    CHECK(pool.used() == 0); // the small one went back
    CHECK(pool.large_used() == 1);
    CHECK(b.bytes() == whole.substr(1) + "abc");
    CHECK(b.append(std::string(large_block_bytes - b.size() + 1, 'x'), pool) == full);
    CHECK(b.append(std::string(large_block_bytes - b.size(), 'x'), pool) == done);
    CHECK(b.size() == large_block_bytes);
    CHECK(b.capacity() == large_block_bytes);
    buffer other;
    CHECK(other.append(whole + "x", pool) == full); // there is one large block
    CHECK_FALSE(other.attached());
    other.take(b);
    CHECK_FALSE(b.is_large());
    CHECK(other.is_large());
    other.consume(other.size(), pool);

    CHECK_FALSE(other.is_large());
    CHECK(pool.large_used() == 0);
    CHECK(b.append(whole, pool) == done);
    b.clear(pool);
    CHECK(pool.used() == 0);
}

TEST_CASE("a buffer is enlarged with its bytes, or where there is no large block not at all") {
    block_pool pool(1, 1), small(1);
    buffer a, b;

    CHECK(a.append("abc", small) == done);
    CHECK_FALSE(a.enlarge(small));
    CHECK(a.bytes() == "abc");
    a.clear(small);
    CHECK(b.append("abc", pool) == done);
    b.consume(1, pool);
    CHECK(b.enlarge(pool));
    CHECK(b.enlarge(pool)); // once is enough
    CHECK(b.bytes() == "bc");
    CHECK(b.room(pool).bytes == large_block_bytes - 2);
    CHECK(pool.used() == 0);
    b.clear(pool);
    CHECK(a.enlarge(pool)); // without bytes
    CHECK(a.room(pool).bytes == large_block_bytes);
    a.clear(pool);
    CHECK(pool.large_used() == 0);
}

TEST_CASE("room behind consumed bytes is won back") {
    block_pool pool(1);
    buffer b;
    CHECK(b.append(std::string(block_bytes - 1, 'a') + "b", pool) == done);
    CHECK(b.room(pool).bytes == 0);

    b.consume(block_bytes - 1, pool);
    const buffer::room_view room = b.room(pool);

    CHECK(room.bytes == block_bytes - 1);
    CHECK(b.bytes() == "b");
    CHECK(room.at == b.bytes().data() + 1);
    b.clear(pool);
}

TEST_CASE("what is written into the room is kept by grow") {
    block_pool pool(1);
    buffer b;

    const buffer::room_view room = b.room(pool);
    CHECK(room.bytes == block_bytes);
    room.at[0] = 'o';
    room.at[1] = 'k';
    CHECK(b.empty());
    b.grow(2);

    CHECK(b.bytes() == "ok");
    b.clear(pool);
}

TEST_CASE("without a free block there is no room, and an append is refused") {
    block_pool pool(1);
    buffer first, second;
    CHECK(first.append("mine", pool) == done);

    CHECK(second.room(pool).at == nullptr);
    CHECK(second.room(pool).bytes == 0);
    CHECK(second.append("x", pool) == full);
    CHECK_FALSE(second.attached());
    first.clear(pool);
    CHECK(second.append("x", pool) == done);

    second.clear(pool);
}

TEST_CASE("take moves block and bytes") {
    block_pool pool(1);
    buffer from, to;
    CHECK(from.append("xhello", pool) == done);
    from.consume(1, pool);

    to.take(from);

    CHECK(to.bytes() == "hello");
    CHECK(from.empty());
    CHECK_FALSE(from.attached());
    CHECK(pool.used() == 1);
    CHECK(from.append("again", pool) == full); // it owns nothing any more
    to.clear(pool);
    CHECK(pool.used() == 0);
}

TEST_CASE("clear forgets bytes that were not consumed") {
    block_pool pool(1);
    buffer b;
    CHECK(b.append("old bytes", pool) == done);
    b.consume(4, pool);

    b.clear(pool);

    CHECK(b.empty());
    CHECK(b.size() == 0);
    CHECK(pool.used() == 0);
    CHECK(b.append("new", pool) == done);
    CHECK(b.bytes() == "new");
    b.clear(pool);
}

TEST_CASE("clear may be called twice, and on an empty room") {
    block_pool pool(1);
    buffer b;
    static_cast<void>(b.room(pool));

    b.clear(pool);
    b.clear(pool);

    CHECK(pool.used() == 0);
}

TEST_CASE("a buffer allocates nothing") {
    block_pool pool(1);
    buffer b;
    const std::uint64_t before = support::allocation_count();

    for (int i = 0; i < 100; i++) {
        if (b.append("some bytes", pool) == full) break;
        b.consume(10, pool);
    }

    CHECK(support::allocation_count() == before);
}

TEST_CASE("the contract of a buffer is checked") {
    CHECK(dies(
        [] {
            block_pool pool(1);
            buffer b;
            static_cast<void>(b.append("abc", pool));
            b.consume(4, pool);
        },
        "bytes <= size()"));
    CHECK(dies(
        [] {
            block_pool pool(1);
            buffer b;
            static_cast<void>(b.room(pool));
            b.grow(block_bytes + 1);
        },
        "<= capacity()"));
    CHECK(dies(
        [] {
            block_pool pool(2);
            buffer a, b;
            static_cast<void>(a.append("a", pool));
            static_cast<void>(b.append("b", pool));
            a.take(b);
        },
        "!block_"));
}

TEST_CASE("a buffer that dies with bytes keeps its block from everybody, and nothing else happens") {
    block_pool pool(2);
    {
        buffer b;
        CHECK(b.append("a", pool) == buffer::append_result::done);
    }

    CHECK(pool.used() == 1);
}

} // namespace
