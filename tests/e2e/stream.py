"""Raw streams for tests: peers on both sides of an L4 proxy, whose bytes and ends are checked one by one."""

import contextlib
import os
import random
import selectors
import socket
import struct
import time

from rig import until
from wire import DEADLINE, equal, place_of, short

NOW = struct.pack("ii", 1, 0)  # SO_LINGER: close with a RST
MB = 1 << 20


def bytes_of(seed, count):
    """That many bytes, the same ones for the same seed."""
    return random.Random(seed).randbytes(count)


class Peer:
    """One connection. An end is "fin" or "reset"."""

    def __init__(self, made, patience=DEADLINE):
        made.settimeout(patience)
        if made.family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = made

    @property
    def place(self):
        """As weir writes it."""
        return "%s:%d" % self.socket.getsockname()[:2]

    def say(self, data):
        self.socket.sendall(data)

    def hear(self, count):
        """Exactly so many bytes."""
        got = bytearray()
        while len(got) < count:
            more = self.socket.recv(count - len(got))
            assert more, f"an end after {short(bytes(got))}, {count - len(got)} bytes too early"
            got += more
        return bytes(got)

    def expect(self, data, what=""):
        equal(self.hear(len(data)), data, what)

    def end(self):
        """All bytes up to the end, and which end it is."""
        got = bytearray()
        while True:
            try:
                more = self.socket.recv(1 << 20)
            except ConnectionResetError:
                return bytes(got), "reset"
            if not more:
                return bytes(got), "fin"
            got += more

    def expect_end(self, how, data=b"", what=""):
        equal(self.end(), (data, how), what)

    def is_quiet(self):
        """Nothing, not even an end, is there to be read now."""
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return False
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NOW)
        self.socket.close()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def connect(address, recv_bytes=None, patience=DEADLINE):
    family, to = place_of(address)
    made = socket.socket(family)
    if recv_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, recv_bytes)
    made.settimeout(patience)
    made.connect(to)
    return Peer(made, patience)


class Server:
    """A listener whose connections the test takes one by one. listening=False: its port is taken, but refuses."""

    def __init__(self, at="127.0.0.1:0", backlog=1024, listening=True, recv_bytes=None):
        family, to = place_of(at)
        self.socket = socket.socket(family)
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if recv_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, recv_bytes)
        self.socket.bind(to)
        self.backlog = backlog
        if listening:
            self.listen()
        self.address = at if family == socket.AF_UNIX else "%s:%d" % self.socket.getsockname()[:2]

    def listen(self):
        self.socket.listen(self.backlog)

    def accept(self, patience=DEADLINE):
        self.socket.settimeout(patience)
        return Peer(self.socket.accept()[0], patience)

    def has_waiting(self):
        return bool(selectable(self.socket, 0))

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def selectable(made, within):
    with selectors.DefaultSelector() as selector:
        selector.register(made, selectors.EVENT_READ)
        return selector.select(within)


def pair(proxy, server, **how):
    """A client of the proxy, and the server's end of it. Nobody else connects at that time."""
    client = connect(proxy.address, **how)
    return client, server.accept()


def pairs(proxy, server, count, patience=DEADLINE):
    """So many at once: [(client, server's end)]. Each client says its number first, so that its other end is known."""
    clients = [connect(proxy.address, patience=patience) for _ in range(count)]
    for number, client in enumerate(clients):
        client.say(struct.pack("!I", number))
    ends = {}
    for _ in clients:
        end = server.accept(patience)
        ends[struct.unpack("!I", end.hear(4))[0]] = end
    equal(len(ends), count, "different numbers")
    return [(client, ends[number]) for number, client in enumerate(clients)]


def close_all(both):
    for ends in both:
        for end in ends:
            end.close()


