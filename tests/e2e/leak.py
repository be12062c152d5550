#!/usr/bin/env python3
"""weir-leak: what is clean is called so, and what leaks is found and named."""

import json
import os
import re
import sys

import rig
from rig import TOOLS, Gateway, Origin, Program, run
from wire import equal

CYCLES = int(os.environ.get("WEIR_LEAK_CYCLES", "200000"))
ENDINGS = 12
FOR_ANY_TARGET = {"client FIN first", "server FIN first", "both FIN at once", "client RST", "client half-close, then RST"}

# An HTTP server that leaks. keep-nth: of every hundred connections one is shut but not closed. close-wait: whoever ends
# first is never closed. hoard: memory is kept for each.
SERVER = """
import selectors, socket, sys
manner = sys.argv[1]
door = socket.create_server(("127.0.0.1", 0), backlog=1024)
poll, kept, count = selectors.DefaultSelector(), [], 0
poll.register(door, selectors.EVENT_READ)
print("listening on 127.0.0.1:%d" % door.getsockname()[1], file=sys.stderr, flush=True)

def bye(conn, peer_ended):
    global count
    poll.unregister(conn)
    count += 1
    if manner == "hoard":
        kept.append(bytes(5000))
    if manner == "close-wait" and peer_ended:
        kept.append(conn)
    elif manner == "keep-nth" and count % 100 == 0:
        kept.append(conn)
        try:
            conn.shutdown(socket.SHUT_WR)
        except OSError:
            pass
    else:
        conn.close()

while True:
    for key, _ in poll.select():
        if key.fileobj is door:
            conn, _ = door.accept()
            poll.register(conn, selectors.EVENT_READ)
            continue
        conn = key.fileobj
        try:
            asked = conn.recv(65536)
            if asked:
                conn.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
        except OSError:
            asked = b""
        if not asked or b"Connection: close" in asked:
            bye(conn, not asked)
"""


def leak(*options, status, within=110):
    done = run(TOOLS / "weir-leak", *options, within=within)
    equal(done.returncode, status, f"weir-leak {' '.join(map(str, options))}: {done.stdout}{done.stderr}")
    return done


def rows(*options, status, within=110):
    return {r["ending"]: r for r in json.loads(leak(*options, "--json", status=status, within=within).stdout)}


