#pragma once
// unique_fd: owns one file descriptor and closes it, once.

#include <utility>

#include "core/contract.hpp"
#include "core/sys.hpp"

namespace weir::inline WEIR_KERNEL {

class unique_fd {
  public:
    unique_fd() noexcept = default;
    explicit unique_fd(int fd) noexcept : fd_(fd) {} // owns fd from now on; negative: nothing
    unique_fd(unique_fd&& other) noexcept : fd_(other.release()) {}
    unique_fd& operator=(unique_fd&& other) noexcept {
        if (this != &other) reset(other.release());
        return *this;
    }
    ~unique_fd() { reset(); }

    explicit operator bool() const noexcept { return fd_ >= 0; }
    int get() const noexcept { return fd_; }

    // Gives the descriptor up: the caller closes it.
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }

    void reset(int fd = -1) noexcept {
        if (fd_ >= 0) {
            const int r = sys::close(fd_); // an error tells of earlier writes; the descriptor is gone all the same,
            EXPECT(r != -EBADF);           // unless somebody else has closed it
        }
        fd_ = fd;
    }

  private:
    int fd_ = -1;
};

} // namespace weir::inline WEIR_KERNEL
