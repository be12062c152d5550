// takeover_giver: the old process's side.

#include <cstring>

#include "core/buggify.hpp"
#include "core/takeover.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

constexpr std::uint32_t accept_budget = 8; // takers that are turned away, per turn
constexpr std::uint32_t stays_tries_max = 20;
constexpr duration stays_pause = milliseconds{50};

// An error that says nothing about the other end.
constexpr bool may_pass(int error) noexcept { return error == EAGAIN || is_shortage(error); }

} // namespace

const char* to_string(takeover_failure why) noexcept {
    switch (why) {
    case takeover_failure::untrusted: return "untrusted";
    case takeover_failure::ended: return "ended";
    case takeover_failure::wrong_words: return "wrong words";
    case takeover_failure::too_late: return "too late";
    case takeover_failure::system: return "system";
    }
    return "?";
}

bool is_trusted_peer(int fd) noexcept {
    const std::int64_t user = sys::peer_user(fd);
    return user == 0 || (user > 0 && user == sys::own_user());
}

// ---- what is offered

result<void> takeover_giver::offer(const takeover_tag& tag, listener& door) noexcept {
    EXPECT(door.is_open());
    door.share();
    return offer(tag, door.fd());
}

result<void> takeover_giver::offer(const takeover_tag& tag, int fd) noexcept {
    EXPECT(tag.what != 0); // that is the takeover socket
    EXPECT(fd >= 0);
    if (offers_count_ + 1 == sys::pass_max) return failure{E2BIG};
    offers_count_++;
    tags_[offers_count_] = tag;
    fds_[offers_count_] = fd;
    return {};
}

// ---- the socket

result<void> takeover_giver::open(const ctrl& family, const endpoint& at, const giver_options& options,
                                  const callbacks& told, void* owner) noexcept {
    EXPECT(at.family() == AF_UNIX);
    auto fd = family.listen(at, {.backlog_count = 16, .file = {.mode = 0600}});
    if (!fd) return failure{fd.error()};
    return start(std::move(fd).value(), options, told, owner);
}

result<void> takeover_giver::adopt(unique_fd fd, const giver_options& options, const callbacks& told,
                                   void* owner) noexcept {
    if (!sys::is_listening(fd.get())) return failure{EINVAL};
    if (const int r = sys::set_nonblocking(fd.get()); r < 0) return failure{-r};
    return start(std::move(fd), options, told, owner);
}

result<void> takeover_giver::start(unique_fd fd, const giver_options& options, const callbacks& told,
                                   void* owner) noexcept {
    EXPECT(!door_);
    EXPECT(told.taken != nullptr && told.failed != nullptr);
    EXPECT(options.timeout > duration{} && options.pause > duration{});
    auto slot = loop_.watch(fd.get(), interest::recv, knocked, this, "takeover");
    if (!slot) return failure{slot.error()};
    fds_[0] = fd.release(); // owned by the slot from here on
    door_ = slot.value();
    door_->state |= fd_state::shared; // with every taker, and perhaps with the one before
    options_ = options;
    told_ = told;
    owner_ = owner;
    phase_ = phase::listening;
    loop_.fds().want_recv(*door_);
    return {};
}

void takeover_giver::close() noexcept {
    timer_.cancel();
    if (taker_) loop_.close(*taker_, "takeover");
    if (door_) loop_.close(*door_);
    taker_ = door_ = nullptr;
    offers_count_ = 0; // the numbers may soon be somebody else's
    phase_ = phase::listening;
}

void takeover_giver::knocked(fd_slot& slot) noexcept {
    takeover_giver& self = *static_cast<takeover_giver*>(slot.owner);
    const std::uint32_t generation = slot.generation;
    slot.state &= ~fd_state::news;
    if (self.phase_ != phase::listening) return; // an end of the door's own; the timer is the taker's
    bool came = false;
    for (std::uint32_t budget = accept_budget; budget > 0 && self.phase_ == phase::listening; budget--) {
        unique_fd fd{sys::accept(slot.fd, nullptr, nullptr)};
        const int error = fd ? 0 : -fd.get();
        if (error == EAGAIN) {
            fdtab::cant_recv(slot);
            return;
        }
        if (is_shortage(error) || error == EINVAL) { // EINVAL: another holder has shut it down, see listener.cc
            self.rest();
            return;
        }
        if (!fd) continue; // a matter of that one
        if (is_trusted_peer(fd.get())) {
            self.begin(std::move(fd));
        } else {
            sys::send(fd.get(), takeover_words::stays.data(), takeover_words::stays.size(), false);
            fd.reset();
            self.told_.failed(self.owner_, takeover_failure::untrusted, EPERM);
        }
        came = true;
        if (slot.generation != generation) return; // a callback closed us
    }
    if (!came) self.rest(); // nobody is let in, and still somebody waits
}

void takeover_giver::rest() noexcept {
    fdtab::stop_recv(*door_);
    loop_.arm_in(timer_, options_.pause);
}

// ---- one taker

void takeover_giver::begin(unique_fd fd) noexcept {
    auto slot = loop_.watch(fd.get(), interest::recv, moved, this, "takeover");
    if (!slot) {
        fd.reset();
        told_.failed(owner_, takeover_failure::system, slot.error());
        return;
    }
    [[maybe_unused]] const int owned = fd.release(); // by the slot from here on
    taker_ = slot.value();
    phase_ = phase::giving;
    done_bytes_ = 0;
    write_message();
    fdtab::stop_recv(*door_); // the next one waits in the queue
    loop_.arm_in(timer_, options_.timeout);
    loop_.fds().want_recv(*taker_);
    loop_.fds().want_send(*taker_);
}

