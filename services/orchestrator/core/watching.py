"""Watching runs that are not at work in this process: all who watch one run share one reader of its log."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import islice

import structlog

from services.kit.call import Principal
from services.kit.errors import Internal, ServiceError, ServiceUnavailable
from services.orchestrator.domain.run import Page, Standing
from services.orchestrator.ports.codec import Codec
from services.orchestrator.ports.runs import Notices, RunLog

log = structlog.get_logger(__name__)

POLL_S = 1.0
"""After so long without word of a run its log is read all the same: word may be lost."""

_PAGE = 500
_KEPT = 500
_KEPT_BYTES = 1 << 20
_GOES_ON = (Standing.QUEUED, Standing.AT_WORK)


class Watching:
    """Streams of runs out of their logs."""

    def __init__(
        self, run_log: RunLog, notices: Notices, codec: Codec, heartbeat_s: float, poll_s: float = POLL_S
    ) -> None:
        """Reads `run_log` whenever `notices` has word, and every `poll_s` seconds without any.

        A stream that is silent for `heartbeat_s` seconds says that it lives.
        """
        self._poll_s = poll_s
        self._log = run_log
        self._notices = notices
        self._codec = codec
        self._heartbeat_s = heartbeat_s
        self._shared: dict[tuple[str, str, str], _Shared] = {}

    async def watch(self, principal: Principal, run_id: str, after_sequence: int) -> AsyncGenerator[bytes | None]:
        """Entries of a run after a cursor, those to come included, until its last, or until it waits.

        None: nothing for a while.

        Raises:
            RunNotFound: the caller has no such run.
            ServiceUnavailable: nobody works on it any more.
        """
        async with aclosing(self._pieces(principal, run_id, _Shown(after_sequence))) as pieces:
            async for piece in pieces:
                for entry in piece:
                    yield entry
                if not piece:
                    yield None

    async def _pieces(self, principal: Principal, run_id: str, shown: "_Shown") -> AsyncGenerator[Sequence[bytes]]:
        """What `watch` shows, in pieces; an empty one: nothing for a while."""
        page = await self._log.read(principal, run_id, shown.position, _PAGE)
        while page.entries:
            yield shown.also(page.entries)
            if len(page.entries) < _PAGE:
                break
            page = await self._log.read(principal, run_id, shown.position, _PAGE)
        if self._is_whole(page, shown):
            return
        with self._reader(principal, run_id, shown.position) as reader:
            while True:
                moved, entries = reader.moved, reader.kept(shown.position)
                if entries is None:  # others were faster, and what this one lacks is not kept: it reads for itself
                    entries = (await self._log.read(principal, run_id, shown.position, _PAGE)).entries
                if entries:
                    yield shown.also(entries)
                elif reader.end is not None and self._is_whole(reader.end, shown):
                    return
                elif not await _comes(moved, self._heartbeat_s):
                    yield ()

    def _is_whole(self, end: Page | Exception, shown: "_Shown") -> bool:
        """Whether a stream that has shown all that there is ends here.

        Raises:
            ServiceUnavailable: nobody works on the run any more.
            Exception: why it could not be read on.
        """
        if isinstance(end, Exception):
            raise end
        if end.standing is Standing.WAITING:
            return True
        if end.standing is Standing.OVER and (not shown.newest or self._codec.is_last(shown.newest)):
            return True
        if end.standing in _GOES_ON:
            return False
        raise ServiceUnavailable("nobody works on the run any more")

    @contextmanager
    def _reader(self, principal: Principal, run_id: str, position: int) -> "Iterator[Reader]":
        """The one reader of a run, for as long as someone watches it."""
        key = (principal.tenant, principal.user, run_id)
        shared = self._shared.get(key)
        if shared is None or shared.reader.end is not None:
            reader = Reader(lambda after: self._log.read(principal, run_id, after, _PAGE), position, self._poll_s)
            shared = self._shared[key] = _Shared(reader, asyncio.create_task(self._read(principal, run_id, reader)))
        shared.watchers += 1
        shared.reader.reach(position)
        try:
            yield shared.reader
        finally:
            shared.watchers -= 1
            if not shared.watchers:
                shared.task.cancel()
                if self._shared.get(key) is shared:
                    del self._shared[key]

    async def _read(self, principal: Principal, run_id: str, reader: "Reader") -> None:
        with self._notices.changes(principal, run_id, reader.changed.set):
            await reader.read_on()


class Reader:
    """Reads a log as it grows, and keeps the newest of it: so much, however slow who watches is."""

    def __init__(self, read: Callable[[int], Awaitable[Page]], after_sequence: int, poll_s: float) -> None:
        """Reads with `read`, a page after a sequence, from `after_sequence` on, at least every `poll_s` seconds."""
        self.changed = asyncio.Event()
        """To be set when there is word of the run."""

        self.moved = asyncio.Event()
        """Set, and replaced, when there is more to see."""

        self.end: Page | Exception | None = None
        """Why it reads no more: the run is over, waits, or has nobody; or what failed."""

        self._fetch = read
        self._poll_s = poll_s
        self._base = after_sequence
        self._entries: deque[bytes] = deque()
        self._bytes = 0

    def reach(self, position: int) -> None:
        """Reads from an earlier place, if nothing was found yet: a cursor may be past the end of the log."""
        if not self._entries and position < self._base:
            self._base = position
            self.changed.set()

    def kept(self, position: int) -> Sequence[bytes] | None:
        """Entries after a sequence, none when there are none yet. None: they are not kept."""
        if position < self._base:
            return None
        return list(islice(self._entries, position - self._base, None))

    async def read_on(self) -> None:
        """Reads until `end` is known."""
        try:
            while self.end is None:
                self.changed.clear()
                after = self._base + len(self._entries)
                page = await self._fetch(after)
                if after > self._base + len(self._entries):  # meanwhile somebody came who lacks what is before it
                    continue
                self._keep(page.entries)
                if len(page.entries) >= _PAGE:
                    continue
                if page.standing not in _GOES_ON:
                    self.end = page
                    break
                await _comes(self.changed, self._poll_s)
        except ServiceError as error:
            self.end = error
        except Exception as error:
            log.error("log not read", exc_info=error)
            self.end = Internal("internal error")
        finally:
            self._wake()

    def _keep(self, entries: Sequence[bytes]) -> None:
        self._entries.extend(entries)
        self._bytes += sum(map(len, entries))
        while len(self._entries) > _KEPT or (self._bytes > _KEPT_BYTES and len(self._entries) > 1):
            self._bytes -= len(self._entries.popleft())
            self._base += 1
        if entries:
            self._wake()

    def _wake(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()


async def _comes(event: asyncio.Event, within_s: float) -> bool:
    """Whether an event comes in time."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


@dataclass(slots=True)
class _Shown:
    """How far a stream is."""

    position: int
    newest: bytes = b""

    def also(self, entries: Sequence[bytes]) -> Sequence[bytes]:
        """Says that it shows these next."""
        self.position += len(entries)
        self.newest = entries[-1]
        return entries


@dataclass(slots=True)
class _Shared:
    """A reader, and how many watch through it."""

    reader: Reader
    task: asyncio.Task[None]
    watchers: int = 0
