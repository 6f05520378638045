"""Runs from acceptance to their last event: who may begin, watch, answer and stop them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection

from services.kit.call import Principal
from services.kit.errors import ResourceExhausted, ServiceError, Unavailable
from services.kit.queue import Queue
from services.kit.run_ids import session_of
from services.kit.telemetry import QueueMetrics
from services.orchestrator.config import Config
from services.orchestrator.core.accepting import Accepting
from services.orchestrator.core.callbacks import Callbacks
from services.orchestrator.core.dead_letters import keep, take_back
from services.orchestrator.core.dispatch import Dispatch, read_weights
from services.orchestrator.core.driver import Driver
from services.orchestrator.core.intervening import Intervening
from services.orchestrator.core.job import Job
from services.orchestrator.core.live import LiveRun
from services.orchestrator.core.resuming import Resuming, succeeded
from services.orchestrator.core.run_events import RunEvents
from services.orchestrator.core.takeover import Takeover
from services.orchestrator.core.untold import UntoldStops
from services.orchestrator.core.watching import Watching
from services.orchestrator.domain.log import Last
from services.orchestrator.domain.run import (
    Accepted,
    Answer,
    CallbackOutcome,
    DeadLetter,
    Next,
    Request,
    Responded,
    Standing,
)
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import Memory, Notices, Owners, RunLog
from services.orchestrator.ports.services import Agents, Model, Nlu, Retrieval, Tools
from services.orchestrator.ports.store import DeadLetters


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
        events: RunEvents,
        owners: Owners,
        notices: Notices,
        queue: Queue,
        callbacks: Callbacks,
        dead_letters: DeadLetters,
        metrics: QueueMetrics,
        config: Config,
        classes: Collection[str] = (),
    ) -> None:
        """Works with these ports, and on runs of these classes of the queue."""
        self._log, self._codec, self._config = run_log, codec, config
        self._dead_letters, self._metrics = dead_letters, metrics
        self._events = events
        self._callbacks = callbacks
        self._closing = False
        self._beginning: set[asyncio.Task[Accepted]] = set()
        self._notices = notices
        self._watching = Watching(run_log, notices, codec, config.heartbeat_s)
        self._dispatch = Dispatch(queue, run_log, codec, self._go_on, read_weights(config.tenant_weights))
        self._untold = UntoldStops(self._stop_left)
        self._driver = Driver(
            memory=memory,
            retrieval=retrieval,
            tools=tools,
            model=model,
            run_log=run_log,
            codec=codec,
            events=events,
            config=config,
            ended=self._ended,
            remind=self._dispatch.remind,
            gives_up=self._gives_up,
            lost=self._lost,
            parked=self._parked,
            untold=self._untold.keep,
            now=owners.now,
        )
        self._resuming = Resuming(
            memory=memory,
            agents=agents,
            nlu=nlu,
            run_log=run_log,
            codec=codec,
            driver=self._driver,
            dispatch=self._dispatch,
            config=config,
            classes=classes,
        )
        self._takeover = Takeover(
            owners, self._look, self._driver.sessions, config.owner_s, events.tell_again, callbacks.sessions
        )
        self._accepting = Accepting(
            memory=memory,
            agents=agents,
            nlu=nlu,
            run_log=run_log,
            codec=codec,
            callbacks=callbacks,
            driver=self._driver,
            dispatch=self._dispatch,
            takeover=self._takeover,
            config=config,
        )
        self._intervening = Intervening(
            run_log, codec, events, callbacks, self._driver, self._dispatch, self._takeover, self._untold
        )

    def start(self) -> None:
        """Begins to look for runs whose owner is gone, and to hear of those told to stop elsewhere."""
        self._takeover.start()
        self._notices.start(self._driver.hear_of_stop)

    async def close(self) -> None:
        """Hands the runs that are left to other processes. Who watches them here is told to go on there."""
        self._closing = True
        await self._takeover.stop()
        await asyncio.gather(*self._beginning, return_exceptions=True)
        await self._driver.close()
        await self._untold.close()
        self._callbacks.close()
        await self._takeover.leave()

    def remember(self, principal: Principal, session_id: str, agent: str) -> None:
        """Keeps whom a session is with. As `Accepting.remember`."""
        self._accepting.remember(principal, session_id, agent)

    async def begin(self, principal: Principal, request: Request, left: Callable[[str], None]) -> str:
        """As `accept`. Returns the run's id."""
        return (await self.accept(principal, request, left)).run_id

    async def accept(self, principal: Principal, request: Request, left: Callable[[str], None]) -> Accepted:
        """Begins a run, or has it wait for its turn, or finds the one that the same request began.

        Args:
            principal: Who asks.
            request: What for.
            left: Told the run's id when the caller has left before it could be returned.

        Raises:
            ServiceError: as `Accepting.begin`.
            ResourceExhausted: too many runs are at work here.
            Unavailable: the service is stopping.
        """
        if self._closing:
            raise Unavailable("the service is stopping", retry_after=1.0)
        if len(self._driver.live) + len(self._beginning) >= self._config.max_runs:
            raise ResourceExhausted("too many runs are at work", retry_after=1.0)
        # Not cut short by a caller who leaves: the session would stay taken by a run that nobody works on.
        beginning = asyncio.create_task(self._accepting.begin(principal, request))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(lambda done: left(done.result().run_id) if succeeded(done) else None)
            raise

    async def resume(self, principal: Principal, session_id: str) -> Awaitable[None]:
        """Goes on in a session. As `Resuming.resume`."""
        return await self._resuming.resume(principal, session_id)

    async def take(self, principal: Principal, session_id: str, number: int) -> Awaitable[None]:
        """Takes a run whose turn in the queue has come. As `resume`; others go on with it if this process dies.

        Raises:
            ServiceError: as `resume`.
            Overloaded: too many callbacks wait here.
            Unavailable: the service is stopping.
        """
        if self._closing:
            raise Unavailable("the service is stopping", retry_after=1.0)
        self._callbacks.check_room()
        await self._takeover.hold(principal, session_id)
        return await self._resuming.resume(principal, session_id, number)

    async def give_up(self, principal: Principal, session_id: str, number: int, error: ServiceError) -> None:
        """Ends a run that no worker can take, as a dead letter. Raises as `take`."""
        self._callbacks.check_room()
        await self._takeover.hold(principal, session_id)
        await self._resuming.resume(principal, session_id, number, error)

    async def watch(self, principal: Principal, run_id: str, after_sequence: int) -> AsyncGenerator[bytes | None]:
        """Entries of a run after a cursor, those to come included, until its last, or until it waits.

        None: nothing for a while.

        Raises:
            RunNotFound: the caller has no such run.
        """
        run = self._driver.find(principal, run_id)
        if run is not None:
            entries = run.shown.watch(after_sequence, self._config.heartbeat_s)
        else:
            entries = self._watching.watch(principal, run_id, after_sequence)
        try:
            async for entry in entries:
                yield entry
        finally:
            await entries.aclose()

    async def bounds(self, principal: Principal, run_id: str) -> tuple[bytes, bytes, Standing]:
        """The first and the newest entry of a run, and how it stands.

        Raises:
            RunNotFound: the caller has no such run, or it has not logged anything yet.
        """
        return await self._log.bounds(principal, run_id)

    async def callback(self, principal: Principal, run_id: str) -> CallbackOutcome | None:
        """What became of a run's callback. None: it has none."""
        return await self._callbacks.outcome(principal, run_id)

    async def cancel(self, principal: Principal, run_id: str) -> None:
        """Tells a run to stop. As `Intervening.cancel`."""
        await self._intervening.cancel(principal, run_id)

    async def leave(self, principal: Principal, run_id: str) -> None:
        """Stops a run whose client has gone. As `Intervening.leave`."""
        await self._intervening.leave(principal, run_id)

    async def respond(self, principal: Principal, run_id: str, token: str, answer: Answer) -> Responded:
        """Gives a run the answer it waits for. As `Intervening.respond`."""
        return await self._intervening.respond(principal, run_id, token, answer)

    async def _ended(self, job: Job, last: Last, due: Next | None) -> None:
        """Goes on with the session of a run that has ended, and has its end told."""
        end_ms = int(time.time() * 1000)
        if due is not None:  # first: it does not wait for a queue of callbacks that is away
            await self._dispatch.next_in_line(job.run.principal, due)
        if job.record.callback_url:
            run = job.run
            await self._callbacks.send(run.principal, run.turn.run_id, job.record.callback_url, last, end_ms)

    async def _look(self, principal: Principal, session_id: str) -> None:
        """Goes on in a session, and sees to it that its line will be gone on with. Raises as `resume`."""
        try:
            await self.resume(principal, session_id)
        finally:
            await self._dispatch.put_later(principal, session_id)

    def _go_on(self, principal: Principal, session_id: str) -> None:
        self._takeover.go_on(principal, session_id)

    def _lost(self, run: LiveRun) -> None:
        """Goes on, as soon as that can be, with a run that could not be brought to its end."""
        self._takeover.go_on(run.principal, session_of(run.turn.run_id))

    async def _stop_left(self, principal: Principal, run_id: str) -> None:
        """Stops a run whose client has gone, and that nobody may be at work on by now. Raises as `cancel`."""
        await self.cancel(principal, run_id)
        self._takeover.go_on(principal, session_of(run_id))

    def _parked(self, run: LiveRun) -> None:
        """Has the budgets of a run that waits told what it has spent: memory does that when asked to go on."""
        self._takeover.look_after(run.principal, session_of(run.turn.run_id), must=True)

    async def _gives_up(self, job: Job, error: ServiceError, end: Callable[[], Awaitable[None]]) -> None:
        """Ends a run of a queue that failed for the last time, and keeps it as a dead letter."""
        principal, run_id = job.run.principal, job.run.turn.run_id
        now_ms = time.time_ns() // 1_000_000
        letter = DeadLetter(run_id, principal.user, job.record, job.progress.failures + 1, error, now_ms)
        self._metrics.dead_letters.labels(job.record.queue).inc()
        await keep(self._dead_letters, principal, letter, self._config.end_s)
        await end()
        await take_back(self._dead_letters, self._log, self._codec, principal, run_id)