void takeover_giver::write_message() noexcept {
    takeover_head head{};
    std::memcpy(head.line, takeover_head::line_sent.data(), sizeof head.line);
    head.count = static_cast<std::uint32_t>(offers_count_ + 1);
    std::memcpy(message_.data(), &head, sizeof head);
    std::memcpy(message_.data() + sizeof head, tags_.data(), head.count * sizeof tags_[0]);
    message_bytes_ = sizeof head + head.count * sizeof tags_[0];
}

void takeover_giver::moved(fd_slot& slot) noexcept {
    takeover_giver& self = *static_cast<takeover_giver*>(slot.owner);
    const std::uint32_t generation = slot.generation;
    slot.state &= ~fd_state::news;
    if (self.phase_ == phase::refusing) { // nothing it says is of interest, only whether it is there
        if (slot.is(fd_state::hup | fd_state::err)) self.fail(self.why_, self.error_);
        return;
    }
    if (slot.is(fd_state::recv_ready)) self.hear();
    if (slot.generation != generation) return;
    if (self.phase_ == phase::giving && slot.is(fd_state::send_ready)) self.give();
}

// The descriptors go with the first byte. Whatever room there is, the rest follows without them.
void takeover_giver::give() noexcept {
    const std::size_t fds_count = done_bytes_ == 0 ? (message_bytes_ - sizeof(takeover_head)) / sizeof tags_[0] : 0;
    const std::string_view rest{message_.data() + done_bytes_, message_bytes_ - done_bytes_};
    const std::size_t bytes = buggify(twist::send_one) ? 1 : rest.size();
    const sys::count n = sys::send_with(taker_->fd, rest.data(), bytes, fds_.data(), fds_count);
    if (n == -EAGAIN) {
        if (auto r = loop_.cant_send(*taker_); !r) fail(takeover_failure::system, r.error());
        return;
    }
    if (n < 0) {
        const bool is_its_end = n == -EPIPE || n == -ECONNRESET;
        fail(is_its_end ? takeover_failure::ended : takeover_failure::system, static_cast<int>(-n));
        return;
    }
    done_bytes_ += static_cast<std::size_t>(n);
    if (done_bytes_ < message_bytes_) return; // still runnable: the next turn goes on
    fdtab::stop_send(*taker_);
    phase_ = phase::waiting;
    done_bytes_ = 0;
}

void takeover_giver::hear() noexcept {
    using takeover_words::ready;
    char word[ready.size()];
    const std::size_t heard = phase_ == phase::waiting ? done_bytes_ : 0;
    const std::size_t bytes = buggify(twist::recv_one) ? 1 : ready.size() - heard;
    const sys::count n = sys::recv(taker_->fd, word, bytes);
    if (n == -EAGAIN) return fdtab::cant_recv(*taker_);
    if (n < 0 && is_shortage(static_cast<int>(-n))) return refuse(takeover_failure::system, static_cast<int>(-n));
    if (n <= 0) return fail(takeover_failure::ended, static_cast<int>(-n));
    const auto got = static_cast<std::size_t>(n);
    // Nobody can be ready who was not given everything.
    if (phase_ == phase::giving || std::memcmp(word, ready.data() + heard, got) != 0)
        return refuse(takeover_failure::wrong_words, 0);
    done_bytes_ += got;
    if (done_bytes_ == ready.size()) acknowledge();
}

// A taker that is gone by now has not taken over. If "taken" cannot be sent for another reason, the end that it will
// see instead tells it as well that it serves alone.
void takeover_giver::acknowledge() noexcept {
    const sys::count n = sys::send(taker_->fd, takeover_words::taken.data(), takeover_words::taken.size(), false);
    if (n < 0 && !may_pass(static_cast<int>(-n))) return fail(takeover_failure::ended, static_cast<int>(-n));
    close();
    told_.taken(owner_);
}

// ---- a takeover that comes to nothing

void takeover_giver::refuse(takeover_failure why, int error) noexcept {
    if (phase_ == phase::giving) return fail(why, error); // in the middle of the message; it cannot be ready
    phase_ = phase::refusing;
    why_ = why;
    error_ = error;
    done_bytes_ = 0;
    tries_count_ = 0;
    fdtab::stop_recv(*taker_);
    say_stays();
}

// It must hear this before the end, or it would believe that it serves alone.
void takeover_giver::say_stays() noexcept {
    const std::string_view rest = takeover_words::stays.substr(done_bytes_);
    const sys::count n = sys::send(taker_->fd, rest.data(), rest.size(), false);
    if (n > 0) done_bytes_ += static_cast<std::size_t>(n);
    const bool is_over = done_bytes_ == takeover_words::stays.size() || (n < 0 && !may_pass(static_cast<int>(-n)));
    if (is_over || ++tries_count_ == stays_tries_max) return fail(why_, error_);
    loop_.arm_in(timer_, stays_pause);
}

void takeover_giver::fail(takeover_failure why, int error) noexcept {
    timer_.cancel();
    loop_.close(*taker_, "takeover");
    taker_ = nullptr;
    phase_ = phase::listening;
    loop_.fds().want_recv(*door_);
    told_.failed(owner_, why, error);
}

void takeover_giver::time_over(timer& t, time_point) noexcept {
    takeover_giver& self = container_of<&takeover_giver::timer_>(t);
    switch (self.phase_) {
    case phase::listening: return self.loop_.fds().want_recv(*self.door_);
    case phase::giving:
    case phase::waiting: return self.refuse(takeover_failure::too_late, 0);
    case phase::refusing: return self.say_stays();
    }
}

} // namespace weir::inline WEIR_KERNEL
