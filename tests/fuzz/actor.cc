// actor: saying, hearing and leaving, step by step; and what a violation comes to.

#include "fuzz/actor.hpp"

#include <cstdio>
#include <cstdlib>

namespace simtest {

totals& sums() noexcept {
    static totals all{};
    return all;
}

void watch(kernel& k) noexcept {
    k.on_violation(
        [](void*, kernel& sim, const char* invariant, const char* text) noexcept {
            sim.report(invariant, text, 60);
            std::abort();
        },
        nullptr);
}

} // namespace simtest

namespace fuzz {

[[noreturn]] void wrong(const char* what, std::string_view bytes) {
    std::fprintf(stderr, "%s:\n%.*s\n", what, static_cast<int>(bytes.size()), bytes.data());
    kernel::current().violate("I6", "%s", what);
    std::abort();
}

bool actor::listen() {
    char bytes[1024];
    while (!deaf && !heard_end) {
        const sys::count n = end->recv(bytes);
        if (n == -EAGAIN) return true;
        if (n < 0) {
            leave(false);
            return false;
        }
        heard_end = n == 0;
        in.append(bytes, static_cast<std::size_t>(n));
    }
    return true;
}

// False: there is more to say than can be sent now, or it is gone.
bool actor::say() {
    while (!out.empty()) {
        const sys::count n = end->send(out);
        if (n == -EAGAIN) return false;
        if (n < 0) {
            out.clear(); // nobody hears it; what that means is for listen() to find out
            to_do.clear();
            return true;
        }
        said.append(out, 0, static_cast<std::size_t>(n));
        out.erase(0, static_cast<std::size_t>(n));
    }
    return true;
}

// False: it is gone.
bool actor::perform(const step& next) {
    using enum step::what;
    switch (next.is) {
    case say: out += next.text; break;
    case wait:
        not_before = end->now() + next.wait;
        end->wake_in(next.wait);
        break;
    case fin:
        if (!end->socket().send_shut) end->shutdown_send();
        break;
    case reset: leave(true); return false;
    case close: leave(false); return false;
    case deaf: this->deaf = true; break;
    case hear: this->deaf = false; break;
    }
    return true;
}

void actor::play() {
    while (end && end->now() >= not_before && say() && !to_do.empty()) {
        const step next = to_do.front();
        to_do.pop_front();
        if (next.is == step::what::say && end->socket().send_shut) continue; // it has said that it is done
        if (!perform(next)) return;
        if (next.is == step::what::hear && !listen()) return;
    }
}

} // namespace fuzz
