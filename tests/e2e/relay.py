#!/usr/bin/env python3
"""weir-relay: every byte, and every end as what it is, whoever is slow; memory stays bounded."""

import contextlib
import os
import pathlib
import resource
import signal
import socket
import tempfile

import rig
from rig import Relay, need, until
from stream import (MB, Flow, Server, abstract, bytes_of, carry, carry_both, close_all, connect, fill, pair, pairs,
                    queues)
from wire import equal

BLOCK = 16 * 1024
PIPE = 256 * 1024
SPLICE = ("off", "auto")


@contextlib.contextmanager
def relay_and_server(*options, at="127.0.0.1:0", to="127.0.0.1:0", **how):
    """Both; in the end nothing may be left in the relay."""
    with Server(to, **how) as server, Relay(server, options=options, at=at) as relay:
        yield relay, server
        until(lambda: relay.counters()["live"] == 0, "all have gone")
        equal(relay.check_ledger()["blocks"], 0, "blocks held when all is quiet")


# --- ends

def test_half_close():
    """a half-close is carried across, either way, and the other direction goes on until its own end"""
    with relay_and_server() as (relay, server):
        for first, second in ((0, 1), (1, 0)):
            both = pair(relay, server)
            both[first].say(b"the last")
            both[first].finish()
            both[second].expect_end("fin", b"the last")
            data = bytes_of(first, 3 * MB)
            carry([Flow(both[second], both[first], data)])
            close_all([both])


def test_both_half_close():
    """both sides end at once, with bytes in front of the ends"""
    with relay_and_server() as (relay, server):
        both = pair(relay, server)
        relay.signal(signal.SIGSTOP)
        for peer in both:
            peer.say(b"and out")
            peer.finish()
        relay.signal(signal.SIGCONT)
        for peer in both:
            peer.expect_end("fin", b"and out")
        close_all([both])


def test_abort():
    """an abort is carried across as an abort (RST), either way, and behind all that had come before it"""
    with relay_and_server() as (relay, server):
        for breaks, sees in ((0, 1), (1, 0)):
            both = pair(relay, server)
            both[breaks].say(b"half of it")
            both[sees].expect(b"half of it")
            both[breaks].reset()
            both[sees].expect_end("reset")
            both[sees].close()

            both = pair(relay, server)  # the one that sees it does not read, the other one sends
            before = relay.counters()["bytes"]
            fill([both[breaks]], relay)
            both[breaks].reset()
            data, how = both[sees].end()
            equal(how, "reset")
            until(lambda: relay.counters()["live"] == 0, "nothing is left")
            equal(len(data), relay.counters()["bytes"] - before, "all that had come in front of the reset")
            both[sees].close()


def test_abort_unread():
    """one that closes with unread input aborts; one that closes after all was read ends"""
    with relay_and_server() as (relay, server):
        client, end = pair(relay, server)
        end.say(b"nobody reads this")
        until(lambda: not client.is_quiet(), "it has come")
        client.close()
        end.expect_end("reset")
        end.close()
        client, end = pair(relay, server)
        end.say(b"this is read")
        client.expect(b"this is read")
        client.close()
        end.expect_end("fin")
        end.close()


def test_early_data():
    """what a client said, and its end, before its server is connected is delivered"""
    with relay_and_server(backlog=0) as (relay, server):
        filler = connect(server.address)  # the backlog is full: the next SYN is dropped, and comes again after 1 s
        client = connect(relay.address)
        client.say(b"said early")
        client.finish()
        until(lambda: relay.counters()["dialed"] == 1, "it is dialed")
        equal(relay.counters()["relayed"], 0, "clients whose server is connected")
        server.accept().close()
        filler.close()
        end = server.accept()
        end.expect_end("fin", b"said early")
        end.say(b"answer")
        end.close()
        client.expect_end("fin", b"answer")
        client.close()


def test_out_of_band():
    """an urgent byte is left out, alone: what is around it goes on, copied or spliced"""
    for splice in SPLICE:
        with relay_and_server("--splice", splice) as (relay, server):
            client, end = pair(relay, server)
            carry([Flow(client, end, bytes_of(1, 4 * MB), finish=False)])
            for i in range(5):
                data = bytes_of(i, 100_000)
                client.say(data[:50_000])
                client.socket.send(b"!", socket.MSG_OOB)
                client.say(data[50_000:])
                end.expect(data)
            client.finish()
            end.expect_end("fin")
            close_all([(client, end)])


