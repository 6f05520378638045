"""What is told of runs: that one was begun, ran a tool, and how it ended; the last also when its process is gone."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from services.kit.call import Principal
from services.kit.errors import Cancelled as CancelledError
from services.kit.errors import ServiceError
from services.kit.run_ids import session_of, write_run_id
from services.orchestrator.core.events import EventBus, happened
from services.orchestrator.domain.events import DomainEvent, EventType
from services.orchestrator.domain.log import Completed, Failed, Last, Outcome, ToolFinished
from services.orchestrator.domain.run import RunEnd
from services.orchestrator.ports.store import RunEnds

log = structlog.get_logger(__name__)

_AT_ONCE = 4
_MOST = 20
_WINDOW_MS = 10_000
"""Runs that ended so long before the latest one were told: events wait 50 ms, or as long as the store is away."""
_TRIES = 5
_TRY_AGAIN_S = 1.0

EndedAgain = Callable[[Principal, str, str, int], Awaitable[None]]
"""Told of a run that ended, perhaps not for the first time: its id, the reason when it has no answer, and when."""

ReadEnd = Callable[[bytes, bytes], RunEnd | None]
"""How a run ended, from the first and the newest entry of its log. None: it has not."""


class RunEvents:
    """Tells what happens to runs. It may tell the same again: the event then has the same id."""

    def __init__(
        self, bus: EventBus, run_ends: RunEnds, read_end: ReadEnd, ended_again: EndedAgain | None = None
    ) -> None:
        """Tells `bus`. What others did not come to tell, `run_ends` has, and `ended_again` hears of it, too."""
        self._ended_again = ended_again
        self._bus = bus
        self._run_ends = run_ends
        self._read_end = read_end

    def began(self, principal: Principal, run_id: str, agent: str) -> None:
        """A run begins to be worked on."""
        self._bus.publish(happened(EventType.RUN_STARTED, principal, session_of(run_id), run_id, {"agent": agent}))

    def executed(self, principal: Principal, run_id: str, agent: str, finished: ToolFinished) -> None:
        """A tool call ended. One that was refused was not executed, and is not told."""
        if finished.outcome is Outcome.REFUSED:
            return
        said = {"agent": agent, "tool": finished.call.tool, "outcome": finished.outcome.value}
        said |= {"reason": finished.reason} if finished.reason else {}
        kind, part = EventType.TOOL_EXECUTED, finished.call.id
        self._bus.publish(happened(kind, principal, session_of(run_id), run_id, said, part=part))

    def ended(self, principal: Principal, run_id: str, agent: str, last: Last) -> None:
        """A run ended."""
        self._bus.publish(_ended(principal, run_id, RunEnd(agent, _reason(last), time.time_ns() // 1_000_000)))

    def ended_as_logged(self, principal: Principal, run_id: str, first: bytes, newest: bytes) -> RunEnd | None:
        """A run ended whose log begins and ends with these entries. Returns how; None: it did not end."""
        end = self._read_end(first, newest)
        if end is not None:
            self._bus.publish(_ended(principal, run_id, end))
        return end

    async def tell_again(self, principal: Principal, session_id: str) -> None:
        """Tells how the latest runs of a session ended: the process is gone that should have."""
        for _ in range(_TRIES):
            try:
                return await self._tell_again(principal, session_id)
            except ServiceError as error:
                log.warning("ends of runs not read", session_id=session_id, reason=error.reason)
            await asyncio.sleep(_TRY_AGAIN_S)

    async def _tell_again(self, principal: Principal, session_id: str) -> None:
        latest_ms = 0
        newest = await self._run_ends.newest(principal, session_id)
        oldest = max(newest - _MOST, 0)
        for first in range(newest, oldest, -_AT_ONCE):
            runs = range(first, max(first - _AT_ONCE, oldest), -1)
            for run, begun, last in await self._run_ends.ends(principal, session_id, runs):
                end = self.ended_as_logged(principal, write_run_id(session_id, run), begun, last)
                if end is None:
                    continue
                if self._ended_again is not None:
                    await self._ended_again(principal, write_run_id(session_id, run), end.reason, end.time_ms)
                latest_ms = latest_ms or end.time_ms
                if end.time_ms < latest_ms - _WINDOW_MS:
                    return


def _ended(principal: Principal, run_id: str, end: RunEnd) -> DomainEvent:
    """One that was stopped has failed, with the reason `CANCELLED`."""
    kind = EventType.RUN_FAILED if end.reason else EventType.RUN_COMPLETED
    said = {"agent": end.agent} | ({"reason": end.reason} if end.reason else {})
    return happened(kind, principal, session_of(run_id), run_id, said, time_ms=end.time_ms)


def _reason(last: Last) -> str:
    match last:
        case Completed():
            return ""
        case Failed(error):
            return error.reason
        case _:
            return CancelledError.reason
