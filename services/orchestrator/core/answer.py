"""The answer as it grows: shown at once where it begins, then in pieces large enough to be cheap."""

import asyncio

from services.orchestrator.core.live import LiveRun
from services.orchestrator.domain import TextDelta


class Answer:
    """Collects the pieces of an answer and logs them.

    The first piece is logged at once, so that the reader sees that something comes. Later ones wait up to
    `coalesce_s` for company: a log entry for each token costs more than the token.
    """

    def __init__(self, run: LiveRun, coalesce_s: float) -> None:
        """Logs to `run`, later pieces together every `coalesce_s` seconds."""
        self._run = run
        self._coalesce_s = coalesce_s
        self._shown: list[str] = []
        self._waiting: list[str] = []
        self._due = 0.0
        self._flusher: asyncio.Task[None] | None = None
        self._sleeping = False

    @property
    def text(self) -> str:
        """As much of it as is in the log."""
        return "".join(self._shown)

    async def add(self, text: str) -> None:
        """Takes the next piece.

        Raises:
            ServiceError: logging it, or an earlier piece, failed.
        """
        self._waiting.append(text)
        if self._flusher is not None and self._flusher.done():
            flusher, self._flusher = self._flusher, None
            flusher.result()
        if self._flusher is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._due:
            await self._log()
        else:
            self._flusher = loop.create_task(self._log_when_due())

    async def flush(self) -> None:
        """Logs what waits.

        Raises:
            ServiceError: logging it, or an earlier piece, failed.
        """
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            if self._sleeping:
                flusher.cancel()
            else:
                await flusher
        await self._log()

    async def _log_when_due(self) -> None:
        self._sleeping = True
        try:
            await asyncio.sleep(self._due - asyncio.get_running_loop().time())
        finally:
            self._sleeping = False
        await self._log()

    async def _log(self) -> None:
        if not self._waiting:
            return
        text = "".join(self._waiting)
        self._waiting.clear()
        await self._run.append(TextDelta(text))
        self._shown.append(text)
        self._due = asyncio.get_running_loop().time() + self._coalesce_s
