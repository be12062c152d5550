// inheritance: taking over, and giving on.

#include "tools/inheritance.hpp"

#include <cerrno>
#include <cstring>
#include <utility>

#include "proto/unix.hpp"
#include "tools/options.hpp"

namespace weir::inline WEIR_KERNEL::tools {

namespace {
constexpr duration turn_max = seconds{1}; // the taker's own deadlines bound the whole
} // namespace

void inheritance::take(const listen_place& at) noexcept {
    if (at.at.at.family() != AF_UNIX)
        options::wrong("--takeover", "\"%s\" is no unix address; right would be unix:/run/weir-takeover", at.text);
    at_ = &at;
    loop_.emplace();
    if (auto r = loop_->open(); !r) fail("no event loop: %s", std::strerror(r.error()));
    taker_.emplace(*loop_);
    auto r = taker_->open(unix_stream, at.at.at, {}, {.received = received, .over = over}, this);
    if (!r && (r.error() == ENOENT || r.error() == ECONNREFUSED)) { // nobody: a fresh start
        taker_.reset();
        loop_.reset();
        return;
    }
    if (!r) fail("--takeover %s: %s", at.text, std::strerror(r.error()));
    while (fds_count_ == 0 && !is_over_)
        loop_->turn(turn_max);
    if (is_over_) fail_over();
}

void inheritance::fail_over() noexcept {
    fail("--takeover %s: %s%s%s", at_->text, to_string(end_), error_ ? ": " : "", error_ ? std::strerror(error_) : "");
}

void inheritance::received(void* self, std::span<taken_fd> fds) noexcept {
    inheritance& it = *static_cast<inheritance*>(self);
    for (taken_fd& fd : fds)
        it.fds_[it.fds_count_++] = std::move(fd);
}

void inheritance::over(void* self, takeover_end end, int error) noexcept {
    inheritance& it = *static_cast<inheritance*>(self);
    it.is_over_ = true;
    it.end_ = end;
    it.error_ = error;
}

std::uint32_t inheritance::count(heirloom what) const noexcept {
    std::uint32_t n = 0;
    for (std::size_t i = 0; i < fds_count_; i++)
        n += fds_[i].tag.what == static_cast<std::uint32_t>(what);
    return n;
}

unique_fd inheritance::socket(heirloom what, std::uint32_t index, const endpoint& wanted) noexcept {
    for (std::size_t i = 0; i < fds_count_; i++) {
        taken_fd& it = fds_[i];
        if (it.tag != takeover_tag{static_cast<std::uint32_t>(what), index} || !it.fd) continue;
        auto local = local_endpoint(it.fd.get());
        const bool is_any = wanted.family() != AF_UNIX && wanted.port() == 0;
        if (local && (local.value() == wanted || (is_any && local.value().family() == wanted.family())))
            return std::move(it.fd);
    }
    return unique_fd{};
}

void inheritance::confirm() noexcept {
    if (!taker_) return;
    taker_->ready();
    while (!is_over_)
        loop_->turn(turn_max);
    if (end_ != takeover_end::taken && end_ != takeover_end::taken_alone) fail_over();
    say("took over at %s%s", at_->text, end_ == takeover_end::taken ? "" : "; the old process is gone already");
    taker_.reset();
    loop_.reset();
}

void inheritance::offer(heirloom what, std::uint32_t index, int fd) noexcept {
    if (offers_count_ == offers_.size()) fail("--takeover: more than %zu sockets cannot be passed", offers_.size());
    offers_[offers_count_++] = {.tag = {static_cast<std::uint32_t>(what), index}, .fd = fd};
}

void inheritance::came_to_nothing(void* self, takeover_failure why, int error) noexcept {
    inheritance& it = *static_cast<inheritance*>(self);
    if (!it.limit_->admits(0)) return;
    it.lines_->print("a takeover at %s came to nothing: %s%s%s", it.at_->text, to_string(why), error ? ": " : "",
                     error ? std::strerror(error) : "");
}

void inheritance::tell_left_out(void* self, std::size_t, std::uint64_t count) noexcept {
    static_cast<inheritance*>(self)->lines_->print("a takeover came to nothing: %llu more lines like this were not written",
                                                   static_cast<unsigned long long>(count));
}

void inheritance::give(event_loop& loop, log_writer& lines, void (*taken)(void* owner) noexcept, void* owner) noexcept {
    lines_ = &lines;
    limit_.emplace(loop, line_rate{}, tell_left_out, this);
    taken_ = taken;
    owner_ = owner;
    giver_.emplace(loop);
    const takeover_giver::callbacks told{.taken =
                                             [](void* self) noexcept {
                                                 inheritance& it = *static_cast<inheritance*>(self);
                                                 it.lines_->print("another process has taken over at %s", it.at_->text);
                                                 it.taken_(it.owner_);
                                             },
                                         .failed = came_to_nothing};
    auto r = fds_count_ > 0 ? giver_->adopt(std::move(fds_[0].fd), {}, told, this)
                            : giver_->open(unix_stream, at_->at.at, {}, told, this);
    for (std::size_t i = 0; i < offers_count_ && r; i++)
        r = giver_->offer(offers_[i].tag, offers_[i].fd);
    if (!r) fail("--takeover %s: %s", at_->text, std::strerror(r.error()));
    for (taken_fd& rest : fds_) {
        if (!rest.fd) continue;
        char text[endpoint::text_max];
        const auto at = local_endpoint(rest.fd.get());
        const std::string_view where = at ? at.value().text(text) : std::string_view{"a socket"};
        say("%.*s was the process's before, has no use here, and is closed", static_cast<int>(where.size()),
            where.data());
        rest.fd.reset();
    }
}

void inheritance::stop() noexcept {
    if (limit_) limit_->tell_sums();
    giver_.reset();
}

} // namespace weir::inline WEIR_KERNEL::tools
