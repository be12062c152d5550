#!/usr/bin/env python3
"""Bodies and crowds: every byte arrives, whoever is slow, and memory stays bounded."""

import hashlib
import os
import re
import socket
import struct
import threading
import time

import rig
from rig import Gateway, Origin, curl, need, run, until
from wire import Client, Upstream, equal, get, request

SIZES = {"empty": 0, "one": 1, "block": 16 * 1024, "block-and-one": 16 * 1024 + 1, "large": 20_000_000}
MB = 1 << 20


def test_download():
    """curl gets files of 0 B to 20 MB from nginx, byte for byte"""
    need("nginx", "curl")
    files = {name: os.urandom(size) for name, size in SIZES.items()}
    with rig.nginx(files) as server, Gateway(server) as gateway:
        for name, data in files.items():
            assert curl(f"{gateway.url}/{name}") == data, name
            assert curl(f"{gateway.url}/{name}", "--http1.0") == data, f"{name}, HTTP/1.0"
        urls = [f"{gateway.url}/{name}" for name in ("one", "large", "empty", "block")]
        got = curl(urls[-1], *urls[:-1])  # four on one connection
        assert got == files["one"] + files["large"] + files["empty"] + files["block"]
        ranged = curl(f"{gateway.url}/large", "-r", "1000-1999")
        assert ranged == files["large"][1000:2000]
        equal(gateway.check_ledger()["blocks"], 0, "blocks held when all is quiet")


