#pragma once
// http1_exchange: one request of a client and its response, streamed through, with one server connection.
//
//     client ── head, body ──> to_server_ ──> server        request_:  head ─> body ─> done
//                                                                        └──────┴────> cut (no more is wanted of it)
//     client <── to_client_ <── head, body ── server        response_: none ─> head ─> body ─> done
//
//   - A head is parsed where it was received, usually the loop's scratch room, and written anew. A block is held only
//     for what could not be sent or understood yet. While `to_server_` or `to_client_` has unsent bytes, the side that
//     fills it stops receiving.
//   - The bytes sent are kept until the first byte of the response: what it takes to repeat the request on a fresh
//     connection. See may_repeat(). They are not kept once they are more than half a block and the body goes on, nor
//     for a request on a fresh connection to the only server.
//   - When both messages are done, http1_reuse decides what becomes of the two connections. The server's is parked the
//     moment the response is read, the client's goes back to its idle table, and the exchange to its pool.
//
// Owner: http1_exchanges. Thread: one loop's. Allocation: none; pools are made by the gateway.

#include <array>
#include <cstdint>

#include "core/connection.hpp"
#include "core/idle.hpp"
#include "core/relay.hpp"
#include "core/still_there.hpp"
#include "core/send_progress.hpp"
#include "proto/http1_body.hpp"
#include "proto/http1_head.hpp"
#include "proto/http1_reuse.hpp"
#include "proto/http1_upgrade.hpp"
#include "proto/http1_write.hpp"
#include "proto/line_limit.hpp"
#include "proto/upstream.hpp"

namespace weir::inline WEIR_KERNEL {

enum class repeat : std::uint8_t { automatic, off };

// What a client's FIN means behind a complete request. TCP does not tell a client that has closed from one that has
// only ended its own side and still reads.
enum class client_fin : std::uint8_t {
    abort, // the client has gone: the exchange is given up, and its server connection is closed
    wait,  // the client still reads: it gets its answer
};

// Each default is a limit of its own; none is derived from another.
struct http1_options {
    http1_limits head{};                       // of requests and of responses
    bool server_bare_lf = false;               // a line of a response's head may end with LF alone, too
    std::uint64_t body_bytes_max = UINT64_MAX; // of a request -> 413
    duration header_timeout = seconds{10};     // from a head's first byte to its last -> 408
    duration body_timeout = seconds{30};       // between two reads of a body, or from its 100 on -> 408
    std::uint32_t body_rate_min = 1024;        // of a body with a length: bytes a second, over body_timeout -> 408
    std::uint32_t chunked_rate_min = 0;        // of a chunked one, likewise; 0: none, in both
    duration keep_alive_timeout = seconds{60}; // client idle between requests: closed in silence
    std::uint32_t keep_alive_requests = 1000;  // per client connection
    duration connect_timeout = seconds{5};     // -> 504
    // Of a server, for the next bytes of its answer; -> 504, or cut off. Counts from what came last: bytes of the answer,
    // or the moment at which the server took the last bytes of the request that were sent (send_progress.hpp).
    duration first_byte_timeout = seconds{60};
    duration write_timeout = seconds{30}; // of a client, to take more of its answer on the wire; -> cut off
    // TCP_USER_TIMEOUT of servers, socket.hpp. Raised to first_byte_timeout. A finite one ends slow readers.
    duration user_timeout = user_timeout_default;
    repeat repeats = repeat::automatic;
    line_rate trouble_rate{}; // lines about 502, 503, 504, broken answers and servers passed over, of each kind
    client_fin on_client_fin = client_fin::abort;
    // The protocols that a request may ask for by Upgrade, check_upgrades() is `none`: EXPECTed. Outlives the gateway.
    std::string_view upgrades = "websocket";
    // A server connection rests for so long after an answer without a body whose head announced one (HEAD, 304), before
    // a request is sent on it: a server that sends that body all the same is found out. 0: no rest.
    duration rest = milliseconds{50};
};

struct http1_counters {
    counter requests;          // heads understood
    counter responses;         // forwarded to their end
    counter refused;           // requests answered 4xx or 5xx for what they said, by us
    counter failed;            // answered 502, 503 or 504 by us
    counter truncated;         // the response broke off after its head was sent on
    counter abandoned;         // the client went before its response was complete: reset, or client_fin::abort
    counter repeated;          // sent once more on a fresh connection
    counter repeated_by_proof; // of these: not idempotent, but the server never had a byte
    counter reused;            // requests sent on a connection that had been idle
    counter fresh;             // requests sent on a connection dialed for them
    counter tunnels;
    counter places_made; // server connections closed to free a place at their server for a request that waits
    counter shed; // no block, tunnel or descriptor was left: 503
};

// Something within the process that answers instead of a server.
struct http1_applet {
    const char* name;
    // Writes a body to `room`, 16 KB, and says what to answer. What `answer.body` views lives until the call returns to
    // weir; it may be elsewhere and larger, but the whole answer fits into 32 KB, EXPECTed.
    http1_answer (*answer)(void* owner, const http1_head& request, std::span<char> room) noexcept;
    void* owner;
};

// A client waits for its next request, or it goes on waiting for the one whose first byte had not come after all: then
// its deadline is armed already.
enum class http1_wait : std::uint8_t { anew, still };

struct http1_exchanges;

class http1_exchange {
  public:
    http1_exchange(http1_exchanges& room, connection& client, const http1_applet* applet) noexcept;
    http1_exchange(const http1_exchange&) = delete;
    http1_exchange& operator=(const http1_exchange&) = delete;
    ~http1_exchange();

