#!/usr/bin/env python3
"""Lines for people: nothing that a loop writes waits for a reader, and strangers cannot flood it."""

import contextlib
import fcntl
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import tempfile
import time

import rig
from rig import Gateway, Origin, Relay, run, until
from wire import Client, equal, get

NOBODY = "127.0.0.1:9"  # refuses, or the test could not be


@contextlib.contextmanager
def started(argv, write_end, **more):
    """A program whose stderr is that pipe, of which nobody else has the end."""
    process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stderr=write_end, **more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read_some(read_end):
    with contextlib.suppress(BlockingIOError):
        return os.read(read_end, 1 << 20).decode(errors="replace")
    return ""


@contextlib.contextmanager
def gateway_with_full_stderr(*options):
    """(its address, its process, the end of stderr that nobody reads, how many bytes of the test's own stand in it)."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(write_end, True)  # as a shell leaves it
    argv = [rig.TOOLS / "weir-gateway", *options, "127.0.0.1:0", NOBODY]
    with started(argv, write_end) as process:
        said = [""]

        def address():
            said[0] += read_some(read_end)
            return re.search(r"listening on (\S+)\n", said[0])

        where = until(address, "it listens", 20).group(1)
        assert fcntl.fcntl(write_end, fcntl.F_GETFL) & os.O_NONBLOCK == 0, "it is left as it was for other processes"
        os.set_blocking(write_end, False)
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(write_end, b"." * 4096)
        os.set_blocking(write_end, True)
        os.close(write_end)
        yield where, process, read_end, filled
    os.close(read_end)


def ask_all(address, count):
    with Client(address) as client:
        for i in range(count):
            equal(client.ask(get(f"/{i}/" + "x" * 90)).status, 502, f"request {i}")


def test_stalled_stderr():
    """stderr that nobody reads holds up no request: what is lost is counted, and said when it is read again"""
    for options in ([], ["--threads", "2"]):
        with gateway_with_full_stderr(*options) as (address, process, read_end, filled):
            ask_all(address, 1000)
            text = [""]

            def told():
                text[0] += read_some(read_end)
                return re.search(r": (\d+) lines were lost here", text[0])

            lost = int(until(told, "it says how many were lost").group(1))
            assert lost > 0, text[0]
            process.send_signal(signal.SIGTERM)
            equal(process.wait(20), 0)
            text[0] += read_some(read_end)
        lines = text[0][filled:].splitlines()
        for line in lines:
            assert line.startswith("weir-gateway: "), f"a torn line: {line}"
        written = sum('"GET /' in line for line in lines)
        left_out = sum(int(n) for line in lines for n in re.findall(r"(\d+) more lines", line))
        sums = sum("more lines" in line for line in lines)
        # A sum may itself have been lost, with what it counted: so no more than there were, and nothing twice.
        assert written + left_out <= 1000 and written + lost + sums >= 100, (written, left_out, lost, sums)


def test_end_with_stalled_stderr():
    """it ends though nobody reads what it still has to say"""
    with gateway_with_full_stderr("--drain-timeout", "100ms") as (address, process, _, _):
        ask_all(address, 300)
        process.send_signal(signal.SIGTERM)
        equal(process.wait(20), 0)


def test_stalled_report():
    """what SIGUSR1 asks for holds up nobody, and is whole when it is read"""
    with gateway_with_full_stderr() as (address, process, read_end, filled):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(address)) for _ in range(150)]
            for client in clients:
                client.ask(get("/"))
            process.send_signal(signal.SIGUSR1)
            for client in clients:
                equal(client.ask(get("/")).status, 502)
            text = [""]

            def reported():
                text[0] += read_some(read_end)
                return re.search(r": (\d+) descriptors are open; \{", text[0])

            count = int(until(reported, "it reports").group(1))
            equal(len(re.findall(r": fd \d+ ", text[0])), count)


def test_flood():
    """a server that is down has a burst of lines and then sums, which together count every request"""
    asked = 600
    with Gateway(NOBODY) as gateway:
        began = time.monotonic()
        with Client(gateway.address) as client:
            for _ in range(asked):
                equal(client.ask(get("/")).status, 502)
        until(lambda: "502: " in gateway.stderr(), "it tells a sum")
        took = time.monotonic() - began
        equal(gateway.end(), 0)
        text = gateway.stderr()
    lines = len(re.findall(r': 502 "GET /" client 127\.0\.0\.1:\d+ upstream ', text))
    left_out = sum(int(n) for n in re.findall(r": 502: (\d+) more lines like this were not written", text))
    equal(lines + left_out, asked)
    assert lines <= 100 + 10 * (took + 2), f"{lines} lines in {took:.1f} s"


def test_probes():
    """--accept-proxy: a probe that connects and ends has no line, and is counted"""
    with Origin() as origin, Relay(origin, options=["--accept-proxy"]) as relay:
        for _ in range(20):
            assert rig.connects(relay.address)
        until(lambda: relay.counters()["silent"] == 20, "all are counted")
        equal(relay.counters()["bad_greetings"], 0)
        assert " refused: " not in relay.stderr(), relay.stderr()


def test_takeover_strangers():
    """who connects to the takeover socket and leaves has a burst of lines, and then sums"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        path = f"{place}/takeover"
        with Relay(origin, options=["--takeover", f"unix:{path}"]) as relay:
            equal(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            tries = 300
            for _ in range(tries):
                with socket.socket(socket.AF_UNIX) as stranger:
                    stranger.connect(path)
                    stranger.recv(1)  # the offer: the giver serves one at a time

            def told():
                text = relay.stderr()
                return (len(re.findall(r" a takeover at \S+ came to nothing", text)),
                        sum(int(n) for n in re.findall(r"came to nothing: (\d+) more lines", text)))

            until(lambda: sum(told()) == tries, "each is counted")
            assert told()[0] < 200, told()


def test_reset_is_named():
    """a client that resets is named in the access log"""
    with tempfile.TemporaryDirectory() as place, Origin("--delay", "1h") as origin:
        log = pathlib.Path(place) / "log"
        with Gateway(origin, options=["--access-log", log, "--drain-timeout", "10ms"]) as gateway:
            with Client(gateway.address) as client:
                mine = "127.0.0.1:%d" % client.socket.getsockname()[1]
                client.send(get("/attack"))
                until(lambda: gateway.counters()["active"] == 2, "it runs")
                client.reset()
            until(lambda: "/attack" in log.read_text(), "it has a line")
            assert re.search(rf'Z {mine} "GET /attack" 0 0 bytes', log.read_text()), log.read_text()


def test_mapped_client():
    """an IPv4 client of [::] is 127.0.0.1 in the access log, and in a line of trouble"""
    rig.need_ipv6()
    with tempfile.TemporaryDirectory() as place:
        log = pathlib.Path(place) / "log"
        with Gateway(NOBODY, options=["--access-log", log], at="[::]:0") as gateway:
            port = gateway.address.rsplit(":", 1)[1]
            with Client(f"127.0.0.1:{port}") as client:
                equal(client.ask(get("/")).status, 502)
            until(lambda: "GET /" in log.read_text(), "it has a line")
            assert re.search(r'Z 127\.0\.0\.1:\d+ "GET /"', log.read_text()), log.read_text()
            assert re.search(r'"GET /" client 127\.0\.0\.1:\d+ upstream', gateway.stderr()), gateway.stderr()


# --- descriptors that are there from the start

def test_closed_descriptors():
    """0, 1 and 2 closed: /dev/null stands there, and no socket gets the number"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        for program in ("weir-gateway", "weir-relay"):
            path = f"{place}/{program}"
            process = subprocess.Popen(["bash", "-c", 'exec "$0" "$@" <&- >&- 2>&-', rig.TOOLS / program,
                                        "unix:" + path, origin.address])
            try:
                until(lambda: rig.connects("unix:" + path), "it listens")
                for fd in range(3):
                    equal(os.readlink(f"/proc/{process.pid}/fd/{fd}"), "/dev/null", f"descriptor {fd}")
            finally:
                process.terminate()
                equal(process.wait(20), 0)


def test_own_descriptors():
    """--access-log /dev/stdout and /dev/fd/N: the process's own, a socket, a pipe or a file"""
    with Origin() as origin:
        for name in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
            ours, theirs = socket.socketpair()
            read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            argv = [rig.TOOLS / "weir-gateway", "--access-log", name, "127.0.0.1:0", origin.address]
            with started(argv, write_end, stdout=theirs) as process:
                where = until(lambda: re.search(r"listening on (\S+)\n", read_some(read_end)), "it listens", 20).group(1)
                with Client(where) as client:
                    client.ask(get("/logged"))
                ours.settimeout(20)
                assert b'"GET /logged" 200 ' in ours.recv(4096), name
                process.send_signal(signal.SIGHUP)  # nothing to open anew
                process.send_signal(signal.SIGTERM)
                equal(process.wait(20), 0)
            for fd in (read_end, write_end):
                os.close(fd)
            ours.close()
            theirs.close()
    for name in ("/dev/fd/77", "/dev/fd/x"):
        done = run(rig.TOOLS / "weir-gateway", "--access-log", name, "127.0.0.1:0", NOBODY)
        equal(done.returncode, 2, done.stderr)
        assert "not open" in done.stderr, done.stderr


# --- files of unix listeners

def test_unix_file():
    """a unix LISTEN is for everybody or as it is told, --admin for its user, and the files go with the process"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        path, admin = f"{place}/x", f"{place}/admin"
        for more, mode in (("", 0o666), (",mode=660", 0o660), (f",mode=0600,user={os.geteuid()},group={os.getegid()}", 0o600)):
            with Gateway(origin, options=["--admin", f"unix:{admin}"], at=f"unix:{path}{more}") as gateway:
                equal(stat.S_IMODE(os.stat(path).st_mode), mode)
                equal(stat.S_IMODE(os.stat(admin).st_mode), 0o600)
                equal(os.stat(path).st_uid, os.geteuid())
                equal(gateway.end(), 0)
            assert not os.path.exists(path) and not os.path.exists(admin), os.listdir(place)


def test_unix_file_of_another():
    """a file that another process has put at the path stays at the end"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        path = f"{place}/x"
        with Relay(origin, at=f"unix:{path}") as relay:
            os.unlink(path)
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(path)
                equal(relay.end(), 0)
                assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_unix_file_handed_on():
    """after a takeover the file is the next process's: it stays when the old one ends, and goes with the new one"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        path, options = f"{place}/x", ["--takeover", f"unix:{place}/takeover"]
        with Relay(origin, options=options, at=f"unix:{path}") as old:
            with Relay(origin, options=options, at=f"unix:{path}") as new:
                equal(old.wait(), 0, old.stderr())
                assert rig.connects(f"unix:{path}"), "the new one serves"
                equal(new.end(), 0)
            equal(os.listdir(place), [])


def test_wrong_files():
    """what is no mode, no user, no group or no file is a mistake that says what would be right"""
    for at, why in (("unix:/x,mode=999", "no mode"), ("unix:/x,mode=", "no mode"), ("unix:/x,mode=7777", "no mode"),
                    ("unix:/x,user=nobody-of-this-name", "no user"), ("unix:/x,group=no-such-group", "no group"),
                    ("unix:/x,other", "is none of mode=660"), ("unix:@x,mode=660", "no file")):
        done = run(rig.TOOLS / "weir-relay", at, NOBODY)
        equal(done.returncode, 2, f"{at}: {done.stderr}")
        assert why in done.stderr, f"{at}: {done.stderr}"
    done = run(rig.TOOLS / "weir-relay", "--takeover", "unix:/x,mode=660", "127.0.0.1:0", NOBODY)
    equal(done.returncode, 2, done.stderr)


rig.main(globals())
