"""Queues in this process: what `Queue` means, in the fewest words."""

import asyncio
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.kit.errors import QueueFull
from services.kit.queue import MOST_DEAD, Claimed, Item, Stats

_WAIT_S = 0.05
"""How long a worker waits before it looks again, when nobody wakes it."""


@dataclass(slots=True)
class _Entry:
    item: Item
    order: int
    since: float
    free: bool
    """It does not count."""
    deliveries: int = 0
    ticket: str = ""
    """Empty: nobody holds it."""
    heard: float = 0.0
    again: Item | None = None


@dataclass
class InMemoryQueues:
    """Queues that several workers share."""

    entries: dict[tuple[str, str], _Entry] = field(default_factory=dict)
    turns: dict[tuple[str, str], float] = field(default_factory=dict)
    """Queue and tenant to the turns it got, as long as it has something."""
    dead: defaultdict[str, deque[Item]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=MOST_DEAD)))
    """Queue to what nobody could read."""
    order: "itertools.count[int]" = field(default_factory=itertools.count)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class InMemoryQueue:
    """`Queue` for one worker or producer among those that share its queues."""

    def __init__(self, shared: InMemoryQueues, idle_s: float, max_of_a_tenant: int = 100_000) -> None:
        """As `RedisQueue`."""
        self._shared = shared
        self._idle_s = idle_s
        self._max = max_of_a_tenant
        self._first = 0

    async def put(self, queue: str, items: Sequence[Item], *, must: bool = False) -> None:
        """Puts items, all or none."""
        entries = self._shared.entries
        new = {item.id: item for item in reversed(items) if (queue, item.id) not in entries}
        for tenant in set() if must or not self._max else {item.tenant for item in new.values()}:
            there = [entry.item for (name, _), entry in entries.items() if name == queue and not entry.free]
            if sum(item.tenant == tenant for item in (*there, *new.values())) > self._max:
                raise QueueFull("as many items of the tenant wait in the queue as may", retry_after=1)
        for item in map(_fixed, items):
            entry = entries.get((queue, item.id))
            if entry is None:
                entries[queue, item.id] = _Entry(item, next(self._shared.order), time.time(), must)
            elif entry.item.tenant != item.tenant:
                continue
            elif entry.ticket:
                entry.again = item
            elif item.due_ms < entry.item.due_ms:
                entry.item = replace(entry.item, due_ms=item.due_ms)
        self._wake()

    async def claim(self, queues: Sequence[str], limit: int, wait_s: float) -> list[Claimed]:
        """Claims up to `limit` items, and waits for the first."""
        end = time.monotonic() + wait_s
        while True:
            changed = self._shared.changed
            claimed = self._try(queues, limit)
            left_s = end - time.monotonic()
            if claimed or left_s <= 0:
                return claimed
            try:
                async with asyncio.timeout(min(left_s, _WAIT_S)):
                    await changed.wait()
            except TimeoutError:
                pass

    async def extend(self, claimed: Claimed) -> bool:
        """Says that this worker is still at it."""
        entry = self._held(claimed)
        if entry is not None:
            entry.heard = time.monotonic()
        return entry is not None

    async def done(self, claimed: Claimed) -> bool:
        """Takes it out of the queue."""
        return self._end(claimed, None)

    async def bury(self, claimed: Claimed) -> bool:
        """Takes out what nobody can read, and keeps it."""
        entry = self._held(claimed)
        if entry is not None and entry.again is None:
            self._shared.dead[claimed.queue].append(entry.item)
        return self._end(claimed, None)

    async def put_back(self, claimed: Claimed, delay_s: float, *, counts: bool = True) -> bool:
        """Lets it wait again, due after a while."""
        entry = self._held(claimed)
        if entry is not None and not counts:
            entry.deliveries -= 1
        return self._end(claimed, delay_s)

    async def remove(self, queue: str, id: str) -> bool:
        """Takes out what waits."""
        entry = self._shared.entries.get((queue, id))
        if entry is None or entry.ticket:
            if entry is not None:
                entry.again = None
            return False
        del self._shared.entries[queue, id]
        return True

    async def stats(self, queue: str) -> Stats:
        """What is in a queue now."""
        now = time.time()
        entries = [entry for (name, _), entry in self._shared.entries.items() if name == queue]
        waiting = [entry for entry in entries if not entry.ticket and _due(entry) <= now]
        claimed = sum(bool(entry.ticket) for entry in entries)
        oldest_s = now - min((max(_due(entry), entry.since) for entry in waiting), default=now)
        dead = len(self._shared.dead[queue])
        return Stats(len(waiting), len(entries) - len(waiting) - claimed, claimed, oldest_s, dead)

    async def close(self) -> None:
        """Nothing waits beyond its call."""

    def _try(self, queues: Sequence[str], limit: int) -> list[Claimed]:
        self._first += 1
        claimed: list[Claimed] = []
        for place in range(len(queues)):
            queue = queues[(self._first + place) % len(queues)]
            while len(claimed) < limit and (entry := self._next(queue)) is not None:
                entry.deliveries += 1
                entry.ticket, entry.heard = str(next(self._shared.order)), time.monotonic()
                claimed.append(Claimed(queue, entry.item, entry.deliveries, entry.ticket))
        return claimed

    def _next(self, queue: str) -> _Entry | None:
        """What is next: what its worker no longer holds, then of the tenant that had least."""
        entries = [entry for (name, _), entry in self._shared.entries.items() if name == queue]
        silent = time.monotonic() - self._idle_s
        for entry in entries:
            if entry.ticket and entry.heard < silent:
                return entry
        now = time.time()
        waiting = [entry for entry in entries if not entry.ticket and _due(entry) <= now]
        turns = {entry.item.tenant: self._turns(queue, entry.item.tenant) for entry in waiting}
        for name, tenant in [key for key in self._shared.turns if key[0] == queue and key[1] not in turns]:
            if self._shared.turns[name, tenant] <= min(turns.values(), default=float("inf")):
                del self._shared.turns[name, tenant]  # it has caught up with nobody: it begins anew when it comes back
        if not waiting:
            return None
        tenant = min(turns, key=lambda each: (turns[each], each))
        entry = min((e for e in waiting if e.item.tenant == tenant), key=lambda e: (-e.item.priority, e.order))
        self._shared.turns[queue, tenant] += 1 / entry.item.weight
        return entry

    def _turns(self, queue: str, tenant: str) -> float:
        others = [turns for (name, _), turns in self._shared.turns.items() if name == queue]
        return self._shared.turns.setdefault((queue, tenant), min(others, default=0.0))

    def _held(self, claimed: Claimed) -> _Entry | None:
        entry = self._shared.entries.get((claimed.queue, claimed.item.id))
        return entry if entry is not None and entry.ticket == claimed.ticket else None

    def _end(self, claimed: Claimed, delay_s: float | None) -> bool:
        entry = self._held(claimed)
        if entry is None:
            return False
        if entry.again is not None:
            entry.item, entry.again, entry.deliveries = entry.again, None, 0
        elif delay_s is not None:
            entry.item = replace(entry.item, due_ms=int((time.time() + delay_s) * 1000))
        else:
            del self._shared.entries[claimed.queue, claimed.item.id]
            return True
        entry.ticket, entry.order, entry.since = "", next(self._shared.order), time.time()
        self._wake()
        return True

    def _wake(self) -> None:
        self._shared.changed.set()
        self._shared.changed = asyncio.Event()


def _fixed(item: Item) -> Item:
    """An item that is due at a time, not after a while."""
    return replace(item, due_ms=int(time.time() * 1000) + item.after_ms, after_ms=0) if item.after_ms else item


def _due(entry: _Entry) -> float:
    return entry.item.due_ms / 1000
