#!/usr/bin/env python3
"""What runs out: descriptors, ports, the backlog; and accepting against traffic that is there. The numbers in brackets
are those of the nasty scenarios in tests/sim and here."""

import contextlib
import os
import pathlib
import re
import resource
import selectors
import signal
import socket
import tempfile
import threading
import time

import rig
from rig import TOOLS, Gateway, Origin, Program, Relay, need, until
from stream import Peer, Server, connect
from surroundings import inside, lonely_network, overflows, tune, within
from wire import DEADLINE, Client, equal, get, place_of

FOREVER = ["--header-timeout", "1h", "--keep-alive-timeout", "1h"]  # no client goes for being late


def backlog():
    """How many may wait to be accepted."""
    return int(pathlib.Path("/proc/sys/net/core/somaxconn").read_text())


# --- descriptors

def test_few_descriptors():
    """81 descriptors and 1,000 dialers: accepting rests, and each is served in its turn (16)"""
    need("prlimit")
    count = min(1000, backlog() // 2)
    rig.need_descriptors(count + 100)
    with Origin("--body", "10") as origin:
        with Gateway(origin, options=FOREVER, wrapper=["prlimit", "--nofile=81:81"]) as gateway:
            with origin.held(), Client(gateway.admin) as admin:
                clients = [Client(gateway.address, timeout=30) for _ in range(count)]
                for client in clients:
                    client.send(get(connection="close"))
                until(lambda: gateway.counters(admin)["clients"] == 16, "it accepts no more")
                print(f"           {rig.expect_pause(lambda: gateway.counters(admin))}")
            for client in clients:  # each that goes makes room for the next
                equal(client.response().status, 200)
                client.close()
            gateway.check_ledger()


@contextlib.contextmanager
def no_descriptors(program):
    """From now on no descriptor can be had by that process; how it was after the block."""
    old = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
    high = max(int(n) for n in os.listdir(f"/proc/{program.pid}/fd")) + 1
    resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (high, old[1]))
    try:
        yield
    finally:
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, old)


