#!/usr/bin/env python3
"""UPSTREAM: names with several addresses, names that move, servers that only accept, and an upstream that is the proxy."""

import contextlib
import os
import pathlib
import signal
import socket
import tempfile
import threading

import rig
from rig import Gateway, NotHere, Program, Relay, run, until
from stream import Server, abstract, connect
from surroundings import inside, lonely_network, tune, within
from wire import Client, equal, get

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


class Hosts:
    """/etc/hosts of the programs that run behind `wrapper`, in a mount namespace each: it can be written again."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="weir-hosts-")
        self.path = pathlib.Path(self.directory.name) / "hosts"

    @property
    def wrapper(self):
        rig.need("unshare", "mount")
        return ["unshare", "-m", "--propagation", "private", "sh", "-c",
                f'mount --bind {self.path} /etc/hosts && exec "$@"', "sh"]

    def say(self, **addresses):
        """moving=["127.0.0.1", "::1"]: that moving.test is there."""
        lines = ["127.0.0.1 localhost"]
        lines += [f"{at} {name}.test" for name, places in addresses.items() for at in places]
        self.path.write_text("\n".join(lines) + "\n")

    def __enter__(self):
        self.say()
        permitted = run(*self.wrapper, "true")
        if permitted.returncode:
            self.directory.cleanup()
            raise NotHere(f"mount namespaces are not permitted: {permitted.stderr.strip()}")
        return self

    def __exit__(self, *_):
        self.directory.cleanup()


class Answering:
    """An HTTP server at an address of its own that answers each request with its word."""

    def __init__(self, word, host, port=0):
        self.word = word
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((host, port))
        self.socket.listen(64)
        self.port = self.socket.getsockname()[1]
        self.open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                made, _ = self.socket.accept()
                self.open.append(made)
                threading.Thread(target=self._serve, args=(made,), daemon=True).start()

    def _serve(self, made):
        with contextlib.suppress(OSError), made:
            data = b""
            while more := made.recv(4096):
                data += more
                while b"\r\n\r\n" in data:
                    data = data.split(b"\r\n\r\n", 1)[1]
                    made.sendall(OK % (len(self.word), self.word))
        self.open.remove(made)

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for made in list(self.open):
            with contextlib.suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ask(address):
    with Client(address) as client:
        return client.ask(get(connection="close"))


# --- names

def test_two_families():
    """a name that has an IPv4 and an IPv6 address works when only one of them is served, with both programs"""
    with Hosts() as hosts:
        hosts.say(both=["127.0.0.1", "::1"])
        for host in ("127.0.0.1", "::1"):
            with Answering(b"here", host) as server:
                for tool in (Gateway, Relay):
                    with tool(f"both.test:{server.port}", wrapper=hosts.wrapper) as proxy:
                        for _ in range(4):
                            equal(ask(proxy.address).body, b"here", f"{tool.__name__}, server on {host}")


def test_too_many_addresses():
    """of a name's addresses eight are used, and that is said at the start"""
    with Hosts() as hosts:
        hosts.say(many=[f"127.0.0.{number}" for number in range(11, 21)])
        with Answering(b"eighth", "127.0.0.18") as server:
            with Relay(f"many.test:{server.port}", wrapper=hosts.wrapper) as relay:
                until(lambda: "has 2 addresses more than the 8 that are used" in relay.stderr(), "it is said")
                equal(ask(relay.address).body, b"eighth")


def test_a_name_moves():
    """SIGHUP looks names up again: new requests go there, in every thread; what runs stays; idle connections are closed"""
    with Hosts() as hosts, Answering(b"first", "127.0.0.1") as first, Answering(b"second", "127.0.0.2", first.port):
        hosts.say(moving=["127.0.0.1"])
        place = f"moving.test:{first.port}"
        for options in ((), ("--threads", "2")):
            hosts.say(moving=["127.0.0.1"])
            with Gateway(place, wrapper=hosts.wrapper, options=options) as gateway:
                clients = [Client(gateway.address) for _ in range(16)]
                for client in clients:
                    equal(client.ask(get()).body, b"first")
                before = gateway.counters()
                assert before["idle"] > 0, before
                hosts.say(moving=["127.0.0.2"])
                gateway.signal(signal.SIGHUP)
                until(lambda: f"{place} is at 127.0.0.2:{first.port} now" in gateway.stderr(), "it has looked again")
                until(lambda: gateway.counters()["end_idle_flushed"] == before["idle"], "idle ones are closed")
                for client in clients:
                    equal(client.ask(get()).body, b"second")
                    client.close()
                gateway.check_ledger()


