"""A queue that loses nothing: what waits for a worker, and what a worker has claimed.

What is queued is a hint to look at something whose truth is kept elsewhere, so that a hint may come twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

RUN_QUEUES = ("SIMPLE", "COMPLEX", "GPU")
"""Queues of runs, one for each class."""

TOOL_QUEUE, CALLBACK_QUEUE = "tools", "callbacks"
"""Queues of tools in the background, and of addresses to be told how runs ended."""

LOWEST, HIGHEST = 0, 9
"""Priorities."""

MOST_DEAD = 100
"""Items of a queue that are kept although nobody could read or work on them: the newest."""


class Unreadable(ValueError):
    """What an item carries is not what its worker can read."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is to be looked at.

    Args:
        id: Names it within its queue; at most 512 bytes.
        tenant: Whose it is. Tenants get their turns in a queue by their weights, however much each has waiting.
        body: What the worker needs to know.
        priority: 0 to 9: of a tenant's items the highest is claimed first, of equal ones the first that was put.
        due_ms: It is not claimed before, ms since the epoch by the queue's clock. 0: at once.
        weight: The tenant's share: one with 2 gets twice as many turns as one with 1. Above 0, at most 100.
        traceparent: The trace that the work on it belongs to, as W3C writes it. Empty: none.
        after_ms: It is due so long after it was put, by the queue's clock, in place of `due_ms`; of what was claimed it
            is always 0.
    """

    id: str
    tenant: str
    body: bytes
    priority: int = 5
    due_ms: int = 0
    weight: float = 1.0
    traceparent: str = ""
    after_ms: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError when it is none of these."""
        if not self.id or len(self.id.encode()) > 512 or not self.tenant:
            raise ValueError("an item needs an id of at most 512 bytes and a tenant")
        if not LOWEST <= self.priority <= HIGHEST or not 0 < self.weight <= 100 or self.due_ms < 0:
            raise ValueError("priority is 0 to 9, weight above 0 and at most 100, due_ms not negative")


@dataclass(frozen=True, slots=True)
class Claimed:
    """An item that one worker holds until it says what became of it, or was silent too long.

    Args:
        queue: Where it was claimed.
        item: The item.
        deliveries: How often it was claimed, this time included, since it was put.
        ticket: Names the claim, for the queue alone.
    """

    queue: str
    item: Item
    deliveries: int
    ticket: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """What is in a queue.

    Args:
        waiting: Items that could be claimed now.
        delayed: Items that are not due yet.
        claimed: Items that workers hold.
        oldest_s: Since when the oldest of those waiting could have been claimed, seconds. 0: none waits.
        dead: Items that nobody could read or work on, of those that are kept.
    """

    waiting: int = 0
    delayed: int = 0
    claimed: int = 0
    oldest_s: float = 0.0
    dead: int = 0


class Queue(Protocol):
    """Queues by name, as one worker or producer sees them. Each call raises StoreUnavailable when it cannot be had."""

    async def put(self, queue: str, items: Sequence[Item], *, must: bool = False) -> None:
        """Puts items, all or none of up to 500; more go in parts.

        What belongs to something that was accepted `must` be put, however much the tenant has there. It does not count.

        An id that waits there already changes nothing, except that it is due earlier if it is so now. One that is
        claimed waits anew, as it is put now, when that claim is given up or done: what it hints at may have changed
        since the worker looked.

        Raises:
            QueueFull: a tenant would have too many there; none was put.
        """

    async def claim(self, queues: Sequence[str], limit: int, wait_s: float) -> list[Claimed]:
        """Claims up to `limit` items, in their order; of the queues each comes first in its turn.

        Waits up to `wait_s` for the first. What a worker claimed and then was silent about for the idle time counts as
        not claimed. Who is cancelled here has claimed nothing.
        """

    async def extend(self, claimed: Claimed) -> bool:
        """Says that this worker is still at it. False: it is no longer its own."""

    async def done(self, claimed: Claimed) -> bool:
        """Takes it out of the queue. False, and nothing changed: it was no longer this worker's."""

    async def bury(self, claimed: Claimed) -> bool:
        """As `done`, for what nobody can read or work on: of that the newest 100 are kept for 14 days, for people."""

    async def put_back(self, claimed: Claimed, delay_s: float, *, counts: bool = True) -> bool:
        """Lets it wait again, due after a while. False, and nothing changed: it was no longer this worker's.

        Args:
            claimed: The claim.
            delay_s: After so long it is due.
            counts: Whether this was one of its deliveries.
        """

    async def remove(self, queue: str, id: str) -> bool:
        """Takes out what waits. False: it is not there, or is claimed."""

    async def stats(self, queue: str) -> Stats:
        """What is in a queue now."""

    async def close(self) -> None:
        """Waits for nothing any more. What is claimed stays so until the idle time is over."""
