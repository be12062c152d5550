#!/usr/bin/env python3
"""libweir_sim asks nothing of the real kernel, and has no function that libweir has, too.

Of libc it uses memory, text and sets of signals; of libstdc++ what containers need, and neither clocks nor threads.
Objects that were built for different kernels do not link with each other: no name that mentions weir is in both.
"""

import re
import subprocess
import sys

ALLOWED = re.compile(
    r"mem(cpy|move|set|chr|cmp)|str(len|cmp|error|toul)|strerrorname_np|bcmp"
    r"|v?(sn|f)printf|__(sn|f)printf_chk|fwrite|fputc|fputs|stderr|abort|calloc|free"
    r"|sig(emptyset|fillset|addset|delset|ismember)"
    r"|__tls_get_addr|_GLOBAL_OFFSET_TABLE_|__dso_handle|_Unwind_Resume|__gxx_personality_v0|__stack_chk_fail"
    r"|__cxa_(atexit|pure_virtual|guard_\w+|begin_catch|rethrow|end_catch|throw_bad_array_new_length)"
    r"|_Z(nw|na|dl|da)\w*|_ZSt7nothrow|_ZSt\d+__throw_\w+|_ZSt9terminatev|_ZSt\d+_Rb_tree_\w+"
    r"|_ZNK?St8__detail20_Prime_rehash_policy\w+|_ZNK?St7__cxx1112basic_string\w+|_ZT[VIS]\w*"
    r"|__(asan|ubsan|lsan|tsan|sanitizer)_\w+|__(start___|stop___)?sancov_\w+"
)


def names(nm, library):
    """(those it defines, those it asks for and does not define)"""
    text = subprocess.run([nm, "--format=posix", library], check=True, capture_output=True, text=True).stdout
    symbols = [line.split()[:2] for line in text.splitlines() if len(line.split()) >= 2 and not line.endswith(":")]
    defined = {name for name, kind in symbols if kind not in "Uw"}
    return defined, {name for name, kind in symbols if kind in "Uw"} - defined


def main():
    nm, simulated, native = sys.argv[1:]
    defined, asked = names(nm, simulated)
    foreign = sorted(name for name in asked if not ALLOWED.fullmatch(name))
    for name in foreign:
        print(f"not allowed: {name}")
    mine = {name for name in defined if "4weir" in name}
    shared = sorted(mine & set().union(*names(nm, native)))
    for name in shared:
        print(f"in both libraries: {name}")
    print(f"{len(asked)} symbols asked for, {len(foreign)} not allowed; {len(mine)} of its own, {len(shared)} of them shared")
    return 1 if foreign or shared or not asked or not mine else 0


if __name__ == "__main__":
    sys.exit(main())
