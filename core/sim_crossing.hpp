#pragma once
// sim_crossing: one call on its way through the seam, and the ways in which it may be made to fail.
//
// For sys_sim*.cc: each function of sys.hpp makes a crossing, which lets the world go on a little, and answers with
// done(), which writes the call down.

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/sim_kernel.hpp"

namespace weir::inline WEIR_KERNEL {

inline constexpr bool only_asks(call what) noexcept {
    using enum call;
    return what == socket_error || what == local_name || what == peer_name || what == is_listening ||
           what == is_readable || what == peer_user || what == bytes_acked || what == send_queue ||
           what == set_option || what == set_nonblocking || what == peek || what == pipe_room || what == cpus_allowed;
}

// One call on its way through the seam.
class crossing {
  public:
    crossing(call what, int fd, std::int64_t argument = 0) noexcept
        : k(kernel::current()), what_(what), fd_(fd), argument_(argument) {
        k.enter();
        if (file* f = any()) f->used_at = k.log.count() + 1;
    }
    crossing(const crossing&) = delete;
    crossing& operator=(const crossing&) = delete;
    ~crossing() { k.leave(); }

    template <class Value>
    Value done(Value result) noexcept {
        k.log.add({k.time.now, what_, fd_, argument_, result, nullptr});
        const bool carries = what_ == call::recv || what_ == call::recv_with || what_ == call::discard ||
                             what_ == call::send || what_ == call::send_with || what_ == call::splice;
        const bool did_it =
            what_ == call::close ? result != -EBADF : result >= 0; // close(2) closes, and may fail after
        if (carries ? result > 0 : did_it && !only_asks(what_)) k.progress();
        return result;
    }
    // The call names a descriptor that is not what it should be.
    int broken(int error) noexcept {
        const int answer = done(-error);
        if (k.options().strict) k.violate("I2", "a call on a descriptor that is closed, or is something else");
        return answer;
    }

    file* any() noexcept { return k.at(fd_); }
    template <class File>
    File* as(file::kind kind) noexcept {
        file* f = k.at(fd_);
        return f && f->what == kind ? static_cast<File*>(f) : nullptr;
    }
    stream* socket() noexcept { return as<stream>(file::kind::stream); }
    int not_that() noexcept { return broken(any() ? ENOTSOCK : EBADF); }
    // The same for a call that may be asked of any descriptor, to find out.
    int no_socket() noexcept { return any() ? done(-ENOTSOCK) : broken(EBADF); }
    // The errno with which the plan makes it fail, 0: it does not. Once per crossing.
    int planned() noexcept { return k.faults.plan.ask(what_); }
    bool strikes(fault kind) noexcept { return k.faults.strike(kind, k.chance); }

    kernel& k;

  private:
    call what_;
    int fd_;
    std::int64_t argument_;
};

struct ways_to_fail {
    fault kind;
    int error;
};
inline int draw_failure(crossing& c, std::span<const ways_to_fail> ways) noexcept {
    for (const ways_to_fail& way : ways)
        if (c.strikes(way.kind)) return way.error;
    return 0;
}

namespace sys {
// What a stream takes of the parts, by its room and by the faults of sending.
count send_through(crossing& c, stream& s, const iovec* parts, std::size_t parts_count) noexcept;
} // namespace sys

} // namespace weir::inline WEIR_KERNEL
