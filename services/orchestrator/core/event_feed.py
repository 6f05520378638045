"""Watching what happens in a tenant: all who watch it in one process share one reader."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from itertools import takewhile

import structlog

from services.kit.errors import Internal, Overloaded, ServiceError, ServiceUnavailable
from services.orchestrator.domain.events import DomainEvent
from services.orchestrator.ports.store import Events

log = structlog.get_logger(__name__)

MOST_TENANTS = 16
"""Tenants that are watched at once in a process: each holds a connection to the store."""
_STOPPING = "the service is stopping"
_KEPT = 1_000
_PAGE = 500
_WAIT_S = 5.0
_HIGHEST = (1 << 64) - 1

Place = tuple[int, int]


class EventFeed:
    """What happens in each tenant, for as many watchers as there are."""

    def __init__(self, events: Events, heartbeat_s: float) -> None:
        """Reads `events`; a watcher that is told nothing for `heartbeat_s` seconds is told that."""
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._readers: dict[str, _Reader] = {}
        self._closed = False

    async def watch(
        self, tenant: str, after: str, types: Collection[str]
    ) -> AsyncGenerator[tuple[str, DomainEvent] | None]:
        """Events after a cursor, those to come included, each with its own.

        None: it is told all that there is, and listens; then again after each while of silence.

        Args:
            tenant: Whose.
            after: A cursor; `0`: before the oldest that is kept; empty: from now on.
            types: Only these. Empty: all.

        Raises:
            Overloaded: as many tenants are watched here as may be.
            StoreUnavailable: the store does not answer; resume by the last cursor.
            ServiceUnavailable: the service is stopping; likewise.
        """
        if self._closed:
            raise ServiceUnavailable(_STOPPING, retry_after=1.0)
        reader = self._readers.get(tenant)
        if reader is None or reader.lost:
            if len(self._readers) >= MOST_TENANTS:
                raise Overloaded("too many tenants are watched", retry_after=5.0)
            reader = self._readers[tenant] = _Reader(self._events, tenant)
        reader.watchers += 1
        try:
            async with aclosing(self._watch(reader, after, frozenset(types))) as told:
                async for found in told:
                    yield found
        finally:
            reader.watchers -= 1
            if not reader.watchers:
                reader.close()
            if (not reader.watchers or reader.lost) and self._readers.get(tenant) is reader:
                del self._readers[tenant]

    async def _watch(
        self, reader: "_Reader", after: str, types: frozenset[str]
    ) -> AsyncGenerator[tuple[str, DomainEvent] | None]:
        await reader.begun()
        place = place_of(after or await self._events.newest(reader.tenant))
        clock = asyncio.get_running_loop().time
        told_at, silence_s = clock(), 0.0  # the first is told at once: who watches knows then that it does
        while True:
            changed = reader.changed
            found = reader.after(place) or await self._before(reader, place)
            for place, event in found:
                if event is not None and (not types or event.type in types):
                    yield cursor_of(place), event
                    told_at = clock()
            if found:
                continue
            if reader.lost is not None:
                raise reader.lost
            try:
                async with asyncio.timeout_at(told_at + silence_s):
                    await changed.wait()
            except TimeoutError:
                yield None
                told_at, silence_s = clock(), self._heartbeat_s

    async def _before(self, reader: "_Reader", place: Place) -> Sequence[tuple[Place, DomainEvent | None]]:
        """What is right after a place, when that is further back than what the reader keeps."""
        floor = reader.floor
        if place >= floor:
            return []
        page = await self._events.read(reader.tenant, cursor_of(place), _PAGE)
        return [(place_of(cursor), event) for cursor, event in page] or [(floor, None)]

    async def close(self) -> None:
        """Ends every watch: watchers go on elsewhere, by their cursors."""
        self._closed = True
        for reader in self._readers.values():
            reader.lose(ServiceUnavailable(_STOPPING, retry_after=1.0))
            reader.close()


class _Reader:
    """Reads one tenant's events as they come, and keeps the newest for those who watch."""

    def __init__(self, events: Events, tenant: str) -> None:
        self._events = events
        self._kept: deque[tuple[Place, DomainEvent]] = deque()
        self.tenant = tenant
        self.watchers = 0
        self.floor: Place = (0, 0)
        """What is after it and was read, is kept."""
        self.changed = asyncio.Event()
        self.lost: Exception | None = None
        self._ready = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def begun(self) -> None:
        """Returns when it knows where it reads from."""
        await self._ready.wait()
        if self.lost is not None:
            raise self.lost

    def after(self, place: Place) -> list[tuple[Place, DomainEvent]]:
        """What is kept after a place, unless what is right after it is not."""
        newer: list[tuple[Place, DomainEvent]] = []
        if place >= self.floor:
            newer.extend(takewhile(lambda each: each[0] > place, reversed(self._kept)))
        return newer[::-1]

    def lose(self, error: Exception) -> None:
        """Ends all watches with `error`."""
        self.lost = self.lost or error
        self._ready.set()
        self._tell()

    def close(self) -> None:
        """Reads no more."""
        self._task.cancel()

    async def _read(self) -> None:
        try:
            at = await self._events.newest(self.tenant)
            self.floor = place_of(at)
            self._ready.set()
            while True:
                page = await self._events.read(self.tenant, at, _PAGE, _WAIT_S)
                for at, event in page:
                    self._keep(place_of(at), event)
                self._tell()
        except ServiceError as error:
            self.lose(error)
        except Exception as error:
            log.error("events not read", exc_info=error)
            self.lose(Internal("internal error"))

    def _keep(self, place: Place, event: DomainEvent) -> None:
        self._kept.append((place, event))
        if len(self._kept) > _KEPT:
            self.floor = self._kept.popleft()[0]

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


def place_of(cursor: str) -> Place:
    """A cursor as numbers, so that places compare. Beyond what a store counts to is its last place."""
    first, _, second = cursor.partition("-")
    return min(int(first), _HIGHEST), min(int(second or 0), _HIGHEST)


def cursor_of(place: Place) -> str:
    """A place as a cursor."""
    return f"{place[0]}-{place[1]}"