def test_a_relay_moves():
    """SIGHUP moves a relay's name; its clients keep their server"""
    with Hosts() as hosts, Server() as old:
        hosts.say(moving=["127.0.0.1"])
        port = old.address.rsplit(":", 1)[1]
        with Relay(f"moving.test:{port}", wrapper=hosts.wrapper) as relay, Server(f"127.0.0.2:{port}") as new:
            kept = connect(relay.address)
            kept_end = old.accept()
            hosts.say(moving=["127.0.0.2"])
            relay.signal(signal.SIGHUP)
            until(lambda: f"moving.test:{port} is at 127.0.0.2:{port} now" in relay.stderr(), "it has looked again")
            fresh = connect(relay.address)
            fresh_end = new.accept()
            for client, end in ((kept, kept_end), (fresh, fresh_end)):
                client.say(b"ping")
                end.expect(b"ping")
                end.say(b"pong")
                client.expect(b"pong")
            for peer in (kept, kept_end, fresh, fresh_end):
                peer.close()


def test_a_name_is_gone():
    """a look-up that fails, or leads to the proxy itself, keeps the old addresses and says so"""
    with Hosts() as hosts, Answering(b"here", "127.0.0.1") as server:
        hosts.say(gone=["127.0.0.1"])
        place = f"gone.test:{server.port}"
        for tool in (Gateway, Relay):
            hosts.say(gone=["127.0.0.1"])
            with tool(place, wrapper=hosts.wrapper, at=f"127.0.0.2:{server.port}") as proxy:
                hosts.say()
                proxy.signal(signal.SIGHUP)
                wanted = f"{place} cannot be looked up again: no such host; it stays at 127.0.0.1:{server.port}"
                until(lambda: wanted in proxy.stderr(), "it is said")
                hosts.say(gone=["127.0.0.2"])
                proxy.signal(signal.SIGHUP)
                until(lambda: f"{place} leads to this proxy itself now; it stays at" in proxy.stderr(), "it is said")
                equal(ask(proxy.address).body, b"here")


def test_no_names():
    """SIGHUP without a name and without an access log changes nothing, in both programs"""
    with Answering(b"here", "127.0.0.1") as server:
        for tool in (Gateway, Relay):
            with tool(f"127.0.0.1:{server.port}") as proxy:
                for _ in range(3):
                    proxy.signal(signal.SIGHUP)
                    until(lambda: not proxy.has_pending(signal.SIGHUP), "it is taken")
                equal(ask(proxy.address).body, b"here")
                equal(proxy.end(), 0, proxy.stderr())


def test_stops_while_looking():
    """SIGTERM after SIGHUP: exit 0, whatever the look-up does"""
    with Hosts() as hosts, Server() as server:
        hosts.say(name=["127.0.0.1"])
        place = f"name.test:{server.address.rsplit(':', 1)[1]}"
        for tool in (Gateway, Relay):
            for _ in range(10):
                with tool(place, wrapper=hosts.wrapper, options=("--threads", "2")) as proxy:
                    proxy.signal(signal.SIGHUP)
                    equal(proxy.end(), 0, proxy.stderr())


def test_answer_comes_last():
    """SIGTERM while a name is looked up: exit 0, though the answer comes when all loops have stopped, and is new"""
    with Hosts() as hosts, Server() as server:
        place = f"name.test:{server.address.rsplit(':', 1)[1]}"
        slow = "# a line that the resolver has to read\n" * 1_500_000
        for tool in (Gateway, Relay):
            hosts.say(name=["127.0.0.1"])
            with tool(place, wrapper=hosts.wrapper, options=("--threads", "2")) as proxy:
                hosts.path.write_text(slow + "127.0.0.2 name.test\n")
                proxy.signal(signal.SIGHUP)
                threads = pathlib.Path(f"/proc/{proxy.pid}/task")
                until(lambda: len(list(threads.iterdir())) == 3, "it looks up")
                equal(proxy.end(), 0, proxy.stderr())


# --- what a failed connect says

def test_only_accepts():
    """one of two servers accepts and closes: no GET fails, and it is asked ever more rarely"""
    asked = []
    with Server() as hollow, Answering(b"well", "127.0.0.1") as well:
        def close_all():
            with contextlib.suppress(OSError):
                while True:
                    made, _ = hollow.socket.accept()
                    asked.append(made)
                    made.close()
        threading.Thread(target=close_all, daemon=True).start()
        with Gateway(hollow.address, f"127.0.0.1:{well.port}") as gateway:
            for _ in range(200):
                equal(ask(gateway.address).body, b"well")
            equal(gateway.counters()["failed"], 0)
        assert 0 < len(asked) < 100, len(asked)


