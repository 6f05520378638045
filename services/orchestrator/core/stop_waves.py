"""The ends of runs that were stopped: a few at a time, and after all that is to stop just now has stopped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_AT_ONCE = 16
_A_FEW = 4
"""So many that are stopped together are no wave: their ends wait for nothing."""

_CALM_S = 0.05
"""So long no run was stopped: the wave is over."""

_PATIENCE_S = 0.5


class StopWaves:
    """Places for runs that come to their end.

    A thousand clients may hang up at once. To stop a model is cheap, and should happen now; to write the end of a log
    and of a turn costs several processes work, and can wait a moment: else the last model stops when all logs are
    written. A single run that is stopped waits for nothing.
    """

    def __init__(self) -> None:
        """All places are free."""
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._ending = 0
        self._newest = 0.0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place for the end of a run that has just been stopped."""
        came = self._newest = asyncio.get_running_loop().time()
        is_one_of_many = self._ending >= _A_FEW
        self._ending += 1
        try:
            async with self._places:
                if is_one_of_many:
                    await self._calm(came + _PATIENCE_S)
                yield
        finally:
            self._ending -= 1

    async def _calm(self, give_up: float) -> None:
        """Returns when the wave is over, or at that loop time."""
        clock = asyncio.get_running_loop().time
        while True:
            pause = min(self._newest + _CALM_S, give_up) - clock()
            if pause <= 0:
                return
            await asyncio.sleep(pause)
