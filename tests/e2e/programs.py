#!/usr/bin/env python3
"""weir-relay between real programs: Redis, PostgreSQL, nginx and curl, socat; and over a network that loses packets."""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import rig
from rig import Program, Relay, Skipped, connects, curl, find, free_address, need, run, until
from stream import MB, Server, bytes_of, carry_both, close_all, pairs
from surroundings import inside, namespaces, set_up, within
from wire import Client, equal, get, request

TWO = ("--threads", "2")


def fed(data, *argv, within=60):
    """Runs a command with that on its stdin: its stdout."""
    done = subprocess.run([str(a) for a in argv], input=data, capture_output=True, timeout=within)
    equal(done.returncode, 0, f"{' '.join(map(str, argv))}: {done.stderr.decode(errors='replace')}")
    return done.stdout


@contextlib.contextmanager
def directory():
    with tempfile.TemporaryDirectory(prefix="weir-programs-") as root:
        yield pathlib.Path(root)


# --- Redis

@contextlib.contextmanager
def redis(root):
    """redis-server, which listens at .address and at root/redis."""
    need("redis-server", "redis-cli", "redis-benchmark")
    host, port = free_address().split(":")
    argv = ["redis-server", "--bind", host, "--port", port, "--unixsocket", root / "redis", "--dir", root, "--save", "",
            "--appendonly", "no", "--daemonize", "no"]
    with Program(argv, ready=False) as program:
        program.addresses.append(f"{host}:{port}")
        until(lambda: connects(program.address) or program.process.poll() is not None, "redis-server listens")
        assert program.process.poll() is None, program.process.stdout.read()
        yield program


def calls_of(command, at):
    """How many of these the server has served."""
    stats = run("redis-cli", *at, "info", "commandstats").stdout
    found = re.search(rf"cmdstat_{command}:calls=(\d+)", stats)
    return int(found.group(1)) if found else 0


def test_redis():
    """redis-benchmark, plain and pipelined, over TCP and to a unix socket: every request is served, none fails"""
    with directory() as root, redis(root) as server:
        for upstream, options, requests in ((server.address, (), 20_000), (f"unix:{root}/redis", TWO, 8_000)):
            with Relay(upstream, options=options) as relay:
                direct = ["-p", server.port]
                for more in ([], ["-P", "16"]):
                    before = {name: calls_of(name, direct) for name in ("set", "get", "lpush")}
                    done = run("redis-benchmark", "-p", relay.port, "-c", "50", "-n", requests, "-t", "set,get,lpush", "-d",
                               "100", "--csv", *more)
                    equal(done.returncode, 0, done.stderr)
                    assert "rror" not in done.stdout + done.stderr, done.stdout + done.stderr
                    for name, count in before.items():
                        equal(calls_of(name, direct) - count, requests, f"{name} served")
                if not options:
                    until(lambda: relay.counters()["live"] == 0, "all have gone")
                    relay.check_ledger()


def test_redis_values():
    """redis-cli: a value of 10 MB there and back, 20,000 commands in one stream, a command that waits for another client"""
    with directory() as root, redis(root) as server, Relay(server.address) as relay:
        at = ["redis-cli", "-p", relay.port]
        data = bytes_of(1, 10_000_000)
        equal(fed(data, *at, "-x", "set", "large"), b"OK\n")
        got = fed(b"", *at, "get", "large")
        assert got == data + b"\n", f"{len(got)} bytes"
        stream = b"".join(b"*3\r\n$3\r\nSET\r\n$6\r\n%06d\r\n$6\r\n%06d\r\n" % (i, i) for i in range(20_000))
        said = fed(stream, *at, "--pipe")
        assert b"errors: 0, replies: 20000" in said, said
        equal(fed(b"", *at, "dbsize"), b"20001\n")
        with Program([*at, "blpop", "queue", "0"], ready=False) as waiting:
            until(lambda: "blocked_clients:1" in run(*at, "info", "clients").stdout, "it waits")
            fed(b"", *at, "rpush", "queue", "at last")
            equal(waiting.wait(), 0)
            equal(waiting.stdout.splitlines(), ["queue", "at last"])


# --- PostgreSQL

def postgres_program(name):
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise Skipped(f"{name} is not installed")
    return found[-1]


