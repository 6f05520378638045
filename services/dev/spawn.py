"""Runs a program that must not outlive its parent: `python -I -S spawn.py PARENT_PID SIGNAL PROGRAM [ARGUMENT ...]`.

Linux sends SIGNAL to the program when the thread that started it dies, however it dies. A file of its own, run by path
with nothing imported but the standard library, because a hook between fork and exec is not safe beside gRPC's threads.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Becomes the program. Returns only by an exception or an exit."""
    parent, death_signal, argv = int(arguments[0]), int(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(1)  # it died before prctl was in force
    try:
        os.execv(argv[0], argv)
    except OSError as error:
        sys.exit(f"cannot run {argv[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
