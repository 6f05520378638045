"""Runs go on when the process that worked on them is gone: each says that it lives, and looks for work of the gone."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any

import structlog

from services.kit.call import Principal, work_as
from services.kit.errors import RunNotFound, ServiceError, SessionBusy, SessionNotFound
from services.orchestrator.ports.runs import Owners

log = structlog.get_logger(__name__)

BEAT_S = 1.0
"""How often a process says that it lives."""

_MOST = 1000
_AT_ONCE = 20
"""Sessions that are taken over at the same time."""

_LOOK_BEATS = 30
"""After so many beats a process looks through all that is its own."""

_IDLE_S = 60.0
"""After so long without a run a session is given back."""

_LATE_BEATS = 2
"""A process that did not come to say that it lives for so many beats may count as gone."""

_TRIES = 30
_TRY_S = 30.0

Session = tuple[Principal, str]


class Takeover:
    """What this process works in, and what it takes over."""

    def __init__(
        self,
        owners: Owners,
        resume: Callable[[Principal, str], Awaitable[object]],
        at_work: Callable[[], Collection[Session]],
        owner_s: float,
        adopted: Callable[[Principal, str], Awaitable[None]] | None = None,
        kept: Callable[[], Collection[Session]] = tuple,
    ) -> None:
        """Begins nothing yet.

        Args:
            owners: Who works where.
            resume: Goes on with a session's run.
            at_work: The sessions with a run at work here.
            owner_s: After so long without a word a process counts as gone.
            adopted: Told of a session that was another's, once its run is gone on with.
            kept: The sessions in which something is left to be done here, but no run is at work.
        """
        self._owner_s = owner_s
        self._changing = asyncio.Lock()
        self._owners = owners
        self._resume = resume
        self._adopted = adopted
        self._at_work, self._kept = at_work, kept
        self._held: dict[tuple[str, str, str], tuple[float, Session]] = {}
        self._task: asyncio.Task[None] | None = None
        self._resuming: set[asyncio.Task[None]] = set()
        self._trying: Counter[tuple[str, str, str]] = Counter()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._stopped = False
        self._unsure = False  # whether all that was taken is known

    def start(self) -> None:
        """Begins to say that this process lives."""
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Takes nothing over any more, and goes on with nothing."""
        self._stopped = True
        tasks = [*self._resuming, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def leave(self) -> None:
        """Says that this process is gone: others take over what it has let go."""
        try:
            await self._owners.leave()
        except ServiceError as error:
            log.warning("leaves unheard", reason=error.reason)

    async def hold(self, principal: Principal, session_id: str) -> None:
        """Says that this process works in a session, before anything of a run there is shown.

        Raises:
            StoreUnavailable: nobody could be told.
        """
        key = _key(principal, session_id)
        if key not in self._held:
            async with self._changing:  # not while it is being given back: the store must hear of it afterwards
                await self._owners.hold(principal, session_id)
        self._held[key] = (asyncio.get_running_loop().time(), (principal, session_id))

    def look_after(self, principal: Principal, session_id: str, *, must: bool = False) -> None:
        """Goes on with a run that holds up its session, if it can be: its owner is gone, or it was told to stop.

        With many others at it, this is left undone, unless it `must` be done.
        """
        if must or len(self._resuming) < _AT_ONCE:
            self._begin_to(self._try(principal, session_id))

    def go_on(self, principal: Principal, session_id: str, *, must: bool = True) -> None:
        """Goes on in a session, as soon as that can be: the next of its line, or a run that has what it waited for.

        With very many others at it, this is left undone, unless it `must` be done.
        """
        if not must and len(self._resuming) >= _MOST:
            return

        async def hold_and_go_on() -> None:
            try:
                await self.hold(principal, session_id)
            except ServiceError as error:
                log.warning("works unheard", session_id=session_id, reason=error.reason)
            await self._go_on(principal, session_id)

        self._begin_to(hold_and_go_on())

    def _begin_to(self, work: Coroutine[Any, Any, Any]) -> None:
        if self._stopped:  # what is this process's own others take when it has left
            work.close()
            return
        task = asyncio.create_task(work)
        self._resuming.add(task)
        task.add_done_callback(self._resuming.discard)

    async def _live(self) -> None:
        clock = asyncio.get_running_loop().time
        heard_at = patient_until = clock()
        for beat in itertools.count():
            try:
                gone = await self._owners.beat()
                if clock() - heard_at > _LATE_BEATS * BEAT_S:
                    # This process stood still, or the store was away: others may have taken what was its own, and may
                    # be as late as this one is.
                    patient_until = clock() + self._owner_s
                    await self._hold_anew()
                heard_at = clock()
                if heard_at >= patient_until:
                    await self._take(gone)
                    if self._unsure or beat % _LOOK_BEATS == 0:
                        await self._look_through()
                await self._give_back()
            except ServiceError as error:
                log.warning("not heard of", reason=error.reason)
            except Exception as error:
                log.error("takeover broke", exc_info=error)
            await asyncio.sleep(BEAT_S)

    async def _hold_anew(self) -> None:
        self._held.clear()
        for principal, session_id in (*self._at_work(), *self._kept()):
            await self.hold(principal, session_id)

    async def _take(self, gone: Sequence[str]) -> None:
        for owner in gone:
            try:
                taken = await self._owners.take(owner)
            except Exception:
                self._unsure = True
                raise
            self._adopt(taken)

    async def _look_through(self) -> None:
        """Goes on with what is this process's by now, and it was not told so when it became so."""
        sessions = await self._owners.mine()
        self._adopt([each for each in sessions if self._unsure or _key(*each) not in self._held])
        self._unsure = False

    def _adopt(self, sessions: Sequence[Session]) -> None:
        """Goes on with sessions that were another's, which this process may have worked in, too."""
        at_work = {_key(*session) for session in self._at_work()}
        for principal, session_id in sessions:
            key = _key(principal, session_id)
            self._held[key] = (asyncio.get_running_loop().time(), (principal, session_id))
            if key not in at_work:
                self._begin_to(self._take_on(principal, session_id))

    async def _take_on(self, principal: Principal, session_id: str) -> None:
        await self._go_on(principal, session_id)
        if self._adopted is not None:
            async with self._places:
                await self._adopted(principal, session_id)

    async def _go_on(self, principal: Principal, session_id: str) -> None:
        """Takes one session's run over, as soon as its lease is over."""
        key = _key(principal, session_id)
        self._trying[key] += 1
        try:
            for _ in range(_TRIES):
                async with self._places:
                    wait_s = await self._try(principal, session_id)
                if not wait_s:
                    return
                await asyncio.sleep(wait_s)
            log.error("not taken over", session_id=session_id)
            self._held.pop(key, None)  # found again when all is looked through
        finally:
            self._trying[key] -= 1
            if not self._trying[key]:
                del self._trying[key]

    async def _try(self, principal: Principal, session_id: str) -> float:
        """Takes a session's run over. Returns after how many seconds to try again; 0: there is no need."""
        work_as(principal, name="takeover", timeout=_TRY_S)
        try:
            await self._resume(principal, session_id)
        except (RunNotFound, SessionNotFound):
            return 0.0  # it had ended
        except SessionBusy as error:
            return error.retry_after or BEAT_S
        except ServiceError as error:
            log.warning("not taken over yet", session_id=session_id, reason=error.reason)
            return BEAT_S
        except Exception as error:
            log.error("not taken over", session_id=session_id, exc_info=error)
        return 0.0

    async def _give_back(self) -> None:
        async with self._changing:
            now = asyncio.get_running_loop().time()
            used = {*self._trying, *(_key(*session) for session in (*self._at_work(), *self._kept()))}
            idle = [key for key, held in self._held.items() if key not in used and now - held[0] > _IDLE_S]
            given = [self._held.pop(key)[1] for key in idle]
            if given:
                await self._owners.release(given)


def _key(principal: Principal, session_id: str) -> tuple[str, str, str]:
    """A session, whatever roles its user has just now."""
    return principal.tenant, principal.user, session_id
