// http1_exchange: the lines for people: trouble, and the access log.

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "proto/http1_exchange.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

http1_trouble kind_of(int status) noexcept {
    switch (status) {
    case 502: return http1_trouble::bad_gateway;
    case 503: return http1_trouble::unavailable;
    case 504: return http1_trouble::late;
    }
    return http1_trouble::broken_off; // the status is the server's, which had been sent on
}

} // namespace

void http1_exchanges::tell_left_out(void* self, std::size_t kind, std::uint64_t count) noexcept {
    static constexpr const char* names[] = {"passed over", "502", "503", "504", "broken off"};
    const http1_exchanges& room = *static_cast<const http1_exchanges*>(self);
    if (!room.trouble) return;
    char line[96];
    const int n = std::snprintf(line, sizeof line, "%s: %llu more lines like this were not written", names[kind],
                                static_cast<unsigned long long>(count));
    room.trouble(room.gateway, {line, static_cast<std::size_t>(n)});
}

void http1_exchange::report(int status, const char* why) noexcept {
    http1_trouble kind = status == passed_over ? http1_trouble::passed_over : kind_of(status);
    if (response_ == response_state::body) kind = http1_trouble::broken_off;
    if (!room_.trouble || !room_.lines.admits(static_cast<std::size_t>(kind))) return;
    char at[endpoint::log_text_max], from[endpoint::log_text_max], line[1792];
    const std::string_view client = client_text(from);
    const std::string_view server = upstream_ ? upstream_->where.at.log_text(at) : std::string_view{"-"};
    char room[what_text_max];
    const std::string_view what = what_text(room);
    char answer[16] = "passed over";
    if (status != passed_over) std::snprintf(answer, sizeof answer, "%d", status);
    const int n =
        std::snprintf(line, sizeof line, "%s \"%.*s\" client %.*s upstream %.*s: %s", answer,
                      static_cast<int>(what.size()), what.data(), static_cast<int>(client.size()), client.data(),
                      static_cast<int>(server.size()), server.data(), why);
    room_.trouble(room_.gateway, {line, std::min(static_cast<std::size_t>(n), sizeof line - 1)});
}

std::string_view http1_exchange::what_text(char (&room)[what_text_max]) const noexcept {
    http1_writer out{room, sizeof room};
    return {room, out.put_escaped({what_, what_bytes_}).size()};
}

std::string_view http1_exchange::client_text(char (&room)[endpoint::log_text_max]) const noexcept {
    const endpoint peer = client_->peer();
    return peer.specified() ? peer.log_text(room) : std::string_view{"-"};
}

// Once for each request, however it ends; what says nothing of a request has no line.
void http1_exchange::log_access(ending how) noexcept {
    const bool is_request = what_bytes_ > 0 || status_ != 0;
    if (!room_.access || logged_ || !is_request) return;
    logged_ = true;
    char at[endpoint::log_text_max], from[endpoint::log_text_max], line[1536], room[what_text_max];
    const std::string_view client = client_text(from);
    const std::string_view what = what_text(room);
    const std::string_view server =
        upstream_ ? upstream_->where.at.log_text(at) : std::string_view{applet_ ? applet_->name : "-"};
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now() - began_).count();
    const int n = std::snprintf(
        line, sizeof line, "%.*s \"%.*s\" %d %llu bytes %lld us upstream %.*s%s%s%s", static_cast<int>(client.size()),
        client.data(), static_cast<int>(what.size()), what.data(), status_,
        static_cast<unsigned long long>(response_bytes_), static_cast<long long>(us), static_cast<int>(server.size()),
        server.data(), reused_ ? " reused" : "", repeated_ ? " repeated" : "", how == ending::cut ? " cut off" : "");
    room_.access(room_.gateway, {line, std::min(static_cast<std::size_t>(n), sizeof line - 1)});
}

} // namespace weir::inline WEIR_KERNEL
