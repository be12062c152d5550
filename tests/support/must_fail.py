#!/usr/bin/env python3
"""must_fail.py WORDS PROGRAM ARGUMENT...: runs a program that has to end with a failure of its own, not a signal, and to
say why in these words."""

import subprocess
import sys

words, *command = sys.argv[1:]
done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
if done.returncode > 0 and words in done.stdout:
    sys.exit(0)
print(f"{done.stdout}\nended with {done.returncode}; wanted: a failure that says {words!r}")
sys.exit(1)
