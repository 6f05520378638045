"""Waiting for what is about to be true."""

import asyncio
import inspect
from collections.abc import Callable

_EVERY_S = 0.005


async def until(condition: Callable[[], object], seconds: float = 5.0) -> float:
    """Returns once `condition()`, which may be a coroutine, is true: how many seconds that took.

    Raises:
        AssertionError: it was not in time.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = condition()
                if await found if inspect.isawaitable(found) else found:
                    return loop.time() - began
                await asyncio.sleep(_EVERY_S)
    except TimeoutError:
        raise AssertionError(f"it did not come to that in {seconds:g} s") from None
