"""A closed loop: so many workers, each with its next call as soon as its last one is answered."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What came of a load."""

    count: int
    errors: int
    seconds: float
    latencies_s: tuple[float, ...]
    """Sorted."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.count / self.seconds

    def percentile_ms(self, share: float) -> float:
        """The latency that this share of the calls stayed within, milliseconds."""
        return percentile(self.latencies_s, share) * 1000


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of sorted values stays within."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


async def closed_loop(workers: int, count: int, call: Callable[[int, int], Awaitable[bool]]) -> Load:
    """Makes `count` calls over `workers` at once.

    Args:
        workers: How many calls are under way.
        count: How many in all.
        call: Given the worker's number and the call's; False, or an exception, is an error.
    """
    numbers = iter(range(count))
    latencies: list[float] = []
    errors = 0

    async def work(worker: int) -> None:
        nonlocal errors
        for number in numbers:
            began = time.perf_counter()
            errors += not await call(worker, number)
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work(worker) for worker in range(workers)))
    return Load(count, errors, time.perf_counter() - began, tuple(sorted(latencies)))
