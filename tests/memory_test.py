#!/usr/bin/env python3
"""libweir takes no memory by a `new` that throws: without exceptions that would end the program instead of a result."""

import re
import subprocess
import sys

THROWING = re.compile(r"_Zn[wa][mj](St11align_val_t)?")  # operator new and new[], without std::nothrow


def main():
    nm, library = sys.argv[1:]
    text = subprocess.run([nm, "--format=posix", "--undefined-only", library], check=True, capture_output=True, text=True)
    asked = {line.split()[0] for line in text.stdout.splitlines() if " U" in line}
    throwing = sorted(name for name in asked if THROWING.fullmatch(name))
    for name in throwing:
        print(f"not allowed: {name}")
    print(f"{len(asked)} symbols asked for, {len(throwing)} not allowed")
    return 1 if throwing or not asked else 0


if __name__ == "__main__":
    sys.exit(main())