def test_upload():
    """PUT and POST of 0 B to 20 MB come back from an echo byte for byte, by length and chunked"""
    need("curl")
    with Origin("--echo") as origin, Gateway(origin) as gateway:
        for name, size in SIZES.items():
            data = os.urandom(size)
            for method in ("PUT", "POST"):
                for more in ([], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect:"]):
                    got = curl(gateway.url, "-X", method, "--data-binary", "@-", *more, stdin=data)
                    assert got == data, f"{method} {name} {more}: {len(got)} bytes of {size}"
        equal(gateway.counters()["blocks"], 0, "blocks held when all is quiet")


def test_upload_to_nginx():
    """nginx stores what was uploaded through the gateway"""
    need("nginx", "curl")
    with rig.nginx({}, server="dav_methods PUT; create_full_put_path on;") as server, Gateway(server) as gateway:
        with Client(gateway.address) as client:
            if client.ask(request("PUT", "/probe", body=b"x")).status == 405:
                raise rig.NotHere("this nginx was built without dav")
        data = os.urandom(3 * MB)
        for more in ([], ["-H", "Transfer-Encoding: chunked"]):
            curl(f"{gateway.url}/stored", "-X", "PUT", "--data-binary", "@-", *more, stdin=data)
            assert curl(f"{gateway.url}/stored") == data, str(more)


def test_many_on_one():
    """1,000 requests on one connection use one connection of the server"""
    with Origin("--body", "100") as origin, Gateway(origin) as gateway, Client(gateway.address) as client:
        for i in range(999):
            equal(client.ask(get(f"/{i}")).values("connection"), [])
        equal(client.ask(get("/last")).values("connection"), ["close"])
        assert client.closed()
        report = origin.report()
        equal((report["accepted"], report["requests"]), (1, 1000))


def test_crowd():
    """200 connections at once, each with its own bytes"""
    wrong = []

    def visit(number, address):
        try:
            with Client(address, timeout=20) as client:
                for i in range(20):
                    data = b"%d-%d " % (number, i) * 500
                    equal(client.ask(request("POST", f"/{i}", body=data)).body == data, True, f"echo {number}-{i}")
        except Exception as error:
            wrong.append(f"{number}: {error!r}")

    with Origin("--echo") as origin, Gateway(origin) as gateway:
        visitors = [threading.Thread(target=visit, args=(n, gateway.address)) for n in range(200)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join(30)
        equal(wrong, [])
        until(lambda: gateway.counters()["clients"] == 0, "all have gone")
        seen = gateway.check_ledger()
        equal((seen["requests"] >= 4000, seen["errors"]), (True, 0))


def test_wrk():
    """wrk with 50 connections sees no error"""
    need("wrk")
    with Origin("--body", "1k") as origin, Gateway(origin, options=["--keep-alive-requests", "100"]) as gateway:
        done = run("wrk", "-c50", "-t2", "-d2s", gateway.url)
        equal(done.returncode, 0, done.stderr)
        assert "Socket errors" not in done.stdout and "Non-2xx" not in done.stdout, done.stdout
        seen = gateway.check_ledger()
        equal(seen["errors"], 0)
        assert seen["requests"] > 0, seen


def test_ab():
    """ab with keep-alive and 50 connections sees no error"""
    need("ab")
    with Origin("--body", "1k") as origin, Gateway(origin) as gateway:
        done = run("ab", "-q", "-k", "-c", "50", "-n", "20000", gateway.url + "/")
        equal(done.returncode, 0, done.stderr)
        equal(re.findall(r"(?:Failed|Write errors|Non-2xx)[^:]*:\s+(\d+)", done.stdout), ["0"], done.stdout)
        equal(re.findall(r"Complete requests:\s+(\d+)", done.stdout), ["20000"])


def moved_bytes(client):
    """What the kernel at the other end has acknowledged, and what has come from there: linux/tcp.h, struct tcp_info."""
    return struct.unpack_from("QQ", client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 120)


def until_stalled(gateway, clients, what):
    """Nothing moves any more, whoever is asked to: every buffer on the way is full."""
    seen = []

    def is_stalled():
        seen.append([moved_bytes(client) for client in clients])
        gateway.counters()  # it has had a turn
        time.sleep(0.05)
        return len(seen) > 2 and seen[-3] == seen[-2] == seen[-1]

    until(is_stalled, what)


def rss_while(gateway, act):
    """How much the gateway's memory grew while act() ran, at most."""
    if rig.SANITIZED:  # what grows there is the sanitizer's; what act() checks holds all the same
        act()
        return 0
    before, most, over = gateway.rss(), [0], threading.Event()

    def watch():
        while not over.wait(0.005):
            most[0] = max(most[0], gateway.rss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        act()
    finally:
        over.set()
        watcher.join()
    return max(0, most[0] - before)


def test_slow_clients():
    """20 clients that read slowly hold one block each, not 20 MB each"""
    with Origin("--body", "20m") as origin, Gateway(origin) as gateway:
        def read_slowly():
            clients = [Client(gateway.address) for _ in range(20)]
            for client in clients:
                client.send(get())
                client.line_block()

            until_stalled(gateway, clients, "back-pressure stops the server")
            blocks = gateway.counters()["blocks"]
            assert blocks <= 2 * len(clients) + 2, f"{blocks} blocks for {len(clients)} exchanges"
            for client in clients[:3]:
                equal(len(client.exactly(20 * MB)), 20 * MB)
            for client in clients:
                client.close()

        grown = rss_while(gateway, read_slowly)
        assert grown < 4 * MB, f"{grown} bytes"


def test_slow_server():
    """a server that reads slowly stops a client that sends 20 MB, and still gets every byte"""
    total, seen = 20_000_000, hashlib.sha256()
    data = os.urandom(total)
    go_on = threading.Event()

    class Slow(Upstream):
        def _serve(self, connection, index):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1)
            go_on.wait()
            left = total
            while left:
                got = connection.recv(65536)
                seen.update(got)
                left -= len(got)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with Slow() as server, Gateway(server) as gateway, Client(gateway.address, timeout=20) as client:
        def send_all():
            sender = threading.Thread(target=client.send, args=(request("PUT", body=data),))
            sender.start()

            until_stalled(gateway, [client], "back-pressure stops the client")
            assert sender.is_alive(), "all was taken from the client though the server reads nothing"
            go_on.set()
            sender.join(2 * rig.DEADLINE)

        grown = rss_while(gateway, send_all)
        equal(client.response().status, 200)
        equal(seen.hexdigest(), hashlib.sha256(data).hexdigest(), "the body at the server")
        assert grown < 2 * MB, f"{grown} bytes"


rig.main(globals())
