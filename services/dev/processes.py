"""What the kernel knows of processes: which is which though pids come again, whose they are, how much they hold."""

import asyncio
import os
import resource
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

MARK = "MYRIAD_STACK"
"""Variable in the environment of every process of a stack; its value is the stack's own."""

_PROC = Path("/proc")
_ENDED = frozenset({b"Z", b"X"})
_STAT_BYTES = 4096


@dataclass(frozen=True)
class Process:
    """One process as it was when looked at."""

    pid: int
    session: int
    """Pid of the process that began its session: that of the part it belongs to."""

    started: str
    """When it started. Pid and this name one process for good, over reboots too."""


@dataclass(frozen=True)
class Usage:
    """What a session of processes holds, and what it has used so far."""

    resident: int = 0
    """Bytes of memory, pages that its processes share counted for each."""

    cpu_s: float = 0.0
    """Seconds of processor time, user and system, with that of children that have ended."""


@dataclass(frozen=True)
class Load:
    """What a session of processes takes."""

    resident: int
    """Bytes of memory, pages that its processes share counted for each."""

    cores: float | None
    """Processors it kept busy since the look before, 1 for one. None: there was none."""


class Meter:
    """Looks at sessions of processes again and again."""

    def __init__(self) -> None:
        """Has not looked yet."""
        self._before: dict[int, float] = {}
        self._looked = 0.0

    def look(self, leaders: Collection[int]) -> dict[int, Load]:
        """The load of sessions that run, by the pid of the process that began each."""
        now, usages = time.monotonic(), usage(leaders)
        passed, before = now - self._looked, self._before
        self._before, self._looked = {leader: used.cpu_s for leader, used in usages.items()}, now
        # A child that was killed may take its time with it: never less than none.
        return {
            leader: Load(used.resident, max(0.0, used.cpu_s - before[leader]) / passed if leader in before else None)
            for leader, used in usages.items()
        }


def usage(leaders: Collection[int]) -> dict[int, Usage]:
    """What sessions that run take, by the pid of the process that began each; one that has ended is left out."""
    resident: dict[int, int] = defaultdict(int)
    cpu_s: dict[int, float] = defaultdict(float)
    for name in os.listdir(_PROC):
        fields = _stat(name) if name.isdigit() else None
        if fields is not None and int(fields[3]) in leaders:
            resident[int(fields[3])] += _resident(fields)
            cpu_s[int(fields[3])] += _cpu_s(fields)
    return {leader: Usage(held, cpu_s[leader]) for leader, held in resident.items()}


def find(pid: int) -> Process | None:
    """The process with this pid. None: there is none, or it has ended and only waits to be reaped."""
    fields = _stat(str(pid))
    return None if fields is None or fields[0] in _ENDED else _process(pid, fields)


def _process(pid: int, fields: list[bytes]) -> Process:
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return Process(pid, int(fields[3]), f"{fields[19].decode()}@{boot}")


def _stat(pid: str) -> list[bytes] | None:
    """What proc(5) says of a process, from field 3 on. None: there is none."""
    try:
        handle = os.open(f"{_PROC}/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        stat = os.read(handle, _STAT_BYTES)  # not by a file object: each stop looks at every process, again and again
    except OSError:
        return None
    finally:
        os.close(handle)
    return stat[stat.rindex(b")") + 2 :].split()  # the name before may hold blanks


def _running() -> Iterator[tuple[int, list[bytes]]]:
    """Pid and stat of every process that runs."""
    for name in os.listdir(_PROC):
        fields = _stat(name) if name.isdigit() else None
        if fields is not None and fields[0] not in _ENDED:
            yield int(name), fields


def _resident(fields: list[bytes]) -> int:
    return int(fields[21]) * resource.getpagesize()


def _cpu_s(fields: list[bytes]) -> float:
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def belonging(mark: str, leaders: Mapping[int, str]) -> list[Process]:
    """Every process of a stack, whoever started it.

    Args:
        mark: The stack's. Inherited by all, but a program that renames itself (Valkey) may overwrite it.
        leaders: Pid to `started` of the processes that began the sessions of its parts.
    """
    wanted = f"{MARK}={mark}".encode()
    alive = {pid for pid, started in leaders.items() if is_running(pid, started)}
    return [
        _process(pid, fields) for pid, fields in _running() if int(fields[3]) in alive or wanted in _environment(pid)
    ]


def in_session(leader: int) -> list[Process]:
    """Every process of a session that runs, its leader gone or not."""
    return [_process(pid, fields) for pid, fields in _running() if int(fields[3]) == leader]


def is_running(pid: int, started: str) -> bool:
    """Whether the very process still runs."""
    process = find(pid)
    return process is not None and process.started == started


async def one_ended(those: Collection[Process]) -> None:
    """Returns as soon as one of these has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    with ExitStack() as closing:
        for each in those:
            try:
                handle = os.pidfd_open(each.pid)
            except ProcessLookupError:
                return
            closing.callback(os.close, handle)
            loop.add_reader(handle, ended.set)
            closing.callback(loop.remove_reader, handle)
            if not is_running(each.pid, each.started):  # another has its pid
                return
        await ended.wait()


def me() -> Process:
    """This process."""
    process = find(os.getpid())
    assert process is not None
    return process


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or it ended meanwhile
        return []
