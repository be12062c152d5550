#pragma once
// fuzz: what the targets share.
//
// A target is a file with LLVMFuzzerTestOneInput: all that must hold for any bytes, each fact an EXPECT. It is linked
// twice: with libFuzzer it is weir-fuzzer-NAME, with replay.cc it is weir-fuzz-NAME, a test over its corpus.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

#include "core/contract.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fuzz {

// A copy that lies alone in a heap block of its size: whoever reads past it is seen by AddressSanitizer.
class alone {
  public:
    explicit alone(std::string_view bytes) : room_(new char[bytes.size()]), size_(bytes.size()) {
        if (size_ > 0) std::memcpy(room_.get(), bytes.data(), size_);
    }
    std::string_view view() const noexcept { return {room_.get(), size_}; }

  private:
    std::unique_ptr<char[]> room_;
    std::size_t size_;
};

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) noexcept {
    return {reinterpret_cast<const char*>(data), size};
}

// Every place where an input may be cut in two; of a long one not all.
template <class Function>
void for_each_cut(std::size_t size, Function&& at) {
    constexpr std::size_t cuts_max = 128;
    const std::size_t step = 1 + size / cuts_max;
    for (std::size_t cut = 0; cut <= size; cut += step)
        at(cut);
}

} // namespace fuzz
