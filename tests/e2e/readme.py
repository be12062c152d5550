#!/usr/bin/env python3
"""The README's first example is a program that works."""

import os
import pathlib
import socket
import subprocess
import tempfile

import rig
from rig import Origin, until
from wire import DEADLINE, equal

EXAMPLE = pathlib.Path(os.environ.get("WEIR_TOOLS", "build/tools")).resolve().parent / "tests" / "readme-proxy"


def test_it_carries_a_request():
    """a request and its answer go through the proxy of the first screen, and a half-close too"""
    with Origin("--body", "1000") as origin, tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "proxy.sock"
        proxy = subprocess.Popen([EXAMPLE, f"unix:{path}", origin.address])
        try:
            until(path.exists, "the proxy listens")
            for _ in range(3):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(DEADLINE)
                    client.connect(str(path))
                    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    client.shutdown(socket.SHUT_WR)
                    answer = b""
                    while more := client.recv(65536):
                        answer += more
                    head, _, body = answer.partition(b"\r\n\r\n")
                    equal(head.split(b" ")[1], b"200")
                    equal(len(body), 1000)
        finally:
            proxy.kill()
            proxy.wait()


def test_wrong_use():
    """without two addresses it ends with 2, with wrong ones with 1"""
    equal(subprocess.run([EXAMPLE]).returncode, 2)
    equal(subprocess.run([EXAMPLE, "nowhere", "127.0.0.1:80"]).returncode, 1)


if __name__ == "__main__":
    rig.main(globals())