def test_storm():
    """120 pairs end within one turn, by FIN and by RST of either side and of both: none is left, no descriptor either"""
    with relay_and_server() as (relay, server):
        before = relay.descriptors()
        for _ in range(3):
            both = pairs(relay, server, 120)
            relay.signal(signal.SIGSTOP)
            for i, (client, end) in enumerate(both):
                endings = (client.close, client.reset, end.close, end.reset, client.finish, end.finish)
                endings[i % 6]()
                if i % 5 == 0:
                    (end if i % 6 in (0, 1, 4) else client).reset()
            relay.signal(signal.SIGCONT)
            for i, (client, end) in enumerate(both):
                if i % 5 and i % 6 < 2:
                    end.expect_end(("fin", "reset")[i % 6], what="the server of a client that closed or reset")
                elif i % 5 and i % 6 < 4:
                    client.expect_end(("fin", "reset")[i % 6 - 2], what="the client of a server that closed or reset")
                elif i % 5:
                    (end if i % 6 == 4 else client).expect_end("fin", what="after a half-close")
            close_all(both)
            until(lambda: relay.counters()["live"] == 0, "all have gone")
        equal(relay.descriptors(), before, "descriptors")


def test_churn():
    """2,000 short connections with every kind of end leave no descriptor behind"""
    with relay_and_server() as (relay, server):
        before = relay.descriptors()
        for i in range(2000):
            client, end = pair(relay, server)
            if i % 4 < 2:
                client.say(b"x" * i)
                end.expect(b"x" * i)
            first, second = (client, end) if i % 2 else (end, client)
            first.reset() if i % 3 == 0 else first.close()
            if i % 5:
                second.expect_end("reset" if i % 3 == 0 else "fin")
            second.close()
        until(lambda: relay.counters()["live"] == 0, "all have gone")
        seen = relay.check_ledger()
        # A reset may overtake the connect's success.
        equal(seen["relayed"] + seen["abandoned"] + seen["refused"], 2000, f"{seen}")
        equal(relay.descriptors(), before, "descriptors")


# --- bytes

def test_crowd():
    """300 connections at once carry 100 KB each way, bit for bit, and both ends"""
    with relay_and_server() as (relay, server):
        both = pairs(relay, server, 300)
        carry_both(both, 100_000)
        close_all(both)


def test_sizes():
    """1 B, a block less and more by one, a pipe more by one, 4 MB: exact each way, and no byte with only an end"""
    with relay_and_server() as (relay, server):
        for size in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, PIPE + 1, 4 * MB):
            both = [pair(relay, server)]
            carry_both(both, size)
            close_all(both)


def test_large():
    """200 MB come out as they went in, copied and spliced, and only --splice auto splices"""
    data = bytes_of(200, 1_000_003) * 200
    for splice in SPLICE:
        with relay_and_server("--splice", splice) as (relay, server):
            client, end = pair(relay, server)
            carry([Flow(client, end, data), Flow(end, client, data[:5 * MB])])
            close_all([(client, end)])
            seen = relay.counters()
            equal(seen["bytes"], len(data) + 5 * MB)
            if splice == "off":
                equal(seen["spliced_bytes"], 0)
            else:
                assert seen["spliced_bytes"] > len(data) // 2, seen


def test_slow_reader():
    """a reader with a small window that takes 1 KB at a time gets every byte, and the end"""
    for splice in SPLICE:
        with relay_and_server("--splice", splice, recv_bytes=4096) as (relay, server):
            client, end = pair(relay, server, recv_bytes=4096)
            data = bytes_of(3, 2 * MB)
            carry([Flow(client, end, data, at_once=1024), Flow(end, client, data[::-1], at_once=1024)])
            close_all([(client, end)])


