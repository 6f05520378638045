"""How work on a run is cut short: because it is to stop, or is to go on in another process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.orchestrator.domain.run import Stop


class Interruptible:
    """Work of one task that others may cut short.

    Attributes:
        stop_requested: Whether it is to stop, and how: the most that was asked for.
    """

    def __init__(self) -> None:
        """Nobody works yet."""
        self.stop_requested = Stop.NO
        self._task: asyncio.Task[None] | None = None
        self._interrupted = self._calls = self._handed_back = False

    def stop(self, how: Stop = Stop.STOP) -> None:
        """Tells the run to stop. It ends with `cancelled`, unless it has ended."""
        self.stop_requested = max(self.stop_requested, how)
        self.interrupt()

    def interrupt(self) -> None:
        """Cuts the run's work short. What becomes of it is for the run to say."""
        self._interrupted = True
        if self._task is not None:
            self._task.cancel()

    def hand_back(self) -> bool:
        """Has another process go on with the run. False: a tool call is under way, and ends first."""
        self._handed_back = True
        if not self._calls:
            self.interrupt()
        return not self._calls

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Says that a tool is called: only a stop cuts that, or that another process has the session."""
        self._calls = True
        try:
            yield
        finally:
            self._calls = False

    def end_step(self) -> None:
        """Says that a step is over, and its checkpoint noted.

        Raises:
            CancelledError: another process takes the next.
        """
        if self._handed_back:
            raise asyncio.CancelledError

    def at_work(self) -> None:
        """Says that the current task works on this run, and may be cut short from now on.

        Before that nothing can be cut: a task that is cancelled before its first step never runs at all, and a run
        always ends with an event.

        Raises:
            CancelledError: the run was told to stop, or handed back, before it began.
        """
        self._task = asyncio.current_task()
        self.check_uncut()

    def check_uncut(self) -> None:
        """Returns when the work was not cut short. Who was told of something else instead asks here.

        Raises:
            CancelledError: it was.
        """
        if self._interrupted:
            raise asyncio.CancelledError
