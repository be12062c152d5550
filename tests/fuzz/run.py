#!/usr/bin/env python3
"""Runs the fuzzers of a build for a while, two at a time, from the committed corpus.

New inputs go to a scratch directory; a crash keeps its input and says how to replay it. Prints executions and coverage
for each target, and leaves a log that tests/support/tally.py counts.
"""

import argparse
import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
STACK = 80  # lines of a report that are worth showing: 60 calls of the simulator, what is wrong, where


def run_target(program, seconds, seed, kept):
    """(name, whether all went well, what to print)."""
    name = program.name.removeprefix("weir-fuzzer-")
    corpus, dictionary = HERE / "corpus" / name, HERE / f"{name}.dict"
    before = set(kept.glob("*"))
    with tempfile.TemporaryDirectory(prefix=f"weir-fuzz-{name}-") as scratch:
        command = [program, f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=2048",
                   f"-artifact_prefix={kept}/{name}-", "-print_final_stats=1", f"-dict={dictionary}", scratch, corpus]
        done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode == 0:
        runs = re.search(r"number_of_executed_units: (\d+)", done.stdout)
        coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stdout)
        if not runs or not coverage:
            return name, False, f"fuzz {name}: FAILED: it says neither runs nor coverage: {done.stdout[-2000:]}"
        edges, features, _ = coverage[-1]
        return name, True, f"fuzz {name:12} {int(runs[1]):>10} runs, {edges} edges, {features} features"
    lines = [line for line in done.stdout.splitlines() if not re.match(r"#\d+\s|INFO:|Dictionary:|\s*NEW_FUNC", line)]
    tail = [line for line in lines[STACK:] if line.startswith("Base64: ")]  # the input, for where only this text is left
    inputs = sorted(str(path) for path in set(kept.glob(f"{name}-*")) - before)
    replay = [f"replay: {program} {path}" for path in inputs] or ["it left no input"]
    return name, False, "\n".join([f"fuzz {name}: FAILED with {done.returncode}", *lines[:STACK], *tail, *replay])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True, type=pathlib.Path, help="built with -Dfuzz=true")
    parser.add_argument("--seconds", default=30, type=int, help="for each target")
    parser.add_argument("--seed", default=1, type=int, help="of the first mutation; 0: another one each time")
    parser.add_argument("--log", required=True, type=pathlib.Path, help="JSON, one target a line")
    arguments = parser.parse_args()

    programs = sorted(p for p in (arguments.build / "tests").glob("weir-fuzzer-*") if p.is_file())
    kept = (arguments.build / "crashes").resolve()
    kept.mkdir(exist_ok=True)
    all_well = bool(programs)
    with concurrent.futures.ThreadPoolExecutor(2) as pool, arguments.log.open("w") as log:
        for name, well, text in pool.map(lambda p: run_target(p.resolve(), arguments.seconds, arguments.seed, kept), programs):
            print(text, flush=True)
            log.write(json.dumps({"name": f"fuzz {name}", "result": "OK" if well else "FAIL", "stdout": text}) + "\n")
            all_well = all_well and well
    sys.exit(0 if all_well else 1)


if __name__ == "__main__":
    main()
