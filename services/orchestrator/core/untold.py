"""Stops that the store could not be told of: it is told as soon as it answers."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.kit.call import Principal, work_as
from services.kit.errors import NotFound, ServiceError

log = structlog.get_logger(__name__)

PAUSE_S = 1.0

_MOST = 10_000
"""Runs that are kept; of more, those that come later go on to their ends."""

_TRY_S = 30.0


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

    def keep(self, principal: Principal, run_id: str) -> None:
        """Has a run stopped, as soon as that can be."""
        if len(self._runs) >= _MOST:
            log.error("stop forgotten", run_id=run_id)
            return
        self._runs[principal.tenant, principal.user, run_id] = principal
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell())

    def close(self) -> None:
        """Tells nobody any more."""
        if self._task is not None:
            self._task.cancel()

    async def _tell(self) -> None:
        while self._runs:
            await asyncio.sleep(PAUSE_S)
            await self._tell_once()

    async def _tell_once(self) -> None:
        """Stops them one after the other, until one cannot be stopped yet: it is the last to be tried again."""
        for key, principal in list(self._runs.items()):
            del self._runs[key]
            run_id = key[2]
            work_as(principal, name="stop", timeout=_TRY_S)
            try:
                await self._stop(principal, run_id)
            except NotFound:
                continue
            except ServiceError as error:
                log.warning("run not stopped yet", run_id=run_id, reason=error.reason)
                self._runs[key] = principal
                return
            except Exception as error:
                log.error("run not stopped", run_id=run_id, exc_info=error)
