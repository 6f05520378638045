"""Accepts runs: they begin here, or wait in the lines of their sessions."""

import asyncio
import hashlib
from collections import OrderedDict

import orjson
import structlog

from services.kit.amounts import NO_AMOUNTS
from services.kit.call import Principal, current_traceparent
from services.kit.errors import (
    DeadlineExceeded,
    QueueFull,
    RequestIdReused,
    RunNotFound,
    ServiceError,
    SessionBusy,
    Unavailable,
)
from services.orchestrator.config import Config
from services.orchestrator.core.callbacks import Callbacks
from services.orchestrator.core.dispatch import Dispatch
from services.orchestrator.core.driver import Driver
from services.orchestrator.core.job import Job
from services.orchestrator.core.live import LiveRun
from services.orchestrator.core.resuming import analyze, succeeded
from services.orchestrator.core.takeover import Takeover
from services.orchestrator.domain.agent import Agent
from services.orchestrator.domain.log import Queued, Started
from services.orchestrator.domain.run import Accepted, Concurrency, Record, Request, Standing, Turn
from services.orchestrator.domain.turn import Progress
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import Memory, RunLog
from services.orchestrator.ports.services import Agents, Nlu

log = structlog.get_logger(__name__)
_KNOWN_SESSIONS = 50_000

_UNSURE_S, _LOOK_S = 1.0, 0.02
"""Whoever repeats a request waits at most so long for the first to be accepted or refused, and looks so often."""


