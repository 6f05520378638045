"""Runs from acceptance to their last event: who may begin, watch and stop them."""

import asyncio
import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from typing import Any

import structlog

from services.kit.call import Principal, work_as
from services.kit.errors import (
    Aborted,
    AgentNotFound,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    LeaseLost,
    Overloaded,
    ResourceExhausted,
    RunLimitReached,
    ServiceError,
    ServiceUnavailable,
    SessionBusy,
    Unavailable,
)
from services.orchestrator.config import Config
from services.orchestrator.core.finish import finish
from services.orchestrator.core.holding import Holding
from services.orchestrator.core.live import LiveRun
from services.orchestrator.core.takeover import Takeover
from services.orchestrator.core.turn import TurnLoop
from services.orchestrator.domain import (
    Agent,
    Cancelled,
    Completed,
    Failed,
    Last,
    Message,
    Progress,
    Record,
    Restarted,
    Role,
    Turn,
    Understanding,
)
from services.orchestrator.ports import Agents, Codec, Memory, Model, Nlu, Owners, Retrieval, RunLog, Tools

log = structlog.get_logger(__name__)
_RETRY_S = 0.25
_MOST_KEPT = 150
"""Messages of one turn beside the user's that enter the history."""
_PAGE = 500
_POLL_S = (0.05, 0.5)
_KNOWN_SESSIONS = 50_000


