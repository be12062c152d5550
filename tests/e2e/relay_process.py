#!/usr/bin/env python3
"""weir-relay's surroundings: which server is asked, PROXY lines, limits, timeouts, signals."""

import contextlib
import os
import re
import signal
import socket
import struct
import tempfile

import rig
from rig import Relay, until
from stream import MB, Flow, Server, abstract, bytes_of, carry, carry_both, close_all, connect, pair, pairs, selectable
from wire import Client, equal


# --- which server

def expect_refusal(relay):
    with contextlib.suppress(ConnectionResetError):  # as early as within connect()
        with connect(relay.address) as client:
            client.expect_end("reset")


def test_refused_next():
    """a server that refuses is passed over at once: every client is served by the other one"""
    with Server(listening=False) as down, Server() as up, Relay(down, up) as relay:
        for _ in range(10):
            client, end = pair(relay, up)
            end.say(b"up")
            client.expect(b"up")
            close_all([(client, end)])
        seen = relay.counters()
        equal((seen["relayed"], seen["refused"]), (10, 0))
        assert 1 <= seen["connect_failed"] <= 10, seen
        assert "refused" not in relay.stderr().split("descriptors are open")[0], relay.stderr()


def test_all_refused():
    """when all servers refuse, a client is reset and the cause said on stderr; with --quiet it is not"""
    for options, said in (((), True), (("--quiet",), False)):
        with Server(listening=False) as one, Server(listening=False) as two, Relay(one, two, options=options) as relay:
            expect_refusal(relay)
            until(lambda: relay.counters()["refused"] == 1, "it is counted")
            why = re.search(r"client 127\.0\.0\.1:\d+ refused: connect_failed: upstream 127\.0\.0\.1:\d+: Connection refused", relay.stderr())
            equal(why is not None, said, relay.stderr())
            equal(relay.counters()["connect_failed"], 2)


def test_recovery():
    """a server that is back is used at once: the first client after that is served"""
    with Server(listening=False) as server, Relay(server) as relay:
        for _ in range(5):
            expect_refusal(relay)
        server.listen()
        client, end = pair(relay, server)
        carry_both([(client, end)], 1000)
        close_all([(client, end)])
        equal(relay.counters()["relayed"], 1)


def test_server_ends_at_once():
    """a server that closes at once: each client sees that end"""
    with Server() as server, Relay(server) as relay:
        for _ in range(20):
            client, end = pair(relay, server)
            end.close()
            client.expect_end("fin")
            client.close()


def test_round_robin():
    """round-robin asks the servers in turn"""
    with Server() as one, Server() as two, Server() as three, Relay(one, two, three) as relay:
        kept = []
        for _ in range(4):
            for server in (one, two, three):
                kept.append(pair(relay, server))
        assert not any(server.has_waiting() for server in (one, two, three))
        close_all(kept)


def test_least():
    """least asks the server that has the fewest clients"""
    with Server() as one, Server() as two, Relay(one, two, options=["--balance", "least"]) as relay:
        first = [pair(relay, one)]
        kept = [pair(relay, two), pair(relay, one), pair(relay, two)]
        first += [kept.pop(1)]
        close_all(first)
        until(lambda: relay.counters()["clients"] == 2, "both of the first server have gone")
        kept += [pair(relay, one), pair(relay, one)]  # where there is none, and then one, against two
        assert not two.has_waiting()
        close_all(kept)


def test_inherited():
    """fd:N listens on an inherited socket, TCP and unix; whoever was in its backlog is served"""
    with tempfile.TemporaryDirectory(prefix="weir-relay-") as root, Server() as server:
        for place in ("127.0.0.1:0", f"unix:{root}/listen", abstract("inherited")):
            with Server(place) as front:
                early = connect(front.address)
                descriptor = front.socket.fileno()
                with Relay(server, at=f"fd:{descriptor}", pass_fds=[descriptor]) as relay:
                    front.close()
                    with server.accept() as end:
                        carry_both([(early, end)], 1000)
                    early.close()
                    with connect(front.address) as client, server.accept() as end:
                        carry_both([(client, end)], 1000)
                    equal(relay.end(), 0, relay.stderr())


