#!/usr/bin/env python3
"""The same seed gives the same run: twice by one program, and by the programs of two compilers.

usage: hashes.py SIMTEST HASHES [seeds]

Compares the hashes of what two processes do with one after the other and with every second seed, and writes them to
HASHES. Where WEIR_HASHES names such a file that another build has written from the same sources, they are compared
with those, too: tools/check gives that of g++ to the others.
"""

import hashlib
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def sources():
    """Of all that decides about a run."""
    digest = hashlib.sha256()
    for room in ("core", "proto", "tests/sim", "tests/support"):
        for path in sorted((ROOT / room).rglob("*.[hc][pc]*")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def hashes(simtest, seeds, jobs):
    command = [simtest, "--hash", "--seeds", f"1..{seeds}", "--jobs", str(jobs)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return sorted(ran.stdout.splitlines(), key=lambda line: (line.split()[0], int(line.split()[1])))


def differing(these, those):
    """How many differ; the first few are told."""
    differ = sorted(set(these) ^ set(those))
    for line in differ[:8]:
        print(line)
    return len(differ)


def main():
    simtest, own = sys.argv[1], pathlib.Path(sys.argv[2])
    seeds = int(sys.argv[3]) if len(sys.argv) > 3 else 50
    once = hashes(simtest, seeds, 1)
    failed = int(differing(once, hashes(simtest, seeds, 2)) > 0)
    text = "\n".join([sources(), *once]) + "\n"
    own.write_text(text)

    other, skipped, compared = os.environ.get("WEIR_HASHES"), 0, "twice"
    if other:
        theirs = pathlib.Path(other).read_text().splitlines() if pathlib.Path(other).exists() else [""]
        if theirs[0] != sources():
            print(f"{other} is of other sources, or is not there")
            skipped = 1
        else:
            compared = "twice, and once in another build"
            failed += differing(once, theirs[1:]) > 0
    print(f"total: {len(once)} runs {compared}, {failed} of these comparisons failed")
    print(f"{1 + bool(other) - failed - skipped} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not once else 0


if __name__ == "__main__":
    sys.exit(main())