    static const data_cb client_cb, server_cb;

    // The client's timer, armed while it was idle, has fired while an exchange serves it.
    static void client_timer(connection& client, time_point now) noexcept;
    bool is_of(const http1_exchanges& room) const noexcept { return &room_ == &room; }
    // A larger head does not fit into what one read may take: it needs a large block.
    static constexpr std::size_t head_bytes_max = block_bytes - 512 - 1;
    // No limit of a head lies above: http1_head counts in 16 bits.
    static constexpr std::size_t large_head_bytes_max = 0xffff;
    // A conntab with large_blocks_max above 0 is needed for heads of that size. A field may grow by a byte on its way.
    static constexpr bool needs_large_blocks(const http1_limits& limits) noexcept {
        return limits.head_bytes_max + limits.fields_max > head_bytes_max + http1_head::fields_inline;
    }
    // Closes both connections at once; the exchange is no more.
    void abort(end_cause cause) noexcept { abandon(cause); }
    // The request is complete, none stands behind it as far as was read, and its response is still to come or coming.
    bool awaits_server() const noexcept {
        return request_ == request_state::done && response_ != response_state::done && from_client_.empty();
    }

  private:
    friend struct http1_exchanges;

    enum class request_state : std::uint8_t { head, body, done, cut };
    enum class response_state : std::uint8_t { none, head, body, done };
    enum class ending : std::uint8_t { whole, cut, client_gone };
    // What was taken out of the bytes a side received.
    struct unframed {
        std::size_t used; // bytes of the input that are done with
        char* data;       // body bytes, moved together within the input
        std::size_t size;
        http1_body::what end; // more, end or bad
    };

    // In all that follows the verdict is the exchange's own: `gone`, and it is no more, whatever became of the two
    // connections. What became of the connection whose callback it is, its generation tells.

    // --- http1_exchange.cc: answers of our own, sending, the end
    verdict answer(const http1_answer& a) noexcept;
    verdict refuse(int status, const char* why) noexcept; // the request is to blame
    verdict fail(int status, const char* why) noexcept;   // the server is, or a shortage of ours
    verdict run_short(const char* why) noexcept;          // something of ours is, and nothing was lost for it: 503
    verdict shed(const char* why) noexcept;               // no block was left, and something was lost for it
    verdict late(const char* why) noexcept;               // the client did not keep a deadline
    verdict finish() noexcept;
    verdict next_request() noexcept;
    verdict wait_on(http1_wait how) noexcept;
    verdict abandon(end_cause cause) noexcept;
    verdict close_client(close_intent intent, end_cause cause, ending how = ending::cut) noexcept;
    void drop_server(close_intent intent, end_cause cause) noexcept;
    bool client_may_stay() const noexcept;
    http1_persistence say_persistence(bool stays) noexcept;
    // The status of a server that could not be connected to, when there is another.
    static constexpr int passed_over = 0;
    void report(int status, const char* why) noexcept;
    std::string_view client_text(char (&room)[endpoint::log_text_max]) const noexcept;
    static constexpr std::size_t what_text_max = 4 * 95;
    std::string_view what_text(char (&room)[what_text_max]) const noexcept;
    void log_access(ending how) noexcept;
    static unframed unframe(http1_body& body, char* in, std::size_t bytes) noexcept;
    // What goes out at once: a head, body bytes, and the framing between and behind them.
    struct outgoing {
        std::string_view head{};
        std::string_view data{};
        bool chunked = false;
        bool is_last = false;
    };
    enum class sent : std::uint8_t { all, some, broken };
    sent push(connection& to, buffer& out, const outgoing& what) noexcept;
    static end_cause cause_of(const connection& broken) noexcept;
    static std::size_t parts_of(const outgoing& what, http1_chunk_head& room, iovec (&parts)[5]) noexcept;

