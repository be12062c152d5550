// sim_remote: the calls of those who have no descriptor, and how the network keeps them.

#include "core/sim_remote.hpp"

#include <utility>

#include "core/sim_network.hpp"

namespace weir::inline WEIR_KERNEL {

sys::count remote::send(std::string_view bytes) noexcept {
    const sys::count n = stream_->send(bytes.data(), bytes.size());
    net_.log.add({net_.time.now, call::remote_send, number_, static_cast<std::int64_t>(bytes.size()), n, nullptr});
    return n;
}

sys::count remote::recv(std::span<char> to) noexcept {
    const sys::count n = stream_->recv(to.data(), to.size(), stream::reading::take);
    net_.log.add({net_.time.now, call::remote_recv, number_, static_cast<std::int64_t>(to.size()), n, nullptr});
    return n;
}

void remote::shutdown_send() noexcept {
    const int r = stream_->shutdown_send();
    net_.log.add({net_.time.now, call::remote_shutdown, number_, 0, r, nullptr});
}

void remote::close() noexcept {
    net_.log.add({net_.time.now, call::remote_close, number_, 0, 0, nullptr});
    leave();
}

void remote::reset() noexcept {
    net_.log.add({net_.time.now, call::remote_reset, number_, 0, 0, nullptr});
    stream_->linger_zero = true;
    leave();
}

void remote::leave() noexcept {
    serial_++;
    stream& s = *std::exchange(stream_, nullptr);
    s.close();
    net_.release(*this);
}

void remote::wake_in(duration from_now) noexcept {
    net_.time.plan(
        net_.time.now + from_now,
        [](void* at, std::uint32_t serial) noexcept { static_cast<remote*>(at)->run(serial); }, this, serial_);
}

time_point remote::now() const noexcept { return net_.time.now; }
dice& remote::chance() const noexcept { return net_.chance; }

void remote::begin(const remote_cb& table, void* who) noexcept {
    table_ = &table;
    owner = who;
    stirred_ = false;
}

void remote::take(stream& s) noexcept {
    stream_ = &s;
    s.driver = this;
}

bool remote::mark_stirred() noexcept { return !std::exchange(stirred_, true); }

void remote::run(std::uint32_t serial) noexcept {
    if (serial != serial_ || !stream_) return;
    stirred_ = false;
    table_->run(*this);
}

// ---- the network's side

remote& network::make_remote(const remote_cb& table, void* owner) noexcept {
    if (remotes_free_.empty()) {
        remotes_.push_back(std::make_unique<remote>(*this, static_cast<int>(remotes_.size())));
        remotes_free_.push_back(remotes_.back().get());
    }
    remote& r = *remotes_free_.back();
    remotes_free_.pop_back();
    remotes_live_++;
    r.begin(table, owner);
    return r;
}

remote& network::dial(const endpoint& from, const endpoint& to, const remote_cb& table, void* owner) noexcept {
    remote& r = make_remote(table, owner);
    stream& s = make(to.family());
    s.local = from;
    s.other = to;
    r.take(s);
    s.at = stream::phase::connecting;
    time.plan(time.now + 2 * s.delay, connect_now, &s, s.serial);
    log.add({time.now, call::remote_connect, r.number(), to.port(), 0, nullptr});
    return r;
}

void network::release(remote& r) noexcept {
    remotes_live_--;
    remotes_free_.push_back(&r);
}

void network::stir(remote& r) noexcept {
    if (!r.mark_stirred()) return;
    const duration wait = chance.between(duration{1000}, options.reaction_max);
    time.plan(time.now + wait, run_remote, &r, r.serial());
}

void network::run_remote(void* at, std::uint32_t serial) noexcept { static_cast<remote*>(at)->run(serial); }

} // namespace weir::inline WEIR_KERNEL
