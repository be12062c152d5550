// http1_exchange: which server is asked, and its connection.

#include "core/dialer.hpp"
#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

verdict http1_exchange::acquire() noexcept {
    for (;;) {
        upstream_address* next = room_.upstreams.choose(attempts_, now());
        if (!next) return none_is_left();
        ask_next(*next);
        if (needs_host_ && !name_host()) return shed("no room for the request's head");
        if (!repeated_) {
            // What could not be repeated gets no connection that the server may be about to close.
            const bool is_safe = is_idempotent(method_);
            const idle_pool::need need{.age_max = is_safe ? duration::max() : room_.idle.safe_age(upstream_->key)};
            if (connection* idle = room_.idle.take(upstream_->key, server_cb, this, need)) {
                assign(*idle, true);
                return flush_to_server();
            }
        }
        const address& where = upstream_->where;
        const dial_options how{.timeout = room_.options.connect_timeout,
                               .user_timeout = room_.options.user_timeout,
                               .transport = upstream_->of->transport};
        auto dialed = dial(conns(), *where.family, where.at, how, server_cb, this);
        if (dialed) {
            assign(*dialed.value(), false);
            return verdict::keep;
        }
        if (!rule_out(dialed.error())) return run_short(describe(dialed.error()));
    }
}

void http1_exchange::ask_next(upstream_address& next) noexcept {
    if (attempts_.error) report(passed_over, describe(attempts_.error)); // the one before, which `next` stands in for
    attempts_.error = 0;
    room_.upstreams.hold(next);
    if (upstream_) room_.upstreams.let_go(*upstream_);
    upstream_ = &next;
}

// Every address was tried: what the latest attempt failed of is the answer.
verdict http1_exchange::none_is_left() noexcept {
    if (attempts_.error == 0) return fail(503, "no server is left"); // the set of servers has changed meanwhile
    const char* why = describe(attempts_.error);
    switch (blame_of(attempts_.error)) {
    case blame::ours:
    case blame::path: return run_short(why);
    case blame::busy: return fail(503, why);
    case blame::dead: break;
    }
    return fail(attempts_.error == ETIMEDOUT ? 504 : 502, why);
}

// This address is not asked again for this request. False: the failure is ours, and no other server helps.
bool http1_exchange::rule_out(int error) noexcept {
    return room_.upstreams.rule_out(attempts_, *upstream_, error, now()) != blame::ours;
}

// The dialed server did not answer. The request was not sent, so the next server may have it.
verdict http1_exchange::connect_failed() noexcept {
    if (!rule_out(server_->error())) return run_short(describe(server_->error()));
    drop_server(close_intent::silent, server_->failure());
    return acquire();
}

void http1_exchange::assign(connection& server, bool is_reused) noexcept {
    server_ = &server;
    upstream_->of->active_count++;
    server.count_use();
    reused_ = is_reused;
    connecting_ = !is_reused;
    // On a fresh connection it may only be repeated at another address.
    keeping_ = room_.options.repeats == repeat::automatic && !repeated_ &&
               (is_reused || room_.upstreams.has_other(attempts_, *upstream_));
    sent_bytes_ = 0;
    acked_before_ = -1;
    to_server_progress_ = {};
    place_due_ = never;
    has_looked_for_place_ = false;
    if (is_reused) room_.counters.reused++;
    // The count now is the proof later that the server's kernel never took a byte of this request.
    if (keeping_ && !is_idempotent(method_) && server.family().counts_acked)
        acked_before_ = is_reused ? sys::bytes_acked(server.fd()) : acked_by_connect;
}

} // namespace weir::inline WEIR_KERNEL
