// counter_table: adding, printing.

#include "proto/counter_table.hpp"

#include <charconv>
#include <cstring>

namespace weir::inline WEIR_KERNEL {

void counter_table::add(const char* name, std::uint64_t value, const char* prefix) noexcept {
    for (std::size_t i = 0; i < count_; i++) {
        entry& e = entries_[(next_ + i) % count_];
        if (std::strcmp(e.name, name) != 0 || std::strcmp(e.prefix, prefix) != 0) continue;
        e.value += value;
        next_ = (next_ + i + 1) % count_;
        return;
    }
    EXPECT(count_ < entries_max);
    entries_[count_++] = {.prefix = prefix, .name = name, .value = value};
    next_ = 0;
}

std::uint64_t counter_table::value(std::string_view name) const noexcept {
    for (const entry& e : std::span(entries_).first(count_)) {
        const std::string_view prefix{e.prefix};
        if (name.starts_with(prefix) && name.substr(prefix.size()) == e.name) return e.value;
    }
    return 0;
}

std::size_t counter_table::write_json(std::span<char> room) const noexcept {
    std::size_t bytes = 0;
    const auto put = [&](std::string_view text) noexcept {
        if (bytes + text.size() <= room.size()) std::memcpy(room.data() + bytes, text.data(), text.size());
        bytes += text.size();
    };
    put("{");
    for (const entry& e : std::span(entries_).first(count_)) {
        char digits[20];
        const auto end = std::to_chars(digits, digits + sizeof digits, e.value).ptr;
        put(&e == entries_.data() ? "\"" : ",\"");
        put(e.prefix);
        put(e.name);
        put("\":");
        put({digits, static_cast<std::size_t>(end - digits)});
    }
    put("}\n");
    return bytes <= room.size() ? bytes : 0;
}

void add_engine_counters(counter_table& to, const conntab& conns, const listener& door) noexcept {
    to.add("live", conns.live_count());
    to.add("accepted", conns.opened_count(conn_origin::accepted));
    to.add("dialed", conns.opened_count(conn_origin::dialed));
    to.add("accept_failed", door.failed_count());
    to.add("accept_paused", door.paused_count());
    to.add("blocks", conns.blocks().used());
    to.add("turns", conns.loop().turn_count());
    to.add("epoll_waits", conns.loop().polls().wait_count());
    to.add("epoll_ctls", conns.loop().polls().ctl_count());
    to.add("stale_reports", conns.loop().stale_count());
    for (std::size_t i = 1; i < static_cast<std::size_t>(end_cause::count_); i++) {
        const end_cause cause = static_cast<end_cause>(i);
        to.add(to_string(cause), conns.ended_count(cause), "end_");
    }
}

} // namespace weir::inline WEIR_KERNEL
