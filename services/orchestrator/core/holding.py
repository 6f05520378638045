"""Holds the sessions of all runs at work: one round of the store for many runs, however many stand still just now."""

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from services.kit.errors import ServiceError
from services.orchestrator.core.live import LiveRun
from services.orchestrator.ports.runs import RunLog

log = structlog.get_logger(__name__)

_ROUNDS = 4
"""How often a lease is renewed before it would end."""

_AT_ONCE = 500
"""Runs in one round trip."""


class Holding:
    """Says of every run at work, several times a lease, that it is.

    Whether a lost reply took a session, a dead process holds it, or the store stood still: it is free again one lease
    later.
    """

    def __init__(self, run_log: RunLog, lease_s: float, at_work: Callable[[], Collection[LiveRun]]) -> None:
        """Holds the sessions of those that are `at_work`, for `lease_s` seconds at a time."""
        self._log = run_log
        self._pause_s = lease_s / _ROUNDS
        self._at_work = at_work
        self._task: asyncio.Task[None] | None = None
        self._told: list[LiveRun] = []
        self._asking: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Begins, unless it is at it: there is a run at work. It rests when there is none."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep())

    def ask(self, run: LiveRun) -> None:
        """Asks the store now whether a run is to stop, as there is word; together with others of whom there is."""
        self._told.append(run)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())

    def close(self) -> None:
        """Holds nothing any more."""
        for task in (self._task, self._asking):
            if task is not None:
                task.cancel()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while self._at_work():
            since = loop.time()
            await asyncio.sleep(self._pause_s)
            due = [run for run in self._at_work() if not run.heard_since(since)]
            idle = [run for run in due if not run.resend()]
            for first in range(0, len(idle), _AT_ONCE):
                await self._hold(idle[first : first + _AT_ONCE])

    async def _ask(self) -> None:
        while self._told:
            runs, self._told = self._told[:_AT_ONCE], self._told[_AT_ONCE:]
            await self._hold(runs)

    async def _hold(self, runs: Sequence[LiveRun]) -> None:
        try:
            answers = await self._log.hold([(run.principal, run.turn) for run in runs])
        except ServiceError as error:
            log.warning("sessions not held", runs=len(runs), reason=error.reason)
            return
        except Exception as error:
            log.error("sessions not held", runs=len(runs), exc_info=error)
            return
        for run, answer in zip(runs, answers, strict=True):
            run.held(answer)
