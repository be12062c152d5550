#pragma once
// failures_door: a listener each of whose connections plays the same script, for scenarios.

#include "core/listener.hpp"
#include "proto/tcp.hpp"
#include "sim/failures.hpp"

namespace failures {

inline const endpoint path = endpoint::unix_path("/run/weir.sock").value();
inline const script greet{say("hello"), hear("hello back"), hear_end};

// A listener each of whose connections plays the same script.
struct door {
    explicit door(stage& s, script what, listener_options o = {.accept_budget = 4})
        : home(s), steps(std::move(what)), options(o), port(*s.conns) {}

    stage& home;
    script steps;
    listener_options options;
    listener port;
    std::uint32_t closes_after = ~0u; // accepted so many: the door closes

    static void accepted(void* self, connection& conn, const endpoint&) noexcept {
        door& d = *static_cast<door*>(self);
        d.home.local(d.steps).serve(conn);
        if (--d.closes_after == 0) d.port.close();
    }
    void open(const ctrl& family = tcp, const endpoint& at = door_at) {
        home.start([&] { return port.open(family, at, options, accepted, this).ok(); });
    }
};
inline const script greeter{hear("hello"), say("hello back"), leave(close_intent::graceful)};

} // namespace failures
