"""Sessions in this process: for tests and for trying out. They end with it."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Principal
from services.kit.errors import (
    BudgetExhausted,
    LeaseLost,
    LineFull,
    RequestIdReused,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
)
from services.memory.adapters.inmemory_budgets import InMemoryBudgets
from services.memory.adapters.inmemory_kept import Kept, Seen
from services.memory.codec import run_that_wrote
from services.memory.core.budgets import least
from services.memory.domain import (
    Concurrency,
    Cursor,
    Ending,
    Grant,
    Lifetimes,
    Message,
    Next,
    Order,
    Page,
    Past,
    Request,
    Reserving,
    Resumed,
    Session,
    Turn,
)

Clock = Callable[[], int]

_ALL = 10**12
_RESERVED_MS = 900_000


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class InMemorySessionStore:
    """Keeps sessions as `RedisSessionStore` does."""

    def __init__(self, lifetimes: Lifetimes, clock: Clock = now_ms, reserving: Reserving | None = None) -> None:
        """`clock` gives milliseconds since 1970; without `reserving` a run gets all that there is."""
        self.budgets = InMemoryBudgets(reserving or _reserving(lifetimes), self.owner, clock)
        self._lifetimes = lifetimes
        self._clock = clock
        self._sessions: dict[tuple[str, str], Kept] = {}
        self._created: dict[tuple[str, str, str], Seen] = {}

    async def create(self, principal: Principal, session_id: str, agent: str, request: Request | None) -> Session:
        """As `SessionStore.create`."""
        now = self._clock()
        if request:
            key = (principal.tenant, principal.user, request.request_id)
            seen = self._created.get(key)
            if seen and seen.until_ms > now:
                return (await self._repeated(principal, seen, request)).session
            self._created[key] = Seen(request.digest, session_id, now + self._lifetimes.request_ms)
        session = Session(session_id, agent, now, now, 0, now + self._lifetimes.session_ms)
        self._sessions[principal.tenant, session_id] = Kept(principal.user, session)
        return session

    async def get(self, principal: Principal, session_id: str) -> Session:
        """As `SessionStore.get`."""
        return self._find(principal, session_id).session

    async def page(self, principal: Principal, after: Cursor | None, limit: int) -> Page:
        """As `SessionStore.page`."""
        mine = [
            kept.session
            for (tenant, _), kept in self._sessions.items()
            if (tenant, kept.owner) == (principal.tenant, principal.user) and not self._is_over(kept)
        ]
        mine.sort(key=lambda session: (session.updated_ms, session.session_id), reverse=True)
        if after:
            mine = [each for each in mine if (each.updated_ms, each.session_id) < (after.used_ms, after.session_id)]
        shown = mine[:limit]
        more = len(mine) > limit
        return Page(shown, Cursor(shown[-1].updated_ms, shown[-1].session_id) if more else None)

    async def delete(self, principal: Principal, session_id: str) -> None:
        """As `SessionStore.delete`."""
        kept = self._find(principal, session_id)
        self._check_free(kept)
        if kept.record or kept.line:
            raise SessionBusy("a run of the session has not ended", retry_after=1.0)
        del self._sessions[principal.tenant, session_id]
        self._created = {key: seen for key, seen in self._created.items() if seen.what != session_id}

    async def history(self, principal: Principal, session_id: str, max_messages: int) -> Sequence[Message]:
        """As `SessionStore.history`."""
        return self._find(principal, session_id).history[-max_messages:]

    async def made(self, principal: Principal, request: Request) -> Session | None:
        """As `ForkStore.made`."""
        seen = self._created.get((principal.tenant, principal.user, request.request_id))
        if seen is None or seen.until_ms <= self._clock():
            return None
        _check_digest(seen, request)
        try:
            return self._find(principal, seen.what).session
        except SessionNotFound:
            return None

    async def past(self, principal: Principal, session_id: str) -> Past:
        """As `ForkStore.past`."""
        kept = self._find(principal, session_id)
        unfinished = frozenset({*kept.line, *([kept.current] if kept.current else [])})
        said = [(run_that_wrote(session_id, message), message) for message in kept.history]
        trimmed = len(said) >= self._lifetimes.history_cap
        return Past(kept.session.agent, kept.session.run_count, unfinished, said, trimmed)

    async def fork(
        self, principal: Principal, session_id: str, agent: str, messages: Sequence[Message], request: Request | None
    ) -> Session:
        """As `ForkStore.fork`."""
        session = await self.create(principal, session_id, agent, request)
        if session.session_id == session_id:
            self._sessions[principal.tenant, session_id].history = list(messages)
        return session

    async def begin(
        self,
        principal: Principal,
        session_id: str,
        request: Request | None,
        lease_ms: int,
        max_messages: int,
        order: Order = Order(),  # noqa: B008 - frozen
    ) -> Turn:
        """As `SessionStore.begin`, but that nobody is told to stop: there is no log to say so."""
        now, kept = self._clock(), self._find(principal, session_id)
        if request:
            self._check_other_sessions(principal, session_id, request, now)
        seen = kept.requests.get(request.request_id) if request else None
        if request and seen and seen.until_ms > now:
            _check_digest(seen, request)
            return Turn(int(seen.what), 0, True, "", ())
        taken = kept.lease_until_ms > now or bool(kept.record)
        position = taken + sum(each.due_ms <= now for each in kept.line.values())
        if position and (order.concurrency is Concurrency.REJECT or not order.record):
            raise SessionBusy("another run holds the session", retry_after=max(kept.lease_until_ms - now, 1000) / 1000)
        waits = position > 0 or order.defer
        if waits and len(kept.line) >= self._lifetimes.line_cap:
            raise LineFull("as many runs wait in the session as may", retry_after=1.0)
        granted = (
            Grant() if waits else await self._reserve(principal, session_id, kept, strict=True, wanted=order.wanted)
        )
        run = kept.session.run_count + 1
        expires = max(kept.session.expires_ms, max(now, order.due_ms) + self._lifetimes.session_ms)
        kept.session = replace(kept.session, run_count=run, updated_ms=now, expires_ms=expires)
        if request:
            kept.requests[request.request_id] = Seen(request.digest, str(run), now + self._lifetimes.request_ms)
        if waits:
            kept.line[run] = order
            left = await self.budgets.left(principal, session_id) if order.defer else NO_AMOUNTS
            return Turn(run, 0, False, kept.session.agent, (), True, position, left=left)
        kept.record, kept.attempts = order.record, 0
        return self._take(kept, run, lease_ms, max_messages, granted)

    async def resume(
        self, principal: Principal, session_id: str, lease_ms: int, max_messages: int, run: int = 0
    ) -> Resumed:
        """As `SessionStore.resume`, but that nobody writes checkpoints here, or waits for an answer."""
        kept = self._find(principal, session_id)
        if run and run != kept.current and run not in kept.line:
            raise RunNotFound("no such run")
        early_ms = kept.line[run].due_ms - self._clock() if run in kept.line else 0
        if early_ms > 0:
            raise SessionBusy("the run is not due yet", retry_after=early_ms / 1000)
        self._check_free(kept, says_when=not run)
        if kept.record:
            if run not in (0, kept.current):
                raise SessionBusy("another run holds the session")
            kept.attempts += 1
            granted = await self._reserve(principal, session_id, kept, strict=False)
            turn = self._take(kept, kept.current, lease_ms, max_messages, granted)
            return Resumed(turn, kept.record, b"", kept.attempts)
        due = self._due(kept)
        if due is None or run not in (0, due.run):
            if run in kept.line:
                raise SessionBusy("another run holds the session")
            raise RunNotFound("no such run")
        kept.record, kept.attempts = kept.line.pop(due.run).record, 0
        granted = await self._reserve(principal, session_id, kept, strict=False)
        return Resumed(self._take(kept, due.run, lease_ms, max_messages, granted), kept.record, b"", 0)

    async def extend(self, principal: Principal, session_id: str, run: int, token: int, wanted: Amounts) -> Grant:
        """As `SessionStore.extend`."""
        kept = self._find(principal, session_id)
        if (run, token) != (kept.current, kept.token):
            raise LeaseLost("a later turn holds the session, or this one has ended")
        left, mine = await self.budgets.left_of_session(principal, session_id), kept.reservation
        shared = await self.budgets.reserve(principal, mine, strict=False, replaced=mine, wanted=wanted)
        return least((left, shared))

    async def end(self, principal: Principal, session_id: str, ending: Ending) -> Next | None:
        """As `SessionStore.end`, but that there is no log to follow."""
        kept = self._find(principal, session_id)
        if kept.endings.get(ending.run) == (ending.first_sequence, tuple(ending.last_events)):
            return self._due(kept)
        if (ending.run, ending.token) != (kept.current, kept.token):
            raise LeaseLost("a later turn holds the session, or this one has ended")
        kept.endings[ending.run] = (ending.first_sequence, tuple(ending.last_events))
        kept.history = [*kept.history, *ending.messages][-self._lifetimes.history_cap :]
        expires = max(kept.session.expires_ms, self._clock() + self._lifetimes.session_ms)
        kept.session = replace(kept.session, expires_ms=expires)
        kept.lease_until_ms = kept.current = 0
        kept.record = b""
        await self.budgets.spend_of_session(principal, session_id, ending.spent)
        await self.budgets.settle(principal, kept.reservation, ending.spent)
        return self._due(kept)

    def owner(self, principal: Principal, session_id: str) -> str | None:
        """Whose a session of the principal's tenant is. None: there is none."""
        kept = self._sessions.get((principal.tenant, session_id))
        return kept.owner if kept and not self._is_over(kept) else None

    async def _reserve(
        self, principal: Principal, session_id: str, kept: Kept, *, strict: bool, wanted: Amounts = NO_AMOUNTS
    ) -> Grant:
        left = await self.budgets.left_of_session(principal, session_id)
        if strict and 0 in left.amounts:
            raise BudgetExhausted("nothing is left of the budget")
        replaced, kept.reservation = kept.reservation, uuid.uuid4().hex
        shared = await self.budgets.reserve(
            principal, kept.reservation, strict=strict, replaced=replaced, wanted=wanted
        )
        return least((left, shared))

    def _take(self, kept: Kept, run: int, lease_ms: int, max_messages: int, granted: Grant) -> Turn:
        kept.token += 1
        kept.current = run
        kept.lease_until_ms = self._clock() + lease_ms
        turn = Turn(run, kept.token, False, kept.session.agent, kept.history[-max_messages:])
        return replace(turn, granted=granted.amounts, renews_ms=granted.renews_ms, left=granted.left)

    def _due(self, kept: Kept) -> Next | None:
        """The run of the line that may begin."""
        now = self._clock()
        due = sorted(run for run, order in kept.line.items() if order.due_ms <= now)
        return Next(due[0], kept.line[due[0]].record) if due and not kept.record else None

    def _find(self, principal: Principal, session_id: str) -> Kept:
        kept = self._sessions.get((principal.tenant, session_id))
        if kept is None or kept.owner != principal.user or self._is_over(kept):
            raise SessionNotFound("no such session")
        return kept

    def _check_other_sessions(self, principal: Principal, session_id: str, request: Request, now: int) -> None:
        for (tenant, other), kept in self._sessions.items():
            if other != session_id and (tenant, kept.owner) == (principal.tenant, principal.user):
                seen = kept.requests.get(request.request_id)
                if seen and seen.until_ms > now:
                    raise RequestIdReused("the request id was used before in another session")

    def _is_over(self, kept: Kept) -> bool:
        return kept.session.expires_ms <= self._clock()

    def _check_free(self, kept: Kept, *, says_when: bool = True) -> None:
        held_ms = kept.lease_until_ms - self._clock()
        if held_ms > 0:
            raise SessionBusy("another run holds the session", retry_after=held_ms / 1000 if says_when else None)

    async def _repeated(self, principal: Principal, seen: Seen, request: Request) -> Kept:
        _check_digest(seen, request)
        return self._find(principal, seen.what)


def _reserving(lifetimes: Lifetimes) -> Reserving:
    return Reserving(Amounts(*[_ALL] * 4), _RESERVED_MS, lifetimes.session_ms)


def _check_digest(seen: Seen, request: Request) -> None:
    if seen.digest != request.digest:
        raise RequestIdReused("the request id was used before with another body")