    // --- http1_exchange_deadlines.cc; client_timer(), too
    void set_client_deadline(time_point at) noexcept;
    void await_taking() noexcept;
    void await_server() noexcept;
    bool look_at_server(time_point now) noexcept;
    bool may_lack_place() const noexcept { return !reused_ && !response_begun_ && !has_looked_for_place_; }
    void look_for_place(time_point now) noexcept;
    bool gives_place() noexcept;
    static void client_fired(timer& t, time_point now) noexcept;
    static void server_fired(timer& t, time_point now) noexcept;

    // --- http1_exchange_request.cc: from the client to the server
    static verdict client_recv(connection& client) noexcept;
    verdict read_head() noexcept;
    bool may_hold_head() noexcept;
    verdict pass_lines(http1_wait how) noexcept;
    verdict take_head(std::string_view bytes) noexcept;
    void expect_response() noexcept;
    http1_head::progress parse_head(std::string_view bytes) noexcept;
    void drop_table() noexcept;
    verdict begin(std::string_view bytes) noexcept;
    verdict forward(std::string_view bytes) noexcept;
    bool put_request_head() noexcept;
    void remember() noexcept;
    verdict read_body() noexcept;
    verdict take_body(char* in, std::size_t bytes, std::size_t& used) noexcept;
    bool rate_is_low() noexcept;
    void expect_body() noexcept;
    void begin_window() noexcept;
    void hold_client() noexcept;
    void resume_server() noexcept;
    verdict flush_to_server() noexcept;
    void stop_keeping() noexcept;
    static verdict server_send(connection& server) noexcept;

    // --- http1_exchange_server.cc: which server is asked, and its connection
    verdict acquire() noexcept;
    verdict none_is_left() noexcept;
    bool rule_out(int error) noexcept;
    void ask_next(upstream_address& next) noexcept;
    verdict connect_failed() noexcept;
    void assign(connection& server, bool is_reused) noexcept;

    // --- http1_exchange_response.cc: from the server to the client
    static verdict server_recv(connection& server) noexcept;
    static verdict server_wake(connection& server) noexcept;
    verdict read_response() noexcept;
    verdict take_response(char* in, std::size_t bytes, std::size_t& used) noexcept;
    void write_next_head(http1_writer& out, const http1_framing& framing, http1_persistence how) noexcept;
    void begin_response(http1_writer& out, std::string_view behind) noexcept;
    verdict take_response_body(char* in, std::size_t bytes, std::string_view head, std::size_t& used) noexcept;
    verdict response_over(bool has_surplus) noexcept;
    void release_server(bool has_surplus) noexcept;
    verdict server_ended(io how) noexcept;
    verdict truncated(const char* why, end_cause of_living = end_cause::protocol) noexcept;
    enum class repeatable : std::uint8_t { no, yes, not_known_yet };
    bool may_repeat_at_all() const noexcept;
    bool is_unseen() const noexcept;
    bool is_parting_word() const noexcept;
    repeatable may_repeat(io how) noexcept;
    verdict repeat_request() noexcept;
    void dialed() noexcept;

    // --- http1_exchange_heads.cc: Host, interim heads, 101
    std::string_view longest_host(std::span<char, endpoint::text_max> room) const noexcept;
    [[nodiscard]] bool name_host() noexcept;
    http1_head::progress take_heads(char* in, std::size_t bytes, std::size_t& used, http1_writer& out) noexcept;
    void note_answer() noexcept;
    bool take_interim(std::size_t bytes) noexcept;
    verdict switch_protocols(http1_writer& out, std::string_view early) noexcept;
    verdict become_tunnel(std::string_view head, std::string_view early) noexcept;

