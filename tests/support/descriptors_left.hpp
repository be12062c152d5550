#pragma once
// descriptors_left: a process that may open so many descriptors more.

#include <doctest/doctest.h>

#include <sys/resource.h>
#include <unistd.h>

namespace support {

// While it lives, the process can open exactly `more` descriptors.
class descriptors_left {
  public:
    explicit descriptors_left(rlim_t more) {
        REQUIRE(getrlimit(RLIMIT_NOFILE, &was_) == 0);
        const int lowest = dup(STDOUT_FILENO);
        REQUIRE(lowest >= 0);
        close(lowest);
        rlimit now = was_;
        now.rlim_cur = static_cast<rlim_t>(lowest) + more;
        REQUIRE(setrlimit(RLIMIT_NOFILE, &now) == 0);
    }
    ~descriptors_left() { setrlimit(RLIMIT_NOFILE, &was_); }

  private:
    rlimit was_;
};

} // namespace support
