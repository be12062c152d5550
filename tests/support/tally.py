#!/usr/bin/env python3
"""Counts what ran: the last line is `N passed, N failed`, and `, N skipped` when some were.

A doctest program counts by test case, a program whose last line is itself `N passed, N failed` by that line, and
everything else as one. Reads the logs that `meson test` leaves (JSON, one test a line).

meson hides what a test that passed has printed. Before the last line stands what of it says how much was tried: lines
that begin with `total:`, a simulator's table of marks in one line, what the fuzzers did.
"""

import argparse
import json
import pathlib
import re
import sys

DOCTEST = re.compile(r"\[doctest\] test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed")
OWN_COUNT = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$")

GOOD = {"OK", "EXPECTEDFAIL"}
SKIPPED = {"SKIP", "IGNORED"}


def count(test):
    """(passed, failed, skipped) of one test."""
    result = test["result"]
    if result in SKIPPED:
        return 0, 0, 1
    if result == "EXPECTEDFAIL":
        return 1, 0, 0

    lines = (test.get("stdout") or "").rstrip().splitlines()
    cases = DOCTEST.search("\n".join(lines)) or (lines and OWN_COUNT.match(lines[-1]))
    passed, failed, skipped = (int(n or 0) for n in (*cases.groups(), 0)[:3]) if cases else (0, 0, 0)
    if result in GOOD:
        return (passed, failed, skipped) if cases else (1, 0, 0)
    # Failed without a failed case: a crash, a timeout, a sanitizer's last word.
    return passed, max(failed, 1), skipped


MARK = re.compile(r"^  (\S.*?)\s{2,}(\d+)$")
MARKED = {"faults": "faults", "peers and answers": "kinds of peers and answers"}


def marks(stdout):
    """A table of marks in one line: of each kind of thing how many were seen of how many, and the rarest."""
    tables, table = {}, None
    for line in stdout.splitlines():
        row = MARK.match(line)
        if row and table is not None:
            table.append((int(row[2]), row[1]))
        elif not row:
            table = tables.setdefault(line, []) if line in MARKED else None
    parts = []
    for title, rows in tables.items():
        seen = [row for row in rows if row[0] > 0]
        if seen:
            rarest = "%s %d times" % min(seen)[::-1]
            parts.append(f"{len(seen)} of {len(rows)} {MARKED[title]} (rarest: {rarest})")
    return ", ".join(parts)


def print_totals(test, where):
    """What a test tells of how much it tried."""
    stdout, name = test.get("stdout") or "", test["name"].split(" / ")[-1]
    told = [line for line in stdout.splitlines() if line.startswith(("total: ", "fuzz "))]
    for line in told if test["result"] in GOOD else []:
        print(line if line.startswith("fuzz ") else f"{where}: {name}: {line.removeprefix('total: ')}")
    runs = re.search(r"^(\d+) runs, ", test.get("stderr") or "", re.MULTILINE)
    if runs and marks(stdout):
        print(f"{where}: {name}: {runs[1]} runs, {marks(stdout)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", nargs="*", default=[], type=pathlib.Path, help="meson-logs/*.json")
    parser.add_argument("--failed-builds", nargs="*", default=[], help="names of builds that failed: one failure each")
    arguments = parser.parse_args()

    passed, failed, skipped = 0, len(arguments.failed_builds), 0
    for name in arguments.failed_builds:
        print(f"failed: the build {name}")
    for log in arguments.logs:
        if not log.exists():
            print(f"failed: {log} was not written")
            failed += 1
            continue
        for test in map(json.loads, log.read_text().splitlines()):
            counts = count(test)
            print_totals(test, log.stem.removesuffix("-all"))
            if counts[1]:
                print(f"failed: {test['name']} ({test['result']}), {log.parent.parent.name}")
            passed, failed, skipped = passed + counts[0], failed + counts[1], skipped + counts[2]

    if passed + failed == 0:
        print("failed: nothing ran")
        failed = 1
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
