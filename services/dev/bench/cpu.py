"""CPU time of processes, as the kernel counts it."""

import os
from collections.abc import Mapping
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def of(pids: Mapping[str, int]) -> dict[str, float]:
    """Seconds of CPU used so far, user and system, by name; each process with its children, threads included."""
    parents = _parents()
    return {name: sum(_seconds(each) for each in _family(pid, parents)) for name, pid in pids.items()}


def family(pid: int) -> list[int]:
    """A process and all it started, directly or not."""
    return _family(pid, _parents())


def _family(pid: int, parents: Mapping[int, int]) -> list[int]:
    children = [child for child, parent in parents.items() if parent == pid]
    return [pid, *(each for child in children for each in _family(child, parents))]


def _parents() -> dict[int, int]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _stat(int(folder.name))
            if fields:
                found[int(folder.name)] = int(fields[1])
    return found


def _seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _stat(pid: int) -> list[str]:
    """Fields of proc(5)'s stat from the third on. Empty: there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return stat[stat.rindex(")") + 2 :].split()
