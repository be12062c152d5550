#!/usr/bin/env python3
"""Under valgrind: no read of what is not there, no block lost, and every descriptor closed at exit."""

import os
import pathlib
import re
import tempfile

import rig
from rig import Gateway, Origin, Relay, need, run, until
from stream import MB, Server, carry_both, close_all, connect
from wire import Client, equal, get, request

ROOMS = pathlib.Path(os.environ.get("WEIR_ROOMS", "build/tests")).resolve()
WRONG = 99
# Children of tests that fork end without letting go of anything: their leaks are nobody's.
OPTIONS = ("--track-fds=yes", "--leak-check=full", "--errors-for-leak-kinds=definite", "--show-leak-kinds=definite",
           "--child-silent-after-fork=yes", "--fair-sched=try",
           f"--suppressions={rig.SOURCE / 'tests/support/valgrind.supp'}",
           f"--error-exitcode={WRONG}")

# Cases that valgrind has no part in, and why.
NOT_UNDER_IT = {
    "core": {
        "*a forked child may make a loop*": "the child's exit status would be valgrind's",
        "*a loop works with descriptors 0*": "the same",
        "*memory is zeroed*": "the same",
        "*without descriptors accepting pauses*does not spin*": "valgrind keeps descriptors of its own",
        "descriptors that cannot all be had*": "the same",
        "a giver without descriptors pauses*": "the same",
        "a taker that has no room for the descriptors*": "the same",
        "a precise loop fires no timer early*": "it knows no epoll_pwait2",
        "*a pool allocates once*": "it counts by a malloc that valgrind replaces",
        "*no wake is lost between*": "two threads take turns on one core: 45 s",
        "of ten million posts*": "five threads on one core: minutes",
        "*a random life*": "long",
        "*a random precise life*": "long",
        "what the ring tells is the newest*": "long",
        "megabytes go both ways at once*": "long, and others carry less in the same way",
    },
    "proto": {
        "*chaos*": "long",
        "*mutated*": "long",
        "a server that takes no more of a body*": "meanwhile the kernel moves bytes on in real time, and that is progress",
    },
    "kernel": {
        "*that a signal has cut short*": "one every 60 us leaves it no time for anything else",
    },
}
SOURCES = {"proto": "*http1_exchange_*,*http1_gateway_*,*upstream_test*,*stream_proxy_*"}


def left_open(log):
    """The descriptors that valgrind found open at exit, but for 0, 1, 2 and those it was started with."""
    reports = re.findall(r"Open (?:\w+ )*(?:file descriptor|socket) \d+:.*\n(==\d+==    .*)", log)
    return [where for where in reports if "<inherited from parent>" not in where]


def check(log, status, wanted=0):
    assert "FILE DESCRIPTORS: " in log, f"valgrind has not looked at the descriptors: {log}"
    equal(left_open(log), [], log)
    equal(status, wanted, log)


def check_room(room):
    need("valgrind")
    with tempfile.TemporaryDirectory(prefix="weir-valgrind-") as place:
        log = pathlib.Path(place) / "log"
        left_out = ",".join(name for name in NOT_UNDER_IT[room])
        chosen = [f"--source-file={SOURCES[room]}"] if room in SOURCES else []
        done = run("valgrind", "-q", f"--log-file={log}", *OPTIONS, ROOMS / f"weir-test-{room}", "--no-colors",
                   *chosen, f"--test-case-exclude={left_out}", within=600)
        assert re.search(r"test cases:\s+\d{2,} \|", done.stdout), done.stdout
        assert done.returncode in (0, WRONG), done.stdout
        check(log.read_text(), done.returncode)


def test_core():
    """the cases of core"""
    check_room("core")


def test_gateway_room():
    """the cases of the gateway"""
    check_room("proto")


def test_kernel():
    """the cases about the kernel"""
    check_room("kernel")


def test_gateway():
    """weir-gateway: requests, one that is refused, one cut off, an idle client, SIGTERM"""
    need("valgrind")
    with tempfile.TemporaryDirectory(prefix="weir-valgrind-") as place, Origin("--body", "100k") as origin:
        log = pathlib.Path(place) / "log"
        with Gateway(origin, options=["--access-log", pathlib.Path(place) / "access"],
                     wrapper=["valgrind", f"--log-file={log}", *OPTIONS]) as gateway:
            with Client(gateway.address) as client:
                for _ in range(3):
                    equal(client.ask(get()).status, 200)
                equal(client.ask(request("POST", body=b"x" * 50_000)).status, 200)
            with Client(gateway.address) as client:
                equal(client.ask(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n").status, 400)
            cut_off = Client(gateway.address)
            cut_off.send(get())
            cut_off.reset()
            until(lambda: gateway.counters()["active"] == 1, "only the admin's request runs")
            idle = Client(gateway.address)
            equal(idle.ask(get()).status, 200)
            equal(gateway.end(), 0, gateway.stderr())
            assert idle.closed()
            idle.close()
        check(log.read_text(), 0)


def test_relay():
    """weir-relay: bytes copied and spliced, a half-close, resets by either side, a server that refuses, an idle pair, SIGTERM"""
    need("valgrind")
    for splice in ("off", "auto"):
        with tempfile.TemporaryDirectory(prefix="weir-valgrind-") as place, Server() as server:
            log = pathlib.Path(place) / "log"
            with Server(listening=False) as down:
                wrapper = ["valgrind", f"--log-file={log}", *OPTIONS]
                options = ["--splice", splice, "--drain-timeout", "1s", "--send-proxy", "v2"]
                with Relay(server, down, options=options, wrapper=wrapper) as relay:
                    check_relay(relay, server)
                    idle = connect(relay.address)
                    end = server.accept()
                    end.hear(28)
                    equal(relay.end(), 0, relay.stderr())
                    for peer in (idle, end):
                        peer.expect_end("reset")
                        peer.close()
            check(log.read_text(), 0)


def check_relay(relay, server):
    for _ in range(3):
        client = connect(relay.address)
        end = server.accept()
        end.hear(28)  # the PROXY line
        carry_both([(client, end)], MB)
        close_all([(client, end)])
    for breaks in (0, 1):
        both = connect(relay.address), server.accept()
        both[1].hear(28)
        both[0].say(b"unread")
        both[breaks].reset()
        equal(both[1 - breaks].end()[1], "reset")
        both[1 - breaks].close()
    until(lambda: relay.counters()["live"] == 0, "all have gone")
    relay.check_ledger()


def test_origin():
    """weir-origin: requests, SIGTERM"""
    need("valgrind")
    with tempfile.TemporaryDirectory(prefix="weir-valgrind-") as place:
        log = pathlib.Path(place) / "log"
        argv = ["valgrind", f"--log-file={log}", *OPTIONS, rig.TOOLS / "weir-origin", "127.0.0.1:0"]
        with rig.Program(argv) as origin:
            with Client(origin.address) as client:
                for _ in range(3):
                    equal(client.ask(get()).status, 200)
            equal(origin.end(), 0, origin.stderr())
        check(log.read_text(), 0)


if __name__ == "__main__":
    rig.main(globals())