def test_self():
    """all twelve endings, many times, through weir's relay and idle pool: nothing is kept"""
    seen = rows("--cycles", CYCLES, status=0, within=280 * max(1, CYCLES // 200_000))
    equal(len(seen), ENDINGS)
    for ending, row in seen.items():
        equal((row["verdict"], row["failed"], row["leaked"], row["close_wait"]), ("clean", 0, [], 0), ending)
        equal(row["fds_after"], row["fds_before"], ending)
    total = sum(row["cycles"] for row in seen.values())
    assert CYCLES - ENDINGS <= total <= CYCLES, f"{total} cycles"


def test_planted():
    """a connection that the proxy forgets is named, with what the ledger knows of it"""
    done = leak("--cycles", "2000", "--plant", "100", "--settle", "1s", status=1)
    named = re.findall(r"leaked, (.*): fd (\d+) socket:\[\d+\] 127\.0\.0\.1:\d+ - 127\.79\.0\.\d+:\d+ ESTABLISHED", done.stdout)
    equal(len(named), 23, done.stdout)  # six endings pass that door, with 192 cycles and as many to warm up: one in 100
    for _, fd in named:
        assert re.search(rf"under test: fd {fd} generation \d+ opened dialed \d", done.stderr), f"fd {fd}: {done.stderr}"
    for line in done.stdout.splitlines():
        if line.startswith(("connect refused", "reject")):
            assert line.endswith("clean"), line


def test_gateway():
    """weir-gateway, from outside: nothing is kept but what its pool may; endings that a client cannot make are said"""
    # Two of the endings half-close behind a request and want the answer.
    with Origin("--body", "10") as origin, Gateway(origin, options=["--client-fin", "wait"]) as gateway:
        seen = rows("--target", gateway.address, "--pid", gateway.pid, "--cycles", "20000", status=0)
        equal({e for e, row in seen.items() if row["verdict"] == "clean"}, FOR_ANY_TARGET)
        equal({row["verdict"] for e, row in seen.items() if e not in FOR_ANY_TARGET}, {"skipped"})
        assert all(row["cycles"] == 4000 for row in seen.values() if row["verdict"] == "clean"), seen
        gateway.check_ledger()


def leaky(manner):
    return Program([sys.executable, "-c", SERVER, manner])


def test_every_hundredth():
    """a server that keeps every hundredth socket is found out, each socket named"""
    with leaky("keep-nth") as server:
        seen = rows("--target", server.address, "--pid", server.pid, "--cycles", "3000", "--settle", "1s", status=1)
        for ending in FOR_ANY_TARGET:
            row = seen[ending]
            equal(row["verdict"], "LEAK", ending)
            assert len(row["leaked"]) >= 600 // 100, row
            equal(row["fds_after"] - row["fds_before"], len(row["leaked"]), ending)
            for text in row["leaked"]:
                assert re.match(r"fd \d+ socket:\[\d+\] ", text), text


def test_close_wait():
    """a server that does not close after its peer's FIN is found out, with and without its pid"""
    with leaky("close-wait") as server:
        few = ["--target", server.address, "--cycles", "100", "--jobs", "4", "--deadline", "500ms", "--settle", "500ms"]
        row = rows(*few, "--pid", server.pid, status=1)["client FIN first"]
        equal(row["verdict"], "LEAK")
        assert row["close_wait"] >= 8 and row["late"] >= 8, row
        at = re.escape(server.address)
        assert all(re.fullmatch(rf"fd \d+ socket:\[\d+\] {at} - 127\.78\.\S+ CLOSE_WAIT", t) for t in row["leaked"]), row
        row = rows(*few, status=1)["client FIN first"]
        assert row["close_wait"] >= 8, row


def test_memory():
    """a server that keeps memory for each connection, and no descriptor, is found out"""
    with leaky("hoard") as server:
        seen = rows("--target", server.address, "--pid", server.pid, "--cycles", "5000", "--settle", "1s", status=1)
        for ending in FOR_ANY_TARGET:
            row = seen[ending]
            equal((row["verdict"], row["leaked"]), ("GROWS", []), ending)
            assert row["rss_delta"] > 1000 * 5000 // 2, row


def test_gone():
    """a target that refuses, or a process that is not there, is no success"""
    with leaky("none") as server:
        address = server.address
    done = leak("--target", address, "--cycles", "50", status=1)
    assert "FAILED" in done.stdout and "refused" in done.stdout, done.stdout
    done = leak("--target", address, "--pid", "4194000", status=1)
    assert "4194000" in done.stderr, done.stderr


def test_command_line():
    """what goes wrong on the command line ends with 2 and names the option"""
    for options, word in ((["--target", "8080"], "--target"), (["--pid", "1"], "--pid"), (["--cycles", "0"], "--cycles"),
                          (["--self", "--target", "127.0.0.1:80"], "--self"), (["--nothing"], "--nothing"),
                          (["--pool", "5"], "--pool"), (["--self", "--path", "/x"], "--path"),
                          (["--target", "127.0.0.1:80", "--plant", "1"], "--plant"),
                          (["--target", "127.0.0.1:80", "--ledger", "9"], "--ledger"),
                          (["--target", "127.0.0.1:80", "--connect-timeout", "9ms"], "--connect-timeout"),
                          (["surplus"], "surplus")):
        done = leak(*options, status=2)
        assert word in done.stderr and not done.stdout, done.stderr
    done = leak("--help", status=0)
    assert "the kernel drops the SYN" in done.stdout, done.stdout


rig.main(globals())
