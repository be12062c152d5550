#!/usr/bin/env python3
"""Breaks the library in each way of mutants_table.py, and requires that a simulated run dies of it.

usage: mutants.py [options] BUILD_DIR [NAME...]

A mutant is one source with a few words changed. It is compiled as weir_sim is (the flags come from the build's
compile_commands.json), linked in front of libweir_sim.a with the objects of weir-simtest, and run on the seeds of its
harness in order until one dies. A mutated header is put in front of the include path, and whatever includes it is
compiled again. NAME: only mutants whose name contains it.

What it dies of is compared with the table. Another draw of the runs may bring another invariant first, so an unlisted
one is only noted, unless asked to be strict.

  --jobs N      how many at a time (default: 2)
  --seeds N     how many seeds a mutant may survive (default: 10000)
  --every N     only each Nth of them (default: WEIR_MUTANTS_EVERY, or 1)
  --strict      who dies of what the table does not list fails, too

exit status: 0 every mutant died, 1 one survived, hung or could not be made, 2 usage
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

from mutants_table import MUTANTS

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN_SECONDS_MAX = 300
NO_DEATH = {"hang", "?"}  # it did not end, or ended without a word of what is wrong
VIOLATION = re.compile(r"^seed (\d+): (\S+): (.*)$", re.MULTILINE)
CONTRACT = re.compile(r"^weir: contract broken at \S*?([^/\s]+:\d+): (.*)$", re.MULTILINE)


class Build:
    """What the build directory knows of weir_sim and weir-simtest."""

    def __init__(self, directory):
        self.directory = directory
        self.commands = {}  # source relative to the root: the words that compile it, without output and input
        self.objects = {}  # the same: its object file
        simtest = []
        for entry in json.loads((directory / "compile_commands.json").read_text()):
            output = entry["output"]
            if not output.startswith(("libweir_sim.a.p/", "tests/weir-simtest.p/")) or not output.endswith(".o"):
                continue
            source = str((directory / entry["file"]).resolve().relative_to(ROOT))
            words = shlex.split(entry["command"])
            self.commands[source] = words[: words.index("-MD")]
            self.objects[source] = output
            if output.startswith("tests/"):
                simtest.append(output)
        self.simtest = simtest
        self.includers = self.read_dependencies()

    def read_dependencies(self):
        """header: the sources that include it, however indirectly."""
        includers = {}
        text = subprocess.run(["ninja", "-t", "deps"], cwd=self.directory, check=True, capture_output=True, text=True)
        sources = {output: source for source, output in self.objects.items()}
        source = None
        for line in text.stdout.splitlines():
            if not line.startswith(" "):
                source = sources.get(line.partition(":")[0])
            elif source and line.strip():
                path = (self.directory / line.strip()).resolve()
                if path.is_relative_to(ROOT):
                    includers.setdefault(str(path.relative_to(ROOT)), set()).add(source)
        return includers

    def compile(self, source, text_at, overlay, to):
        """Compiles `source`, whose text is at `text_at`, with `overlay`, if any, before every other include directory."""
        words = self.commands[source]
        if overlay:
            if "-include" in words:  # what is precompiled has the headers as they were
                at = words.index("-include")
                words = words[:at] + words[at + 2 :]
            compiler = next(i for i, word in enumerate(words) if word.startswith("-"))
            words = [*words[:compiler], f"-I{overlay}", *words[compiler:]]
        command = [*words, "-w", "-o", str(to), "-c", str(text_at)]
        return subprocess.run(command, cwd=self.directory, capture_output=True, text=True)

    def link(self, objects, to):
        """Objects before the library: what they define is not taken from it."""
        words = next(iter(self.commands.values()))
        compiler = itertools.takewhile(lambda word: not word.startswith("-"), words)
        sanitize = [word for word in words if word.startswith("-fsanitize")]
        names = {pathlib.Path(o).name for o in objects}
        simtest = [o for o in self.simtest if pathlib.Path(o).name not in names]
        command = [*compiler, *sanitize, "-pthread", "-o", str(to), *map(str, objects), *simtest, "libweir_sim.a"]
        return subprocess.run(command, cwd=self.directory, capture_output=True, text=True)


class Outcome:
    def __init__(self, name, passed, killer="", detail="", seconds=0.0, listed=()):
        self.name, self.passed, self.killer, self.detail, self.seconds = name, passed, killer, detail, seconds
        self.note = f" (the table says {' '.join(listed)})" if listed and killer not in listed else ""


def mutate(mutant):
    """The mutated text of each file. Raises if an original is not there exactly once."""
    texts = {}
    for path, original, replacement in mutant["edits"]:
        text = texts.get(path) or (ROOT / path).read_text()
        if text.count(original) != 1:
            raise ValueError(f"{path} has {text.count(original)} times: {original.strip()}")
        texts[path] = text.replace(original, replacement)
    return texts


def make(build, mutant, directory):
    """The program, or what went wrong."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    sources = {}
    overlay = None
    for path, text in mutate(mutant).items():
        at = directory / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)
        if path.endswith(".hpp"):
            overlay = directory
            for source in build.includers.get(path, ()):
                sources.setdefault(source, ROOT / source)
        else:
            sources[path] = at
    objects = []
    for source, at in sorted(sources.items()):
        objects.append(directory / pathlib.Path(build.objects[source]).name)
        compiled = build.compile(source, at, overlay, objects[-1])
        if compiled.returncode != 0:
            return None, "does not compile: " + compiled.stderr.strip()[:2000]
    program = directory / "weir-simtest"
    linked = build.link(objects, program)
    if linked.returncode != 0:
        return None, "does not link: " + linked.stderr.strip()[:2000]
    return program, ""


