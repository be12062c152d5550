#!/usr/bin/env python3
"""--takeover: a process that takes the listening sockets of a running one, and what happens when one of the two dies."""

import array
import os
import pathlib
import re
import signal
import socket
import struct
import tempfile
import threading

import rig
from rig import Gateway, Origin, Relay, until
from wire import Client, equal, get

HEAD = b"weir-takeover 1\n"


class Load:
    """Threads that connect, ask and close, all the time; `failures` is what went wrong."""

    def __init__(self, address, threads=4):
        self.failures, self.served, self.over = [], 0, False
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(address,)) for _ in range(threads)]
        for t in self.threads:
            t.start()

    def work(self, address):
        while not self.over:
            try:
                with Client(address) as client:
                    for _ in range(3):
                        answer = client.ask(get())
                        equal(answer.status, 200)
                        if answer.value("connection") == "close":
                            break
                with self.lock:
                    self.served += 1
            except Exception as e:  # whatever it is, the test tells
                self.failures.append(repr(e))
                return

    def stop(self):
        self.over = True
        for t in self.threads:
            t.join()


def ten_times(start):
    """start(generation) starts a process that takes over from the one before."""
    running = start(0)
    load = Load(running.address)
    try:
        for generation in range(1, 11):
            mark = load.served
            until(lambda: load.served > mark + 5 or load.failures, "clients are served")
            new = start(generation)
            equal(new.address, running.address)
            equal(running.wait(), 0, "the old one's exit status")
            assert "another process has taken over" in running.stderr(), running.stderr()
            assert "took over at" in new.stderr(), new.stderr()
            running.kill()
            running = new
        mark = load.served
        until(lambda: load.served > mark + 5 or load.failures, "clients are served by the last one")
    finally:
        load.stop()
    equal(load.failures, [], "clients refused, reset or not answered")
    equal(running.end(), 0)
    running.kill()


def test_relay():
    """ten takeovers of weir-relay with two threads under load: no client is refused or reset"""
    with tempfile.TemporaryDirectory() as place, Origin("--body", "100") as origin:
        path = f"unix:{place}/takeover"
        ten_times(lambda n: Relay(origin, options=["--threads", "2", "--takeover", path, "--drain-timeout", "10s"]))


def test_gateway():
    """ten takeovers of weir-gateway under load, admin page and all"""
    with tempfile.TemporaryDirectory() as place, Origin("--body", "100") as origin:
        options = ["--takeover", f"unix:{place}/takeover", "--drain-timeout", "10s"]
        admins = set()

        def start(_):
            gateway = Gateway(origin, options=options)
            admins.add(gateway.admin)
            assert gateway.counters()["clients"] >= 0
            return gateway
        ten_times(start)
        equal(len(admins), 1, "the admin page stays where it was")


def test_unix():
    """a unix LISTEN passes on, too; the number of descriptors is the same in each generation"""
    with tempfile.TemporaryDirectory() as place, Origin("--body", "9") as origin:
        at, options = f"unix:{place}/listen", ["--takeover", f"unix:{place}/takeover"]
        at_first, running = 0, None
        for _ in range(4):
            new = Relay(origin, options=options, at=at)
            if running:
                equal(running.wait(), 0)
                running.kill()
            running = new
            at_first = at_first or running.descriptors()
            with Client(at) as client:
                equal(client.ask(get()).status, 200)
            until(lambda: running.descriptors() == at_first, "it has what the first one had before any client")
        equal(running.end(), 0)
        running.kill()


