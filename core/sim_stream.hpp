#pragma once
// sim_stream: a stream socket of the simulated kernel: TCP-like or unix-like.
//
//                     connect                (answered)
//         fresh ─────────────────> connecting ─────────> established ──(both FINs, or a RST)──> over
//           └── listen ──> listening   └──(refused, timed out)──────────────────────────────────^
//
// Bytes are in two places: `out` of the sender (not yet accepted by the other side: its room bounds what send() takes)
// and `in` of the receiver (its room bounds what is delivered). TCP counts as acknowledged what was delivered, after a
// slow wire's way back, and perhaps a delayed acknowledgement's wait; a RST overtakes it. Its FIN stands behind `out`.
// A unix socket delivers at once; what its peer has not read counts against its own room, by whole sends: one that is
// read in part still counts in full.
//
// How it ends, on Linux (tests/kernel/ asks the real one the same questions):
//   - close with unread input, or with linger 0: RST. Otherwise a FIN behind the bytes, and bytes that arrive at a
//     closed end are answered by a RST.
//   - A RST means EPIPE to who had received a FIN before, ECONNRESET to who had not, ECONNREFUSED to who was
//     connecting. Bytes received before it can still be read. The error is told once: by send, by SO_ERROR, by recv
//     unless a FIN came.
// Owner: the network. A stream is alive while a descriptor, an accept queue or a remote holds it, or bytes are to go.

#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "core/endpoint.hpp"
#include "core/sim_file.hpp"

namespace weir::inline WEIR_KERNEL {

class network;
class remote;

// First in, first out.
class byte_queue {
  public:
    std::size_t size() const noexcept { return bytes_.size() - head_; }
    bool empty() const noexcept { return size() == 0; }
    void push(const char* from, std::size_t n) noexcept { bytes_.insert(bytes_.end(), from, from + n); }
    const char* front() const noexcept { return bytes_.data() + head_; }
    void pop(std::size_t n) noexcept {
        head_ += n;
        if (empty()) clear();
        else if (head_ > 64 * 1024) {
            bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(head_));
            head_ = 0;
        }
    }
    void clear() noexcept {
        bytes_.clear();
        head_ = 0;
    }

  private:
    std::vector<char> bytes_;
    std::size_t head_ = 0;
};

// One reference less. With the last one the file is closed.
void let_go(file& f) noexcept;

struct stream final : file {
    enum class phase : std::uint8_t { fresh, listening, connecting, established, over };
    enum class reading : std::uint8_t { take, peek, throw_away };

    explicit stream(network& n) noexcept : file(kind::stream), net(n) {}

    std::uint32_t poll() noexcept override;
    void wake(std::uint32_t key) noexcept override;

    // The system calls, as far as the socket alone decides. A value or -errno.
    sys::count send(const char* from, std::size_t bytes) noexcept;
    // What was passed with the bytes goes to `passed`, or is let go.
    sys::count recv(char* to, std::size_t bytes, reading how, std::vector<file*>* passed = nullptr) noexcept;
    // Behind a send of `bytes`, at least one: these were passed with it.
    void pass(const std::vector<file*>& files, std::size_t bytes) noexcept;
    int shutdown_send() noexcept;
    int take_error() noexcept; // an errno, 0: none
    void close() noexcept;     // its holder is gone

    // What arrives. The stream is not `fresh`.
    void receive_fin() noexcept;
    void note_arrival() noexcept; // bytes or an end for recv()
    void receive_reset() noexcept;
    void fail(int why) noexcept;

    void unpack(std::size_t n, std::vector<file*>* passed) noexcept;
    void drop_parcels() noexcept;
    void uncharge() noexcept;
    std::size_t out_room() const noexcept;
    std::size_t queued_bytes() const noexcept; // SIOCOUTQ
    std::size_t in_room() const noexcept { return in.size() < in_max ? in_max - in.size() : 0; }
    bool writable() const noexcept;
    bool is_tcp() const noexcept { return family != AF_UNIX; }

    network& net;
    std::uint32_t serial = 0; // counted up when it is recycled
    int family = AF_INET;
    phase at = phase::fresh;
    bool recv_shut = false, send_shut = false;
    bool end_read = false;                       // recv() has answered 0
    bool fin_received = false, fin_sent = false; // TCP: on the wire, not merely asked for
    bool orphan = false;                         // closed; what is in `out` is still to go
    bool linger_zero = false;
    bool left = false;         // TCP: its peer closed with a FIN, and had not said its end by a shutdown
    bool closed_first = false; // its FIN went before the other's: TIME_WAIT
    bool squeezed = false;     // no memory for more bytes, whatever the room
    bool no_space = false;     // somebody met the end of the room: the next room is an event
    bool deliver_planned = false;
    bool connect_told = false; // connect() has answered that it is connected
    bool reuse_port = false;
    bool met_itself = false; // it was connected to its own address
    int error = 0;
    stream* peer = nullptr;
    remote* driver = nullptr; // who plays this end, instead of a descriptor
    byte_queue in, out;
    std::deque<std::size_t> in_sends; // unix: the sizes of the sends that `in` is made of, the first one in part read
    std::size_t in_charged = 0;       // unix: their sum
    struct parcel {
        std::size_t at, bytes; // the send that it came with: how far behind the front of `in` it begins, and its length
        std::vector<file*> files;
    };
    std::deque<parcel> in_parcels;           // unix: descriptors on their way here
    std::uint32_t user = 0, peer_user = ~0u; // whose socket it is, and to whose it was connected
    time_point came_at = never; // the first arrival since the holder last asked for bytes; never: none
    std::size_t in_max = 65536, out_max = 65536;
    std::int64_t acked = 0;
    std::int64_t acked_late = 0; // delivered, and the acknowledgement is on its way
    duration delay{};            // one way
    // What the last movement on the wire was: of bytes or an end that this socket sent (given to send(), taken by the
    // peer), and of bytes that its holder received.
    time_point sent_at{}, received_at{};
    endpoint local{}, other{};
    std::uint64_t port_claim = 0; // what ties up its local port; 0: nothing
    std::uint32_t connect_tries = 0;
    std::vector<stream*> accept_queue; // oldest first
    std::size_t backlog = 0;
    list_hook of_network;
};

} // namespace weir::inline WEIR_KERNEL
