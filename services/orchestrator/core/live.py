"""A run at work in this process: what it has logged, and those who watch it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import structlog

from services.kit.call import Principal
from services.kit.errors import LeaseLost, ServiceError
from services.orchestrator.domain import Event, Turn
from services.orchestrator.ports import Codec, RunLog

log = structlog.get_logger(__name__)


class LiveRun:
    """The log of one run while it is written.

    An entry is shown only after the store has it, and everyone sees the same entries in the same order. Watchers read
    the one list of entries from where they are, so a slow one costs nothing and holds nobody back.
    """

    def __init__(self, principal: Principal, turn: Turn, log: RunLog, codec: Codec) -> None:
        """Begins an empty log of `turn`, which works for `principal`."""
        self.principal = principal
        self.turn = turn
        self.stop_requested = False
        self._task: asyncio.Task[None] | None = None
        self._interrupted = False
        self._entries: list[bytes] = []
        self._log = log
        self._codec = codec
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._ended = False
        self._lost: Exception | None = None

    @property
    def next_sequence(self) -> int:
        """Sequence of the entry to come."""
        return len(self._entries) + 1

    async def append(self, *events: Event) -> None:
        """Logs events, in order, and shows them.

        Raises:
            LeaseLost: a later turn holds the session.
            StoreUnavailable: the store does not answer; nothing is shown.
        """
        async with self._lock:
            first = self.next_sequence
            entries = [self.encode(event, first + index) for index, event in enumerate(events)]
            stop = await self._log.append(self.principal, self.turn, first, entries)
            self._show(entries)
        if stop and not self.stop_requested:
            self.stop()

    async def hold(self, lease_s: float) -> None:
        """Holds the session for as long as the run works on: says so three times a lease. Ends only by cancellation.

        Whether a lost reply took the session, a dead process holds it, or the store stood still: the session is free
        again one lease later.
        """
        while True:
            await asyncio.sleep(lease_s / 3)
            try:
                await self.append()
            except LeaseLost:
                self.interrupt()
            except ServiceError as error:
                log.warning("session not held", run_id=self.turn.run_id, reason=error.reason)

    def encode(self, event: Event, sequence: int) -> bytes:
        """The entry of an event of this run."""
        return self._codec.encode(self.turn.run_id, sequence, event)

    def end(self, last: bytes) -> None:
        """Shows the last entry, which the store has by now."""
        self._ended = True
        self._show([last])

    def lose(self, error: Exception) -> None:
        """Ends every watch with `error`: the log could not be brought to its end here."""
        self._lost = error
        self._show([])

    def stop(self) -> None:
        """Tells the run to stop. It ends with `cancelled`, unless it has ended."""
        self.stop_requested = True
        self.interrupt()

    def interrupt(self) -> None:
        """Cuts the run's work short. What becomes of it is for the run to say."""
        self._interrupted = True
        if self._task is not None:
            self._task.cancel()

    def at_work(self) -> None:
        """Says that the current task works on this run, and may be cut short from now on.

        Before that nothing can be cut: a task that is cancelled before its first step never runs at all, and a run
        always ends with an event.

        Raises:
            CancelledError: the run was told to stop before it began.
        """
        self._task = asyncio.current_task()
        if self._interrupted:
            raise asyncio.CancelledError

    async def watch(self, after_sequence: int, silence_s: float) -> AsyncGenerator[bytes | None]:
        """Entries after a sequence, those to come included, until the last.

        Args:
            after_sequence: The cursor.
            silence_s: After so many seconds without an entry, yields None.

        Raises:
            Exception: what the run was lost to.
        """
        position = after_sequence
        while True:
            changed = self._changed
            while position < len(self._entries):
                position += 1
                yield self._entries[position - 1]
            if self._lost is not None:
                raise self._lost
            if self._ended:
                return
            try:
                async with asyncio.timeout(silence_s):
                    await changed.wait()
            except TimeoutError:
                yield None

    def _show(self, entries: Sequence[bytes]) -> None:
        self._entries.extend(entries)
        self._changed.set()
        self._changed = asyncio.Event()
