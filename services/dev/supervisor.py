"""Starts the parts of a stack in the order of their needs, keeps them running, and stops them in reverse.

A part starts when all it needs is ready, unless it can wait for that itself; parts that do not need each other start
together. A part that dies before it was ready fails the start. One that dies later is started again: after 0.1 s, then
twice as long each time up to 30 s, and after 0.1 s again once it has run for a minute. What needs it is left alone: our
services wait and recover.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from services.dev import processes
from services.dev.part import Part, PartProcess, tail
from services.dev.readiness import NotReady, until_ready
from services.dev.state import PartState, State

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 30.0
STEADY_S = 60.0
"""A part that has run this long is started again as after its first death."""

Report = Callable[[str, PartState, list[str]], None]
"""Told of each change: the part, how it is now, and its log's last lines when it died."""


class PartFailed(Exception):
    """A part did not start."""

    def __init__(self, name: str, reason: str, lines: list[str]) -> None:
        """Says which part, what happened, and the last lines of its log."""
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason
        self.lines = lines


class Supervisor:
    """Runs parts."""

    def __init__(
        self, parts: Sequence[Part], log_of: Callable[[str], Path], environ: Mapping[str, str], report: Report
    ) -> None:
        """Starts nothing.

        Args:
            parts: Every part after those it needs.
            log_of: Where a part's output goes.
            environ: What the environment of every part begins with.
            report: Told of each change.
        """
        self.parts = {part.name: part for part in parts}
        self.states = {part.name: PartState(part.address) for part in parts}
        self._log_of = log_of
        self._environ = environ
        self._report = report
        self._processes: dict[str, PartProcess] = {}
        self._ready = {part.name: asyncio.Event() for part in parts}
        self._keepers: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Returns when every part is ready.

        Raises:
            PartFailed: one did not become ready. The others still run; call `stop`.
        """
        self._keepers = {name: asyncio.create_task(self._keep(part)) for name, part in self.parts.items()}
        everything = asyncio.create_task(self._everything())
        try:
            # A keeper ends only by an exception as long as nobody stops it.
            done, _ = await asyncio.wait({everything, *self._keepers.values()}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            everything.cancel()

    async def _everything(self) -> None:
        for event in self._ready.values():
            await event.wait()

    async def stop(self) -> None:
        """Stops every part after those that need it, and waits until all are gone."""
        for task in self._keepers.values():
            task.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        stopping: dict[str, asyncio.Task[None]] = {}
        for name in reversed(self.parts):
            after = [stopping[other] for other in stopping if name in self.parts[other].needs]
            stopping[name] = asyncio.create_task(self._stop_part(name, after))
        await asyncio.gather(*stopping.values())

    def kill(self, name: str) -> None:
        """Ends a part's process at once, as a crash would. It is started again."""
        self._processes[name].kill()

    def kill_all(self) -> None:
        """Ends every process at once: for a person who does not want to wait for `stop`."""
        for process in self._processes.values():
            process.kill()

    async def _keep(self, part: Part) -> None:
        for name in part.needs if part.waits else ():
            await self._ready[name].wait()
        process = await self._start_part(part)
        backoff = FIRST_BACKOFF_S
        while True:
            began = time.monotonic()
            how = await _end_of(part, process)
            if time.monotonic() - began > STEADY_S:
                backoff = FIRST_BACKOFF_S
            self._change(part, State.RESTARTING, message=f"died: {how}; started again in {backoff:g} s")
            process, backoff = await self._restart(part, backoff)

    async def _restart(self, part: Part, backoff: float) -> tuple[PartProcess, float]:
        while True:
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF_S)
            self.states[part.name].restarts += 1
            try:
                return await self._start_part(part), backoff
            except PartFailed as error:
                await self._processes[part.name].stop()
                self._change(part, State.RESTARTING, message=f"{error.reason}; started again in {backoff:g} s")

    async def _start_part(self, part: Part) -> PartProcess:
        began = time.monotonic()
        process = await PartProcess.start(part, self._log_of(part.name), self._environ)
        self._processes[part.name] = process
        state = self.states[part.name]
        state.pid, state.started = process.pid, process.started
        self._change(part, State.STARTING, message=state.message)
        ended = asyncio.create_task(process.wait())
        answers = asyncio.create_task(until_ready(part.probe, part.start_timeout_s))
        try:
            await asyncio.wait({ended, answers}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise self._failed(part, f"ended while starting ({ended.result()})")
            try:
                answers.result()
            except NotReady as error:
                raise self._failed(part, str(error)) from None
        finally:
            for task in (ended, answers):
                task.cancel()
            await asyncio.gather(ended, answers, return_exceptions=True)
        state.ready_after_s = round(time.monotonic() - began, 2)
        self._ready[part.name].set()
        self._change(part, State.READY)
        return process

    def _failed(self, part: Part, reason: str) -> PartFailed:
        if not self._ready[part.name].is_set():
            self._change(part, State.FAILED, message=reason)
        return PartFailed(part.name, reason, tail(self._log_of(part.name)))

    async def _stop_part(self, name: str, after: Sequence[asyncio.Task[None]]) -> None:
        if after:
            await asyncio.wait(after)
        process = self._processes.get(name)
        if process is None:
            return
        part, state = self.parts[name], self.states[name]
        failed = state.state is State.FAILED
        if not failed:
            self._change(part, State.STOPPING, message=state.message)
        await process.stop()
        state.pid, state.started = 0, ""
        if not failed:
            self._change(part, State.STOPPED, message=state.message)

    def _change(self, part: Part, state: State, *, message: str = "") -> None:
        known = self.states[part.name]
        known.state, known.message = state, message
        lines = tail(self._log_of(part.name)) if state is State.RESTARTING else []
        self._report(part.name, known, lines)


async def _end_of(part: Part, process: PartProcess) -> str:
    """Waits until a part ends, or is ended because a process died that it cannot do without. Returns how it ended."""
    if not part.needs_crew:
        return await process.wait()
    ended = asyncio.create_task(process.wait())
    crew = [each for each in processes.in_session(process.pid) if each.pid != process.pid]
    died = asyncio.create_task(processes.one_ended(crew))
    try:
        await asyncio.wait({ended, died}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return ended.result()
        process.kill()
        await ended
        return "a process of it died"
    finally:
        ended.cancel()
        died.cancel()
