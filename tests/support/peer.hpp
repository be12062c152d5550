#pragma once
// peer: the far end of one of a proxy's connections, a plain socket of the test's, and which sides are over records.
//
// WEIR_TRANSPORT=clients, servers or both: the proxy's connections of that side are over record_xprt, and the peers
// speak records. A case is the same then; one that cannot be says so: raw_only.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include <doctest/doctest.h>

#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "support/net.hpp"
#include "support/record_xprt.hpp"
#include "support/rig.hpp"

namespace support {

// Small buffers, but several segments wide: less would wait for TCP's own timers.
inline constexpr int segment_bytes = 1000;
inline void narrow(int fd) {
    const int bytes = 16 * segment_bytes;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}
inline void small_segments(int fd) { setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment_bytes, sizeof segment_bytes); }

inline descriptor connect_small(std::uint16_t port) {
    descriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    small_segments(fd.get());
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    REQUIRE(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    set_blocking(fd.get(), blocking::no);
    return fd;
}

// Which of the gateway's sides are over records.
enum class side : std::uint8_t { clients, servers };
inline bool is_layered(side s) {
    static const std::string_view how = [] {
        const char* said = std::getenv("WEIR_TRANSPORT");
        return std::string_view{said ? said : "raw"};
    }();
    return how == "both" || how == (s == side::clients ? "clients" : "servers");
}
inline const xprt& transport_of(side s) { return is_layered(s) ? record_xprt : raw_xprt; }

// What a failed CHECK prints of bytes that may be many.
inline std::string shown(std::string_view bytes) {
    if (bytes.size() <= 600) return std::string(bytes);
    const std::size_t hash = std::hash<std::string_view>{}(bytes);
    return std::string(bytes.substr(0, 200)) + "... " + std::to_string(bytes.size()) + " bytes, hash " + std::to_string(hash);
}

// A case that is about something of the raw transport's, and of that side's only: it is not run over records there.
struct raw_only {
    constexpr raw_only(side s, const char* reason) : of(s), why(reason) {}
    side of;
    const char* why;
    void fill(doctest::detail::TestCase& test) const {
        if (is_layered(of)) test.m_skip = true;
    }
};

// The far end of one of the gateway's connections.
struct peer {
    descriptor fd;
    std::string got;           // received and not yet taken by the test
    ending end = ending::none; // how the gateway ended it

    peer() = default;
    explicit peer(descriptor socket, bool over_records = false) : fd(std::move(socket)), layered_(over_records) {
        const int on = 1; // small pieces go out at once, each on its own
        setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (layered_) say_raw("H"); // the socket may be dead already
    }

    bool open() const { return fd.get() >= 0; }
    void say(std::string_view bytes) {
        send_all(fd.get(), layered_ ? std::exchange(unsaid_, {}) + record(bytes) : std::string{bytes});
    }
    // What there is room for now; how much that was.
    std::size_t say_some(std::string_view bytes) {
        if (!layered_) return say_raw(bytes);
        if (!say_rest()) return 0;
        bytes = bytes.substr(0, 8 * 1024);
        unsaid_ = record(bytes);
        say_rest();
        return bytes.size();
    }
    // Reads what has come, at most `bytes_max`.
    peer& pull(std::size_t bytes_max = SIZE_MAX) {
        char chunk[16 * 1024];
        while (open() && end == ending::none && bytes_max > 0) {
            const ssize_t n = ::recv(fd.get(), chunk, std::min(sizeof chunk, bytes_max), MSG_DONTWAIT);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0 && errno == EAGAIN) break;
            if (n <= 0) end = n < 0 ? ending::reset : layered_ && !heard_end_ ? ending::cut : ending::fin;
            if (n <= 0) break;
            hear({chunk, static_cast<std::size_t>(n)});
            bytes_max -= static_cast<std::size_t>(n);
        }
        return *this;
    }
    bool ended() { return pull().end != ending::none; }
    // Over records: the gateway's transport has greeted. Raw: always.
    bool greeted() { return !layered_ || pull().greeted_; }
    void shut() {
        say_end();
        shut_write(fd.get());
    }
    // The socket may be dead already.
    void try_shut() {
        say_end();
        ::shutdown(fd.get(), SHUT_WR);
    }
    void close() {
        if (open()) say_end();
        fd.close();
    }
    // The end that anybody can bring about: a FIN, and nothing of the transport's in front of it.
    void cut_off() { fd.close(); }
    void reset() { support::reset(fd); }
    // A small window: the gateway soon cannot send.
    void narrow() { support::narrow(fd.get()); }

  private:
    std::size_t say_raw(std::string_view bytes) {
        const ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        return n > 0 ? static_cast<std::size_t>(n) : 0;
    }
    bool say_rest() {
        if (!unsaid_.empty()) unsaid_.erase(0, say_raw(unsaid_));
        return unsaid_.empty();
    }
    void say_end() {
        if (!layered_) return;
        unsaid_ += record_end;
        say_rest();
    }
    void hear(std::string_view bytes) {
        if (!layered_) {
            got += bytes;
            return;
        }
        CHECK_FALSE(heard_end_); // nothing follows an end
        wire_ += bytes;
        if (!greeted_) {
            CHECK(wire_[0] == 'H');
            wire_.erase(0, 1);
            greeted_ = true;
        }
        heard_end_ = unrecord(wire_, got);
    }

    bool layered_ = false, greeted_ = false, heard_end_ = false;
    std::string wire_;   // received, not decoded
    std::string unsaid_; // encoded, not sent
};

// Its kernel sees nothing more of what is sent to it, as if the network held it up.
inline void deafen(peer& p) {
    sock_filter drop{.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = 0};
    const sock_fprog program{.len = 1, .filter = &drop};
    REQUIRE(setsockopt(p.fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
}

} // namespace support
