#!/usr/bin/env python3
"""Responses: what a client gets of what a server said, and whose connection lives on. The numbers are the rows of the
checklist of HTTP/1.1 behaviours, R1-R19 the rules of the idle pool, both in README.md beside this file."""

import queue
import tempfile

import rig
from rig import Gateway, Origin, until
from wire import Client, Closed, Upstream, equal, get, request, short

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE, RESET = Upstream.CLOSE, Upstream.RESET


def head(*fields, line=b"HTTP/1.1 200 OK", body=b""):
    return line + b"\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


def test_bad_responses():
    """a response that is not HTTP is a 502, and its connection is not used again (rows 47, 49)"""
    bad = [
        head(b"Content-Length: 2", b"Content-Length: 3", body=b"ok"),
        head(b"Content-Length: 2", b"Content-Length: 2", body=b"ok"),
        head(b"Content-Length: 2x", body=b"ok"),
        head(b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        head(b"Transfer-Encoding: gzip", body=b"ok"),
        head(b"X: a\0b", b"Content-Length: 2", body=b"ok"),
        head(b"X: a\rb", b"Content-Length: 2", body=b"ok"),
        head(b"X a: b", b"Content-Length: 2", body=b"ok"),
        head(b"X: a", b" b", b"Content-Length: 2", body=b"ok"),
        head(b"Content-Length: 2", line=b"HTTP/1.1 99 Low", body=b"ok"),
        head(b"Content-Length: 2", line=b"HTTP/1.1 000 None", body=b"ok"),
        head(b"Content-Length: 2", line=b"HTTP/1.1 20 Short", body=b"ok"),
        head(b"Content-Length: 2", line=b"HTTP/2.0 200 OK", body=b"ok"),
        head(b"Content-Length: 2", line=b"ICY 200 OK", body=b"ok"),
        head(b"X: " + b"y" * 16000, b"Content-Length: 2", body=b"ok"),
        head(*[b"X: y"] * 101, b"Content-Length: 2", body=b"ok"),
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"220 smtp.example ESMTP\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not for us\r\n\r\n",
        head(b"Connection: upgrade", b"Upgrade: x", line=b"HTTP/1.1 101 Switching"),  # row 38: nobody asked
    ]
    wrong = []
    for raw in bad:
        with Upstream(raw, OK) as upstream, Gateway(upstream) as gateway, Client(gateway.address) as client:
            try:
                equal(client.ask(request("POST", body=b"x")).status, 502)
                until(lambda: upstream.ended[0], "its connection is closed")
            except Exception as error:
                wrong.append(f"{short(raw)}: {type(error).__name__} {error}")
    equal(wrong, [])


def test_lenient():
    """what is no fault of the body's framing goes on: an unknown class of status, a space before a colon; with
    --allow-bare-lf a bare LF, which goes on as CRLF (rows 47, 49)"""
    said = [(999, head(b"Content-Length : 2", b"X \t: a", line=b"HTTP/1.1 999 Denied", body=b"ok"), []),
            (200, b"HTTP/1.1 200 OK\nContent-Length: 2\nX: a\n\nok", ["--allow-bare-lf"])]
    for status, raw, options in said:
        with Upstream(raw) as upstream, Gateway(upstream, options=options) as gateway, Client(gateway.address) as client:
            answer = client.ask(get())
            equal((answer.status, answer.body), (status, b"ok"))
            equal(sorted(answer.fields), [(b"Content-Length", b"2"), (b"X", b"a")])


def test_no_response():
    """a server that closes, resets or stays silent instead of answering: 502, 502, 504 (row 47)"""
    for said, status in ((CLOSE, 502), (RESET, 502), ((b"HTTP/1.1 200", CLOSE), 502), (b"", 504)):
        with Upstream(said) as upstream, Gateway(upstream, options=["--first-byte-timeout", "500ms"]) as gateway:
            with Client(gateway.address) as client:
                equal(client.ask(request("POST", body=b"x")).status, status, str(said))
                until(lambda: upstream.requests, "it has reached the server")
                equal(len(upstream.requests), 1, "requests at the server: not repeated")


def test_fields():
    """hop-by-hop fields of a response stay behind, the others come as they were (row 3)"""
    raw = head(b"x_A: 1", b"Connection: X-B, keep-alive", b"X-b: 2", b"Keep-Alive: timeout=9", b"Proxy-Connection: close",
               b"Upgrade: h2c", b"Set-Cookie: a", b"SET-COOKIE: b", b"Content-Length: 2", line=b"HTTP/1.1 299 Quite so", body=b"ok")
    with Upstream(raw) as upstream, Gateway(upstream) as gateway, Client(gateway.address) as client:
        answer = client.ask(get())
        equal((answer.status, answer.reason, answer.body), (299, b"Quite so", b"ok"))
        names = [n for n, _ in answer.fields]
        equal(sorted(n for n in names if n != b"Content-Length"), [b"SET-COOKIE", b"Set-Cookie", b"x_A"])


def test_interim():
    """100 and 103 are relayed, except to HTTP/1.0 (rows 31, 32)"""
    hints = head(b"Link: </a>", line=b"HTTP/1.1 103 Early Hints") + b"HTTP/1.1 100 Continue\r\n\r\n"
    with Upstream(hints + OK) as upstream, Gateway(upstream) as gateway:
        for version, wanted in (("1.1", [103, 100]), ("1.0", [])):
            with Client(gateway.address) as client:
                answer = client.ask(get(version=version))
                equal(([i.status for i in answer.interim], answer.status, answer.body), (wanted, 200, b"ok"), version)
        equal(len(upstream.raw), 1, "connections: interim responses do not end an exchange (R7)")


def test_framings():
    """length, chunked and close-delimited bodies arrive whole, for 1.1 and for 1.0 (row 33)"""
    body = bytes(range(256)) * 300
    chunked = b"".join(b"%x;e=1\r\n%s\r\n" % (len(body[i:i + 7000]), body[i:i + 7000]) for i in range(0, len(body), 7000))
    answers = {
        "length": (head(b"Content-Length: %d" % len(body), body=body),),
        "chunked": (head(b"Transfer-Encoding: chunked", body=chunked + b"0\r\nX-Trailer: 1\r\n\r\n"),),
        "close": (head(body=body), CLOSE),
        "1.0": (head(body=body, line=b"HTTP/1.0 200 OK"), CLOSE),
    }
    for name, answer in answers.items():
        for version in ("1.1", "1.0"):
            with Upstream(answer) as upstream, Gateway(upstream) as gateway, Client(gateway.address) as client:
                got = client.ask(get(version=version))
                what = f"{name} to HTTP/{version}"
                assert got.body == body, f"{what}: {len(got.body)} bytes of {len(body)}"
                if version == "1.0":
                    equal(got.values("transfer-encoding"), [], what)
                    assert client.closed(), f"{what}: not closed"


def test_bodiless():
    """HEAD, 204 and 304 have no body, whatever their fields say (row 36)"""
    for raw, method in ((head(b"Content-Length: 5"), "HEAD"), (head(b"Transfer-Encoding: chunked"), "HEAD"),
                        (head(line=b"HTTP/1.1 204 No Content"), "GET"),
                        (head(b"Content-Length: 5", line=b"HTTP/1.1 304 Not Modified"), "GET")):
        with Upstream(raw, OK) as upstream, Gateway(upstream) as gateway, Client(gateway.address) as client:
            answer = client.ask(request(method), to_head=True)
            assert answer.status in (200, 204, 304)
            equal(client.ask(get()).body, b"ok", f"the next after {short(raw)}")
            equal(upstream.ended, [None] * len(upstream.raw), "connections: each is kept")


def test_surplus():
    """bytes beyond a response's end never reach a client, and end the connection (R1, R8)"""
    evil = b"HTTP/1.1 200 Evil\r\nContent-Length: 4\r\n\r\nevil"
    for raw, method in ((OK + evil, "GET"), (head(b"Content-Length: 4", body=evil), "HEAD"),
                        (head(line=b"HTTP/1.1 204 No Content") + evil, "GET"), (OK + b"x", "GET")):
        with Upstream(raw, OK) as upstream, Gateway(upstream) as gateway, Client(gateway.address) as client:
            client.ask(request(method), to_head=method == "HEAD")
            equal(client.ask(get()).body, b"ok", f"the next after {short(raw)}")
            equal(len(upstream.raw), 2, "connections")


def test_truncated():
    """a body cut off is visible as such: no last chunk, no full length (row 48)"""
    chunk = b"5\r\nhello\r\n"
    for fields, body in ((b"Content-Length: 10", b"hello"), (b"Transfer-Encoding: chunked", chunk),
                         (b"Transfer-Encoding: chunked", chunk + b"5\r\nhe"), (b"X: until-close", b"hello")):
        for end in (CLOSE, RESET) if fields != b"X: until-close" else (RESET,):
            with Upstream((head(fields, body=body), end)) as upstream, Gateway(upstream) as gateway:
                with Client(gateway.address) as client:
                    client.send(get())
                    try:
                        answer = client.response()
                    except (Closed, ConnectionResetError):
                        continue
                    # A reset may overtake the head that was on its way; then the failure is a 502.
                    assert end is RESET and answer.status == 502, f"{fields} {body}: {answer.head} {answer.body}"


def test_bad_chunks():
    """a chunked response that breaks the rules is cut off, not passed on"""
    for body in (b"x\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\r\nhelloX0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\n"):
        with Upstream((head(b"Transfer-Encoding: chunked", body=body),)) as upstream, Gateway(upstream) as gateway:
            with Client(gateway.address) as client:
                client.send(get())
                try:
                    equal(client.response().status, 502, str(body))
                except Closed:
                    pass


def test_reuse():
    """which responses leave a connection that serves the next request (R1)"""
    cases = [
        (OK, True),
        (head(b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n"), True),
        (head(b"Connection: close", b"Content-Length: 2", body=b"ok"), False),
        (head(b"Connection: x, Close", b"Content-Length: 2", body=b"ok"), False),
        (head(b"Content-Length: 2", line=b"HTTP/1.0 200 OK", body=b"ok"), False),
        (head(b"Connection: keep-alive", b"Content-Length: 2", line=b"HTTP/1.0 200 OK", body=b"ok"), True),
        ((head(body=b"ok"), CLOSE), False),
    ]
    for raw, again in cases:
        with Upstream(raw, OK) as upstream, Gateway(upstream) as gateway:
            for _ in range(2):  # two clients: the server's connection is nobody's own
                with Client(gateway.address) as client:
                    equal(client.ask(get()).body, b"ok", str(raw))
            equal(len(upstream.raw), 1 if again else 2, f"connections after {raw}")
            gateway.check_ledger()


def test_client_close_keeps_server():
    """a client's "Connection: close" is its own: the server's connection stays (R1)"""
    with Upstream(OK) as upstream, Gateway(upstream) as gateway:
        for _ in range(3):
            with Client(gateway.address) as client:
                client.ask(get(connection="close"))
                assert client.closed()
        equal(len(upstream.raw), 1, "connections")


def test_early_response():
    """an answer before the end of the request's body reaches the client; neither connection is used again (R10)"""
    with Origin("--early", "--status", "200") as origin, Gateway(origin) as gateway:
        with Client(gateway.address) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
            equal(client.response().status, 200)
            try:
                client.send(b"x" * 100_000)
            except OSError:
                pass
            assert client.closed()
        with Client(gateway.address) as client:
            equal(client.ask(get()).status, 200)
        equal(origin.report()["accepted"], 2)


def test_client_abort():
    """a client that goes in the middle takes the server's connection with it (R9)"""
    with Origin("--body", "20m") as origin, Gateway(origin) as gateway:
        for leave in (Client.close, Client.reset):
            client = Client(gateway.address)
            client.send(get())
            client.line_block()
            leave(client)
        until(lambda: gateway.counters()["active"] == 1, "nothing runs but the admin page")
        equal(gateway.check_ledger()["idle"], 0)
        with Client(gateway.address) as client:
            equal(len(client.ask(get()).body), 20 << 20)


def test_client_half_close():
    """a client that has ended its side gets its answer with --client-fin wait (row 51)"""
    options = ["--client-fin", "wait"]
    with Origin("--delay", "30ms") as origin, Gateway(origin, options=options) as gateway, Client(gateway.address) as client:
        client.send(get())
        client.socket.shutdown(1)
        equal(client.response().status, 200)
        assert client.closed()


def test_client_gone():
    """a client that has ended its side has gone: its server is told at once, before an answer and in an event stream (row 51)"""
    told = queue.Queue()

    def serve(answer):
        def behave(connection, _):
            connection.sendall(answer)
            try:
                told.put(connection.recv(1))
            except ConnectionResetError:
                told.put(b"")
        return behave

    events = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
    for answer, leave in [(b"", Client.close), (b"", lambda c: c.socket.shutdown(1)), (events, Client.close)]:
        with Upstream((serve(answer), CLOSE)) as upstream, Gateway(upstream) as gateway:
            client = Client(gateway.address)
            client.send(get())
            while answer and b"data: 1" not in client.pending:
                assert client.more()
            until(lambda: upstream.requests, "the server has the request")
            leave(client)
            equal(told.get(timeout=10), b"", "the server is told")
            equal(gateway.counters()["abandoned"], 1)
            until(lambda: gateway.counters()["active"] == 1, "nothing runs but the admin page")


def test_tunnel():
    """after a 101 that was asked for, bytes pass both ways; none of them before it (rows 38, 39)"""
    asked = b"GET /chat HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: h2c, Echo/2\r\n\r\n"
    switch = head(b"Upgrade: echo/2", line=b"HTTP/1.1 101 Switching")

    def echo(connection, _):
        connection.sendall(switch)
        while data := connection.recv(65536):
            connection.sendall(data.upper())

    with (Upstream((echo, CLOSE)) as upstream, Gateway(upstream, options=["--upgrade", "websocket,echo/2"]) as gateway,
          Client(gateway.address) as client):
        client.send(asked + b"too early")
        equal(client.response().status, 101)
        assert b"Upgrade: Echo/2\r\n" in upstream.requests[0] and b"h2c" not in upstream.requests[0]
        equal(upstream.requests[0].split(b"\r\n\r\n")[1], b"", "nothing came with the head")
        client.send(b", in time")
        equal(client.exactly(18), b"TOO EARLY, IN TIME")
        client.socket.shutdown(1)
        assert client.closed()
        until(lambda: gateway.counters()["live"] == 1, "all is closed but the admin's connection")


def test_unasked_upgrade():
    """an Upgrade without "Connection: upgrade" does not reach the server, so its 101 is a 502 (rows 2, 38)"""
    switch = head(b"Connection: upgrade", b"Upgrade: x", line=b"HTTP/1.1 101 Switching")
    with Upstream(switch) as upstream, Gateway(upstream) as gateway, Client(gateway.address) as client:
        equal(client.ask(b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: x\r\n\r\n").status, 502)


def test_upgrades_not_allowed():
    """an offer of h2c is taken out with its settings, and the request served; a 101 to what was not asked for is a 502"""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    with Origin() as origin, Gateway(origin) as gateway, Client(gateway.address) as client:
        for _ in range(2):
            client.send(b"POST /x HTTP/1.1\r\nHost: test\r\n" + offer + b"Content-Length: 3\r\n\r\nabc")
            equal(client.response().status, 200)
    asked = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    for names in (b"h2c", b"websocket, h2c", b"websocket/13"):
        with Upstream(head(b"Connection: upgrade", b"Upgrade: " + names, line=b"HTTP/1.1 101 Switching")) as upstream:
            with Gateway(upstream) as gateway, Client(gateway.address) as client:
                equal(client.ask(asked).status, 502)
                equal(gateway.counters()["tunnels"], 0)


def test_no_host():
    """a request of HTTP/1.0 without Host gets the server's own name, which is localhost at a unix socket (row 16)"""
    with tempfile.TemporaryDirectory() as place:
        for at, name in (("127.0.0.1:0", None), (f"unix:{place}/up", "localhost")):
            with Upstream(OK, at=at) as upstream, Gateway(upstream) as gateway, Client(gateway.address) as client:
                equal(client.ask(b"GET / HTTP/1.0\r\n\r\n").status, 200)
                wanted = f"GET / HTTP/1.1\r\nHost: {name or upstream.address}\r\n\r\n".encode()
                equal(upstream.requests[0], wanted)


def test_cut_off_at_a_unix_socket():
    """a unix socket knows no reset: in chunks a response that breaks off shows that, and to HTTP/1.0 it cannot (row 48)"""
    half = head(body=b"half of it")
    with tempfile.TemporaryDirectory() as place, Upstream((half, RESET)) as upstream:
        with Gateway(upstream, at=f"unix:{place}/gate") as gateway:
            with Client(gateway.address) as client:
                client.send(get())
                equal(client.rest(), head(b"Transfer-Encoding: chunked", body=b"a\r\nhalf of it\r\n"), "no last chunk")
            with Client(gateway.address) as client:
                client.send(get(version="1.0"))
                equal(client.rest(), head(b"Connection: close", body=b"half of it"), "and then an end, as README says")
            until(lambda: gateway.counters()["truncated"] == 2, "both were found to be cut off")


def test_timeouts():
    """a head, a body and a silence that last too long: 408, 408, and a close without a word (rows 43-46)"""
    options = ["--header-timeout", "500ms", "--body-timeout", "500ms", "--keep-alive-timeout", "500ms"]
    with Upstream(OK) as upstream, Gateway(upstream, options=options) as gateway:
        with Client(gateway.address) as client:
            client.send(b"GET / HTTP/1.1\r\nHo")
            equal(client.response().status, 408, "header")
            assert client.closed()
        with Client(gateway.address) as client:
            for byte in get():  # a drip does not push the deadline
                client.send(bytes([byte]))
                client.socket.settimeout(0.02)
                try:
                    if client.more():
                        break
                except TimeoutError:
                    pass
            client.socket.settimeout(rig.DEADLINE)
            equal(client.response().status, 408, "drip")
        with Client(gateway.address) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc")
            equal(client.response().status, 408, "body")
            assert client.closed()
        with Client(gateway.address) as client:
            client.ask(get())
            assert client.closed(), "idle: no byte, just the end"
        with Client(gateway.address) as client:
            assert client.closed(), "never a byte: no byte"


rig.main(globals())
