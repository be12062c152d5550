#!/usr/bin/env python3
"""Command lines: what is refused, and in which words; --help; listening."""

import os
import socket
import tempfile

import rig
from rig import TOOLS, run
from wire import Client, equal, get

PROGRAMS = [name for name in ("weir-origin", "weir-gateway", "weir-relay") if rig.find(name)]

# arguments before LISTEN -> what the message must name
WRONG_EVERYWHERE = [
    (["--no-such-thing"], ["--no-such-thing", "--help"]),
    (["-x"], ["-x"]),
    (["--help=yes"], ["--help"]),
]
WRONG = {
    "weir-origin": [
        (["--close-idel", "1s"], ["--close-idel", "did you mean --close-idle"]),
        (["--close-idle", "50"], ["--close-idle", '"50"', "250ms"]),
        (["--close-idle=1.5s"], ["--close-idle", '"1.5s"']),
        (["--close-idle", "s"], ["--close-idle", '"s"']),
        (["--close-idle", "9999999h"], ["--close-idle"]),
        (["--body", "64q"], ["--body", '"64q"', "64k"]),
        (["--body", "-1"], ["--body", '"-1"']),
        (["--body", "2g"], ["--body", "1g"]),
        (["--body", "99999999999999999999"], ["--body"]),
        (["--body", ""], ["--body"]),
        (["--status", "99"], ["--status", "100..999"]),
        (["--status", "1000"], ["--status", "100..999"]),
        (["--status", "x"], ["--status", '"x"']),
        (["--framing", "none"], ["--framing", '"none"', "length, chunked, close"]),
        (["--echo=yes"], ["--echo", "no value"]),
    ],
    "weir-gateway": [
        (["--pool-idle-timeout", "30"], ["--pool-idle-timeout", '"30"', "250ms"]),
        (["--header-timeout", "ten"], ["--header-timeout", '"ten"']),
        (["--keep-alive-requests", "many"], ["--keep-alive-requests", '"many"']),
        (["--unsolicited", "keep"], ["--unsolicited", '"keep"', "kill, drain"]),
        (["--retry", "always"], ["--retry", '"always"', "auto"]),
        (["--head-max", "65537"], ["--head-max", "65537"]),
        (["--request-line-max", "0"], ["--request-line-max", "16.."]),
        (["--fields-max", "1001"], ["--fields-max", "1..1000"]),
        (["--body-rate-min", "slow"], ["--body-rate-min", '"slow"', "64k"]),
        (["--threads", "0"], ["--threads"]),
        (["--max-connections", "-1"], ["--max-connections"]),
        (["--admin", "nowhere"], ["--admin", "127.0.0.1:8080"]),
    ],
    "weir-relay": [
        (["--splice", "on"], ["--splice", '"on"', "auto, off"]),
        (["--send-proxy", "v3"], ["--send-proxy", '"v3"', "off, v1, v2"]),
        (["--proxy-tlvs", "keep"], ["--proxy-tlvs", '"keep"', "refuse, skip"]),
        (["--balance", "random"], ["--balance", '"random"', "round-robin, least"]),
        (["--accept-proxy=yes"], ["--accept-proxy", "no value"]),
        (["--connect-timeout", "0s"], ["--connect-timeout", "0s", "1ms.."]),
        (["--connect-timeout", "5"], ["--connect-timeout", '"5"', "250ms"]),
        (["--idle-timeout", "never"], ["--idle-timeout", '"never"', "250ms"]),
        (["--fin-timeout", "-1s"], ["--fin-timeout", '"-1s"']),
        (["--proxy-timeout", "1.5s"], ["--proxy-timeout", '"1.5s"']),
        (["--drain-timeout", "9999999h"], ["--drain-timeout"]),
        (["--threads", "257"], ["--threads", "1..256"]),
        (["--max-connections", "x"], ["--max-connections", '"x"']),
    ],
}
WRONG_ADDRESSES = ["8080", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "::1:80", "[127.0.0.1]:80", "10:80", "unix:",
                   "unix:/" + "x" * 108, "fd:x", "fd:-1"]


def refused(program, arguments, words):
    done = run(TOOLS / program, *arguments)
    what = f"{program} {' '.join(arguments)}: {done.stderr}"
    equal(done.returncode, 2, what)
    equal(done.stdout, "", what)
    equal(len(done.stderr.splitlines()), 1, what)
    for word in [program + ":", *words]:
        assert word in done.stderr, f"{what}: {word!r} is missing"


def operands(program):
    return ["127.0.0.1:0"] if program == "weir-origin" else ["127.0.0.1:0", "127.0.0.1:9"]


