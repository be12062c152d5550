#pragma once
// origin: the server inside weir-origin: its visitors, what it answers, and how it leaves them.
//
//            bytes                 answer sent
//     idle ────────> busy ──────────────────────────> idle, or closed
//       └─ timer, close_idle_ones(), last answer ─> leaving: FIN sent without a word, waits for the proxy's close
//
// Each state is a data_cb table. The time that a connection spends leaving is what a proxy needs to notice a close.
// Owner: main(). Thread: one loop's. Allocation: in open().

#include <memory>
#include <string>

#include "core/histogram.hpp"
#include "core/listener.hpp"
#include "tools/options.hpp"

namespace weir::inline WEIR_KERNEL::tools {

enum class ending : std::uint8_t { stay, graceful, abort };

// What is sent, and what becomes of the connection then.
struct reply {
    std::string bytes;
    std::size_t head_bytes; // what HEAD is answered with
    ending after;
};

// Zero: the habit is not had.
struct habits {
    duration close_idle{0};        // closes what has been idle for about so long,
    duration stray_bytes{0};       // the same, but with a 408 that nobody asked for
    duration delay{0};             // answers late
    std::uint32_t close_after = 0; // closes after so many answers
    std::uint32_t status = 200;    // of an echo
    bool echo = false;             // answers with the request's body
    bool early = false;            // answers before the body was read, then closes
};

struct origin_totals {
    std::uint64_t accepted = 0, requests = 0, refused = 0, body_bytes_in = 0, bytes_out = 0;
    std::uint64_t idle_closes = 0, last_closes = 0, strays = 0;
    std::uint64_t crossed_before = 0;   // requests that lay unread when their connection was closed
    std::uint64_t resets_after_fin = 0; // one came after its FIN, or the peer reset it for another reason
    histogram fin_to_close;             // ns
};

struct visitor;

struct origin {
    static constexpr std::uint32_t visitors_max = 16384;

    origin(event_loop& on, const habits& had, reply r) noexcept;
    ~origin();
    // Ends the program with 1 if it cannot listen.
    void open(const listen_place& at) noexcept;
    // Every connection that waits for a request, now.
    void close_idle_ones() noexcept;

    event_loop& loop;
    const habits& has;
    const reply answer;
    origin_totals sum{};
    conntab conns{loop};
    listener door{conns};
    std::unique_ptr<fixed_pool<visitor>> visitors{};
    std::uint32_t random = 2463534242; // of the jitter
};

} // namespace weir::inline WEIR_KERNEL::tools
