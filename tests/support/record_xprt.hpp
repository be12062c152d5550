#pragma once
// record_xprt: a transport that is as awkward as TLS, without the cryptography. For tests of the xprt seam.
//
//     handshake   each side sends its hello, 'H', and waits for the other's; anything else is a protocol error
//     record      a length byte 1..255, then so many bytes
//     ticket      0 'T': the layer's own talk, nothing for the user
//     end         0 'E': nothing follows but the FIN. A FIN without it is a truncation, and failed
//
// It reads as much as it has room for, so it holds bytes that the poller knows nothing of. A record is delivered when
// it is whole. One that is begun is sent to its end: until then send() answers `again` and must be repeated with the
// same bytes, as with TLS libraries. It takes nothing from the heap and uses nothing but the seam and sys.
// Thread: the contexts are all threads': tests with one loop only.

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include "core/connection.hpp"

namespace support {

using namespace weir;

struct record_layer {
    static inline int live_count = 0; // contexts that are in use
    static inline std::size_t hello_bytes = 1;  // how long our hello is: so many 'H'
    static inline std::size_t read_max = 4096;  // bytes of the socket per recv(2)
    static inline std::uint64_t pending_ends = 0; // ends that had to wait for room, ever

    bool in_use = false;
    std::size_t hello_sent = 0;
    bool end_said = false, end_heard = false;
    char in[4096]; // received and not delivered, between in_at and in_end
    std::size_t in_at = 0, in_end = 0;
    std::size_t taken = 0; // of the payload of the record at in_at
    char out[256];         // a record that was not sent to its end, between out_at and out_end
    std::size_t out_at = 0, out_end = 0;
    std::size_t out_payload = 0;

    enum class kind : std::uint8_t { none, payload, ticket, end, bad };
    kind next() const {
        if (end_heard) return kind::end;
        if (in_end - in_at < 2) return kind::none;
        const auto length = static_cast<unsigned char>(in[in_at]);
        if (length > 0) return in_end - in_at > length ? kind::payload : kind::none;
        return in[in_at + 1] == 'T' ? kind::ticket : in[in_at + 1] == 'E' ? kind::end : kind::bad;
    }
    // Copies from the whole record at in_at, and is done with it when nothing is left.
    std::size_t take(char* to, std::size_t bytes) {
        const auto length = static_cast<unsigned char>(in[in_at]);
        const std::size_t n = std::min<std::size_t>(bytes, length - taken);
        std::memcpy(to, in + in_at + 1 + taken, n);
        taken += n;
        if (taken == length) {
            in_at += 1u + length;
            taken = 0;
        }
        return n;
    }
    void put(std::string_view record, std::size_t payload) {
        std::memcpy(out, record.data(), record.size());
        out_at = 0;
        out_end = record.size();
        out_payload = payload;
    }

