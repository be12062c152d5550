"""Where the programs of a test run: network namespaces, and a control group that bounds memory."""

import contextlib
import ctypes
import os
import pathlib
import re
import threading

from rig import NotHere, find, need, run, until

CLONE_NEWNET = 0x40000000
_setns = ctypes.CDLL(None, use_errno=True).setns


@contextlib.contextmanager
def namespaces(count):
    """So many network namespaces: their names."""
    need("ip")
    names = [f"weir-{os.getpid()}-{number}" for number in range(count)]
    try:
        for name in names:
            made = run(find("ip"), "netns", "add", name)
            if made.returncode:
                raise NotHere(f"network namespaces are not permitted: {made.stderr.strip()}")
        yield names
    finally:
        for name in names:
            run(find("ip"), "netns", "del", name)


def within(name):
    """The words in front of a command that is to run in that namespace."""
    return [find("ip"), "netns", "exec", name]


def set_up(*steps):
    """Runs commands that a machine may not permit."""
    for step in steps:
        made = run(*step)
        if made.returncode:
            raise NotHere(f"{' '.join(map(str, step))}: {made.stderr.strip()}")


@contextlib.contextmanager
def lonely_network():
    """A network namespace with nothing but 127.0.0.1: its name."""
    with namespaces(1) as (name,):
        set_up([find("ip"), "-n", name, "link", "set", "lo", "up"])
        yield name


def tune(name, setting, value):
    """Writes to a file below /proc/sys/net of that namespace."""
    set_up([*within(name), "sh", "-c", f"echo {value} >/proc/sys/net/{setting}"])


def inside(name, act):
    """Runs act() in a thread whose sockets are made in that namespace: what it answers."""
    answer, wrong = [], []

    def live():
        try:
            with open(f"/run/netns/{name}") as namespace:
                if _setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            answer.append(act())
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
    if wrong:
        raise wrong[0]
    return answer[0]


def overflows(name):
    """How often a full backlog has refused somebody in that namespace: /proc/net/netstat."""
    lines = run(*within(name), "cat", "/proc/net/netstat").stdout.splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("TcpExt:"))
    return int(dict(zip(names, values))["ListenOverflows"])


class Group:
    """A control group whose processes have so much memory between them."""

    def __init__(self, at, most, peak):
        self.at, self.most, self.peak_file = at, most, peak

    @property
    def wrapper(self):
        """The words in front of a command that is to run in it."""
        return ["sh", "-c", f'echo $$ >{self.at}/cgroup.procs && exec "$@"', "sh"]

    def peak(self):
        return int((self.at / self.peak_file).read_text())

    def failures(self):
        """How often the limit was met, and the processes that were killed for it."""
        if (self.at / "memory.events").exists():
            text = (self.at / "memory.events").read_text()
            return tuple(int(re.search(rf"^{name} (\d+)$", text, re.M).group(1)) for name in ("max", "oom_kill"))
        text = (self.at / "memory.oom_control").read_text()
        return int((self.at / "memory.failcnt").read_text()), int(re.search(r"oom_kill (\d+)", text).group(1))


@contextlib.contextmanager
def memory_group(most):
    """A Group of that many bytes."""
    first, second = pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup")
    is_first = (first / "memory.limit_in_bytes").exists()
    at = (first if is_first else second) / f"weir-{os.getpid()}"
    try:
        at.mkdir()
    except OSError as error:
        raise NotHere(f"no control group can be made: {error}") from error
    try:
        limit, peak = ("memory.limit_in_bytes", "memory.max_usage_in_bytes") if is_first else ("memory.max", "memory.peak")
        try:
            (at / limit).write_text(str(most))
            (at / peak).read_text()
        except OSError as error:
            raise NotHere(f"memory cannot be bounded here: {error}") from error
        yield Group(at, most, peak)
    finally:
        def is_gone():
            with contextlib.suppress(OSError):  # busy: its last process is still ending
                at.rmdir()
            return not at.exists()
        until(is_gone, f"{at} is removed")
