// open_report: the list in steps.

#include "tools/open_report.hpp"

#include <string_view>

namespace weir::inline WEIR_KERNEL::tools {

namespace {

constexpr std::uint32_t lines_per_step = 256;
constexpr std::size_t line_bytes_max = 768; // of the ledger
constexpr std::size_t counters_bytes_max = 3968; // with the words before it, a line
constexpr duration step_time = milliseconds{1}, wait_time = milliseconds{20}, patience = seconds{5};

} // namespace

void open_report::begin(std::uint32_t index, std::uint32_t loops_count, counters_writer counters,
                        void* owner) noexcept {
    if (timer_.armed()) return;
    index_ = index;
    loops_count_ = loops_count;
    counters_ = counters;
    owner_ = owner;
    next_fd_ = 0;
    open_count_ = loop_.open_count();
    told_count_ = 0;
    has_waited_ = false;
    moved_at_ = loop_.now();
    step();
}

void open_report::step() noexcept {
    for (std::uint32_t lines = 0; lines < lines_per_step && to_.has_room(line_bytes_max); lines++) {
        const std::uint32_t before = next_fd_;
        next_fd_ = loop_.list_some(next_fd_, 1, {.take = &open_report::take, .to = this});
        if (next_fd_ == before || (told_count_ == open_count_ && !has_waited_)) return end(told_count_);
        moved_at_ = loop_.now();
    }
    if (loop_.now() - moved_at_ >= patience) {
        to_.print("the rest of the list, from descriptor %u on, is left out: nobody reads it", next_fd_);
        return end(loop_.open_count());
    }
    has_waited_ = true;
    loop_.arm_in(timer_, to_.has_room(line_bytes_max) ? step_time : wait_time);
}

void open_report::take(void* self, std::string_view line) noexcept {
    open_report& report = *static_cast<open_report*>(self);
    report.told_count_++;
    log_writer::take(&report.to_, line);
}

void open_report::end(std::uint32_t count) noexcept {
    if (index_ > 0) {
        to_.print("%u descriptors are open in loop %u", count, index_);
        return;
    }
    char room[counters_bytes_max];
    std::string_view text(room, counters_(owner_, std::span<char>(room)));
    while (text.ends_with('\n'))
        text.remove_suffix(1);
    to_.print("%u descriptors are open%s; %.*s", count, loops_count_ > 1 ? " in loop 0" : "",
              static_cast<int>(text.size()), text.data());
}

} // namespace weir::inline WEIR_KERNEL::tools
