#pragma once
// conform_text: answers of system calls, in words.

#include <cstdint>
#include <cstring>
#include <string>

#include <sys/epoll.h>

#include "sim/machine.hpp"

namespace conform {

inline std::string errno_text(long r) { return r < 0 ? strerrorname_np(static_cast<int>(-r)) : std::to_string(r); }

inline std::string events_text(std::uint32_t events) {
    static constexpr struct {
        std::uint32_t bit;
        const char* name;
    } names[] = {{EPOLLIN, "IN"}, {EPOLLOUT, "OUT"}, {EPOLLRDHUP, "RDHUP"}, {EPOLLHUP, "HUP"}, {EPOLLERR, "ERR"}};
    std::string text;
    for (const auto& n : names)
        if (events & n.bit) {
            if (!text.empty()) text += '+';
            text += n.name;
        }
    return text.empty() ? "nothing" : text;
}

inline const char* text_of(family f) { return f == family::tcp ? "tcp" : f == family::local ? "unix" : "event"; }

} // namespace conform
