#pragma once
// dies: does a piece of code break a contract? It is run in a child process, so that the answer can be yes.
//
//     CHECK(dies([&] { pool.free(stranger); }, "owns(object)"));

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <sys/wait.h>
#include <unistd.h>

namespace support {

// True when `act` is stopped by an EXPECT whose text contains `fact`. What `act` does is not seen here otherwise.
template <class Act>
[[nodiscard]] bool dies(Act&& act, std::string_view fact) {
    int ends[2];
    if (pipe(ends) != 0) return false;
    std::fflush(nullptr);

    const pid_t child = fork();
    if (child == 0) {
        std::signal(SIGABRT, SIG_DFL); // doctest would report the abort as its own
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        act();
        _exit(0);
    }
    close(ends[1]);

    std::string said;
    char chunk[512];
    for (ssize_t n; (n = read(ends[0], chunk, sizeof chunk)) > 0;)
        said.append(chunk, static_cast<std::size_t>(n));
    close(ends[0]);

    int status = 0;
    const bool waited = child > 0 && waitpid(child, &status, 0) == child;
    const bool aborted = waited && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
    return aborted && said.find("contract broken") != said.npos && said.find(fact) != said.npos;
}

} // namespace support
