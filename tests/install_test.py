#!/usr/bin/env python3
"""What is installed is enough: a program finds weir_sim by pkg-config, and runs on the simulated kernel.

usage: install_test.py BUILD_DIR COMPILER...

Installs into BUILD_DIR/installed, which is not where it will be in the end: pkg-config is told by its sysroot.
"""

import os
import pathlib
import shutil
import subprocess
import sys

PROGRAM = """
#include <weir/sim.hpp>

int main() {
    weir::kernel kernel{{.seed = 1}};
    weir::event_loop loop;
    return loop.open() && weir::sys::socket(AF_INET, SOCK_STREAM) >= 3 && kernel.log.count() > 0 ? 0 : 1;
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
    environment = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent), "PKG_CONFIG_SYSROOT_DIR": str(root)}
    asked = ["pkg-config", "--cflags", "--libs", "--static", "weir_sim"]
    flags = subprocess.run(asked, env=environment, check=True, capture_output=True, text=True).stdout.split()
    source, program = root / "program.cc", root / "program"
    source.write_text(PROGRAM)
    subprocess.run([*compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", str(source), *flags, "-o", str(program)], check=True)
    return subprocess.run([program]).returncode


if __name__ == "__main__":
    sys.exit(main())
