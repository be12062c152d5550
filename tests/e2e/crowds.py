#!/usr/bin/env python3
"""Many at once that do not behave: servers that close everything, attackers that are slow, processes that stand still,
and little memory. How long anything took is printed and never judged. Smaller crowds, unless WEIR_SOAK=1."""

import signal
import socket
import sys
import time

import rig
from rig import SANITIZED, SOAK, TOOLS, Gateway, Origin, Program, Relay, until
from stream import MB, Server
from surroundings import inside, lonely_network, memory_group, tune, within
from wire import DEADLINE, Client, equal, get, place_of, request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FOREVER = ["--header-timeout", "1h", "--keep-alive-timeout", "1h", "--pool-idle-timeout", "1h", "--first-byte-timeout", "1h"]


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


# --- a server that closes all

def hear_head(conn):
    """One request without a body."""
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        got += conn.socket.recv(4096)
        assert got, "an end instead of a request"


def idle_connections(gateway, server, count):
    """So many clients that were served at the same time, and as many idle connections of the server."""
    clients, ends = [], []
    while len(clients) < count:  # in portions, for the backlog of either
        portion = [Client(gateway.address) for _ in range(min(100, count - len(clients)))]
        for client in portion:
            client.send(get())
        for _ in portion:
            ends.append(server.accept())
            hear_head(ends[-1])
        clients += portion
    for end in ends:
        end.say(OK)
    for client in clients:
        equal(client.response().body, b"ok")
    equal(gateway.counters()["idle"], count)
    return clients, ends


def test_all_closed():
    """a server closes thousands of idle connections at once: all go, none is used, and no client notices"""
    count, asking = 5_800 if SOAK else 2_000, 50
    rig.need_descriptors(3 * count + 2500)
    options = [*FOREVER, "--pool-size", "10000", "--max-connections", str(count + 100)]
    with Server() as server, Gateway(server, options=options) as gateway, Client(gateway.admin) as admin:
        clients, ends = idle_connections(gateway, server, count)
        with gateway.held():
            for end in ends:
                end.close()
            for client in clients[:asking]:
                client.send(get())
        began = time.monotonic()
        fresh = [server.accept() for _ in range(asking)]
        for end in fresh:
            hear_head(end)
            end.say(OK)
        for client in clients[:asking]:
            equal((client.response().status), 200, "who asked meanwhile")
        slowest, seen = 0, None
        while not seen or seen["idle"] > asking:
            asked = time.monotonic()
            seen = gateway.counters(admin)
            slowest = max(slowest, time.monotonic() - asked)
            assert asked - began < DEADLINE, f"{seen['idle']} are still idle"
        equal((seen["end_idle_peer_closed"], seen["retries"], seen["errors"], seen["dialed"]), (count, 0, 0, count + asking),
              "closes seen, requests repeated, errors, connections made")
        assert all(client.is_quiet() for client in clients), "a client has heard something"
        print(f"           {count} closed within {(asked - began) * 1000:.0f} ms, "
              f"the slowest answer meanwhile {slowest * 1000:.1f} ms")
        for peer in clients + fresh:
            peer.close()
        gateway.check_ledger()


# --- slow attackers

class Attackers:
    """Connections that take as long as they may: a head or a body byte by byte, answers that are never read."""

    def __init__(self, address, count):
        kinds = (b"GET / HTTP/1.1\r\nHost: test\r\nX: ", b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n",
                 get() * 300)
        self.sockets, self.address, self.gone = [], address, 0
        for number in range(count):
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.connect(place_of(address)[1])
            made.setblocking(False)
            made.send(kinds[number % 3])
            self.sockets.append((made, number % 3 < 2))

    def drip(self):
        """A byte more of each that drips. Counts those that hear of their end."""
        left = []
        for made, drips in self.sockets:
            try:
                if drips:
                    made.send(b"x")
                    if made.recv(4096) == b"":
                        raise ConnectionResetError
                else:
                    made.recv(1, socket.MSG_PEEK)
                    # What was sent first is there, so a reset shows only in the socket's state: TCP_CLOSE.
                    if made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\7":
                        raise ConnectionResetError
            except BlockingIOError:
                pass
            except OSError:
                self.gone += 1
                made.close()
                continue
            left.append((made, drips))
        self.sockets = left

    def close(self):
        for made, _ in self.sockets:
            made.close()