    // --- http1_exchange_client.cc: the client's other callbacks
    static verdict client_send(connection& client) noexcept;
    static verdict client_wake(connection& client) noexcept;
    bool client_has_gone() noexcept;
    verdict give_up() noexcept;

    conntab& conns() noexcept;
    block_pool& blocks() noexcept;
    time_point now() const noexcept;
    std::size_t unsent() const noexcept { return to_server_.size() - sent_bytes_; }
    bool keeps_no_server() const noexcept; // so the request says close: RFC 9112 section 9.6
    bool server_is_ready() const noexcept { return server_ && server_->is(conn_flag::connected); }
    // The lower half of the first scratch_bytes is for receiving, all behind it for writing heads and answers.
    char* write_room() noexcept { return conns().scratch() + write_room_at; }
    std::size_t write_room_bytes() noexcept { return conns().scratch_size() - write_room_at; }

    // What one read may take: with the framing around it, what is not sent at once still fits into one block.
    static constexpr std::size_t read_bytes_max = head_bytes_max + 1;
    // The same of a large block: each field may grow by a space, and with a bare LF by a CR.
    static constexpr std::size_t large_read_bytes_max = large_head_bytes_max + 1;
    static_assert(large_read_bytes_max + 2 * http1_head::fields_capacity + 512 <= large_block_bytes);
    static constexpr std::size_t write_room_at = conntab::scratch_bytes / 2;
    static constexpr std::size_t copied_bytes_max = 2048; // a smaller body is copied behind its head
    // 1xx responses before a final one: at most 64 KB, and 32 KB for each second. Each counts as 1 KB at least, so 64 of
    // them may come at once, and 32 a second for as long as the server likes.
    static constexpr std::size_t interim_bytes_min = 1024;
    static constexpr std::size_t interim_bytes_per_s = 32 * 1024;
    static constexpr duration interim_burst = seconds{2}; // 64 KB at that rate
    // Written anew a head may be longer, by a space for each field. What comes in one read is sent as one piece.
    static constexpr std::size_t interim_growth_max = 256;
    // What TCP_INFO counts as acknowledged once a connect is through: the SYN.
    static constexpr std::int64_t acked_by_connect = 1;
    static constexpr duration place_timeout = seconds{1}; // without a byte on a fresh connection: look_for_place()
    static constexpr duration proof_timeout = seconds{1}; // for the server's kernel to tell what became of a request

    http1_exchanges& room_;
    connection* client_;           // null once it was closed or given away
    connection* server_ = nullptr; // null: not yet, or no more
    upstream_address* upstream_ = nullptr; // asked, or asked last; held
    const http1_applet* applet_;