def test_back_pressure():
    """a reader that stalls stops the producer: the relay holds a block, or a pipe, beyond the two sockets' buffers"""
    for splice in SPLICE:
        with relay_and_server("--splice", splice) as (relay, server):
            for from_client in (True, False):
                both = pair(relay, server)
                producer, reader = both if from_client else both[::-1]
                taken = fill([producer], relay)
                seen = relay.counters()
                # The four places where bytes may wait beside the relay: the producer's send buffer, the relay's
                # receive buffer, its send buffer and the reader's receive buffer.
                def held():
                    client_at = both[0].place, relay.address
                    server_at = "%s:%d" % both[1].socket.getpeername(), server.address
                    near, far = (client_at, server_at) if from_client else (server_at[::-1], client_at[::-1])
                    return taken - (queues(*near)[0] + queues(*near[::-1])[1] + queues(*far)[0] + queues(*far[::-1])[1])
                limit = BLOCK if splice == "off" else PIPE
                until(lambda: 0 <= held() <= limit, "all that was acknowledged is seen so")
                assert seen["blocks"] <= 1, seen
                assert splice == "auto" or seen["spliced_bytes"] == 0, seen
                producer.finish()
                equal([len(reader.hear(taken)), reader.end()], [taken, (b"", "fin")], "what was taken")
                close_all([both])


def test_back_pressure_memory():
    """20 stalled pairs: one block or one pipe each, and the relay's memory has not grown by more"""
    for splice in SPLICE:
        with relay_and_server("--splice", splice) as (relay, server):
            close_all([pair(relay, server)])
            before = relay.rss()
            both = pairs(relay, server, 20)
            fill([client for client, _ in both], relay)
            seen, grown = relay.counters(), relay.rss() - before
            assert seen["blocks"] <= 20, seen
            assert rig.SANITIZED or grown < 20 * BLOCK + 512 * 1024, f"{grown} bytes for 20 stalled pairs"
            close_all(both)


def test_pipes_run_out():
    """no descriptor for a pipe: it copies, bytes exact; when there are some again, it splices"""
    need("prlimit")
    with relay_and_server() as (relay, server):
        both = pairs(relay, server, 4)
        carry([Flow(c, e, b"warm", finish=False) for c, e in both])
        high = max(int(n) for n in os.listdir(f"/proc/{relay.pid}/fd")) + 1
        old = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (high, old[1]))
        for client, end in both[:2]:
            carry([Flow(client, end, bytes_of(4, 8 * MB), finish=False), Flow(end, client, bytes_of(5, 8 * MB),
                                                                              finish=False)])
        equal(relay.counters()["spliced_bytes"], 0, "with no descriptor left")
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, old)

        def carry_more():
            carry([Flow(both[2][0], both[2][1], bytes_of(6, 8 * MB), finish=False)])
            return relay.counters()["spliced_bytes"] > 0

        until(carry_more, "it splices when it can")
        carry_both(both[3:], MB)
        close_all(both)


def test_idle_memory():
    """quiet pairs own no block and no pipe, and at most 690 bytes of memory (549 when this was written)"""
    count = 1500
    rig.need_descriptors(5 * count)
    with relay_and_server() as (relay, server):
        first = pairs(relay, server, 200)  # what is touched once and for all
        before, descriptors = relay.rss(), relay.descriptors()
        more = [both for _ in range(count // 100) for both in pairs(relay, server, 100)]  # no backlog overflows
        seen = relay.counters()
        equal((seen["clients"], seen["blocks"]), (count + 200, 0))
        equal(relay.descriptors() - descriptors, 2 * count, "descriptors")
        each = (relay.rss() - before) / count
        print(f"           {each:.0f} bytes for each quiet pair")
        assert rig.SANITIZED or each <= 690, f"{each:.0f} bytes for each quiet pair"
        close_all(first + more)


# --- unix sockets

def test_unix():
    """unix sockets on either side and on both: bytes, half-closes and ends"""
    with tempfile.TemporaryDirectory(prefix="weir-relay-") as root:
        tcp, file = "127.0.0.1:0", f"unix:{root}/listen"
        for at, to in ((file, tcp), (tcp, f"unix:{root}/server"), (f"{file}2", f"unix:{root}/server2"),
                       (abstract("listen"), abstract("server"))):
            with relay_and_server(at=at, to=to) as (relay, server):
                both = pairs(relay, server, 5)
                carry_both(both, MB)
                close_all(both)
                client, end = pair(relay, server)
                client.finish()
                end.expect_end("fin")
                carry([Flow(end, client, bytes_of(7, 3 * MB))])
                close_all([(client, end)])
                client, end = pair(relay, server)
                end.close()
                client.expect_end("fin")
                client.close()
        # A relay that ends by itself removes its own files, and never those of its servers.
        equal(sorted(p.name for p in pathlib.Path(root).glob("server*")), ["server", "server2"])


rig.main(globals())
