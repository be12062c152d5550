// listener: accepting, and what accept() can answer.

#include "core/listener.hpp"

#include "core/buggify.hpp"

namespace weir::inline WEIR_KERNEL {

result<void> listener::open(const ctrl& family, const endpoint& at, const listener_options& options, accepted callback,
                            void* owner) noexcept {
    auto fd = family.listen(at, options.socket);
    if (!fd) return failure{fd.error()};
    return start(std::move(fd).value(), family, options, callback, owner);
}

result<void> listener::adopt(unique_fd fd, const ctrl& family, const listener_options& options, accepted callback,
                             void* owner) noexcept {
    auto r = start(std::move(fd), family, options, callback, owner);
    if (!r) return r;
    slot_->state |= fd_state::shared; // whoever handed it over may still hold it
    if (local_.family() != AF_UNIX) tune_inherited_tcp(slot_->fd, options.socket.user_timeout);
    return r;
}

result<void> listener::start(unique_fd fd, const ctrl& family, const listener_options& options, accepted callback,
                             void* owner) noexcept {
    EXPECT(!slot_);
    EXPECT(callback != nullptr);
    EXPECT(options.accept_budget > 0);
    EXPECT(conns_.is_open());
    auto local = local_endpoint(fd.get());
    if (!local) return failure{local.error()};
    if (!options.socket.held && !sys::is_listening(fd.get())) return failure{EINVAL};
    if (const int r = sys::set_nonblocking(fd.get()); r < 0) return failure{-r};
    auto slot = conns_.loop().watch(fd.get(), interest::recv, ready, this, "listener");
    if (!slot) return failure{slot.error()};
    [[maybe_unused]] const int owned = fd.release(); // by the slot from here on
    conns_.loop().ledger().introduce(ready, [](const fd_slot&, fd_facts& to) noexcept { to.role = "listener"; });
    slot_ = slot.value();
    local_ = local.value();
    options_ = options;
    family_ = &family;
    callback_ = callback;
    owner_ = owner;
    paused_by_user_ = false;
    held_ = options.socket.held;
    if (!held_) conns_.loop().fds().want_recv(*slot_);
    return {};
}

result<void> listener::begin() noexcept {
    EXPECT(conns_.loop().is_mine());
    EXPECT(slot_ && held_);
    if (!sys::is_listening(slot_->fd))
        if (const int r = sys::listen(slot_->fd, options_.socket.backlog_count); r < 0) return failure{-r};
    held_ = false;
    if (!paused_by_user_) conns_.loop().fds().want_recv(*slot_);
    return {};
}

void listener::close() noexcept {
    pause_timer_.cancel();
    if (slot_) conns_.loop().close(*slot_);
    slot_ = nullptr;
}

void listener::share() noexcept {
    EXPECT(conns_.loop().is_mine());
    EXPECT(slot_ != nullptr);
    slot_->state |= fd_state::shared;
}

void listener::accept_rest(std::uint32_t connections_max) noexcept {
    if (!slot_ || held_) return;
    const std::uint32_t generation = slot_->generation;
    for (fd_slot& slot = *slot_; connections_max > 0 && slot.generation == generation; connections_max--) {
        const outcome o = accept_one();
        if (o == outcome::drained || o == outcome::short_of_room || o == outcome::not_admitted) return;
    }
}

bool listener::has_waiting() noexcept {
    EXPECT(slot_ != nullptr);
    if (sys::is_readable(slot_->fd)) return true;
    fdtab::cant_recv(*slot_); // the next one is another edge
    return false;
}

void listener::pause() noexcept {
    EXPECT(conns_.loop().is_mine());
    paused_by_user_ = true;
    if (slot_) fdtab::stop_recv(*slot_);
}

void listener::resume() noexcept {
    EXPECT(conns_.loop().is_mine());
    paused_by_user_ = false;
    if (slot_ && !held_ && !pause_timer_.armed()) conns_.loop().fds().want_recv(*slot_);
}

void listener::pause_over(timer& t, time_point) noexcept {
    listener& self = container_of<&listener::pause_timer_>(t);
    if (!self.paused_by_user_) self.conns_.loop().fds().want_recv(*self.slot_);
}

// accept() makes a socket before it looks whether there is a connection for it: ten times as dear as to look.
bool listener::may_have_more(int fd) noexcept { return buggify(twist::accept_unsure) || sys::is_readable(fd); }

void listener::ready(fd_slot& slot) noexcept {
    listener& self = *static_cast<listener*>(slot.owner);
    const std::uint32_t generation = slot.generation;
    slot.state &= ~fd_state::news;
    if (self.held_) return;           // a socket that does not listen yet is reported as hung up
    if (self.paused_by_user_) return; // another holder has shut it down
    for (std::uint32_t budget = buggify(twist::one_accept) ? 1 : self.options_.accept_budget; budget > 0; budget--) {
        const outcome o = self.accept_one();
        if (slot.generation != generation || self.paused_by_user_) return; // the callback closed or paused us
        if (o == outcome::not_admitted) return;
        self.refused_in_row_ = o == outcome::passed ? self.refused_in_row_ + 1 : 0;
        if (o == outcome::short_of_room || self.refused_in_row_ == refused_in_row_max) return self.rest(slot);
        if (o == outcome::drained || !may_have_more(slot.fd)) {
            fdtab::cant_recv(slot);
            if (self.admission_.none_came) self.admission_.none_came(self.admission_.owner);
            return;
        }
    }
}

void listener::rest(fd_slot& slot) noexcept {
    refused_in_row_ = 0;
    paused_count_++;
    fdtab::stop_recv(slot);
    conns_.loop().arm_in(pause_timer_, options_.pause);
}

listener::outcome listener::accept_one() noexcept {
    if (admission_.may_accept && !admission_.may_accept(admission_.owner)) return outcome::not_admitted;
    const outcome o = try_accept();
    if (o != outcome::accepted && admission_.none_came) admission_.none_came(admission_.owner);
    return o;
}

listener::outcome listener::try_accept() noexcept {
    if (conns_.full() && !conns_.relieve(shortage::connections)) return outcome::short_of_room;
    sockaddr_storage storage{};
    socklen_t bytes = sizeof storage;
    int fd = sys::accept(slot_->fd, reinterpret_cast<sockaddr*>(&storage), &bytes);
    if ((fd == -EMFILE || fd == -ENFILE) && conns_.end_lingering()) // with a descriptor for another try
        fd = sys::accept(slot_->fd, reinterpret_cast<sockaddr*>(&storage), &bytes);
    if (fd == -EAGAIN) return outcome::drained;
    if (fd < 0) {
        failed_count_++;
        EXPECT(fd != -EBADF && fd != -ENOTSOCK && fd != -EFAULT);
        // EINVAL: another holder of the descriptor has shut it down, and may make it listen again.
        return is_shortage(-fd) || fd == -EINVAL ? outcome::short_of_room : outcome::passed;
    }
    accepted_count_++;
    const endpoint peer = endpoint::from_kernel(storage, bytes);
    auto conn = conns_.adopt(unique_fd{fd}, *family_, *options_.transport,
                             {.origin = conn_origin::accepted,
                              .peer = &peer,
                              .has_user_timeout = options_.socket.user_timeout > duration{0}});
    if (!conn) return outcome::short_of_room; // that one is shed; adopt() closed and counted it
    callback_(owner_, *conn.value(), peer);
    return outcome::accepted;
}

} // namespace weir::inline WEIR_KERNEL
