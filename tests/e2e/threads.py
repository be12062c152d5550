#!/usr/bin/env python3
"""--threads: several loops serve as one. All clients are served, counters add up, a drain ends every loop."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import signal
import tempfile
import threading

import rig
from rig import Gateway, Origin, Relay, run, until
from stream import Server, abstract, carry_both, close_all, connect, pairs
from wire import Client, equal, get

TWO = ("--threads", "2")
CLIENTS = 40


def open_counts(program):
    """How many descriptors each loop says that it has open, by SIGUSR1; and the counters of all."""
    def say():
        return [line for line in program.lines if re.search(r"\d+ descriptors are open in loop \d", line)]
    before = len(say())
    program.signal(signal.SIGUSR1)
    until(lambda: len(say()) >= before + 2, "both loops report", 20)
    found = {}
    for line in say()[before:]:
        count, loop = re.search(r"(\d+) descriptors are open in loop (\d)", line).groups()
        found[int(loop)] = int(count)
    equal(sorted(found), [0, 1], "the loops that report")
    counters = next(line for line in say()[before:] if "{" in line)
    return found, json.loads(counters[counters.index("{"):])


def ledger(seen):
    ended = sum(value for name, value in seen.items() if name.startswith("end_"))
    equal(seen["accepted"] + seen["dialed"], seen["live"] + ended, f"the ledger: {seen}")


def test_relay():
    """weir-relay: both loops get clients, all are served bit for bit, the counters of both add up"""
    with Server() as server, Relay(server, options=TWO) as relay:
        quiet, _ = open_counts(relay)
        both = pairs(relay, server, CLIENTS)
        carry_both(both, 200_000, finish=False)
        busy, seen = open_counts(relay)
        each = [busy[i] - quiet[i] for i in (0, 1)]
        assert all(count >= 2 for count in each), f"descriptors of each loop: {each}"
        wanted = {"clients": CLIENTS, "clients_total": CLIENTS, "relayed": CLIENTS, "accepted": CLIENTS,
                  "dialed": CLIENTS, "live": 2 * CLIENTS, "bytes": CLIENTS * (4 + 2 * 200_000)}
        equal({name: seen[name] for name in wanted}, wanted)
        close_all(both)
        until(lambda: open_counts(relay)[1]["live"] == 0, "all have gone")
        after, seen = open_counts(relay)
        equal(after, quiet, "descriptors of each loop")
        ledger(seen)


def ask_all(clients, times, path="/"):
    for i in range(times):
        for number, client in enumerate(clients):
            client.send(get(f"{path}{number}-{i}"))
        for client in clients:
            equal(client.response().status, 200)


def test_gateway():
    """weir-gateway: both loops get clients, and /counters is the sum of what both did"""
    with Origin("--body", "100") as origin, Gateway(origin, options=TWO) as gateway:
        quiet, before = open_counts(gateway)
        clients = [Client(gateway.address) for _ in range(CLIENTS)]
        ask_all(clients, 5)
        busy, _ = open_counts(gateway)
        each = [busy[i] - quiet[i] for i in (0, 1)]
        assert all(count >= 2 for count in each), f"descriptors of each loop: {each}"
        seen = gateway.check_ledger()
        equal((seen["clients"], seen["responses"]), (CLIENTS, 5 * CLIENTS))
        equal(seen["requests"] - before["requests"], 5 * CLIENTS + 1, "requests, and the one to the admin page")
        equal(seen["reused"] + seen["fresh"], 5 * CLIENTS)
        for client in clients:
            client.close()
        equal(gateway.end(), 0, gateway.stderr())
        equal(origin.report()["requests"], 5 * CLIENTS)


def test_drain():
    """SIGTERM ends both loops: what runs in either is finished, idle ones are closed, exit 0"""
    with Origin("--body", "1k") as origin, Gateway(origin, options=TWO) as gateway:
        clients = [Client(gateway.address) for _ in range(CLIENTS)]
        ask_all(clients, 1)
        busy, idle = clients[: CLIENTS // 2], clients[CLIENTS // 2:]
        with origin.held():
            for client in busy:
                client.send(get())
            until(lambda: gateway.counters()["active"] == len(busy) + 1, "they run, and the admin's")
            gateway.signal(signal.SIGTERM)
            for client in idle:
                assert client.closed()
        for client in busy:
            equal(len(client.response().body), 1024)
            assert client.closed()
        for client in clients:
            client.close()
        equal(gateway.wait(), 0, gateway.stderr())
        equal(origin.report()["requests"], CLIENTS + len(busy))
    with Server() as server, Relay(server, options=[*TWO, "--drain-timeout", "100ms"]) as relay:
        both = pairs(relay, server, CLIENTS)
        equal(relay.end(), 0, relay.stderr())
        assert f"{CLIENTS} clients that still ran at --drain-timeout were cut off" in relay.stderr(), relay.stderr()
        for client, end in both:
            client.expect_end("reset")
            end.expect_end("reset")
        close_all(both)


def test_second_signal():
    """a second signal ends it at once, whatever the other loop does"""
    with Server() as server, Relay(server, options=TWO) as relay:
        both = pairs(relay, server, 10)
        relay.signal(signal.SIGTERM)
        until(lambda: not rig.connects(relay.address), "it drains")
        relay.signal(signal.SIGTERM)
        equal(relay.wait(), 1)
        for ends in both:
            for peer in ends:
                equal(peer.end()[0], b"", "nothing, and then the end")
        close_all(both)


def test_max_connections():
    """--max-connections is the limit of both loops together: so many are served and no more, and one more when one has gone"""
    with Server() as server:
        for at in ("127.0.0.1:0", abstract("split")):
            with Relay(server, at=at, options=[*TWO, "--max-connections", "21"]) as relay:
                clients = [connect(relay.address) for _ in range(80)]
                ends = [server.accept() for _ in range(21)]
                seen = open_counts(relay)[1]
                equal((seen["clients"], seen["relayed"], server.has_waiting()), (21, 21, False))
                for _ in range(5):
                    ends.pop().reset()
                    ends.append(server.accept())
                for peer in clients + ends:
                    peer.close()
                # Those in the backlog come, and are gone already.
                def all_gone():
                    while server.has_waiting():
                        server.accept().close()
                    return open_counts(relay)[1]["clients_total"] == 80 and open_counts(relay)[1]["live"] == 0
                until(all_gone, "all were accepted and have gone", 20)
                ledger(open_counts(relay)[1])


def test_as_many_as_it_says():
    """--max-connections N serves N, whichever loops the kernel gives them to; the next one gets the place of one that only waits"""
    options = ["--threads", "4", "--max-connections", str(CLIENTS)]
    with Origin("--body", "10") as origin, Gateway(origin, options=options) as gateway:
        clients = [Client(gateway.address) for _ in range(CLIENTS)]
        for client in clients:
            client.send(get())
        for client in clients:
            equal(client.response().status, 200)
        equal(gateway.counters()["clients"], CLIENTS)
        with Client(gateway.address) as late:
            equal(late.ask(get()).status, 200, "the one that came after them")
            until(lambda: gateway.counters()["clients_let_go"] == 1, "one was let go")
        equal(sum(not client.is_quiet() for client in clients), 1, "clients that were let go")
        equal(gateway.end(), 0, gateway.stderr())
    with Server() as server, Relay(server, options=options) as relay:
        both = pairs(relay, server, CLIENTS)  # nobody only waits in a relay
        carry_both(both, 10_000, finish=False)
        late = connect(relay.address)
        late.say(b"me too")
        equal((relay.counters(4)["clients"], server.has_waiting()), (CLIENTS, False))
        close_all([both.pop()])
        with server.accept() as end:
            end.expect(b"me too")
            late.close()
        close_all(both)


def test_crowded():
    """many more clients than places, in four loops: each is served in its turn, over and over"""
    options = ["--threads", "4", "--max-connections", "16", "--keep-alive-requests", "1000000"]
    with Origin("--body", "10") as origin, Gateway(origin, options=options) as gateway:
        wrong = []

        def visit(number):
            try:
                for i in range(25):
                    with Client(gateway.address, timeout=30) as client:
                        equal(client.ask(get(f"/{number}-{i}")).status, 200)
            except Exception as error:
                wrong.append(f"{number}: {error!r}")

        visitors = [threading.Thread(target=visit, args=(n,)) for n in range(64)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join(60)
        equal(wrong, [])
        until(lambda: gateway.counters()["clients"] == 0, "all have gone")
        equal(gateway.check_ledger()["clients_total"], 64 * 25)
        equal(gateway.end(), 0, gateway.stderr())


def test_admin_has_places():
    """the admin page answers when clients have every place, and silent connections to it keep none of them out"""
    options = [*TWO, "--max-connections", "16"]
    with Origin("--body", "10") as origin, Gateway(origin, options=options) as gateway:
        with origin.held():
            busy = [Client(gateway.address) for _ in range(32)]
            for client in busy:
                client.send(get(connection="close"))
            until(lambda: gateway.counters()["clients"] == 16, "every place is taken")
            equal(gateway.counters()["clients"], 16)
        for client in busy:
            equal(client.response().status, 200)
            client.close()
        silent = [Client(gateway.admin) for _ in range(40)]
        clients = [Client(gateway.address) for _ in range(16)]
        for client in clients:
            equal(client.ask(get()).status, 200)
        equal(gateway.counters()["clients"], 16, "the page answers: silent ones make room")
        for client in silent + clients:
            client.close()
        equal(gateway.end(), 0, gateway.stderr())


def test_too_few():
    """too few descriptors for so many threads: exit 1, with the number that would do"""
    rig.need("prlimit")
    for tool in ("weir-relay", "weir-gateway"):
        done = run("prlimit", "--nofile=150:150", rig.TOOLS / tool, "--threads", "16", "127.0.0.1:0", "127.0.0.1:9")
        equal(done.returncode, 1, done.stderr)
        found = re.search(r"150 descriptors are too few: raise the limit \(ulimit -n\) to at least (\d+)", done.stderr)
        assert found, done.stderr
        enough = int(found.group(1))
        done = run("prlimit", f"--nofile={enough - 1}:{enough - 1}", rig.TOOLS / tool, "--threads", "16", "127.0.0.1:0",
                   "127.0.0.1:9")
        equal(done.returncode, 1, done.stderr)
        with Origin() as origin, rig.Program(["prlimit", f"--nofile={enough}:{enough}", rig.TOOLS / tool, "--threads", "16",
                                              "127.0.0.1:0", origin.address]) as program:
            with Client(program.address) as client:
                equal(client.ask(get()).status, 200, "with as many as it says")
            equal(program.end(), 0, program.stderr())


def test_port_in_use():
    """a port that somebody else has ends it with 1, from whichever loop"""
    with Server() as taken:
        done = run(rig.TOOLS / "weir-relay", *TWO, taken.address, "127.0.0.1:9")
        equal(done.returncode, 1, done.stderr)
        assert f"cannot listen at {taken.address}: Address already in use" in done.stderr, done.stderr


# --- one socket for all

def test_shared_listener():
    """a unix LISTEN and an inherited fd:N are one socket that both loops accept from"""
    with tempfile.TemporaryDirectory(prefix="weir-threads-") as root, Server() as server:
        def check(relay):
            both = pairs(relay, server, CLIENTS)
            carry_both(both, 50_000)
            close_all(both)
            until(lambda: open_counts(relay)[1]["live"] == 0, "all have gone")
            equal(open_counts(relay)[1]["relayed"], CLIENTS)
            equal(relay.end(), 0, relay.stderr())

        for place in (f"unix:{root}/listen", abstract("shared")):
            with Relay(server, at=place, options=TWO) as relay:
                check(relay)
        for place in ("127.0.0.1:0", f"unix:{root}/inherited"):
            with Server(place) as front:
                descriptor = front.socket.fileno()
                with Relay(server, at=f"fd:{descriptor}", pass_fds=[descriptor], options=TWO) as relay:
                    front.close()
                    check(relay)


# --- the access log

LINE = re.compile(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \S+ "GET (/\S+)" 200 \d+ bytes \d+ us upstream \S+(?: \w+)*')


def paths(text, but="/counters"):
    """Of each line, which must be whole."""
    found = []
    for line in text.splitlines():
        match = LINE.fullmatch(line) or re.fullmatch(r'\S+ \S+ "GET (/counters)" .*', line)
        assert match, f"a torn line: {line!r}"
        found.append(match.group(1))
    return sorted(path for path in found if path != but)


def wanted(*names, times):
    return sorted(f"/{name}{number}-{i}" for name in names for number in range(CLIENTS) for i in range(times))


def open_files(program, place):
    """The names of those in that directory that it has open."""
    at = pathlib.Path(f"/proc/{program.pid}/fd")
    found = []
    for descriptor in at.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(pathlib.Path(os.readlink(descriptor)))
    return [file.name for file in found if str(file.parent) == place]


def test_access_log():
    """--access-log: the lines of both loops are whole, none is lost, also when SIGHUP comes in between"""
    with tempfile.TemporaryDirectory() as place, Origin() as origin:
        log = pathlib.Path(place) / "log"
        with Gateway(origin, options=[*TWO, "--access-log", log]) as gateway:
            clients = [Client(gateway.address) for _ in range(CLIENTS)]
            ask_all(clients, 1)
            for turn in range(5):
                ask_all(clients, 10, f"/{'x' * 60}{turn}-")
                log.rename(log.with_suffix(f".{turn}"))
                ask_all(clients, 10, f"/{'y' * 60}{turn}-")
                gateway.signal(signal.SIGHUP)
                until(log.exists, "the new file is there")
            ask_all(clients, 5, "/last-")
            # The second loop may open its new file later than the first.
            until(lambda: open_files(gateway, place) == [log.name] * 2, "the old files are closed, the new one is open")
            for client in clients:
                client.close()
            equal(gateway.end(), 0, gateway.stderr())
        text = "".join(file.read_text() for file in pathlib.Path(place).iterdir())
        names = [f"{letter * 60}{turn}-" for letter in "xy" for turn in range(5)]
        equal(paths(text), sorted(wanted("", times=1) + wanted(*names, times=10) + wanted("last-", times=5)))


def test_access_log_pipe():
    """--access-log - to a reader that is slow: the lines of both loops are whole, and those that are lost are counted"""
    with Origin() as origin:
        read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
        argv = ["bash", "-c", f'exec "$0" "$@" >&{write_end}', rig.TOOLS / "weir-gateway", *TWO, "--access-log", "-",
                "127.0.0.1:0", origin.address]
        with rig.Program(argv, pass_fds=[write_end]) as gateway, os.fdopen(read_end, "rb") as pipe:
            os.close(write_end)
            got = bytearray()

            def read():
                while more := pipe.read1(700):
                    got.extend(more)

            reader = threading.Thread(target=read)
            name = "z" * 60
            clients = [Client(gateway.address, timeout=20) for _ in range(CLIENTS)]

            def ask_all(times):
                for client in clients:
                    client.send(b"".join(get(f"/{name}{clients.index(client)}-{i}") for i in times))
                for client in clients:
                    for _ in times:
                        equal(client.response().status, 200)

            ask_all(range(30))  # nobody reads, and everybody is answered
            until(lambda: "lines were lost" in gateway.stderr(), "it says so")
            reader.start()
            ask_all(range(30, 60))
            for client in clients:
                client.close()
            equal(gateway.end(), 0, gateway.stderr())
            reader.join(rig.DEADLINE)
        found = paths(got.decode())
        lost = sum(int(n) for n in re.findall(r"(\d+) lines were lost", gateway.stderr()))
        equal(len(found) + lost, 60 * CLIENTS)
        equal(len(set(found)), len(found), "none is written twice")


rig.main(globals())
