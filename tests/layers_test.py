#!/usr/bin/env python3
"""What every file of the library keeps, and a compiler does not check.

- A file includes only files above it in the lists of core/meson.build and proto/meson.build, which come by argument.
- Only core/sys* includes system headers: sockets, epoll, signals, clocks.
- A header starts with `#pragma once` and `// NAME: what it is`.
- A file has at most 400 lines, or there is a reason. No comment puts work off.
- Every file belongs to a header in the lists.
"""

import argparse
import pathlib
import re
import sys

LINES_MAX = 400
LONG_FILES = {}  # path: the reason
UPWARD = {
    ("core/xprt.cc", "core/connection.hpp"): "the raw transport is made of a connection's calls; the table only names them",
    ("core/redial.cc", "core/connection.hpp"): "a connect that is repeated is a connection's; the table only names it",
    ("proto/client_places.cc", "proto/client_gate.hpp"): "places are given to gates; the header only names them",
    ("core/sys_sim.cc", "core/sim_crossing.hpp"): "the simulated side of the seam stands on the simulated kernel, which knows endpoints",
    ("core/sys_sim_sockets.cc", "core/sim_crossing.hpp"): "as above",
    ("core/sys_sim_pipes.cc", "core/sim_crossing.hpp"): "as above",
    ("core/sys_sim_names.cc", "core/sim_crossing.hpp"): "as above",
    ("core/sys_sim_pipes.cc", "core/sim_pipe.hpp"): "as above",
    ("core/sim_stream.cc", "core/sim_network.hpp"): "streams and the network between them are one machine in two files",
    ("core/sim_network.cc", "core/sim_remote.hpp"): "a remote is a stream's end, and the network hands streams out",
    ("core/sim_network_connect.cc", "core/sim_remote.hpp"): "as above",
}

STANDARD_HEADER = re.compile(r"[a-z0-9_]+|[a-z]*intrin\.h")  # <vector> has no dot; <emmintrin.h> is the processor's
C_HEADERS_OF_THE_SYSTEM = {"csignal", "ctime"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
PUT_OFF = re.compile(r"\b(TODO|FIXME|XXX)\b")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, required=True, help="the source tree")
    parser.add_argument("--headers", nargs="+", required=True, help="all headers in reading order")
    parser.add_argument("--parts", nargs="*", default=[], help="pieces of a header: core/sys_native.hpp belongs to core/sys.hpp")
    parser.add_argument("--ground", nargs="+", required=True, help="the headers that the parsers may include")
    parser.add_argument("--parsers", nargs="*", default=[], help="the headers that may include only the ground and each other")
    return parser.parse_args()


class Layers:
    def __init__(self, arguments):
        self.root = arguments.root
        self.rank = {header: i for i, header in enumerate(arguments.headers)}
        self.parts = {part: part.split("_")[0] + ".hpp" for part in arguments.parts}
        self.ground = set(arguments.ground)
        self.parsers = set(arguments.parsers)
        self.complaints = []

    def complain(self, path, number, text):
        self.complaints.append(f"{path}:{number}: {text}")

    def home(self, path):
        """The listed header that a file belongs to: core/loop.cc to core/loop.hpp, and x_part.cc to x.hpp if that has
        several sources. None if there is none."""
        header = str(pathlib.PurePath(path).with_suffix(".hpp"))
        header = self.parts.get(header, header)
        while header not in self.rank and "_" in header:
            header = header.rpartition("_")[0] + ".hpp"
        return header if header in self.rank else None

    def check(self, path):
        lines = (self.root / path).read_text().splitlines()
        if path.endswith(".hpp"):
            self.check_opening(path, lines)
        if len(lines) > LINES_MAX and path not in LONG_FILES:
            self.complain(path, len(lines), f"longer than {LINES_MAX} lines; split it, or give the reason in LONG_FILES")

        home = self.home(path)
        if home is None:
            self.complain(path, 1, "belongs to no header in core/meson.build or proto/meson.build")
        for number, line in enumerate(lines, 1):
            if PUT_OFF.search(line):
                self.complain(path, number, "do it or leave it out: " + line.strip())
            include = INCLUDE.match(line)
            if include and home:
                self.check_include(path, number, home, *include.groups())

    def check_opening(self, path, lines):
        name = pathlib.PurePath(path).stem
        if lines[:1] != ["#pragma once"]:
            self.complain(path, 1, "a header starts with #pragma once")
        elif not re.match(rf"// {name}: \S", "".join(lines[1:2])):
            self.complain(path, 2, f"say what it is: // {name}: ...")

    def check_include(self, path, number, home, quote, included):
        if quote == "<":
            of_system = not STANDARD_HEADER.fullmatch(included) or included in C_HEADERS_OF_THE_SYSTEM
            if of_system and home != "core/sys.hpp":
                self.complain(path, number, f"<{included}> belongs to core/sys.hpp")
            return

        target = self.home(included)
        if target is None:
            self.complain(path, number, f'"{included}" is in no list')
            return
        if included in self.parts and home != target:
            self.complain(path, number, f'"{included}" is reached through "{target}"')
        if self.rank[target] > self.rank[home] and (path, included) not in UPWARD:
            self.complain(path, number, f'"{included}" stands below {home} in the reading order')
        if home in self.parsers and target not in self.ground | self.parsers:
            self.complain(path, number, f'{home} does no input or output, so it cannot know "{included}"')

    def check_all(self):
        files = sorted(
            str(path.relative_to(self.root))
            for room in ("core", "proto")
            for path in (self.root / room).iterdir()
            if path.suffix in (".hpp", ".cc")
        )
        for path in files:
            self.check(path)
        for path in LONG_FILES:
            if path not in files:
                self.complain("tests/layers_test.py", 1, f"LONG_FILES names {path}, which is not there")
        return len(files)


def main():
    layers = Layers(parse_arguments())
    count = layers.check_all()
    for complaint in layers.complaints:
        print(complaint)
    print(f"{count} files, {len(layers.complaints)} complaints")
    return 1 if layers.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
