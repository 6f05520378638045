"""Runs a program that must not outlive its parent.

`python -I -S spawn.py PARENT_PID SIGNAL [NAME=VALUE ...] -- PROGRAM [ARGUMENT ...]`

Linux sends SIGNAL to the program when the thread that started it dies, however it dies. A file of its own, run by path
with nothing imported but the standard library, because a hook between fork and exec is not safe beside gRPC's threads.
The program's variables come as arguments: an engine's LD_LIBRARY_PATH would break the Python that runs this file.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Becomes the program. Returns only by an exception or an exit."""
    parent, death_signal = int(arguments[0]), int(arguments[1])
    end = arguments.index("--")
    variables = dict(argument.split("=", 1) for argument in arguments[2:end])
    argv = arguments[end + 1 :]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(1)  # it died before prctl was in force
    try:
        os.execve(argv[0], argv, {**os.environ, **variables})
    except OSError as error:
        sys.exit(f"cannot run {argv[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
