#!/usr/bin/env python3
"""The process: signals, descriptors that run out, pipes that nobody reads."""

import calendar
import contextlib
import json
import os
import pathlib
import re
import resource
import select
import signal
import tempfile
import threading
import time

import rig
from rig import Gateway, Origin, need, run, until
from wire import Client, equal, get, request

EACH = (signal.SIGTERM, signal.SIGINT)


def refused(address):
    return not rig.connects(address)


def test_drain():
    """SIGTERM and SIGINT: nothing new, idle ones closed, what runs is finished, exit 0"""
    for number in EACH:
        with Origin("--body", "1m") as origin, Gateway(origin) as gateway:
            idle, busy, half = (Client(gateway.address) for _ in range(3))
            idle.ask(get())
            with origin.held():
                busy.send(get())
                half.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello")
                until(lambda: gateway.counters()["active"] == 3, "two requests run, and the admin's")
                gateway.signal(number)
                until(lambda: refused(gateway.address), "it listens no more")
                assert idle.closed()
                idle.close()
            half.send(b"world")
            for client in (busy, half):
                answer = client.response()
                equal((answer.status, len(answer.body)), (200, 1 << 20))
                assert client.closed()
                client.close()
            equal(gateway.wait(), 0, gateway.stderr())
            equal(origin.report()["requests"], 3)


def test_drain_timeout():
    """--drain-timeout cuts off what does not end, and still exits 0"""
    with Origin("--delay", "1h") as origin, Gateway(origin, options=["--drain-timeout", "100ms"]) as gateway:
        with Client(gateway.address) as client:
            client.send(get())
            until(lambda: gateway.counters()["active"] == 2, "it runs")
            began = time.monotonic()
            equal(gateway.end(), 0, gateway.stderr())
            assert time.monotonic() - began >= 0.1
            assert client.closed()
            assert re.search(r": 1 requests and tunnels .* were cut off", gateway.stderr()), gateway.stderr()


def test_second_signal():
    """a second SIGTERM or SIGINT ends it at once"""
    for first in EACH:
        for second in EACH:
            with Origin("--delay", "1h") as origin, Gateway(origin) as gateway, Client(gateway.address) as client:
                client.send(get())
                until(lambda: gateway.counters()["active"] == 2, "it runs")
                gateway.signal(first)
                until(lambda: refused(gateway.address), "it drains")
                gateway.signal(second)
                equal(gateway.wait(), 1)
                assert client.closed()


def test_sigpipe():
    """clients that vanish, and a log that nobody reads, end nothing"""
    with Origin("--body", "5m") as origin:
        # stdout is a pipe whose reader goes away at once.
        command = f"{rig.TOOLS}/weir-gateway --admin 127.0.0.1:0 --access-log - 127.0.0.1:0 {origin.address} | true"
        with rig.Program(["bash", "-c", command]) as shell:
            for _ in range(20):
                client = Client(shell.address)
                client.send(get())
                client.line_block()
                client.reset()
            with Client(shell.address) as client:
                equal(len(client.ask(get()).body), 5 << 20)
            children = run("ps", "--ppid", shell.pid, "-o", "pid=,comm=").stdout.split()
            os.kill(int(children[children.index("weir-gateway") - 1]), signal.SIGTERM)
            shell.wait()


def test_stalled_log():
    """an access log whose reader does not read holds up nobody: what cannot be written is lost, and counted on stderr"""
    with tempfile.TemporaryDirectory() as place, Origin("--body", "7") as origin:
        log = os.path.join(place, "log")
        os.mkfifo(log)
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        with Gateway(origin, options=["--access-log", log, "--threads", "2"]) as gateway:
            for _ in range(2):
                with Client(gateway.address) as client:
                    for i in range(800):  # 120 KB; the pipe has 64, the gateway 16
                        equal(client.ask(get(f"/path-{i}/" + "x" * 60)).status, 200)
            until(lambda: "lines were lost" in gateway.stderr(), "it says so")
            read = bytearray()

            def drain():
                with contextlib.suppress(BlockingIOError):
                    while piece := os.read(reader, 1 << 16):
                        read.extend(piece)

            drain()
            asked = 1600

            def is_written_on(client):
                nonlocal asked
                client.ask(get("/path-late"))
                asked += 1
                drain()
                return b"/path-late" in read

            with Client(gateway.address) as client:
                until(lambda: is_written_on(client), "it is written on")
            equal(gateway.end(), 0)
            drain()
        lines = read.decode().splitlines()
        for line in lines:
            assert re.fullmatch(r'\S+Z 127\.\S+ "GET /\S+" 200 \d+ bytes \d+ us upstream \S+( reused)?', line), line
        lost = sum(int(n) for n in re.findall(r"(\d+) lines were lost", gateway.stderr()))
        written = sum("/path-" in line for line in lines)
        equal(written + lost, asked)
        assert lost >= 400, lost
        os.close(reader)


