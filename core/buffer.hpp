#pragma once
// buffer: bytes that wait, in a block that is borrowed only while there are any.
//
// A quiet connection owns no memory for bytes. They pass through the loop's scratch room and are sent at once; only
// what could not be sent (or not be understood yet) goes into a block, and the block goes back when it is empty.
//
// Owner of blocks: the block_pool of one loop. Allocation: when the pool is made. Thread: one loop's.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/pool.hpp"

namespace weir::inline WEIR_KERNEL {

inline constexpr std::size_t block_bytes = 16 * 1024;

struct block {
    block() noexcept {} // leaves the bytes as they are
    char bytes[block_bytes];
};
using block_pool = fixed_pool<block>;

class buffer {
  public:
    buffer() noexcept = default;
    buffer(const buffer&) = delete;
    buffer& operator=(const buffer&) = delete;
    ~buffer() { EXPECT(block_ == nullptr); } // clear() needs the pool, so the owner says when

    bool empty() const noexcept { return begin_ == end_; }
    std::size_t size() const noexcept { return end_ - begin_; }
    bool attached() const noexcept { return block_ != nullptr; }

    // The bytes, oldest first. Borrowed until the next call that is not const.
    std::string_view bytes() const noexcept {
        return block_ ? std::string_view{block_->bytes + begin_, end_ - begin_} : std::string_view{};
    }

    // Room behind the bytes, after moving them to the block's front if that makes more of it. Attaches a block;
    // {null, 0} when the pool has none. What was written there is kept by grow().
    struct room_view {
        char* at;
        std::size_t bytes;
    };
    room_view room(block_pool& pool) noexcept {
        if (!block_ && !(block_ = pool.make())) return {nullptr, 0};
        if (begin_ > 0) {
            std::memmove(block_->bytes, block_->bytes + begin_, end_ - begin_);
            end_ -= begin_;
            begin_ = 0;
        }
        return {block_->bytes + end_, block_bytes - end_};
    }
    void grow(std::size_t bytes) noexcept {
        EXPECT(block_ != nullptr && end_ + bytes <= block_bytes);
        end_ += static_cast<std::uint32_t>(bytes);
    }

    // Appends all of `more` or, when the pool is empty or the block too small, nothing.
    enum class append_result : std::uint8_t { done, full };
    [[nodiscard]] append_result append(std::string_view more, block_pool& pool) noexcept {
        if (more.empty()) return append_result::done;
        const room_view to = room(pool);
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
        if (block_) pool.free(*block_);
        block_ = nullptr;
        begin_ = end_ = 0;
    }

    // Takes the other's block and bytes; this one must own none.
    void take(buffer& other) noexcept {
        EXPECT(!block_);
        block_ = other.block_;
        begin_ = other.begin_;
        end_ = other.end_;
        other.block_ = nullptr;
        other.begin_ = other.end_ = 0;
    }

  private:
    block* block_ = nullptr;
    std::uint32_t begin_ = 0, end_ = 0; // begin_ <= end_ <= block_bytes; both 0 without a block
};

} // namespace weir::inline WEIR_KERNEL