def test_inherited_options():
    """fd:N is tuned as a listener of the relay's own, whatever it had before"""
    for options, told in (((), 0), (("--user-timeout", "400s"), 400_000), (("--user-timeout", "7s"), 300_000)):
        with Server() as server, Server() as front:
            front.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
            descriptor = front.socket.fileno()
            with Relay(server, at=f"fd:{descriptor}", options=options, pass_fds=[descriptor]):
                has = [front.socket.getsockopt(level, name) for level, name in (
                    (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))]
                equal(has, [1, 1, 60, told], options)  # never below --idle-timeout, 300 s


# --- PROXY lines

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(source, destination, tlvs=b"", command=1):
    """A PROXY v2 header for TCP over IPv4."""
    parts = [place.rsplit(":", 1) for place in (source, destination)]
    body = b"".join(socket.inet_aton(host) for host, _ in parts)
    body += b"".join(struct.pack("!H", int(port)) for _, port in parts) + tlvs
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, 0x11, len(body)) + body


def v1(source, destination):
    (shost, sport), (dhost, dport) = (place.rsplit(":", 1) for place in (source, destination))
    return f"PROXY TCP4 {shost} {dhost} {sport} {dport}\r\n".encode()


TLV = struct.pack("!BH", 0x05, 4) + b"name"  # PP2_TYPE_UNIQUE_ID
SAID = ("10.1.2.3:4567", "192.168.0.1:443")


def test_send_proxy():
    """--send-proxy tells the server first who the client is, and then come the client's bytes"""
    for form, header in (("v1", v1), ("v2", v2)):
        with Server() as server, Relay(server, options=["--send-proxy", form]) as relay:
            for first in (b"", b"the client speaks first"):
                client, end = pair(relay, server)
                client.say(first)
                end.expect(header(client.place, relay.address) + first, form)
                carry_both([(client, end)], MB)
                close_all([(client, end)])


def test_accept_proxy():
    """--accept-proxy takes the line off, in any pieces, and --send-proxy tells it again in its own version"""
    for form, header in (("off", lambda *_: b""), ("v1", v1), ("v2", v2)):
        with Server() as server, Relay(server, options=["--accept-proxy", "--send-proxy", form]) as relay:
            for line in (v1(*SAID), v2(*SAID), v2(*SAID, tlvs=TLV)):
                with connect(relay.address) as client:
                    client.say(line + b"and data")
                    with server.accept() as end:
                        end.expect(header(*SAID) + b"and data", f"{line} as {form}")
                        carry_both([(client, end)], 100_000)
            with connect(relay.address) as client:
                for byte in v1(*SAID):
                    client.say(bytes([byte]))
                with server.accept() as end:
                    end.expect(header(*SAID))
            with connect(relay.address) as client:  # a health check speaks for nobody: the proxy says what it sees
                client.say(v2(*SAID, command=0) + b"!")
                with server.accept() as end:
                    end.expect(header(client.place, relay.address) + b"!")


def test_wrong_lines():
    """a wrong PROXY line closes the connection, no server is asked, and the cause is said"""
    wrong = {
        b"GET / HTTP/1.1\r\n\r\n": r"protocol: ",
        b"PROXY TCP4 10.1.2.3 192.168.0.1 4567 99999\r\n": r"protocol: ",
        b"PROXY " + b"x" * 200: r"protocol: ",
        SIGNATURE + b"\x31\x11\0\x0c" + bytes(12): r"protocol: ",
        SIGNATURE + b"\x21\x11\0\x02" + bytes(2): r"protocol: ",
    }
    with Server() as server, Relay(server, options=["--accept-proxy"]) as relay:
        for line, why in wrong.items():
            with connect(relay.address) as client:
                client.say(line)
                equal(client.end()[0], b"", f"after {line}")
                place = client.place
            until(lambda: re.search(rf"client {place} refused: {why}\w", relay.stderr()), f"the cause is said: {line}")
        with connect(relay.address) as client:
            client.say(v1(*SAID)[:10])
            client.finish()
            equal(client.end()[0], b"")
            place = client.place
        why = f"client {place} refused: peer_closed: it ended within its PROXY line"
        until(lambda: why in relay.stderr(), "so does an end")
        seen = relay.check_ledger()
        equal((seen["bad_greetings"], seen["dialed"], seen["live"]), (len(wrong) + 1, 0, 0))
        assert not server.has_waiting()