def test_access_log():
    """--access-log writes a line per request, and every one of them by the end"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        log = pathlib.Path(place) / "log"
        with Gateway(origin, options=["--access-log", log]) as gateway, Client(gateway.address) as client:
            for i in range(500):
                client.ask(get(f"/path-{i}"))
            client.close()
            equal(gateway.end(), 0)
        lines = [line for line in log.read_text().splitlines() if "path-" in line]
        equal([f"/path-{i}" in lines[i] for i in range(500)], [True] * 500)


def test_access_log_form():
    """a line of the access log has its time in UTC, the client, and nothing that could be taken for another line"""
    with tempfile.TemporaryDirectory() as place, Origin("--body", "7") as origin:
        log = pathlib.Path(place) / "log"
        with Gateway(origin, options=["--access-log", log]) as gateway, Client(gateway.address) as client:
            began = time.time()
            client.ask(get('/a"b\\c'))
            mine = "127.0.0.1:%d" % client.socket.getsockname()[1]
            client.close()
            equal(gateway.end(), 0)
        line = next(line for line in log.read_text().splitlines() if "/a" in line)
        found = re.fullmatch(r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d{3}Z (\S+) "(.*)" 200 7 bytes \d+ us upstream (\S+)', line)
        assert found, line
        at = calendar.timegm(time.strptime(found.group(1), "%Y-%m-%dT%H:%M:%S"))
        assert int(began) <= at <= time.time(), line
        equal(found.groups()[1:], (mine, r"GET /a\x22b\x5cc", origin.address))


def test_log_pipe():
    """a pipe that nobody reads is no log: exit 1 at the start; on SIGHUP the old one is kept, and no request waits"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        log = pathlib.Path(place) / "log"
        os.mkfifo(log)
        alone = run(rig.TOOLS / "weir-gateway", "--access-log", log, "127.0.0.1:0", origin.address)
        equal(alone.returncode, 1, alone.stderr)
        assert "nobody reads that pipe" in alone.stderr, alone.stderr
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        with Gateway(origin, options=["--access-log", log]) as gateway, Client(gateway.address) as client:
            client.ask(get("/heard"))
            until(lambda: select.select([reader], [], [], 0)[0], "the log is written")
            assert b"/heard" in os.read(reader, 1 << 16)
            os.close(reader)
            gateway.signal(signal.SIGHUP)
            until(lambda: "nobody reads that pipe" in gateway.stderr(), "it says so")
            equal(client.ask(get()).status, 200)
            client.close()
            equal(gateway.end(), 0)


