#!/usr/bin/env python3
"""What a request costs: system calls, allocations and memory, counted exactly."""

import os
import pathlib
import re
import signal
import struct
import tempfile

import rig
from rig import Gateway, Origin, Relay, Skipped, need, run, until
from stream import MB, Server, bytes_of, carry_both, close_all, pairs
from wire import DEADLINE, Client, equal, get

CONNECTIONS = 50
BYTES = ("recvfrom", "sendto", "recvmsg", "sendmsg", "read", "write", "readv", "writev", "recv", "send")


class Crowd:
    """Clients that ask in turn, each on its own connection."""

    def __init__(self, gateway, count):
        self.clients = [Client(gateway.address) for _ in range(count)]

    def ask(self, times):
        for _ in range(times):
            for client in self.clients:
                client.send(get())
            for client in self.clients:
                equal(client.response().status, 200)

    def warm_up(self, origin, gateway):
        """All at once, while the server is stopped: from then on there is a server connection for each."""
        origin.signal(signal.SIGSTOP)
        for client in self.clients:
            client.send(get())
        rig.until(lambda: gateway.counters()["dialed"] >= len(self.clients), "every server connection is made")
        origin.signal(signal.SIGCONT)
        for client in self.clients:
            equal(client.response().status, 200)
        self.ask(5)

    def close(self):
        for client in self.clients:
            client.close()


class Tracer:
    """strace on a running program; `calls` when it is over: (name, line) of every system call."""

    def __init__(self, program):
        need("strace")
        self.log = tempfile.NamedTemporaryFile("r")
        self.strace = rig.Program(["strace", "-f", "-o", self.log.name, "-p", program.pid], ready=False)
        until(lambda: "attached" in self.strace.stderr() or self.strace.process.poll() is not None, "strace is attached")
        if self.strace.process.poll() is not None:
            raise rig.NotHere(f"strace may not attach: {self.strace.stderr().strip()}")

    def stop(self):
        self.strace.signal(2)
        self.strace.process.wait(DEADLINE)
        found = []
        for line in self.log.read().splitlines():
            match = re.match(r"\d+\s+(?:<\.\.\. )?(\w+)(?:\(| resumed)", line)
            if match and not line.endswith("<unfinished ...>"):
                found.append((match.group(1), line))
        return found


def count(calls, *names):
    return sum(name in names for name, _ in calls)


def show(calls):
    seen = {}
    for name, _ in calls:
        seen[name] = seen.get(name, 0) + 1
    return str(seen)


def test_steady_state():
    """50 connections, small bodies: 0 epoll_ctl, 0 EAGAIN, 4 calls that move bytes and no other call per request"""
    with Origin("--body", "100") as origin, Gateway(origin) as gateway:
        crowd = Crowd(gateway, CONNECTIONS)
        crowd.warm_up(origin, gateway)
        tracer = Tracer(gateway)
        rounds = 20
        crowd.ask(rounds)
        calls = tracer.stop()
        requests = rounds * CONNECTIONS
        equal(count(calls, "epoll_ctl"), 0, show(calls))
        equal([line for _, line in calls if "EAGAIN" in line][:3], [], "EAGAIN")
        moved = count(calls, *BYTES)
        assert moved <= 4 * requests, f"{moved} for {requests} requests: {show(calls)}"
        waits = count(calls, "epoll_wait", "epoll_pwait", "epoll_pwait2")
        equal(len(calls) - moved - waits, count(calls, "restart_syscall"), f"other calls: {show(calls)}")
        assert waits <= 2 * requests + 10, show(calls)
        crowd.close()


