#pragma once
// sim_remote: an end of a connection that the harness plays. It is no descriptor and crosses no seam.
//
// A remote is a state machine: run() is called some time after something changed at its end (bytes, room, an end, an
// answer to its connect), and when an alarm it asked for is due. It may be called for nothing. What it does reaches the
// other side as a peer's doing: between any two system calls of the library.
// Owner: the network. Touch nothing of a remote after close() or reset().

#include <cstdint>
#include <span>
#include <string_view>

#include "core/sim_stream.hpp"

namespace weir::inline WEIR_KERNEL {

class remote;

struct remote_cb {
    const char* name;
    void (*run)(remote& r) noexcept;
};

class remote {
  public:
    remote(network& n, int number) noexcept : net_(n), number_(number) {}
    remote(const remote&) = delete;
    remote& operator=(const remote&) = delete;

    void* owner = nullptr; // at first that of the service, or of dial()
    void become(const remote_cb& table) noexcept { table_ = &table; }

    bool connecting() const noexcept { return stream_->at == stream::phase::connecting; }
    bool failed() const noexcept { return stream_->error != 0; }
    int error() const noexcept { return stream_->error; }

    sys::count send(std::string_view bytes) noexcept; // as send(2)
    sys::count recv(std::span<char> to) noexcept;     // as recv(2): 0 is the end
    void shutdown_send() noexcept;
    void close() noexcept; // FIN, or RST if something is unread
    void reset() noexcept; // RST
    void wake_in(duration from_now) noexcept;
    time_point now() const noexcept;
    dice& chance() const noexcept;

    int number() const noexcept { return number_; } // which one, in traces
    const endpoint& local() const noexcept { return stream_->local; }
    stream& socket() noexcept { return *stream_; }

    // --- for the network
    void begin(const remote_cb& table, void* who) noexcept;
    void take(stream& s) noexcept;
    bool mark_stirred() noexcept;
    std::uint32_t serial() const noexcept { return serial_; }
    void run(std::uint32_t serial) noexcept;

  private:
    void leave() noexcept;

    network& net_;
    const int number_;
    const remote_cb* table_ = nullptr;
    stream* stream_ = nullptr;
    std::uint32_t serial_ = 0; // counted up when it is recycled
    bool stirred_ = false;
};

} // namespace weir::inline WEIR_KERNEL