def test_rotation():
    """SIGHUP goes on in a file of the same name: the renamed one keeps what came before, and no line is lost"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        log, old = pathlib.Path(place) / "log", pathlib.Path(place) / "log.1"
        with Gateway(origin, options=["--access-log", log]) as gateway, Client(gateway.address) as client:
            client.ask(get("/first"))
            before = gateway.descriptors()
            for i in range(50):
                client.ask(get(f"/before-{i}"))
            log.rename(old)
            client.ask(get("/renamed"))
            gateway.signal(signal.SIGHUP)
            until(log.exists, "the new file is there")
            for i in range(50):
                client.ask(get(f"/after-{i}"))
            equal(gateway.descriptors(), before, "the old file is closed")
            # A file that cannot be opened: the old one is written on.
            log.rename(old.with_suffix(".2"))
            log.mkdir()
            gateway.signal(signal.SIGHUP)
            until(lambda: "cannot be opened anew" in gateway.stderr(), "it says so")
            client.ask(get("/kept"))
            client.close()
            equal(gateway.end(), 0)
        paths = lambda file: re.findall(r'"GET (/\S+)"', file.read_text())
        equal(paths(old), ["/first", *(f"/before-{i}" for i in range(50)), "/renamed"])
        equal([p for p in paths(old.with_suffix(".2")) if p != "/counters"], [f"/after-{i}" for i in range(50)] + ["/kept"])


def test_report():
    """SIGUSR1 says what is open, with age, table and peer, and the counters"""
    with Origin("--body", "5") as origin, Gateway(origin) as gateway, Client(gateway.address) as client:
        client.ask(get())
        gateway.signal(signal.SIGUSR1)
        until(lambda: " descriptors are open; " in gateway.stderr(), "it reports")
        text = gateway.stderr()
        mine = "127.0.0.1:%d" % client.socket.getsockname()[1]
        age = r" age \d+\.\d{3} s owner 0x[0-9a-f]+ "
        for pattern in (rf"fd \d+ accepted http1-waiting {gateway.address} - {mine}{age}recv_active\S*; opened accepted",
                        rf"fd \d+ dialed idle \S+ - {origin.address}{age}\S*idle\S*; parked http1-server \d",
                        rf"fd \d+ listener {gateway.address} ", r"fd \d+ mailbox ", r"fd \d+ signals "):
            assert re.search(pattern, text), f"{pattern} in {text}"
        count, counters = re.search(r"(\d+) descriptors are open; (.*)", text).groups()
        equal(int(count), len(re.findall(r": fd \d+ ", text)))
        seen = json.loads(counters)
        equal((seen["responses"], seen["idle"], seen["clients"]), (1, 1, 1))
        equal(client.ask(get()).status, 200, "it goes on")


def test_report_without_ledger():
    """--ledger 0: what is open is said all the same, but not what happened before"""
    with Origin() as origin, Gateway(origin, options=["--ledger", "0"]) as gateway, Client(gateway.address) as client:
        client.ask(get())
        gateway.signal(signal.SIGUSR1)
        until(lambda: " descriptors are open; " in gateway.stderr(), "it reports")
        assert " dialed idle " in gateway.stderr() and " ago" not in gateway.stderr(), gateway.stderr()


def limited(upstream, descriptors, *options):
    return Gateway(upstream, options=options, wrapper=["prlimit", f"--nofile={descriptors}:{descriptors}"])


def test_too_few():
    """a descriptor limit too low to work with ends with 1 and says what would do"""
    need("prlimit")
    done = run("prlimit", "--nofile=40:40", rig.TOOLS / "weir-gateway", "127.0.0.1:0", "127.0.0.1:9")
    equal(done.returncode, 1, done.stderr)
    assert "40" in done.stderr and "limit" in done.stderr, done.stderr


def test_at_the_limit():
    """more clients than descriptors: accepting pauses without spinning, the others are served, then all are"""
    need("prlimit")
    with Origin("--body", "100") as origin, limited(origin, 150) as gateway, Client(gateway.admin) as admin:
        gateway.counters(admin)
        served = [Client(gateway.address) for _ in range(10)]
        for client in served:
            equal(client.ask(get()).status, 200)
        # Two descriptors for each client, one idle for each, and an eighth for those that linger; 49 for the program,
        # the admin page and one idle connection.
        most = max(n for n in range(100) if 49 + 3 * n + n // 8 <= 150)
        with origin.held():
            asking = [Client(gateway.address) for _ in range(60)]  # the kernel connects them; not all can be accepted
            for client in asking:
                client.send(get(connection="close"))
            until(lambda: gateway.counters(admin)["clients"] == most, "it accepts no more")
            rig.expect_pause(lambda: gateway.counters(admin))
            equal(gateway.counters(admin)["clients"], most)
            for client in served:
                assert client.closed(), "a client that only waited has made room"
        for client in asking:  # each that goes makes room for another
            equal(client.response().status, 200)
            client.close()
        with Client(gateway.address) as client:
            equal(client.ask(get()).status, 200)
        gateway.check_ledger()


def test_outside_limit():
    """the limit falls while it runs (prlimit -p): what runs ends well, accepting pauses, and then goes on"""
    need("prlimit")
    with Origin("--body", "100") as origin, Gateway(origin) as gateway, Client(gateway.admin) as admin:
        served = [Client(gateway.address) for _ in range(5)]
        with origin.held():
            for client in served:
                client.send(get())
            until(lambda: gateway.counters(admin)["dialed"] == 5, "all five run")
            high = max(int(n) for n in os.listdir(f"/proc/{gateway.pid}/fd")) + 1
            old = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (high, old[1]))
            waiting = [Client(gateway.address) for _ in range(20)]
        for client in served:
            equal(client.response().status, 200, "a request that ran")
        until(lambda: gateway.counters(admin)["accept_failed"] >= 1, "accepting fails")
        rig.expect_pause(lambda: gateway.counters(admin))
        for client in served:
            client.send(get())
        for client in served:  # a client keeps its connection; whether a server's can be had is another matter
            assert client.response().status in (200, 503)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, old)
        for client in served + waiting:
            client.send(get())
        for client in served + waiting:
            equal(client.response().status, 200, "when there is room again")
        seen = gateway.check_ledger()
        assert seen["accept_failed"] >= 1 and seen["accept_paused"] >= 1, seen


def test_max_connections():
    """--max-connections is kept exactly; the next client waits for its turn"""
    with Origin("--body", "10") as origin, Gateway(origin, options=["--max-connections", "20"]) as gateway:
        clients = [Client(gateway.address) for _ in range(20)]
        with Client(gateway.address) as late:
            with origin.held():
                for client in clients:
                    client.send(get())
                until(lambda: gateway.counters()["dialed"] == 20, "all of them are served")
                late.send(get())
                assert late.is_quiet()
                equal(gateway.counters()["clients"], 20)
            for client in clients:
                equal(client.response().status, 200)
            equal(late.response().status, 200)


def test_churn():
    """5,000 short connections leave no descriptor behind"""
    with Origin("--body", "10") as origin, Gateway(origin) as gateway:
        with Client(gateway.address) as client:
            client.ask(get())
        before = until(lambda: gateway.counters()["clients"] == 0 and gateway.descriptors(), "it is quiet")

        def churn(count):
            for i in range(count):
                with Client(gateway.address) as client:
                    if i % 10 == 0:
                        client.send(get())
                        client.reset()
                    elif i % 10 != 1:
                        equal(client.ask(request("POST", body=b"x") if i % 2 else get()).status, 200)

        threads = [threading.Thread(target=churn, args=(1250,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: gateway.counters()["clients"] == 0, "all have gone")
        seen = gateway.check_ledger()
        until(lambda: gateway.descriptors() <= before + seen["idle"], "every descriptor is closed")


rig.main(globals())