def test_one_registration():
    """one EPOLL_CTL_ADD per accepted and one per dialed connection, nothing else: no MOD, no DEL"""
    with Origin("--body", "100", "--close-after", "2") as origin, Gateway(origin) as gateway:
        with Client(gateway.address) as client:
            client.ask(get())
        until(lambda: gateway.counters()["clients"] == 0, "it is quiet")
        tracer = Tracer(gateway)
        for _ in range(50):
            with Client(gateway.address) as client:
                client.ask(get())
        calls = tracer.stop()
        ctl = [line for name, line in calls if name == "epoll_ctl"]
        accepted = sum(bool(re.search(r"accept4?\(.*\) = \d+|accept4? resumed.*\) = \d+", line)) for _, line in calls)
        dialed = count(calls, "connect")
        assert accepted >= 50 and dialed >= 24, show(calls)
        equal(sum("EPOLL_CTL_ADD" in line for line in ctl), len(ctl), "of epoll_ctl: EPOLL_CTL_ADD")
        equal(len(ctl), accepted + dialed, f"epoll_ctl calls; {accepted} accepted, {dialed} dialed")


def test_no_file():
    """the first request of all, with an access log, opens no file: not even the time zone"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        log = pathlib.Path(place) / "log"
        with Gateway(origin, options=["--access-log", log]) as gateway, Client(gateway.address) as client:
            tracer = Tracer(gateway)
            client.ask(get())
            until(lambda: log.read_text().count("\n") == 1, "the line is written")
            calls = tracer.stop()
            equal([line for name, line in calls if name in ("open", "openat")], [])


def counted():
    """A way to start the gateway so that its allocations are counted: (environment, read)."""
    library = os.environ.get("WEIR_COUNT_ALLOCATIONS", rig.TOOLS.parent / "tests" / "count_allocations.so")
    if not pathlib.Path(library).exists():
        raise Skipped(f"{library} was not built")
    file = tempfile.NamedTemporaryFile("rb")

    def read():
        file.seek(0)
        return struct.unpack("Q", file.read(8))[0]
    return {"LD_PRELOAD": str(library), "COUNT_ALLOCATIONS": file.name}, read, file


def test_no_allocations():
    """0 allocations per request, per idle close and per accepted connection"""
    environment, allocations, _file = counted()
    with Origin("--body", "100", "--close-after", "10") as origin, Gateway(origin, env=environment) as gateway:
        before_any = allocations()
        assert before_any > 5, "the counter counts"
        crowd = Crowd(gateway, CONNECTIONS)
        crowd.warm_up(origin, gateway)
        crowd.close()
        until(lambda: gateway.counters()["clients"] == 0, "they have gone")
        before = allocations()
        crowd = Crowd(gateway, CONNECTIONS)
        crowd.ask(40)  # each server connection is closed and dialed anew four times
        crowd.close()
        until(lambda: gateway.counters()["clients"] == 0, "they have gone")
        equal(allocations() - before, 0, "allocations")


def test_idle_memory():
    """an idle client connection costs at most 256 bytes of memory"""
    count_idle = 4000
    rig.need_descriptors(17_000)  # twice --max-connections, and more
    with Origin("--body", "10") as origin, Gateway(origin, options=["--max-connections", "8000"]) as gateway:
        def crowd(size):
            clients = []
            for _ in range(size):
                client = Client(gateway.address)
                equal(client.ask(get()).status, 200)
                clients.append(client)
            return clients

        first = crowd(500)  # what is touched once and for all
        before = gateway.rss()
        more = crowd(count_idle)
        equal(gateway.counters()["clients"], count_idle + 500)
        each = (gateway.rss() - before) / count_idle
        print(f"           {each:.0f} bytes for each idle client")
        assert each <= 256, f"{each:.0f} bytes for each idle client"
        for client in first + more:
            client.close()


def test_idle_costs_nothing():
    """idle connections cost no CPU time, whatever happened to them (the idle manager of 2013 could spin here)"""
    with Origin("--body", "10") as origin:
        for policy in ("kill", "drain"):
            with Gateway(origin, options=["--unsolicited", policy]) as gateway:
                crowd = Crowd(gateway, CONNECTIONS)
                crowd.ask(3)
                for client in crowd.clients[:10]:
                    client.socket.shutdown(1)
                for client in crowd.clients[10:20]:
                    client.reset()
                until(lambda: gateway.counters()["clients"] == CONNECTIONS - 20, "they have gone")
                turns = gateway.counters()["turns"]
                tracer = Tracer(gateway)
                run("sleep", "0.5")  # the time that is measured
                calls = tracer.stop()
                assert len(calls) <= 20, f"{policy}: {show(calls)}"  # a spin makes thousands
                assert gateway.counters()["turns"] - turns < 40
                crowd.close()


# --- weir-relay

def round_trips(both, times):
    """64 bytes from each client to its server, and 64 bytes back."""
    for i in range(times):
        data = bytes_of(i, 64)
        for client, _ in both:
            client.say(data)
        for _, end in both:
            end.expect(data)
            end.say(data)
        for client, _ in both:
            client.expect(data)


def test_relay_steady_state():
    """weir-relay, 50 pairs, 64 bytes: 0 epoll_ctl, 0 EAGAIN, 4 calls that move bytes and no other per round trip"""
    with Server() as server, Relay(server) as relay:
        both = pairs(relay, server, CONNECTIONS)
        round_trips(both, 3)
        tracer = Tracer(relay)
        rounds = 20
        round_trips(both, rounds)
        calls = tracer.stop()
        trips = rounds * CONNECTIONS
        equal(count(calls, "epoll_ctl"), 0, show(calls))
        equal([line for _, line in calls if "EAGAIN" in line][:3], [], "EAGAIN")
        equal(count(calls, *BYTES), 4 * trips, show(calls))
        waits = count(calls, "epoll_wait", "epoll_pwait", "epoll_pwait2")
        equal(len(calls) - 4 * trips - waits, count(calls, "restart_syscall"), f"other calls: {show(calls)}")
        assert waits <= 2 * trips + 10, show(calls)
        close_all(both)


def test_relay_registrations():
    """weir-relay: one EPOLL_CTL_ADD per accepted and one per dialed connection, and nothing else"""
    with Server() as server, Relay(server) as relay:
        close_all(pairs(relay, server, 1))
        until(lambda: relay.counters()["live"] == 0, "it is quiet")
        tracer = Tracer(relay)
        both = pairs(relay, server, 50)
        round_trips(both, 2)
        close_all(both)
        until(lambda: relay.counters()["live"] == 0, "they have gone")
        ctl = [line for name, line in tracer.stop() if name == "epoll_ctl"]
        equal((len(ctl), sum("EPOLL_CTL_ADD" in line for line in ctl)), (100, 100), "epoll_ctl; of these ADD")


def test_relay_accepts():
    """weir-relay: a client that comes alone costs one accept, and no EAGAIN tells that it was the last"""
    with Server() as server, Relay(server) as relay:
        close_all(pairs(relay, server, 1))
        until(lambda: relay.counters()["live"] == 0, "it is quiet")
        tracer = Tracer(relay)
        for _ in range(20):
            both = pairs(relay, server, 1)
            round_trips(both, 1)
            close_all(both)
        calls = tracer.stop()
        equal(count(calls, "accept4"), 20, show(calls))
        equal([line for _, line in calls if "EAGAIN" in line][:3], [], "EAGAIN")


def test_relay_no_allocations():
    """weir-relay: 0 allocations per byte, per pair and per end, copied or spliced"""
    environment, allocations, _file = counted()
    with Server() as server, Relay(server, env=environment) as relay:
        def crowd():
            both = pairs(relay, server, CONNECTIONS)
            round_trips(both, 3)
            carry_both(both[:5], 4 * MB)
            both.pop()[0].reset()
            close_all(both)
            until(lambda: relay.counters()["live"] == 0, "they have gone")

        assert allocations() > 5, "the counter counts"
        crowd()
        before = allocations()
        crowd()
        assert relay.counters()["spliced_bytes"] > 0
        equal(allocations() - before, 0, "allocations")


rig.main(globals())