@contextlib.contextmanager
def postgres():
    """A PostgreSQL of its own, with a user "weir" and its database."""
    need("psql", "setpriv")
    initdb, program = postgres_program("initdb"), postgres_program("postgres")
    # It refuses to run as root.
    as_user = []
    if os.geteuid() == 0:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"]
    with directory() as root:
        if as_user:
            shutil.chown(root, "postgres", "postgres")
        data = root / "data"
        done = run(*as_user, initdb, "-D", data, "-A", "trust", "-U", "weir", "--no-sync", "-E", "UTF8", "--locale=C",
                   cwd=root)
        equal(done.returncode, 0, done.stderr)
        host, port = free_address().split(":")
        argv = [*as_user, program, "-D", data, "-p", port, "-k", root, "-F", "-c", f"listen_addresses={host}", "-c",
                "shared_buffers=16MB"]
        with Program(argv, ready=False) as server:
            server.addresses.append(f"{host}:{port}")

            def is_ready():
                assert server.process.poll() is None, server.stderr()
                return "is ready to accept connections" in server.stderr()

            try:
                until(is_ready, "PostgreSQL is ready", 20)
                equal(sql(server, "create database weir", "postgres"), "CREATE DATABASE\n")
                yield server
            finally:
                server.signal(signal.SIGINT)  # without waiting for clients
                server.process.wait(20)


def psql(server, *more, database="weir"):
    return ["psql", "-X", "-h", "127.0.0.1", "-p", server.port, "-U", "weir", "-d", database, "-v", "ON_ERROR_STOP=1",
            *more]


def sql(server, text, database="weir"):
    return fed(b"", *psql(server, "-At", "-c", text, database=database)).decode()


def test_postgres():
    """psql: a result of 300,000 rows, COPY of 15 MB in and out, a query that is cancelled; pgbench on two threads"""
    with postgres() as server:
        with Relay(server.address) as relay:
            rows = sql(relay, "select i, md5(i::text) from generate_series(1, 300000) i")
            wanted = "".join(f"{i}|{hashlib.md5(str(i).encode()).hexdigest()}\n" for i in range(1, 300_001))
            assert rows == wanted, f"{len(rows)} characters of {len(wanted)}"

            digits = bytes_of(1, 120_060).hex()
            lines = "".join(f"{i}\t{digits[i:i + 120]}\n" for i in range(120_000)).encode()
            sql(relay, "create table copied (i int, said text)")
            equal(fed(lines, *psql(relay, "-c", "copy copied from stdin")), b"COPY 120000\n")
            got = fed(b"", *psql(relay, "-c", "copy (select * from copied order by i) to stdout"))
            assert got == lines, f"{len(got)} bytes of {len(lines)}"

            with Program(psql(relay, "-c", "select pg_sleep(3600)"), ready=False) as query:
                running = "select count(*) from pg_stat_activity where query like 'select pg_sleep%'"
                until(lambda: sql(server, running) == "1\n", "it runs")
                before = relay.counters()["clients_total"]
                query.signal(signal.SIGINT)
                equal(query.wait(), 1)
                assert "canceling statement due to user request" in query.stderr(), query.stderr()
                equal(relay.counters()["clients_total"], before + 1, "it was asked for on a connection of its own")
            until(lambda: relay.counters()["live"] == 0, "all have gone")
            relay.check_ledger()

        with Relay(server.address, options=TWO) as relay:
            bench = [postgres_program("pgbench"), "-h", "127.0.0.1", "-p", relay.port, "-U", "weir"]
            equal(run(*bench, "-q", "-i", "-s", "1", "weir").returncode, 0)
            done = run(*bench, "-n", "-c", "10", "-j", "2", "-t", "50", "-C", "weir")  # a connection for each of 500
            equal(done.returncode, 0, done.stderr)
            assert re.search(r"actually processed: 500/500$", done.stdout, re.M), done.stdout
            assert re.search(r"failed transactions: 0 ", done.stdout), done.stdout
            equal(sql(relay, "select count(*) from pgbench_history"), "500\n")


# --- nginx and curl

def test_nginx():
    """curl gets files of up to 20 MB from nginx, 40 at once; on one thread and on two, copied and spliced"""
    need("nginx", "curl")
    sizes = {"empty": 0, "little": 1000, "middle": 2 * MB, "large": 20 * MB}
    files = {name: bytes_of(size, size) for name, size in sizes.items()}
    with rig.nginx(files) as server, directory() as root:
        for options in ((), ("--splice", "off"), TWO):
            with Relay(server, options=options) as relay:
                for name, data in files.items():
                    assert curl(f"{relay.url}/{name}") == data, f"{name}, {options}"
                for name in ("little", "middle"):
                    urls = f"{relay.url}/{name}?[1-40]"
                    done = run(*rig.CURL, "-sS", "--fail", "-Z", "--parallel-max", "40", "-o", root / "got-#1", urls)
                    equal(done.returncode, 0, done.stderr)
                    for i in range(1, 41):
                        assert (root / f"got-{i}").read_bytes() == files[name], f"{name} {i}, {options}"


