"""Callbacks of runs: the address is kept with the run, and toolexec is asked to tell it how the run ended."""

import asyncio
import time

import structlog

from services.kit.call import Principal
from services.kit.callbacks import CALLBACKS, Callback
from services.kit.errors import ServiceError
from services.kit.queue import Queue
from services.orchestrator.domain.log import Cancelled, Completed, Last
from services.orchestrator.domain.run import CallbackOutcome
from services.orchestrator.domain.turn import Usage
from services.orchestrator.ports.services import Tools
from services.orchestrator.ports.store import CallbackStore

log = structlog.get_logger(__name__)

_TRIES = 20
_RETRY_S = 0.25


class Callbacks:
    """What is promised to the addresses that clients name."""

    def __init__(self, store: CallbackStore, queue: Queue, tools: Tools) -> None:
        """Keeps addresses in `store`; whoever sends takes from `queue`."""
        self._store = store
        self._queue = queue
        self._tools = tools

    async def check(self, url: str) -> None:
        """Returns when an address may be called back.

        Raises:
            InvalidArgument: it may not, with `callback_url` as its field.
        """
        await self._tools.check_callback(url)

    async def expect(self, principal: Principal, run_id: str, url: str) -> None:
        """Keeps the address with a run that was accepted: it is told also when the process that ends the run dies."""
        await self._store.expect(principal, run_id, url)

    async def outcome(self, principal: Principal, run_id: str) -> CallbackOutcome | None:
        """What became of a run's callback. None: it has none."""
        return await self._store.outcome(principal, run_id)

    async def send(self, principal: Principal, run_id: str, url: str, last: Last, end_ms: int) -> None:
        """Has the address of a run that ended told. Keeps trying for a moment while the queue is away."""
        state = "completed" if isinstance(last, Completed) else "cancelled" if isinstance(last, Cancelled) else "failed"
        for _ in range(_TRIES):
            try:
                return await self._put(principal, run_id, url, state, end_ms)
            except ServiceError as error:
                log.warning("callback not put", run_id=run_id, reason=error.reason)
            await asyncio.sleep(_RETRY_S)

    async def send_dropped(self, principal: Principal, run_id: str) -> None:
        """As `send`, for a run that was cancelled before it began."""
        try:
            url = await self._store.pending(principal, run_id)
        except ServiceError as error:
            log.warning("callback not put", run_id=run_id, reason=error.reason)
            return
        if url:
            await self.send(principal, run_id, url, Cancelled("", Usage()), time.time_ns() // 1_000_000)

    async def send_again(self, principal: Principal, run_id: str, reason: str, end_ms: int) -> None:
        """As `send`, for a run whose process is gone. One that was told is not told again."""
        url = await self._store.pending(principal, run_id)
        if url:
            state = {"": "completed", "CANCELLED": "cancelled"}.get(reason, "failed")
            await self._put(principal, run_id, url, state, end_ms)

    async def _put(self, principal: Principal, run_id: str, url: str, state: str, end_ms: int) -> None:
        await self._queue.put(CALLBACKS, [Callback(run_id, url, state, end_ms).item(principal)])
