"""A run at work in this process: its log, while it is written."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from services.kit.call import Principal
from services.kit.errors import Aborted, LeaseLost, ServiceError
from services.orchestrator.core.interruptible import Interruptible
from services.orchestrator.core.patience import patiently
from services.orchestrator.core.shown import Shown
from services.orchestrator.core.spending import spent_of
from services.orchestrator.core.uncut import uncut
from services.orchestrator.domain.log import Event, Last, TextDelta
from services.orchestrator.domain.run import Standing, Stop, Turn, Waiting
from services.orchestrator.domain.turn import Progress
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import RunLog

log = structlog.get_logger(__name__)

T = TypeVar("T")


class LiveRun(Interruptible):
    """The log of one run while it is written.

    An entry is `shown` only after the store has it. What is not urgent waits a moment for company: a write for each
    token costs more than the token.
    """

    def __init__(
        self,
        principal: Principal,
        turn: Turn,
        log: RunLog,
        codec: Codec,
        coalesce_s: float,
        entries: Sequence[bytes] = (),
        covered: int = 0,
    ) -> None:
        """Goes on with a log.

        Args:
            principal: Whom the run works for.
            turn: The run.
            log: Keeps it beyond this process.
            codec: Writes its entries.
            coalesce_s: How long what is noted waits for company, seconds.
            entries: What the log has already.
            covered: How many of them the last checkpoint covers.
        """
        super().__init__()
        self._coalesce_s = coalesce_s
        self._waiting: list[Event] = []
        self._unsent: list[bytes] = []
        self._soon: asyncio.Handle | None = None
        self._due = math.inf
        self._spoke_at = -math.inf
        self._heard_at = asyncio.get_running_loop().time()
        self._background: set[asyncio.Task[None]] = set()
        self.principal = principal
        self.turn = turn
        self.shown = Shown(entries)
        self._progress: Progress | None = None
        self._sealed = 0
        self._covered = covered
        self._log = log
        self._codec = codec
        self._lock = asyncio.Lock()
        self._closing = False

    @property
    def next_sequence(self) -> int:
        """Sequence of the entry to come."""
        return len(self.shown.entries) + 1

    async def append(self, *events: Event) -> None:
        """Logs events now, after those that wait, and shows them. Waits for a store that is away for a moment.

        Raises:
            LeaseLost: a later turn holds the session.
            StoreUnavailable: the store does not answer for long; nothing is shown.
        """
        self._add(events)
        await patiently(self._log_at_once)

    def note(self, *events: Event) -> None:
        """Logs events soon: at the latest `coalesce_s` from now, together with what comes until then.

        A piece of the answer waits so long only where one was logged just now: a model may have gathered it already.
        What goes wrong with that comes to light with the next `append`, or with the end of the run.
        """
        self._add(events)
        loop = asyncio.get_running_loop()
        since = self._spoke_at if isinstance(events[-1], TextDelta) else loop.time()
        due = since + self._coalesce_s
        if due < self._due:
            if self._soon is not None:
                self._soon.cancel()
            self._due, self._soon = due, loop.call_at(due, self._in_background, self._log_waiting)

    def checkpoint(self, progress: Progress) -> None:
        """Keeps how far the run has come, with the next entries that are logged: both, or neither.

        It belongs to all that was noted before, and to nothing that is noted later.
        """
        self._sealed = len(self._waiting)
        self._covered = len(self.shown.entries) + len(self._unsent) + self._sealed
        self._progress = replace(progress, sequence=self._covered, usage=replace(progress.usage))

    async def park(self, waiting: Waiting, progress: Progress, *events: Event) -> None:
        """Logs events after those that wait, keeps how far the run has come, and lets it wait. Its watches end.

        Pieces of the answer that were noted after the last checkpoint do not count.

        Raises:
            CancelledError: the run was told to stop instead.
            LeaseLost: a later turn holds the session.
            StoreUnavailable: the store does not answer for long; nothing is shown.
        """
        self._add(events)
        covered = replace(progress, sequence=self._covered)
        stop = await patiently(lambda: self._park_at_once(waiting, covered))
        if stop:
            self.held(stop)
            raise asyncio.CancelledError

    async def _park_at_once(self, waiting: Waiting, progress: Progress) -> Stop:
        try:
            return await uncut(self._park(waiting, progress))
        except ServiceError:
            if self.stop_requested:  # meanwhile: it does not wait
                raise asyncio.CancelledError from None
            raise

    async def _park(self, waiting: Waiting, progress: Progress) -> Stop:
        async with self._lock:
            first, entries = self.next_sequence, self._take()
            kept = self._codec.encode_progress(progress)
            spent = spent_of(progress.usage)
            what = (self.principal, self.turn, first, entries, kept, waiting, spent)
            stop = await self.mended(lambda: self._log.park(*what))
            if not stop:
                self._closing = True
                self.shown.end(entries)
        return stop

    async def pass_stop_on(self) -> bool:
        """Tells the store that the run is to stop, wherever it goes on. Whether it waits, so that nobody sees to it."""
        return await patiently(lambda: self._log.request_cancel(self.principal, self.turn.run_id)) is Standing.WAITING

    async def last_entries(self, last: Last) -> list[bytes]:
        """What waits and the last event, as entries from `next_sequence` on. They leave with the turn's end."""
        async with self._lock:
            self._closing = True
            return self._take([last])

    def keep_answer(self) -> None:
        """Logs an answer that is whole, with its checkpoint: the turn's end, with which it leaves, is late.

        Should this process die before that end is written, the model is not asked again.
        """
        self._in_background(self._log_answer)

    async def _log_answer(self) -> None:
        if self._progress is None:  # it is kept
            return
        kept, entries = self._codec.encode_progress(self._progress), self._unsent[:-1]
        await self.mended(lambda: self._log.append(self.principal, self.turn, self.next_sequence, entries, kept))

    async def _log_at_once(self) -> None:
        # Not to be cut: an entry that the store has and we do not know of would make a second of its sequence.
        try:
            await uncut(self._log_waiting())
        except ServiceError:
            self.check_uncut()  # meanwhile: this counts more
            raise

    async def _log_waiting(self) -> None:
        async with self._lock:
            if self._closing:  # what waits leaves with the turn's end, and by no other way
                return
            first, entries, progress = self.next_sequence, self._take(), self._progress
            kept = self._codec.encode_progress(progress) if progress else b""
            stop = await self.mended(lambda: self._log.append(self.principal, self.turn, first, entries, kept))
            self._unsent = []
            if self._progress is progress:
                self._progress = None
            self.shown.show(entries)
        self.held(stop)

    async def mended(self, write: Callable[[], Awaitable[T]]) -> T:
        """Writes to the log. A store that has lost its end, as one may that failed over, first gets all that was shown.

        Raises as `write`.
        """
        try:
            return await write()
        except Aborted as error:
            if isinstance(error, LeaseLost):
                raise
        log.warning("log written anew", run_id=self.turn.run_id, entries=len(self.shown.entries))
        await self._log.append(self.principal, self.turn, 1, self.shown.entries)
        return await write()

    def _add(self, events: Sequence[Event]) -> None:
        """Puts events behind those that wait; a piece of the answer joins one that waits already."""
        for event in events:
            before = self._waiting[-1] if len(self._waiting) > self._sealed else None
            if isinstance(event, TextDelta) and isinstance(before, TextDelta):
                self._waiting[-1] = TextDelta(before.text + event.text)
            else:
                self._waiting.append(event)

    def _take(self, more: Sequence[Event] = ()) -> list[bytes]:
        """What waits, and more, as entries. Nobody need log them soon any more."""
        if self._soon is not None:
            self._soon.cancel()
            self._due, self._soon = math.inf, None
        if any(isinstance(event, TextDelta) for event in self._waiting):
            self._spoke_at = asyncio.get_running_loop().time()
        events, self._waiting, self._sealed = [*self._waiting, *more], [], 0
        first = self.next_sequence + len(self._unsent)
        encode, run_id = self._codec.encode, self.turn.run_id
        # Kept until the store has said that it has them, byte for byte: it may have them though its reply was lost.
        self._unsent += [encode(run_id, first + index, event) for index, event in enumerate(events)]
        return list(self._unsent)

    def heard_since(self, time: float) -> bool:
        """Whether the store has heard of this run since a loop time, or need not hear of it any more."""
        return self._closing or self._heard_at > time

    def resend(self) -> bool:
        """Sends again what the store did not take. False: there is nothing of that kind."""
        if self._unsent and not self._lock.locked():
            self._in_background(self._log_waiting)
        return bool(self._unsent)

    def held(self, answer: Stop | ServiceError) -> None:
        """Takes what the store said when the session was held on: whether to stop, or why it could not be."""
        if self._closing:
            return
        if isinstance(answer, LeaseLost):
            self.interrupt()
        elif isinstance(answer, ServiceError):
            log.warning("session not held", run_id=self.turn.run_id, reason=answer.reason)
        else:
            self._heard_at = asyncio.get_running_loop().time()
            if answer > self.stop_requested:
                self.stop(answer)

    async def hand_over(self) -> None:
        """Logs what waits, and lets the session go, for another process to go on."""
        try:
            await self._log_waiting()
            await self._log.let_go(self.principal, self.turn)
        finally:
            self._closing = True

    def _in_background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Does work that nobody waits for. A lost session stops the run; what a store did not take is sent again."""

        async def watched() -> None:
            try:
                await work()
            except LeaseLost:
                self.interrupt()
            except ServiceError as error:
                log.warning("log not written", run_id=self.turn.run_id, reason=error.reason)

        task = asyncio.create_task(watched())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