class Flow:
    """`data` is sent from one peer, then its FIN; the other one must get just that. `at_once`: bytes per recv()."""

    def __init__(self, sender, reader, data, at_once=1 << 18, finish=True):
        self.sender, self.reader, self.finish = sender, reader, finish
        self.data, self.at_once = memoryview(data), at_once
        self.sent = self.got = 0
        self.is_over = False

    def send_some(self):
        """False: there is no more to send."""
        if self.sent < len(self.data):
            with contextlib.suppress(BlockingIOError):
                self.sent += self.sender.socket.send(self.data[self.sent:self.sent + (1 << 18)])
        if self.sent < len(self.data):
            return True
        if self.finish:
            self.sender.finish()
        return False

    def read_some(self):
        """False: all is read."""
        try:
            more = self.reader.socket.recv(self.at_once)
        except BlockingIOError:
            return True
        if not more:
            equal((self.got, self.finish), (len(self.data), True), "bytes before the end")
        elif self.data[self.got:self.got + len(more)] != more:
            raise AssertionError(f"other bytes than were sent, within {len(more)} at {self.got} of {len(self.data)}")
        self.got += len(more)
        self.is_over = not more or (not self.finish and self.got == len(self.data))
        return not self.is_over


def carry(flows, within=60.0):
    """Runs all of them at the same time, to their ends."""
    end = time.monotonic() + within
    with selectors.DefaultSelector() as selector:
        tasks = {}
        for flow in flows:
            tasks.setdefault(flow.sender.socket, {})[selectors.EVENT_WRITE] = flow.send_some
            tasks.setdefault(flow.reader.socket, {})[selectors.EVENT_READ] = flow.read_some
        for made, todo in tasks.items():
            made.setblocking(False)
            selector.register(made, sum(todo))
        while tasks:
            for key, ready in selector.select(1):
                todo = tasks[key.fileobj]
                for which in [w for w in todo if w & ready]:
                    if not todo[which]():
                        del todo[which]
                if todo:
                    selector.modify(key.fileobj, sum(todo))
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.settimeout(DEADLINE)
                    del tasks[key.fileobj]
            assert time.monotonic() < end, "; ".join(
                f"sent {f.sent}, got {f.got} of {len(f.data)}" for f in [f for f in flows if not f.is_over][:5])


def carry_both(both, size, within=60.0, **how):
    """Other bytes each way on each of these pairs, and both ends, all at once."""
    flows = []
    for number, (client, server) in enumerate(both):
        flows.append(Flow(client, server, bytes_of(2 * number, size), **how))
        flows.append(Flow(server, client, bytes_of(2 * number + 1, size), **how))
    carry(flows, within)


def fill(peers, proxy):
    """Says bytes from all of these until nobody takes any more: how many were taken."""
    block, taken, before = bytes(1 << 18), 0, None
    for peer in peers:
        peer.socket.setblocking(False)

    def is_stalled():
        """Nothing was taken, and the proxy has moved nothing, since it was asked last."""
        nonlocal taken, before
        for peer in peers:
            with contextlib.suppress(BlockingIOError):
                while taken < 1 << 30:
                    taken += peer.socket.send(block)
        was, before = before, (taken, proxy.counters()["bytes"])
        return was == before

    until(is_stalled, "back-pressure stops the producer", 20)
    for peer in peers:
        peer.socket.settimeout(DEADLINE)
    return taken


def queues(local, remote):
    """Of a TCP connection between these places, IPv4: (bytes sent but not acknowledged, bytes received but not read)."""
    def hexed(place):
        host, port = place.rsplit(":", 1)
        return "%08X:%04X" % (struct.unpack("=I", socket.inet_aton(host))[0], int(port))
    wanted = [hexed(local), hexed(remote)]
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[1:3] == wanted:
                return tuple(int(n, 16) for n in fields[4].split(":"))
    raise AssertionError(f"no connection {local} - {remote}")


def abstract(name):
    """A unix place that leaves no file."""
    return f"unix:@weir-test-{os.getpid()}-{name}"
