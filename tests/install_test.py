#!/usr/bin/env python3
"""What is installed is enough: a program finds weir by pkg-config, and runs on Linux and on the simulated kernel.

The one on the simulated kernel is built with UndefinedBehaviorSanitizer as well, the one on Linux against the shared
library and with its own symbols hidden.

usage: install_test.py BUILD_DIR COMPILER...

Installs into BUILD_DIR/installed, which is not where it will be in the end: pkg-config is told by its sysroot.
"""

import os
import pathlib
import shutil
import subprocess
import sys

SIMULATED = """
#include <weir/sim.hpp>

int main() {
    weir::kernel kernel{{.seed = 1}};
    weir::event_loop loop;
    return loop.open() && weir::sys::socket(AF_INET, SOCK_STREAM) >= 3 && kernel.log.count() > 0 ? 0 : 1;
}
"""

# The inline functions that a callback uses are the program's own. They must see the library's state.
NATIVE = """
#include <weir/weir.hpp>

#include <sys/socket.h>

bool heard = false;

weir::verdict hear(weir::connection& conn) noexcept {
    char room[8];
    heard = conn.recv(room, sizeof room).bytes > 0;
    conn.stop_recv();
    conn.want_send();
    return weir::verdict::keep;
}
weir::verdict tell(weir::connection& conn) noexcept { return conn.close(weir::close_intent::after_fin, weir::end_cause::done); }
const weir::data_cb user{.name = "user", .recv = hear, .send = tell, .wake = weir::keep_on};

int main() {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0 || send(ends[1], "x", 1, 0) != 1) return 2;
    weir::event_loop loop;
    weir::conntab conns{loop};
    if (!loop.open() || !conns.open()) return 3;
    auto conn = conns.adopt(weir::unique_fd{ends[0]}, weir::unix_stream);
    if (!conn) return 4;
    conn.value()->attach(user, nullptr);
    conn.value()->want_recv();
    for (int turns = 0; turns < 100 && conns.live_count() > 0; turns++)
        loop.turn(weir::milliseconds{10});
    return heard && conns.live_count() == 0 ? 0 : 1;
}
"""


def main():
    build, compiler = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    if not shutil.which("pkg-config"):
        print("skipped: there is no pkg-config")
        return 77
    root = build / "installed"
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["meson", "install", "-C", str(build), "--no-rebuild", "--quiet", "--tags", "devel", "--destdir", str(root)], check=True)
    [pc] = root.rglob("weir_sim.pc")
    [shared] = build.glob("libweir.so")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent), "PKG_CONFIG_SYSROOT_DIR": str(root)}

    def flags(*what):
        return subprocess.run(["pkg-config", *what], env=environment, check=True, capture_output=True, text=True).stdout.split()

    def run(name, text, *arguments):
        source, program = root / f"{name}.cc", root / name
        source.write_text(text)
        subprocess.run([*compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", str(source), *arguments, "-o", str(program)], check=True)
        status = subprocess.run([program]).returncode
        print(f"{name}: exit status {status}")
        return status == 0

    simulated = flags("--cflags", "--libs", "--static", "weir_sim")
    linked = [str(shared), f"-Wl,-rpath,{shared.parent}"]
    passed = [
        run("simulated", SIMULATED, *simulated),
        run("simulated-sanitized", SIMULATED, *simulated, "-fsanitize=undefined", "-fno-sanitize-recover=all"),
        run("native-hidden", NATIVE, *flags("--cflags", "weir"), "-fvisibility=hidden", *linked),
        run("native-hidden-inlines", NATIVE, *flags("--cflags", "weir"), "-O2", "-fvisibility=hidden", "-fvisibility-inlines-hidden", *linked),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
