#pragma once
// histogram: how often which value was seen, in log-linear buckets: 32 per power of two, so a quantile is at most
// 1/32 (3.2 %) above the value it stands for. 15 KB, no allocation, one increment per value.
//
// Units are the caller's (weir's tools count nanoseconds). Not for threads; add() merges two.

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/contract.hpp"

namespace weir::inline WEIR_KERNEL {

class histogram {
  public:
    void record(std::uint64_t value) noexcept {
        counts_[index_of(value)]++;
        total_++;
        if (value > max_) max_ = value;
    }

    void add(const histogram& other) noexcept {
        for (std::size_t i = 0; i < counts_.size(); i++)
            counts_[i] += other.counts_[i];
        total_ += other.total_;
        if (other.max_ > max_) max_ = other.max_;
    }

    std::uint64_t count() const noexcept { return total_; }
    std::uint64_t max() const noexcept { return max_; }

    // The smallest bucket end that at least `fraction` of the values do not exceed, 0 <= fraction <= 1. 0 when empty.
    std::uint64_t quantile(double fraction) const noexcept {
        EXPECT(fraction >= 0 && fraction <= 1);
        const auto wanted = static_cast<std::uint64_t>(std::ceil(fraction * static_cast<double>(total_)));
        std::uint64_t seen = 0;
        for (std::size_t i = 0; i < counts_.size(); i++) {
            seen += counts_[i];
            if (seen >= wanted && seen > 0) return top_of(i) < max_ ? top_of(i) : max_;
        }
        return max_;
    }

  private:
    static constexpr unsigned sub_bits = 5;
    static constexpr std::size_t sub_count = std::size_t{1} << sub_bits;

    // Values below 32 have a bucket each; from there on the top five bits below the leading one choose.
    static std::size_t index_of(std::uint64_t value) noexcept {
        if (value < sub_count) return static_cast<std::size_t>(value);
        const unsigned shift = static_cast<unsigned>(std::bit_width(value)) - 1 - sub_bits;
        return ((shift + 1) << sub_bits) + static_cast<std::size_t>((value >> shift) - sub_count);
    }
    static std::uint64_t top_of(std::size_t index) noexcept {
        if (index < sub_count) return index;
        const std::size_t shift = (index >> sub_bits) - 1;
        return ((index % sub_count + sub_count + 1) << shift) - 1;
    }

    std::array<std::uint64_t, (64 - sub_bits + 1) * sub_count> counts_{};
    std::uint64_t total_ = 0;
    std::uint64_t max_ = 0;
};

} // namespace weir::inline WEIR_KERNEL
