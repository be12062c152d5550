#pragma once
// record_xprt: a transport that is as awkward as TLS, without the cryptography. For tests of the xprt seam.
//
//     handshake   each side sends 'H' and waits for the other's; anything else is a protocol error
//     record      a length byte 1..255, then so many bytes
//     ticket      a length byte 0: the layer's own talk, nothing for the user
//
// It reads as much as the socket has, so it holds decoded bytes that the poller knows nothing of. A record once begun
// is sent to its end: until then send() answers `again` and must be repeated with the same bytes, as with TLS libraries.

#include <cstring>
#include <string>
#include <string_view>

#include "core/connection.hpp"

namespace support {

using namespace weir;

struct record_layer {
    static inline int live_count = 0; // contexts that were made and not freed

    record_layer() noexcept { live_count++; }
    record_layer(const record_layer&) = delete;
    record_layer& operator=(const record_layer&) = delete;
    ~record_layer() { live_count--; }

    bool said_hello = false;
    std::string raw;     // received, not decoded: less than a record
    std::string decoded; // hidden from the poller
    std::string out;     // an encoded record that was not sent to its end
    std::size_t out_payload = 0;

    static record_layer& of(connection& conn) {
        if (!conn.xprt_context()) conn.set_xprt_context(new record_layer);
        return *static_cast<record_layer*>(conn.xprt_context());
    }

    void decode() {
        std::size_t at = 0;
        while (at < raw.size()) {
            const auto length = static_cast<unsigned char>(raw[at]);
            if (raw.size() - at < 1u + length) break;
            decoded.append(raw, at + 1, length);
            at += 1u + length;
        }
        raw.erase(0, at);
    }
};

inline io record_handshake(connection& conn) noexcept {
    record_layer& layer = record_layer::of(conn);
    if (!layer.said_hello) {
        const sys::count n = sys::send(conn.fd(), "H", 1, false);
        if (n == -EAGAIN) {
            conn.cant_send();
            return io::again;
        }
        if (n < 0) {
            conn.fail(static_cast<int>(-n));
            return io::failed;
        }
        layer.said_hello = true;
        conn.stop_send(); // waits for the other's hello only
    }
    char hello;
    const sys::count n = sys::recv(conn.fd(), &hello, 1);
    if (n == -EAGAIN) {
        conn.cant_recv();
        return io::again;
    }
    if (n == 0) return io::closed;
    if (n < 0) {
        conn.fail(static_cast<int>(-n));
        return io::failed;
    }
    return hello == 'H' ? io::done : io::failed;
}

inline io_result record_recv(connection& conn, void* to, std::size_t bytes) noexcept {
    record_layer& layer = record_layer::of(conn);
    while (layer.decoded.empty()) {
        char room[4096];
        const sys::count n = sys::recv(conn.fd(), room, sizeof room);
        if (n == -EAGAIN) {
            conn.cant_recv();
            return {io::again, 0};
        }
        if (n == 0) {
            if (!layer.raw.empty()) {
                conn.fail(EPROTO); // the end stands within a record
                return {io::failed, 0};
            }
            conn.end_recv();
            return {io::closed, 0};
        }
        if (n < 0) {
            conn.fail(static_cast<int>(-n));
            return {io::failed, 0};
        }
        layer.raw.append(room, static_cast<std::size_t>(n));
        layer.decode();
    }
    const std::size_t n = std::min(bytes, layer.decoded.size());
    std::memcpy(to, layer.decoded.data(), n);
    layer.decoded.erase(0, n);
    return {io::done, n}; // recv stays ready: there may be more, here or in the socket
}

inline io_result record_send(connection& conn, const iovec* parts, std::size_t parts_count, bool) noexcept {
    record_layer& layer = record_layer::of(conn);
    std::string all;
    for (std::size_t i = 0; i < parts_count; i++)
        all.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
    std::size_t done = 0;
    while (done < all.size() || !layer.out.empty()) {
        if (layer.out.empty()) {
            layer.out_payload = std::min<std::size_t>(255, all.size() - done);
            layer.out = static_cast<char>(layer.out_payload);
            layer.out.append(all, done, layer.out_payload);
        }
        const sys::count n = sys::send(conn.fd(), layer.out.data(), layer.out.size(), false);
        if (n < 0 && n != -EAGAIN) {
            conn.fail(static_cast<int>(-n));
            return {io::failed, 0};
        }
        if (n > 0) layer.out.erase(0, static_cast<std::size_t>(n));
        if (!layer.out.empty()) {
            conn.cant_send();
            return {done > 0 ? io::done : io::again, done};
        }
        done += layer.out_payload;
    }
    return {io::done, done};
}

inline drain_result record_drain(connection& conn) noexcept {
    char room[4096];
    std::size_t total = 0;
    for (int calls = 0; calls < 64; calls++) {
        const io_result r = record_recv(conn, room, sizeof room);
        if (r.end == io::again) return {drained::again, total};
        if (r.end != io::done) break;
        total += r.bytes;
    }
    return {drained::closed, total};
}

inline void record_close(connection& conn) noexcept {
    delete static_cast<record_layer*>(conn.xprt_context());
    conn.set_xprt_context(nullptr);
}

inline const xprt record_xprt{.name = "record",
                              .recv = record_recv,
                              .send = record_send,
                              .drain = record_drain,
                              .handshake = record_handshake,
                              .close = record_close};

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
inline constexpr std::string_view ticket{"\0", 1};

inline std::string unrecord(std::string_view encoded) {
    std::string bytes;
    while (!encoded.empty()) {
        const auto n = static_cast<unsigned char>(encoded[0]);
        bytes += encoded.substr(1, n);
        encoded.remove_prefix(std::min<std::size_t>(1u + n, encoded.size()));
    }
    return bytes;
}

} // namespace support