def ask_all(clients, times, took):
    for _ in range(times):
        for client in clients:
            began = time.monotonic()
            answer = client.ask(get())
            took.append(time.monotonic() - began)
            equal((answer.status, len(answer.body)), (200, 65536))


def test_slow_attackers():
    """500 that send heads and bodies byte by byte, or read nothing: the good are served, and each bad one is given up"""
    count = 500
    rig.need_descriptors(2 * count + 200)
    options = ["--header-timeout", "2s", "--body-timeout", "2s", "--write-timeout", "2s", "--linger-timeout", "500ms",
               "--keep-alive-requests", "1000000"]
    with Origin("--body", "64k") as origin, Gateway(origin, options=options) as gateway:
        clients = [Client(gateway.address) for _ in range(20)]
        alone, beside = [], []
        ask_all(clients, 20, alone)
        attackers, began, last = Attackers(gateway.address, count), time.monotonic(), 0
        while attackers.sockets and time.monotonic() < began + 3 * DEADLINE:
            ask_all(clients, 1, beside)
            attackers.drip()
            last = time.monotonic() - began
        equal(attackers.gone, count, "attackers that were given up")
        attackers.close()
        until(lambda: gateway.counters()["clients"] == len(clients), "only the good ones are left")
        print(f"           p99 {percentile(alone, 0.99) * 1000:.1f} ms without them, {percentile(beside, 0.99) * 1000:.1f} ms "
              f"with them; the last one was given up after {last:.1f} s")
        for client in clients:
            client.close()
        gateway.check_ledger()


# --- processes that stand still

READER = """
import socket, sys, time
host, port = sys.argv[1].rsplit(":", 1)
server = socket.create_connection((host, int(port)))
server.sendall(b"GET / HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n")
count = 0
try:
    while more := server.recv(1 << 16):
        time.sleep(0.001)  # its habit
        count += len(more)
        if count >> 20 > (count - len(more)) >> 20:
            print("got another MB", file=sys.stderr, flush=True)
except ConnectionResetError:
    pass
print(count)
"""


def test_stopped_client():
    """a client that is stopped (SIGSTOP) is given up, and the others are served meanwhile (41)"""
    with Origin("--body", "200m") as origin, Gateway(origin, options=["--write-timeout", "1s"]) as gateway:
        with Program([sys.executable, "-c", READER, gateway.address], ready=False) as reader:
            until(lambda: "another MB" in reader.stderr(), "it reads")
            with reader.held(), Client(gateway.address) as other:
                def is_over():
                    equal(other.ask(request("HEAD"), to_head=True).status, 200, "another one, meanwhile")
                    return gateway.counters()["end_timed_out"] >= 1
                until(is_over, "it is given up")
            equal(reader.wait(), 0)
            assert MB <= int(reader.stdout) < 200 * MB, reader.stdout
        until(lambda: gateway.counters()["active"] == 1, "nothing runs but the admin's")
        gateway.check_ledger()


def test_stopped_server():
    """a server that is stopped (SIGSTOP): 504; when it goes on it serves again (41)"""
    with Origin("--body", "10") as origin, Gateway(origin, options=["--first-byte-timeout", "1s"]) as gateway:
        for _ in range(2):
            with Client(gateway.address) as client:
                equal(client.ask(get()).status, 200)
            with origin.held():
                clients = [Client(gateway.address) for _ in range(20)]
                for client in clients:
                    client.send(get())
                for client in clients:
                    equal(client.response().status, 504)
                    client.close()
        with Client(gateway.address) as client:
            equal(client.ask(get()).status, 200)
        gateway.check_ledger()