def test_fresh():
    """nobody there, or only the file of one that was killed: a fresh start"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        options = ["--takeover", f"unix:{place}/takeover"]
        for _ in range(2):
            relay = Relay(origin, options=options)
            assert "took over" not in relay.stderr(), relay.stderr()
            relay.kill()
        assert (pathlib.Path(place) / "takeover").exists()


def dial_giver(place):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(rig.DEADLINE)
    s.connect(f"{place}/takeover")
    return s


def test_taker_dies():
    """a new process that dies before, within or after the sockets: the old one says so and goes on serving"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        with Relay(origin, options=["--takeover", f"unix:{place}/takeover"]) as relay:
            for step in range(3):
                with dial_giver(place) as s:
                    if step >= 1:
                        data, fds, _, _ = socket.recv_fds(s, 4096, 16)
                        assert data.startswith(HEAD), data
                        equal(len(fds), 2, "the takeover socket and the listener")
                        for fd in fds:
                            socket.close(fd)
                    if step == 2:
                        s.sendall(b"rea")
                until(lambda: relay.stderr().count("came to nothing") == step + 1, "it says so")
                with Client(relay.address) as client:
                    equal(client.ask(get()).status, 200)
            equal(relay.end(), 0)


def test_giver_dies():
    """an old process that dies midway, or is none: the new one says so and exits 1"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        for said in (b"", HEAD, HEAD + struct.pack("=I", 2), b"HTTP/1.1 400 Bad Request\r\n\r\n"):
            path = f"{place}/takeover"
            with socket.socket(socket.AF_UNIX) as s:
                s.bind(path)
                s.listen()
                s.settimeout(rig.DEADLINE)
                new = Relay(origin, options=["--takeover", f"unix:{path}"], ready=False)
                c, _ = s.accept()
                c.sendall(said)
                c.close()
                equal(new.wait(), 1, said)
                assert "--takeover unix:" in new.stderr(), new.stderr()
                assert "listening" not in new.stderr(), new.stderr()
                new.kill()
            pathlib.Path(path).unlink(missing_ok=True)


class Giver:
    """Stands for an old process: its listener, and the unix socket where it is asked for it."""

    def __init__(self, path):
        self.door = socket.socket()
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.door.bind(("127.0.0.1", 0))
        self.door.listen(128)
        self.door.settimeout(rig.DEADLINE)
        self.asked = socket.socket(socket.AF_UNIX)
        self.asked.bind(path)
        self.asked.listen()
        self.asked.settimeout(rig.DEADLINE)
        self.address = "127.0.0.1:%d" % self.door.getsockname()[1]

    def give(self):
        """Gives both to whoever asks, and comes back when that one is ready."""
        s, _ = self.asked.accept()
        s.settimeout(rig.DEADLINE)
        message = HEAD + struct.pack("=I", 2) + struct.pack("=IIII", 0, 0, 1, 0)
        socket.send_fds(s, [message], [self.asked.fileno(), self.door.fileno()])
        said = b""
        while said != b"ready\n":
            more = s.recv(16)
            assert more, f"it ended after {said}"
            said += more
        return s

    def close(self):
        self.door.close()
        self.asked.close()


def test_refused_under_load():
    """while it is not decided, a new process with two threads and more serves nobody: who comes is the old one's"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        for threads in ("2", "4"):
            path = f"{place}/takeover"
            giver = Giver(path)
            new = Relay(origin, options=["--threads", threads, "--takeover", f"unix:{path}"], at=giver.address, ready=False)
            with giver.give() as s:
                clients = [Client(giver.address) for _ in range(60)]
                equal(len([giver.door.accept() for _ in clients]), 60, "clients of the old process")
                assert "listening" not in new.stderr(), new.stderr()
                s.sendall(b"stays\n")
            equal(new.wait(), 1)
            new.kill()
            for client in clients:
                client.close()
            giver.close()
            pathlib.Path(path).unlink(missing_ok=True)


