"""Test builds of our processes: `python -m tests.support.failing services.nlu` is that service, with failpoints.

`MYRIAD_FAILPOINTS` says what happens where: `<point>=<action>[@<n>]`, comma-separated, or `@<file>`, a file that holds
such a text, now or later. `n` is at which passing of the point, 1 unless given. Actions: `kill` (SIGKILL to itself),
`hold` (stands there until `<file>.go` is there), `delay:<seconds>`, `raise`. What has happened does not happen again
in that process; what a file says happens once in all processes that read it: it is renamed then, to `<file>.<pid>`.
"""

import asyncio
import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.kit import failpoints
from services.kit.failpoints import Point

VARIABLE = "MYRIAD_FAILPOINTS"
_POLL_S = 0.02
KILL, HOLD, RAISE, DELAY = "kill", "hold", "raise", "delay"


class Failed(Exception):
    """What `raise` raises."""


@dataclass(frozen=True)
class Fault:
    """What happens at a point, and at which passing of it."""

    point: Point
    action: str
    seconds: float
    passing: int


def parse(text: str) -> list[Fault]:
    """The faults that a text describes.

    Raises:
        ValueError: it describes none; says where.
    """
    return [_parse(part.strip()) for part in text.split(",") if part.strip()]


def _parse(text: str) -> Fault:
    name, _, rest = text.partition("=")
    action, _, passing = rest.partition("@")
    action, _, seconds = action.partition(":")
    if action not in {KILL, HOLD, RAISE, DELAY} or (action == DELAY) != bool(seconds):
        raise ValueError(f"no such action: {text}")
    return Fault(Point(name), action, float(seconds or 0), int(passing or 1))


class Failpoints:
    """What `failpoints.reached` is in a test build."""

    def __init__(self, text: str) -> None:
        self._file = Path(text[1:]) if text.startswith("@") else None
        self._faults = [] if self._file else parse(text)
        self._armed = 0
        self._passed: Counter[Point] = Counter()

    async def reached(self, point: Point) -> None:
        """Does what is to happen here."""
        if self._file is not None:
            self._read(self._file)
        self._passed[point] += 1
        for fault in self._faults:
            if fault.point is point and fault.passing == self._passed[point] and self._takes():
                await self._do(fault)

    def _read(self, file: Path) -> None:
        """Takes what the file says, if it says something new, and counts from there."""
        try:
            armed = file.stat().st_mtime_ns
        except FileNotFoundError:
            armed = 0
        if armed != self._armed:
            self._armed, self._passed = armed, Counter()
            self._faults = parse(file.read_text()) if armed else []

    def _takes(self) -> bool:
        """Whether the fault is this process's: of all that read a file, the first."""
        if self._file is None:
            return True
        try:
            self._file.rename(f"{self._file}.{os.getpid()}")
        except FileNotFoundError:
            return False
        return True

    async def _do(self, fault: Fault) -> None:
        if fault.action == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.action == HOLD:
            while self._file is None or not _go(self._file).exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(_POLL_S)
        elif fault.action == DELAY:
            await asyncio.sleep(fault.seconds)
        else:
            raise Failed(f"at {fault.point}")


def _go(file: Path) -> Path:
    """What lets go of all who are held by what a file said."""
    return file.with_suffix(".go")


class Arming:
    """A test's side of a file that its processes read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.variables: Mapping[str, str] = {VARIABLE: f"@{file}"}

    def arm(self, text: str) -> None:
        """Says what is to happen next."""
        parse(text)
        _go(self._file).unlink(missing_ok=True)
        made = self._file.with_suffix(".new")
        made.write_text(text)
        made.rename(self._file)

    def release(self) -> None:
        """Lets go of all who are held."""
        _go(self._file).touch()

    def disarm(self) -> None:
        """Nothing is to happen any more."""
        for file in (self._file, _go(self._file), *self._fired()):
            file.unlink(missing_ok=True)

    async def happened(self, seconds: float) -> int:
        """Returns when it has happened: the pid of the process where it has.

        Raises:
            TimeoutError: it has not within so many seconds.
        """

        async with asyncio.timeout(seconds):
            while not self._fired():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(_POLL_S)
        (file,) = self._fired()
        file.unlink()
        return int(file.name.rpartition(".")[2])

    def _fired(self) -> list[Path]:
        return [file for file in self._file.parent.glob(f"{self._file.name}.*") if file.suffix[1:].isdecimal()]


def main(module: str, *arguments: str) -> None:
    """Runs a module as a test build."""
    failpoints.reached = Failpoints(os.environ.get(VARIABLE, "")).reached
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
