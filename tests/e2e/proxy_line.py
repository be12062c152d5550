#!/usr/bin/env python3
"""PROXY lines against HAProxy's: what it sends is read here, and what is printed here is understood there."""

import contextlib
import os
import pathlib
import socket
import tempfile

import rig
from rig import TOOLS, Program, find, need, run
from wire import DEADLINE, equal

PROXY_LINE = os.environ.get("WEIR_PROXY_LINE", TOOLS.parent / "tests" / "weir-proxy-line")
PAYLOAD = b"\r\nwhat the client says\0"


# --- our side

def read(data):
    """What weir reads of these bytes: a dict of its facts, or {"more": ""}, or {"bad": name}."""
    done = run(PROXY_LINE, "read", data.hex())
    equal(done.returncode, 0, f"weir-proxy-line read {data.hex()}: {done.stderr}")
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def printed(form, source, destination):
    """The bytes that weir prints."""
    done = run(PROXY_LINE, "print", form, source, destination)
    equal(done.returncode, 0, f"weir-proxy-line print {form} {source} {destination}: {done.stderr}")
    return bytes.fromhex(done.stdout)


def check_read(got, data, payload, **wanted):
    """These bytes are a line or header of these facts, then the payload."""
    facts = read(data)
    assert "size" in facts, f"{got}: {data.hex()} is {facts}"
    equal({name: facts.get(name) for name in wanted}, wanted, f"{got}: {data.hex()} is {facts}")
    equal(data[int(facts["size"]):], payload, f"the payload behind {facts}")
    for cut in range(int(facts["size"])):  # and no less would have done
        equal(read(data[:cut]), {"more": ""}, f"the first {cut} bytes of {data.hex()}")
    return facts


# --- HAProxy between two sockets of ours

CONFIG = """
global
  maxconn 100
defaults
  mode tcp
  timeout connect 5s
  timeout client 5s
  timeout server 5s
listen here
  bind {bind}
  {more}
  server there {server}
"""


def listener(where="127.0.0.1"):
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    made = socket.socket(family)
    made.bind((where, 0))
    made.listen()
    made.settimeout(DEADLINE)
    return made


def text_of(place):
    """What getsockname() and getpeername() say, as weir writes it."""
    return f"[{place[0]}]:{place[1]}" if len(place) == 4 else f"{place[0]}:{place[1]}"


class Haproxy(contextlib.ExitStack):
    """Listens on `front`, a socket that it inherits, so that no port is chosen twice; sends on to self.back."""

    def __init__(self, server, bind="", more="", front=None):
        super().__init__()
        need("haproxy")
        self.front = self.enter_context(front or listener())
        self.back = self.enter_context(listener())
        root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory(prefix="weir-haproxy-")))
        place = f"127.0.0.1:{self.back.getsockname()[1]}"
        config = CONFIG.format(bind=f"fd@{self.front.fileno()} {bind}", more=more, server=f"{place} {server}")
        (root / "config").write_text(config)
        self.program = self.enter_context(Program([find("haproxy"), "-db", "-f", root / "config"], ready=False,
                                                  pass_fds=[self.front.fileno()]))

    def connect(self):
        made = self.enter_context(socket.socket(self.front.family))
        made.settimeout(DEADLINE)
        made.connect(self.front.getsockname())
        return made

    def accept(self):
        made, _ = self.back.accept()
        made.settimeout(DEADLINE)
        return self.enter_context(made)

    def sends_on(self, said):
        """What it says to the server when a client says this and no more; and that client."""
        client = self.connect()
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        return received(self.accept()), client


def received(connection):
    """All until the end."""
    data = b""
    while True:
        more = b""
        with contextlib.suppress(ConnectionResetError):  # how a health check may end
            more = connection.recv(1 << 16)
        data += more
        if not more:
            return data


# --- what it sends is read

def check_sent(server, where, **wanted):
    with Haproxy(server, front=listener(where)) as haproxy:
        data, client = haproxy.sends_on(PAYLOAD)
        return check_read(server, data, PAYLOAD, command="proxy", source=text_of(client.getsockname()),
                          destination=text_of(client.getpeername()), **wanted)


def test_sends_v1():
    """send-proxy over IPv4 is read, at every cut"""
    check_sent("send-proxy", "127.0.0.1", version="1")


def test_sends_v2():
    """send-proxy-v2 over IPv4 is read, at every cut"""
    check_sent("send-proxy-v2", "127.0.0.1", version="2", size="28")


