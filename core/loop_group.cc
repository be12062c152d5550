// loop_group: starting members, telling them, and waiting for their ends.

#include "core/loop_group.hpp"

#include <new>

namespace weir::inline WEIR_KERNEL {

loop_group::~loop_group() { EXPECT(!is_up_); }

result<void> loop_group::open(const loop_group_options& options) noexcept {
    EXPECT(!members_ && options.loops_count > 0 && options.set_up != nullptr && options.tear_down != nullptr);
    options_ = options;
    members_.reset(new (std::nothrow) member[options.loops_count]);
    if (!members_) return failure{ENOMEM};
    size_ = options.loops_count;
    for (std::uint32_t i = 0; i < size_; i++) {
        members_[i].home = this;
        members_[i].index = i;
        for (std::uint32_t what = 0; what < messages_max; what++) {
            message& m = members_[i].messages[what];
            m.to = &members_[i];
            m.what = what;
            m.l.run = [](letter& l) noexcept {
                message& self = container_of<&message::l>(l);
                self.under_way.store(false); // told again from here on is another message
                if (!self.to->is_up) return;
                const loop_group_options& how = self.to->home->options_;
                how.told(how.owner, self.to->loop, self.to->index, self.what);
            };
        }
    }

    if (size_ > 1)
        if (auto r = start_.open({.fd_max = options.loop.fd_max}); !r) return r;
    int error = start(members_[0]);
    if (error != 0) return failure{error};
    std::uint32_t started = 1;
    for (; started < size_; started++) {
        member& m = members_[started];
        m.up.run = [](letter& l) noexcept { container_of<&member::up>(l).home->up_count_++; };
        error = -sys::thread_start(m.thread, live, &m);
        if (error != 0) break;
    }
    await_start(started - 1);
    for (std::uint32_t i = 1; i < started && error == 0; i++)
        error = members_[i].error;
    if (error != 0) {
        tear_down(members_[0]);
        end(started);
        return failure{error};
    }
    is_up_ = true;
    return {};
}

void loop_group::await_start(std::uint32_t others) noexcept {
    while (up_count_ < others)
        start_.turn(seconds{60});
}

// A member but the first: its whole thread.
void* loop_group::live(void* self) noexcept {
    member& m = *static_cast<member*>(self);
    m.error = start(m);
    const bool is_up = m.is_up;
    m.home->start_.post(m.up); // releases `error`
    if (!is_up) return nullptr;
    m.loop.run();
    tear_down(m);
    return nullptr;
}

void loop_group::tear_down(member& m) noexcept {
    m.is_up = false;
    const loop_group_options& how = m.home->options_;
    how.tear_down(how.owner, m.loop, m.index);
}

int loop_group::start(member& m) noexcept {
    const loop_group_options& how = m.home->options_;
    if (auto r = m.loop.open(how.loop); !r) return r.error();
    const auto r = how.set_up(how.owner, m.loop, m.index);
    m.is_up = r.ok();
    return r ? 0 : r.error();
}

void loop_group::run() noexcept {
    EXPECT(is_up_);
    members_[0].loop.run();
    tear_down(members_[0]);
    end(0);
    is_up_ = false;
}

// Waits for the threads of members 1 .. ; those that have been started are stopped first, unless they end by
// themselves.
void loop_group::end(std::uint32_t started) noexcept {
    for (std::uint32_t i = 1; i < started; i++)
        if (members_[i].error == 0) members_[i].loop.stop();
    for (std::uint32_t i = 1; i < (started > 0 ? started : size_); i++)
        sys::thread_join(members_[i].thread);
}

void loop_group::tell(std::uint32_t what) noexcept {
    EXPECT(what < messages_max && options_.told != nullptr);
    for (std::uint32_t i = 0; i < size_; i++) {
        message& m = members_[i].messages[what];
        if (!m.under_way.exchange(true)) members_[i].loop.post(m.l);
    }
}

void loop_group::stop() noexcept {
    for (std::uint32_t i = 0; i < size_; i++)
        members_[i].loop.stop();
}

} // namespace weir::inline WEIR_KERNEL
