// http1_reuse: the two verdicts, each reason in its order.

#include "proto/http1_reuse.hpp"

#include <iterator>

namespace weir::inline WEIR_KERNEL {

http1_server_verdict server_verdict(const http1_server_facts& facts) noexcept {
    using enum http1_server_verdict;
    if (facts.switched) return switched;
    if (facts.failed) return failed;
    if (facts.peer_shut) return peer_shut;
    if (!facts.request_written) return request_unwritten;
    if (facts.early_response) return early_response;
    if (!facts.response_complete) return response_incomplete;
    if (facts.framing == http1_body_kind::until_close) return until_close;
    if (facts.surplus) return surplus;
    if (facts.user_bound) return user_bound;
    if (facts.close_asked) return close_asked;
    if (facts.version == http1_version::v1_0 && !facts.keep_alive_asked) return version_1_0;
    if (facts.close_sent) return close_sent;
    if (facts.draining) return draining;
    return park;
}

http1_client_verdict client_verdict(const http1_client_facts& facts) noexcept {
    using enum http1_client_verdict;
    // A 1.0 client waits for a close unless it asked for keep-alive and was told yes.
    const bool agreed = facts.keep_alive_asked && facts.keep_alive_sent;

    if (facts.switched) return switched;
    if (facts.failed) return failed;
    if (!facts.request_complete) return request_incomplete;
    if (!facts.response_complete) return response_incomplete;
    if (!facts.response_written) return response_unwritten;
    if (facts.framing == http1_body_kind::until_close) return until_close;
    if (facts.peer_shut && !facts.pipelined) return peer_shut;
    if (facts.close_asked) return close_asked;
    if (facts.close_sent) return close_sent;
    if (facts.version == http1_version::v1_0 && !agreed) return version_1_0;
    if (facts.draining) return draining;
    if (facts.uses_spent) return uses_spent;
    return stay;
}

const char* to_string(http1_server_verdict verdict) noexcept {
    // clang-format off
    static constexpr const char* names[] = {
        "park", "switched", "failed", "peer_shut", "request_unwritten", "early_response", "response_incomplete",
        "until_close", "surplus", "user_bound", "close_asked", "version_1_0", "close_sent", "draining",
    };
    // clang-format on
    static_assert(std::size(names) == static_cast<std::size_t>(http1_server_verdict::draining) + 1);
    return names[static_cast<std::size_t>(verdict)];
}

const char* to_string(http1_client_verdict verdict) noexcept {
    // clang-format off
    static constexpr const char* names[] = {
        "stay", "switched", "failed", "request_incomplete", "response_incomplete", "response_unwritten",
        "until_close", "peer_shut", "close_asked", "close_sent", "version_1_0", "draining", "uses_spent",
    };
    // clang-format on
    static_assert(std::size(names) == static_cast<std::size_t>(http1_client_verdict::uses_spent) + 1);
    return names[static_cast<std::size_t>(verdict)];
}

} // namespace weir::inline WEIR_KERNEL
