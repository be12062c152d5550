#pragma once
// takeover: a new process takes the listening sockets of a running one, which drains once the new one serves.
//
// The sockets themselves change hands (SCM_RIGHTS, unix(7)): their queues stay, and between the two nobody is refused
// or reset. The new one accepts from them once it is told that they are its own (listen_options::held); if it is not,
// who came meanwhile is still in the queue, and the old one's to serve.
//
//      giver, in the old process                                      taker, in the new one
//      listening                                                      open(): connects
//      giving      ── "weir-takeover 1\n" count tags, descriptors ──>  receiving
//      waiting                                                        received(): adopts, held, then ready()
//      waiting     <─────────────────── "ready\n" ────────────────── asking
//      taken()     ── "taken\n", closes ──────────────────────────>  over(taken): its listeners begin()
//      failed()    ── "stays\n", closes ──────────────────────────>  over(refused): it withdraws
//
// What each may conclude from silence, so that exactly one of the two goes on:
//   - Until the giver has read "ready" and found the taker still there, nothing has changed: any end, error, wrong word
//     or missed deadline is failed(), and it listens for the next one.
//   - A giver that goes on though it has given everything says "stays" before it closes. So for a taker that is ready
//     an end without a word means that the old process is gone, or drains: over(taken_alone), it serves. One exception:
//     a giver that cannot say the word for a second, in 20 tries, because memory or the socket's room is short, closes
//     without it. Both serve then, from the same sockets.
//   - A taker that has said ready does not give up by itself: an old one that was stopped for a while will answer. One
//     that dies behind "taken" leaves nobody: its successor starts fresh, as after any crash.
// One taker at a time. A second one waits in the queue of the unix socket; as that socket is passed on, too, it is then
// served by whoever holds it. Only a process of the same user, or root's, is served, and only such a one is believed.
//
// Limits: 252 descriptors beside the takeover socket (one message, SCM_MAX_FD). Numbers are in host byte order: both
// ends are on one machine. Owner: the user. Thread: the loop's, member 0 of a group; the listeners may be those of
// other loops. Allocation: none.

#include <array>
#include <cstdint>
#include <span>

#include "core/listener.hpp"

namespace weir::inline WEIR_KERNEL {

// What a descriptor is, in the user's words: travels beside it.
struct takeover_tag {
    std::uint32_t what;  // from 1 on; 0 is the takeover socket itself
    std::uint32_t index; // which one of those
    friend bool operator==(const takeover_tag&, const takeover_tag&) = default;
};

struct takeover_head {
    static constexpr std::string_view line_sent{"weir-takeover 1\n"};
    char line[16]; // the 1 is the version of all that follows
    std::uint32_t count;
};
static_assert(sizeof(takeover_head) == 20 && sizeof(takeover_tag) == 8, "as they travel");
static_assert(takeover_head::line_sent.size() == 16, "as it travels");
inline constexpr std::size_t takeover_message_max = sizeof(takeover_head) + sys::pass_max * sizeof(takeover_tag);

// --- the old process

// Why a takeover came to nothing. The giver listens on.
enum class takeover_failure : std::uint8_t {
    untrusted,   // another user's process
    ended,       // the taker closed, or died
    wrong_words, // it said something else than it should
    too_late,    // the deadline passed before it was ready
    system,      // the system refused a call: its errno
};
const char* to_string(takeover_failure why) noexcept;

struct giver_options {
    duration timeout = seconds{10};     // from a taker's coming until it is ready
    duration pause = milliseconds{100}; // without descriptors or memory, until it accepts again
};

class takeover_giver {
  public:
    // Both may close the giver. taken: the giver is closed already, and what was offered is the taker's to serve: stop
    // accepting, close the listeners, drain. Do not unlink the socket's path.
    struct callbacks {
        void (*taken)(void* owner) noexcept;
        void (*failed)(void* owner, takeover_failure why, int error) noexcept;
    };

    explicit takeover_giver(event_loop& loop) noexcept : loop_(loop) {}
    takeover_giver(const takeover_giver&) = delete;
    takeover_giver& operator=(const takeover_giver&) = delete;
    ~takeover_giver() { close(); }

    // Listens at a path, or abstract name; `family` is that of unix sockets: an abandoned socket file is replaced, and
    // EADDRINUSE says that somebody listens there. EACCES, ENOENT, EMFILE, ...
    result<void> open(const ctrl& family, const endpoint& at, const giver_options& options, const callbacks& told,
                      void* owner) noexcept;
    // Goes on with a takeover socket that was taken. It is owned from now on; on error it is closed. EINVAL: it does
    // not listen.
    result<void> adopt(unique_fd fd, const giver_options& options, const callbacks& told, void* owner) noexcept;
    // A taker under way sees an end. The path stays.
    void close() noexcept;
    bool is_open() const noexcept { return door_ != nullptr; }

    // Offers a listener to every taker from now on; it stays the caller's, and open as long as the giver is. Marks it
    // shared: from the thread of its loop, or before that runs. E2BIG: too many.
    result<void> offer(const takeover_tag& tag, listener& door) noexcept;
    // The same for any listening descriptor. Who has it watched by a loop has marked its slot as shared.
    result<void> offer(const takeover_tag& tag, int fd) noexcept;
    std::size_t offers_count() const noexcept { return offers_count_; }

