"""What a worker does: it claims runs from queues, as many as it has places, and sees them begun."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Protocol

import structlog

from services.kit.call import Principal, work_as
from services.kit.errors import (
    Aborted,
    ResourceExhausted,
    RunNotFound,
    ServiceError,
    SessionBusy,
    SessionNotFound,
    Unavailable,
)
from services.kit.hints import RunHint
from services.kit.queue import Claimed, Queue
from services.kit.queue_work import working
from services.kit.telemetry import Telemetry

log = structlog.get_logger(__name__)

MAX_DELIVERIES = 5
"""A run that was claimed more often and never begun is given up: it may be what its workers die of."""

_WAIT_S = 10.0
_PAUSE_S = 1.0
_TAKE_S = 30.0
_COMPANY_S = 0.01
"""When all places were taken, the first that is free waits so long for others: they are filled together."""

_BUSY_S = 30.0
_EXTENSIONS = 3
"""In the idle time a worker says so often that it is at it."""


class Take(Protocol):
    """Begins, or goes on with, a run that was claimed."""

    async def __call__(self, principal: Principal, session_id: str, run: int, /) -> Awaitable[None]:
        """Returns when the run is at work here. What it returns ends when the run no longer is.

        Args:
            principal: Whose run it is, without roles.
            session_id: In which session.
            run: Its number there.

        Raises:
            RunNotFound, SessionNotFound: it is over.
            SessionBusy: it is at work elsewhere, or not its turn; it has a time to wait if it is not due yet.
        """


class GiveUp(Protocol):
    """Ends a run that could not be begun."""

    async def __call__(self, principal: Principal, session_id: str, run: int, error: ServiceError, /) -> None:
        """Returns when it has ended. Raises ServiceError when it could not be ended now."""


class Worker:
    """Claims from its queues until it is drained."""

    def __init__(
        self,
        queue: Queue,
        take: Take,
        give_up: GiveUp,
        *,
        queues: Sequence[str],
        places: int,
        idle_s: float,
        retry_s: float,
        telemetry: Telemetry,
    ) -> None:
        """Claims nothing yet.

        Args:
            queue: Where from.
            take: Begins a run.
            give_up: Ends one that cannot be begun.
            queues: Their names.
            places: Runs that may be at work at once.
            idle_s: What is claimed and not heard of for so long, others claim.
            retry_s: What could not be begun is tried again after so long.
            telemetry: What the process reports with.
        """
        self._queue = queue
        self._take = take
        self._give_up = give_up
        self._queues = tuple(queues)
        self._places = places
        self._idle_s = idle_s
        self._retry_s = retry_s
        self._telemetry = telemetry
        self._task: asyncio.Task[None] | None = None
        self._at_work: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()
        self._draining = False

    def start(self) -> None:
        """Begins to claim."""
        self._task = asyncio.create_task(self._live())

    def stop(self) -> None:
        """Claims nothing more, and puts back what was not begun."""
        self._draining = True
        if self._task is not None:
            self._task.cancel()

    async def drain(self, at_most: float) -> None:
        """Stops, and waits a while for what was begun.

        Args:
            at_most: Seconds. What is at work then stays so.
        """
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=at_most)
        log.info("worker drained", left=len(self._at_work))

    async def _live(self) -> None:
        while True:
            self._freed.clear()
            free = self._places - len(self._at_work)
            if not free:
                await self._freed.wait()
                await asyncio.sleep(_COMPANY_S)
                continue
            try:
                claimed = await self._queue.claim(self._queues, free, _WAIT_S)
            except ServiceError as error:
                log.warning("nothing claimed", reason=error.reason)
                await asyncio.sleep(_PAUSE_S)
                continue
            except Exception as error:
                log.error("claiming broke", exc_info=error)
                await asyncio.sleep(_PAUSE_S)
                continue
            for each in claimed:
                self._begin(each)

    def _begin(self, claimed: Claimed) -> None:
        task = asyncio.create_task(self._work(claimed))
        self._at_work.add(task)
        task.add_done_callback(self._free)

    def _free(self, task: asyncio.Task[None]) -> None:
        self._at_work.discard(task)
        self._freed.set()

    async def _work(self, claimed: Claimed) -> None:
        """Looks at one run, and lasts as long as it is at work here."""
        try:
            with working(self._telemetry, claimed):
                await self._look(claimed)
        except ServiceError as error:  # of the queue: others claim it after the idle time
            log.warning("claim not given back", item=claimed.item.id, reason=error.reason)
        except Exception as error:
            log.error("worker broke", item=claimed.item.id, exc_info=error)

    async def _look(self, claimed: Claimed) -> None:
        try:
            hint = RunHint.read(claimed.item.body)
        except ValueError:
            log.error("item not readable", queue=claimed.queue, item=claimed.item.id)
            await self._queue.bury(claimed)
            return
        if self._draining:
            await self._queue.put_back(claimed, 0, counts=False)
            return
        principal = Principal(hint.tenant, hint.user)
        work_as(principal, name="worker", timeout=_TAKE_S)
        if claimed.deliveries > MAX_DELIVERIES:
            await self._drop(claimed, principal, hint)
            return
        at_work = await self._try(claimed, principal, hint)
        if at_work is not None:
            await asyncio.gather(at_work, return_exceptions=True)

    async def _try(self, claimed: Claimed, principal: Principal, hint: RunHint) -> Awaitable[None] | None:
        """Begins a run, and says to the queue what became of that. None: it is not at work here."""
        taking = asyncio.create_task(self._taken(principal, hint))
        while not (await asyncio.wait({taking}, timeout=self._idle_s / _EXTENSIONS))[0]:
            try:
                await self._queue.extend(claimed)
            except ServiceError as error:  # should others claim it meanwhile, they find its session busy
                log.warning("claim not held on", item=claimed.item.id, reason=error.reason)
        try:
            at_work = taking.result()
        except (RunNotFound, SessionNotFound):
            at_work = None  # it is over
        except SessionBusy as error:
            # Not due by the session's clock, which says when. Else whoever ends the run before it puts it again, which
            # makes it due. Should that be missed, this is in time.
            await self._queue.put_back(claimed, min(error.retry_after or _BUSY_S, _BUSY_S), counts=False)
            return None
        except (Unavailable, ResourceExhausted) as error:
            log.warning("not begun yet", item=claimed.item.id, reason=error.reason)
            await self._queue.put_back(claimed, error.retry_after or _PAUSE_S, counts=False)
            return None
        except Exception as error:
            log.error("not begun", item=claimed.item.id, deliveries=claimed.deliveries, exc_info=error)
            await self._queue.put_back(claimed, self._retry_s)
            return None
        try:
            await self._queue.done(claimed)
        except ServiceError as error:  # others claim it after the idle time, and find it begun
            log.warning("claim not ended", item=claimed.item.id, reason=error.reason)
        return at_work

    async def _taken(self, principal: Principal, hint: RunHint) -> Awaitable[None]:
        return await self._take(principal, hint.session_id, hint.run)

    async def _drop(self, claimed: Claimed, principal: Principal, hint: RunHint) -> None:
        log.error("given up", queue=claimed.queue, item=claimed.item.id, deliveries=claimed.deliveries)
        error = Aborted(f"the run was claimed {MAX_DELIVERIES} times, and never begun")
        try:
            await self._give_up(principal, hint.session_id, hint.run, error)
        except (RunNotFound, SessionNotFound):
            pass  # it is over
        except ServiceError as refused:
            log.warning("not given up yet", item=claimed.item.id, reason=refused.reason)
            await self._queue.put_back(claimed, self._retry_s)
            return
        await self._queue.done(claimed)
