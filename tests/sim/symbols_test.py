#!/usr/bin/env python3
"""libweir_sim asks nothing of the real kernel: of libc it uses memory, text and sets of signals, and nothing else."""

import re
import subprocess
import sys

ALLOWED = re.compile(
    r"mem(cpy|move|set|chr|cmp)|str(len|cmp|error|toul)|strerrorname_np|bcmp"
    r"|v?(sn|f)printf|__(sn|f)printf_chk|fwrite|fputc|fputs|stderr|abort|calloc|free"
    r"|sig(emptyset|fillset|addset|delset|ismember)"
    r"|__tls_get_addr|_GLOBAL_OFFSET_TABLE_|__dso_handle|_Unwind_Resume|__gxx_personality_v0|__stack_chk_fail"
    r"|__cxa_(atexit|pure_virtual|guard_\w+|begin_catch|rethrow|end_catch|throw_bad_array_new_length)"
    r"|_Z(nw|na|dl|da)\w*|_ZSt\w*|_ZNSt\w*|_ZNKSt\w*|_ZT[VIS]\w*|_ZSt7nothrow"
    r"|__(asan|ubsan|lsan|tsan|sanitizer)_\w+|_ZTVN10__cxxabiv1\w*"
)


def main():
    nm, library = sys.argv[1:]
    text = subprocess.run([nm, "--format=posix", library], check=True, capture_output=True, text=True).stdout
    symbols = [line.split()[:2] for line in text.splitlines() if len(line.split()) >= 2 and not line.endswith(":")]
    defined = {name for name, kind in symbols if kind not in "Uw"}
    asked = {name for name, kind in symbols if kind in "Uw"} - defined
    foreign = sorted(name for name in asked if not ALLOWED.fullmatch(name))
    for name in foreign:
        print(f"not allowed: {name}")
    print(f"{len(asked)} symbols asked for, {len(foreign)} not allowed")
    return 1 if foreign or not asked else 0


if __name__ == "__main__":
    sys.exit(main())
