"""What the end-to-end tests share: starting programs, counting results. Raw HTTP is in wire.py.

A test file is a program: functions named test_* in order, then `rig.main(globals())`. Each function runs on its own;
its first docstring line is its name. It passes by returning, fails by any exception, and is skipped by rig.need().
Nothing here sleeps for luck: until() polls for a condition, and every read has a deadline.
"""

import atexit
import contextlib
import ctypes
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from wire import DEADLINE, Client, equal, get, place_of

TOOLS = pathlib.Path(os.environ.get("WEIR_TOOLS", "build/tools")).resolve()
SANITIZED = os.environ.get("WEIR_SANITIZER", "none") != "none"
SOAK = os.environ.get("WEIR_SOAK", "0") not in ("", "0")  # as large as the machine allows, for minutes
SANITIZER_SAYS = re.compile(r"(ERROR|WARNING): \w+Sanitizer|: runtime error: ")
SOURCE = pathlib.Path(os.environ.get("WEIR_SOURCE", pathlib.Path(__file__).parents[2])).resolve()


class Skipped(Exception):
    """Something is missing that could be installed or built. WEIR_NO_SKIP=1: that is a failure."""


class NotHere(Skipped):
    """This machine cannot do it, and no package mends that: a failure nowhere."""


def need(*programs):
    """Skips the test if one of these is not installed."""
    for name in programs:
        if not find(name):
            raise Skipped(f"{name} is not installed")


def need_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        raise NotHere(f"no IPv6: {error}") from error


def need_descriptors(count):
    """As many in this process, and in those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        raise NotHere(f"a limit of {hard} descriptors, {count} are needed")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def find(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if name.startswith("weir-"):
        path = str(TOOLS / name) if (TOOLS / name).exists() else None
    return path


def until(condition, what, within=DEADLINE):
    """Polls until `condition` answers something true, and returns that."""
    end = time.monotonic() + within
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.005)


def expect_pause(counters):
    """Accepting pauses: it is tried now and then, and nothing spins. `counters()` is asked ten times in half a second.
    What was seen of it, per second."""
    before, began = counters(), time.monotonic()
    for _ in range(10):
        time.sleep(0.05)  # the time that is measured
        seen = counters()
    passed = time.monotonic() - began
    failed, turns = (seen[name] - before[name] for name in ("accept_failed", "turns"))
    assert failed <= 20 * passed + 2, f"{failed} failed accepts in {passed:.2f} s"
    assert turns <= 100 * passed + 100, f"{turns} turns in {passed:.2f} s: it spins"  # a spin makes 100,000
    return f"{failed / passed:.0f} failed accepts and {turns / passed:.0f} turns per second"


# --- programs

_prctl = ctypes.CDLL(None).prctl  # looked up here: in a forked child the linker's lock may be held by nobody
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_running = []
PR_SET_PDEATHSIG, PR_SET_THP_DISABLE = 1, 41


def _be_a_child():
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # its memory is what it has touched, not 2 MB for each touch


class Program:
    """A child process whose stderr is collected. Ends with the `with` block, by its own pid."""

    def __init__(self, argv, env=None, ready=True, pass_fds=()):
        self.argv = [str(a) for a in argv]
        self.lines = []
        self.addresses = []
        self.asked = threading.Lock()
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", env={**os.environ, **(env or {})}, preexec_fn=_be_a_child,
            pass_fds=pass_fds)
        _running.append(self)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if ready:
            until(lambda: self.addresses or self.process.poll() is not None, f"{self.argv[0]} is ready", 20)
            if not self.addresses:
                raise AssertionError(f"{self.argv[0]} ended with {self.process.poll()}: {self.stderr()}")

    def _read(self):
        with contextlib.suppress(ValueError):  # closed by kill()
            for line in self.process.stderr:
                self.lines.append(line)
                found = re.search(r"listening on (\S+)", line)
                if found:
                    self.addresses.append(found.group(1))

    @property
    def pid(self):
        return self.process.pid

    @property
    def address(self):
        return self.addresses[0]

    @property
    def port(self):
        return int(self.address.rsplit(":", 1)[1])

    @property
    def url(self):
        return f"http://{self.address}"

    def stderr(self):
        return "".join(self.lines)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, within=DEADLINE):
        """Its exit status; its stdout is in self.stdout then."""
        try:
            self.stdout = self.process.stdout.read() if self._ends(within) else ""
        finally:
            self.reader.join(1)
        return self.process.returncode

    def _ends(self, within):
        try:
            return until(lambda: self.process.poll() is not None, f"{self.argv[0]} ends", within)
        except AssertionError as error:
            raise AssertionError(f"{error}. Its stderr: {self.stderr()}") from error

    def end(self, within=DEADLINE):
        """SIGTERM, then its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait(within)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            with contextlib.suppress(Exception):
                stream.close()

    def rss(self):
        """Bytes."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def cpu(self):
        """Seconds of CPU time used so far."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @contextlib.contextmanager
    def held(self):
        """It stands still within the block: what it is asked, waits."""
        self.signal(signal.SIGSTOP)
        try:
            yield until(self.is_stopped, f"{self.argv[0]} is stopped")
        finally:
            self.signal(signal.SIGCONT)

    def has_pending(self, number):
        """Whether that signal has been sent and not been taken yet. A second one would be lost then."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return any(int(mask, 16) >> (number - 1) & 1 for mask in re.findall(r"(?:SigPnd|ShdPnd):\s+(\w+)", status))

    def is_stopped(self):
        return pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def __enter__(self):
        return self

    def end_by_itself(self):
        """So that the sanitizer it was built with looks for leaks: that is done in exit()."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(DEADLINE)

    def __exit__(self, kind, error, trace):
        if error is None and SANITIZED and self.argv[0].startswith(str(TOOLS)):
            self.end_by_itself()
            self.reader.join(DEADLINE if self.process.poll() is not None else 0)
            if SANITIZER_SAYS.search(self.stderr()):
                raise AssertionError(f"{self.argv[0]}: {self.stderr()}")
        if error is None and self.process.poll() is not None and self.process.returncode not in (0, 1, 2):
            raise AssertionError(f"{self.argv[0]} died of {self.process.returncode}: {self.stderr()}")
        self.kill()


