#!/usr/bin/env python3
"""What reading a head costs: instructions per byte over the worst heads of each limit, counted exactly under callgrind."""

import os
import pathlib
import re
import subprocess
import tempfile

import rig
from rig import Skipped, need

PROGRAM = os.environ.get("WEIR_HEAD_WORK", rig.TOOLS.parent / "tests" / "weir-head-work")
FUNCTION = "weir_measured_parse"
PER_BYTE_MAX = 200
PER_CALL = 400  # what each parse() and start() costs, however few bytes came


def counted():
    """(bytes, fields, name, instructions) of each head."""
    need("valgrind")
    if not pathlib.Path(PROGRAM).exists():
        raise Skipped(f"{PROGRAM} was not built")
    with tempfile.TemporaryDirectory() as place:
        out = pathlib.Path(place) / "out"
        done = subprocess.run(["valgrind", "--tool=callgrind", f"--toggle-collect={FUNCTION}", f"--dump-after={FUNCTION}",
                               "--combine-dumps=yes", f"--callgrind-out-file={out}", PROGRAM],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
        totals = [int(n) for n in re.findall(r"^totals: (\d+)", out.read_text(), re.MULTILINE)]
    heads = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert len(heads) >= 40, done.stdout
    assert len(totals) >= len(heads), f"{len(heads)} heads, {len(totals)} counts"
    return [(int(size), int(fields), name, count) for (size, fields, name), count in zip(heads, totals)]


def test_linear():
    """no head costs more than 200 instructions per byte, whatever it is made of, small or large"""
    worst = []
    for size, fields, name, count in counted():
        print(f"           {count / size:6.1f} per byte: {size} bytes, {fields} fields, {name}")
        assert count > size / 16, f"{name}: {count} instructions were counted"
        if count > PER_BYTE_MAX * size + PER_CALL:
            worst.append(f"{name}: {count / size:.0f} instructions per byte of {size}")
    assert not worst, worst


rig.main(globals())
