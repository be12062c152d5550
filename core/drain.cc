// drain: looking now and then whether all have ended.

#include "core/drain.hpp"

namespace weir::inline WEIR_KERNEL {

namespace {
constexpr duration grain = milliseconds{10};
} // namespace

void drain_watch::begin(conntab& conns, duration limit, callback over, void* owner) noexcept {
    EXPECT(!next_look_.armed());
    EXPECT(over != nullptr);
    conns_ = &conns;
    over_ = over;
    owner_ = owner;
    until_ = later(conns.loop().now(), limit);
    conns.loop().arm(next_look_, conns.loop().now());
}

void drain_watch::look(timer& t, time_point now) noexcept {
    drain_watch& self = container_of<&drain_watch::next_look_>(t);
    if (self.conns_->live_count() == 0 || now >= self.until_) self.over_(self.owner_);
    else self.conns_->loop().arm(t, later(now, grain)); // now() may be far ahead, after a stop
}

} // namespace weir::inline WEIR_KERNEL
