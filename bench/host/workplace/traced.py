"""Run a Python program that gdb may attach to: `python -m bench.host.workplace.traced FILE …`.

Many kernels (Yama's ptrace_scope=1) let a debugger attach to its own children alone. A program
can allow more for itself, which is what this does before it runs FILE, or with -m a module.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
from collections.abc import Sequence

PR_SET_PTRACER = 0x59616D61
ANY = ctypes.c_ulong(-1)


def allow() -> bool:
    """Let every process of this user attach; False where the kernel has no such restriction."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_PTRACER, ANY, 0, 0, 0) == 0)


def main(arguments: Sequence[str]) -> int:
    """0; 2 where no program is named. What the program raises or exits with passes through."""
    if not arguments or (arguments[0] == "-m" and len(arguments) < 2):
        print(
            "usage: python -m bench.host.workplace.traced FILE | -m MODULE [ARGUMENT…]",
            file=sys.stderr,
        )
        return 2
    allow()
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        runpy.run_path(arguments[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