    static record_layer& of(connection& conn) {
        static std::array<record_layer, 512> all;
        if (!conn.xprt_context()) {
            const auto free = std::find_if(all.begin(), all.end(), [](const record_layer& l) { return !l.in_use; });
            EXPECT(free != all.end());
            free->reset();
            free->in_use = true;
            live_count++;
            conn.set_xprt_context(&*free);
        }
        return *static_cast<record_layer*>(conn.xprt_context());
    }
    void reset() {
        in_use = end_said = end_heard = false;
        hello_sent = in_at = in_end = taken = out_at = out_end = out_payload = 0;
    }
};

// What a call of the kernel's answered that moved nothing.
inline io record_failed(connection& conn, sys::count n) noexcept {
    conn.fail(static_cast<int>(-n));
    return io::failed;
}

// More of the socket's bytes. done: at least one; closed: a FIN.
inline io record_fetch(connection& conn, record_layer& layer) noexcept {
    std::memmove(layer.in, layer.in + layer.in_at, layer.in_end - layer.in_at);
    layer.in_end -= layer.in_at;
    layer.in_at = 0;
    const std::size_t room = std::min(sizeof layer.in - layer.in_end, record_layer::read_max);
    const sys::count n = sys::recv(conn.fd(), layer.in + layer.in_end, room);
    if (n == -EAGAIN) {
        conn.cant_recv();
        return io::again;
    }
    if (n < 0) return record_failed(conn, n);
    layer.in_end += static_cast<std::size_t>(n);
    return n == 0 ? io::closed : io::done;
}

// Sends what is begun, to its end.
inline io record_flush(connection& conn, record_layer& layer, bool more) noexcept {
    while (layer.out_at < layer.out_end) {
        const sys::count n = sys::send(conn.fd(), layer.out + layer.out_at, layer.out_end - layer.out_at, more);
        if (n < 0 && n != -EAGAIN) return record_failed(conn, n);
        if (n <= 0) {
            conn.cant_send();
            return io::again;
        }
        layer.out_at += static_cast<std::size_t>(n);
    }
    return io::done;
}

inline io record_handshake(connection& conn) noexcept {
    record_layer& layer = record_layer::of(conn);
    static constexpr auto hellos = [] {
        std::array<char, 16 * 1024> all{};
        all.fill('H');
        return all;
    }();
    while (layer.hello_sent < record_layer::hello_bytes) {
        const std::size_t bytes = std::min(hellos.size(), record_layer::hello_bytes - layer.hello_sent);
        const sys::count n = sys::send(conn.fd(), hellos.data(), bytes, false);
        if (n < 0 && n != -EAGAIN) return record_failed(conn, n);
        if (n <= 0) {
            conn.cant_send();
            conn.stop_recv(); // what has come is for later: left wanted, it would be asked about in every turn
            return io::again;
        }
        layer.hello_sent += static_cast<std::size_t>(n);
    }
    conn.stop_send(); // waits for the other's hello only
    conn.want_recv();
    if (const io fetched = record_fetch(conn, layer); fetched != io::done) return fetched;
    return layer.in[layer.in_at++] == 'H' ? io::done : io::failed; // what was read behind it stays in the layer
}

enum class record_end_is : std::uint8_t { due, not_missed };

inline io_result record_receive(connection& conn, void* to, std::size_t bytes, record_end_is own_end) noexcept {
    record_layer& layer = record_layer::of(conn);
    std::size_t done = 0;
    while (done < bytes) {
        using enum record_layer::kind;
        switch (layer.next()) {
        case payload: done += layer.take(static_cast<char*>(to) + done, bytes - done); continue;
        case ticket: layer.in_at += 2; continue;
        case end:
            if (done > 0) return {io::done, done};
            layer.end_heard = true; // what may stand behind it is nobody's
            conn.end_recv();
            return {io::closed, 0};
        case bad: conn.fail(EPROTO); return {io::failed, 0};
        case none: break;
        }
        if (done > 0) break;
        const io fetched = record_fetch(conn, layer);
        if (fetched == io::closed && own_end == record_end_is::due) { // no end stands before the FIN: truncated
            conn.fail(EPROTO);
            return {io::failed, 0};
        }
        if (fetched == io::closed) conn.end_recv();
        if (fetched != io::done) return {fetched, 0};
    }
    return {io::done, done}; // recv stays ready: there may be more, here or in the socket
}

inline io_result record_recv(connection& conn, void* to, std::size_t bytes) noexcept {
    return record_receive(conn, to, bytes, record_end_is::due);
}

inline io_result record_send(connection& conn, const iovec* parts, std::size_t parts_count, bool more) noexcept {
    record_layer& layer = record_layer::of(conn);
    std::size_t done = 0, part = 0, at = 0; // `at` in parts[part], behind what records hold
    // The payload of a record, from the parts; as far as it is under way already, the same bytes as before.
    const auto gather = [&](char* to, std::size_t bytes_max) {
        std::size_t n = 0;
        while (n < bytes_max && part < parts_count) {
            const std::size_t some = std::min(bytes_max - n, parts[part].iov_len - at);
            if (some > 0) std::memcpy(to + n, static_cast<const char*>(parts[part].iov_base) + at, some);
            n += some;
            at += some;
            if (at < parts[part].iov_len) continue;
            part++;
            at = 0;
        }
        return n;
    };
    char room[256];
    bool is_begun = layer.out_at < layer.out_end;
    if (is_begun) gather(room, layer.out_payload);
    for (;;) {
        if (!is_begun) {
            const std::size_t payload = gather(room + 1, 255);
            if (payload == 0) return {io::done, done};
            room[0] = static_cast<char>(payload);
            layer.put({room, payload + 1}, payload);
        }
        is_begun = false;
        const io sent = record_flush(conn, layer, more || part < parts_count);
        if (sent == io::failed) return {io::failed, 0};
        if (sent == io::again) return {done > 0 ? io::done : io::again, done};
        done += layer.out_payload;
        layer.out_payload = 0;
    }
}

inline drain_result record_drain(connection& conn) noexcept {
    char room[4096];
    std::size_t total = 0;
    for (int calls = 0; calls < 64; calls++) {
        const io_result r = record_receive(conn, room, sizeof room, record_end_is::not_missed);
        const record_layer& layer = record_layer::of(conn);
        if (r.end == io::again) return {drained::again, total, layer.in_at < layer.in_end};
        if (r.end == io::closed) return {drained::closed, total};
        if (r.end == io::failed) break;
        total += r.bytes;
    }
    return {drained::failed, total};
}

inline io record_shutdown(connection& conn) noexcept {
    record_layer& layer = record_layer::of(conn);
    io sent = record_flush(conn, layer, false); // a record that its user gave up
    if (sent == io::done && !layer.end_said) {
        layer.end_said = true;
        layer.put({"\0E", 2}, 0);
        sent = record_flush(conn, layer, false);
    }
    if (sent == io::again) record_layer::pending_ends++;
    return sent;
}

inline void record_close(connection& conn) noexcept {
    if (!conn.xprt_context()) return; // it never came to a handshake
    record_layer::of(conn).reset();
    record_layer::live_count--;
    conn.set_xprt_context(nullptr);
}

inline const xprt record_xprt{.name = "record",
                              .recv = record_recv,
                              .send = record_send,
                              .drain = record_drain,
                              .handshake = record_handshake,
                              .close = record_close,
                              .shutdown = record_shutdown};

// What the other side of such a connection writes and reads.
inline std::string record(std::string_view bytes) {
    std::string out;
    while (!bytes.empty()) {
        const std::size_t n = std::min<std::size_t>(255, bytes.size());
        out += static_cast<char>(n);
        out += bytes.substr(0, n);
        bytes.remove_prefix(n);
    }
    return out;
}
inline constexpr std::string_view ticket{"\0T", 2};
inline constexpr std::string_view record_end{"\0E", 2};

// Takes the whole records off `encoded` and appends their bytes to `to`. True: the end was among them.
inline bool unrecord(std::string& encoded, std::string& to) {
    std::size_t at = 0;
    bool is_end = false;
    while (encoded.size() - at >= 2 && !is_end) {
        const auto n = static_cast<unsigned char>(encoded[at]);
        if (encoded.size() - at < 1u + std::max<std::size_t>(n, 1)) break;
        is_end = n == 0 && encoded[at + 1] == 'E';
        to.append(encoded, at + 1, n);
        at += 1u + std::max<std::size_t>(n, 1);
    }
    encoded.erase(0, at);
    return is_end;
}
// Of a stream that has to end in the proper way.
inline std::string unrecord(std::string_view encoded) {
    std::string left{encoded}, bytes;
    if (!unrecord(left, bytes)) return bytes + "(no end)";
    return left.empty() ? bytes : bytes + "(more behind the end)";
}

} // namespace support
