#pragma once
// sim_timeline: virtual time, and what is going to happen in it.
//
// Time goes on only when somebody sets `now` forward; whatever is due by then runs, in the order of its time and,
// within one instant, in the order in which it was planned. A happening names its subject with a serial: the subject
// that was recycled meanwhile knows by it that it is not meant.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/time.hpp"

namespace weir::inline WEIR_KERNEL {

class timeline {
  public:
    using action = void (*)(void* subject, std::uint32_t serial) noexcept;

    time_point now{std::chrono::hours{1}};

    void plan(time_point at, action run, void* subject, std::uint32_t serial) noexcept {
        heap_.push_back({at, planned_++, run, subject, serial});
        std::push_heap(heap_.begin(), heap_.end(), later);
    }

    // When the next thing happens; `never` if nothing will.
    time_point next() const noexcept { return heap_.empty() ? never : heap_.front().at; }

    void run_due() noexcept {
        while (!heap_.empty() && heap_.front().at <= now) {
            std::pop_heap(heap_.begin(), heap_.end(), later);
            const happening h = heap_.back();
            heap_.pop_back();
            h.run(h.subject, h.serial);
        }
    }

  private:
    struct happening {
        time_point at;
        std::uint64_t order;
        action run;
        void* subject;
        std::uint32_t serial;
    };
    static bool later(const happening& a, const happening& b) noexcept {
        return a.at != b.at ? a.at > b.at : a.order > b.order;
    }

    std::vector<happening> heap_;
    std::uint64_t planned_ = 0;
};

} // namespace weir::inline WEIR_KERNEL