def test_late_line():
    """--proxy-timeout closes one that does not say its line, and says so"""
    with Server() as server, Relay(server, options=["--accept-proxy", "--proxy-timeout", "500ms"]) as relay:
        with connect(relay.address) as client:
            client.say(b"PROXY ")
            client.expect_end("reset")
            why = f"client {client.place} refused: timed_out: its PROXY line is not complete"
            until(lambda: why in relay.stderr(), "the cause is said")


def test_tlvs():
    """--proxy-tlvs refuse closes one that says TLVs, and serves one that says none"""
    options = ["--accept-proxy", "--proxy-tlvs", "refuse", "--send-proxy", "v2"]
    with Server() as server, Relay(server, options=options) as relay:
        with connect(relay.address) as client:
            client.say(v2(*SAID, tlvs=TLV))
            equal(client.end()[0], b"")
        until(lambda: "refused: protocol: " in relay.stderr(), "the cause is said")
        with connect(relay.address) as client:
            client.say(v2(*SAID))
            with server.accept() as end:
                end.expect(v2(*SAID))


# --- limits

def test_max_connections():
    """--max-connections is kept exactly; the next client waits for its turn, and is then served"""
    with Server() as server, Relay(server, options=["--max-connections", "20"]) as relay:
        both = pairs(relay, server, 20)
        late = connect(relay.address)
        late.say(b"me too")
        carry([Flow(c, e, b"still served", finish=False) for c, e in both])
        equal((relay.counters()["clients"], server.has_waiting()), (20, False))
        close_all([both.pop()])
        with server.accept() as end:
            end.expect(b"me too")
            late.close()
        close_all(both)


def test_idle_timeout():
    """--idle-timeout resets both sides of a quiet pair, the one that is quiet for longer first"""
    with Server() as server, Relay(server, options=["--idle-timeout", "300ms", "--fin-timeout", "1h"]) as relay:
        first = pair(relay, server)
        until(lambda: relay.counters()["relayed"] == 1, "its time runs")
        second = pair(relay, server)
        for ends in (second, first):  # in this order: the first one's end was before the second's
            for peer in ends:
                if ends is first:
                    assert selectable(peer.socket, 0), "it is over since before the second"
                peer.expect_end("reset")
        until(lambda: relay.counters()["live"] == 0, "nothing is left")
        equal(relay.check_ledger()["end_timed_out"], 4)
        close_all([first, second])


def test_fin_timeout():
    """--fin-timeout ends a pair whose server has ended, and no other: not one whose server has still to answer"""
    with Server() as server, Relay(server, options=["--idle-timeout", "1h", "--fin-timeout", "500ms"]) as relay:
        other, asking, half = pair(relay, server), pair(relay, server), pair(relay, server)
        asking[0].finish()
        asking[1].expect_end("fin")
        half[1].finish()
        half[0].expect_end("fin")
        half[1].expect_end("reset")  # its client has not ended
        until(lambda: relay.counters()["clients"] == 2, "it is over")
        asking[1].say(b"the answer")
        asking[1].finish()
        asking[0].expect(b"the answer")
        asking[0].expect_end("fin")
        until(lambda: relay.counters()["clients"] == 1, "it is over")
        equal(relay.counters()["end_timed_out"], 2)
        carry_both([other], 1000)
        close_all([other, asking, half])


def test_connect_timeout():
    """--connect-timeout gives a server that does not answer up, and asks the next one"""
    with Server(backlog=0) as full, Server() as up, Relay(full, up, options=["--connect-timeout", "500ms"]) as relay:
        with connect(full.address), contextlib.ExitStack() as stack:
            for _ in range(2):  # one of them is sent to the full one first
                client, end = pair(relay, up)
                stack.callback(close_all, [(client, end)])
                carry_both([(client, end)], 1000)
            equal(relay.counters()["relayed"], 2)
            equal(relay.counters()["connect_failed"], 1)


