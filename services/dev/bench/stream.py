"""A bare stream of Redis with redis-py: what a queue costs that promises nothing beyond it."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from services.dev.bench.load import Load, closed_loop

_STREAM, _GROUP, _READER = "bench:stream", "workers", "reader"
_CLAIM = 16
_ALONE = 200
_BLOCK_MS = 5_000


@dataclass(frozen=True)
class Floor:
    """What a stream came to."""

    written: Load
    claimed_rate: float
    """Entries a second that one reader claims and acknowledges."""

    heard_s: list[float]
    """Seconds from the call that writes an entry until a reader that waits has it, and has said so; sorted."""


async def measure(url: str, writers: int, count: int) -> Floor:
    """Writes `count` entries into the Redis at `url` and claims them, then some one by one."""
    client: Any = Redis.from_url(url, max_connections=writers + 1)

    async def write(_worker: int, index: int) -> bool:
        return bool(await client.xadd(_STREAM, {"run": str(index)}))

    async def claim(block_ms: int | None = None) -> int:
        found = await client.xreadgroup(_GROUP, _READER, {_STREAM: ">"}, count=_CLAIM, block=block_ms)
        ids = [entry[0] for _, entries in found for entry in entries]
        if ids:
            await client.xack(_STREAM, _GROUP, *ids)
        return len(ids)

    try:
        await client.xgroup_create(_STREAM, _GROUP, mkstream=True)
        written = await closed_loop(writers, count, write)
        began = time.perf_counter()
        while await claim():
            pass
        rate = count / (time.perf_counter() - began)
        heard = []
        for index in range(_ALONE):
            waiting = asyncio.create_task(claim(_BLOCK_MS))
            await asyncio.sleep(0.005)
            began = time.perf_counter()
            await write(0, index)
            await waiting
            heard.append(time.perf_counter() - began)
        return Floor(written, rate, sorted(heard))
    finally:
        await client.delete(_STREAM)
        await client.aclose()
