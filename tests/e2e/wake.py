"""weir-wake: the table's form, the JSON, and what is counted; never how long anything took."""

import json
import os
import re

import rig
from rig import TOOLS, run
from wire import equal

CPUS = sorted(os.sched_getaffinity(0))
FIGURES = ["p50_ns", "p90_ns", "p99_ns", "p99.9_ns", "max_ns"]


def wake(*options, status=0, within=100):
    done = run(TOOLS / "weir-wake", *options, within=within)
    equal(done.returncode, status, f"weir-wake {' '.join(map(str, options))}: {done.stdout}{done.stderr}")
    return done


def rows(*options):
    return json.loads(wake(*options, "--json").stdout)["rows"]


def one(*options):
    (row,) = rows(*options)
    for side in (row["weir"], row["raw"]):
        figures = [side[name] for name in FIGURES]
        equal(figures, sorted(figures), "quantiles rise")
        assert figures[0] > 0 and side["cpu_ns_per_wake"] > 0, side
    return row


def near(value, wanted, slack=0.1):
    assert wanted - slack <= value <= wanted + slack, f"{value}, wanted {wanted}"


def test_table():
    """without a mode all are in a table, each with its bare counterpart, below what the machine is"""
    lines = wake("--count", "60", "--idle", "20").stdout.splitlines()
    assert re.match(r"Linux \S+ \S+, (virtual machine|metal), cpuidle \S+.*, \d+ processors allowed, threads on \d+ and \d+$",
                    lines[0]), lines[0]
    equal(lines[1].split(), ["us", "p50", "p90", "p99", "p99.9", "max", "cpu/wake", "rings", "waits", "ratio"])
    kinds = []
    for at, line in enumerate(lines[2:]):
        found = re.match(r"(\S+) +((?:\S+)?) +(weir|raw)((?: +\d+\.\d\d){8})(  \d+\.\d\d)?$", line)
        assert found, line
        equal(found.group(3), ("weir", "raw")[at % 2], line)
        equal(found.group(5) is not None, at % 2 == 0, line)
        if at % 2 == 0:
            kinds.append((found.group(1), found.group(2)))
    spins = len(CPUS) > 1
    equal(kinds, [("post", "")] + [("post", "spin")] * spins + [("socket", "")] + [("socket", "spin")] * spins +
          [("timer", ""), ("timer", "precise"), ("idle-close", "")])


def test_asleep():
    """a letter for a loop that sleeps is one write, as by hand; for one that was not asleep yet it is none"""
    for placement in ("same", "cross"):
        row = one("--mode", "post", "--count", "2000", "--threads", placement)
        for side in (row["weir"], row["raw"]):
            equal((side["count"], side["wakes"]), (2000, 4000))
            near(side["waits_per_wake"], 1)
        near(row["raw"]["rings_per_wake"], 1, 0.001)
        most = 0.5 if placement == "cross" and len(CPUS) > 1 else 0
        assert most < row["weir"]["rings_per_wake"] < 1.01, row


def test_awake():
    """letters between loops that spin are hardly ever rung for"""
    if len(CPUS) < 2:
        raise rig.NotHere("one processor")
    row = one("--mode", "post", "--count", "20000", "--spin", "10ms")
    equal(row["how"], "spin")
    assert row["weir"]["rings_per_wake"] < 0.1, row
    equal((row["raw"]["rings_per_wake"], row["raw"]["waits_per_wake"]), (0, 0))


def test_socket():
    """a byte there and back is one wait of the loop's for two wakes"""
    row = one("--mode", "socket", "--count", "1000", "--threads", "same")
    for side in (row["weir"], row["raw"]):
        equal((side["count"], side["wakes"], side["rings_per_wake"]), (1000, 2000, 0))
        near(side["waits_per_wake"], 0.5)


def test_timer():
    """a timer is one wait, two at most, and never none; a precise one as well"""
    for options in ([], ["--precise"]):
        row = one("--mode", "timer", "--count", "40", *options)
        equal(row["weir"]["count"], 40)
        assert 1 <= row["weir"]["waits_per_wake"] <= 2, row


def test_idle_close():
    """the close of one among many is seen, each once"""
    row = one("--mode", "idle-close", "--count", "200", "--idle", "300")
    equal((row["weir"]["count"], row["raw"]["count"]), (200, 200))


def test_busy_poll():
    """what the kernel says to busy polling is said"""
    options = ["--mode", "socket", "--count", "50", "--busy-poll", "20us"]
    said = re.search(r"^busy polling: (on|not to be had here)$", wake(*options).stdout, re.M)
    machine = json.loads(wake(*options, "--json").stdout)["machine"]
    equal(machine["busy_polls"], said.group(1) == "on")
    equal(machine["cpus_allowed"], len(CPUS))


def test_command_line():
    """what goes wrong on the command line ends with 2 and names the option; the examples of --help work"""
    last = max(CPUS) + 1
    for options, word in ((["--mode", "sleep"], "--mode"), (["--spin", "5"], "--spin"), (["--spin", "2s"], "--spin"),
                          (["--pin", "0"], "--pin"), (["--pin", f"{CPUS[0]},{last}"], "--pin"),
                          (["--pin", f"{CPUS[0]},{CPUS[0]}"], "--pin"), (["--idle", "0"], "--idle"),
                          (["--threads", "same", "--spin", "1ms"], "--spin"), (["--nothing"], "--nothing"),
                          (["surplus"], "surplus")):
        done = wake(*options, status=2)
        assert word in done.stderr and not done.stdout, done.stderr
    lines = wake("--help").stdout.splitlines()
    examples = [line.split()[1:] for line in lines[-2:]]
    assert all(line.split()[0] == "weir-wake" for line in lines[-2:]), lines[-2:]
    if len(CPUS) > 1:
        for options in examples:
            wake(*options)


rig.main(globals())