def test_stopped_proxies():
    """a proxy that is stopped (SIGSTOP): what came meanwhile is read before a deadline ends anything (41)"""
    patience, count = 4, 100
    with Server() as server, Gateway(server, options=["--first-byte-timeout", f"{patience}s"]) as gateway, \
            Relay(server, options=["--idle-timeout", f"{patience}s"]) as relay:
        for proxy in (gateway, relay):
            clients, ends = [], []
            for _ in range(count):
                clients.append(Client(proxy.address))
                clients[-1].send(get())
                ends.append(server.accept())
                hear_head(ends[-1])
            with proxy.held():
                for end in ends:
                    end.say(OK)
                over = time.monotonic() + patience
                until(lambda: time.monotonic() > over, "every deadline has passed")
            for client, end in zip(clients, ends):
                equal(client.response().status, 200)
                client.close()
                end.close()
        until(lambda: relay.counters()["live"] == 0, "all have gone")
        for proxy in (gateway, relay):
            equal(proxy.check_ledger()["end_timed_out"], 0)


def test_stopped_relay_server():
    """weir-relay: a server that is stopped (SIGSTOP): its clients are reset at --idle-timeout, new ones served later (41)"""
    with Origin("--body", "10") as origin, Relay(origin, options=["--idle-timeout", "1s"]) as relay:
        with origin.held():
            clients = [Client(relay.address) for _ in range(20)]
            for client in clients:
                client.send(get())
            for client in clients:
                assert client.closed()
                client.close()
        with Client(relay.address) as client:
            equal(client.ask(get()).status, 200)
        until(lambda: relay.counters()["live"] == 0, "all have gone")
        equal(relay.check_ledger()["end_timed_out"], 40)


def test_drain_crowd():
    """SIGTERM with thousands of idle and hundreds of active clients: idle ones see an end, the others their answers (41)"""
    idle_count, active_count = (5_000, 500) if SOAK else (2_000, 200)
    rig.need_descriptors(2 * (idle_count + active_count) + 200)
    with Origin("--body", "1k") as origin, Gateway(origin, options=["--drain-timeout", "1h", *FOREVER]) as gateway:
        idle, active = ([Client(gateway.address) for _ in range(count)] for count in (idle_count, active_count))
        for client in idle:
            equal(client.ask(get()).status, 200)
        with origin.held():
            for client in active:
                client.send(get())
            until(lambda: gateway.counters()["active"] == active_count + 1, "they run")
            gateway.signal(signal.SIGTERM)
            began = time.monotonic()
            for client in idle:
                assert client.closed()
            took = time.monotonic() - began
        for client in active:
            equal(len(client.response().body), 1024)
            assert client.closed()
        print(f"           {idle_count} idle ones were closed within {took * 1000:.0f} ms")
        equal(gateway.wait(), 0, gateway.stderr())
        assert "cut off" not in gateway.stderr(), gateway.stderr()
        for client in idle + active:
            client.close()


# --- little memory

def read_slowly(readers):
    """20 MB each, of which everybody has something before anybody has all."""
    for reader in readers:
        reader.send(get())
    for reader in readers:
        assert b" 200 " in reader.line_block()
    first = 65536
    for size in (first, *[MB] * 19, MB - first):  # in turn: none may stand still for the 30 s of TCP_USER_TIMEOUT
        for reader in readers if SOAK or size == first else readers[:5]:
            equal(len(reader.exactly(size)), size)


def test_little_memory():
    """64 MB of memory, 500 slow readers of 20 MB each: the limit is not met, and all are served (42)"""
    if SANITIZED:
        raise rig.NotHere("a sanitizer needs more memory than that")
    count = 500
    rig.need_descriptors(2 * count + 200)
    for tool in (Gateway, Relay):
        with memory_group(64 * MB) as group, lonely_network() as name:
            for setting in ("ipv4/tcp_rmem", "ipv4/tcp_wmem"):  # the kernel's own memory for all of them has a limit, too
                tune(name, setting, "4096 65536 262144")
            server = [*within(name), TOOLS / "weir-origin", "--body", "20m", "127.0.0.1:0"]
            with Program(server) as origin, tool(origin, wrapper=[*group.wrapper, *within(name)]) as proxy:
                readers = inside(name, lambda: [Client(proxy.address) for _ in range(count)])
                read_slowly(readers)
                peak, (met, killed) = group.peak(), group.failures()
                print(f"           {tool.__name__}: {peak / MB:.0f} MB at most")
                equal((met, killed), (0, 0), "times that the limit was met, processes that were killed")
                assert peak < group.most, peak
                for reader in readers:
                    reader.close()


rig.main(globals())
