"""Callbacks of runs: the address is kept with the run, and toolexec is asked to tell it how the run ended."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import structlog

from services.kit.call import Principal, current_traceparent
from services.kit.callbacks import Callback
from services.kit.errors import Overloaded, ServiceError
from services.kit.queue import CALLBACK_QUEUE, Item, Queue
from services.kit.run_ids import session_of
from services.orchestrator.domain.log import Cancelled, Completed, Last
from services.orchestrator.domain.run import CallbackOutcome
from services.orchestrator.ports.services import Tools
from services.orchestrator.ports.store import CallbackStore

log = structlog.get_logger(__name__)

_RETRY_S, _LONGEST_S = 0.25, 30.0
_MOST = 10_000
"""So many callbacks may wait here for their queue. Then no more runs are taken, so that none has to be forgotten."""


@dataclass(frozen=True, slots=True)
class _Told:
    """A callback to be put. No `url`: it is the one that is kept with the run."""

    principal: Principal
    run_id: str
    url: str
    state: str
    end_ms: int
    traceparent: str


class Callbacks:
    """What is promised to the addresses that clients name."""

    def __init__(self, store: CallbackStore, queue: Queue, tools: Tools, retry_s: float = _RETRY_S) -> None:
        """Keeps addresses in `store`; whoever sends takes from `queue`. While one is away, waits so long and longer."""
        self._store = store
        self._queue = queue
        self._tools = tools
        self._retry_s = retry_s
        self._unsent: OrderedDict[tuple[str, str], _Told] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def sessions(self) -> list[tuple[Principal, str]]:
        """Sessions with a callback that could not be put yet: should this process die, others put it."""
        return [(told.principal, session_of(told.run_id)) for told in self._unsent.values()]

    def check_room(self) -> None:
        """Returns when one more may have to wait here. Those of runs that are at work by now always may.

        Raises:
            Overloaded: too many do already.
        """
        if len(self._unsent) >= _MOST:
            raise Overloaded("too many callbacks wait for their queue", retry_after=1.0)

    def close(self) -> None:
        """Tries no more."""
        if self._task is not None:
            self._task.cancel()

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
        """Has the address of a run that ended told; later, while the queue is away.

        Args:
            principal: Whose run.
            run_id: The run.
            url: The address. Empty: the one that is kept with the run, if there is one.
            last: How it ended.
            end_ms: When, milliseconds since 1970.
        """
        state = "completed" if isinstance(last, Completed) else "cancelled" if isinstance(last, Cancelled) else "failed"
        told = _Told(principal, run_id, url, state, end_ms, current_traceparent())
        if not await self._is_put(told):
            self._keep(told)

    def _keep(self, told: _Told) -> None:
        self._unsent[told.principal.tenant, told.run_id] = told
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send_later())

    async def _send_later(self) -> None:
        """Puts what waits, one after the other; slower and slower while that fails."""
        pause_s = self._retry_s
        while self._unsent:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_S)
            for key, told in list(self._unsent.items()):
                if not await self._is_put(told):
                    if key in self._unsent:  # the others come first next time
                        self._unsent.move_to_end(key)
                    break
                self._unsent.pop(key, None)
                pause_s = self._retry_s

    async def _is_put(self, told: _Told) -> bool:
        try:
            url = told.url or await self._store.pending(told.principal, told.run_id)
            if url:
                callback = Callback(told.run_id, url, told.state, told.end_ms)
                await self._put(callback.item(told.principal, told.traceparent))
        except ServiceError as error:
            log.warning("callback not put", run_id=told.run_id, reason=error.reason)
            return False
        return True

    async def send_again(self, principal: Principal, run_id: str, reason: str, end_ms: int) -> None:
        """As `send`, for a run whose process is gone. One that was told is not told again."""
        url = await self._store.pending(principal, run_id)
        if url:
            state = {"": "completed", "CANCELLED": "cancelled"}.get(reason, "failed")
            await self._put(Callback(run_id, url, state, end_ms).item(principal))

    async def _put(self, item: Item) -> None:
        await self._queue.put(CALLBACK_QUEUE, [item], must=True)
