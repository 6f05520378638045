"""Takes items out of a queue and works on a few at a time, saying of each that somebody is at it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.kit.errors import ServiceError
from services.kit.queue import Claimed, Queue, Unreadable
from services.kit.queue_work import working
from services.kit.telemetry import Telemetry

log = structlog.get_logger(__name__)

Work = Callable[[Claimed], Awaitable[float | None]]
"""Works on an item. Returns after how many seconds to come back to it; None: it is done. Raises Unreadable."""

_WAIT_S = 5.0
_PAUSE_S = 1.0
_AGAIN_S = (0.5, 30.0)
_MOST_DELIVERIES = 100
"""An item that breaks whoever works on it is put aside then."""


class Consumer:
    """Works on the items of one queue, as long as this process does."""

    def __init__(
        self, queue: Queue, name: str, work: Work, *, at_once: int, idle_s: float, telemetry: Telemetry
    ) -> None:
        """Begins nothing yet.

        Args:
            queue: The queues.
            name: Which of them.
            work: What to do with an item. Cancelled when somebody else has it.
            at_once: Items that are worked on at the same time.
            idle_s: After so long without a word of this process another takes its items.
            telemetry: What the process reports with.
        """
        self._queue = queue
        self._name = name
        self._work = work
        self._at_once = at_once
        self._extend_s = idle_s / 4
        self._telemetry = telemetry
        self._at_work: dict[asyncio.Task[None], Claimed] = {}
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to take items."""
        self._loops = [asyncio.create_task(self._take()), asyncio.create_task(self._hold())]

    def drain(self) -> None:
        """Takes nothing any more, and goes on with what is under way."""
        for loop in self._loops[:1]:
            loop.cancel()

    async def stop(self) -> None:
        """Takes nothing any more, and leaves what is under way to others. Safe to repeat."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        tasks = list(self._at_work)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self) -> None:
        while True:
            try:
                if len(self._at_work) >= self._at_once:
                    await asyncio.wait(self._at_work, return_when=asyncio.FIRST_COMPLETED)
                    continue
                room = self._at_once - len(self._at_work)
                for claimed in await self._queue.claim([self._name], room, _WAIT_S):
                    task = asyncio.create_task(self._attend(claimed))
                    self._at_work[task] = claimed
                    task.add_done_callback(self._at_work.pop)
                continue
            except ServiceError as error:
                log.warning("queue not read", queue=self._name, reason=error.reason)
            except Exception as error:
                log.error("queue not read", queue=self._name, exc_info=error)
            await asyncio.sleep(_PAUSE_S)

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(self._extend_s)
            for task, claimed in list(self._at_work.items()):
                try:
                    if not await self._queue.extend(claimed):
                        task.cancel()
                except ServiceError as error:
                    log.warning("item not held", queue=self._name, reason=error.reason)

    async def _attend(self, claimed: Claimed) -> None:
        try:
            with working(self._telemetry, claimed):
                delay_s = await self._work(claimed)
        except asyncio.CancelledError:
            await self._settle(claimed, 0.0, counts=False)
            raise
        except Unreadable:
            log.error("item not readable", queue=self._name, id=claimed.item.id)
            return await self._settle(claimed, None, aside=True)
        except Exception as error:
            known = isinstance(error, ServiceError)
            log.warning("item failed", queue=self._name, id=claimed.item.id, exc_info=None if known else error)
            if claimed.deliveries >= _MOST_DELIVERIES and not known:
                return await self._settle(claimed, None, aside=True)
            delay_s = min(_AGAIN_S[0] * claimed.deliveries, _AGAIN_S[1])
        await self._settle(claimed, delay_s)

    async def _settle(
        self, claimed: Claimed, delay_s: float | None, *, counts: bool = True, aside: bool = False
    ) -> None:
        try:
            if aside:
                await self._queue.bury(claimed)
            elif delay_s is None:
                await self._queue.done(claimed)
            else:
                await self._queue.put_back(claimed, delay_s, counts=counts)
        except ServiceError as error:  # it is free after the idle time
            log.warning("item not settled", queue=self._name, reason=error.reason)
