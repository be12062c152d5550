// child: fork, and the end.

#include "tools/child.hpp"

#include <csignal>
#include <cstdlib>
#include <cstring>

#include <sys/prctl.h>
#include <sys/wait.h>

#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

pid_t fork_child(int keep) noexcept {
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid < 0) fail("no process can be made: %s", std::strerror(errno));
    if (pid > 0) return pid;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) std::_Exit(1); // it ended before that was said
    if (keep != 3 && ::dup2(keep, 3) < 0) std::_Exit(1);
    if (::close_range(4, ~0U, 0) < 0) std::_Exit(1); // it would keep its parent's sockets open
    return 0;
}

void end_process(pid_t pid, int signal) noexcept {
    ::kill(pid, signal);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
}

} // namespace weir::inline WEIR_KERNEL::tools