def test_nginx_upload():
    """curl puts 20 MB to nginx, which stores just that"""
    need("nginx", "curl")
    with rig.nginx({}, server="dav_methods PUT; create_full_put_path on;") as server, Relay(server) as relay:
        data = bytes_of(9, 20 * MB)
        with Client(relay.address) as client:
            if client.ask(request("PUT", "/probe", body=b"x")).status == 405:
                raise rig.NotHere("this nginx was built without dav")
        curl(f"{relay.url}/stored", "-X", "PUT", "--data-binary", "@-", stdin=data)
        assert curl(f"{relay.url}/stored") == data
        assert relay.counters()["spliced_bytes"] > 0


def test_nginx_proxy_protocol():
    """nginx with `listen ... proxy_protocol` learns the client's address from --send-proxy v2 and v1"""
    need("nginx")
    tell = "location / { return 200 $proxy_protocol_addr:$proxy_protocol_port; }"
    with rig.nginx({}, server=tell, listen="proxy_protocol") as server:
        for form in ("v2", "v1"):
            with Relay(server, options=["--send-proxy", form, *TWO]) as relay:
                for _ in range(5):
                    with Client(relay.address) as client:
                        answer = client.ask(get())
                        mine = "%s:%d" % client.socket.getsockname()
                        equal((answer.status, answer.body.decode()), (200, mine), form)


# --- socat

def test_socat():
    """socat: 20 MB and then a half-close reach a program that answers only to an end; over TCP and unix sockets"""
    need("socat", "sha256sum")
    data = bytes_of(10, 20 * MB)
    wanted = hashlib.sha256(data).hexdigest().encode()
    with directory() as root:
        argv = ["socat", "-t", "20", f"UNIX-LISTEN:{root}/server,fork", "EXEC:sha256sum"]
        with Program(argv, ready=False) as server:
            until((root / "server").exists, f"socat listens: {server.stderr()}")
            upstream = f"unix:{root}/server"
            with Relay(upstream) as outer, Relay(upstream, at=f"unix:{root}/listen", options=TWO) as inner:
                assert inner.address == f"unix:{root}/listen", inner.address
                for way in (f"TCP:{outer.address}", f"UNIX-CONNECT:{root}/listen"):
                    for said, hashed in ((data, wanted), (b"", hashlib.sha256(b"").hexdigest().encode())):
                        equal(fed(said, "socat", "-t", "20", "-", way), hashed + b"  -\n", way)


# --- a network that loses packets

LOSS = """
table inet weir {
  chain in { type filter hook input priority 0; numgen random mod 100 < 5 counter drop
  }
  chain out { type filter hook output priority 0; numgen random mod 100 < 5 counter drop
  }
}
"""


@contextlib.contextmanager
def lossy_network():
    """Two network namespaces, a cable between them that loses a packet of 20 each way: their names and addresses."""
    need("nft")
    places = ["198.18.7.1", "198.18.7.2"]
    with namespaces(2) as names:
        ip = find("ip")
        set_up([ip, "link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1]])
        for name, place in zip(names, places):
            set_up([ip, "-n", name, "addr", "add", f"{place}/30", "dev", "cable"],
                   [ip, "-n", name, "link", "set", "cable", "up"])
        made = subprocess.run([*within(names[0]), find("nft"), "-f", "-"], input=LOSS, capture_output=True, text=True)
        if made.returncode:
            raise rig.NotHere(f"nft: {made.stderr.strip()}")
        yield names, places


def test_lost_packets():
    """where one packet of twenty is lost each way, every transfer is exact both ways, with both ends"""
    with lossy_network() as (names, places):
        with inside(names[0], lambda: Server(f"{places[0]}:0")) as server:
            with Relay(server, at=f"{places[1]}:0", wrapper=within(names[1]), options=["--connect-timeout", "30s"]) as relay:
                both = inside(names[0], lambda: pairs(relay, server, 10, patience=60))
                carry_both(both, MB, within=60)
                close_all(both)
                until(lambda: relay.counters()["live"] == 0, "all have gone", 20)
                seen = relay.check_ledger()
                equal((seen["relayed"], seen["bytes"]), (10, 10 * (4 + 2 * MB)))
        rules = run(*within(names[0]), find("nft"), "list", "table", "inet", "weir").stdout
        lost = [int(n) for n in re.findall(r"counter packets (\d+)", rules)]
        assert len(lost) == 2 and min(lost) >= 5, rules
        print(f"           {lost[0]} packets lost one way, {lost[1]} the other")


rig.main(globals())
