"""What is in queues, for whoever scrapes a process."""

import asyncio
from collections.abc import Sequence

import structlog

from services.kit.errors import ServiceError
from services.kit.queue import Queue, Stats
from services.kit.telemetry import QueueMetrics

log = structlog.get_logger(__name__)

_EVERY_S = 5.0


class QueueWatch:
    """Reads the figures of some queues every few seconds."""

    def __init__(self, queue: Queue, names: Sequence[str], metrics: QueueMetrics, every_s: float = _EVERY_S) -> None:
        """Reads nothing yet. Shows the queues of these names in `metrics`."""
        self._queue = queue
        self._names = tuple(names)
        self._metrics = metrics
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to read."""
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Reads no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _live(self) -> None:
        while True:
            for name in self._names:
                self._metrics.show(name, await self._look(name))
            await asyncio.sleep(self._every_s)

    async def _look(self, name: str) -> Stats | None:
        """What is in a queue. None: the store does not say."""
        try:
            return await self._queue.stats(name)
        except Exception as error:
            known = isinstance(error, ServiceError)
            log.warning("queue not read", queue=name, exc_info=None if known else error)
            return None
