#!/usr/bin/env python3
"""Requests: what the gateway refuses, and what a server gets of the rest. The numbers are the rows of the checklist
of HTTP/1.1 behaviours in README.md beside this file."""

import contextlib
import re
import socket
import threading
import time

import rig
from rig import Gateway, until
from wire import Client, Upstream, equal, get, request, short

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def ask(*fields, line=b"GET / HTTP/1.1", host=b"Host: test\r\n", body=b""):
    return line + b"\r\n" + host + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


# row, raw request, the status it is refused with
REFUSED = [
    (4, ask(b"Content-Length: 5", b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1", body=b"0\r\n\r\n"), 400),
    (4, ask(b"Transfer-Encoding: chunked", b"Content-Length: 5", line=b"POST / HTTP/1.1", body=b"0\r\n\r\n"), 400),
    (5, ask(b"Content-Length: 5", b"Content-Length: 6", line=b"POST / HTTP/1.1", body=b"hello!"), 400),
    (5, ask(b"Content-Length: 5", b"Content-Length: 5", line=b"POST / HTTP/1.1", body=b"hello"), 400),
    (5, ask(b"Content-Length: 5, 5", line=b"POST / HTTP/1.1", body=b"hello"), 400),
    (6, ask(b"Content-Length: +5", line=b"POST / HTTP/1.1", body=b"hello"), 400),
    (6, ask(b"Content-Length: -5", line=b"POST / HTTP/1.1", body=b"hello"), 400),
    (6, ask(b"Content-Length: 0x5", line=b"POST / HTTP/1.1", body=b"hello"), 400),
    (6, ask(b"Content-Length:", line=b"POST / HTTP/1.1", body=b"hello"), 400),
    (6, ask(b"Content-Length: 18446744073709551616", line=b"POST / HTTP/1.1", body=b"hello"), 400),
    (6, ask(b"Content-Length: 9223372036854775808", line=b"POST / HTTP/1.1", body=b"hello"), 400),
    (7, ask(b"Transfer-Encoding: identity", line=b"POST / HTTP/1.1"), 501),
    (7, ask(b"Transfer-Encoding: gzip, chunked", line=b"POST / HTTP/1.1"), 501),
    (7, ask(b"Transfer-Encoding: chunked, gzip", line=b"POST / HTTP/1.1"), (400, 501)),
    (7, ask(b"Transfer-Encoding: chunked, chunked", line=b"POST / HTTP/1.1"), 400),
    (7, ask(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1"), 400),
    (7, ask(b"Transfer-Encoding: xchunked", line=b"POST / HTTP/1.1"), 501),
    (7, ask(b"Transfer-Encoding: chunked;a=b", line=b"POST / HTTP/1.1"), (400, 501)),
    (8, ask(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0", body=b"0\r\n\r\n"), 400),
    (10, ask(CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b"2\nok\r\n0\r\n\r\n"), 400),
    (10, ask(CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b"2\r\nok\n0\r\n\r\n"), 400),
    (10, ask(CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b"0\r\n\n"), 400),
    (10, ask(CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b"2;a\nb\r\nok\r\n0\r\n\r\n"), 400),
    (10, ask(CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b"0x2\r\nok\r\n0\r\n\r\n"), 400),
    (10, ask(CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b"-2\r\nok\r\n0\r\n\r\n"), 400),
    (10, ask(CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b"11111111111111111\r\nok"), 400),
    (10, ask(CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b"2\r\nokay\r\n0\r\n\r\n"), 400),
    (11, b"GET / HTTP/1.1\nHost: test\n\n", 400),
    (11, b"GET / HTTP/1.1\r\nHost: test\nX: y\r\n\r\n", 400),
    (12, ask(b"X: a\rb"), 400),
    (12, ask(b"X: a\0b"), 400),
    (12, ask(b"X: a\x01b"), 400),
    (12, ask(b"X: a\x7fb"), 400),
    (13, ask(b"X: a", b" b"), 400),
    (13, ask(b"X: a", b"\tb"), 400),
    (14, ask(b"X : a"), 400),
    (14, b"GET / HTTP/1.1\r\n Host: test\r\n\r\n", 400),
    (14, ask(b": a"), 400),
    (14, ask(b"no colon"), 400),
    (14, ask(b"X(: a"), 400),
    (16, ask(host=b""), 400),
    (16, ask(host=b"Host: a\r\nHost: a\r\n"), 400),
    (16, ask(host=b"Host: a b\r\n"), 400),
    (16, ask(host=b"Host: a/b@c\r\n"), 400),
    (20, ask(line=b"CONNECT test:443 HTTP/1.1", host=b"Host: test:443\r\n"), (405, 501)),
    (21, b"GET /\r\n\r\n", 400),
    (21, ask(line=b"GET / HTTP/2.0"), 505),
    (21, ask(line=b"GET / HTTP/0.9"), (400, 505)),
    (21, ask(line=b"GET / http/1.1"), 400),
    (21, ask(line=b"GET / HTTP/1.10"), 400),
    (21, ask(line=b"GET / HTTP/11"), 400),
    (21, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    (22, ask(line=b"GET\t/ HTTP/1.1"), 400),
    (22, ask(line=b"GET  / HTTP/1.1"), 400),
    (22, ask(line=b"GET / HTTP/1.1 "), 400),
    (22, ask(line=b" GET / HTTP/1.1"), 400),
    (22, ask(line=b"G{T / HTTP/1.1"), 400),
    (23, ask(line=b"GET /a#b HTTP/1.1"), 400),
    (23, ask(line=b"GET /\xc3\xa4 HTTP/1.1"), 400),
    (23, ask(line=b"GET a HTTP/1.1"), 400),
    (26, ask(line=b"GET /" + b"a" * 8200 + b" HTTP/1.1"), 414),
    (27, ask(*[b"X%d: y" % i for i in range(100)]), 431),
    (27, ask(*[b"X%d: " % i + b"y" * 1000 for i in range(16)]), 431),
    (27, ask(b"X" * 257 + b": y"), (400, 431)),
    (53, ask(line=b"TRACE / HTTP/1.1"), 405),
]

# row, raw request, what of it the server must get (regular expressions, all of them), what it must not
PASSED = [
    (1, ask(b"Connection: close, x-a ,X-B", b"X-A: 1", b"x-b: 2", b"X-C: 3"), [rb"X-C: 3"], [rb"(?i)x-a", rb"(?i)x-b"]),
    (1, ask(b"Connection: host", b"X-C: 3"), [rb"Host: test"], [rb"Connection: host"]),
    (1, ask(b"Connection: content-length", b"Content-Length: 2", line=b"POST / HTTP/1.1", body=b"ab"),
     [rb"Content-Length: 2\r\n", rb"\r\n\r\nab$"], []),
    (1, ask(b"Connection: transfer-encoding", CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b"2\r\nab\r\n0\r\n\r\n"),
     [rb"Transfer-Encoding: chunked\r\n", rb"2\r\nab\r\n0\r\n\r\n$"], []),
    (2, ask(b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: gzip", b"Upgrade: h2c"), [],
     [rb"(?i)keep-alive", rb"(?i)proxy-connection", rb"(?i)\r\nte:", rb"(?i)upgrade"]),
    (9, ask(CHUNKED[:-2], line=b"POST / HTTP/1.1", body=b'2;a=b;c="d\\"e" ; f\r\nab\r\n0 ;x\r\n\r\n'),
     [rb"\r\n\r\n2\r\nab\r\n0\r\n\r\n$"], []),
    (15, b"\r\n" + ask(), [rb"^GET / HTTP/1.1\r\n"], []),
    (17, ask(host=b"Host:\r\n"), [rb"Host:\s*\r\n"], []),
    (18, ask(line=b"GET http://other:81/p?q HTTP/1.1"), [rb"^GET /p\?q HTTP/1.1\r\n", rb"Host: other:81\r\n"], [rb"Host: test"]),
    (18, ask(line=b"GET http://other HTTP/1.1"), [rb"^GET / HTTP/1.1\r\n", rb"Host: other\r\n"], []),
    (18, ask(line=b"GET http://other?q HTTP/1.1"), [rb"^GET /\?q HTTP/1.1\r\n"], []),
    (19, ask(line=b"OPTIONS * HTTP/1.1"), [rb"^OPTIONS \* HTTP/1.1\r\n"], []),
    (19, ask(line=b"OPTIONS http://other HTTP/1.1"), [rb"^OPTIONS \* HTTP/1.1\r\n", rb"Host: other"], []),
    (21, ask(line=b"GET / HTTP/1.2"), [rb"^GET / HTTP/1.1\r\n"], []),
    (21, ask(line=b"GET / HTTP/1.0"), [rb"^GET / HTTP/1.1\r\n"], []),
    (24, ask(line=b"GET //a/../%2f%2E/;b=c?d=/../ HTTP/1.1"), [rb"^GET //a/\.\./%2f%2E/;b=c\?d=/\.\./ HTTP/1.1\r\n"], []),
    (25, ask(b"x_Under: 1", b"aCcEpT: 2", b"Z: 3", b"A: 4", b"A: 5"),
     [rb"x_Under: 1\r\naCcEpT: 2\r\nZ: 3\r\nA: 4\r\nA: 5\r\n"], []),
    (30, ask(b"Expect: something"), [rb"Expect: something"], []),
    (37, ask(CHUNKED[:-2], b"Trailer: X-T", line=b"POST / HTTP/1.1",
             body=b"2\r\nab\r\n0\r\nContent-Length: 7\r\nX-T: 1\r\n\r\n"),
     [rb"\r\n2\r\nab\r\n0\r\n\r\n$"], [rb"(?i)content-length", rb"X-T: 1"]),
    (40, ask(b"X: 1"), [rb"X: 1"], []),
    (41, ask(b"Content-Length: 3", body=b"abc"), [rb"Content-Length: 3\r\n", rb"\r\n\r\nabc$"], []),
    (41, ask(line=b"POST / HTTP/1.1"), [rb"^POST / HTTP/1.1\r\n"], [rb"(?i)transfer-encoding"]),
    (41, ask(line=b"DELETE / HTTP/1.1"), [rb"^DELETE / "], []),
    (41, ask(line=b"M-SEARCH / HTTP/1.1"), [rb"^M-SEARCH / "], []),
    (42, ask(b"X-Forwarded-For: 9.9.9.9", b"X: y"), [rb"X: y"], []),
]


def refuse(gateway, upstream, row, raw, statuses):
    what = f"row {row}: {short(raw)}"
    reached = len(upstream.requests)
    with Client(gateway.address) as client:
        client.send(raw)
        answer = client.response()
        wanted = statuses if isinstance(statuses, tuple) else (statuses,)
        assert answer.status in wanted, f"{what}: {answer.status}, wanted {statuses}"
        assert client.closed(), f"{what}: not closed"
    equal(len(upstream.requests), reached, f"{what}: requests at the server")


def test_refused():
    """what is refused, and with which status; nothing of it is answered by a server (rows 4-23, 26, 27)"""
    with Upstream(OK) as upstream, Gateway(upstream) as gateway:
        wrong = []
        for row, raw, statuses in REFUSED:
            try:
                refuse(gateway, upstream, row, raw, statuses)
            except Exception as error:
                wrong.append(f"row {row}: {short(raw)}: {error}")
        equal(wrong, [])
        gateway.check_ledger()


def test_refused_in_pieces():
    """the verdict is the same when the bytes come one by one"""
    with Upstream(OK) as upstream, Gateway(upstream) as gateway:
        for row, raw, statuses in REFUSED[::5]:
            if len(raw) > 200:
                continue
            with Client(gateway.address) as client:
                for byte in raw:
                    try:
                        client.send(bytes([byte]))
                    except OSError:
                        break  # answered already
                answer = client.response()
                assert answer.status in (statuses if isinstance(statuses, tuple) else (statuses,)), f"row {row}: {raw}"


def test_passed():
    """what a server gets of a good request (rows 1, 2, 9, 15-25, 30, 37, 41, 42)"""
    with Upstream(OK) as upstream, Gateway(upstream) as gateway:
        wrong = []
        for row, raw, wanted, unwanted in PASSED:
            reached = len(upstream.requests)
            with Client(gateway.address) as client:
                try:
                    equal(client.ask(raw).status, 200)
                    equal(len(upstream.requests), reached + 1, "requests at the server")
                    got = upstream.requests[-1]
                    wrong += [f"row {row}: {raw}: {w} not in {got}" for w in wanted if not re.search(w, got)]
                    wrong += [f"row {row}: {raw}: {u} in {got}" for u in unwanted if re.search(u, got)]
                except Exception as error:
                    wrong.append(f"row {row}: {raw}: {type(error).__name__} {error}")
        equal(wrong, [])


def test_limits():
    """each limit passes what is at it and refuses one more (rows 26, 27)"""
    line = len(b"GET  HTTP/1.1")
    with Upstream(OK) as upstream, Gateway(upstream) as gateway:
        for extra, status in ((0, 200), (1, 414)):
            with Client(gateway.address) as client:
                target = b"/" + b"a" * (8 * 1024 - line - 1 + extra)
                equal(client.ask(ask(line=b"GET " + target + b" HTTP/1.1")).status, status, "start line")
        for extra, status in ((0, 200), (1, 431)):
            with Client(gateway.address) as client:
                equal(client.ask(ask(*[b"X: y"] * (99 + extra))).status, status, "fields")
        for extra, status in ((0, 200), (1, 431)):
            with Client(gateway.address) as client:
                bare = len(ask(b"X: ", b"Y: "))
                fill = 15 * 1024 - bare + extra
                equal(client.ask(ask(b"X: " + b"x" * (fill // 2), b"Y: " + b"y" * (fill - fill // 2))).status, status, "head")
        for extra, status in ((0, 200), (1, 400)):
            with Client(gateway.address) as client:
                equal(client.ask(ask(b"X" * (256 + extra) + b": y")).status, status, "name")
        for extra, status in ((0, 200), (1, 400)):
            with Client(gateway.address) as client:
                equal(client.ask(b"\r\n" * (4 + extra) + ask()).status, status, "empty lines")


def test_large_heads():
    """--head-max 64k, --request-line-max and --fields-max 1000 let heads of 65,535 bytes and 1,000 fields pass both ways"""
    options = ["--request-line-max", "60k", "--head-max", "64k", "--fields-max", "1000"]
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + b"".join(b"N%d: v\r\n" % i for i in range(998)) + b"X: %s\r\n\r\nok"
    said = large % (b"x" * (65535 + 2 - len(large % b"")))
    with Upstream(said) as upstream, Gateway(upstream, options=options) as gateway:
        line = b"GET /" + b"x" * 50_000 + b" HTTP/1.1"
        fields = [b"N%d: v" % i for i in range(999)]
        for extra, status in ((0, 200), (1, 431)):
            with Client(gateway.address) as client:
                answer = client.ask(ask(*fields, *[b"a: b"] * extra, line=line))
                equal((answer.status, len(answer.fields)), (status, 1000 if status == 200 else len(answer.fields)), "fields")
        for extra, status in ((0, 200), (1, 431)):
            with Client(gateway.address) as client:
                bare = len(ask(b"X: "))
                equal(client.ask(ask(b"X: " + b"x" * (65535 - bare + extra))).status, status, "head")


def test_limits_given():
    """--request-line-max, --head-max and --fields-max are kept to the byte; --body-rate-min ends a drip with 408"""
    options = ["--request-line-max", "100", "--head-max", "1k", "--fields-max", "3"]
    with Upstream(OK) as upstream, Gateway(upstream, options=options) as gateway:
        line = lambda size: b"GET /" + b"x" * (size - 14) + b" HTTP/1.1"
        head = lambda size: ask(b"X: " + b"x" * (size - len(ask(b"X: "))))
        for raw, status in ((ask(line=line(100)), 200), (ask(line=line(101)), 414), (head(1024), 200), (head(1025), 431),
                            (ask(b"A: b", b"C: d"), 200), (ask(b"A: b", b"C: d", b"E: f"), 431)):
            with Client(gateway.address) as client:
                equal(client.ask(raw).status, status, short(raw))
    for rate, status in (("1000", 408), ("2", 200), ("0", 200)):
        options = ["--body-rate-min", rate, "--body-timeout", "1s"]
        with Upstream(OK) as upstream, Gateway(upstream, options=options) as gateway, Client(gateway.address) as client:
            client.send(ask(b"Content-Length: 6", line=b"POST / HTTP/1.1"))
            for _ in range(5):  # the window is over before the last of these, and one byte is still missing
                time.sleep(0.25)
                with contextlib.suppress(OSError):
                    client.send(b"x")
            if status == 200:
                client.send(b"x")
            equal(client.response().status, status, rate)


def test_body_max():
    """--body-max refuses a longer body with 413, by length and chunked, and lingers (rows 28, 50)"""
    with Upstream(OK) as upstream, Gateway(upstream, options=["--body-max", "1000"]) as gateway:
        for size, status in ((1000, 200), (1001, 413), (20_000_000, 413)):
            with Client(gateway.address) as client:
                head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size
                client.send(head + b"x" * size)
                equal(client.response().status, status, f"{size} bytes")
            with Client(gateway.address) as client:
                chunked = b"POST / HTTP/1.1\r\nHost: test\r\n" + CHUNKED + b"\r\n%x\r\n" % size
                client.send(chunked + b"x" * size + b"\r\n0\r\n\r\n")
                equal(client.response().status, status, f"{size} bytes, chunked")


def test_early_answer_of_a_server():
    """a server's early refusal reaches a client that is still sending 20 MB, though the server closes with most of it
    unread (row 50)"""
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large"
    with socket.create_server(("127.0.0.1", 0)) as door:
        def serve():
            while True:
                try:
                    connection, _ = door.accept()
                except OSError:
                    return
                with connection:
                    said = b""
                    while b"\r\n\r\n" not in said:
                        said += connection.recv(65536)
                    connection.sendall(refusal)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        address = "%s:%d" % door.getsockname()
        with Gateway(address) as gateway:
            for _ in range(10):
                with Client(gateway.address) as client:
                    client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 20_000_000)
                    response = client.response()
                    equal((response.status, response.body), (413, b"too large"))
        door.shutdown(socket.SHUT_RDWR)
        server.join(rig.DEADLINE)


def test_early_error_lingers():
    """after a refusal the client can go on sending and still reads the answer (row 50)"""
    with Upstream(OK) as upstream, Gateway(upstream) as gateway, Client(gateway.address) as client:
        client.send(ask(b"X: a\0b", line=b"POST / HTTP/1.1"))
        for _ in range(30):
            client.send(b"x" * 1000)
        equal(client.response().status, 400)
        assert client.closed()


def test_expect():
    """Expect: 100-continue is forwarded, and so is the server's 100 (row 29)"""
    def interim(connection, _):
        return OK

    with Upstream(interim) as upstream:
        with Gateway(upstream) as gateway, Client(gateway.address) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            until(lambda: upstream.raw and b"\r\n\r\n" in upstream.raw[0], "the server has the head")
            assert b"100-continue" in upstream.raw[0], upstream.raw
            upstream.sockets[0].sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            equal(client.line_block(), b"HTTP/1.1 100 Continue")
            client.send(b"abc")
            equal(client.response().status, 200)
            assert upstream.requests[0].endswith(b"\r\n\r\nabc")


def test_pipelining():
    """pipelined requests are served one by one, in order (row 40)"""
    count = 200
    def number(_, found):
        path = found.split(b" ")[1]
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path)

    with Upstream(number) as upstream, Gateway(upstream) as gateway, Client(gateway.address) as client:
        parts = [request("POST", f"/{i}", body=b"x" * i) if i % 3 == 0 else get(f"/{i}") for i in range(count)]
        client.send(b"".join(parts))
        for i in range(count):
            equal(client.response().body, b"/%d" % i)
        client.send(get("/a") + ask(b"X: a\0b") + get("/b"))  # a bad one ends the series, not what was before it
        equal(client.response().body, b"/a")
        equal(client.response().status, 400)
        assert client.closed()


def test_persistence():
    """who stays: 1.1, not close in any case, 1.0 only with keep-alive, in the answer too (rows 34, 35)"""
    cases = [
        (ask(), True), (ask(b"Connection: close"), False), (ask(b"Connection: x, CLOSE ,y"), False),
        (ask(b"Connection: x", b"Connection: close"), False), (ask(line=b"GET / HTTP/1.0"), False),
        (ask(b"Connection: keep-alive", line=b"GET / HTTP/1.0"), True), (ask(b"Connection: Keep-Alive"), True),
        (ask(b"Connection: keep-alive, close", line=b"GET / HTTP/1.0"), False),
    ]
    with Upstream(OK) as upstream, Gateway(upstream) as gateway:
        for raw, stays in cases:
            with Client(gateway.address) as client:
                answer = client.ask(raw)
                if not stays:
                    assert client.closed(), f"{raw}: stays open"
                    continue
                if b"HTTP/1.0" in raw:
                    equal([v.lower() for v in answer.values("connection")], ["keep-alive"], short(raw))
                equal(client.ask(ask()).status, 200, f"the next after {short(raw)}")


def test_keep_alive_requests():
    """--keep-alive-requests is announced on the last one (exactly)"""
    with Upstream(OK) as upstream, Gateway(upstream, options=["--keep-alive-requests", "3"]) as gateway:
        with Client(gateway.address) as client:
            equal([client.ask(get()).values("connection") for _ in range(3)], [[], [], ["close"]])
            assert client.closed()


rig.main(globals())
