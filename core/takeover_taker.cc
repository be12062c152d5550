// takeover_taker: the new process's side.

#include <cstring>

#include "core/buggify.hpp"
#include "core/takeover.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {

constexpr duration next_try = milliseconds{10};

// As far as it has come, it is the beginning of `whole`.
bool begins(std::string_view whole, std::string_view so_far) noexcept {
    return whole.substr(0, so_far.size()) == so_far;
}

} // namespace

const char* to_string(takeover_end end) noexcept {
    switch (end) {
    case takeover_end::taken: return "taken";
    case takeover_end::taken_alone: return "taken alone";
    case takeover_end::refused: return "refused";
    case takeover_end::died: return "died";
    case takeover_end::mismatch: return "mismatch";
    case takeover_end::timed_out: return "timed out";
    case takeover_end::system: return "system";
    }
    return "?";
}

result<void> takeover_taker::open(const ctrl& family, const endpoint& at, const taker_options& options,
                                  const callbacks& told, void* owner) noexcept {
    EXPECT(!giver_);
    EXPECT(at.family() == AF_UNIX);
    EXPECT(told.received != nullptr && told.over != nullptr);
    EXPECT(options.timeout > duration{});
    auto made = family.connect(at, {}); // never pending: unix(7)
    if (!made) return failure{made.error()};
    unique_fd fd = std::move(made.value().fd);
    if (!is_trusted_peer(fd.get())) return failure{EPERM};
    auto slot = loop_.watch(fd.get(), interest::recv, moved, this, "takeover");
    if (!slot) return failure{slot.error()};
    [[maybe_unused]] const int owned = fd.release(); // by the slot from here on
    giver_ = slot.value();
    told_ = told;
    owner_ = owner;
    phase_ = phase::receiving;
    have_bytes_ = said_bytes_ = fds_count_ = 0;
    loop_.arm_in(timer_, options.timeout);
    loop_.fds().want_recv(*giver_);
    return {};
}

void takeover_taker::close() noexcept {
    timer_.cancel();
    if (giver_) loop_.close(*giver_, "takeover");
    giver_ = nullptr;
    for (std::size_t i = 0; i < fds_count_; i++)
        fds_[i].fd.reset();
    fds_count_ = 0;
}

void takeover_taker::finish(takeover_end end, int error) noexcept {
    close();
    told_.over(owner_, end, error);
}

void takeover_taker::moved(fd_slot& slot) noexcept {
    takeover_taker& self = *static_cast<takeover_taker*>(slot.owner);
    const std::uint32_t generation = slot.generation;
    slot.state &= ~fd_state::news;
    if (self.phase_ == phase::receiving) return self.receive();
    if (slot.is(fd_state::recv_ready)) self.hear_answer();
    if (slot.generation != generation) return;
    if (self.phase_ == phase::asking && slot.is(fd_state::send_active) && slot.is(fd_state::send_ready))
        self.say_ready();
}

// ---- the message

void takeover_taker::receive() noexcept {
    std::size_t want = sizeof(takeover_head);
    if (have_bytes_ >= sizeof(takeover_head)) {
        takeover_head head;
        std::memcpy(&head, message_.data(), sizeof head);
        want += head.count * sizeof(takeover_tag); // look_at_message() has found that it fits
    }
    const std::size_t bytes = buggify(twist::recv_one) ? 1 : want - have_bytes_;
    sys::passed_fds passed;
    const sys::count n = sys::recv_with(giver_->fd, message_.data() + have_bytes_, bytes, passed);
    if (n == -EAGAIN) return fdtab::cant_recv(*giver_);
    if (n < 0 && n != -ECONNRESET) return finish(takeover_end::system, static_cast<int>(-n));
    if (n <= 0) return finish(takeover_end::died);
    // Owned before anything is judged.
    const bool is_first = have_bytes_ == 0 && fds_count_ == 0;
    for (std::size_t i = 0; i < passed.fds_count; i++) {
        unique_fd fd{passed.fds[i]};
        if (is_first) fds_[fds_count_++].fd = std::move(fd);
    }
    if (passed.is_cut) return finish(takeover_end::system, EMFILE);
    if (passed.fds_count > 0 && !is_first) return finish(takeover_end::mismatch);
    have_bytes_ += static_cast<std::size_t>(n);
    look_at_message();
}