def test_meets_itself():
    """a connect to a dead server's port that would meet itself is refused, and the server's port stays free"""
    with lonely_network() as name, tempfile.TemporaryDirectory(prefix="weir-itself-") as root:
        tune(name, "ipv4/ip_local_port_range", "'40000 40009'")
        for tool, port, first in ((Relay, 40004, b"secret"), (Gateway, 40006, get())):
            with tool(f"127.0.0.1:{port}", wrapper=within(name), at=f"unix:{root}/{port}",
                      **({"admin": f"unix:{root}/admin"} if tool is Gateway else {})) as proxy:
                for _ in range(200):
                    with connect(proxy.address) as client, contextlib.suppress(BrokenPipeError):
                        client.say(first)
                        if tool is Gateway:
                            assert client.hear(12) == b"HTTP/1.1 502"
                        else:
                            equal(client.end()[0], b"", "a dead server's bytes")
                odd = [line for line in proxy.lines if "upstream" in line and "Connection refused" not in line]
                equal(odd, [], "what is said of it")

                def bind():
                    with socket.socket() as server:
                        server.bind(("127.0.0.1", port))
                inside(name, bind)


def test_ports_of_one_server():
    """no port left to one server does not mean none to the other"""
    with lonely_network() as name:
        tune(name, "ipv4/ip_local_port_range", "'40000 40019'")
        full = inside(name, lambda: Server("127.0.0.1:1001"))
        well = inside(name, lambda: Answering(b"well", "127.0.0.2", 1002))
        with full, well:
            held = []

            def take_all():
                with contextlib.suppress(OSError):
                    while True:
                        held.append(connect(full.address))
            inside(name, take_all)
            equal(len(held), 20)
            for tool in (Gateway, Relay):
                with tool(full.address, f"127.0.0.2:{well.port}", wrapper=within(name), at="127.0.0.1:1003",
                          **({"admin": "127.0.0.1:1004"} if tool is Gateway else {})) as proxy:
                    for _ in range(6):
                        equal(inside(name, lambda: ask(proxy.address)).body, b"well", tool.__name__)
            for peer in held:
                peer.close()


def test_a_full_unix_backlog():
    """a unix server with a queue of one serves a crowd that comes at once, with both programs"""
    with tempfile.TemporaryDirectory(prefix="weir-busy-") as root:
        for tool in (Gateway, Relay):
            path = f"{root}/{tool.__name__}"
            with socket.socket(socket.AF_UNIX) as listener, tool(f"unix:{path}") as proxy:
                listener.bind(path)
                listener.listen(0)
                clients = [Client(proxy.address) for _ in range(30)]
                for client in clients:
                    client.send(get(connection="close"))
                until(lambda: connects_waiting(proxy) >= 28, "they wait for room")
                for _ in clients:  # one at a time
                    made, _ = listener.accept()
                    with made:
                        made.settimeout(20)
                        data = b""
                        while b"\r\n\r\n" not in data:
                            data += made.recv(4096)
                        made.sendall(OK % (2, b"ok"))
                for client in clients:
                    equal(client.response().status, 200)
                    client.close()
                assert "unavailable" not in proxy.stderr(), proxy.stderr()


def connects_waiting(proxy):
    """Connections that it has dialed, or is about to."""
    return proxy.counters()["dialed"]


# --- the proxy itself

def test_itself():
    """an upstream that is LISTEN is refused at the start, however it is written: exit 2, and why"""
    port = rig.free_address().rsplit(":", 1)[1]
    with tempfile.TemporaryDirectory(prefix="weir-self-") as root:
        pairs = [(f"127.0.0.1:{port}", f"127.0.0.1:{port}"), (f"127.0.0.1:{port}", f"localhost:{port}"),
                 (f"0.0.0.0:{port}", f"127.0.0.1:{port}"), (f"[::]:{port}", f"127.0.0.1:{port}"),
                 (f"[::]:{port}", f"[::1]:{port}"), (f":{port}", f"127.0.0.9:{port}"),
                 (f"unix:{root}/s", f"unix:{root}/s"), ("unix:@weir-self", "unix:@weir-self")]
        for listen, up in pairs:
            for tool in ("weir-relay", "weir-gateway"):
                done = run(rig.TOOLS / tool, listen, "127.0.0.1:9", up)
                equal(done.returncode, 2, f"{tool} {listen} {up}: {done.stderr}")
                wanted = f"UPSTREAM: {up} leads to LISTEN {listen}, so to this proxy itself; name another server"
                assert wanted in done.stderr, done.stderr
        assert not os.path.exists(f"{root}/s")
        with Server(f"127.0.0.2:{port}") as other:  # another host's server with the same port is none of it
            for tool in ("weir-relay", "weir-gateway"):
                with Program([rig.TOOLS / tool, f"127.0.0.1:{port}", other.address]) as program:
                    equal(program.end(), 0, program.stderr())


def test_itself_inherited():
    """so is one that is the inherited LISTEN fd:N"""
    with Server() as front:
        descriptor = front.socket.fileno()
        done = run(rig.TOOLS / "weir-relay", f"fd:{descriptor}", front.address, pass_fds=[descriptor])
        equal(done.returncode, 2, done.stderr)
        assert f"{front.address} leads to LISTEN fd:{descriptor}" in done.stderr, done.stderr


if __name__ == "__main__":
    rig.main(globals())
