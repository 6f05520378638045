"""What happens in a tenant is told: to handlers in this process, and to whoever watches the tenant's events."""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from types import MappingProxyType

import structlog

from services.kit.call import Principal
from services.kit.errors import ServiceError
from services.kit.telemetry import EventMetrics
from services.orchestrator.domain.events import DomainEvent, EventType
from services.orchestrator.ports.store import Events

log = structlog.get_logger(__name__)

Handler = Callable[[DomainEvent], Awaitable[None]]

_FLUSH_S = 0.05
_LONGEST_PAUSE_S = 5.0
_AT_ONCE = 500
_MOST_WAITING = 10_000
_MOST_HANDLED = 1_000
_HANDLER_S = 5.0
_CLOSE_S = 2.0
_NOTHING: Mapping[str, str] = MappingProxyType({})


def happened(
    kind: EventType,
    principal: Principal,
    session_id: str,
    run_id: str = "",
    attributes: Mapping[str, str] = _NOTHING,
    *,
    part: str = "",
    time_ms: int = 0,
) -> DomainEvent:
    """An event, named so that it is the same whoever tells it, and however often.

    Args:
        kind: What happened.
        principal: Whose it is.
        session_id: In which session.
        run_id: Of which run. Empty: of none.
        attributes: What there is to say of it.
        part: Tells it from others of its kind in the same run.
        time_ms: When, ms since 1970. 0: now.
    """
    name = f"{run_id or session_id}/{kind.value}" + (f"/{part}" if part else "")
    when = time_ms or time.time_ns() // 1_000_000
    return DomainEvent(principal.tenant, name, kind.value, when, principal.user, session_id, run_id, attributes)


class EventBus:
    """Takes events from whoever has no time to wait, and tells them soon.

    Events wait up to 50 ms for company and are written in one round trip; while the store is away they wait for it, and
    beyond 10,000 of them those that come are lost, and counted. Of a process that is killed, the events of its last
    50 ms are lost, but for how runs ended: who takes over its sessions reads that from their logs (`RunEvents`).

    A handler sees the events that are published in its process, one after the other. It has 5 s for each, and 1,000 may
    wait for it; what it misses is logged and counted, and neither runs nor other handlers notice. It must not block the
    loop, and may see an event more than once.
    """

    def __init__(
        self,
        events: Events,
        metrics: EventMetrics,
        *,
        flush_s: float = _FLUSH_S,
        most_waiting: int = _MOST_WAITING,
        handler_s: float = _HANDLER_S,
    ) -> None:
        """Writes to `events`. Begins nothing before the first event."""
        self._events = events
        self._metrics = metrics
        self._flush_s = flush_s
        self._most_waiting = most_waiting
        self._handler_s = handler_s
        self._waiting: deque[DomainEvent] = deque()
        self._handlers: defaultdict[str, list[_Handling]] = defaultdict(list)
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False

    def register(self, kind: EventType, name: str, handler: Handler) -> None:
        """Has `handler` see every event of a kind from now on; `name` is what logs and metrics call it."""
        self._handlers[kind.value].append(_Handling(name, handler, self._handler_s, self._metrics))

    def publish(self, event: DomainEvent) -> None:
        """Tells an event soon. Never waits, never fails."""
        for handling in self._handlers.get(event.type, ()):
            handling.offer(event)
        if self._closed or len(self._waiting) >= self._most_waiting:
            self._metrics.lost.labels(event.type).inc()
            return
        self._waiting.append(event)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def close(self) -> None:
        """Tells what waits, for two seconds at most. What handlers have not seen by then, they miss."""
        self._closed = True
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        handlings = [handling for each in self._handlers.values() for handling in each]
        try:
            async with asyncio.timeout(_CLOSE_S):
                while self._waiting:
                    await self._write()
                await asyncio.gather(*(handling.done() for handling in handlings))
        except (ServiceError, TimeoutError) as error:
            log.warning("events not told", events=len(self._waiting), exc_info=error)
        for handling in handlings:
            handling.cancel()
        self._lose(len(self._waiting))

    async def _flush(self) -> None:
        pause = self._flush_s
        try:
            while self._waiting:
                await asyncio.sleep(pause)
                try:
                    await self._write()
                    pause = self._flush_s
                except ServiceError as error:
                    pause = min(pause * 2, _LONGEST_PAUSE_S)
                    log.warning("events wait for the store", events=len(self._waiting), reason=error.reason)
                except Exception as error:
                    log.error("events not told", exc_info=error)
                    self._lose(min(_AT_ONCE, len(self._waiting)))
        finally:
            self._flushing = None

    async def _write(self) -> None:
        batch = list(islice(self._waiting, _AT_ONCE))
        await self._events.publish(batch)
        for _ in batch:
            self._waiting.popleft()
        for kind, count in Counter(event.type for event in batch).items():
            self._metrics.published.labels(kind).inc(count)

    def _lose(self, count: int) -> None:
        for _ in range(count):
            self._metrics.lost.labels(self._waiting.popleft().type).inc()


class _Handling:
    """One handler, with what waits for it."""

    def __init__(self, name: str, handler: Handler, deadline_s: float, metrics: EventMetrics) -> None:
        self._name = name
        self._handler = handler
        self._deadline_s = deadline_s
        self._failures = metrics.handler_failures
        self._waiting: deque[DomainEvent] = deque()
        self._task: asyncio.Task[None] | None = None

    def offer(self, event: DomainEvent) -> None:
        if len(self._waiting) >= _MOST_HANDLED:
            self._failures.labels(self._name, "full").inc()
            return
        self._waiting.append(event)
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def done(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._handle(self._waiting.popleft())
        finally:
            self._task = None

    async def _handle(self, event: DomainEvent) -> None:
        try:
            async with asyncio.timeout(self._deadline_s) as timer:
                await self._handler(event)
        except Exception as error:
            # Whatever a handler raises is its own affair.
            why = "late" if isinstance(error, TimeoutError) and timer.expired() else "failed"
            log.error("event not handled", handler=self._name, why=why, event_id=event.id, exc_info=error)
            self._failures.labels(self._name, why).inc()