# --- signals

def refuses(relay):
    return not rig.connects(relay.address)


def test_drain():
    """SIGTERM and SIGINT: nothing new, what runs goes on to its end, who was in the backlog is served, exit 0"""
    for number in (signal.SIGTERM, signal.SIGINT):
        with Server() as server, Relay(server) as relay:
            both = pairs(relay, server, 3)
            relay.signal(signal.SIGSTOP)
            late = connect(relay.address)  # the kernel has accepted it
            relay.signal(number)
            relay.signal(signal.SIGCONT)
            until(lambda: refuses(relay), "it listens no more")
            both.append((late, server.accept()))
            while server.has_waiting():  # of those that asked whether it still listens
                server.accept().close()
            carry_both(both, MB)
            equal(relay.wait(), 0, relay.stderr())
            assert "cut off" not in relay.stderr(), relay.stderr()
            close_all(both)


def test_drain_timeout():
    """--drain-timeout cuts off what does not end, says how many, and still exits 0"""
    with Server() as server, Relay(server, options=["--drain-timeout", "100ms"]) as relay:
        both = pairs(relay, server, 3)
        equal(relay.end(), 0, relay.stderr())
        for ends in both:
            for peer in ends:
                peer.expect_end("reset")
        assert "weir-relay: 3 clients that still ran at --drain-timeout were cut off" in relay.stderr(), relay.stderr()
        close_all(both)


def test_second_signal():
    """a second SIGTERM or SIGINT ends it at once, with 1"""
    for first, second in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)):
        with Server() as server, Relay(server) as relay:
            both = pair(relay, server)
            relay.signal(first)
            until(lambda: refuses(relay), "it drains")
            relay.signal(second)
            equal(relay.wait(), 1)
            for peer in both:
                equal(peer.end()[0], b"", "nothing, and then the end")
            close_all([both])


def test_report():
    """SIGUSR1 says what is open, with age, table and peer, and the counters; SIGHUP does nothing"""
    with Server() as server, Relay(server) as relay:
        client, end = pair(relay, server)
        relay.signal(signal.SIGHUP)
        client.say(b"12345")
        end.expect(b"12345")
        text = "".join(relay.report())
        age = r" age \d+\.\d{3} s owner 0x[0-9a-f]+ "
        for pattern in (rf"fd \d+ accepted relay {relay.address} - {client.place}{age}recv_active\S*; opened accepted",
                        rf"fd \d+ dialed relay \S+ - {server.address}{age}recv_active\S*; opened dialed",
                        rf"fd \d+ listener {relay.address} ", r"fd \d+ mailbox ", r"fd \d+ signals "):
            assert re.search(pattern, text), f"{pattern} in {text}"
        equal(int(re.search(r"(\d+) descriptors are open; ", text).group(1)), len(re.findall(r": fd \d+ ", text)))
        seen = relay.counters()
        equal({name: seen[name] for name in ("clients", "clients_total", "relayed", "bytes", "live")},
              {"clients": 1, "clients_total": 1, "relayed": 1, "bytes": 5, "live": 2})
        close_all([(client, end)])


def test_too_few():
    """a descriptor limit too low to work with ends with 1 and says what would do; one that is enough does"""
    rig.need("prlimit")
    def with_limit(count):
        return rig.run("prlimit", f"--nofile={count}:{count}", rig.TOOLS / "weir-relay", "127.0.0.1:0", "127.0.0.1:9")
    done = with_limit(40)
    equal(done.returncode, 1, done.stderr)
    said = re.search(r"40 descriptors are too few: raise the limit \(ulimit -n\) to at least (\d+)", done.stderr)
    enough = int(said.group(1))
    equal(with_limit(enough - 1).returncode, 1)
    with Server() as server, Relay(server, wrapper=["prlimit", f"--nofile={enough}:{enough}"]) as relay:
        both = pairs(relay, server, 16)
        carry_both(both, MB)
        close_all(both)


rig.main(globals())
