#pragma once
// leak_peers: everything a proxy under test can be pointed at: upstreams of every manner, a port that refuses, an
// address that never answers, a socket for processes that are killed.
//
// An upstream does what the first byte of a connection says; each manner is a data_cb table, and there is no other
// state.
//
//     e   answers, and closes after the peer's end         s, b   answers and sends its FIN at once
//     h   answers, answers once more to the peer's FIN,    r      answers, and resets on the next byte
//         and closes after its reset
//
// Owner: main(). Thread: its loop's. Allocation: when made.

#include <array>
#include <memory>
#include <vector>

#include "core/listener.hpp"
#include "tools/leak_proxy.hpp"

namespace weir::inline WEIR_KERNEL::tools {

class leak_peers {
  public:
    // Opens the sockets, on loopback addresses of their own; ends the program with 1 if that fails. Nothing is accepted
    // yet, so a process may be forked.
    leak_peers();

    // Where they are.
    void tell(leak_proxy_options& to) const noexcept;
    // The upstreams begin to accept.
    void serve(conntab& conns);
    int victims_socket() const noexcept { return victim_.get(); }

  private:
    std::array<unique_fd, std::tuple_size_v<decltype(leak_proxy_options::upstreams)>> upstreams_;
    unique_fd refused_, hole_, victim_;
    std::vector<unique_fd> hole_fillers_;
    std::vector<std::unique_ptr<listener>> doors_;
};

// A process that accepts at `listening` and greets each client with a byte, until it is killed.
pid_t start_victim(int listening) noexcept;

} // namespace weir::inline WEIR_KERNEL::tools