def test_taken_under_load():
    """once it is decided, all its threads serve, those too that the old process did not have"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        path = f"{place}/takeover"
        giver = Giver(path)
        new = Relay(origin, options=["--threads", "3", "--takeover", f"unix:{path}"], at=giver.address, ready=False)
        with giver.give() as s:
            waiting = [Client(giver.address) for _ in range(20)]
            s.sendall(b"taken\n")
        giver.close()
        for client in waiting:
            equal(client.ask(get()).status, 200)
            client.close()
        until(lambda: new.addresses, "it says that it listens")
        held = []

        def all_serve():
            held.append(Client(giver.address))
            equal(held[-1].ask(get()).status, 200)
            counts = re.findall(r"(\d+) descriptors are open in loop [12]", "".join(new.report(loops=3)))
            return len(counts) == 2 and min(map(int, counts)) > 2  # more than its mailbox and its listener
        until(all_serve, "clients of each thread")
        for client in held:
            client.close()
        equal(new.end(), 0)
        new.kill()


def test_options():
    """a listener that was handed over has the new process's options"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        for options, told in (((), 0), (("--user-timeout", "400s"), 400_000)):
            path = f"{place}/takeover"
            giver = Giver(path)
            giver.door.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
            new = Relay(origin, options=["--takeover", f"unix:{path}", *options], at=giver.address, ready=False)
            with giver.give() as s:
                s.sendall(b"taken\n")
            until(lambda: new.addresses, "it says that it listens")
            equal(giver.door.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), told)
            equal(giver.door.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)
            equal(new.end(), 0)
            new.kill()
            giver.close()
            pathlib.Path(path).unlink(missing_ok=True)


def test_fewer_threads():
    """fewer threads than before would leave a queue to nobody: exit 1, and the old one goes on"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        path = f"unix:{place}/takeover"
        with Relay(origin, options=["--threads", "3", "--takeover", path]) as relay:
            new = Relay(origin, options=["--threads", "2", "--takeover", path], ready=False)
            equal(new.wait(), 1)
            assert "no fewer will do" in new.stderr(), new.stderr()
            new.kill()
            with Client(relay.address) as client:
                equal(client.ask(get()).status, 200)
            more = Relay(origin, options=["--threads", "4", "--takeover", path])
            equal(relay.wait(), 0)
            equal(more.address, relay.address)
            with Client(more.address) as client:
                equal(client.ask(get()).status, 200)
            equal(more.end(), 0)
            more.kill()


def test_too_many():
    """more sockets than can be passed on: exit 1 before the old one has given up anything"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        path = f"unix:{place}/takeover"
        rig.need_descriptors(12_000)  # 253 threads with clients want that
        with Relay(origin, options=["--takeover", path]) as relay:
            new = Relay(origin, options=["--takeover", path, "--threads", "253", "--splice", "off",
                                         "--max-connections", "64"], ready=False)
            equal(new.wait(), 1)
            new.kill()
            until(lambda: "came to nothing" in relay.stderr(), "the old one says so")
            with Client(relay.address) as client:
                equal(client.ask(get()).status, 200)
            equal(relay.end(), 0)


def test_signals_after():
    """after a takeover the old one still obeys: the second SIGTERM ends it at once, with 1"""
    with tempfile.TemporaryDirectory() as place, Origin("--delay", "60s") as origin:
        options = ["--takeover", f"unix:{place}/takeover", "--threads", "2", "--drain-timeout", "60s"]
        # At once is _exit(): nobody joins the thread that had nothing left to do.
        tsan = os.environ.get("TSAN_OPTIONS", "") + ":report_thread_leaks=0"
        old = Relay(origin, options=options, env={"TSAN_OPTIONS": tsan})
        with Client(old.address) as client:
            client.send(get())
            until(lambda: old.counters(loops=2)["relayed"] == 1, "it runs")
            with Relay(origin, options=options):
                until(lambda: "another process has taken over" in old.stderr(), "it is told")
                for _ in range(2):
                    assert old.process.poll() is None, "it still runs"
                    old.signal(signal.SIGTERM)
                    until(lambda: old.process.poll() is not None or not old.has_pending(signal.SIGTERM), "it is taken")
                equal(old.wait(), 1, old.stderr())
                assert client.closed()
        old.kill()


def test_wrong():
    """an address that is not of a unix socket is a mistake, and so is a descriptor"""
    for place, why in (("127.0.0.1:80", "is no unix address"), ("fd:3", "no descriptor is taken")):
        new = Relay("127.0.0.1:1", options=["--takeover", place], ready=False)
        equal(new.wait(), 2)
        assert re.search(f"--takeover: .*{why}", new.stderr()), new.stderr()
        new.kill()


rig.main(globals())
