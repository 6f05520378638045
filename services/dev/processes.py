"""What the kernel knows of processes: which is which though pids come again, whose they are, how much they hold."""

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MARK = "MYRIAD_STACK"
"""Variable in the environment of every process of a stack; its value is the stack's own."""

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process as it was when looked at."""

    pid: int
    session: int
    """Pid of the process that began its session: that of the part it belongs to."""

    started: str
    """When it started. Pid and this name one process for good, over reboots too."""

    resident: int
    """Bytes of memory it holds, pages shared with others included."""


def find(pid: int) -> Process | None:
    """The process with this pid. None: there is none, or it has ended and only waits to be reaped."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # proc(5): the name may hold blanks; from field 3 on
    if fields[0] in {"Z", "X"}:
        return None
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    pages = int(fields[21])
    return Process(pid, int(fields[3]), f"{fields[19]}@{boot}", pages * resource.getpagesize())


def belonging(mark: str, leaders: Mapping[int, str]) -> list[Process]:
    """Every process of a stack, whoever started it.

    Args:
        mark: The stack's. Inherited by all, but a program that renames itself (Valkey) may overwrite it.
        leaders: Pid to `started` of the processes that began the sessions of its parts.
    """
    wanted = f"{MARK}={mark}".encode()
    alive = {pid for pid, started in leaders.items() if is_running(pid, started)}
    found = []
    for folder in _PROC.iterdir():
        process = find(int(folder.name)) if folder.name.isdigit() else None
        if process is not None and (process.session in alive or wanted in _environment(folder)):
            found.append(process)
    return found


def in_session(leader: int) -> list[Process]:
    """Every process of a session that runs, its leader gone or not."""
    found = (find(int(folder.name)) for folder in _PROC.iterdir() if folder.name.isdigit())
    return [process for process in found if process is not None and process.session == leader]


def is_running(pid: int, started: str) -> bool:
    """Whether the very process still runs."""
    process = find(pid)
    return process is not None and process.started == started


def me() -> Process:
    """This process."""
    process = find(os.getpid())
    assert process is not None
    return process


def _environment(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or it ended meanwhile
        return []