def test_sends_ipv6():
    """so are both over IPv6"""
    rig.need_ipv6()
    check_sent("send-proxy", "::1", version="1")
    check_sent("send-proxy-v2", "::1", version="2", size="52")


def test_sends_checksum():
    """send-proxy-v2 with a checksum: it is right, and one bit elsewhere makes it wrong"""
    facts = check_sent("send-proxy-v2 proxy-v2-options crc32c", "127.0.0.1", version="2")
    equal(len(facts["tlv-3"]), 8, "digits of the checksum")
    with Haproxy("send-proxy-v2 proxy-v2-options crc32c") as haproxy:
        data, _ = haproxy.sends_on(PAYLOAD)
        broken = bytearray(data)
        broken[16] ^= 1
        equal(read(broken), {"bad": "checksum_mismatch"}, "with one bit changed")


def test_sends_tlvs():
    """a unique id comes as a TLV"""
    with Haproxy("send-proxy-v2 proxy-v2-options unique-id", more="unique-id-format weir-%ci") as haproxy:
        data, _ = haproxy.sends_on(PAYLOAD)
        facts = check_read("unique-id", data, PAYLOAD, version="2", command="proxy")
        equal(bytes.fromhex(facts["tlv-5"]), b"weir-127.0.0.1", "PP2_TYPE_UNIQUE_ID")


def test_sends_unix():
    """of a connection to a unix socket it tells no IP address, and that is read"""
    with tempfile.TemporaryDirectory(prefix="weir-unix-") as root:
        for server, version in (("send-proxy", "1"), ("send-proxy-v2", "2")):
            front = socket.socket(socket.AF_UNIX)
            front.bind(f"{root}/{server}")
            front.listen()
            with Haproxy(server, front=front) as haproxy:
                data, _ = haproxy.sends_on(PAYLOAD)
                facts = check_read(server, data, PAYLOAD, version=version)
                assert facts["source"] == "-" or facts["source"].startswith("unix:"), facts


def test_sends_local():
    """a health check speaks for nobody: v2's LOCAL"""
    with Haproxy("send-proxy-v2 check check-send-proxy") as haproxy:
        check_read("check", received(haproxy.accept()), b"", version="2", command="local", source="-",
                   destination="-")


# --- what is printed is understood

def check_understood(form, source, destination, understood=None):
    """HAProxy tells us again what it understood, in v2, which has all families."""
    with Haproxy("send-proxy-v2", bind="accept-proxy") as haproxy:
        data, client = haproxy.sends_on(printed(form, source, destination) + PAYLOAD)
        source, destination = understood or (source, destination)
        if source is None:  # the connection's own stand
            source, destination = text_of(client.getsockname()), text_of(client.getpeername())
        check_read(f"{form} {source}", data, PAYLOAD, version="2", command="proxy", source=source,
                   destination=destination)


FORMS = ("v1", "v2", "v2-crc32c")


def test_understands_ip():
    """IPv4 and IPv6, v1 and v2, with a checksum"""
    for form in FORMS:
        check_understood(form, "10.1.2.3:4567", "192.168.0.1:443")
        check_understood(form, "255.255.255.255:65535", "1.0.0.0:1")
        check_understood(form, "[2001:db8::a]:1", "[::1]:65535")


def test_understands_mapped():
    """an IPv4 address beside an IPv6 one is told as IPv6"""
    for form in FORMS:
        check_understood(form, "10.1.2.3:4567", "[2001:db8::a]:1", ("[::ffff:10.1.2.3]:4567", "[2001:db8::a]:1"))


def test_understands_unix():
    """unix: v1 has no word for it, and leaves the connection its own addresses"""
    check_understood("v1", "unix:/run/a", "unix:/run/b", understood=(None, None))


def test_understands_local():
    """a pair that cannot be told leaves the connection its own addresses"""
    for form in FORMS:
        check_understood(form, "unix:/run/a", "10.1.2.3:4567", understood=(None, None))


def test_refuses_broken():
    """a checksum of ours with one bit changed is refused there, too"""
    with Haproxy("send-proxy-v2", bind="accept-proxy") as haproxy:
        said = bytearray(printed("v2-crc32c", "10.1.2.3:4567", "192.168.0.1:443"))
        said[16] ^= 1
        client = haproxy.connect()
        client.sendall(said)
        with contextlib.suppress(ConnectionResetError):
            equal(client.recv(1), b"", "it closes")
        equal(read(said), {"bad": "checksum_mismatch"}, "and so do we")


if __name__ == "__main__":
    rig.main(globals())
