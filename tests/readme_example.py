#!/usr/bin/env python3
"""Writes the first C++ block of the README to a file: readme_example.py README.md OUT.cc. At most 25 lines of code."""

import pathlib
import re
import sys

text = pathlib.Path(sys.argv[1]).read_text()
block = re.search(r"^```cpp\n(.*?)^```", text, re.S | re.M)
if not block:
    sys.exit("the README has no ```cpp block")
code = [line for line in block[1].splitlines() if line.strip()]
if len(code) > 25:
    sys.exit(f"the README's first example has {len(code)} lines of code, not at most 25")
pathlib.Path(sys.argv[2]).write_text(block[1])
