"""Queues in Redis: the functions of `lua/queue.lua` and `lua/queue_claims.lua`, and how a worker waits."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

from services.kit.functions import Argument
from services.kit.keys import QueueKeys
from services.kit.queue import MOST_DEAD, Claimed, Item, Stats
from services.kit.redis import Redis

_AT_ONCE = 500
"""Items that are put in one step of the server."""

_LISTEN_S = 10.0
_LOOKS = 4
"""In the idle time a worker looks so often for what others no longer hold."""

_DONE, _DEAD = -1, -2
"""What `queue_end` takes for a delay."""


Found = tuple[list[Claimed], float]
"""What was claimed, and after how many seconds more can be."""


class RedisQueue:
    """`Queue` for one worker or producer."""

    def __init__(self, redis: Redis, consumer: str, idle_s: float = 10.0, max_of_a_tenant: int = 100_000) -> None:
        """Waits for nothing yet.

        Args:
            redis: Where the queues are.
            consumer: The worker's name, no other's.
            idle_s: What a worker claimed and was silent about for so long, others claim; they notice in half of that
                again.
            max_of_a_tenant: Items a tenant may have in a queue, but for those that must be put. 0: any number.
        """
        self._redis = redis
        self._me = consumer
        self._idle_s = idle_s
        self._max = max_of_a_tenant
        self._keys: dict[str, QueueKeys] = {}
        self._first = 0
        self._looked: dict[str, float] = {}
        self._wakes: dict[str, bytes] = {}
        self._listening: dict[str, asyncio.Task[None]] = {}

    async def put(self, queue: str, items: Sequence[Item], *, must: bool = False) -> None:
        """Puts items, all or none of up to 500."""
        for at in range(0, len(items), _AT_ONCE):
            arguments: list[Argument] = [0 if must else self._max]
            for item in items[at : at + _AT_ONCE]:
                due = f"+{item.after_ms}" if item.after_ms else item.due_ms
                arguments += (item.id, item.tenant, item.priority, repr(item.weight), due, item.body)
                arguments.append(item.traceparent)
            await self._call("queue_put", queue, *arguments)

    async def claim(self, queues: Sequence[str], limit: int, wait_s: float) -> list[Claimed]:
        """Claims up to `limit` items, and waits for the first."""
        clock = asyncio.get_running_loop().time
        end = clock() + wait_s
        while True:
            claimed, next_s = await self._whole(self._try_all(queues, limit))
            left_s = min(end - clock(), next_s, self._idle_s / _LOOKS)
            if claimed or clock() >= end:
                return claimed
            await self._wait(queues, left_s)

    async def extend(self, claimed: Claimed) -> bool:
        """Says that this worker is still at it."""
        return await self._about("queue_extend", claimed, self._me)

    async def done(self, claimed: Claimed) -> bool:
        """Takes it out of the queue."""
        return await self._about("queue_end", claimed, _DONE, 1, MOST_DEAD)

    async def bury(self, claimed: Claimed) -> bool:
        """Takes out what nobody can read, and keeps it."""
        return await self._about("queue_end", claimed, _DEAD, 1, MOST_DEAD)

    async def put_back(self, claimed: Claimed, delay_s: float, *, counts: bool = True) -> bool:
        """Lets it wait again, due after a while."""
        return await self._about("queue_end", claimed, max(0, int(delay_s * 1000)), int(counts), MOST_DEAD)

    async def remove(self, queue: str, id: str) -> bool:
        """Takes out what waits."""
        return bool(await self._call("queue_remove", queue, id))

    async def stats(self, queue: str) -> Stats:
        """What is in a queue now."""
        waiting, delayed, claimed, oldest_ms, dead = await self._call("queue_stats", queue)
        return Stats(waiting, delayed, claimed, oldest_ms / 1000, dead)

    async def close(self) -> None:
        """Waits for nothing any more."""
        for task in self._listening.values():
            task.cancel()
        await asyncio.gather(*self._listening.values(), return_exceptions=True)

    async def _whole(self, trying: Coroutine[None, None, Found]) -> Found:
        """What was found. Who is cancelled meanwhile gives it back: a claim that nobody knows of delays its items."""
        task = asyncio.create_task(trying)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # What cannot be given back is free after the idle time. Whatever the store says, this one is cancelled.
            with contextlib.suppress(Exception):
                for claimed in (await task)[0]:
                    await self.put_back(claimed, 0, counts=False)
            raise

    async def _try_all(self, queues: Sequence[str], limit: int) -> Found:
        """What can be claimed now, and after how many seconds more can be."""
        claimed: list[Claimed] = []
        next_s = float("inf")
        self._first += 1
        for place in range(len(queues)):
            if len(claimed) >= limit:
                break
            queue = queues[(self._first + place) % len(queues)]
            more, due_s = await self._try(queue, limit - len(claimed))
            claimed += more
            next_s = min(next_s, due_s)
        return claimed, next_s

    async def _try(self, queue: str, limit: int) -> Found:
        now = asyncio.get_running_loop().time()
        looks = now - self._looked.get(queue, float("-inf")) >= self._idle_s / _LOOKS
        idle_ms = int(self._idle_s * 1000) if looks else 0
        arguments = (self._me, limit, idle_ms, MOST_DEAD)
        next_ms, self._wakes[queue], *found = await self._call("queue_claim", queue, *arguments)
        if looks:
            self._looked[queue] = now
        return [_read(queue, each) for each in found], next_ms / 1000 if next_ms >= 0 else float("inf")

    async def _wait(self, queues: Sequence[str], at_most: float) -> None:
        """Returns when something was put into one of the queues since they were tried, or after a while.

        What listens goes on listening beyond this wait: to stop it would cost the connection.
        """
        for queue in queues:
            if queue not in self._listening or _failed(self._listening[queue]):  # a failure before this wait is no news
                self._listening[queue] = asyncio.create_task(self._listen(queue, self._wakes[queue]))
        listening = {queue: self._listening[queue] for queue in queues}
        done, _ = await asyncio.wait(listening.values(), timeout=at_most, return_when=asyncio.FIRST_COMPLETED)
        for queue, task in listening.items():
            if task in done and self._listening.get(queue) is task:
                del self._listening[queue]
        for task in done:
            task.result()

    async def _listen(self, queue: str, seen: bytes) -> None:
        block_ms = int(_LISTEN_S * 1000)
        command = ("XREAD", "BLOCK", block_ms, "STREAMS", self._of(queue).wake, seen)
        await self._redis.wait(*command, at_most=_LISTEN_S)

    async def _about(self, function: str, claimed: Claimed, *more: Argument) -> bool:
        arguments = (claimed.item.id, claimed.ticket, claimed.deliveries, *more)
        return bool(await self._call(function, claimed.queue, *arguments))

    async def _call(self, function: str, queue: str, *arguments: Argument) -> Any:
        return await self._redis.call(function, self._of(queue).all, *arguments)

    def _of(self, queue: str) -> QueueKeys:
        if queue not in self._keys:
            self._keys[queue] = QueueKeys(queue)
        return self._keys[queue]


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _read(queue: str, found: Sequence[bytes]) -> Claimed:
    id, tenant, priority, weight, due_ms, body, deliveries, ticket, trace = found
    item = Item(id.decode(), tenant.decode(), body, int(priority), int(due_ms), float(weight), trace.decode())
    return Claimed(queue, item, int(deliveries), ticket.decode())
