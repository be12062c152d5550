#!/usr/bin/env python3
"""weir-origin itself: each of its habits, seen by a raw client."""

import os
import signal
import time

import rig
from rig import Origin, until
from wire import Client, equal, get, request

GET = get()


def test_requests():
    """GET, HEAD, POST, chunked, 1.0 and pipelined requests are answered in order"""
    with Origin("--body", "10") as origin, Client(origin.address) as client:
        chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        client.send(GET * 100 + request("HEAD") + request("POST", body=b"abcd") + chunked + get(version="1.0"))
        for _ in range(100):
            equal(client.response().body, b"w" * 10)
        equal(client.response(to_head=True).status, 200)
        for _ in range(3):
            equal(client.response().body, b"w" * 10)
        assert client.closed()
        report = origin.report()
        equal((report["requests"], report["accepted"], report["body_bytes_in"]), (104, 1, 7))


def test_echo():
    """--echo gives a body back, by length and chunked, 0 B to 20 MB"""
    rig.need("curl")
    with Origin("--echo") as origin:
        for size in (0, 1, 16383, 16384, 16385, 100_000, 20_000_000):
            data = os.urandom(size)
            for more in ([], ["-H", "Transfer-Encoding: chunked"]):
                got = rig.curl(origin.url, "--data-binary", "@-", *more, stdin=data)
                assert got == data, f"{size} bytes, {more}"


def test_framings():
    """the end of an answer is told by length, by chunks or by closing"""
    for framing in ("length", "chunked", "close"):
        for size in (0, 1, 8000, 8001, 1_000_000):
            with Origin("--framing", framing, "--body", size, "--status", "418") as origin:
                with Client(origin.address) as client:
                    answer = client.ask(GET)
                    equal((answer.status, len(answer.body)), (418, size), framing)
                    if framing == "close":
                        assert client.closed()
                    else:
                        equal(client.ask(GET).status, 418)


def test_raw():
    """--raw answers just that"""
    with Origin("--raw", r"HTTP/1.1 99 a\0b\r\nX: \\r\r\n\r\nrest") as origin, Client(origin.address) as client:
        client.send(GET)
        wanted = b"HTTP/1.1 99 a\0b\r\nX: \\r\r\n\r\nrest"
        equal(client.exactly(len(wanted)), wanted)


def test_abort():
    """--abort-after resets in mid-body"""
    with Origin("--body", "1000", "--abort-after", "100") as origin, Client(origin.address) as client:
        client.send(GET)
        client.line_block()
        equal(len(client.rest()), 100)


def test_early():
    """--early answers before the body is there, and closes"""
    with Origin("--early") as origin, Client(origin.address) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc")
        equal(client.response().status, 200)
        client.send(b"x" * 1000)
        assert client.closed()


def test_delay():
    """--delay answers so much later"""
    with Origin("--delay", "100ms") as origin, Client(origin.address) as client:
        began = time.monotonic()
        client.ask(GET)
        assert time.monotonic() - began >= 0.1


def test_close_after():
    """--close-after closes without a word, and answers a request that crossed with a reset"""
    with Origin("--close-after", "3") as origin:
        with Client(origin.address) as client:
            for _ in range(3):
                equal(client.ask(GET).values("connection"), [])
            assert client.closed()
        with Client(origin.address) as client:
            client.send(GET * 3)
            for _ in range(3):
                client.response()
            assert client.closed()
            client.send(GET)  # it has closed: this is reset
            until(lambda: not alive(client), "the reset")
        report = until(lambda: origin.report(), "the report")
        equal((report["last_closes"], report["requests"]), (2, 6))
        equal((report["closes_seen"], report["resets_after_fin"]), (1, 1))


def alive(client):
    try:
        client.send(b"x")
        return True
    except OSError:
        return False


def test_close_idle():
    """--close-idle closes what is idle and measures how long the peer takes to close, too"""
    with Origin("--close-idle", "500ms") as origin:
        clients = []
        for _ in range(20):
            clients.append(Client(origin.address))
            clients[-1].ask(GET)
        with Client(origin.address) as busy:  # a busy one is left alone
            for _ in range(40):
                busy.ask(GET)
                time.sleep(0.01)
        for client in clients:
            assert client.closed()
            client.close()
        report = origin.report()
        equal(report["requests"], 60)
        assert report["idle_closes"] == 20 and report["closes_seen"] == 20, report
        assert 0 < report["fin_to_close_us"]["p50"] <= report["fin_to_close_us"]["max"], report


def test_sigusr1():
    """SIGUSR1 closes every idle connection, and no busy one"""
    with Origin() as origin, Client(origin.address) as idle, Client(origin.address) as fresh:
        idle.ask(GET)
        with Client(origin.address) as busy:
            busy.ask(GET + GET[:10])  # one segment: the second half of it is known when the answer comes
            origin.signal(signal.SIGUSR1)
            assert idle.closed() and fresh.closed()
            busy.send(GET[10:])
            equal(busy.response().status, 200)


def test_strays():
    """--stray-bytes sends a 408 that nobody asked for, and closes"""
    with Origin("--stray-bytes", "10ms") as origin, Client(origin.address) as client:
        client.ask(GET)
        equal(client.response().status, 408)
        assert client.closed()
        client.close()
        equal(origin.report()["strays"], 1)


def test_request_unread():
    """a request that was received but not answered when its connection was closed is counted"""
    with Origin("--close-after", "1") as origin, Client(origin.address) as client:
        client.ask(GET + GET)
        assert client.closed()
        equal(origin.report()["crossed_before"], 1)


def test_bad_clients():
    """bad requests are refused; aborted ones and slow readers disturb nobody"""
    with Origin("--body", "20m") as origin:
        with Client(origin.address) as client:
            equal(client.ask(b"GET / HTTP/1.1\r\n\r\n").status, 400)
            assert client.closed()
        slow = Client(origin.address)
        slow.send(GET)
        for data in (b"", b"GET / HT", GET, request("POST", body=b"x" * 10)[:-1], GET * 50):
            client = Client(origin.address)
            client.send(data)
            client.reset()
        with Client(origin.address) as client:
            equal(len(client.ask(GET).body), 20 << 20)
        slow.close()
        equal(origin.report()["refused"], 1)


def test_stop():
    """SIGTERM ends it at once, whatever its connections are doing"""
    with Origin("--body", "20m", "--early") as origin:
        before = origin.descriptors()
        lingering, reading, asking, idle = (Client(origin.address) for _ in range(4))
        lingering.send(request("POST", body=b"x" * 100)[:-1])
        equal(lingering.response().status, 200)
        reading.send(GET)
        reading.line_block()
        asking.send(GET[:10])
        until(lambda: origin.descriptors() == before + 4, "all four are accepted")
        origin.report()
        assert idle.closed()


rig.main(globals())