def run(program, harness, seeds):
    """(what it died of, in which seed, the words for it). Nothing: None."""
    command = [str(program), "--harness", harness, "--seeds", f"1..{seeds}"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=RUN_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        return "hang", 0, f"no end within {RUN_SECONDS_MAX} s"
    if ran.returncode == 0:
        return None, seeds, ""
    violated = VIOLATION.search(ran.stderr)
    if not violated:
        return "?", 0, ran.stderr.strip()[-300:]
    seed, invariant, text = int(violated[1]), violated[2], violated[3]
    broken = CONTRACT.search(ran.stderr)
    if broken:
        return "EXPECT", seed, f"{broken[1]}: {broken[2]}"
    return invariant, seed, text


def try_one(build, mutant, arguments, directory):
    began = time.monotonic()
    name = mutant["name"]
    try:
        program, trouble = make(build, mutant, directory / re.sub(r"\W+", "-", name))
    except ValueError as error:
        return Outcome(name, False, detail=f"the table does not fit the source: {error}")
    if not program:
        return Outcome(name, False, detail=trouble)
    killer, seed, words = run(program, mutant["harness"], arguments.seeds)
    shutil.rmtree(program.parent)
    seconds = time.monotonic() - began
    if killer is None:
        return Outcome(name, False, detail=f"SURVIVED {seed} seeds of {mutant['harness']}", seconds=seconds)
    detail = f"{mutant['harness']} seed {seed}: {words}"
    listed = mutant["killers"]
    died = killer not in NO_DEATH and (killer in listed or not arguments.strict)
    return Outcome(name, died, killer, detail, seconds, listed)


def control(build, harnesses, directory):
    """One source, unchanged, made in the same way: it must live, or the deaths of the others mean nothing."""
    program, trouble = make(build, {"edits": [("core/fdtab.cc", "fdtab::~fdtab() {", "fdtab::~fdtab() {")]}, directory)
    if not program:
        return Outcome("(control: nothing changed)", False, detail=trouble)
    for harness in sorted(harnesses):
        killer, seed, words = run(program, harness, 300)
        if killer is not None:
            return Outcome("(control: nothing changed)", False, killer, f"{harness} seed {seed}: {words}")
    return Outcome("(control: nothing changed)", True, "-", "lives")


def show(outcome):
    verdict = ("" if outcome.passed else "FAILED: ") + outcome.detail + outcome.note
    print(f"{outcome.name:58} {outcome.killer:9} {verdict} ({outcome.seconds:.1f} s)", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].splitlines()[0], add_help=True)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=10000)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--every", type=int, default=int(os.environ.get("WEIR_MUTANTS_EVERY", "1")), metavar="N")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    build = Build(arguments.build.resolve())
    directory = build.directory / "mutants"
    chosen = [m for m in MUTANTS if not arguments.names or any(n in m["name"] for n in arguments.names)]
    chosen = chosen[::arguments.every]
    if not chosen:
        print("no mutant has such a name", file=sys.stderr)
        return 2
    print(f"{'mutant':58} {'killed by':9} where")
    outcomes = [control(build, {m["harness"] for m in chosen}, directory / "control")]
    show(outcomes[0])
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for outcome in pool.map(lambda m: try_one(build, m, arguments, directory), chosen):
            outcomes.append(outcome)
            show(outcome)
    failed = [o for o in outcomes if not o.passed]
    mutants_failed = [o for o in failed if o is not outcomes[0]]
    print(f"total: {len(chosen) - len(mutants_failed)} of {len(chosen)} mutants killed")
    print(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
