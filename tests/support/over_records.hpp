#pragma once
// over_records: the far ends of a suite's connections, raw or over record_xprt.
//
// With WEIR_TRANSPORT=records in the environment a pair made here is spoken over records: rig::serve() gives its `b`
// the transport, and the calls below, which take the place of those of support/net.hpp, say and hear at `a` what a user
// would. So a case is the same over both. One that cannot be says so: raw_only.
//
// What is known of a descriptor stands in an array: it must not be taken for a leak of the test's.

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <string_view>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <doctest/doctest.h>

#include "support/net.hpp"

namespace support {

struct far_end_state {
    bool layered = false, greeted = false, in_talk = false, heard_end = false;
    int partner = -1;     // the pair's other end
    std::size_t left = 0; // of the payload of the record that is being received
};
inline far_end_state& far_end_of(int fd) {
    static std::array<far_end_state, 4096> all;
    return all.at(static_cast<std::size_t>(fd));
}
inline bool is_over_records(int fd) { return fd >= 0 && far_end_of(fd).layered; }
inline bool suite_is_over_records() {
    static const bool is = [] {
        const char* said = std::getenv("WEIR_TRANSPORT");
        return said && std::string_view{said} == "records";
    }();
    return is;
}

// A case that is about something of the raw transport's.
struct not_over_records {
    const char* why;
    void fill(doctest::detail::TestCase& test) const {
        if (suite_is_over_records()) test.m_skip = true;
    }
};

namespace over_records {

// The user's bytes among those that have come, moved to the front of `bytes`. How many they are.
inline std::size_t decode(int fd, char* bytes, std::size_t size) {
    far_end_state& state = far_end_of(fd);
    if (!state.layered) return size;
    std::size_t out = 0;
    for (std::size_t i = 0; i < size; i++) {
        const char c = bytes[i];
        if (!state.greeted) {
            CHECK(c == 'H');
            state.greeted = true;
        } else if (state.left > 0) {
            bytes[out++] = c;
            state.left--;
        } else if (state.in_talk) {
            state.in_talk = false;
            state.heard_end = c == 'E';
        } else {
            CHECK_FALSE(state.heard_end);
            state.left = static_cast<unsigned char>(c);
            state.in_talk = c == 0;
        }
    }
    return out;
}

inline pair over(pair ends, bool layered) {
    for (descriptor* end : {&ends.a, &ends.b})
        far_end_of(end->get()) = {.layered = layered, .partner = end == &ends.a ? ends.b.get() : ends.a.get()};
    const int on = 1; // each record goes out at once; AF_UNIX knows no such thing
    if (layered) setsockopt(ends.a.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (layered) support::send_all(ends.a.get(), "H");
    return ends;
}
inline pair raw_pair() { return over(support::tcp_pair(), false); } // whatever the suite is
// Takes the hello of the transport at `b` off its far end, so that nothing is unread there.
inline void greet(int b) {
    far_end_state& far = far_end_of(far_end_of(b).partner);
    CHECK(support::recv_exactly(far_end_of(b).partner, 1) == "H");
    far.greeted = true;
}
inline pair tcp_pair(blocking mode = blocking::no) { return over(support::tcp_pair(mode), suite_is_over_records()); }
inline pair stream_pair(blocking mode = blocking::no) { return over(support::stream_pair(mode), suite_is_over_records()); }
inline descriptor accept_tcp(const tcp_listener& from, blocking mode = blocking::no) {
    descriptor fd = support::accept_tcp(from, mode);
    far_end_of(fd.get()) = {};
    return fd;
}

inline void send_all(int fd, std::string_view bytes) {
    if (!is_over_records(fd)) return support::send_all(fd, bytes);
    while (!bytes.empty()) {
        const std::string_view part = bytes.substr(0, 255);
        char record[256] = {static_cast<char>(part.size())};
        std::copy(part.begin(), part.end(), record + 1);
        support::send_all(fd, {record, part.size() + 1});
        bytes.remove_prefix(part.size());
    }
}
inline void shut_write(int fd) {
    if (is_over_records(fd)) support::send_all(fd, {"\0E", 2});
    support::shut_write(fd);
}
inline std::string recv_exactly(int fd, std::size_t count) {
    if (!is_over_records(fd)) return support::recv_exactly(fd, count);
    std::string got;
    while (got.size() < count) { // never more than the record has left, so that nothing has to be kept
        const far_end_state& state = far_end_of(fd);
        std::string some = support::recv_exactly(fd, state.left > 0 ? std::min(state.left, count - got.size()) : 1);
        if (some.empty()) break;
        got.append(some.data(), decode(fd, some.data(), some.size()));
    }
    return got;
}
inline std::string recv_to_end(int fd) { return is_over_records(fd) ? recv_exactly(fd, SIZE_MAX) : support::recv_to_end(fd); }
// As recv(2), without waiting.
inline ssize_t recv_some(int fd, char* room, std::size_t size) {
    for (;;) {
        const ssize_t n = ::recv(fd, room, size, MSG_DONTWAIT);
        if (n <= 0) return n;
        if (const std::size_t bytes = decode(fd, room, static_cast<std::size_t>(n))) return static_cast<ssize_t>(bytes);
    }
}

} // namespace over_records

} // namespace support
