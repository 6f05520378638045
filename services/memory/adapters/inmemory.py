"""Sessions and agents in this process: for tests and for trying out. They end with it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from services.kit.call import Principal
from services.kit.errors import (
    AgentNotFound,
    LeaseLost,
    RequestIdReused,
    ResourceExhausted,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
)
from services.memory.domain import Agent, Cursor, Ending, Lifetimes, Message, Page, Request, Resumed, Session, Turn

Clock = Callable[[], int]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass
class _Seen:
    digest: bytes
    what: str
    until_ms: int


@dataclass
class _Kept:
    owner: str
    session: Session
    history: list[Message] = field(default_factory=list)
    requests: dict[str, _Seen] = field(default_factory=dict)
    endings: dict[int, tuple[int, tuple[bytes, ...]]] = field(default_factory=dict)
    token: int = 0
    lease_until_ms: int = 0
    record: bytes = b""
    attempts: int = 0


class InMemorySessionStore:
    """Keeps sessions as `RedisSessionStore` does."""

    def __init__(self, lifetimes: Lifetimes, clock: Clock = now_ms) -> None:
        """`clock` gives milliseconds since 1970."""
        self._lifetimes = lifetimes
        self._clock = clock
        self._sessions: dict[tuple[str, str], _Kept] = {}
        self._created: dict[tuple[str, str, str], _Seen] = {}

    async def create(self, principal: Principal, session_id: str, agent: str, request: Request | None) -> Session:
        """As `SessionStore.create`."""
        now = self._clock()
        if request:
            key = (principal.tenant, principal.user, request.request_id)
            seen = self._created.get(key)
            if seen and seen.until_ms > now:
                return (await self._repeated(principal, seen, request)).session
            self._created[key] = _Seen(request.digest, session_id, now + self._lifetimes.request_ms)
        session = Session(session_id, agent, now, now, 0, now + self._lifetimes.session_ms)
        self._sessions[principal.tenant, session_id] = _Kept(principal.user, session)
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
        self._check_free(self._find(principal, session_id))
        del self._sessions[principal.tenant, session_id]
        self._created = {key: seen for key, seen in self._created.items() if seen.what != session_id}

    async def history(self, principal: Principal, session_id: str, max_messages: int) -> Sequence[Message]:
        """As `SessionStore.history`."""
        return self._find(principal, session_id).history[-max_messages:]

    async def begin(
        self,
        principal: Principal,
        session_id: str,
        request: Request | None,
        lease_ms: int,
        max_messages: int,
        record: bytes = b"",
    ) -> Turn:
        """As `SessionStore.begin`."""
        now, kept = self._clock(), self._find(principal, session_id)
        seen = kept.requests.get(request.request_id) if request else None
        if request and seen and seen.until_ms > now:
            _check_digest(seen, request)
            run = int(seen.what)
            if run != kept.session.run_count or run in kept.endings or kept.lease_until_ms > now:
                return Turn(run, 0, True, "", ())
            kept.token += 1
            kept.lease_until_ms = now + lease_ms
            return Turn(run, kept.token, False, kept.session.agent, kept.history[-max_messages:])
        self._check_free(kept)
        if kept.record:
            raise SessionBusy("another run holds the session", retry_after=1.0)
        kept.record, kept.attempts = record, 0
        run = kept.session.run_count + 1
        expires = now + self._lifetimes.session_ms
        kept.session = replace(kept.session, run_count=run, updated_ms=now, expires_ms=expires)
        kept.token += 1
        kept.lease_until_ms = now + lease_ms
        if request:
            kept.requests[request.request_id] = _Seen(request.digest, str(run), now + self._lifetimes.request_ms)
        return Turn(run, kept.token, False, kept.session.agent, kept.history[-max_messages:])

    async def resume(self, principal: Principal, session_id: str, lease_ms: int, max_messages: int) -> Resumed:
        """As `SessionStore.resume`, but that nobody writes checkpoints here."""
        kept = self._find(principal, session_id)
        self._check_free(kept)
        if not kept.record:
            raise RunNotFound("no such run")
        kept.token += 1
        kept.attempts += 1
        kept.lease_until_ms = self._clock() + lease_ms
        turn = Turn(kept.session.run_count, kept.token, False, kept.session.agent, kept.history[-max_messages:])
        return Resumed(turn, kept.record, b"", kept.attempts)

    async def end(self, principal: Principal, session_id: str, ending: Ending) -> None:
        """As `SessionStore.end`, but that there is no log to follow."""
        kept = self._find(principal, session_id)
        if kept.endings.get(ending.run) == (ending.first_sequence, tuple(ending.last_events)):
            return
        if (ending.run, ending.token) != (kept.session.run_count, kept.token) or ending.run in kept.endings:
            raise LeaseLost("a later turn holds the session, or this one has ended")
        kept.endings[ending.run] = (ending.first_sequence, tuple(ending.last_events))
        kept.history = [*kept.history, *ending.messages][-self._lifetimes.history_cap :]
        kept.session = replace(kept.session, expires_ms=self._clock() + self._lifetimes.session_ms)
        kept.lease_until_ms = 0
        kept.record = b""

    def _find(self, principal: Principal, session_id: str) -> _Kept:
        kept = self._sessions.get((principal.tenant, session_id))
        if kept is None or kept.owner != principal.user or self._is_over(kept):
            raise SessionNotFound("no such session")
        return kept

    def _is_over(self, kept: _Kept) -> bool:
        return kept.session.expires_ms <= self._clock()

    def _check_free(self, kept: _Kept) -> None:
        held_ms = kept.lease_until_ms - self._clock()
        if held_ms > 0:
            raise SessionBusy("another run holds the session", retry_after=held_ms / 1000)

    async def _repeated(self, principal: Principal, seen: _Seen, request: Request) -> _Kept:
        _check_digest(seen, request)
        return self._find(principal, seen.what)


def _check_digest(seen: _Seen, request: Request) -> None:
    if seen.digest != request.digest:
        raise RequestIdReused("the request id was used before with another body")


class InMemoryAgentStore:
    """Keeps agents as `RedisAgentStore` does."""

    def __init__(self, *, revisions_kept: int, agents_allowed: int, clock: Clock = now_ms) -> None:
        """`clock` gives milliseconds since 1970."""
        self._revisions_kept = revisions_kept
        self._agents_allowed = agents_allowed
        self._clock = clock
        self._tenants: dict[str, dict[str, list[tuple[bytes, Agent]]]] = {}

    async def put(self, principal: Principal, name: str, digest: bytes, content: bytes) -> Agent:
        """As `AgentStore.put`."""
        agents = self._tenants.setdefault(principal.tenant, {})
        revisions = agents.get(name, [])
        if revisions and revisions[-1][0] == digest:
            return revisions[-1][1]
        if not revisions and len(agents) >= self._agents_allowed:
            raise ResourceExhausted("there are as many as there may be")
        agent = Agent(name, revisions[-1][1].revision + 1 if revisions else 1, self._clock(), content)
        agents[name] = [*revisions, (digest, agent)][-self._revisions_kept :]
        return agent

    async def has(self, principal: Principal, name: str) -> bool:
        """As `AgentStore.has`."""
        return name in self._tenants.get(principal.tenant, {})

    async def get(self, principal: Principal, name: str, revision: int) -> Agent:
        """As `AgentStore.get`."""
        revisions = self._tenants.get(principal.tenant, {}).get(name, [])
        for _, agent in reversed(revisions):
            if revision in (0, agent.revision):
                return agent
        raise AgentNotFound("no such agent, or no such revision of it")

    async def list(self, principal: Principal) -> Sequence[Agent]:
        """As `AgentStore.list`."""
        return [revisions[-1][1] for _, revisions in sorted(self._tenants.get(principal.tenant, {}).items())]
