"""Stops that the store could not be told of: it is told as soon as it answers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from services.kit.call import Principal, work_as
from services.kit.errors import NotFound, ServiceError
from services.kit.topology import MOST_HELD

log = structlog.get_logger(__name__)

PAUSE_S = 1.0
"""Between two rounds, seconds."""

_MOST = MOST_HELD
"""Runs that are kept; of more, those that come later go on to their ends."""

_FAILURES = 16
"""After so many in a round the store is left alone until the next."""

_TRY_S = 30.0
"""Longest time of one try, seconds."""

_LAST_ROUND_S = 2.0
"""Longest time of the round that a process makes before it ends, seconds."""


class UntoldStops:
    """Runs whose clients have gone, of which whoever goes on with them is still to hear.

    They are kept as long as this process lives. Should it die first, they go on to their ends, as if their clients had
    let them: nobody was promised that they stop.
    """

    def __init__(self, stop: Callable[[Principal, str], Awaitable[None]]) -> None:
        """Stops runs by `stop`, which raises NotFound of one that is no more, and other ServiceErrors of the rest."""
        self._stop = stop
        self._runs: dict[tuple[str, str, str], Principal] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def keep(self, principal: Principal, run_id: str) -> bool:
        """Has a run stopped, as soon as that can be. False: there are too many, or this process ends."""
        key = (principal.tenant, principal.user, run_id)
        if self._closed or (key not in self._runs and len(self._runs) >= _MOST):
            log.error("stop forgotten", run_id=run_id)
            return False
        self._runs[key] = principal
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell())
        return True

    async def close(self) -> None:
        """Tells those that it can in a moment, and keeps nothing any more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tell_once(), _LAST_ROUND_S)
        if self._runs:
            log.error("stops forgotten", count=len(self._runs))

    async def _tell(self) -> None:
        while self._runs:
            await asyncio.sleep(PAUSE_S)
            await self._tell_once()

    async def _tell_once(self) -> None:
        """Stops them one after the other. Those that cannot be stopped yet are the last to be tried again."""
        failures = 0
        for key, principal in list(self._runs.items()):
            run_id = key[2]
            work_as(principal, name="stop", timeout=_TRY_S)
            try:
                await self._stop(principal, run_id)
            except NotFound:
                pass
            except ServiceError as error:
                log.warning("run not stopped yet", run_id=run_id, reason=error.reason)
                self._runs[key] = self._runs.pop(key)
                failures += 1
                if failures == _FAILURES:
                    return
                continue
            except Exception as error:
                log.error("run not stopped", run_id=run_id, exc_info=error)
            del self._runs[key]