def test_no_descriptors():
    """1,000 dialers and no descriptor left: accept fails now and then, and the next that is freed is somebody's (16)"""
    count = min(1000, backlog() // 2)
    rig.need_descriptors(count + 100)
    with Origin("--body", "10") as origin, Gateway(origin, options=FOREVER) as gateway, Client(gateway.admin) as admin:
        served = [Client(gateway.address) for _ in range(10)]
        for client in served:
            equal(client.ask(get()).status, 200)
        with no_descriptors(gateway):
            waiting = [Client(gateway.address) for _ in range(count)]
            until(lambda: gateway.counters(admin)["accept_failed"] >= 1, "accepting fails")
            said = rig.expect_pause(lambda: gateway.counters(admin))
            before, began = gateway.counters(admin)["accepted"], time.monotonic()
            served.pop().close()
            until(lambda: gateway.counters(admin)["accepted"] > before, "one more is accepted")
            print(f"           {said}; the next accepted after {(time.monotonic() - began) * 1000:.0f} ms")
            for client in served:
                equal(client.ask(get()).status, 200, "a client that is there")
        for client in served + waiting:
            client.send(get(connection="close"))
        for client in served + waiting:
            equal(client.response().status, 200, "when there are descriptors again")
            client.close()
        gateway.check_ledger()


# --- ports

PORTS = 50


@contextlib.contextmanager
def few_ports():
    """A network where 50 connections to a server are all that there can be: its name, a server in it, and a place to
    listen at, for clients that need no port."""
    with lonely_network() as name, tempfile.TemporaryDirectory(prefix="weir-limits-") as root:
        with inside(name, lambda: Server("127.0.0.1:0")) as server:
            own = int(server.address.rsplit(":", 1)[1])
            first = 40000 if not 40000 <= own < 40000 + PORTS else 50000
            tune(name, "ipv4/ip_local_port_range", f"{first} {first + PORTS - 1}")
            yield name, server, f"unix:{root}/listen"


def test_relay_ports():
    """weir-relay without a port to connect from: a reset at once, and the next is served when one is free again (13)"""
    with few_ports() as (name, server, place):
        options = ["--connect-timeout", "1h"]
        with Relay(server, at=place, options=options, wrapper=within(name)) as relay:
            clients = [connect(relay.address) for _ in range(PORTS)]
            ends = [server.accept() for _ in clients]
            for _ in range(10):
                with connect(relay.address) as refused:
                    equal(refused.end()[0], b"")
            seen = relay.counters()
            equal((seen["relayed"], seen["refused"]), (PORTS, 10))
            said = re.findall(r"refused: connect_failed: .*Cannot assign requested address", relay.stderr())
            equal(len(said), 10, "causes that are said")
            for end in ends[:10]:
                end.reset()  # no TIME_WAIT is left of that
            until(lambda: relay.counters()["clients"] == PORTS - 10, "ten have gone")
            more = [connect(relay.address) for _ in range(10)]
            ends += [server.accept() for _ in more]
            for peer in clients + more + ends:
                peer.close()
            until(lambda: relay.counters()["live"] == 0, "all have gone")
            relay.check_ledger()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_gateway_ports():
    """weir-gateway without a port to connect from: 503 at once; and when a connection is free, it is used (13)"""
    with few_ports() as (name, server, place):
        options = ["--connect-timeout", "1h", *FOREVER]
        with Gateway(server, at=place, options=options, wrapper=within(name), admin=f"{place}-admin") as gateway:
            clients = [Client(gateway.address) for _ in range(PORTS + 10)]
            for client in clients[:PORTS]:
                client.send(get())
            ends = [server.accept() for _ in range(PORTS)]
            for client in clients[PORTS:]:
                equal(client.ask(get()).status, 503)
            for end in ends:
                end.hear(len(b"GET"))
                end.say(OK)
            for client in clients[:PORTS]:
                equal(client.response().status, 200)
            for _ in range(2):
                for end in ends:
                    end.reset()  # while it is idle
                until(lambda: gateway.counters()["idle"] == 0, "they have gone")
                for client in clients[:PORTS]:
                    client.send(get())
                ends = [server.accept() for _ in range(PORTS)]
                for end in ends:
                    end.hear(len(b"GET"))
                    end.say(OK)
                for client in clients[:PORTS]:
                    equal(client.response().status, 200, "when there are ports again")
            seen = gateway.check_ledger()
            equal((seen["shed"], seen["retries"]), (10, 0), f"{seen}")
            for peer in clients + ends:
                peer.close()


# --- the backlog

def begin_to_connect(address):
    family, to = place_of(address)
    made = socket.socket(family)
    made.setblocking(False)
    made.connect_ex(to)
    return made


def connected(sockets, patience=60.0):
    """The same ones, in the order in which their connect came through."""
    end = time.monotonic() + patience
    with selectors.DefaultSelector() as selector:
        for made in sockets:
            selector.register(made, selectors.EVENT_WRITE)
        while selector.get_map():
            for key, _ in selector.select(1):
                equal(key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0, "an error of connect()")
                selector.unregister(key.fileobj)
                yield key.fileobj
            assert time.monotonic() < end, f"{len(selector.get_map())} of {len(sockets)} are not connected"


def test_backlog():
    """a backlog that overflows while weir is stopped: all that asked are served when it goes on (18)"""
    count = 60
    with lonely_network() as name:
        tune(name, "core/somaxconn", 16)
        with Program([*within(name), TOOLS / "weir-origin", "--body", "10", "127.0.0.1:0"]) as origin:
            with Gateway(origin, options=FOREVER, wrapper=within(name)) as gateway:
                with gateway.held():
                    asking = inside(name, lambda: [begin_to_connect(gateway.address) for _ in range(count)])
                    until(lambda: overflows(name) > 0, "the backlog has overflown")
                began = time.monotonic()
                for made in connected(asking):
                    client = Peer(made)
                    client.say(get(connection="close"))
                    said, how = client.end()
                    assert said.startswith(b"HTTP/1.1 200 ") and how == "fin", (said, how)
                    client.close()
                print(f"           all {count} served after {time.monotonic() - began:.1f} s, {overflows(name)} overflows")
                seen = inside(name, gateway.check_ledger)
                equal(seen["responses"], count)


# --- accepting and serving

class Storm:
    """Threads that connect and close again, all the time."""

    def __init__(self, address, threads=2):
        self.count, self.wrong, self.over = [0] * threads, [], threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(address, n)) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def work(self, address, number):
        try:
            while not self.over.is_set():
                with Client(address):
                    self.count[number] += 1
        except Exception as error:
            self.wrong.append(repr(error))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


def test_accept_storm():
    """a storm of new clients: who is there already is answered as often as he asks (19)"""
    with Origin("--body", "10") as origin, Gateway(origin, options=["--keep-alive-requests", "1000000"]) as gateway:
        clients = [Client(gateway.address) for _ in range(20)]
        answers, end = 0, time.monotonic() + 2 * DEADLINE
        with Storm(gateway.address) as storm:
            while (answers < 500 or sum(storm.count) < 2000) and not storm.wrong and time.monotonic() < end:
                for client in clients:
                    equal(client.ask(get()).status, 200)
                    answers += 1
        equal(storm.wrong, [])
        came = sum(storm.count)
        print(f"           {answers} answers, {came} new clients")
        assert answers >= 500 and came >= 2000, f"{answers} answers, {came} new clients"
        until(lambda: gateway.counters()["clients"] == 20, "the storm is over")
        gateway.check_ledger()


def test_busy():
    """clients that never rest: who comes is accepted and served all the same (19)"""
    need("wrk")
    with Origin("--body", "1k") as origin, Gateway(origin, options=["--keep-alive-requests", "1000000"]) as gateway:
        with Program(["wrk", "-c100", "-t2", "-d60s", gateway.url], ready=False) as busy:
            until(lambda: gateway.counters()["requests"] > 1000, "they are busy")
            before = gateway.counters()["requests"]
            for _ in range(200):
                with Client(gateway.address) as client:
                    equal(client.ask(get()).status, 200)
            others = gateway.counters()["requests"] - before - 201
            equal(busy.process.poll(), None, "the busy ones have not ended")
            assert others > 0, "the busy ones were not served"
            print(f"           {others} requests of others while 200 new ones were served")
            busy.signal(signal.SIGINT)
            equal(busy.wait(), 0)
            assert "Socket errors" not in busy.stdout and "Non-2xx" not in busy.stdout, busy.stdout


rig.main(globals())
