// http1_exchange: heads: the table of their fields, and the memory that they are written to.

#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

// Lends a block for the fields that head_ cannot hold itself. needs_table: none is left.
http1_head::progress http1_exchange::parse_head(std::string_view bytes) noexcept {
    const http1_head::progress p = head_.parse(bytes);
    if (p != http1_head::progress::needs_table) return p;
    static_assert(http1_head::table_bytes <= block_bytes);
    head_table_ = blocks().make();
    if (!head_table_) return p;
    head_.lend_table(head_table_->bytes);
    return head_.parse(bytes);
}

// The fields of head_ are not asked for any more.
void http1_exchange::drop_table() noexcept {
    if (head_table_) blocks().free(*head_table_);
    head_table_ = nullptr;
}

// head_ is that of a response from now on.
void http1_exchange::expect_response() noexcept {
    drop_table();
    http1_limits limits = room_.options.head;
    limits.allow_bare_lf = limits.allow_bare_lf || room_.options.server_bare_lf;
    head_.start(http1_kind::response, limits);
}

// Into a block, or else into a large one.
bool http1_exchange::put_request_head() noexcept {
    const http1_framing framing{.kind = head_.body_kind(), .length = head_.content_length()};
    const auto persistence = wants_upgrade_      ? http1_persistence::upgrade
                             : keeps_no_server() ? http1_persistence::close
                                                 : http1_persistence::unsaid;
    do {
        const buffer::room_view to = to_server_.room(blocks());
        const std::size_t n = to.at ? write_request_head(to.at, to.bytes, head_, framing, persistence) : 0;
        if (n > 0) {
            to_server_.grow(n);
            return true;
        }
    } while (!to_server_.is_large() && to_server_.enlarge(blocks()));
    return false;
}

// Appends head_, as it goes on, to what `out` holds already.
void http1_exchange::write_next_head(http1_writer& out, const http1_framing& framing, http1_persistence how) noexcept {
    out.take(write_response_head(out.next(), out.room(), head_, framing, how));
}

} // namespace weir::inline WEIR_KERNEL
