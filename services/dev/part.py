"""One part of the stack: what it is, and the process it runs in."""

import asyncio
import contextlib
import glob
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.dev import processes, spawn
from services.dev.engines import Launch
from services.dev.readiness import Probe

TAIL_LINES = 15
"""How much of a log is shown when its part dies."""

_TAIL_BYTES = 16 * 1024
_KILLED_POLLS = 200
_KILLED_POLL_S = 0.01


@dataclass(frozen=True)
class Part:
    """One process of the stack, as data."""

    name: str
    address: str
    """Where it listens: host:port."""

    launch: Launch
    probe: Probe
    needs: tuple[str, ...] = ()
    """Parts it calls. They stop after it."""

    waits: bool = True
    """It starts when all it needs is ready. False: it starts at once, and is itself not ready until they are."""

    start_timeout_s: float = 60.0
    """How long it may take to become ready."""

    needs_crew: bool = False
    """It is no good without the processes it has when it is ready: when one dies, all of it is started again."""


class PartProcess:
    """A part that was started. It is its own session, so that a terminal's signals reach only the supervisor."""

    def __init__(self, part: Part, process: asyncio.subprocess.Process) -> None:
        """Watches a process that runs; `start` starts one."""
        self.part = part
        self.pid = process.pid
        self._process = process

    @classmethod
    async def start(cls, part: Part, log: Path, environ: Mapping[str, str]) -> "PartProcess":
        """Starts it, its output appended to `log`.

        Args:
            part: What to start.
            log: Its log.
            environ: What its environment begins with.
        """
        death_signal = str(int(part.launch.stop_signal))
        wrapper = (sys.executable, "-I", "-S", spawn.__file__, str(os.getpid()), death_signal)
        variables = (f"{name}={value}" for name, value in part.launch.env.items())
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *wrapper,
                *variables,
                "--",
                *part.launch.argv,
                env=dict(environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(part, process)

    @property
    def started(self) -> str:
        """With the pid, names the process for good. Empty: it is gone already."""
        process = processes.find(self.pid)
        return process.started if process else ""

    async def wait(self) -> str:
        """Waits until it ends. Returns how it ended, for a person."""
        status = await self._process.wait()
        self._end_session()
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    async def stop(self) -> None:
        """Asks it to leave, waits for its grace, then ends it and all it started."""
        if self._process.returncode is None:
            self._process.send_signal(self.part.launch.stop_signal)
            try:
                async with asyncio.timeout(self.part.launch.stop_grace_s):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._end_session()
        for _ in range(_KILLED_POLLS):
            if not processes.in_session(self.pid):
                return
            await asyncio.sleep(_KILLED_POLL_S)

    def kill(self) -> None:
        """Ends it at once, and all it started."""
        if self._process.returncode is None:
            self._process.kill()
        self._end_session()

    def _end_session(self) -> None:
        """Ends what it left behind.

        A process group keeps its number as long as one process is in it, so nobody else's is hit.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for left in glob.glob(self.part.launch.leaves):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log. Empty: there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]


def keep_one_older(log: Path) -> None:
    """Moves the log of the run before to `<name>.log.1`: there are never more than two."""
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