@atexit.register
def _kill_all():
    for program in _running:
        program.kill()


class Origin(Program):
    def __init__(self, *options, at="127.0.0.1:0", **more):
        super().__init__([TOOLS / "weir-origin", *options, at], **more)

    def report(self):
        """Ends it; what it counted."""
        equal(self.end(), 0, "weir-origin's exit status")
        return json.loads(self.stdout)


class Proxy(Program):
    def check_ledger(self):
        """Every connection that was opened is open or has one cause of its end. The counters."""
        seen = self.counters()
        ended = sum(value for name, value in seen.items() if name.startswith("end_"))
        equal(seen["accepted"] + seen["dialed"], seen["live"] + ended, f"the ledger: {seen}")
        return seen


class Gateway(Proxy):
    """weir-gateway with an admin page. `wrapper`: a command that runs it."""

    def __init__(self, *upstreams, options=(), wrapper=(), at="127.0.0.1:0", admin="127.0.0.1:0", **more):
        places = [u if isinstance(u, str) else u.address for u in upstreams]
        argv = [*wrapper, TOOLS / "weir-gateway", "--admin", admin, *options, at, *places]
        super().__init__(argv, **more)
        self.admin = re.search(r"admin on (\S+)", self.stderr()).group(1)

    def counters(self, kept=None):
        """`kept`: a Client of the admin page from before, for when no other can be accepted."""
        if kept:
            answer = kept.ask(get("/counters"))
        else:
            with Client(self.admin) as client:
                answer = client.ask(get("/counters", connection="close"))
        equal(answer.status, 200, "GET /counters")
        return json.loads(answer.body)