  private:
    enum class phase : std::uint8_t { listening, giving, waiting, refusing };

    result<void> start(unique_fd fd, const giver_options& options, const callbacks& told, void* owner) noexcept;
    static void knocked(fd_slot& slot) noexcept;
    void rest() noexcept;
    static void moved(fd_slot& slot) noexcept;
    static void time_over(timer& t, time_point now) noexcept;
    void begin(unique_fd fd) noexcept;
    void write_message() noexcept;
    void give() noexcept;
    void hear() noexcept;
    void acknowledge() noexcept;
    void refuse(takeover_failure why, int error) noexcept;
    void say_stays() noexcept;
    void fail(takeover_failure why, int error) noexcept;

    event_loop& loop_;
    giver_options options_;
    callbacks told_{};
    void* owner_ = nullptr;
    fd_slot* door_ = nullptr;
    fd_slot* taker_ = nullptr; // null exactly while listening
    phase phase_ = phase::listening;
    timer timer_{time_over}; // listening: the end of a pause; giving, waiting: the deadline; refusing: the next try
    std::size_t done_bytes_ = 0; // giving: of the message; waiting: of "ready"; refusing: of "stays"
    std::uint32_t tries_count_ = 0;
    takeover_failure why_{};
    int error_ = 0;
    std::size_t offers_count_ = 0, message_bytes_ = 0;
    std::array<takeover_tag, sys::pass_max> tags_{}; // [0] is the takeover socket
    std::array<int, sys::pass_max> fds_{};
    std::array<char, takeover_message_max> message_{};
};

// --- the new process

// How it ended for a taker.
enum class takeover_end : std::uint8_t {
    taken,       // the old one drains
    taken_alone, // the old one is gone without a word, after we were ready: we serve alone
    refused,     // the old one goes on: we were too late, or not trusted. Withdraw
    died,        // the old one ended, or gave up, before all was there or before we were ready. What was received works
    mismatch,    // no giver of this version
    timed_out,   // not all was there in time
    system,      // the system refused a call: its errno; EMFILE: no room for the descriptors
};
const char* to_string(takeover_end end) noexcept;

struct taken_fd {
    takeover_tag tag{};
    unique_fd fd;
};

struct taker_options {
    duration timeout = seconds{10}; // until everything was received
};

class takeover_taker {
  public:
    // received: every descriptor listens; [0] is the takeover socket, for a giver of our own. Move out what is wanted,
    // the rest is closed. It may call ready(), or close(), but not end the taker's life. A listener that adopts one
    // marks it as shared. over: once, and the last call; the taker is closed already.
    struct callbacks {
        void (*received)(void* owner, std::span<taken_fd> fds) noexcept;
        void (*over)(void* owner, takeover_end end, int error) noexcept;
    };

    explicit takeover_taker(event_loop& loop) noexcept : loop_(loop) {}
    takeover_taker(const takeover_taker&) = delete;
    takeover_taker& operator=(const takeover_taker&) = delete;
    ~takeover_taker() { close(); }

    // ENOENT, ECONNREFUSED: nobody to take over from, start fresh. EPERM: another user's process listens there. EAGAIN:
    // its queue is full. EMFILE, ...
    result<void> open(const ctrl& family, const endpoint& at, const taker_options& options, const callbacks& told,
                      void* owner) noexcept;
    // From received() on, once: we serve. The answer comes to over().
    void ready() noexcept;
    // Gives up: the old one goes on. After ready(): it may have drained by then.
    void close() noexcept;
    bool is_open() const noexcept { return giver_ != nullptr; }

  private:
    enum class phase : std::uint8_t { receiving, holding, asking };

    static void moved(fd_slot& slot) noexcept;
    static void time_over(timer& t, time_point now) noexcept;
    void receive() noexcept;
    void look_at_message() noexcept;
    void hand_over(std::uint32_t count) noexcept;
    void hear_answer() noexcept;
    void say_ready() noexcept;
    void try_later() noexcept;
    void finish(takeover_end end, int error = 0) noexcept;

    event_loop& loop_;
    callbacks told_{};
    void* owner_ = nullptr;
    fd_slot* giver_ = nullptr;
    phase phase_ = phase::receiving;
    timer timer_{time_over};     // receiving: the deadline; later: the next try of what memory was too short for
    std::size_t have_bytes_ = 0; // receiving: of the message; later: of the answer
    std::size_t said_bytes_ = 0; // of "ready"
    std::size_t fds_count_ = 0;
    std::array<taken_fd, sys::pass_max> fds_;
    std::array<char, takeover_message_max> message_{};
};

// The words that are said behind the message. All have the same length.
namespace takeover_words {
inline constexpr std::string_view ready{"ready\n"}, taken{"taken\n"}, stays{"stays\n"};
static_assert(ready.size() == taken.size() && ready.size() == stays.size(), "a word is read as it comes");
} // namespace takeover_words

// The process at the other end of a unix socket is of our user, or root's.
bool is_trusted_peer(int fd) noexcept;

} // namespace weir::inline WEIR_KERNEL