void takeover_taker::look_at_message() noexcept {
    const std::string_view got{message_.data(), have_bytes_};
    const std::string_view line = got.substr(0, takeover_head::line_sent.size());
    if (got == takeover_words::stays) return finish(takeover_end::refused);
    if (begins(takeover_words::stays, got)) return;
    if (!begins(takeover_head::line_sent, line)) return finish(takeover_end::mismatch);
    if (got.size() < sizeof(takeover_head)) return;
    takeover_head head;
    std::memcpy(&head, message_.data(), sizeof head);
    if (head.count == 0 || head.count > sys::pass_max || head.count != fds_count_)
        return finish(takeover_end::mismatch);
    if (got.size() == sizeof head + head.count * sizeof(takeover_tag)) hand_over(head.count);
}

void takeover_taker::hand_over(std::uint32_t count) noexcept {
    for (std::size_t i = 0; i < count; i++) {
        std::memcpy(&fds_[i].tag, message_.data() + sizeof(takeover_head) + i * sizeof(takeover_tag),
                    sizeof(takeover_tag));
        const bool is_takeover_socket = fds_[i].tag.what == 0;
        if (is_takeover_socket != (i == 0)) return finish(takeover_end::mismatch);
        if (!sys::is_listening(fds_[i].fd.get())) return finish(takeover_end::mismatch);
    }
    timer_.cancel(); // the giver has a deadline of its own
    phase_ = phase::holding;
    have_bytes_ = 0;
    told_.received(owner_, std::span{fds_}.first(count));
    for (std::size_t i = 0; i < count; i++)
        fds_[i].fd.reset(); // what nobody wanted
    fds_count_ = 0;
}

// ---- the answer

void takeover_taker::ready() noexcept {
    EXPECT(giver_ != nullptr);
    EXPECT(phase_ == phase::holding);
    phase_ = phase::asking;
    loop_.fds().want_send(*giver_);
}

void takeover_taker::say_ready() noexcept {
    const std::string_view rest = takeover_words::ready.substr(said_bytes_);
    const sys::count n = sys::send(giver_->fd, rest.data(), rest.size(), false);
    if (n == -EAGAIN) {
        if (auto r = loop_.cant_send(*giver_); !r) try_later();
        return;
    }
    if (n < 0 && is_shortage(static_cast<int>(-n))) return try_later();
    if (n < 0) { // it is gone: why is heard from the other direction
        fdtab::stop_send(*giver_);
        loop_.fds().may_recv(*giver_);
        return;
    }
    said_bytes_ += static_cast<std::size_t>(n);
    if (said_bytes_ == takeover_words::ready.size()) fdtab::stop_send(*giver_);
}

void takeover_taker::hear_answer() noexcept {
    using takeover_words::stays, takeover_words::taken;
    const std::size_t bytes = buggify(twist::recv_one) ? 1 : taken.size() - have_bytes_;
    const sys::count n = sys::recv(giver_->fd, message_.data() + have_bytes_, bytes);
    if (n == -EAGAIN) return fdtab::cant_recv(*giver_);
    if (n < 0 && is_shortage(static_cast<int>(-n))) return try_later(); // an end is not to be taken for granted
    const bool is_asking = phase_ == phase::asking;
    if (n <= 0) return finish(is_asking ? takeover_end::taken_alone : takeover_end::died);
    have_bytes_ += static_cast<std::size_t>(n);
    const std::string_view got{message_.data(), have_bytes_};
    if (got == stays) return finish(takeover_end::refused);
    if (got == taken && is_asking) return finish(takeover_end::taken);
    if (!begins(stays, got) && !(is_asking && begins(taken, got))) finish(takeover_end::mismatch);
}

void takeover_taker::try_later() noexcept {
    fdtab::stop_recv(*giver_);
    fdtab::stop_send(*giver_);
    loop_.arm_in(timer_, next_try);
}

void takeover_taker::time_over(timer& t, time_point) noexcept {
    takeover_taker& self = container_of<&takeover_taker::timer_>(t);
    if (self.phase_ == phase::receiving) return self.finish(takeover_end::timed_out);
    self.loop_.fds().want_recv(*self.giver_);
    if (self.phase_ == phase::asking && self.said_bytes_ < takeover_words::ready.size()) {
        self.loop_.fds().may_send(*self.giver_); // EAGAIN will tell
        self.loop_.fds().want_send(*self.giver_);
    }
}

} // namespace weir::inline WEIR_KERNEL
