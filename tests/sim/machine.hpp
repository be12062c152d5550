#pragma once
// machine: what a conformance script may ask of a kernel, be it the real one or the simulated one.
//
// Every call answers as its system call does, a value or -errno. Addresses are names: a listener is opened under a
// number and found by it; a number under which nobody listens any more refuses. Numbers of descriptors are a machine's
// own.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace conform {

enum class family : std::uint8_t { tcp, local, none };
enum class role : std::uint8_t { stream, listener, counter };

struct kind_of_fd {
    family kind;
    role what;
    int address; // a listener's; -1
};

struct report {
    std::uint64_t data;
    std::uint32_t events;
    friend bool operator==(const report&, const report&) = default;
};

class machine {
  public:
    machine() = default;
    machine(const machine&) = delete;
    machine& operator=(const machine&) = delete;
    virtual ~machine() = default; // closes what is open

    virtual int socket(family f) = 0;
    virtual int pair(int (&ends)[2]) = 0;                    // unix
    virtual int listen(family f, int name, int backlog) = 0; // a new descriptor
    virtual int listen_again(family f, int name) = 0;        // where somebody listens already
    virtual int connect(int fd, family f, int name) = 0;
    virtual int accept(int fd) = 0;
    virtual int dup(int fd) = 0;
    virtual int close(int fd) = 0;
    virtual int abort(int fd) = 0; // linger 0, then close
    virtual int shutdown_send(int fd) = 0;
    virtual long send(int fd, const char* from, std::size_t bytes) = 0;
    virtual long recv(int fd, char* to, std::size_t bytes) = 0;
    virtual long peek(int fd) = 0;
    virtual long discard(int fd, std::size_t bytes) = 0;
    // Through a pipe, at most so many bytes at a time and so often: why no more went, or else why no more came, or 1.
    virtual long pass(int from, int to, std::size_t bytes, int times) = 0;
    // With a descriptor; and what may have come with some.
    virtual long send_with(int fd, const char* from, std::size_t bytes, int passed) = 0;
    virtual long recv_with(int fd, char* to, std::size_t bytes, std::vector<int>& got) = 0;
    virtual int counter() = 0; // an eventfd
    virtual int ring(int fd) = 0;
    virtual int reset(int fd) = 0;
    virtual kind_of_fd what_is(int fd) = 0; // only the real one need know
    virtual int socket_error(int fd) = 0;
    virtual int peer_name(int fd) = 0; // 0 or -errno
    virtual std::uint32_t poll(int fd) = 0;
    virtual int add(int fd, std::uint32_t events, std::uint64_t data) = 0;
    virtual int change(int fd, std::uint32_t events, std::uint64_t data) = 0;
    virtual int remove(int fd) = 0;
    virtual int wait(report* reports, int reports_max) = 0; // does not sleep; in no certain order
    virtual void settle() = 0;                              // what is under way arrives
};

// pass(), in terms of splice(2).
template <class Splice>
long pass_through(const int (&pipe)[2], int from, int to, std::size_t bytes, int times, Splice splice) {
    for (; times > 0; times--) {
        long held = splice(from, pipe[1], bytes);
        if (held <= 0) return held;
        while (held > 0) {
            const long n = splice(pipe[0], to, static_cast<std::size_t>(held));
            if (n <= 0) return n;
            held -= n;
        }
    }
    return 1;
}

// settle() waits so long for what the kernel does by itself.
std::unique_ptr<machine> make_real(int pause_ms);
std::unique_ptr<machine> make_simulated(std::uint64_t seed);

} // namespace conform
