"""Takes from a process that runs: most of its CPU, most of its file descriptors, its next instruction.

CPU is taken by a control group of version 1 where one can be made, which needs root and a writable file system, and by
stopping and continuing the process in turns where not.
"""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CPU = Path("/sys/fs/cgroup/cpu")
_PERIOD_S = 0.02


@contextmanager
def starved(pid: int, share: float) -> Iterator[str]:
    """While the block runs, a process gets this share of one core; yields how: `quota` or `signals`."""
    group = _CPU / f"myriad-starved-{pid}"
    try:
        group.mkdir()
    except OSError:
        with _by_signals(pid, share):
            yield "signals"
        return
    try:
        (group / "cpu.cfs_period_us").write_text(str(int(_PERIOD_S * 1e6)))
        (group / "cpu.cfs_quota_us").write_text(str(int(share * _PERIOD_S * 1e6)))
        home = _CPU / _group_of(pid).lstrip("/")
        (group / "cgroup.procs").write_text(str(pid))
        try:
            yield "quota"
        finally:
            with suppress(OSError):  # it may have ended
                (home / "cgroup.procs").write_text(str(pid))
    finally:
        group.rmdir()


@contextmanager
def few_descriptors(pid: int, count: int) -> Iterator[None]:
    """While the block runs, a process may have `count` file descriptors open."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """While the block runs, a process stands still: it keeps its connections and answers nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def descriptors(pid: int) -> int:
    """How many file descriptors a process has open. 0: it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return 0


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _group_of(pid: int) -> str:
    """The control group for CPU that a process is in."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return path
    return "/"


@contextmanager
def _by_signals(pid: int, share: float) -> Iterator[None]:
    over = threading.Event()

    def take_turns() -> None:
        with suppress(ProcessLookupError):
            while not over.wait(_PERIOD_S * share):
                os.kill(pid, signal.SIGSTOP)
                over.wait(_PERIOD_S * (1 - share))
                os.kill(pid, signal.SIGCONT)

    taking = threading.Thread(target=take_turns)
    taking.start()
    try:
        yield
    finally:
        over.set()
        taking.join()
