"""Goes on with runs: those whose owner is gone, those that have what they waited for, and the next of a line."""

import asyncio
import contextlib
from collections.abc import Awaitable, Collection
from typing import Any

import structlog

from services.kit.call import Principal, join_trace
from services.kit.errors import Aborted, AgentNotFound, CheckpointBroken, ServiceError
from services.orchestrator.config import Config
from services.orchestrator.core.dispatch import Dispatch
from services.orchestrator.core.driver import Driver
from services.orchestrator.core.job import Job
from services.orchestrator.core.live import LiveRun
from services.orchestrator.domain.agent import Agent
from services.orchestrator.domain.log import Restarted
from services.orchestrator.domain.run import Record, Resumed, Turn, Waiting
from services.orchestrator.domain.turn import Progress, Understanding
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import Memory, RunLog
from services.orchestrator.ports.services import Agents, Nlu

log = structlog.get_logger(__name__)

_PAGE = 500


class Resuming:
    """Takes runs, and gives them to the driver."""

    def __init__(
        self,
        *,
        memory: Memory,
        agents: Agents,
        nlu: Nlu,
        run_log: RunLog,
        codec: Codec,
        driver: Driver,
        dispatch: Dispatch,
        config: Config,
        classes: Collection[str],
    ) -> None:
        """Works with these ports.

        Args:
            memory: Whose turn it is.
            agents: Who answers.
            nlu: What the user means, where that is not known yet.
            run_log: What is logged already.
            codec: Reads records and checkpoints.
            driver: Works on the runs.
            dispatch: Takes those that are not for this process.
            config: Limits.
            classes: Classes of the queue this process works on.
        """
        self._memory, self._agents, self._nlu = memory, agents, nlu
        self._log, self._codec, self._config = run_log, codec, config
        self._driver, self._dispatch = driver, dispatch
        self._classes = classes

    async def resume(
        self, principal: Principal, session_id: str, number: int = 0, error: ServiceError | None = None
    ) -> Awaitable[None]:
        """Goes on in a session: with its unfinished run, from its last checkpoint, or with the next of its line.

        Args:
            principal: Whose session; needs no roles.
            session_id: The session.
            number: Only this run. 0: whichever it is.
            error: What the run fails with instead.

        Returns:
            The work on it, to be awaited. It is over at once when the run has ended, or goes to workers of its class.

        Raises:
            RunNotFound, SessionNotFound: there is none.
            SessionBusy: it has an owner.
            StoreUnavailable, ServiceUnavailable: not now.
        """
        taken = await self._memory.resume_turn(session_id, self._config.lease_s, number)
        try:
            return await self._resume(principal, taken, error)
        except (ServiceError, asyncio.CancelledError):  # nothing was done: this counts as no owner that was lost
            with contextlib.suppress(ServiceError):
                await self._log.let_go(principal, taken.turn)
            raise

    async def _resume(self, principal: Principal, taken: Resumed, error: ServiceError | None) -> Awaitable[None]:
        entries = await whole_log(self._log, principal, taken.turn.run_id)
        try:
            record = self._codec.decode_record(taken.record)
            progress = self._codec.decode_progress(taken.checkpoint)
        except CheckpointBroken as broken:
            return await self._give_up(principal, taken.turn, entries, broken)
        join_trace(record.traceparent)
        principal = Principal(principal.tenant, principal.user, frozenset(record.roles))
        if not taken.checkpoint and entries:  # all that it did so far was to wait in the line
            progress.begun, progress.sequence = True, len(entries)
        run = LiveRun(
            principal, taken.turn, self._log, self._codec, self._config.coalesce_s, entries, progress.sequence
        )
        if progress.waits_for:
            await self._dispatch.forget_reminder(principal, taken.turn.run_id, record, progress.waits_for)
        if taken.checkpoint or taken.attempts:  # else it has just left the line, where it could not be told to stop
            await run.append()
        elsewhere = record.queue and record.queue not in self._classes and error is None
        if elsewhere and await self._pass_on(run, record, progress):
            return _nothing()
        if taken.attempts:
            log.info("run taken over", run_id=run.turn.run_id, attempts=taken.attempts, sequence=progress.sequence)
        if any(map(self._codec.is_delta, entries[progress.sequence :])):
            run.note(Restarted(progress.sequence + 1))
        return await self._go_on(run, taken, record, progress, error)

    async def _go_on(
        self, run: LiveRun, taken: Resumed, record: Record, progress: Progress, error: ServiceError | None
    ) -> Awaitable[None]:
        answer = self._codec.decode_answer(taken.response) if taken.response else None
        if taken.attempts > self._config.max_takeovers:
            error = Aborted(f"the process that worked on the run was lost {taken.attempts} times")
        try:
            agent = await self._agents.revision(record.agent, record.revision)
        except AgentNotFound as gone:
            agent, error = Agent(record.agent, record.revision, ""), error or gone
        if error is not None:
            await self._driver.end(Job(run, agent, record, progress, _no_analysis(), answer), error)
            return _nothing()
        analysis = asyncio.create_task(self._understanding(agent, record.text, progress))
        analysis.add_done_callback(succeeded)
        return self._driver.start(Job(run, agent, record, progress, analysis, answer))

    async def _pass_on(self, run: LiveRun, record: Record, progress: Progress) -> bool:
        """Leaves a run that this process came by to the workers of its class. False: it is to stop, here and now."""
        if run.stop_requested:
            return False
        try:
            await run.park(Waiting("again", 0.0), progress)
        except asyncio.CancelledError:
            if not run.stop_requested:
                raise
            return False
        await self._dispatch.enqueue(
            run.principal, run.turn.run_id, record
        )  # only now: a worker may be faster than we are
        return True

    async def _give_up(
        self, principal: Principal, turn: Turn, entries: list[bytes], error: CheckpointBroken
    ) -> Awaitable[None]:
        """Ends a run of which nothing is known any more but that it was: it says so, and leaves nothing behind."""
        log.error("run cannot go on", run_id=turn.run_id, reason=error.reason)
        run = LiveRun(principal, turn, self._log, self._codec, self._config.coalesce_s, entries)
        if any(map(self._codec.is_delta, entries)):
            run.note(Restarted(1))
        agent = Agent(turn.agent, 0, "")
        await self._driver.end(Job(run, agent, Record("", agent.name, 0, ()), Progress(), _no_analysis()), error)
        return _nothing()

    async def _understanding(self, agent: Agent, text: str, progress: Progress) -> Understanding:
        return progress.understanding or await analyze(self._nlu, agent, text)


async def analyze(nlu: Nlu, agent: Agent, text: str) -> Understanding:
    """What a text means to an agent. Nothing is asked for an agent without intents."""
    return await nlu.analyze(agent, text) if agent.intents and text else Understanding()


async def whole_log(run_log: RunLog, principal: Principal, run_id: str) -> list[bytes]:
    """All entries of a run's log. Raises RunNotFound."""
    entries: list[bytes] = []
    while True:
        page = (await run_log.read(principal, run_id, len(entries), _PAGE)).entries
        entries += page
        if len(page) < _PAGE:
            return entries


def succeeded(task: asyncio.Task[Any]) -> bool:
    """Whether a task came to a result. Looks at its error, so that one nobody waits for is not reported as unseen."""
    return not task.cancelled() and task.exception() is None


def _no_analysis() -> asyncio.Future[Understanding]:
    found = asyncio.get_running_loop().create_future()
    found.set_result(Understanding())
    return found


def _nothing() -> asyncio.Future[None]:
    """Work that is over."""
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
