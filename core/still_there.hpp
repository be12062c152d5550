#pragma once
// still_there: whether a connection is still its user's, asked behind a call that may have closed any.

#include "core/connection.hpp"

namespace weir::inline WEIR_KERNEL {

// Made before the call. The connection itself is looked at only while its slot is of the same generation. Thread: the
// loop's. Valid in the turn in which it was made.
class still_there {
  public:
    explicit still_there(connection& conn) noexcept : slot_(conn.slot()), generation_(slot_.generation) {}
    verdict answer() const noexcept {
        const bool is_same = slot_.generation == generation_ && slot_.handler;
        return is_same && !static_cast<connection*>(slot_.owner)->was_closed() ? verdict::keep : verdict::gone;
    }

  private:
    fd_slot& slot_;
    std::uint32_t generation_;
};

} // namespace weir::inline WEIR_KERNEL
