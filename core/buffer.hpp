#pragma once
// buffer: bytes that wait, in a block that is borrowed only while there are any.
//
// A quiet connection owns no memory for bytes. They pass through the loop's scratch room and are sent at once; only
// what could not be sent (or not be understood yet) goes into a block, and the block goes back when it is empty.
// Bytes that must lie together and are more than a block holds, such as a large head, go into a large block. A pool has
// none unless it is asked for some.
//
// Owner of blocks: the block_pool of one loop. Allocation: when the pool is made. Thread: one loop's.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "core/pool.hpp"

namespace weir::inline WEIR_KERNEL {

inline constexpr std::size_t block_bytes = 16 * 1024;
inline constexpr std::size_t large_block_bytes = 80 * 1024;

struct block {
    block() noexcept {} // leaves the bytes as they are
    char bytes[block_bytes];
};
struct large_block {
    large_block() noexcept {}
    char bytes[large_block_bytes];
};

class block_pool {
  public:
    // Without memory for the small ones, its capacity is 0.
    explicit block_pool(std::size_t capacity, std::size_t large_capacity = 0) noexcept : small_(capacity) {
        if (large_capacity > 0) large_.emplace(large_capacity);
    }

    // Null: none is left.
    [[nodiscard]] block* make() noexcept { return small_.make(); }
    [[nodiscard]] large_block* make_large() noexcept { return large_ ? large_->make() : nullptr; }
    void free(block& b) noexcept { small_.free(b); }
    void free(large_block& b) noexcept { large_->free(b); }

    // Of blocks that are not large.
    std::size_t capacity() const noexcept { return small_.capacity(); }
    std::size_t used() const noexcept { return small_.used(); }
    std::size_t large_capacity() const noexcept { return large_ ? large_->capacity() : 0; }
    std::size_t large_used() const noexcept { return large_ ? large_->used() : 0; }

  private:
    fixed_pool<block> small_;
    std::optional<fixed_pool<large_block>> large_;
};

class buffer {
  public:
    buffer() noexcept = default;
    buffer(const buffer&) = delete;
    buffer& operator=(const buffer&) = delete;
    // One that dies with bytes drops them; their block is lost until the pool goes. So clear() comes first, except when
    // the program ends.
    ~buffer() = default;

    bool empty() const noexcept { return begin_ == end_; }
    std::size_t size() const noexcept { return end_ - begin_; }
    bool attached() const noexcept { return block_ != nullptr; }
    bool is_large() const noexcept { return is_large_ != 0; }
    // Bytes that its block holds, or would hold if it had one.
    std::size_t capacity() const noexcept { return is_large_ ? large_block_bytes : block_bytes; }

    // The bytes, oldest first. Borrowed until the next call that is not const.
    std::string_view bytes() const noexcept {
        return block_ ? std::string_view{block_ + begin_, size()} : std::string_view{};
    }

    // Room behind the bytes, after moving them to the block's front if that makes more of it. Attaches a block;
    // {null, 0} when the pool has none. What was written there is kept by grow().
    struct room_view {
        char* at;
        std::size_t bytes;
    };
    room_view room(block_pool& pool) noexcept {
        if (!block_) {
            block* b = pool.make();
            if (!b) return {nullptr, 0};
            block_ = b->bytes;
        }
        if (begin_ > 0) {
            std::memmove(block_, block_ + begin_, size());
            set_end(size());
            begin_ = 0;
        }
        return {block_ + end_, capacity() - end_};
    }
    void grow(std::size_t bytes) noexcept {
        EXPECT(block_ != nullptr && end_ + bytes <= capacity());
        set_end(end_ + bytes);
    }

    // From now on its block is a large one, until it is given back. False: the pool has none; nothing has changed.
    [[nodiscard]] bool enlarge(block_pool& pool) noexcept {
        if (is_large_) return true;
        large_block* to = pool.make_large();
        if (!to) return false;
        const std::size_t bytes = size();
        if (bytes > 0) std::memcpy(to->bytes, block_ + begin_, bytes);
        clear(pool);
        block_ = to->bytes;
        is_large_ = 1;
        set_end(bytes);
        return true;
    }

    // Appends all of `more`, if need be in a large block. full: no block that can hold all of it is to be had, and
    // nothing was appended.
    enum class append_result : std::uint8_t { done, full };
    [[nodiscard]] append_result append(std::string_view more, block_pool& pool) noexcept {
        if (more.empty()) return append_result::done;
        const bool is_too_much = size() + more.size() > capacity();
        const room_view to = is_too_much && !enlarge(pool) ? room_view{nullptr, 0} : room(pool);
        if (to.bytes < more.size()) {
            if (empty()) clear(pool);
            return append_result::full;
        }
        std::memcpy(to.at, more.data(), more.size());
        grow(more.size());
        return append_result::done;
    }

    // Takes `bytes` off the front; the block goes back when nothing is left.
    void consume(std::size_t bytes, block_pool& pool) noexcept {
        EXPECT(bytes <= size());
        begin_ += static_cast<std::uint32_t>(bytes);
        if (empty()) clear(pool);
    }

    void clear(block_pool& pool) noexcept {
        if (is_large_) pool.free(*reinterpret_cast<large_block*>(block_));
        else if (block_) pool.free(*reinterpret_cast<block*>(block_));
        forget();
    }

    // Takes the other's block and bytes; this one must own none.
    void take(buffer& other) noexcept {
        EXPECT(!block_);
        block_ = other.block_;
        begin_ = other.begin_;
        end_ = other.end_;
        is_large_ = other.is_large_;
        other.forget();
    }

  private:
    void set_end(std::size_t at) noexcept { end_ = static_cast<std::uint32_t>(at) & 0x7fffffffU; }
    void forget() noexcept {
        block_ = nullptr;
        begin_ = end_ = is_large_ = 0;
    }

    char* block_ = nullptr; // the bytes of a block, or of a large_block
    std::uint32_t begin_ = 0;
    std::uint32_t end_ : 31 = 0; // begin_ <= end_ <= capacity(); both 0 without a block
    std::uint32_t is_large_ : 1 = 0;
};
static_assert(sizeof(buffer) == 16, "four to an exchange, two to a relayed pair");

} // namespace weir::inline WEIR_KERNEL
