#!/usr/bin/env python3
"""Counts what ran: the last line is `N passed, N failed`, and `, N skipped` when some were.

A doctest program counts by test case, a program whose last line is itself `N passed, N failed` by that line, and
everything else as one. Reads the logs that `meson test` leaves (JSON, one test a line).

meson hides what a test that passed has printed. Before the last line stands what of it says how much was tried: lines
that begin with `total:`, what the fuzzers did, what the simulator met by harness, what each mutant died of. Behind that
stands what failed, with the lines that say why.
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


EVIDENCE = re.compile(r"FAIL|ERROR|^seed \d+: |contract broken|ThreadSanitizer|runtime error:")
AROUND = 12  # lines on each side of a line of EVIDENCE, and at the end
MOST_LINES = 60  # of one test; the last line of EVIDENCE may exceed it by its surroundings


def evidence(test):
    """The lines in which a failed test says what failed; "..." stands for those left out."""
    lines = [*(test.get("stdout") or "").splitlines(), *(test.get("stderr") or "").splitlines()]
    shown = set(range(max(len(lines) - AROUND, 0), len(lines)))
    for at, line in enumerate(lines):
        if EVIDENCE.search(line) and len(shown) < MOST_LINES:
            shown.update(range(max(at - AROUND, 0), min(at + AROUND + 1, len(lines))))
    for at in sorted(shown):
        if at > 0 and at - 1 not in shown:
            yield "..."
        yield lines[at]


TABLES = ("faults", "twists", "peers and answers", "causes of an end")  # as weir-simtest prints them
MUTANT = re.compile(r"^(.{58}) (\S+)\s+(.* seed \d+: .*|SURVIVED .*|FAILED: .*)$")  # as mutants.py prints them
ROW = re.compile(r"^  (\S.*?)\s{2,}(\d+)$")


class Tables:
    """What the simulator's harnesses met, a column for each, and what the mutants died of: of the first log that has them."""

    def __init__(self):
        self.columns = []
        self.rows = {}  # (table, kind): {harness: how often}
        self.mutants = []
        self.where = None

    def add(self, test, where):
        stdout, name = test.get("stdout") or "", test["name"].split(" / ")[-1]
        if name == "mutants" and not self.mutants:
            self.mutants = [f"{row[1]} {row[2]}" for row in map(MUTANT.match, stdout.splitlines()) if row]
        if not any(line in TABLES for line in stdout.splitlines()) or self.where not in (None, where):
            return
        self.where = where
        harness = name.removeprefix("sim ")
        if " " in harness:  # all of them at once
            return
        self.columns.append(harness)
        table = None
        for line in stdout.splitlines():
            row = ROW.match(line)
            if row and table:
                self.rows.setdefault((table, row[1]), {})[harness] = int(row[2])
            elif not row:
                table = line if line in TABLES else None

    def print(self):
        for title in TABLES if self.columns else ():
            print(f"\n{self.where}: {title:23}" + "".join(f"{name:>12}" for name in self.columns))
            for (table, kind), counts in self.rows.items():
                cells = (str(counts.get(name) or "-") for name in self.columns)
                if table == title:
                    print(f"  {kind:{len(self.where) + 23}}" + "".join(f"{cell:>12}" for cell in cells))
        if self.mutants:
            print(f"\n{'mutant':58} killed by", *self.mutants, sep="\n")
        if self.columns or self.mutants:
            print()


def print_totals(test, where):
    """What a test tells of how much it tried."""
    stdout, name = test.get("stdout") or "", test["name"].split(" / ")[-1]
    told = [line for line in stdout.splitlines() if line.startswith(("total: ", "fuzz "))]
    for line in told if test["result"] in GOOD else []:
        print(line if line.startswith("fuzz ") else f"{where}: {name}: {line.removeprefix('total: ')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", nargs="*", default=[], type=pathlib.Path, help="meson-logs/*.json")
    parser.add_argument("--failed-builds", nargs="*", default=[], help="names of builds that failed: one failure each")
    arguments = parser.parse_args()

    passed, failed, skipped = 0, len(arguments.failed_builds), 0
    failures = [f"failed: the build {name}" for name in arguments.failed_builds]
    tables = Tables()
    for log in arguments.logs:
        if not log.exists():
            failures.append(f"failed: {log} was not written")
            failed += 1
            continue
        for test in map(json.loads, log.read_text().splitlines()):
            counts = count(test)
            print_totals(test, log.stem.removesuffix("-all"))
            tables.add(test, log.stem.removesuffix("-all"))
            if counts[1]:
                failures.append(f"failed: {test['name']} ({test['result']}), {log.parent.parent.name}")
                failures += (f"    {line}" for line in evidence(test))
            passed, failed, skipped = passed + counts[0], failed + counts[1], skipped + counts[2]

    tables.print()
    if passed + failed == 0:
        failures.append("failed: nothing ran")
        failed = 1
    if failures:
        print(*failures, sep="\n")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