    request_state request_ = request_state::head;
    response_state response_ = response_state::none;
    http1_method method_ = http1_method::other;
    http1_version version_ = http1_version::v1_1; // of the request
    bool client_keep_alive_ = false;              // the client lets its connection stay, as far as its request tells
    bool client_asked_keep_alive_ = false;        // in words; matters for 1.0
    bool close_said_ = false;                     // our response had Connection: close
    bool keep_alive_said_ = false;
    bool needs_host_ = false;        // HTTP/1.0 without Host: each server gets its own name
    bool binds_user_ = false;        // request or response authenticate the server's connection
    bool awaits_continue_ = false;   // the client waits for a 100 before it sends its body, of which no byte has come
    bool has_backlog_ = false;       // from_client_ holds bytes of this request that were not looked at
    bool connecting_ = false;        // server_ was dialed and has not answered
    bool request_chunked_ = false;   // how the body goes to the server
    bool response_chunked_ = false;  // how the body goes to the client
    bool body_is_only_said_ = false; // the response has none, and its head announces one: HEAD, 304
    bool reused_ = false;            // server_ had been idle before
    bool repeated_ = false;          // at most once
    bool by_proof_ = false;          // and the server never had a byte
    bool keeping_ = false;           // to_server_ holds all that was sent, for repeating
    bool awaiting_proof_ = false;    // the server has ended; what became of the request is not known yet
    bool response_begun_ = false;    // at least one byte of it has come; an empty line before it is none
    bool has_looked_for_place_ = false; // once for each fresh connection
    bool logged_ = false;            // the request has its line in the access log
    http1_upgrade_set upgrades_ = 0; // what the server was asked to switch to
    http1_body_kind client_framing_ = http1_body_kind::none; // of the response as the client gets it
    http1_server_facts server_facts_{};
    int status_ = 0;
    std::uint32_t keep_alive_s_ = 0; // Keep-Alive: timeout= of the response
    std::uint32_t sent_bytes_ = 0;   // of to_server_; beyond 0 only while keeping_ or partly sent
    std::int64_t acked_before_ = -1; // bytes_acked before the request's first byte; -1: not asked
    upstream_set::attempts attempts_; // its error is that of the latest server that was ruled out, until that is told
    time_point client_deadline_ = never;
    time_point server_deadline_ = never; // of first_byte_timeout; its timer may fire earlier, for a look
    send_progress to_client_progress_, to_server_progress_;
    time_point place_due_ = never; // of place_timeout
    list_hook lacking_hook_;       // in http1_exchanges::lacking: no idle connection could be closed for it
    time_point interims_paid_{};       // when the 1xx so far would have come at interim_bytes_per_s; 0: none has
    time_point body_since_{};          // the present window of the minimum rate
    std::uint64_t body_bytes_ = 0;     // received in it
    std::uint64_t response_bytes_ = 0; // of the body
    time_point began_{};
    buffer from_client_; // a head that is not complete, or bytes beyond what could be taken
    buffer to_server_;
    buffer from_server_; // a head that is not complete
    buffer to_client_;
    http1_body request_body_;
    http1_body response_body_;
    std::uint8_t what_bytes_ = 0;
    char what_[95];   // method and target, cut off, for the logs
    http1_head head_;              // of the request, then of the response
    block* head_table_ = nullptr; // lent to head_, for more fields than it holds itself
};

// What a line of trouble is about: each kind has its own budget.
enum class http1_trouble : std::uint8_t { passed_over, bad_gateway, unavailable, late, broken_off };

// What the exchanges of one gateway share. The gateway fills it and outlives them.
struct http1_exchanges {
    conntab& conns;
    idle_pool& idle;
    relay_pool& tunnels;
    upstream_set& upstreams;
    http1_options options;
    http1_counters counters{};
    bool draining = false; // finish what runs, keep no connection

    // No exchange serves this client until its next byte.
    void (*client_waits)(void* gateway, connection& client, const http1_applet* applet,
                         http1_wait how) noexcept = nullptr;
    // One client connection is no more. That of a tunnel is counted by the relay_pool's `ended`, whose tag is the
    // address of its server: the tunnel holds it, and is one of its upstream's active_count.
    void (*client_gone)(void* gateway, const http1_applet* applet) noexcept = nullptr;
    // Another client needs the place of one that would only wait.
    bool (*is_pressed)(void* gateway, const http1_applet* applet) noexcept = nullptr;
    // One line, without its end: a 502, 503 or 504 with its cause; and the sums of what `lines` held back.
    void (*trouble)(void* gateway, std::string_view line) noexcept = nullptr;
    // Null: no access log. One line, without its end.
    void (*access)(void* gateway, std::string_view line) noexcept = nullptr;
    void* gateway = nullptr;
    line_limit lines; // of trouble: the kinds are http1_trouble's, the owner is this

    fixed_pool<http1_exchange> pool;
    // By address: those that may lack a place at their server, longest first. look_for_place().
    std::array<list<&http1_exchange::lacking_hook_>, upstream_set::places_max> lacking{};
    auto& lacking_at(const upstream_address& a) noexcept {
        const auto i = static_cast<std::size_t>(a.of - &upstreams.at(0));
        return lacking[i * upstream::places_max + static_cast<std::size_t>(&a - a.of->places.data())];
    }

    // Serves `client`, whose first byte is about to be received, from now on. `applet`: null for the upstreams.
    void begin(connection& client, const http1_applet* applet) noexcept;
    std::size_t active_count() const noexcept { return pool.used(); }

    static void tell_left_out(void* self, std::size_t kind, std::uint64_t count) noexcept;
};

inline conntab& http1_exchange::conns() noexcept { return room_.conns; }
inline block_pool& http1_exchange::blocks() noexcept { return room_.conns.blocks(); }
inline bool http1_exchange::keeps_no_server() const noexcept { return room_.idle.capacity() == 0; }
inline time_point http1_exchange::now() const noexcept { return room_.conns.loop().now(); }

} // namespace weir::inline WEIR_KERNEL
