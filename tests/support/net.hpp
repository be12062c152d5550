#pragma once
// net: descriptors for tests, made by plain system calls, so that weir is not tested by means of itself.
//
// What cannot be made fails the test case by an exception: no caller checks. All waiting ends after `patience`.

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace support {

// How long a test waits for what must come; longer only makes a failure slower.
inline constexpr std::chrono::milliseconds patience{20'000};

// Owns one descriptor.
class descriptor {
  public:
    descriptor() noexcept = default;
    explicit descriptor(int fd) noexcept : fd_(fd) {}
    descriptor(descriptor&& other) noexcept : fd_(other.release()) {}
    descriptor& operator=(descriptor&& other) noexcept;
    ~descriptor() { close(); }

    int get() const noexcept { return fd_; }
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
    void close() noexcept;

  private:
    int fd_ = -1;
};

enum class blocking : std::uint8_t { no, yes };

// Two ends that are connected to each other.
struct pair {
    descriptor a;
    descriptor b;
};
pair stream_pair(blocking mode = blocking::no); // AF_UNIX
pair tcp_pair(blocking mode = blocking::no);    // 127.0.0.1; `a` dialled, `b` was accepted
pair pipe_pair(blocking mode = blocking::no);   // `a` reads, `b` writes

// A listening TCP socket on a free port of 127.0.0.1, and that port.
struct tcp_listener {
    descriptor fd;
    std::uint16_t port = 0;
};
tcp_listener listen_tcp(blocking mode = blocking::no, int backlog = 16);
descriptor connect_tcp(std::uint16_t port, blocking mode = blocking::no); // connected when it returns
descriptor accept_tcp(const tcp_listener& listener, blocking mode = blocking::no);

// A port of 127.0.0.1 where nobody listens (until somebody takes it).
std::uint16_t refused_port();

// True when poll(2) reports one of `events` (POLLIN, ...), an error or a hang-up for fd before `limit` has passed.
[[nodiscard]] bool wait_for(int fd, short events, std::chrono::milliseconds limit = patience);
// Ready right now?
[[nodiscard]] inline bool ready(int fd, short events) { return wait_for(fd, events, std::chrono::milliseconds{0}); }

// Sends all of `bytes`, waiting for room where it must.
void send_all(int fd, std::string_view bytes);
// Receives exactly `count` bytes, fewer only when the end comes first.
std::string recv_exactly(int fd, std::size_t count);
// Receives until the peer's end, or a reset.
std::string recv_to_end(int fd);

// The next read meets the end: FIN or reset. Waits for it; false when bytes or nothing came.
[[nodiscard]] bool ended(int fd);

void shut_write(int fd);           // sends a FIN
void reset(descriptor& socket);    // closes with a RST (SO_LINGER 0)
void set_blocking(int fd, blocking mode);
void shrink_buffers(int fd);       // the least the kernel allows, to meet EAGAIN soon

} // namespace support