def test_wrong_values():
    """a wrong option or value ends with 2, naming it and what would be right"""
    for program in PROGRAMS:
        for arguments, words in WRONG_EVERYWHERE + WRONG[program]:
            refused(program, arguments + operands(program), words)


def test_wrong_addresses():
    """a text that is no address ends with 2 and shows some that are"""
    for program in PROGRAMS:
        for text in WRONG_ADDRESSES:
            refused(program, [text, *operands(program)[1:]], ["LISTEN", text[:40]])
    for program in set(PROGRAMS) - {"weir-origin"}:
        refused(program, ["127.0.0.1:0", "fd:3"], ["UPSTREAM", '"fd:3"'])
        for nowhere in ("127.0.0.1:0", "localhost:0", "[::1]:0", ":0"):
            refused(program, ["127.0.0.1:0", nowhere], ["UPSTREAM", f'"{nowhere}"', "port 0"])


def test_operands():
    """missing and surplus operands end with 2 and the usage"""
    for program in PROGRAMS:
        refused(program, [], ["LISTEN", "missing", "usage: " + program])
        refused(program, ["--"], ["LISTEN", "missing"])
    refused("weir-origin", [":0", ":0"], ["one too many", "usage:"])
    refused("weir-origin", ["--body"], ["--body", "value"])
    if "weir-gateway" in PROGRAMS:
        refused("weir-gateway", ["127.0.0.1:0"], ["UPSTREAM", "missing"])


def test_help():
    """--help shows usage, defaults and two examples whose options exist; --version a version"""
    for program in PROGRAMS:
        done = run(TOOLS / program, "--no-such-thing", "--help")
        equal(done.returncode, 0, done.stderr)
        assert done.stdout.startswith(f"usage: {program} "), done.stdout
        examples = [line.strip() for line in done.stdout.splitlines()[-2:]]
        listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  --")}
        for example in examples:
            words = example.split()
            equal(words[0], program, "an example")
            for option in [w.split("=")[0] for w in words if w.startswith("--")]:
                assert option in listed, f"{option} is in an example but not an option"
        assert run(TOOLS / program, "--version").stdout.startswith(program + " ")


def test_examples_work():
    """the examples of --help start, and stop at SIGTERM"""
    for program in PROGRAMS:
        for example in run(TOOLS / program, "--help").stdout.splitlines()[-2:]:
            words = example.split()[1:]
            with tempfile.TemporaryDirectory() as place:
                # Ports may be taken where the tests run: any free one does.
                words = [rig.free_address() if w.startswith(("127.", "localhost:", ":", "[")) else w for w in words]
                words = [w.replace("unix:/tmp", "unix:" + place).replace("unix:/run", "unix:" + place) for w in words]
                with rig.Program([TOOLS / program, *words]) as started:
                    equal(started.end(), 0, example)


def test_help_goes_nowhere():
    """--help into a closed pipe does not hang"""
    for program in PROGRAMS:
        done = run("bash", "-c", f"{TOOLS / program} --help | true")
        equal(done.returncode, 0, done.stderr)


def test_port_taken():
    """a taken address ends with 1, the address and the reason"""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        for program in PROGRAMS:
            done = run(TOOLS / program, address, *operands(program)[1:])
            equal(done.returncode, 1, done.stderr)
            assert address in done.stderr and "in use" in done.stderr, done.stderr


def test_places():
    """a name, a unix socket and an inherited descriptor can be listened at"""
    with tempfile.TemporaryDirectory() as place:
        for at in ("127.0.0.1:0", "localhost:0", f"unix:{place}/origin.sock", "unix:@weir-e2e-%d" % os.getpid()):
            with rig.Origin(at=at) as origin:
                with Client(origin.address) as client:
                    equal(client.ask(get()).status, 200, at)
    with socket.socket() as inherited:
        inherited.bind(("127.0.0.1", 0))
        inherited.listen()
        address = "127.0.0.1:%d" % inherited.getsockname()[1]
        number = inherited.fileno()
        os.set_inheritable(number, True)
        with rig.Program(["bash", "-c", f"exec {TOOLS / 'weir-origin'} fd:3 3<&{number}"], pass_fds=(number,)) as origin:
            equal(origin.address, address, "the inherited address")
            with Client(address) as client:
                equal(client.ask(get()).status, 200, "fd:3")


def test_ipv6():
    """IPv6 can be listened at"""
    rig.need_ipv6()
    with rig.Origin(at="[::1]:0") as origin, Client(origin.address) as client:
        equal(client.ask(get()).status, 200)


rig.main(globals())
