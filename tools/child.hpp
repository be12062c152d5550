#pragma once
// child: processes of a tool's own, which do not outlive it.

#include <sys/types.h>

#include "core/sys.hpp"

namespace weir::inline WEIR_KERNEL::tools {

// As fork(2): 0 in the child, which keeps nothing of its parent's but stdin, stdout, stderr and `keep`, which becomes
// 3, and which is killed when its parent ends. Ends the program with 1 if there can be no process.
pid_t fork_child(int keep) noexcept;

// Sends the signal to a child and waits for its end.
void end_process(pid_t pid, int signal) noexcept;

} // namespace weir::inline WEIR_KERNEL::tools
