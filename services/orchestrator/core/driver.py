"""Works on runs: each until its last event, until it waits, or until it goes on elsewhere."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import Enum, auto
from functools import partial

import structlog

from services.kit.amounts import Amounts
from services.kit.call import Principal, work_as
from services.kit.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    Internal,
    LeaseLost,
    Overloaded,
    ServiceError,
    Unavailable,
)
from services.kit.run_ids import session_of
from services.orchestrator.config import Config
from services.orchestrator.core.finishing import Finishing, elsewhere
from services.orchestrator.core.holding import Holding
from services.orchestrator.core.job import Job
from services.orchestrator.core.live import LiveRun
from services.orchestrator.core.patience import patiently
from services.orchestrator.core.run_events import RunEvents
from services.orchestrator.core.spending import Price, first_step, read_prices
from services.orchestrator.core.stop_waves import StopWaves
from services.orchestrator.core.toolsteps import Parked
from services.orchestrator.core.turn import TurnLoop
from services.orchestrator.core.uncut import uncut
from services.orchestrator.domain.agent import Agent
from services.orchestrator.domain.log import Cancelled, Completed, Failed, Last, Queued
from services.orchestrator.domain.run import Grant, Next, Stop, Turn, Waiting
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import Memory, RunLog
from services.orchestrator.ports.services import Model, Retrieval, Tools

log = structlog.get_logger(__name__)

_AWAY = (Unavailable, DeadlineExceeded, Overloaded)


class _Left(Enum):
    """Why work on a run stopped without its last event."""

    PARKED = auto()
    ELSEWHERE = auto()


class Driver:
    """All runs at work in this process."""

    def __init__(
        self,
        *,
        memory: Memory,
        retrieval: Retrieval,
        tools: Tools,
        model: Model,
        run_log: RunLog,
        codec: Codec,
        events: RunEvents,
        config: Config,
        ended: Callable[[Job, Last, Next | None], Awaitable[None]],
        remind: Callable[[Job, float, str], Awaitable[None]],
        gives_up: Callable[[Job, ServiceError, Callable[[], Awaitable[None]]], Awaitable[None]],
        lost: Callable[[LiveRun], None],
        parked: Callable[[LiveRun], None],
        untold: Callable[[Principal, str], bool],
        now: Callable[[], float],
    ) -> None:
        """Works with these ports.

        Args:
            memory: Takes what was said.
            retrieval: Finds facts.
            tools: Run.
            model: Speaks.
            run_log: Keeps events.
            codec: Writes them.
            events: Told what happens to runs.
            config: Limits.
            ended: Told when a run has its last event, and which run of its session is due.
            remind: Has a worker look after a run in so many seconds, that waits for this until then.
            gives_up: Ends a run of a queue that failed for the last time, by the function it is given.
            lost: Told of a run that could not be brought to its end, and that nobody else has.
            parked: Told of a run that waits for somebody or something from now on.
            untold: Told of a run that is to stop, and the store could not be told so. True: when the store was, it is
                gone on with.
            now: The store's time, seconds since 1970.
        """
        self.live: dict[tuple[str, str], LiveRun] = {}
        self._memory = memory
        self._retrieval, self._tools, self._model = retrieval, tools, model
        self._events, self._config = events, config
        self._prices = read_prices(config.model_prices)
        self._remind, self._gives_up, self._lost, self._parked = remind, gives_up, lost, parked
        self._untold = untold
        self._now = now
        self._finishing = Finishing(memory, codec, events, config.end_s, ended, lost, untold)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_waves = StopWaves()
        self._holding = Holding(run_log, config.lease_s, self.live.values)

    def start(self, job: Job) -> asyncio.Task[None]:
        """Begins to work on a run. The task is over when the work is."""
        self.live[job.run.principal.tenant, job.run.turn.run_id] = job.run
        self._holding.wake()
        if job.progress.understanding is None:
            self._events.began(job.run.principal, job.run.turn.run_id, job.agent.name)
        task = asyncio.create_task(self._drive(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def first_step(self, agent: Agent, text: str) -> Amounts:
        """What the first step of a run may need."""
        return first_step(agent, text, self._prices.get(agent.model or self._config.models[0], Price()))

    def find(self, principal: Principal, run_id: str) -> LiveRun | None:
        """The run of this caller, if this process works on it."""
        run = self.live.get((principal.tenant, run_id))
        return run if run is not None and run.principal.user == principal.user and not run.shown.left else None

    def sessions(self) -> list[tuple[Principal, str]]:
        """Sessions of the runs at work."""
        return [(run.principal, session_of(run.turn.run_id)) for run in self.live.values()]

    def hear_of_stop(self, tenant: str, run_id: str) -> None:
        """There is word that a run is to stop; the store says whether that is so."""
        run = self.live.get((tenant, run_id))
        if run is not None:
            self._holding.ask(run)

    async def close(self) -> None:
        """Hands all runs over to other processes: now, or when the tool calls that are under way have ended.

        A call that is cut may have had its effect all the same: somebody would have to be asked about it.
        """
        for run in self.live.values():
            if not run.hand_back():
                run.shown.lose(elsewhere())  # who watches goes on there
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._config.drain_tool_s)
        for run in self.live.values():
            run.interrupt()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._holding.close()

    async def end(self, job: Job, error: ServiceError) -> None:
        """Ends a run that cannot be worked on. One of a queue becomes a dead letter."""
        loop = self._loop(job)
        end = partial(self._finishing.end, job, loop, Failed(error, loop.answer, loop.usage))
        await (self._gives_up(job, error, end) if job.record.queue else end())

    async def _drive(self, job: Job) -> None:
        """Works on a run until its log has its last entry, or it goes on without this process."""
        run = job.run
        work_as(run.principal, name="run", timeout=job.agent.timeout_s + self._config.end_s)
        loop = self._loop(job)
        try:
            outcome = await self._outcome(job, loop)
            with contextlib.suppress(asyncio.CancelledError):
                await uncut(self._leave(job, loop, outcome))
        except Exception as error:
            # Whatever its code does: nobody waits for a run for ever, and its session is free again one lease later.
            log.error("run not ended", run_id=run.turn.run_id, exc_info=error)
            run.shown.lose(Internal("internal error"))
            if not (run.stop_requested and self._untold(run.principal, run.turn.run_id)):
                self._lost(run)
        finally:
            job.analysis.cancel()
            key = (run.principal.tenant, run.turn.run_id)
            if self.live.get(key) is run:  # else this process has taken it over from itself
                del self.live[key]

    def _loop(self, job: Job) -> TurnLoop:
        return TurnLoop(
            job.run,
            job.agent,
            job.record,
            job.progress,
            job.answer,
            retrieval=self._retrieval,
            tools=self._tools,
            model=self._model,
            remind=partial(self._remind, job),
            executed=partial(self._events.executed, job.run.principal, job.run.turn.run_id, job.agent.name),
            extend=partial(self._extend, job.run.turn),
            now=self._now,
            prices=self._prices,
            config=self._config,
        )

    async def _extend(self, turn: Turn, wanted: Amounts) -> Grant:
        return await patiently(lambda: self._memory.extend_turn(turn, wanted), _AWAY)

    async def _outcome(self, job: Job, loop: TurnLoop) -> Last | _Left:
        """How the turn ends, once it has."""
        run = job.run
        try:
            run.at_work()
            async with asyncio.timeout(loop.spending.time_s - job.progress.usage.elapsed_s) as timer:
                await loop.work(job.analysis)
            return Completed(loop.answer, loop.usage)
        except Parked:
            return _Left.PARKED
        except asyncio.CancelledError:
            return _cancelled(run.stop_requested, loop) if run.stop_requested else _Left.ELSEWHERE
        except ServiceError as error:
            return Failed(error, loop.answer, loop.usage)
        except TimeoutError:
            limit = loop.spending.out_of_time() if timer.expired() else Internal("internal error")
            return Failed(limit, loop.answer, loop.usage)
        except Exception as error:
            log.error("run broke", run_id=run.turn.run_id, exc_info=error)
            return Failed(Internal("internal error"), loop.answer, loop.usage)

    async def _leave(self, job: Job, loop: TurnLoop, outcome: Last | _Left) -> None:
        if outcome is _Left.PARKED:
            return self._parked(job.run)
        if isinstance(outcome, _Left):
            return await self._hand_over(job.run)
        if isinstance(outcome, Cancelled):
            async with self._stop_waves.place():
                await loop.abandon()
                return await self._finishing.end(job, loop, _cancelled(job.run.stop_requested, loop))
        if isinstance(outcome, Failed) and job.record.queue and _may_pass(outcome.error):
            if await self._try_later(job, loop):
                return
            if job.run.stop_requested:
                return await self._finishing.end(job, loop, _cancelled(job.run.stop_requested, loop))
            return await self._gives_up(job, outcome.error, partial(self._finishing.end, job, loop, outcome))
        await self._finishing.end(job, loop, outcome)

    async def _try_later(self, job: Job, loop: TurnLoop) -> bool:
        """Lets a run that failed be tried again. False: it was often enough, or is to stop."""
        progress = replace(loop.progress, failures=loop.progress.failures + 1)
        if progress.failures >= self._config.max_attempts:
            return False
        try:
            await self._remind(job, self._config.retry_s, f"attempt {progress.failures + 1}")
            await job.run.park(Waiting("again", self._config.retry_s), progress, Queued(0, job.record.queue))
        except LeaseLost:  # it waits, and word of that was lost; or another process has it
            await self._hand_over(job.run)
        except _AWAY as error:  # another attempt may come of that, but it is none that failed
            log.warning("run not left to be tried again", run_id=job.run.turn.run_id, reason=error.reason)
            await self._hand_over(job.run)
            self._lost(job.run)
        except (ServiceError, asyncio.CancelledError):
            return False
        else:
            await self._finishing.stop_elsewhere(job.run)
        return True

    async def _hand_over(self, run: LiveRun) -> None:
        """Leaves a run to another process: this one stops, or has lost the session."""
        try:
            await run.hand_over()
        except ServiceError as error:
            log.warning("run not handed over", run_id=run.turn.run_id, reason=error.reason)
        run.shown.lose(elsewhere())
        await self._finishing.stop_elsewhere(run)


def _cancelled(how: Stop, loop: TurnLoop) -> Cancelled:
    if how is Stop.ROLL_BACK:
        return Cancelled(loop.answer, loop.usage, rolled_back=True, effects=loop.progress.effects)
    return Cancelled(loop.answer, loop.usage)


def _may_pass(error: ServiceError) -> bool:
    """Whether a run that failed so may succeed later."""
    if isinstance(error, BudgetExhausted):  # each attempt would spend what there is
        return False
    return isinstance(error, Unavailable | DeadlineExceeded) or error.retry_after is not None