class Relay(Proxy):
    """weir-relay. It says its counters, and what is open, when it is asked by SIGUSR1."""

    def __init__(self, *upstreams, options=(), wrapper=(), at="127.0.0.1:0", **more):
        places = [u if isinstance(u, str) else u.address for u in upstreams]
        super().__init__([*wrapper, TOOLS / "weir-relay", *options, at, *places], **more)

    def report(self, loops=1):
        """What SIGUSR1 says, once more: its lines."""
        def is_last(line):
            return re.search(r"\d+ descriptors are open", line)

        with self.asked:  # one at a time
            before = len(self.lines)
            self.signal(signal.SIGUSR1)
            until(lambda: sum(bool(is_last(line)) for line in self.lines[before:]) >= loops, "it reports", 20)
            return self.lines[before:]

    def counters(self, loops=1):
        return next(json.loads(line[line.index("{"):]) for line in self.report(loops) if "descriptors are open" in line
                    and "{" in line)


NGINX = """
daemon off; master_process off; pid {root}/pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
  uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5; client_max_body_size 64m; keepalive_requests 1000000;
  server {{ listen {address} {listen}; root {root}; {server} }}
}}
"""


@contextlib.contextmanager
def nginx(files, server="", listen=""):
    """nginx serving `files` (name -> bytes) on a free port; answers its Program, with .address. `listen`: options."""
    need("nginx")
    with tempfile.TemporaryDirectory(prefix="weir-nginx-") as root:
        os.chmod(root, 0o755)
        for name, data in files.items():
            (pathlib.Path(root) / name).write_bytes(data)
        address = free_address()
        conf = pathlib.Path(root) / "conf"
        conf.write_text(NGINX.format(root=root, address=address, server=server, listen=listen))
        with Program([find("nginx"), "-e", "stderr", "-p", root, "-c", conf], ready=False) as program:
            program.addresses.append(address)
            until(lambda: connects(address) or program.process.poll() is not None, "nginx listens")
            assert program.process.poll() is None, program.stderr()
            yield program


def free_address():
    """A loopback address that was free a moment ago, for programs that cannot choose themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % probe.getsockname()[1]


def connects(address):
    family, to = place_of(address)
    with socket.socket(family) as probe:
        return probe.connect_ex(to) == 0


def run(*argv, within=60, **more):
    """Runs a command to its end: its CompletedProcess, output as text."""
    return subprocess.run([str(a) for a in argv], capture_output=True, text=True, errors="replace", timeout=within,
                          stdin=subprocess.DEVNULL, **more)


CURL = ("curl", "-q", "--noproxy", "*")  # whatever ~/.curlrc and the environment say


def curl(url, *options, stdin=b""):
    """What curl gets, as bytes."""
    need("curl")
    done = subprocess.run([*CURL, "-sS", "--fail-with-body", "--max-time", "60", *options, url], input=stdin,
                          capture_output=True, timeout=70)
    equal(done.returncode, 0, f"curl {' '.join(options)} {url}: {done.stderr.decode()}")
    return done.stdout


# --- the end

def main(names):
    """Runs every test_* of a module, or those named on the command line, and ends the program."""
    tests = {n: t for n, t in names.items() if n.startswith("test_")}
    chosen = sys.argv[1:] or tests
    passed = failed = skipped = 0
    may_skip = Skipped if os.environ.get("WEIR_NO_SKIP", "0") in ("", "0") else NotHere
    for name in chosen:
        test = tests[name]
        title = (test.__doc__ or name).strip().splitlines()[0]
        began = time.monotonic()
        try:
            test()
            passed += 1
            print(f"ok       {title} ({time.monotonic() - began:.2f} s)")
        except may_skip as why:
            skipped += 1
            print(f"skipped  {title}: {why}")
        except BaseException as error:  # an interrupt fails the test, too
            failed += 1
            print(f"FAILED   {title} [{name}]: {type(error).__name__}: {error}")
            for frame in traceback.extract_tb(error.__traceback__)[1:]:
                print(f"           {pathlib.Path(frame.filename).name}:{frame.lineno}: {frame.line}")
            if isinstance(error, KeyboardInterrupt):
                break
        sys.stdout.flush()
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    sys.exit(1 if failed else 77 if skipped and not passed else 0)
