"""Brings runs to their last event, which frees their sessions."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.kit import failpoints
from services.kit.call import Principal
from services.kit.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    LeaseLost,
    Overloaded,
    ServiceError,
    ServiceUnavailable,
    Unavailable,
)
from services.kit.failpoints import Point
from services.orchestrator.core.job import Job
from services.orchestrator.core.live import LiveRun
from services.orchestrator.core.patience import patiently
from services.orchestrator.core.run_events import RunEvents
from services.orchestrator.core.spending import spent_of
from services.orchestrator.core.turn import TurnLoop
from services.orchestrator.domain.agent import Message, Role
from services.orchestrator.domain.log import Cancelled, Completed, Failed, Last
from services.orchestrator.domain.run import Next, Stop
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import Memory

log = structlog.get_logger(__name__)

_LATE_S = 0.25
"""An end takes a few milliseconds. After so many seconds the answer is kept without it, should this process die."""

_MOST_KEPT = 150
"""Messages of one turn beside the user's that enter the history."""


class Finishing:
    """Writes ends, however runs came to them."""

    def __init__(
        self,
        memory: Memory,
        codec: Codec,
        events: RunEvents,
        end_s: float,
        ended: Callable[[Job, Last, Next | None], Awaitable[None]],
        lost: Callable[[LiveRun], None],
        untold: Callable[[Principal, str], bool],
    ) -> None:
        """Works with these ports.

        Args:
            memory: Takes what was said.
            codec: Writes events.
            events: Told what happens to runs.
            end_s: So long it tries, while the store is away, seconds.
            ended: Told when a run has its last event, and which run of its session is due.
            lost: Told of a run that could not be brought to its end, and that nobody else has.
            untold: Told of a run that is to stop, and the store could not be told so. True: when the store was, it is
                gone on with.
        """
        self._memory, self._codec, self._events, self._end_s = memory, codec, events, end_s
        self._ended, self._lost, self._untold = ended, lost, untold

    async def end(self, job: Job, loop: TurnLoop, last: Last) -> None:
        """Writes a run's last entries and frees its session."""
        run = job.run
        entries = await run.last_entries(last)
        first = run.next_sequence
        try:
            try:
                due = await self._write_end(run, loop, last, entries, first)
                await failpoints.reached(Point.AFTER_COMMIT)
            except InvalidArgument as error:
                log.error("turn refused", run_id=run.turn.run_id, message=error.message)
                last = Failed(Internal("internal error"), "", loop.usage)
                entries[-1] = self._codec.encode(run.turn.run_id, first + len(entries) - 1, last)
                due = await self._memory.abandon_turn(run.turn, entries, first, spent_of(loop.usage))
            run.shown.end(entries)
        except ServiceError as error:
            is_anothers = isinstance(error, LeaseLost)
            level = log.warning if is_anothers else log.error
            level("run not ended", run_id=run.turn.run_id, reason=error.reason)
            run.shown.lose(elsewhere() if is_anothers else error)
            waits = await self._pass_stop_on(run)  # before it is gone on with: whoever does is to know
            if waits or (waits is not None and not is_anothers):
                self._lost(run)
        else:
            self._events.ended(run.principal, run.turn.run_id, job.agent.name, last)
            await self._ended(job, last, due)

    async def stop_elsewhere(self, run: LiveRun) -> None:
        """Has a run that was told to stop here do so where it goes on: another process has it, or it waits by now."""
        if await self._pass_stop_on(run):
            self._lost(run)

    async def _pass_stop_on(self, run: LiveRun) -> bool | None:
        """Has the store know of a stop that may be known here only.

        Returns:
            Whether the run waits: nobody sees to it then. None: the store will know of it later; then it is seen to.
        """
        try:
            return bool(run.stop_requested) and await run.pass_stop_on()
        except ServiceError as error:
            log.warning("stop not passed on yet", run_id=run.turn.run_id, reason=error.reason)
            return None if self._untold(run.principal, run.turn.run_id) else False

    async def _write_end(
        self, run: LiveRun, loop: TurnLoop, last: Last, entries: list[bytes], first_sequence: int
    ) -> Next | None:
        """Commits or abandons a turn; again while the store is away, since repeating it changes nothing."""
        rolls_back = last.rolled_back if isinstance(last, Cancelled) else run.stop_requested is Stop.ROLL_BACK
        kept = isinstance(last, Completed) or (loop.answer and not rolls_back)
        spent = spent_of(loop.usage)

        async def write() -> Next | None:
            if kept:
                return await self._memory.commit_turn(run.turn, _kept(loop), entries, first_sequence, spent)
            return await self._memory.abandon_turn(run.turn, entries, first_sequence, spent)

        is_whole = isinstance(last, Completed)
        late = asyncio.get_running_loop().call_later(_LATE_S, run.keep_answer) if is_whole else None
        try:
            await failpoints.reached(Point.BEFORE_COMMIT)
            return await patiently(lambda: run.mended(write), (Unavailable, DeadlineExceeded, Overloaded), self._end_s)
        finally:
            if late is not None:
                late.cancel()


def elsewhere() -> ServiceError:
    """What watchers are told whose run another process works on: to resume."""
    return ServiceUnavailable("the run goes on elsewhere", retry_after=1.0)


def _kept(loop: TurnLoop) -> list[Message]:
    """What the history gains: what the user said, and the newest of what followed, a partial answer included."""
    answer = [Message(Role.ASSISTANT, loop.answer)] if loop.answer else []
    said, *followed = [*loop.gained, *answer]
    return [said, *followed[-_MOST_KEPT:]]