class Accepting:
    """From a request to a run."""

    def __init__(
        self,
        *,
        memory: Memory,
        agents: Agents,
        nlu: Nlu,
        run_log: RunLog,
        codec: Codec,
        callbacks: Callbacks,
        driver: Driver,
        dispatch: Dispatch,
        takeover: Takeover,
        config: Config,
    ) -> None:
        """Works with these ports.

        Args:
            memory: Whose turn it is.
            agents: Who answers.
            nlu: What the user means.
            run_log: Takes the log of a run that waits.
            codec: Writes records and events.
            callbacks: Takes addresses.
            driver: Works on runs that begin.
            dispatch: Puts those that wait before the workers.
            takeover: Looks after their sessions.
            config: Limits.
        """
        self._memory, self._agents, self._nlu = memory, agents, nlu
        self._log, self._codec, self._callbacks, self._config = run_log, codec, callbacks, config
        self._driver, self._dispatch, self._takeover = driver, dispatch, takeover
        self._agent_names: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def remember(self, principal: Principal, session_id: str, agent: str) -> None:
        """Keeps whom a session is with, so that its first turn need not ask: an agent never changes in a session."""
        self._agent_names[principal.tenant, principal.user, session_id] = agent
        while len(self._agent_names) > _KNOWN_SESSIONS:
            self._agent_names.popitem(last=False)

    async def begin(self, principal: Principal, request: Request) -> Accepted:
        """Begins a run, or has it wait for its turn, or finds the one that the same request began.

        Raises:
            SessionNotFound, SessionBusy, LineFull, RequestIdReused, StoreUnavailable: as memory says.
            QueueFull: its queue takes no more of the tenant.
        """
        if request.callback_url:
            await self._callbacks.check(request.callback_url)
        # Whose session it is, is for memory to say: what is guessed here only lets the analysis begin early.
        session_id = request.session_id
        await self._takeover.hold(principal, session_id)
        known = self._agent_names.get((principal.tenant, principal.user, session_id))
        agent = await self._agents.latest(known or await self._memory.agent_of(session_id))
        analysis = asyncio.create_task(analyze(self._nlu, agent, "" if request.queue else request.text))
        analysis.add_done_callback(succeeded)
        record = _record(principal, request, agent)
        try:
            turn = await self._begin_turn(principal, request, agent, record)
            if turn.attached and request.queue and not await self._is_accepted(principal, request, record, turn):
                turn = await self._begin_turn(principal, request, agent, record)
        except BaseException:
            analysis.cancel()
            raise
        if turn.attached or turn.queued:
            analysis.cancel()
            if turn.queued:
                return Accepted(turn.run_id, await self._wait_in_line(principal, request, record, turn), turn.left)
            self._takeover.look_after(principal, session_id)
            return Accepted(turn.run_id)
        self.remember(principal, session_id, turn.agent)
        run = LiveRun(principal, turn, self._log, self._codec, self._config.coalesce_s)
        self._driver.start(Job(run, agent, record, Progress(), analysis))
        return Accepted(turn.run_id)

    async def _begin_turn(self, principal: Principal, request: Request, agent: Agent, record: Record) -> Turn:
        """The turn as memory gives it. Where it gives none, somebody looks after the session. Raises as `begin`."""
        kept = self._codec.encode_record(record)
        wanted = NO_AMOUNTS if request.queue else self._driver.first_step(agent, request.text)
        try:
            return await self._memory.begin_turn(request, _digest(request), self._config.lease_s, kept, wanted)
        except SessionBusy:
            self._takeover.look_after(principal, request.session_id)
            raise
        except (Unavailable, DeadlineExceeded, RequestIdReused):  # it may have begun all the same
            self._takeover.go_on(principal, request.session_id, must=False)
            raise

    async def _is_accepted(self, principal: Principal, request: Request, record: Record, turn: Turn) -> bool:
        """Whether the run that the same request began before is accepted. False: it was taken back, or is forgotten.

        Whoever asked first may be about to find that the queue is full. If that is not known in time, they may be gone:
        then the run is accepted here, and nobody takes it back.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + _UNSURE_S
        try:
            while True:
                page = await self._log.read(principal, turn.run_id, 0, 1)
                if page.entries or page.standing is not Standing.QUEUED:
                    return True
                if clock() > end:
                    await self._log.announce(principal, turn.run_id, self._first_entries(request, record, turn))
                    return True
                await asyncio.sleep(_LOOK_S)
        except RunNotFound:
            return False

    async def _wait_in_line(
        self, principal: Principal, request: Request, record: Record, turn: Turn
    ) -> tuple[bytes, ...]:
        """Sees to it that a run that waits gets its turn, and begins its log, which is returned.

        Whoever ends the run before it goes on with it. What fails here is made good later, by whoever looks after the
        session. Only when the queue is full the run is taken back, as it can be until its log is begun.

        Raises:
            QueueFull: it was.
        """
        entries: tuple[bytes, ...] = self._first_entries(request, record, turn)
        placed = await self._place(principal, request, record, turn)
        try:
            if not await self._log.announce(principal, turn.run_id, entries):
                entries = ()
        except ServiceError as error:
            log.warning("run not announced", run_id=turn.run_id, reason=error.reason)
            placed, entries = False, ()
        stops = request.concurrency is not Concurrency.ENQUEUE
        if not placed:
            self._takeover.go_on(principal, request.session_id)
        elif stops or not request.queue:
            self._takeover.look_after(principal, request.session_id, must=stops)
        return entries

    async def _place(self, principal: Principal, request: Request, record: Record, turn: Turn) -> bool:
        """Puts a run that waits into its queue, if nothing is before it. False: it could not be.

        Raises:
            QueueFull: there is no room, and the run was taken back.
        """
        try:
            if request.callback_url:
                await self._callbacks.expect(principal, turn.run_id, request.callback_url)
            if request.queue and (request.due_ms or not turn.position):  # when one is due, no other may be before it
                await self._dispatch.enqueue(principal, turn.run_id, record, request.due_ms, must=False)
        except ServiceError as error:
            is_full = isinstance(error, QueueFull)
            if is_full and await self._dispatch.take_back(principal, turn.run_id, request.request_id):
                raise
            log.warning("run not put before the workers", run_id=turn.run_id, reason=error.reason)
            return False
        return True

    def _first_entries(self, request: Request, record: Record, turn: Turn) -> tuple[bytes, bytes]:
        started, waits = Started(record.agent, record.revision), Queued(turn.position, request.queue)
        return self._codec.encode(turn.run_id, 1, started), self._codec.encode(turn.run_id, 2, waits)


def _record(principal: Principal, request: Request, agent: Agent) -> Record:
    return Record(
        request.text,
        agent.name,
        agent.revision,
        tuple(principal.roles),
        request.queue,
        request.priority,
        request.callback_url,
        current_traceparent(),
    )


def _digest(request: Request) -> bytes:
    """Of what is asked: the same request id with another digest is another request."""
    return hashlib.sha256(orjson.dumps(request)).digest()
