#pragma once
// counter_table: named numbers, added up over several loops, and printed as one JSON object.
//
// Thread: any, one at a time; what is added are shared_counts of other threads' loops. Allocation: none.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/connection.hpp"
#include "core/listener.hpp"

namespace weir::inline WEIR_KERNEL {

class counter_table {
  public:
    static constexpr std::size_t entries_max = 96;

    // Adds to what has this name already, or else makes a new entry. `prefix` goes before the name. Both are borrowed:
    // literals.
    void add(const char* name, std::uint64_t value, const char* prefix = "") noexcept;

    // 0: it is not there.
    std::uint64_t value(std::string_view name) const noexcept;

    // {"name":1,...} and a line feed. Returns how many bytes that took, 0 if they do not fit.
    std::size_t write_json(std::span<char> room) const noexcept;

  private:
    struct entry {
        const char* prefix;
        const char* name;
        std::uint64_t value;
    };
    std::array<entry, entries_max> entries_{};
    std::size_t count_ = 0;
    std::size_t next_ = 0; // where the next name most likely stands: they come in the same order each time
};

// What every proxy's loop counts: connections, how they ended, accepting, blocks, turns.
void add_engine_counters(counter_table& to, const conntab& conns, const listener& door) noexcept;

} // namespace weir::inline WEIR_KERNEL
