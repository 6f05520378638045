"""Waiting for a store that is away for a moment: what was accepted is not given up for its restart."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.kit.errors import ServiceError, StoreUnavailable

_AWAY_S = 10.0
"""Seconds that a run waits."""

_RETRY_S = 0.25

T = TypeVar("T")


async def patiently(
    work: Callable[[], Awaitable[T]],
    away: tuple[type[ServiceError], ...] = (StoreUnavailable,),
    for_s: float = _AWAY_S,
) -> T:
    """Does work that changes nothing when it is repeated, again while it fails as `away`, for so many seconds.

    Raises as the work.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + for_s - _RETRY_S
    while True:
        try:
            return await work()
        except away:
            if clock() > give_up:
                raise
        await asyncio.sleep(_RETRY_S)