class Runs:
    """Every run this process works on, and the way to those it does not."""

    def __init__(
        self,
        *,
        memory: Memory,
        agents: Agents,
        nlu: Nlu,
        retrieval: Retrieval,
        tools: Tools,
        model: Model,
        run_log: RunLog,
        codec: Codec,
        owners: Owners,
        config: Config,
    ) -> None:
        """Works with these ports."""
        self._memory, self._agents, self._nlu = memory, agents, nlu
        self._retrieval, self._tools, self._model = retrieval, tools, model
        self._log, self._codec, self._config = run_log, codec, config
        self._live: dict[tuple[str, str], LiveRun] = {}
        self._closing = False
        self._beginning: set[asyncio.Task[str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._holding = Holding(run_log, config.lease_s, self._live.values)
        self._takeover = Takeover(owners, self.resume, self._sessions_at_work, config.owner_s)
        self._agent_names: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def remember(self, principal: Principal, session_id: str, agent: str) -> None:
        """Keeps whom a session is with, so that its first turn need not ask: an agent never changes in a session."""
        self._agent_names[principal.tenant, principal.user, session_id] = agent
        while len(self._agent_names) > _KNOWN_SESSIONS:
            self._agent_names.popitem(last=False)

    async def begin(
        self, principal: Principal, session_id: str, text: str, request_id: str, left: Callable[[str], None]
    ) -> str:
        """Begins a run, or finds the one that the same request began. Returns its id.

        Args:
            principal: Who asks.
            session_id: In which session.
            text: What they say.
            request_id: Names the request. Empty: it has no name.
            left: Told the run's id when the caller has left before it could be returned.

        Raises:
            SessionNotFound, SessionBusy, RequestIdReused, StoreUnavailable: as memory says.
            ResourceExhausted: too many runs are at work here.
            Unavailable: the service is stopping.
        """
        if self._closing:
            raise Unavailable("the service is stopping", retry_after=1.0)
        if len(self._live) + len(self._beginning) >= self._config.max_runs:
            raise ResourceExhausted("too many runs are at work", retry_after=1.0)
        # Not cut short by a caller who leaves: the session would stay taken by a run that nobody works on.
        beginning = asyncio.create_task(self._begin(principal, session_id, text, request_id))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(lambda done: left(done.result()) if _succeeded(done) else None)
            raise

    async def _begin(self, principal: Principal, session_id: str, text: str, request_id: str) -> str:
        # Whose session it is, is for memory to say: what is guessed here only lets the analysis begin early.
        await self._takeover.hold(principal, session_id)
        known = self._agent_names.get((principal.tenant, principal.user, session_id))
        agent = await self._agents.latest(known or await self._memory.agent_of(session_id))
        analysis = asyncio.create_task(self._analyze(agent, text))
        analysis.add_done_callback(_succeeded)
        try:
            digest = hashlib.sha256(f"{session_id}\n{text}".encode()).digest()
            record = self._codec.encode_record(Record(text, agent.name, agent.revision, tuple(principal.roles)))
            turn = await self._memory.begin_turn(session_id, request_id, digest, self._config.lease_s, record)
        except BaseException as error:
            analysis.cancel()
            if isinstance(error, SessionBusy):
                self._takeover.look_after(principal, session_id)
            raise
        if turn.attached:
            analysis.cancel()
            return turn.run_id
        self.remember(principal, session_id, turn.agent)
        run = LiveRun(principal, turn, self._log, self._codec, self._config.coalesce_s)
        self._start(run, agent, text, Progress(), analysis)
        return turn.run_id

    async def resume(self, principal: Principal, session_id: str) -> None:
        """Goes on with a session's run whose owner is gone, from its last checkpoint. `principal` needs no roles.

        Raises:
            RunNotFound, SessionNotFound: there is none.
            SessionBusy: it has an owner.
            StoreUnavailable, ServiceUnavailable: not now.
        """
        taken = await self._memory.resume_turn(session_id, self._config.lease_s)
        record = self._codec.decode_record(taken.record)
        progress = self._codec.decode_progress(taken.checkpoint)
        principal = Principal(principal.tenant, principal.user, frozenset(record.roles))
        entries = await self._logged(principal, taken.turn.run_id)
        run = LiveRun(principal, taken.turn, self._log, self._codec, self._config.coalesce_s, entries)
        log.info("run taken over", run_id=taken.turn.run_id, attempts=taken.attempts, sequence=progress.sequence)
        if any(map(self._codec.is_delta, entries[progress.sequence :])):
            run.note(Restarted(progress.sequence + 1))
        try:
            self._check_attempts(taken.attempts)
            agent = await self._agents.revision(record.agent, record.revision)
        except (AgentNotFound, Aborted) as error:
            loop = self._loop(run, Agent(record.agent, record.revision, ""), record.text, progress)
            return await self._end(run, loop, Failed(error, loop.answer, loop.usage))
        analysis = asyncio.create_task(self._understanding(agent, record.text, progress))
        analysis.add_done_callback(_succeeded)
        self._start(run, agent, record.text, progress, analysis)

    def _check_attempts(self, attempts: int) -> None:
        if attempts > self._config.max_takeovers:
            raise Aborted(f"the process that worked on the run was lost {attempts} times")

    async def _understanding(self, agent: Agent, text: str, progress: Progress) -> Understanding:
        return progress.understanding or await self._analyze(agent, text)

    def _start(
        self, run: LiveRun, agent: Agent, text: str, progress: Progress, analysis: asyncio.Task[Understanding]
    ) -> None:
        self._live[run.principal.tenant, run.turn.run_id] = run
        self._holding.wake()
        task = asyncio.create_task(self._drive(run, agent, text, progress, analysis))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _logged(self, principal: Principal, run_id: str) -> list[bytes]:
        """All entries of a run's log."""
        entries: list[bytes] = []
        while page := (await self._log.read(principal, run_id, len(entries), _PAGE)).entries:
            entries += page
        return entries

    def _sessions_at_work(self) -> list[tuple[Principal, str]]:
        return [(run.principal, run.turn.run_id.rpartition(".")[0]) for run in self._live.values()]

    def start(self) -> None:
        """Begins to look for runs whose owner is gone."""
        self._takeover.start()

    async def watch(self, principal: Principal, run_id: str, after_sequence: int) -> AsyncGenerator[bytes | None]:
        """Entries of a run after a cursor, those to come included, until its last. None: nothing for a while.

        Raises:
            RunNotFound: the caller has no such run.
        """
        run = self._live.get((principal.tenant, run_id))
        if run is not None and run.principal.user == principal.user:
            entries = run.watch(after_sequence, self._config.heartbeat_s)
        else:
            entries = self._watch_elsewhere(principal, run_id, after_sequence)
        try:
            async for entry in entries:
                yield entry
        finally:
            await entries.aclose()

    async def bounds(self, principal: Principal, run_id: str) -> tuple[bytes, bytes, bool]:
        """The first and the newest entry of a run, and whether someone works on it.

        Raises:
            RunNotFound: the caller has no such run, or it has not logged anything yet.
        """
        return await self._log.bounds(principal, run_id)

    async def cancel(self, principal: Principal, run_id: str) -> None:
        """Tells a run to stop, whoever works on it.

        Raises:
            RunNotFound: the caller has no such run.
        """
        run = self._live.get((principal.tenant, run_id))
        if run is not None and run.principal.user == principal.user:
            run.stop()
        else:
            await self._log.request_cancel(principal, run_id)

    async def close(self) -> None:
        """Hands the runs that are left to other processes. Who watches them here is told to go on there."""
        self._closing = True
        await self._takeover.stop()
        await asyncio.gather(*self._beginning, return_exceptions=True)
        for run in self._live.values():
            run.interrupt()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._holding.close()
        await self._takeover.leave()

    async def _analyze(self, agent: Agent, text: str) -> Understanding:
        return await self._nlu.analyze(agent, text) if agent.intents else Understanding()

    async def _watch_elsewhere(
        self, principal: Principal, run_id: str, after_sequence: int
    ) -> AsyncGenerator[bytes | None]:
        """Reads the log of a run that has ended, or that another process works on."""
        pause, silent, newest = _POLL_S[0], 0.0, b""
        while True:
            page = await self._log.read(principal, run_id, after_sequence, _PAGE)
            for entry in page.entries:
                yield entry
                newest = entry
            after_sequence += len(page.entries)
            if page.entries:
                pause, silent = _POLL_S[0], 0.0
                continue
            if page.over and (not newest or self._codec.is_last(newest)):
                return
            if page.over or not page.held:
                raise ServiceUnavailable("nobody works on the run any more")
            if silent >= self._config.heartbeat_s:
                silent = 0.0
                yield None
            await asyncio.sleep(pause)
            pause, silent = min(pause * 2, _POLL_S[1]), silent + pause

    async def _drive(
        self, run: LiveRun, agent: Agent, text: str, progress: Progress, analysis: asyncio.Task[Understanding]
    ) -> None:
        """Works on a run until its log has its last entry."""
        work_as(run.principal, name="run", timeout=agent.timeout_s + self._config.end_s)
        began = time.monotonic()
        loop = self._loop(run, agent, text, progress)
        try:
            last = await self._outcome(run, agent, loop, analysis)
            loop.usage.elapsed_s = time.monotonic() - began
            with contextlib.suppress(asyncio.CancelledError):
                await finish(self._end(run, loop, last) if last else self._hand_over(run))
        except Exception as error:
            # Whatever its code does: nobody waits for a run for ever, and its session is free again one lease later.
            log.error("run not ended", run_id=run.turn.run_id, exc_info=error)
            run.lose(Internal("internal error"))
        finally:
            analysis.cancel()
            key = (run.principal.tenant, run.turn.run_id)
            if self._live.get(key) is run:  # else this process has taken it over from itself
                del self._live[key]

    def _loop(self, run: LiveRun, agent: Agent, text: str, progress: Progress) -> TurnLoop:
        return TurnLoop(
            run,
            agent,
            text,
            progress,
            retrieval=self._retrieval,
            tools=self._tools,
            model=self._model,
            config=self._config,
        )

    async def _outcome(
        self, run: LiveRun, agent: Agent, loop: TurnLoop, analysis: asyncio.Task[Understanding]
    ) -> Last | None:
        """How the turn ends, once it has. None: it goes on elsewhere."""
        try:
            run.at_work()
            async with asyncio.timeout(agent.timeout_s) as timer:
                await loop.work(analysis)
            return Completed(loop.answer, loop.usage)
        except asyncio.CancelledError:
            return Cancelled(loop.answer, loop.usage) if run.stop_requested else None
        except ServiceError as error:
            return Failed(error, loop.answer, loop.usage)
        except TimeoutError:
            limit = RunLimitReached(f"the run took longer than {agent.timeout_s:g} s")
            return Failed(limit if timer.expired() else Internal("internal error"), loop.answer, loop.usage)
        except Exception as error:
            log.error("run broke", run_id=run.turn.run_id, exc_info=error)
            return Failed(Internal("internal error"), loop.answer, loop.usage)

    async def _hand_over(self, run: LiveRun) -> None:
        """Leaves a run to another process: this one stops, or has lost the session."""
        try:
            await run.hand_over()
        except ServiceError as error:
            log.warning("run not handed over", run_id=run.turn.run_id, reason=error.reason)
        run.lose(ServiceUnavailable("the run goes on elsewhere", retry_after=1.0))

    async def _end(self, run: LiveRun, loop: TurnLoop, last: Last) -> None:
        """Writes a run's last entries and frees its session."""
        entries = await run.last_entries(last)
        first = run.next_sequence
        try:
            try:
                await self._write_end(run.turn, loop, last, entries, first)
            except InvalidArgument as error:
                log.error("turn refused", run_id=run.turn.run_id, message=error.message)
                failed = Failed(Internal("internal error"), "", loop.usage)
                entries[-1] = self._codec.encode(run.turn.run_id, first + len(entries) - 1, failed)
                await self._memory.abandon_turn(run.turn, entries, first)
            run.end(entries)
        except ServiceError as error:
            level = log.warning if isinstance(error, LeaseLost) else log.error
            level("run not ended", run_id=run.turn.run_id, reason=error.reason)
            run.lose(error)

    async def _write_end(
        self, turn: Turn, loop: TurnLoop, last: Last, entries: list[bytes], first_sequence: int
    ) -> None:
        """Commits or abandons a turn; again while the store is away, since repeating it changes nothing."""
        give_up = time.monotonic() + self._config.end_s - _RETRY_S
        while True:
            try:
                if loop.answer or isinstance(last, Completed):
                    return await self._memory.commit_turn(turn, _kept(loop), entries, first_sequence)
                return await self._memory.abandon_turn(turn, entries, first_sequence)
            except (Unavailable, DeadlineExceeded, Overloaded):
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(_RETRY_S)


def _kept(loop: TurnLoop) -> list[Message]:
    """What the history gains: what the user said, and the newest of what followed, a partial answer included."""
    answer = [Message(Role.ASSISTANT, loop.answer)] if loop.answer else []
    said, *followed = [*loop.gained, *answer]
    return [said, *followed[-_MOST_KEPT:]]


def _succeeded(task: asyncio.Task[Any]) -> bool:
    """Whether a task came to a result. Looks at its error, so that one nobody waits for is not reported as unseen."""
    return not task.cancelled() and task.exception() is None
